"""What a batch leaves: its videos, `results.jsonl`, and `report.html` for people.

They go into a folder of this machine or of a bucket. Whatever a server or a manifest
said is shown as text.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import html
import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import anyio
from anyio import to_thread
from attrs import evolve, frozen

from kling_async import DownloadError
from kling_async._billing.money import usd_of
from kling_async._files.storage import BucketObject, StorageError, is_url
from kling_async._runtime.disk import write_atomically
from kling_async._text import safe_line
from kling_async.cli._manifest import REPORT, RESULTS, RowPlan
from kling_async.cli._output import as_json, in_words
from kling_async.durable import JobState, JobStatus, NewJob

# The longest that stores sign a link for, in seconds.
LINK_LIFE = 7 * 24 * 60 * 60.0

_TYPES = {".html": "text/html; charset=utf-8", ".jsonl": "application/jsonl"}


@frozen(kw_only=True)
class VideoFile:
    """A video that is there.

    Attributes:
        name: How programs name it: from the batch's folder, if it is inside.
        path: Where it is on this machine.
        link: A signed link to it, where it is in a bucket.
    """

    name: str
    path: Path | None = None
    link: str | None = None


class Place(Protocol):
    """Where the files of a batch go."""

    async def prepare(self) -> None:
        """Make sure that files can be put there, before anything is paid for.

        Raises:
            DownloadError: They cannot.
            OSError: Likewise.
        """
        ...

    def job_of(self, row: RowPlan) -> NewJob:
        """Give what is submitted for a row."""
        ...

    async def videos(self, statuses: Iterable[JobStatus]) -> Mapping[str, VideoFile]:
        """Give the videos of jobs that are there, by key."""
        ...

    async def write(self, name: str, text: str) -> str:
        """Write a file of the batch's own, and tell where it is.

        Raises:
            OSError: It cannot be written.
            StorageError: Likewise.
        """
        ...


async def has_video(status: JobStatus) -> bool:
    """Whether the video of a job is where it belongs.

    Raises:
        StorageError: The store does not tell.
    """
    output = status.output
    if isinstance(output, str):
        return await BucketObject(output).exists()
    return output is None or await anyio.Path(output).exists()


def place_at(given: str | None, folder: Path) -> Place:
    """Give the place that is meant by a path or a URL; by default a folder."""
    if given is not None and is_url(given):
        return BucketPlace(given.rstrip("/"))
    return LocalPlace(folder)


@frozen
class LocalPlace:
    """A folder of this machine."""

    folder: Path

    async def prepare(self) -> None:
        """Make it."""
        await anyio.Path(self.folder).mkdir(parents=True, exist_ok=True)

    def job_of(self, row: RowPlan) -> NewJob:
        """Name the video from the folder, which can be moved."""
        return row.job

    async def videos(self, statuses: Iterable[JobStatus]) -> Mapping[str, VideoFile]:
        """Look for the files."""
        return await to_thread.run_sync(self._videos, list(statuses))

    def _videos(self, statuses: Iterable[JobStatus]) -> Mapping[str, VideoFile]:
        return {
            it.key: VideoFile(name=self._name(it.output), path=it.output)
            for it in statuses
            if isinstance(it.output, Path) and _is_file(it.output)
        }

    def _name(self, file: Path) -> str:
        home = self.folder.absolute()
        inside = file.is_relative_to(home)
        return (file.relative_to(home) if inside else file).as_posix()

    async def write(self, name: str, text: str) -> str:
        """Write it whole, beside one that is in use."""
        return str(await to_thread.run_sync(_write, self.folder / name, text))


@frozen
class BucketPlace:
    """A folder of a bucket."""

    url: str

    async def prepare(self) -> None:
        """Put something there, and take it away."""
        there = BucketObject(f"{self.url}/.kling-check")
        try:
            await there.upload(b"", "text/plain")
        except StorageError as error:
            raise DownloadError(f"cannot write below {self.url}: {error}") from error
        await there.delete()

    def job_of(self, row: RowPlan) -> NewJob:
        """Name the object, so that any worker can write it."""
        return evolve(row.job, output=f"{self.url}/{row.output.as_posix()}")

    async def videos(self, statuses: Iterable[JobStatus]) -> Mapping[str, VideoFile]:
        """Sign a link to each that its worker has written."""
        found = dict[str, VideoFile]()
        for it in statuses:
            if it.state is JobState.DONE and isinstance(it.output, str):
                link = await BucketObject(it.output).sign_url(LINK_LIFE)
                name = it.output.removeprefix(f"{self.url}/")
                found[it.key] = VideoFile(name=name, link=link)
        return found

    async def write(self, name: str, text: str) -> str:
        """Replace the object, as a whole."""
        there = BucketObject(f"{self.url}/{name}")
        await there.upload(text.encode(), _TYPES[Path(name).suffix])
        return there.url


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _write(path: Path, text: str) -> Path:
    try:
        return write_atomically(path, text)
    except PermissionError:  # on Windows: open in another program
        return write_atomically(path.with_stem(f"{path.stem}-new"), text)


_ORDER = (
    JobState.DONE,
    JobState.RUNNING,
    JobState.QUEUED,
    JobState.HELD,
    JobState.UNCERTAIN,
    JobState.FAILED,
    JobState.CANCELLED,
)


@frozen(kw_only=True)
class Card:
    """One job on the page.

    Attributes:
        status: How it is.
        prompt: What was asked for.
        file: Its video, if it is there.
        link: A signed link to it, if it is in a bucket.
    """

    status: JobStatus
    prompt: str
    file: Path | None = None
    link: str | None = None

    @property
    def seconds(self) -> float | None:
        """How long it took from when a worker took it to its end."""
        begun, ended = self.status.started_at, self.status.ended_at
        return (
            None if begun is None or ended is None else (ended - begun).total_seconds()
        )


def render_page(
    name: str,
    cards: Sequence[Card],
    folder: Path,
    links_until: dt.datetime | None = None,
) -> str:
    """Give the page of a batch.

    Args:
        name: What the batch is called.
        cards: Its jobs.
        folder: Where the page will lie: the videos are named from there.
        links_until: When signed links end (UTC), if there are any.
    """
    counts = Counter(card.status.state for card in cards)
    spent = sum(card.status.credits_used or 0 for card in cards)
    facts = [f"{len(cards)} jobs", f"{spent:,.0f} credits", f"{usd_of(spent):,.2f} USD"]
    if links_until is not None:
        facts.append(f"links work until {links_until:%Y-%m-%d %H:%M} UTC")
    filters = "".join(
        f'<button data-state="{state}" class="{state}" aria-pressed="false">'
        f"{state} {counts[state]}</button>"
        for state in _ORDER
        if counts[state]
    )
    body = "\n".join(_card(card, folder) for card in cards)
    return (
        _PAGE.replace("{{style}}", _STYLE)
        .replace("{{script}}", _SCRIPT)
        .replace("{{policy}}", _policy(cards))
        .replace("{{name}}", _text(name))
        .replace("{{facts}}", _text(" · ".join(facts)))
        .replace("{{filters}}", filters)
        .replace("{{cards}}", body)
    )


def _text(foreign: str) -> str:
    """Give what a server or a manifest said as text of the page."""
    return html.escape(safe_line(foreign))


def _card(card: Card, folder: Path) -> str:
    status = card.status
    facts = "".join(
        f"<dt>{name}</dt><dd>{_text(value)}</dd>" for name, value in _facts(card)
    )
    error = f'<p class="error">{_text(status.error)}</p>' if status.error else ""
    return (
        f'<article data-state="{status.state}">{_film(card, folder)}'
        f"<header><h2>{_text(status.key)}</h2>"
        f'<span class="badge {status.state}">{status.state}</span></header>'
        f'<p class="prompt">{_text(card.prompt)}</p>{error}'
        f"<dl>{facts}</dl></article>"
    )


def _film(card: Card, folder: Path) -> str:
    """Give a thumbnail that plays, or the place where one is missing."""
    where = html.escape(card.link) if card.link else None
    if card.file is not None:
        where = _link(folder, card.file)
    if where is None:
        return '<div class="film none"></div>'
    label = f"Play {_text(card.status.key)}"
    return (
        f'<a class="film" href="{where}" aria-label="{label}">'
        f'<video data-src="{where}#t=0.1" muted loop playsinline preload="none">'
        "</video></a>"
    )


def _link(folder: Path, file: Path) -> str | None:
    """Give an address that leads into the page's folder, or none at all.

    With ``./`` in front and its colons escaped, no name is taken for a scheme or a
    host, such as ``javascript:`` or ``//host``.
    """
    try:
        inside = Path(os.path.relpath(file, folder))
    except ValueError:  # on another drive
        return None
    return (
        None if ".." in inside.parts else f"./{quote(os.fsencode(inside.as_posix()))}"
    )


def _facts(card: Card) -> Iterable[tuple[str, str]]:
    status, seconds = card.status, card.seconds
    if status.model:
        yield "model", status.model
    if seconds is not None:
        yield "took", in_words(seconds)
    if status.credits_used is not None:
        used = status.credits_used
        yield "cost", f"{used:,.0f} credits, {usd_of(used):,.2f} USD"
    if status.generation_id:
        yield "generation", status.generation_id
    if status.intent is not None:
        yield "request id", status.intent.client_request_id
    if status.attempt > 1:
        yield "attempt", str(status.attempt)


_STYLE = """
:root { color-scheme: light dark; --back: #f5f4f1; --card: #fff; --text: #1d1d1f;
  --dim: #63636a; --line: #e3e1db; --done: #17703f; --running: #2563c9;
  --held: #8a5600; --failed: #c22f3d; --none: #65656c }
@media (prefers-color-scheme: dark) { :root { --back: #131316; --card: #1d1d22;
  --text: #ececef; --dim: #9a9aa3; --line: #2d2d34; --done: #4cc38a;
  --running: #6ea8fe; --held: #f0b429; --failed: #ff7b84; --none: #9a9aa3 } }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--text);
  font: 15px/1.45 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
.top { position: sticky; top: 0; z-index: 1; padding: 22px 28px 16px;
  background: color-mix(in srgb, var(--back) 90%, transparent);
  backdrop-filter: blur(8px); border-bottom: 1px solid var(--line) }
h1 { margin: 0; font-size: 22px; letter-spacing: -.01em }
.top p { margin: 2px 0 12px; color: var(--dim) }
button { font: inherit; font-size: 13px; margin: 0 8px 0 0; padding: 3px 12px;
  cursor: pointer; color: var(--tone); background: none; border-radius: 99px;
  border: 1px solid var(--tone) }
button.on { background: var(--tone); color: var(--back) }
main { display: grid; gap: 20px; padding: 24px 28px 48px;
  grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)) }
article { display: flex; flex-direction: column; overflow: hidden;
  background: var(--card); border: 1px solid var(--line); border-radius: 14px }
article[hidden] { display: none }
.film { display: block; position: relative; aspect-ratio: 16 / 9;
  background: #0b0b0d }
.film video { position: absolute; width: 100%; height: 100%; object-fit: contain }
.film.none { background: repeating-linear-gradient(-45deg, var(--line) 0 10px,
  transparent 10px 20px) }
header { display: flex; align-items: baseline; gap: 10px; padding: 12px 16px 0 }
h2 { flex: 1; margin: 0; font-size: 15px; overflow-wrap: anywhere }
.badge { font-size: 12px; font-weight: 600; color: var(--tone) }
.badge::before { content: "●"; margin-right: 5px; font-size: 9px;
  vertical-align: 1px }
.prompt { margin: 4px 16px 0; color: var(--dim); display: -webkit-box;
  -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden }
.error { margin: 8px 16px 0; color: var(--failed); font-size: 13px;
  overflow-wrap: anywhere }
dl { display: grid; grid-template-columns: auto 1fr; gap: 2px 12px; margin: 0;
  margin-top: auto; padding: 12px 16px 16px; font-size: 12px; color: var(--dim) }
dd { margin: 0; overflow-wrap: anywhere }
.done { --tone: var(--done) } .running { --tone: var(--running) }
.held, .uncertain { --tone: var(--held) } .failed { --tone: var(--failed) }
.queued, .cancelled { --tone: var(--none) }
""".strip()

_SCRIPT = """
const near = new IntersectionObserver(seen => seen.forEach(it => {
  if (!it.isIntersecting) return;
  it.target.src = it.target.dataset.src;
  it.target.preload = "metadata";
  near.unobserve(it.target);
}), { rootMargin: "400px" });
document.querySelectorAll("video").forEach(film => {
  near.observe(film);
  film.closest("a").onmouseenter = () => film.play();
  film.closest("a").onmouseleave = () => film.pause();
});
const buttons = [...document.querySelectorAll("button")];
buttons.forEach(button => button.onclick = () => {
  button.ariaPressed = button.classList.toggle("on");
  const wanted = buttons.filter(it => it.classList.contains("on"))
    .map(it => it.dataset.state);
  document.querySelectorAll("article").forEach(it =>
    it.hidden = wanted.length > 0 && !wanted.includes(it.dataset.state));
});
""".strip()


def _hash(text: str) -> str:
    digest = hashlib.sha256(f"\n{text}\n".encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


_ORIGIN = re.compile(r"https?://[A-Za-z0-9.:\[\]-]+")


def _policy(cards: Sequence[Card]) -> str:
    """Allow the page's own script and style, its videos, and nothing else."""
    links = (_ORIGIN.match(card.link) for card in cards if card.link)
    stores = sorted({it[0] for it in links if it})
    return "; ".join(
        (
            "default-src 'none'",
            f"script-src {_hash(_SCRIPT)}",
            f"style-src {_hash(_STYLE)}",
            " ".join(["media-src 'self' file:", *stores]),
            "base-uri 'none'",
            "form-action 'none'",
        )
    )


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{policy}}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{name}}</title>
<style>
{{style}}
</style>
</head>
<body>
<div class="top" role="banner"><h1>{{name}}</h1><p>{{facts}}</p>{{filters}}</div>
<main>
{{cards}}
</main>
<script>
{{script}}
</script>
</body>
</html>
"""


async def write_results(
    name: str,
    folder: Path,
    place: Place,
    rows: Sequence[RowPlan],
    statuses: Mapping[str, JobStatus],
    missing: Collection[str],
) -> tuple[list[str], list[Exception]]:
    """Write both files; tell where those are that were, and why others were not.

    Args:
        name: What the batch is called.
        folder: Where the videos of a page on this machine are named from.
        place: Where to write.
        rows: The rows of the manifest.
        statuses: Its jobs, by key.
        missing: The keys of those whose video is known not to be there.
    """
    written, failed = list[str](), list[Exception]()
    try:
        videos = await place.videos(
            it for key, it in statuses.items() if key not in missing
        )
    except StorageError as error:
        return written, [error]
    texts = await to_thread.run_sync(_texts, name, folder, rows, statuses, videos)
    for own, text in texts.items():
        try:
            written.append(await place.write(own, text))
        except (OSError, StorageError) as error:
            failed.append(error)
    return written, failed


def _texts(
    name: str,
    folder: Path,
    rows: Sequence[RowPlan],
    statuses: Mapping[str, JobStatus],
    videos: Mapping[str, VideoFile],
) -> dict[str, str]:
    found = [
        (it, statuses[it.key], videos.get(it.key)) for it in rows if it.key in statuses
    ]
    lines = [json.dumps(_line(*it)) for it in found]
    cards = [
        Card(
            status=status,
            prompt=_prompt(row),
            file=video.path if video else None,
            link=video.link if video else None,
        )
        for row, status, video in found
    ]
    until = None
    if any(it.link for it in cards):
        until = dt.datetime.now(dt.UTC) + dt.timedelta(seconds=LINK_LIFE)
    return {
        RESULTS: "".join(f"{line}\n" for line in lines),
        REPORT: render_page(name, cards, folder, until),
    }


def _line(
    row: RowPlan, status: JobStatus, video: VideoFile | None
) -> dict[str, object]:
    generation = status.generation
    return {
        "key": row.key,
        "line": row.line,
        "state": status.state,
        "file": video.name if video else None,
        "error": status.error,
        "model": status.model,
        "generation_id": status.generation_id,
        "credits_used": status.credits_used,
        "client_request_id": _request_id(status),
        "attempt": status.attempt,
        "created_at": status.created_at and status.created_at.isoformat(),
        "ended_at": status.ended_at and status.ended_at.isoformat(),
        "generation": generation and as_json(generation),
    }


def _request_id(status: JobStatus) -> str | None:
    if status.intent is not None:
        return status.intent.client_request_id
    return status.generation.client_request_id if status.generation else None


def _prompt(row: RowPlan) -> str:
    body = row.request.to_body()
    told = body.get("prompt") or body.get("multi_prompt") or ""
    return told if isinstance(told, str) else json.dumps(told)

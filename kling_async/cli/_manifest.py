"""A manifest for `kling-async batch`: CSV or JSON Lines become requests, each checked.

All that is wrong is told at once, with its line, before anything is sent. Opens the
manifest and the files that it names, and nothing else.
"""

from __future__ import annotations

import csv
import io
import json
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import anyio
from attrs import define, evolve, field, frozen

from kling_async import InvalidRequestError, Problem, Request, models
from kling_async._http.wire import DEEPEST, is_deep
from kling_async._requests.classes import build_request
from kling_async._text import did_you_mean, short_repr
from kling_async.cli._options import fitting_model, known_model, read_value
from kling_async.durable._submit import LONGEST_KEY, fingerprint, to_stored

STDIN = "-"

RESULTS, REPORT, JOBS = "results.jsonl", "report.html", "jobs.db"

# What a batch keeps beside the videos; SQLite adds two files of its own.
OWN_FILES = (RESULTS, REPORT, JOBS, f"{JOBS}-wal", f"{JOBS}-shm")

_OURS = ("key", "output")

_SHORT = 12

_UNSAFE = re.compile(r"[^\w.-]+")


@frozen(kw_only=True)
class RowDraft:
    """What is known of a row, whether it can be sent or not.

    Attributes:
        line: Where it stands.
        key: Its job's key: the row's own, or made from what it asks for.
        output: The file its video is for.
        mark: What an equal request shares with it.
    """

    line: int
    key: str
    output: Path
    mark: str


@frozen(kw_only=True)
class RowPlan(RowDraft):
    """One row that can be sent.

    Attributes:
        request: What it asks for.
    """

    request: Request


@frozen
class ManifestRow:
    line: int
    given: Mapping[str, object]

    @property
    def request(self) -> dict[str, object]:
        """What is the request's."""
        return {k: v for k, v in self.given.items() if k not in _OURS}


@define(eq=False)
class Manifest:
    """A manifest on its way to requests.

    Attributes:
        path: Where it is; ``-`` for standard input.
        folder: Where the videos go that name no other place.
        check_media: Whether local files are held against the documented limits.
    """

    path: str
    folder: Path
    check_media: bool = True
    _problems: list[tuple[int, Problem]] = field(
        factory=list[tuple[int, Problem]], init=False
    )

    @property
    def base(self) -> Path:
        """Where the paths in it begin: beside it, or here."""
        return Path() if self.path == STDIN else Path(self.path).parent

    async def plan(self) -> list[RowPlan]:
        """Read it, and check each row.

        Raises:
            InvalidRequestError: Everything that is wrong with it, line by line.
            OSError: It cannot be read.
        """
        rows = list(_rows(_text(self.path), self.path, self._problem))
        if not rows and not self._problems:
            self._problem(
                1, "rows", "none", "at least one, below a header if it is CSV"
            )
        drafts = _with_keys([await self._draft(row) for row in rows])
        self._refuse_twins(drafts)
        if self._problems:
            in_order = sorted(self._problems, key=lambda it: it[0])
            raise InvalidRequestError([problem for _, problem in in_order])
        plan = {it.key: it for it in drafts if isinstance(it, RowPlan)}
        return list(plan.values())

    def _problem(
        self, line: int, where: str, given: str, allowed: str, hint: str | None = None
    ) -> None:
        problem = Problem(f"line {line}: {where}", given, allowed, hint)
        self._problems.append((line, problem))

    async def _draft(self, row: ManifestRow) -> RowDraft:
        draft = RowDraft(
            line=row.line,
            key=self._key(row),
            output=self._output(row),
            mark=f"unsent {row.request}",
        )
        plan = await self._plan(row, draft)
        return plan or draft

    async def _plan(self, row: ManifestRow, draft: RowDraft) -> RowPlan | None:
        params = row.request
        if "model" not in params:
            images = int("image_url" in params) or _length(params.get("image_list"))
            others = params.keys() - {"image_url", "image_list"}
            params["model"] = fitting_model(others, images=images)
        try:
            request = build_request({k: self._rebase(v) for k, v in params.items()})
            stored = await to_stored(request, inline=False, check=self.check_media)
        except InvalidRequestError as error:
            for it in error.problems:
                self._problem(row.line, it.field, it.given, it.allowed, it.hint)
            return None
        mark = await anyio.to_thread.run_sync(fingerprint, stored)
        return RowPlan(
            line=draft.line,
            key=draft.key,
            output=draft.output,
            mark=mark,
            request=request,
        )

    def _own(self, row: ManifestRow, name: str) -> str:
        value = row.given.get(name, "")
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.isprintable():
            self._problem(row.line, name, short_repr(value), "a text on one line")
            return ""
        return value

    def _key(self, row: ManifestRow) -> str:
        key = self._own(row, "key")
        if len(key) > LONGEST_KEY:
            allowed = f"at most {LONGEST_KEY} characters"
            self._problem(row.line, "key", f"{len(key)} characters", allowed)
            return ""
        return key

    def _output(self, row: ManifestRow) -> Path:
        given = self._own(row, "output")
        path = Path(given)
        leaves = path.is_absolute() or ".." in path.parts
        if leaves or str(path).lower() in OWN_FILES:
            own = ", ".join(OWN_FILES)
            allowed = f"a path below the output directory, and not {own}"
            hint = "--output-dir says where that is." if leaves else None
            self._problem(row.line, "output", repr(given), allowed, hint)
            return Path()
        return path

    def _rebase(self, value: object) -> object:
        """Let the paths in a value begin beside the manifest."""
        match value:
            case Path():
                return self.base / value
            case list() | tuple():
                return [self._rebase(it) for it in cast("list[object]", value)]
            case Mapping():
                inner = cast("Mapping[str, object]", value)
                return {name: self._rebase(it) for name, it in inner.items()}
            case _:
                return value

    def _refuse_twins(self, drafts: Sequence[RowDraft]) -> None:
        """Refuse two requests under one key, and two jobs for one file."""
        by_key: dict[str, RowDraft] = {}
        by_file: dict[Path, RowDraft] = {}
        for it in drafts:
            first = by_key.setdefault(it.key, it)
            if first.mark != it.mark:
                given = f"{it.key!r}, as in line {first.line} for another request"
                self._problem(it.line, "key", given, "one key for each request")
                continue
            other = by_file.setdefault(self._file(it), it)
            if other.key != it.key:
                given = f"{it.output}, as in line {other.line}"
                self._problem(it.line, "output", given, "one file for each job")

    def _file(self, draft: RowDraft) -> Path:
        return (self.folder / draft.output).absolute()


def _with_keys(unnamed: Sequence[RowDraft]) -> list[RowDraft]:
    """Give those a key and a file that name none: the same at each run."""
    counts = Counter[str]()
    drafts: list[RowDraft] = []
    for it in unnamed:
        key = it.key
        if not key:
            counts[it.mark] += 1
            number = f"-{counts[it.mark]}" if counts[it.mark] > 1 else ""
            key = f"{it.mark[:_SHORT]}{number}"
        output = it.output if it.output != Path() else Path(f"{_safe(key)}.mp4")
        drafts.append(evolve(it, key=key, output=output))
    return drafts


def _safe(key: str) -> str:
    """Make a file's name of a key."""
    return _UNSAFE.sub("-", key).strip(".") or "video"


def _length(value: object) -> int:
    return len(cast("list[object]", value)) if isinstance(value, list) else 0


_Complain = Callable[[int, str, str, str, str | None], None]


def _text(path: str) -> str:
    content = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        problem = Problem(
            f"line {line}",
            f"a byte {content[error.start]:#04x} that is no UTF-8",
            "a text in UTF-8",
            "Save it as UTF-8 (in a spreadsheet: CSV UTF-8).",
        )
        raise InvalidRequestError([problem]) from error


def _rows(text: str, path: str, complain: Callable[..., None]) -> Iterator[ManifestRow]:
    is_json = path.endswith((".jsonl", ".ndjson", ".json"))
    if is_json or (path == STDIN and text.lstrip().startswith("{")):
        yield from _json_rows(text, complain)
    else:
        yield from _csv_rows(text, complain)


def _json_rows(text: str, complain: Callable[..., None]) -> Iterator[ManifestRow]:
    # A line ends nowhere else: what `splitlines` takes for ends may be in a text.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            value: object = json.loads(line)
        except (ValueError, RecursionError) as error:
            complain(number, "row", f"{short_repr(line)} ({error})", "a JSON object")
            continue
        if not isinstance(value, dict):
            complain(number, "row", short_repr(value), "a JSON object")
            continue
        given = cast("dict[str, object]", value)
        if is_deep(given):
            complain(
                number, "row", short_repr(line), f"at most {DEEPEST} levels of nesting"
            )
            continue
        yield ManifestRow(number, _read(given, given.get("model"), texts=False))


def _csv_rows(text: str, complain: Callable[..., None]) -> Iterator[ManifestRow]:
    lines = csv.reader(io.StringIO(text, newline=""), strict=True)
    header: list[str] | None = None
    while True:
        begins = lines.line_num + 1
        try:
            cells = next(lines, None)
        except csv.Error as error:
            complain(begins, "row", str(error), "CSV (RFC 4180)")
            return
        if cells is None:
            return
        if not any(cell.strip() for cell in cells):
            continue
        if header is None:
            header = [cell.strip() for cell in cells]
            if not _is_header(header, begins, complain):
                return
        elif len(cells) > len(header):
            given = f"{len(cells)} cells"
            complain(begins, "row", given, f"{len(header)}, as the header has columns")
        else:
            named = dict(zip(header, cells, strict=False))
            texts = {name: it for name, it in named.items() if it.strip()}
            yield ManifestRow(begins, _read(texts, texts.get("model"), texts=True))


def _is_header(header: list[str], line: int, complain: Callable[..., None]) -> bool:
    """Refuse a column that no model has a field for: a slip, in all rows."""
    known = {*_OURS, "model", "extra"}.union(*(it.fields for it in models.list()))
    twice = [name for name, count in Counter(header).items() if count > 1]
    for name in twice:
        complain(line, "header", f"{name!r} twice", "each column once")
    wrong = [name for name in header if name not in known]
    for name in wrong:
        allowed = "key, output, model, or a field of a model"
        complain(line, "header", repr(name), allowed, did_you_mean(name, known))
    return not twice and not wrong


def _read(
    given: Mapping[str, object], model: object, *, texts: bool
) -> dict[str, object]:
    """Give each value as its field would have it, local files as paths."""
    known = known_model(model) if isinstance(model, str) else None
    rules = known.fields if known else _usual_rules()
    return {
        name: value
        if name in (*_OURS, "model")
        else read_value(value, rules.get(name), is_text=texts)
        for name, value in given.items()
    }


def _usual_rules() -> Mapping[str, models.Field]:
    """Give what fields take where the model is still to be chosen."""
    rules: dict[str, models.Field] = {}
    for model in models.list():
        rules.update(model.fields)
    return rules

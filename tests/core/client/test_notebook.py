"""The display of a watch in a notebook, as IPython's display machinery gets it."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell

from kling_async import (
    AsyncKling,
    Fixed,
    Generation,
    GenerationError,
    GenerationFailedError,
    Status,
    TextToVideo,
    Video,
    notebook,
)
from kling_async.emulator import Emulator
from kling_async.notebook import follow

VIDEO = Video(url="https://cdn.example.com/output.mp4")
QUEUED = Generation(id="g-1", status=Status.QUEUED)
WORKING = Generation(id="g-1", status=Status.GENERATING)
DONE = Generation(id="g-1", status=Status.COMPLETED, video=VIDEO)
FAILED = Generation(
    id="g-1", status=Status.ERROR, error=GenerationError(message="refused")
)


async def watching(*told: Generation) -> AsyncGenerator[Generation, None]:
    """Yield as a watch does."""
    for generation in told:
        yield generation


class Published:
    """What a front end was sent."""

    def __init__(self) -> None:
        self.messages: list[dict[str, object]] = []

    def publish(self, data: dict[str, str], **message: object) -> None:
        """Take a message in place of the kernel's connection."""
        self.messages.append({"html": data["text/html"], **message})


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Published:
    """Stand between IPython and its front end."""
    shell = InteractiveShell.instance()
    sink = Published()
    monkeypatch.setattr(shell.display_pub, "publish", sink.publish)
    return sink


async def test_one_output_is_updated_and_shows_the_video_last(
    published: Published,
) -> None:
    """The first message makes the output, each later one replaces what it shows."""
    assert await follow(watching(QUEUED, WORKING, DONE)) is DONE
    outputs = {str(message["transient"]) for message in published.messages}
    assert len(outputs) == 1
    assert [bool(it.get("update")) for it in published.messages] == [False, True, True]
    assert "queued" in str(published.messages[0]["html"])
    assert f'<video src="{VIDEO.url}"' in str(published.messages[-1]["html"])


async def test_a_failure_is_shown_and_raised(published: Published) -> None:
    """A cell that goes on with no video would fail further down, and darker."""
    with pytest.raises(GenerationFailedError, match="refused"):
        await follow(watching(WORKING, FAILED))
    assert "error" in str(published.messages[-1]["html"])


async def test_nothing_to_follow_is_told() -> None:
    """An iterator that is used up is a slip."""
    with pytest.raises(ValueError, match=r"kling\.watch"):
        await follow(watching())


async def test_a_copy_is_kept_and_shown(published: Published, tmp_path: Path) -> None:
    """The notebook holds it, so it plays when the link has expired."""
    file = tmp_path / "boat.mp4"
    async with (
        Emulator(speed=1e6, size=64) as emulator,
        AsyncKling("any-key", base_url=emulator.base_url, polling=Fixed(0.01)) as kling,
    ):
        created = await kling.create(TextToVideo(prompt="A paper boat."))
        done = await follow(kling.watch(created), kling=kling, copy_to=file)
    assert done.succeeded
    shown = str(published.messages[-1]["html"])
    encoded = shown.split("data:video/mp4;base64,")[1].split('"', maxsplit=1)[0]
    assert base64.b64decode(encoded) == file.read_bytes()
    assert "kept in" in shown
    assert len({str(message["transient"]) for message in published.messages}) == 1


async def test_a_large_copy_stays_outside_of_the_notebook(
    published: Published, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is played from its file, whatever that is called."""
    monkeypatch.setattr(notebook, "_LARGEST", 100)
    monkeypatch.chdir(tmp_path)
    async with (
        Emulator(speed=1e6, size=64) as emulator,
        AsyncKling("any-key", base_url=emulator.base_url, polling=Fixed(0.01)) as kling,
    ):
        created = await kling.create(TextToVideo(prompt="A paper boat."))
        await follow(kling.watch(created), kling=kling, copy_to='a "boat".mp4')
    assert '<video src="a%20%22boat%22.mp4"' in str(published.messages[-1]["html"])


async def test_half_of_what_a_copy_needs_is_refused() -> None:
    """Before anything is watched."""
    with pytest.raises(ValueError, match="both of kling and copy_to"):
        await follow(watching(DONE), copy_to="boat.mp4")


@pytest.mark.parametrize(
    "query, until",
    [
        ("X-Amz-Date=20261129T180000Z&X-Amz-Expires=3600", "2026-11-29 19:00 UTC"),
        ("X-Goog-Expires=60&X-Goog-Date=20261129T180000Z", "2026-11-29 18:01 UTC"),
        ("Expires=1796040000&Signature=x", "2026-11-30 12:00 UTC"),
        ("se=2026-11-29T18%3A00%3A00Z&sig=x", "2026-11-29 18:00 UTC"),
        ("", None),
        ("Expires=soon", None),
        ("Expires=99999999999999999999", None),
        ("X-Amz-Expires=60", None),
        ("X-Amz-Date=now&X-Amz-Expires=60", None),
        ("se=", None),
    ],
)
def test_a_link_tells_how_long_it_lives(query: str, until: str | None) -> None:
    """Where it is signed; else that it will not live for ever."""
    video = Video(url=f"https://cdn.example.com/output.mp4?{query}")
    done = Generation(id="g-1", status=Status.COMPLETED, video=video)
    bundle = done._repr_mimebundle_()  # pyright: ignore[reportPrivateUsage]
    shown = bundle["text/html"]
    assert (f"link expires {until}" if until else "this link expires") in shown
    assert (video.expires_at is None) == (until is None)

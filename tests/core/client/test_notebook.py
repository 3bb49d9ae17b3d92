"""The display of a watch in a notebook, as IPython's display machinery gets it."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from IPython.core.interactiveshell import InteractiveShell

from kling_async import (
    Generation,
    GenerationError,
    GenerationFailedError,
    Status,
    Video,
)
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

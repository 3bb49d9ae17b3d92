"""What a user reads: results on stdout, news and errors on stderr.

What a server said is neither taken for markup nor allowed to move the cursor.
Knows nothing of generations that are under way.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Iterator, Mapping
from typing import Self

import typer
from attrs import field, frozen
from rich.console import Console, RenderableType
from rich.text import Text

from kling_async import Generation

CREDITS_PER_USD = 2_000_000
_MINUTE, _KILO = 60, 1000


def one_line(text: object) -> str:
    """Return a text on one line, with what a terminal would obey spelt out."""
    words = " ".join(str(text).split())
    return "".join(it if it.isprintable() else ascii(it)[1:-1] for it in words)


def clock(seconds: float) -> str:
    """Return a time as a stopwatch shows it, such as ``2:05``."""
    minutes, rest = divmod(int(seconds), _MINUTE)
    return f"{minutes}:{rest:02}"


def in_words(seconds: float) -> str:
    """Return a time in words, such as ``5 min 30 s``."""
    minutes, rest = divmod(round(seconds), _MINUTE)
    parts = [f"{minutes} min"] * bool(minutes) + [f"{rest} s"] * bool(rest)
    return " ".join(parts) or f"{seconds:.1g} s"


def size_in_words(size: float) -> str:
    """Return a number of bytes in words, such as ``5.2 MB``."""
    if size < _KILO:
        return f"{size:.0f} bytes"
    return f"{size / _KILO:.0f} kB" if size < _KILO**2 else f"{size / _KILO**2:.1f} MB"


def cost_in_words(credits_: float) -> str:
    """Return a price in the API's credits and in USD."""
    return f"{credits_:,.0f} credits ({credits_ / CREDITS_PER_USD:.2f} USD)"


class _Stream(Console):
    """A console that takes nothing for markup, and outlives its reader."""

    def __init__(self, *, stderr: bool) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False)

    def on_broken_pipe(self) -> None:
        """Say no more; without a reader of its results a command ends."""
        self.quiet = True
        # What is still buffered goes nowhere, so that the process ends in peace.
        with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 (a device, not a path)
            os.dup2(nowhere.fileno(), self.file.fileno())
        if not self.stderr:
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


@frozen
class Screen:
    """The two streams of one command.

    Attributes:
        out: Where results go.
        err: Where all else goes.
    """

    out: Console = field(factory=lambda: _Stream(stderr=False))
    err: Console = field(factory=lambda: _Stream(stderr=True))

    @classmethod
    def of(cls, ctx: typer.Context) -> Self:
        """Return the screen of the command that is running."""
        return ctx.ensure_object(cls)

    def result(self, line: str, style: str = "") -> None:
        """Print a line that a script may read, as it is."""
        if self.out.is_terminal:
            self.out.print(Text(line, style), soft_wrap=True)
        else:
            self._write(line)

    def json(self, value: object) -> None:
        """Print a value as one line of JSON."""
        self._write(json.dumps(value))

    def show(self, renderable: RenderableType) -> None:
        """Print what is for eyes only."""
        self.out.print(renderable)

    def _write(self, line: str) -> None:
        try:
            self.out.file.write(f"{line}\n")
            self.out.file.flush()
        except BrokenPipeError:
            self.out.on_broken_pipe()

    def note(self, line: object, style: str = "dim") -> None:
        """Tell news, on one line."""
        self.err.print(Text(one_line(line), style), soft_wrap=True)

    def error(self, line: object) -> None:
        """Tell what went wrong, on one line."""
        text = Text.assemble(("error: ", "bold red"), one_line(line))
        self.err.print(text, soft_wrap=True)


class ScreenHandler(logging.Handler):
    """Shows what the library logs, above whatever is moving on the screen."""

    def __init__(self, screen: Screen) -> None:
        super().__init__()
        self._screen = screen

    def emit(self, record: logging.LogRecord) -> None:
        """Show one record, and the traceback that belongs to it."""
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        level = record.levelname.lower()
        self._screen.note(f"{level}: {record.getMessage()}", style)
        if record.exc_info:
            text = logging.Formatter().formatException(record.exc_info)
            for line in text.splitlines():
                self._screen.note(f"  {line}")


def as_json(generation: Generation) -> dict[str, object]:
    """Return a generation as a script reads it."""
    video, error = generation.video, generation.error
    return {
        "id": generation.id,
        "status": generation.status,
        "video": video
        and {
            **video.extra,
            "url": video.url,
            "content_type": video.content_type,
            "file_name": video.file_name,
            "file_size": video.file_size,
        },
        "error": error and {"name": error.name, "message": error.message},
        "credits_used": generation.credits_used,
        "client_request_id": generation.client_request_id,
    }


def as_lines(generation: Generation) -> Iterator[Text]:
    """Give a generation as a user reads it."""
    yield Text(one_line(generation.id), "bold")
    for name, value in _facts(generation).items():
        yield Text.assemble((f"  {name:<7} ", "dim"), one_line(value))


def _facts(generation: Generation) -> Mapping[str, str]:
    facts = {"status": str(generation.status)}
    if generation.error is not None:
        facts["error"] = str(generation.error)
    if video := generation.video:
        facts["video"] = video.url
        size = video.file_size
        about = [size_in_words(size)] if size is not None else []
        about += [video.content_type] if video.content_type else []
        facts |= {"file": ", ".join(about)} if about else {}
    if generation.credits_used is not None:
        facts["cost"] = cost_in_words(generation.credits_used)
    return facts

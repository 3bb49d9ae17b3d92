"""What a user reads: results on stdout, news and errors on stderr.

What a server said is neither taken for markup nor allowed to move the cursor.
What to say is decided elsewhere.
"""

from __future__ import annotations

import errno
import json
import logging
import os
from typing import Self

import typer
from attrs import field, frozen
from rich.console import Console, RenderableType
from rich.text import Text

from kling_async.cli._words import one_line


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

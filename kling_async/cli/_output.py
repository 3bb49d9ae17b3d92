"""What a user reads: values in words, errors in the words of a shell, exit codes.

Results go to stdout, news and errors to stderr.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import platform
import re
import shlex
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from typing import Literal, Self

import shellingham
import typer
from attrs import evolve, field, frozen
from rich.console import Console, RenderableType
from rich.text import Text

from kling_async import (
    Generation,
    InvalidRequestError,
    KlingError,
    Problem,
)
from kling_async._billing.money import usd_of
from kling_async._errors import Hint
from kling_async._failures import Fate, Healing, Meaning, meaning_of
from kling_async._text import safe_cell, safe_line, spell_out

_MINUTE, _KILO = 60, 1000


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
    return f"{credits_:,.0f} credits ({usd_of(credits_):.2f} USD)"


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
    yield Text(safe_line(generation.id), "bold")
    for name, value in _facts(generation).items():
        yield Text.assemble((f"  {name:<7} ", "dim"), safe_line(value))


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


class Exit(IntEnum):
    """How a command ends; the codes are explained in `kling_async.cli`."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNSETTLED = 3
    INTERRUPTED = 130
    TERMINATED = 143


_HEAD, _TAIL = 300, 120  # characters that are shown of a long message

_WEIGHTS = (Exit.DONE, Exit.UNSETTLED, Exit.USAGE, Exit.FAILED)

# A field of a request, and the option that fills it where the names differ.
_OPTIONS = {
    "image_url": "--image",
    "image_list": "--image",
    "tail_image_url": "--tail-image",
    "video_url": "--video",
    "audio_url": "--audio",
    "effect_scene": "--effect",
    "generation_id": "ID",
}

# What to do about an error, in the words of a shell.
_HINTS: Mapping[Hint, str] = {
    "allow_plain_http": "it then sends the key unencrypted",
    "allow_private_downloads": "a program of your own can allow it",
    "check_the_key": "check the API key in the environment variable AIMLAPI_KEY",
    "get_a_fresh_link": "the command below gets a fresh one",
    "give_a_key": "no option takes it: other users can see what a command is given",
    "pass_unknown_fields": (
        "--set 'extra={\"field\": value}' passes on what is unknown"
    ),
    "reconcile": "`kling-async reconcile ID` does",
    "resume": "the command below continues it",
    "skip_media_check": "--no-check-media sends it anyway",
    "take_any_format": "--any-format accepts it",
    "take_more_bytes": "a program of your own can set a larger limit",
    "start_the_emulator": "is the emulator running? `kling-async emulator` starts it",
    "top_up": "top up the account, then ask again: nothing was billed",
    "wait_longer_for_a_download": "the command below tries again",
}


def exit_for(error: KlingError) -> Exit:
    """Return the code that a command ends with after an error."""
    match meaning_of(error):
        case Meaning(fate=Fate.UNSENT, healing=Healing.NOTHING):
            return Exit.USAGE
        case Meaning(fate=Fate.UNKNOWN | Fate.ACCEPTED, healing=Healing.SOMEBODY):
            return Exit.UNSETTLED
        case _:
            return Exit.FAILED


def worst(codes: Sequence[Exit]) -> Exit:
    """Return the code for several generations: of a failure before all else."""
    return max(codes, key=_WEIGHTS.index, default=Exit.DONE)


def format_error(error: KlingError) -> Iterator[str]:
    """Give what to say of an error: a line each for the problems of a request."""
    if not isinstance(error, InvalidRequestError):
        advice = f"; {_HINTS[error.hint]}" if error.hint else ""
        yield f"{_shorten(error.reason)}{advice}"
        return
    for problem in error.problems:
        line = _name_option(problem).in_words(_HINTS)
        yield f"{error.model}: {line} (nothing was sent)" if error.model else line


def resume_command(ids: Sequence[str], options: Sequence[str] = ()) -> str:
    """Return the command that goes on with generations, ready to be pasted."""
    return command_line(["kling-async", "wait", *ids, *options])


Shell = Literal["posix", "cmd", "powershell"]

_HARMLESS = re.compile(r"[A-Za-z0-9_+:./\\-]+")  # to all of them


def shell_in_use() -> Shell:
    """Tell by whose rules what is printed has to be quoted."""
    if platform.system() != "Windows":
        return "posix"
    try:
        name, _ = shellingham.detect_shell()
    except shellingham.ShellDetectionFailure:
        return "cmd"
    others: Mapping[str, Shell] = {"powershell": "powershell", "pwsh": "powershell"}
    return "cmd" if name == "cmd" else others.get(name, "posix")  # Git brings a bash


def command_line(words: Sequence[str], shell: Shell | None = None) -> str:
    """Return a command, ready to be pasted into the shell in use."""
    shell = shell or shell_in_use()
    return " ".join(_quote_word(word, shell) for word in words)


def set_variable(name: str, value: str, shell: Shell | None = None) -> str:
    """Return the line that sets a variable in the shell in use."""
    match shell or shell_in_use():
        case "powershell":
            return f"$env:{name} = {_quote_word(value, 'powershell')}"
        case "cmd":
            return f'set "{name}={value}"'
        case _:
            return f"export {name}={_quote_word(value, 'posix')}"


def _quote_word(word: str, shell: Shell) -> str:
    if shell == "posix":
        return shlex.quote(word)
    if _HARMLESS.fullmatch(word):
        return word
    if shell == "powershell":
        return "'" + word.replace("'", "''") + "'"
    # A program on Windows takes its own line apart: a backslash counts before a quote.
    return '"' + re.sub(r'(\\*)("|\Z)', r"\1\1\2\2", word) + '"'


def is_closed_pipe(error: OSError) -> bool:
    """Whether the reader is gone, for which Windows has another word."""
    if isinstance(error, BrokenPipeError):
        return True
    return platform.system() == "Windows" and error.errno == errno.EINVAL


def _name_option(problem: Problem) -> Problem:
    name, bracket, rest = problem.field.partition("[")
    return evolve(problem, field=f"{_OPTIONS.get(name, name)}{bracket}{rest}")


def _shorten(text: str) -> str:
    """Keep both ends: what it is about, and the id to quote."""
    is_long = len(text) > _HEAD + _TAIL
    return f"{text[:_HEAD]} … {text[-_TAIL:]}" if is_long else text


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

    def result(self, *cells: str, style: str = "") -> None:
        """Print a line that a script may read: as it is, or cells with tabs between."""
        line = "\t".join(map(safe_cell, cells) if cells[1:] else map(spell_out, cells))
        if self.out.is_terminal:
            _print(self.out, Text(line, style), soft_wrap=True)
        else:
            self._write(line)

    def row(self, cells: Sequence[str]) -> None:
        """Print a line of a table that a script may read, parted by tabs."""
        self._write("\t".join(map(safe_line, cells)))

    def json(self, value: object) -> None:
        """Print a value as one line of JSON."""
        self._write(json.dumps(value))

    def show(self, renderable: RenderableType) -> None:
        """Print what is for eyes only."""
        _print(self.out, renderable)

    def _write(self, line: str) -> None:
        with _outliving_its_reader(self.out):
            self.out.file.write(f"{line}\n")
            self.out.file.flush()

    def note(self, line: object, style: str = "dim") -> None:
        """Tell news, on one line."""
        _print(self.err, Text(safe_line(line), style), soft_wrap=True)

    def error(self, line: object) -> None:
        """Tell what went wrong, on one line."""
        text = Text.assemble(("error: ", "bold red"), safe_line(line))
        _print(self.err, text, soft_wrap=True)


def _print(console: Console, what: RenderableType, *, soft_wrap: bool = False) -> None:
    with _outliving_its_reader(console):
        console.print(what, soft_wrap=soft_wrap)


@contextmanager
def _outliving_its_reader(console: Console) -> Generator[None]:
    try:
        yield
    except OSError as error:
        if not is_closed_pipe(error):
            raise
        console.on_broken_pipe()


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

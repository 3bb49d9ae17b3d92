"""What is printed to be pasted back, and a reader that goes away, on each system."""

from __future__ import annotations

import errno
import io
import os
import platform
import re
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import shellingham
from hypothesis import given, strategies as st
from rich.console import Console

from kling_async.cli._output import (
    Screen,
    Shell,
    command_line,
    set_variable,
    shell_in_use,
)

WORDS = ["wait", "a b", "C:\\my videos\\", "it's", "50%", "a&b", "$HOME", "", "a;b,c"]


def read_by_powershell(line: str) -> list[str]:
    """Take a line apart as PowerShell does what is plain or in single quotes."""
    assert re.fullmatch(r"(?:(?:'(?:[^']|'')*'|[^\s'$`\"&|;,(){}@#<>]+)(?: |$))*", line)
    found = re.findall(r"'((?:[^']|'')*)'(?: |$)|([^\s']+)", line)
    return [plain or quoted.replace("''", "'") for quoted, plain in found]


def read_by_windows(line: str) -> list[str]:
    """Take a line apart as the C runtime of a Windows program does its own."""
    words, word, is_quoted, at = list[str](), None, False, 0
    while at < len(line):
        match = re.compile(r'(\\*)("?)').match(line, at)
        assert match
        slashes, quote = match.groups()
        at = match.end()
        if quote:
            word = (word or "") + slashes[: len(slashes) // 2]
            if len(slashes) % 2:
                word += quote
            elif is_quoted and line[at : at + 1] == quote:
                word, at = word + quote, at + 1
            else:
                is_quoted = not is_quoted
        elif slashes:
            word = (word or "") + slashes
        elif line[at] == " " and not is_quoted:
            words, word, at = [*words, *([] if word is None else [word])], None, at + 1
        else:
            word, at = (word or "") + line[at], at + 1
    return [*words, *([] if word is None else [word])]


PRINTABLE = st.characters(min_codepoint=32, max_codepoint=126)

READERS: Mapping[str, Callable[[str], list[str]]] = {
    "posix": shlex.split,
    "powershell": read_by_powershell,
    "cmd": read_by_windows,
}


@pytest.mark.parametrize("shell", READERS)
@given(
    words=st.lists(
        st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S", "Zs"]))
    )
)
def test_a_command_is_read_back_as_it_was_meant(shell: Shell, words: list[str]) -> None:
    """Whatever a path holds, the shell that is in use hands it over whole."""
    for each in (words, WORDS):
        assert READERS[shell](command_line(each, shell)) == each


def test_cmd_sees_no_operator_outside_of_quotes() -> None:
    """A path with an ampersand starts no second command."""
    line = command_line(WORDS, "cmd")
    assert not set("&|<>^()") & set("".join(line.split('"')[::2]))


@pytest.mark.parametrize(
    "found, shell",
    [
        ("powershell", "powershell"),
        ("pwsh", "powershell"),
        ("cmd", "cmd"),
        ("bash", "posix"),
        (None, "cmd"),
    ],
)
def test_on_windows_the_shell_is_looked_up(
    found: str | None, shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has several, each with rules of its own."""

    def detect() -> tuple[str, str]:
        if found is None:
            raise shellingham.ShellDetectionFailure
        return found, f"C:\\{found}.exe"

    assert shell_in_use() == "posix"
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    monkeypatch.setattr(shellingham, "detect_shell", detect)
    assert shell_in_use() == shell


@pytest.mark.parametrize(
    "shell, line",
    [
        ("posix", "export KLING='a b'"),
        ("powershell", "$env:KLING = 'a b'"),
        ("cmd", 'set "KLING=a b"'),
    ],
)
def test_a_variable_is_set_in_the_words_of_the_shell(shell: Shell, line: str) -> None:
    """The emulator prints such lines."""
    assert set_variable("KLING", "a b", shell) == line


class Gone(io.StringIO):
    """A pipe whose reader is gone, as Windows tells it."""

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self._descriptor = descriptor

    def write(self, _: str, /) -> int:
        """Refuse it."""
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    def fileno(self) -> int:
        """Give what can be put in its place."""
        return self._descriptor


def test_a_reader_that_goes_away_on_windows_ends_the_command_in_peace(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`| select -First 1` takes what it wants; there it is no broken pipe by name."""
    monkeypatch.setattr(platform, "system", lambda: "Windows")
    with (tmp_path / "pipe").open("wb") as pipe:
        monkeypatch.setattr("sys.stdout", Gone(pipe.fileno()))
        monkeypatch.setattr("sys.stderr", Gone(pipe.fileno()))
        screen = Screen()
        with pytest.raises(BrokenPipeError):
            screen.result("the first line")
        with pytest.raises(BrokenPipeError):
            Screen().show("a table")
        screen.note("nobody reads it")
        screen.error("nor that")


def test_elsewhere_an_invalid_argument_is_no_closed_pipe(
    tmp_path: Path,
) -> None:
    """An error that nobody expected is not hidden."""
    with (tmp_path / "file").open("wb") as file:
        screen = Screen(out=Console(file=Gone(file.fileno())))
        with pytest.raises(OSError, match="Invalid argument"):
            screen.result("the first line")

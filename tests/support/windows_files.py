"""The file system as Windows has it: what is open is neither removed nor replaced.

Python opens files there without FILE_SHARE_DELETE; Microsoft, "Creating and Opening
Files". Here it is told by what this process has open, as Linux lists it.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

IN_USE = "The process cannot access the file because it is being used"
Name = str | os.PathLike[str]


def files_open() -> set[str]:
    """Name what this process has open."""
    found = set[str]()
    for descriptor in Path("/proc/self/fd").iterdir():
        try:
            found.add(str(descriptor.readlink()))
        except FileNotFoundError:  # of the listing itself
            continue
    return found


def behave_like_windows(patch: pytest.MonkeyPatch) -> list[str]:
    """Let this process meet such a file system; gives what was refused, in order."""
    refused: list[str] = []

    def guarded(name: str) -> Callable[..., None]:
        real = getattr(os, name)

        def change(*paths: Name, **options: int | None) -> None:
            if all(value is None for value in options.values()):
                used = {os.path.realpath(it) for it in paths} & files_open()
                if used:
                    refused.append(f"{name} {min(used)}")
                    raise PermissionError(errno.EACCES, IN_USE, os.fspath(paths[0]))
            if name == "rename" and os.path.lexists(paths[1]):
                refused.append(f"{name} {paths[1]!s}")
                raise FileExistsError(errno.EEXIST, "it is there", str(paths[1]))
            real(*paths, **options)

        return change

    for name in ("unlink", "remove", "rename", "replace"):
        patch.setattr(os, name, guarded(name))
    return refused

"""Which file a video goes to: named, checked before it costs money, never clobbered.

Opens nothing; `AsyncKling.download` writes.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection
from itertools import count
from pathlib import Path

import typer
from attrs import frozen

from kling_async import Generation

_ID_CHARACTERS = 8


@frozen
class Target:
    """Where a video is to go.

    Attributes:
        file: The file that the user named; None for a name after the id.
        folder: Where such a name goes.
        overwrite: Whether a file that is there already may be replaced.
    """

    file: Path | None = None
    folder: Path = Path()
    overwrite: bool = False

    def check(self) -> None:
        """Refuse what could not be written, as long as that costs nothing.

        Raises:
            typer.BadParameter: It could not; the message says what to do.
        """
        option, folder = "--output-dir", self.folder
        if self.file is not None:
            option, folder = "--output", self.file.parent
            self._check_file(self.file)
        if not folder.is_dir():
            message = f"there is no directory {folder}; make it first"
        elif not os.access(folder, os.W_OK):
            message = f"the directory {folder} cannot be written to"
        else:
            return
        raise typer.BadParameter(message, param_hint=option)

    def _check_file(self, file: Path) -> None:
        if file.is_dir():
            example = file / "video.mp4"
            message = f"{file} is a directory; name a file, such as {example}"
        elif file.exists() and not self.overwrite:
            message = f"{file} exists; --overwrite replaces it"
        else:
            return
        raise typer.BadParameter(message, param_hint="--output")

    def path_for(self, generation: Generation, taken: Collection[Path] = ()) -> Path:
        """Return the file for the video of a generation, none of those taken."""
        if self.file is not None:
            return self.file
        # The id is the server's: only what is harmless in a file name is taken.
        letters = re.sub(r"[^A-Za-z0-9]", "", generation.id)[:_ID_CHARACTERS]
        stem = f"kling-{letters or 'video'}"
        names = (f"{stem}-{n}.mp4" if n > 1 else f"{stem}.mp4" for n in count(1))
        paths = (self.folder / name for name in names)
        free = (it for it in paths if it not in taken)
        return next(it for it in free if self.overwrite or not it.exists())

    @property
    def options(self) -> tuple[str, ...]:
        """The options that name it again."""
        named = ("--output", str(self.file)) if self.file is not None else ()
        inside = ("--output-dir", str(self.folder)) if self.folder != Path() else ()
        return named + inside + (("--overwrite",) if self.overwrite else ())

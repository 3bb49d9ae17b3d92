"""Whole files or none, also when the power fails or two processes write at once."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], data: str | bytes) -> Path:
    """Write a file completely, or leave it as it was.

    The bytes go to a new file with a random name beside it, and reach the disk before
    that is renamed. A new file has the permissions of the process's umask; a replaced
    one keeps its own.

    Args:
        path: The file; its directory must exist.
        data: Its content; text is written as UTF-8.

    Raises:
        OSError: It cannot be written; an existing file is unchanged.
    """
    path = Path(path)
    part = path.with_name(f".{path.name[:60]}.{secrets.token_hex(8)}.part")
    content = data.encode() if isinstance(data, str) else data
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # a new file, or its mode cannot be kept
            part.chmod(path.stat().st_mode & 0o777)
        return part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise

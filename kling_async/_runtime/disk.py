"""Whole files or none, also when the power fails or two processes write at once."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path


def write_atomically(path: str | os.PathLike[str], data: str | bytes) -> Path:
    """Write a file that is there as a whole, or stays as it was.

    The bytes go to a file of an unguessable name beside it, which must not exist, and
    reach the disk before they take the name. A new file is readable as the process's
    umask allows; one that is replaced keeps its permissions.

    Args:
        path: Which file; its directory must exist.
        data: What it is to hold; text is written as UTF-8.

    Raises:
        OSError: It cannot be written; what was there before still is.
    """
    path = Path(path)
    part = path.with_name(f".{path.name[:60]}.{secrets.token_hex(8)}.part")
    content = data.encode() if isinstance(data, str) else data
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # there is none, or it cannot be kept
            part.chmod(path.stat().st_mode & 0o777)
        return part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise

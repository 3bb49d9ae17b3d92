"""What `Learned` has seen, in a small JSON file: read with care, replaced whole.

A file that cannot be read is not worth an error: polling begins anew without it.
Blocks while it reads or writes.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from kling_async._errors import ConfigurationError
from kling_async._hooks import logger
from kling_async._learning import (
    KEPT,
    KINDS_KEPT,
    Learned,
    Work,
    is_believable,
)
from kling_async._pacing import Span

VERSION = 1


def load_learned(
    path: str | os.PathLike[str], learned: Learned | None = None
) -> Learned:
    """Read what was learned from a file.

    A file that is not there yet, is broken, or is of a later version is passed
    over, with a line in the log. Blocks for a moment: call it before the event
    loop runs, or in a thread.

    Args:
        path: The file that `save_learned` wrote.
        learned: What to put it into; a new `Learned` if left out.
    """
    learned = Learned() if learned is None else learned
    learned.remember(_read(Path(path)))
    return learned


def save_learned(learned: Learned, path: str | os.PathLike[str]) -> None:
    """Add what was learned to a file, which is replaced as a whole.

    Only what is new goes in, beside what other processes have saved meanwhile. Of
    two that save at the very same moment the later one's file stands. Blocks for a
    moment: call it after the event loop has ended, or in a thread.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    news = learned.unsaved()
    known = dict(_read(Path(path)))
    for work, spans in news.items():
        known[work] = (*known.pop(work, ()), *spans)
    newest = dict(list(known.items())[-KINDS_KEPT:])
    try:
        _replace(Path(path), _encoded(newest))
    except OSError as error:
        raise ConfigurationError(
            f"path: given {os.fspath(path)!r}; allowed: a file that can be written, "
            f"in a directory that is there ({error.strerror or error})",
        ) from error
    learned.mark_saved(news)


def _replace(path: Path, content: bytes) -> None:
    """Write beside, then rename: who reads sees the old file or the new one."""
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _encoded(durations: Mapping[Work, Sequence[Span]]) -> bytes:
    rows = [
        {
            "model": model,
            "video_length": video_length,
            "seconds": [[round(after, 3), round(by, 3)] for after, by in spans[-KEPT:]],
        }
        for (model, video_length), spans in durations.items()
    ]
    return json.dumps({"version": VERSION, "durations": rows}).encode()


def _read(path: Path) -> Mapping[Work, Sequence[Span]]:
    try:
        content: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("passed over %s, learned durations: %s", path, error)
        return {}
    if not isinstance(content, dict) or content.get("version") != VERSION:
        logger.warning("passed over %s: no learned durations as known here", path)
        return {}
    return dict(_works(content.get("durations")))


def _works(rows: object) -> Iterator[tuple[Work, Sequence[Span]]]:
    """Give what in the file is as it should be; the rest is passed over."""
    for row in rows if isinstance(rows, list) else ():
        match row:
            case {
                "model": str(model),
                "video_length": None | int() | float() as video_length,
                "seconds": list(spans),
            }:
                yield (model, video_length), tuple(_spans(spans))
            case _:
                pass


def _spans(values: Sequence[object]) -> Iterator[Span]:
    for value in values[-KEPT:]:
        match value:
            case [int() | float() as after, int() | float() as by]:
                if is_believable(after, by):
                    yield after, by
            case _:
                pass

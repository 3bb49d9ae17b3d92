"""Ends a worker process at one of its writes, or lists them all.

A point is a statement that writes, or the commit of what one wrote, and the how
manieth of its kind it is since the worker began to work.
"""

from __future__ import annotations

import os
import re
import signal
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy import event

_WRITE = re.compile(
    r"\s*(INSERT|UPDATE|DELETE)\b[^\w]*(?:INTO|FROM)?\s*([\w.\"]+)", re.IGNORECASE
)

RECORD = "record "
"""Before the path of a file: list the points in it, and die at none."""


def watch_writes(order: str) -> None:
    """Die at a point of this process, before it takes effect; or list all of them."""
    if order.startswith(RECORD):
        with Path(order.removeprefix(RECORD)).open("a", encoding="utf-8") as file:
            list_file = os.dup(file.fileno())
        _at_each_write(lambda point: _write_line(list_file, point))
    elif order:
        _at_each_write(lambda point: _die() if point == order else None)


def _write_line(file: int, line: str) -> None:
    os.write(file, f"{line}\n".encode())


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _at_each_write(tell: Callable[[str], None]) -> None:
    seen: Counter[str] = Counter()
    lock = threading.Lock()
    writing: dict[int, str] = {}  # by connection: what was written last

    def note(kind: str) -> None:
        with lock:
            seen[kind] += 1
            tell(f"{kind} {seen[kind]}")

    def before(
        connection: sa.Connection, _: object, statement: str, *__: object
    ) -> None:
        if found := _WRITE.match(statement):
            table = found[2].replace('"', "").rpartition(".")[2]
            kind = f"{found[1].upper()} {table}"
            writing[id(connection)] = kind
            note(kind)

    def commit(connection: sa.Connection) -> None:
        if kind := writing.pop(id(connection), None):
            note(f"COMMIT {kind}")

    event.listen(sa.Engine, "before_cursor_execute", before)
    event.listen(sa.Engine, "commit", commit)

"""Notices when a web server in this process is told to stop.

A web server waits for open streams at shutdown. A stream that ends on
`stop_requested` lets SIGTERM and Ctrl-C stop the server at once. The
server's own handlers are still called.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)

_waiting: set[asyncio.Future[None]] = set()

_before: dict[int, Callable[[int, FrameType | None], object]] = {}


@contextmanager
def stop_requested() -> Generator[asyncio.Future[None]]:
    """Return a future that is done once the process is asked to stop.

    Only signals that the server handles count, and only in the main thread, where
    Python handles signals.
    """
    stop: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    _waiting.add(stop)
    _take_signals()
    try:
        yield stop
    finally:
        _waiting.discard(stop)
        stop.cancel()
        if not _waiting:
            _give_signals_back()


def _take_signals() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        if callable(handler) and handler is not _on_signal:
            _before[number] = handler
            signal.signal(number, _on_signal)


def _give_signals_back() -> None:
    if threading.current_thread() is not threading.main_thread():
        return
    for number, handler in list(_before.items()):
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, handler)
        del _before[number]


def _on_signal(number: int, frame: FrameType | None) -> None:
    for stop in list(_waiting):
        stop.get_loop().call_soon_threadsafe(_finish, stop)
    if handler := _before.get(number):
        handler(number, frame)


def _finish(stop: asyncio.Future[None]) -> None:
    if not stop.done():
        stop.set_result(None)

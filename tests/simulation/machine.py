"""What a run must not take from the real machine: time, threads, chance, sockets.

detangle brings the loop, its clock and its network. This is the rest of what the
library below or beside ours asks the machine for.
"""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import random
import ssl
import time
import uuid
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager
from functools import cache, partial
from typing import TypeVar
from unittest.mock import patch

import anyio
import anyio.lowlevel
import detangle
import httpcore._backends.anyio
import httpx
from anyio._backends import _asyncio
from attrs import define

from kling_async._http import session

T = TypeVar("T")

_DATETIME = dt.datetime


@define
class WallClock:
    """What time a machine takes it to be.

    Attributes:
        skew: How much it is fast, in seconds.
    """

    skew: float = 0.0

    def now(self, zone: dt.tzinfo | None = None) -> dt.datetime:
        """Tell the time; `time` is the simulation's while one runs."""
        return _DATETIME.fromtimestamp(time.time() + self.skew, zone)


WALL_CLOCK = WallClock()


class _Kind(type):
    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, _DATETIME)


class _Datetime(dt.datetime, metaclass=_Kind):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
        return WALL_CLOCK.now(tz)


class _InOrder(dict[T, None]):
    """A set that is walked in the order of its making, not of addresses in memory."""

    def __iter__(self) -> Iterator[T]:
        return iter(list(self.keys()))

    def add(self, value: T) -> None:
        self[value] = None

    def remove(self, value: T) -> None:
        del self[value]

    def discard(self, value: T) -> None:
        self.pop(value, None)


_init = _asyncio.CancelScope.__init__


def _init_in_order(
    scope: _asyncio.CancelScope, *args: object, **kwargs: object
) -> None:
    _init(scope, *args, **kwargs)  # type: ignore[arg-type]
    scope._tasks = _InOrder()  # type: ignore[assignment]
    scope._child_scopes = _InOrder()  # type: ignore[assignment]


async def _run_in_lane(
    _: object,
    work: Callable[..., T],
    args: tuple[object, ...],
    abandon_on_cancel: bool = False,
    limiter: object = None,  # noqa: ARG001 (likewise)
) -> T:
    """Run what is for a thread as a step of the loop, whenever its turn comes."""
    await anyio.lowlevel.checkpoint()
    context = contextvars.copy_context()
    loop = asyncio.get_running_loop()
    with anyio.CancelScope(shield=not abandon_on_cancel):
        return await loop.run_in_executor(None, partial(context.run, work, *args))
    raise AssertionError  # for the type checkers: such a scope swallows nothing


def _is_readable(sock: object) -> bool:
    """Whether an idle connection has something to say: that it was closed, say."""
    net = detangle.network()
    name = getattr(sock, "getsockname", tuple[object, ...])()
    for connection in net._connections:
        client = connection.client
        if client.sockname == name:
            protocol = client.get_protocol()
            return (
                client.is_closing() or protocol.is_at_eof or bool(protocol.read_queue)
            )
    return True


async def _close_each(
    _: httpcore.AsyncConnectionPool,
    closing: Sequence[httpcore.AsyncConnectionInterface],
) -> None:
    """Close connections that a pool lets go of.

    httpcore's own forgets the later ones if asyncio cancels it at the first: a fault of
    pools, which only a user's own client has here.
    """
    async with AsyncExitStack() as stack:
        for connection in closing:
            stack.push_async_callback(connection.aclose)


@cache
def tls() -> ssl.SSLContext:
    """Read the certificates once: that takes longer than a run."""
    return httpx.create_ssl_context()


def _draw_uuid() -> uuid.UUID:
    return uuid.UUID(int=random.getrandbits(128), version=4)


@contextmanager
def virtual_time() -> Generator[None]:
    """Leave the loop's clock in `time` between steps: not set, and reset, at each."""
    patched = asyncio.get_running_loop()._time_patch  # type: ignore[attr-defined]
    patched.enter()
    try:
        yield
    finally:
        patched.exit()


@contextmanager
def repeatable() -> Generator[None]:
    """Take nothing from the real machine until the end of the block."""
    threads: object = classmethod(_run_in_lane)
    with ExitStack() as stack:
        for place, name, stand_in in (
            (session, "create_ssl_context", lambda _: tls()),
            (dt, "datetime", _Datetime),
            (uuid, "uuid4", _draw_uuid),
            (httpcore._backends.anyio, "is_socket_readable", _is_readable),
            (httpcore.AsyncConnectionPool, "_close_connections", _close_each),
            (_asyncio.AsyncIOBackend, "run_sync_in_worker_thread", threads),
            (_asyncio.CancelScope, "__init__", _init_in_order),
        ):
            stack.enter_context(patch.object(place, name, stand_in))
        yield

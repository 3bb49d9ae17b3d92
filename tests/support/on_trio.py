"""The tests of the core once more on trio: `nox -s trio`.

A plugin: async tests run on trio in place of asyncio. What asyncio alone can serve, a
thread of asyncio's serves; what asyncio alone can do is skipped, and told.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack
from types import CodeType, FunctionType, TracebackType
from typing import Protocol, Self

import anyio
import pytest
import trio.testing
from anyio.from_thread import BlockingPortal, start_blocking_portal
from attrs import define, field
from raw_server import RawServer

from kling_async.emulator import Emulator

# Why a test is not for trio, by a part of its id.
REASONS = {
    "aiohttp": "aiohttp runs on asyncio alone",
    "pyqwest": "its transport runs on asyncio alone",
    "pyreqwest": "its transport runs on asyncio alone",
    "test_web.py": "servers of web frameworks run on asyncio",
    "in_time[trickle]": "its stand-in for a server drives asyncio",
    "emulator_keeps_and_shows": "it leaves a stream of events of httpx's half read",
    "too-large-": "a stream in memory does not end when it is closed: trio warns",
}
ITS_OWN = "drives asyncio itself"


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Keep what runs on trio."""
    kept = [it for it in items if isinstance(it, pytest.Function) and _is_for_trio(it)]
    for item in kept:
        for part, reason in REASONS.items():
            if part in item.nodeid:
                item.add_marker(pytest.mark.skip(reason=reason))
        if inspect.iscoroutinefunction(item.function) and _names("asyncio", item):
            item.add_marker(pytest.mark.skip(reason=ITS_OWN))
    config.hook.pytest_deselected(items=[it for it in items if it not in kept])
    items[:] = kept


def _is_for_trio(item: pytest.Function) -> bool:
    if inspect.iscoroutinefunction(item.function):
        return True
    return hasattr(item, "callspec") and item.callspec.params.get("backend") == "trio"


def _names(name: str, item: pytest.Function) -> bool:
    """Whether a test names something, or what it calls of its own module does."""
    test: FunctionType = inspect.unwrap(item.function)
    seen, left = set[CodeType](), [test.__code__]
    while left:
        code = left.pop()
        if code in seen or "peer" in code.co_varnames[: code.co_argcount]:
            continue  # a script for a server runs where the server does
        if name in code.co_names:
            return True
        seen.add(code)
        left += [it for it in code.co_consts if isinstance(it, CodeType)]
        named = [test.__globals__.get(it) for it in code.co_names]
        left += [
            inspect.unwrap(it).__code__
            for it in named
            if isinstance(it, FunctionType) and it.__module__ == test.__module__
        ]
    return False


def loop_of(item: pytest.Function) -> tuple[str, dict[str, object]]:
    """Name the loop of a test, whose clock jumps where looptime turns asyncio's."""
    if item.get_closest_marker("looptime") is None:
        return "trio", {}
    # A server in a thread takes its time: no clock is to jump meanwhile.
    waits = _names("Emulator", item) or _names("RawServer", item)
    clock = trio.testing.MockClock(autojump_threshold=0.1 if waits else 0)
    return "trio", {"clock": clock}


class Server(Protocol):
    """What is entered and left."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


@define(eq=False)
class Threads:
    """Threads of asyncio's, one for each server that is entered."""

    _open: dict[int, tuple[ExitStack, BlockingPortal]] = field(
        factory=dict[int, tuple[ExitStack, BlockingPortal]]
    )

    def serve(self, kind: type[Server], patch: pytest.MonkeyPatch) -> None:
        """Let servers of a kind be entered on any loop."""
        enter, leave = kind.__aenter__, kind.__aexit__

        async def aenter(server: Server) -> Server:
            stack = ExitStack()
            portal = stack.enter_context(start_blocking_portal())
            self._open[id(server)] = stack, portal
            return portal.call(enter, server)

        async def aexit(
            server: Server,
            exc_type: type[BaseException] | None,
            exc: BaseException | None,
            traceback: TracebackType | None,
        ) -> None:
            stack, portal = self._open.pop(id(server))
            with stack:
                portal.call(leave, server, exc_type, exc, traceback)

        patch.setattr(kind, "__aenter__", aenter)
        patch.setattr(kind, "__aexit__", aexit)

    def there(
        self, method: Callable[[RawServer], Coroutine[object, object, None]]
    ) -> Callable[[RawServer], Coroutine[object, object, None]]:
        """Make of a server's method one that waits for it in the server's thread."""

        async def wait(server: RawServer) -> None:
            _, portal = self._open[id(server)]
            await anyio.to_thread.run_sync(portal.call, method, server)

        return wait


@pytest.fixture(autouse=True)
def _asyncio_in_threads() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]  # pytest uses it
    """Serve from threads, whose clock is the real one."""
    threads = Threads()
    with pytest.MonkeyPatch.context() as patch:
        threads.serve(RawServer, patch)
        threads.serve(Emulator, patch)
        patch.setattr(RawServer, "until_idle", threads.there(RawServer.until_idle))
        yield

"""Fixtures to test programs that use this library: no key, no network, no bill.

`kling_emulator` is an emulator, `kling` a client on it, in the same process. A test
that uses `kling` runs on a clock that jumps: 14 minutes take milliseconds.
Installed with the extra ``pytest``; pytest finds it by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from kling_async import AsyncKling
    from kling_async.emulator import Emulator

MARKER = "kling_emulator"
_SMALL = 64  # pixels: nobody looks at a test's videos
_URL = "https://kling.test"
_CLOCK = "looptime_plugin"


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(speed=1, seed=0, ...): arguments for the fixture `kling_emulator`: "
        "any of kling_async.emulator.Emulator.",
    )
    # looptime gets the event loop before each test; from Python 3.12 on that warns.
    config.addinivalue_line(
        "filterwarnings",
        "ignore:There is no current event loop:DeprecationWarning:looptime",
    )


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Let the clock jump in each test that uses `kling`, unless the test is marked."""
    for item in items:
        has_clock = item.config.pluginmanager.has_plugin(_CLOCK)
        is_set = item.get_closest_marker("looptime") is not None
        if has_clock and not is_set and _uses_our_kling(item):
            item.add_marker(pytest.mark.looptime)


def _uses_our_kling(item: pytest.Item) -> bool:
    """Whether its fixture `kling` is ours: a project may have its own."""
    info = getattr(item, "_fixtureinfo", None)
    found = info.name2fixturedefs.get("kling", ()) if info else ()
    return any(it.func.__module__ == __name__ for it in found[-1:])


@pytest.fixture
def kling_emulator(request: pytest.FixtureRequest) -> Emulator:
    """Return an emulator of the vendor's API that does not listen on a socket yet.

    ``@pytest.mark.kling_emulator(speed=60, seed=7, failure_rate=1)`` configures it;
    by default it takes as long as the vendor does. ``async with kling_emulator:``
    serves it on a socket; `kling` uses it without one, in the same process.
    """
    from kling_async.emulator import Emulator

    options: dict[str, object] = {"speed": 1.0, "size": _SMALL}
    for marker in reversed([*request.node.iter_markers(MARKER)]):
        options |= marker.kwargs
    return Emulator(**options)  # type: ignore[arg-type]


@pytest.fixture
def kling(request: pytest.FixtureRequest, kling_emulator: Emulator) -> AsyncKling:
    """Return a client of `kling_emulator`, in the same process, without a socket.

    You need not close it: nothing of it outlives the test's event loop.
    """
    import httpx

    from kling_async import AsyncKling

    if not request.config.pluginmanager.has_plugin(_CLOCK):
        pytest.fail(
            'the fixture `kling` needs looptime: pip install "kling_async[pytest]"',
            pytrace=False,
        )
    if "anyio_backend" in request.fixturenames:
        pytest.fail(
            "the fixture `kling` needs the event loop of pytest-asyncio, whose clock "
            "can jump; anyio runs this test on another: mark it with "
            "pytest.mark.asyncio instead of pytest.mark.anyio, or use the fixture "
            "`kling_emulator`",
            pytrace=False,
        )
    transport = httpx.ASGITransport(kling_emulator.app)
    http = httpx.AsyncClient(transport=transport, base_url=_URL)
    return AsyncKling("any-key", base_url=_URL, http_client=http)

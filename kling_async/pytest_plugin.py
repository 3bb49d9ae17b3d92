"""Fixtures for testing what is built on this library: no key, no network, no bill.

`kling_emulator` is a stand-in server, `kling` a client on it, in process. A test
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
_SMALL = 64  # pixels: what a test's videos show is seldom looked at
_URL = "https://kling.test"
_CLOCK = "looptime_plugin"


def pytest_configure(config: pytest.Config) -> None:
    """Tell pytest of the marker."""
    config.addinivalue_line(
        "markers",
        f"{MARKER}(speed=1, seed=0, ...): what the fixture `kling_emulator` is made "
        "with: any argument of kling_async.emulator.Emulator.",
    )
    # It looks for a loop before each test; from Python 3.12 on that warns.
    config.addinivalue_line(
        "filterwarnings",
        "ignore:There is no current event loop:DeprecationWarning:looptime",
    )


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Let the clock jump in each test that uses `kling`, if it does not say else."""
    for item in items:
        has_clock = item.config.pluginmanager.has_plugin(_CLOCK)
        is_set = item.get_closest_marker("looptime") is not None
        if has_clock and not is_set and _uses_our_kling(item):
            item.add_marker(pytest.mark.looptime)


def _uses_our_kling(item: pytest.Item) -> bool:
    """Whether its fixture `kling` is the one below: projects may have their own."""
    info = getattr(item, "_fixtureinfo", None)
    found = info.name2fixturedefs.get("kling", ()) if info else ()
    return any(it.func.__module__ == __name__ for it in found[-1:])


@pytest.fixture
def kling_emulator(request: pytest.FixtureRequest) -> Emulator:
    """Give an emulator of the vendor's API, idle: nothing listens yet.

    ``@pytest.mark.kling_emulator(speed=60, seed=7, failure_rate=1)`` sets it up;
    by default it takes as long as the vendor does. ``async with kling_emulator:``
    serves it on a socket; without, `kling` reaches it in process.
    """
    from kling_async.emulator import Emulator  # noqa: PLC0415 (an extra, and heavy)

    options: dict[str, object] = {"speed": 1.0, "size": _SMALL}
    for marker in reversed([*request.node.iter_markers(MARKER)]):
        options |= marker.kwargs
    return Emulator(**options)  # type: ignore[arg-type]


@pytest.fixture
def kling(request: pytest.FixtureRequest, kling_emulator: Emulator) -> AsyncKling:
    """Give a client of `kling_emulator`, in process, without a socket.

    It needs no closing: it holds nothing that outlives the test's event loop.
    """
    import httpx  # noqa: PLC0415 (heavy, and not for every test)

    from kling_async import AsyncKling  # noqa: PLC0415 (likewise)

    if not request.config.pluginmanager.has_plugin(_CLOCK):
        pytest.fail(
            'the fixture `kling` turns the clock: pip install "kling_async[pytest]"',
            pytrace=False,
        )
    if "anyio_backend" in request.fixturenames:
        pytest.fail(
            "the fixture `kling` turns the clock of pytest-asyncio's event loop, and "
            "anyio runs this test on another: mark it with pytest.mark.asyncio in "
            "place of pytest.mark.anyio, or use the fixture `kling_emulator`",
            pytrace=False,
        )
    transport = httpx.ASGITransport(kling_emulator.app)
    http = httpx.AsyncClient(transport=transport, base_url=_URL)
    return AsyncKling("any-key", base_url=_URL, http_client=http)

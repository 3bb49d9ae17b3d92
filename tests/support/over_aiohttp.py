"""A pytest plugin: the tests of the client again, over ``transport="aiohttp"``.

``pytest -p over_aiohttp`` makes aiohttp the default of every client that opens its
own connections and names no library. What stands in for httpx's cannot run so, and is
skipped.
"""

from __future__ import annotations

import functools
import inspect

import pytest

from kling_async import AsyncKling

# What a test or its fixture uses that is not there over aiohttp, and why.
BOUND = {
    "respx": "it stands in for httpx's connections",
    "AsyncHTTPTransport": "it stands in for httpx's connections",
    "httpx2_mock": "it stands in for httpx2's connections",
    "httpcore.": "it is about what httpcore does",
    "httpcore/": "it is about what httpcore does",
    "without_ceremony": "aiohttp warns of a session in a loop that ended so",
    "session.find_spec": "it takes aiohttp away",
    "[trio": "aiohttp runs on asyncio alone",
    'backend="trio"': "aiohttp runs on asyncio alone",
}


def pytest_configure() -> None:
    """Change the default, for all that the tests make."""
    whole = AsyncKling.__init__

    @functools.wraps(whole)
    def init(self: AsyncKling, *args: str, **options: object) -> None:
        if options.get("http_client") is None:
            options.setdefault("transport", "aiohttp")
        whole(self, *args, **options)  # type: ignore[arg-type]  # as they were given

    pytest.MonkeyPatch().setattr(AsyncKling, "__init__", init)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is bound to something else."""
    for item in items:
        text = _source(item)
        for word, why in BOUND.items():
            if word in text:
                item.add_marker(pytest.mark.skip(reason=why))


def _source(item: pytest.Item) -> str:
    """Give the text of a test, its parameters and the fixtures of its module."""
    assert isinstance(item, pytest.Function)
    fixtures = [
        fixture
        for name in item.fixturenames
        if inspect.isfunction(fixture := getattr(item.module, name, None))
    ]
    return "\n".join(map(inspect.getsource, [item.function, *fixtures])) + item.name

"""A pytest plugin: the tests of the client again, over ``transport="aiohttp"``.

``pytest -p over_aiohttp`` makes aiohttp the default of every client that opens its
own connections. What stands in for httpx's cannot run so, and is skipped.
"""

from __future__ import annotations

import inspect

import httpx
import pytest

from kling_async._http.session import Connections, Library

# What a test or its fixture uses that is not there over aiohttp, and why.
BOUND = {
    "respx": "it stands in for httpx's connections",
    "AsyncHTTPTransport": "it stands in for httpx's connections",
    "httpx2_mock": "it stands in for httpx2's connections",
    "httpcore.": "it is about what httpcore does",
    "httpcore/": "it is about what httpcore does",
    "without_ceremony": "aiohttp warns of a session in a loop that ended so",
    "trio": "aiohttp runs on asyncio alone",
}


def pytest_configure() -> None:
    """Change the default, for all that the tests make."""
    whole = Connections.__init__

    def init(
        self: Connections,
        max_connections: int = 100,
        http_client: httpx.AsyncClient | None = None,
        library: Library = "httpx",
    ) -> None:
        own: Library = "aiohttp" if library == "httpx" else library
        whole(self, max_connections, http_client, library if http_client else own)

    Connections.__init__ = init  # type: ignore[method-assign]  # this is the point


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

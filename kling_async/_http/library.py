"""Which library speaks HTTP: httpx, or httpx2, its fork, where all has the same name.

Whatever is written for the one serves the other: what differs is the module alone.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import ssl

    import httpx

_NAMES = ("httpx", "httpx2")


class HTTPLibrary(Protocol):
    """What is used of either."""

    __name__: str
    AsyncClient: type[httpx.AsyncClient]
    AsyncHTTPTransport: type[httpx.AsyncHTTPTransport]
    Request: type[httpx.Request]
    URL: type[httpx.URL]

    def create_ssl_context(self) -> ssl.SSLContext:
        """Make what servers are trusted by, where nobody says otherwise."""
        ...


def library_named(name: str) -> HTTPLibrary:
    """Give the library that brings files for a transport of this name."""
    return _load(name if name in _NAMES else _NAMES[0])


def is_async_client(client: object) -> bool:
    """Whether it is an asynchronous client of a library."""
    return isinstance(client, _loaded("AsyncClient"))


def _load(name: str) -> HTTPLibrary:
    return cast("HTTPLibrary", import_module(name))


def errors_named(name: str, *others: type[Exception]) -> tuple[type[Exception], ...]:
    """Give a class of errors as each library that is loaded has it, and others."""
    return *others, *cast("tuple[type[Exception], ...]", _loaded(name))


def _loaded(name: str) -> tuple[type, ...]:
    # Whoever has an object of a library has loaded it.
    return tuple(getattr(_load(it), name) for it in _NAMES if it in sys.modules)

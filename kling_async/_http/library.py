"""Which library speaks HTTP: httpx, or its fork httpx2, with the same names.

Code for one works with the other: only the module differs.
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
    """The names used of both."""

    __name__: str
    AsyncClient: type[httpx.AsyncClient]
    AsyncHTTPTransport: type[httpx.AsyncHTTPTransport]
    ByteStream: type[httpx.ByteStream]
    Request: type[httpx.Request]
    URL: type[httpx.URL]

    def create_ssl_context(self) -> ssl.SSLContext:
        """Make the default TLS context."""
        ...


def library_named(name: str) -> HTTPLibrary:
    """Give the library that brings files for a transport of this name."""
    return _load(name if name in _NAMES else _NAMES[0])


def is_async_client(client: object) -> bool:
    """Whether it is an asynchronous client of a library."""
    return isinstance(client, _loaded_classes("AsyncClient"))


def _load(name: str) -> HTTPLibrary:
    return cast("HTTPLibrary", import_module(name))


def errors_named(name: str, *others: type[Exception]) -> tuple[type[Exception], ...]:
    """Give a class of errors as each library that is loaded has it, and others."""
    return *others, *cast("tuple[type[Exception], ...]", _loaded_classes(name))


def _loaded_classes(name: str) -> tuple[type, ...]:
    # An object of a library proves that the library is loaded.
    return tuple(getattr(_load(it), name) for it in _NAMES if it in sys.modules)

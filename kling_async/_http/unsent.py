"""Which error of a library below us proves that nothing of our request was sent.

It must come from connecting, and directly from a library that reports this reliably: an
error of a hook, of a foreign transport, or of a request that either of them makes says
nothing about ours.
"""

from __future__ import annotations

from collections.abc import Iterator

# Raised by httpx, over httpcore, before a byte of the request is out. An HTTP proxy
# that refuses to CONNECT is a ProxyError; one that breaks off later is a ReadError.
_OF_HTTPX = frozenset(
    "ConnectError ConnectTimeout PoolTimeout ProxyError UnsupportedProtocol".split()
)

# The same for aiohttp. httpx-aiohttp reports every lost connection as ConnectTimeout,
# so only the error of aiohttp below it counts.
_OF_AIOHTTP = frozenset(
    "ClientConnectorError ClientHttpProxyError ConnectionTimeoutError".split()
)

# Code that an error may pass through on its way from a transport to us.
_PASSED = frozenset("kling_async httpx httpx2 anyio contextlib opentelemetry".split())

_TRANSPORTS = tuple(
    f"{library}._transports.{name}"
    for library in ("httpx", "httpx2")
    for name in ("default", "mock", "asgi")
)

# These send no request anywhere: a test decides what they raise.
_MOCKS = ("respx", "pytest_httpx", "pytest_httpx2", "mock", "asgi")


def is_unsent(error: BaseException) -> bool:
    """Whether the server certainly saw nothing of the request; needs the traceback."""
    modules = list(_modules_of(error))
    source = next((it for it in modules if not _is_passed(it)), "")
    if _library_of(source) in ("aiohttp", "httpx_aiohttp"):
        is_its_own = _library_of(type(error).__module__) == "aiohttp"
        return _is_one_of(error if is_its_own else error.__cause__, _OF_AIOHTTP)
    is_known = source in _TRANSPORTS or _library_of(source) in _MOCKS
    if not is_known or not _is_one_of(error, _OF_HTTPX):
        return False
    if error.__cause__ is not None:
        below = _library_of(type(error.__cause__).__module__)
        return below in ("httpcore", "httpcore2", "respx") or source.endswith(_MOCKS)
    return any(it.endswith(_MOCKS) or _library_of(it) in _MOCKS for it in modules)


def _modules_of(error: BaseException) -> Iterator[str]:
    """Name the modules that an error came through, from us down to where it arose."""
    step, clients = error.__traceback__, 0
    while step is not None:
        module = str(step.tb_frame.f_globals.get("__name__", ""))
        clients += step.tb_frame.f_code.co_name == "send" and "_client" in module
        # A client within a client: a request of a hook or of a transport.
        yield module if clients <= 1 else "another client"
        step = step.tb_next


def _is_passed(module: str) -> bool:
    return _library_of(module) in _PASSED and module not in _TRANSPORTS


def _library_of(module: str) -> str:
    return module.partition(".")[0]


def _is_one_of(error: BaseException | None, names: frozenset[str]) -> bool:
    return not names.isdisjoint(cls.__name__ for cls in type(error).__mro__)

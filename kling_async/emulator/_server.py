"""A uvicorn server in the user's event loop, and the requests that it refuses.

It answers to its own names only: a web page could otherwise point a name of its own
here and use the emulator from its visitor's browser (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import socket
import struct
from collections.abc import Callable, Generator
from functools import lru_cache
from http import HTTPStatus
from typing import Self
from uuid import uuid4

import anyio
import uvicorn
from attrs import define, frozen
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from kling_async._checks import is_loopback
from kling_async._errors import ConfigurationError
from kling_async.emulator._protocol import error_body
from kling_async.emulator._traffic import DROP

# Bytes: four images of 10 MB, Kling's documented limit, as data URIs, and some more.
LARGEST_BODY = 64 * 1024 * 1024

_BODILESS = frozenset({"GET", "HEAD"})


@frozen(eq=False)
class Guard:
    """The ASGI middleware between a socket and everything else.

    Attributes:
        app: The app behind it.
        names: Its host names: the name or address that it listens on, and those
            that it was given.
        largest_body: The most bytes of a request's body.
    """

    app: ASGIApp
    names: frozenset[str]
    largest_body: int = LARGEST_BODY

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not is_own(headers.get("host", ""), self.names):
            words = (
                "this is not a name of the emulator: use its address, localhost, "
                "or a name that you give it with --name"
            )
            await self._refuse(HTTPStatus.MISDIRECTED_REQUEST, words, scope, send)
            return
        if scope["method"] in _BODILESS:
            await self.app(scope, receive, send)
            return
        whole = await self._whole(headers.get("content-length", "0"), receive)
        if whole is None:
            words = f"Payload too large: at most {self.largest_body:,} bytes"
            await self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, words, scope, send)
            return
        await self.app(scope, _replay(whole, receive), send)

    async def _whole(self, length: str, receive: Receive) -> list[Message] | None:
        """Read a request to its end, or until it is too large."""
        if length.isdecimal() and int(length) > self.largest_body:
            return None
        messages = list[Message]()
        size = 0
        while True:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self.largest_body:
                return None
            if not message.get("more_body", False):
                return messages

    async def _refuse(
        self, status: HTTPStatus, words: str, scope: Scope, send: Send
    ) -> None:
        body = error_body(
            status=status, message=words, path=scope["path"], request_id=str(uuid4())
        )
        answer = JSONResponse(body, status, {"connection": "close"})
        await answer(scope, _no_more, send)


def _replay(messages: list[Message], receive: Receive) -> Receive:
    """Return the messages that were read, then those that follow."""
    left = iter(messages)

    async def replay() -> Message:
        message = next(left, None)
        return await receive() if message is None else message

    return replay


async def _no_more() -> Message:
    return {"type": "http.disconnect"}


@lru_cache(maxsize=64)
def is_own(header: str, names: frozenset[str]) -> bool:
    """Whether a ``Host`` header names this server: an address, or one of its names.

    Any other name could be a web site's that resolves to this address.
    """
    name = (
        header.rpartition(":")[0] if header.rpartition(":")[2].isdecimal() else header
    )
    name = name.strip("[]").rstrip(".").lower()
    if name in names or is_loopback(name):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return not names.isdisjoint(_WILDCARDS)  # it listens on all addresses


_WILDCARDS = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 (not bound: replaced)

_KEEP_ALIVE_SECONDS = 75

_PATIENCE = 10  # seconds

_AT_ONCE = struct.pack("ii", 1, 0)  # no linger: the peer sees a reset


class _Protocol(H11Protocol):
    """uvicorn's HTTP protocol, with a way to drop the connection."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn's
        super().connection_made(transport)
        bound: socket.socket = transport.get_extra_info("socket")
        # Head and body are written one after the other: without this the body
        # waits for the client's acknowledgement, up to 40 ms (RFC 896).
        bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        served = self.app

        def drop(reset: bool) -> None:
            if reset:
                bound.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
                transport.abort()
            else:
                transport.close()

        async def with_drop(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[DROP] = drop
            await served(scope, receive, send)

        self.app = with_drop


class _Guest(uvicorn.Server):
    def __init__(self, config: uvicorn.Config, hang_up: Callable[[], None]) -> None:
        super().__init__(config)
        self.startup_over = asyncio.Event()
        self._stopping = asyncio.Event()
        self._hang_up = hang_up

    def stop(self) -> None:
        """Stop serving; `serve` returns soon."""
        self.should_exit = True
        self._stopping.set()

    async def main_loop(self) -> None:
        """Tick once a second, and end at once on `stop`."""
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await self._stopping.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None]:
        """Leave signals to whoever runs the event loop."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and set the event, also after a failure."""
        try:
            await super().startup(sockets)
        finally:
            self.startup_over.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop without waiting for clients that keep a connection or read slowly."""
        await (
            _turn_loop()
        )  # a connection being accepted must not find its server closed
        for listening in (*self.servers, *(sockets or ())):
            listening.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        # Let every exchange see that its client is gone, even one that has just begun.
        await _turn_loop()
        self._hang_up()
        if self.server_state.tasks:
            # All have been cancelled; this waits for slow ones.
            await asyncio.wait(set(self.server_state.tasks), timeout=_PATIENCE)
        for server in self.servers:
            await server.wait_closed()


@define(eq=False)
class Listener:
    """An app that is served on a socket until it is closed.

    Attributes:
        url: Its URL for a client on this machine.
    """

    url: str
    _server: _Guest
    _task: asyncio.Task[None]
    _socket: socket.socket

    @classmethod
    async def open(
        cls, app: ASGIApp, *, host: str, port: int, hang_up: Callable[[], None]
    ) -> Self:
        """Serve an app, and return as soon as it can be reached.

        Args:
            app: The ASGI app.
            host: The address or the host name to listen on.
            port: The port; 0 for any free one.
            hang_up: Called when stopping, to end the requests in flight.

        Raises:
            ConfigurationError: The event loop is not asyncio's, or the address
                cannot be listened on; the cause is the OSError.
        """
        _require_asyncio()
        bound = _bind(host, port)
        config = uvicorn.Config(
            app,
            http=_Protocol,
            proxy_headers=False,
            server_header=False,
            date_header=False,  # the app sets it by its own clock
            lifespan="off",
            ws="none",
            log_config=None,  # nor log_level: uvicorn's loggers belong to the process
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        )
        server = _Guest(config, hang_up)
        # Not a task group: this may be entered and left in different tasks.
        task = asyncio.create_task(server.serve([bound]), name="kling_async.emulator")
        self = cls(_url_of(bound), server, task, bound)
        try:
            await server.startup_over.wait()
        except BaseException:
            await self.aclose()
            raise
        return self

    async def aclose(self) -> None:
        """Stop serving; leave nothing behind, even if cancelled meanwhile."""
        self._server.stop()
        try:
            with anyio.CancelScope(shield=True):
                # Waits for the task, and unlike `await` does not cancel it.
                await asyncio.wait({self._task})
        finally:
            self._socket.close()
        self._task.result()


async def _turn_loop() -> None:
    """Let the event loop run the steps from a new socket to its protocol."""
    for _ in range(3):
        await asyncio.sleep(0)


def _require_asyncio() -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError as error:
        raise ConfigurationError(
            "the emulator's server runs on asyncio only; on trio use "
            "httpx.ASGITransport(app=emulator.app) instead of a socket"
        ) from error


def _bind(host: str, port: int) -> socket.socket:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, _, _, _, address = found[0]
        return socket.create_server((str(address[0]), port), family=family)
    except OSError as error:
        raise ConfigurationError(
            f"the emulator cannot listen on {host} port {port}: {error.strerror}; "
            "give another port, or 0 for any free one"
        ) from error


def _url_of(bound: socket.socket) -> str:
    address: tuple[str, int] = bound.getsockname()[:2]
    host, port = _WILDCARDS.get(address[0], address[0]), address[1]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

"""A client's connections: one pool, gate and scope for each event loop.

Sockets, locks and tasks belong to the loop they were made in. A client that is
used from a second loop gets a second set; nothing is ever carried across.
"""

from __future__ import annotations

import asyncio
import ssl
import weakref
from collections.abc import AsyncGenerator
from importlib.util import find_spec
from typing import Literal, get_args

import anyio
import httpx
from attrs import define, field

from kling_async._checks import is_whole
from kling_async._config import __version__
from kling_async._errors import ClientClosedError, ConfigurationError
from kling_async._hooks import logger
from kling_async._http.pool import Routes, Shards
from kling_async._http.sender import Direct, Lent, Sender, phase_limits
from kling_async._runtime.tasks import (
    CLOCK_TICK,
    CLOSED,
    Scope,
    at_loop_end,
    running_loop,
)
from kling_async._runtime.timers import Timetable, Turns

# Below the 5 s after which common servers (uvicorn, Node.js) drop an idle
# connection: a create must not meet one that is just being closed.
_KEEPALIVE_EXPIRY = 4.0

_LIMIT = 60.0

_USER_AGENT = f"kling_async/{__version__}"

Library = Literal["httpx", "aiohttp"]


@define(eq=False)
class Session:
    """What one client has open in one event loop.

    Attributes:
        http: Brings API calls.
        files: Brings videos, from other hosts, and never sees the key.
        gate: A place for each exchange in flight: httpcore's pool slows down
            and times out when thousands queue in it.
        timetable: Which poll loop wants one, and when.
        resume_at: Until when (loop time, seconds) the server wants quiet.
        closing: Closes `http` and `files`, at the latest when the loop ends;
            None where they belong to the user.
    """

    http: Sender
    files: httpx.AsyncClient
    gate: anyio.Semaphore
    timetable: Timetable
    resume_at: float = 0.0
    closing: AsyncGenerator[None, None] | None = None

    @property
    def scope(self) -> Scope:
        """The tasks."""
        return self.timetable.scope

    def pause(self, seconds: float) -> None:
        """Keep every exchange that has not begun back for so long."""
        self.resume_at = max(self.resume_at, anyio.current_time() + seconds)

    async def take_place(self) -> None:
        """Wait for the end of a pause and for a place in flight."""
        while True:
            # An event cannot do: the pause may grow while it lasts.
            while (left := self._left_of_pause()) > CLOCK_TICK:  # noqa: ASYNC110
                await anyio.sleep(left)
            await self.gate.acquire()
            if self._left_of_pause() <= CLOCK_TICK:
                return
            self.gate.release()

    def _left_of_pause(self) -> float:
        return self.resume_at - anyio.current_time() if self.resume_at else 0.0

    async def aclose(self, patience: float) -> None:
        """End the tasks, then close the sockets."""
        closing, self.closing = self.closing, None
        try:
            await self.scope.aclose(patience)
        finally:
            if closing is not None:
                await closing.aclose()


@define(eq=False)
class Connections:
    """The sessions of one client, made as event loops come.

    Attributes:
        max_connections: How many exchanges may be in flight in one loop.
        http_client: The user's own client, if there is one.
        library: What opens the connections of API calls, if there is none.
    """

    max_connections: int = 100
    http_client: httpx.AsyncClient | None = None
    library: Library = "httpx"
    is_closed: bool = False
    _ssl: ssl.SSLContext | None = None
    _home: weakref.ref[object] | None = None
    _sessions: weakref.WeakKeyDictionary[object, Session] = field(
        factory=weakref.WeakKeyDictionary[object, Session],
    )

    def __attrs_post_init__(self) -> None:
        if not is_whole(self.max_connections) or self.max_connections < 1:
            raise ConfigurationError(
                f"max_connections: given {self.max_connections!r}; allowed: 1 or more",
            )
        _require_library(self.library, self.http_client)
        if self.http_client is None:
            self._ssl = httpx.create_ssl_context()
        else:
            _require_async(self.http_client)

    def here(self) -> Session:
        """Give the session of the running event loop.

        Raises:
            ClientClosedError: The client was closed.
            ConfigurationError: The user's own httpx client is in use elsewhere.
        """
        if self.is_closed or (self.http_client and self.http_client.is_closed):
            raise ClientClosedError(CLOSED)
        loop = running_loop()
        session = self._sessions.get(loop)
        if session is None:
            session = self._sessions[loop] = self._open(loop)
        return session

    def _open(self, loop: object) -> Session:
        gate = anyio.Semaphore(self.max_connections, fast_acquire=True)
        timetable = Timetable(Scope(), Turns(self.max_connections))
        if self.http_client is None:
            return self._open_own(loop, gate, timetable)
        if self._home is not None and self._home() is not loop:
            raise ConfigurationError(
                "this AsyncKling was made with http_client=... and is used from a "
                "second event loop; an httpx client belongs to one loop. Leave "
                "http_client out, or make one AsyncKling for each loop",
            )
        self._home = weakref.ref(loop)
        return Session(Lent(self.http_client), self.http_client, gate, timetable)

    def _open_own(
        self, loop: object, gate: anyio.Semaphore, timetable: Timetable
    ) -> Session:
        if self.library == "aiohttp" and not isinstance(
            loop, asyncio.AbstractEventLoop
        ):
            raise ConfigurationError(
                "transport='aiohttp' runs on asyncio alone; leave it out on trio"
            )
        files = self._new_client()
        http = self._new_sender(files.headers)

        async def close() -> None:
            self._sessions.pop(loop, None)
            with anyio.CancelScope(shield=True):
                await http.aclose()
                await files.aclose()

        return Session(http, files, gate, timetable, closing=at_loop_end(close))

    def _new_sender(self, headers: httpx.Headers) -> Sender:
        if self.library == "aiohttp":
            from kling_async._http import aiohttp as _aiohttp  # noqa: PLC0415 (an extra)

            tls = self._ssl or httpx.create_ssl_context()
            return _aiohttp.open_sender(_USER_AGENT, _limits(self.max_connections), tls)
        return Direct(Routes(self._open_route), headers)

    def _open_route(self, proxy: httpx.Proxy | None) -> httpx.AsyncBaseTransport:
        return Shards(self.max_connections, self._new_pool, proxy)

    def _new_pool(
        self, size: int, proxy: httpx.Proxy | None
    ) -> httpx.AsyncBaseTransport:
        return httpx.AsyncHTTPTransport(
            verify=self._ssl or True, limits=_limits(size), proxy=proxy
        )

    def _new_client(self) -> httpx.AsyncClient:
        try:
            return httpx.AsyncClient(
                verify=self._ssl or True,
                headers={"user-agent": _USER_AGENT},
                timeout=phase_limits(_LIMIT),  # each request brings its own
                limits=_limits(self.max_connections),
            )
        except (ImportError, ValueError, httpx.InvalidURL) as error:
            raise ConfigurationError(
                "the proxy that the environment names (HTTP_PROXY, HTTPS_PROXY, "
                f"ALL_PROXY) cannot be used: {error}",
            ) from error

    async def aclose(self, patience: float) -> None:
        """Close what belongs to the running loop; forget what was elsewhere."""
        self.is_closed = True
        here = running_loop()
        for loop, session in list(self._sessions.items()):
            if loop is here:
                await session.aclose(patience)
            elif isinstance(loop, asyncio.AbstractEventLoop) and loop.is_running():
                logger.warning(
                    "aclose() was called in another event loop than some "
                    "connections were opened in: they end with that loop",
                )
        self._sessions.clear()


def _require_library(library: object, http_client: object) -> None:
    if library not in get_args(Library):
        allowed = " or ".join(map(repr, get_args(Library)))
        raise ConfigurationError(f"transport: given {library!r}; allowed: {allowed}")
    if library == "httpx":
        return
    if http_client is not None:
        raise ConfigurationError(
            f"transport: given {library!r} beside http_client; allowed: one of the "
            "two, for an http_client brings a transport of its own",
        )
    if find_spec("aiohttp") is None:
        raise ConfigurationError(
            f"transport: given {library!r}, which is not installed: "
            "pip install 'kling_async[aiohttp]'",
        )


def _limits(most: int) -> httpx.Limits:
    return httpx.Limits(
        max_connections=most,
        max_keepalive_connections=most,
        keepalive_expiry=_KEEPALIVE_EXPIRY,
    )


def _require_async(http_client: object) -> None:
    """Refuse `httpx.Client`, which would send a create and then fail on `await`."""
    if not isinstance(http_client, httpx.AsyncClient):
        raise ConfigurationError(
            f"http_client: given {http_client!r}; allowed: an httpx.AsyncClient",
        )

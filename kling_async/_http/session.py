"""A client's connections: one limiter and set of tasks for each event loop.

Sockets, locks and tasks belong to the loop they were made in. A client that is
used from a second loop gets a second set; nothing is ever carried across.
"""

from __future__ import annotations

import asyncio
import ssl
import weakref
from collections import deque
from collections.abc import AsyncGenerator
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from types import TracebackType
from typing import Literal, Self, TypeAlias, get_args

import anyio
import anyio.lowlevel
import httpx
from attrs import define, field

from kling_async._checks import require_count
from kling_async._config import __version__
from kling_async._errors import ClientClosedError, ConfigurationError
from kling_async._hooks import logger
from kling_async._http.environment import create_ssl_context
from kling_async._http.library import HTTPLibrary, is_async_client, library_named
from kling_async._http.pool import ProxyRoutingTransport, close_line, open_transport
from kling_async._http.sender import ClientSender, Sender, TransportSender, phase_limits
from kling_async._runtime.limiter import Limiter
from kling_async._runtime.loop import (
    Bound,
    Loop,
    Wakeup,
    loop_here,
    running_loop,
    wake,
)
from kling_async._runtime.tasks import CLOSED, ClientTasks, at_loop_end, is_in_job

# Below the 5 s after which common servers (uvicorn, Node.js) drop an idle
# connection: a create must not meet one that is just being closed.
_KEEPALIVE_EXPIRY = 4.0

_LIMIT = 60.0

# So many watches begin in one round of the event loop: some ten milliseconds.
_TURNS = 200

_USER_AGENT = f"kling_async/{__version__}"

Library = Literal["httpx", "httpx2", "aiohttp"]


@define(eq=False, repr=False)
class Session:
    """What one client has open in one event loop.

    Attributes:
        http: The client for API calls.
        files: The client for videos from other hosts; it never sees the key.
        loop: The event loop.
        limiter: When an exchange may begin, and on which connection.
        tasks: The client's tasks in this loop.
        closing: Closes `http` and `files`, at the latest when the loop ends;
            None where they belong to the user.
    """

    http: Sender
    files: httpx.AsyncClient
    loop: Loop
    limiter: Limiter
    tasks: ClientTasks = field(factory=ClientTasks)
    closing: AsyncGenerator[None, None] | None = None
    _exchanges: dict[Exchange, None] = field(factory=dict["Exchange", None], init=False)
    _left: Wakeup | None = field(default=None, init=False)
    _turns: int = field(default=0, init=False)
    _queue: deque[Wakeup] = field(factory=deque[Wakeup], init=False)

    def begin(self, exchange: Exchange) -> None:
        """Register an exchange, which closing cuts off."""
        self._exchanges[exchange] = None

    def end(self, exchange: Exchange) -> None:
        """Let go of an exchange."""
        del self._exchanges[exchange]
        if self._left is not None:
            wake(self._left)

    def take_turn(self) -> Wakeup | None:
        """Return what to await before a watch begins, if many begin at once.

        It comes in a later round of the event loop, so thousands do not hold that up.
        """
        if not self._turns:
            self.loop.call_at(self.loop.time(), self._begin_round)
        self._turns += 1
        if self._turns <= _TURNS:
            return None
        self._queue.append(wakeup := self.loop.wakeup())
        return wakeup

    def _begin_round(self) -> None:
        self._turns = min(len(self._queue), _TURNS)
        for _ in range(self._turns):
            wake(self._queue.popleft())
        if self._turns:
            self.loop.call_at(self.loop.time(), self._begin_round)

    async def sleep(self, seconds: float) -> None:
        """Sleep, unless the client is closed meanwhile.

        Raises:
            ClientClosedError: It was.
        """
        wakeup = self.loop.wakeup()
        end = partial(wake, wakeup)
        self.tasks.listeners[end] = None
        timer = self.loop.call_at(self.loop.time() + seconds, end)
        try:
            await anyio.lowlevel.checkpoint()
            if not self.limiter.is_closed:
                await wakeup
        finally:
            timer.cancel()
            del self.tasks.listeners[end]
        if self.limiter.is_closed:
            raise ClientClosedError(CLOSED)

    async def aclose(self, patience: float) -> None:
        """End the tasks, then close the sockets."""
        closing, self.closing = self.closing, None
        self.limiter.close()
        here = self.loop.task()
        others = [
            it for it in self._exchanges if it.task is not here and not it.is_in_job
        ]
        for exchange in others:
            exchange.bound.cut()
        try:
            await self.tasks.aclose(patience)
            while any(it in self._exchanges for it in others):
                self._left = self.loop.wakeup()
                await self._left
        finally:
            self.limiter.stop()
            if closing is not None:
                await closing.aclose()


@define(eq=False, repr=False)
class Exchange:
    """A block that ends by its deadline, or when the client is closed.

    Attributes:
        session: Its session.
        deadline: When it ends at the latest, on the loop's clock.
        is_in_job: Whether it is part of a job, for which closing the client waits.
        task: The task that it is part of.
        bound: Ends it, and knows whether that was before its end.
    """

    session: Session
    deadline: float
    is_in_job: bool = field(factory=is_in_job, init=False)
    task: object = field(default=None, init=False)
    bound: Bound = field(init=False)

    def __enter__(self) -> Self:
        self.task = self.session.loop.task()
        self.bound = self.session.loop.bound(self.deadline)
        self.bound.__enter__()
        self.session.begin(self)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        self.session.end(self)
        return self.bound.__exit__(exc_type, exc, traceback)


@define(eq=False, repr=False)
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
    _sessions: weakref.WeakSet[Session] = field(factory=weakref.WeakSet[Session])

    def __attrs_post_init__(self) -> None:
        require_count("max_connections", self.max_connections)
        _require_library(self.library, self.http_client)
        if self.http_client is not None:
            _require_async(self.http_client)
            return
        if self.library == "aiohttp":  # which an event loop would have to wait for
            import_module("kling_async._http.aiohttp")
        self._ssl = create_ssl_context(library_named(self.library))

    def current_session(self) -> Session:
        """Give the session of the running event loop.

        Raises:
            ClientClosedError: The client was closed.
            ConfigurationError: The user's own httpx client is in use elsewhere.
        """
        if self.is_closed or (self.http_client and self.http_client.is_closed):
            raise ClientClosedError(CLOSED)
        loop = running_loop()
        known = _sessions_of(loop)
        session = known.get(self)
        if session is None:
            session = known[self] = self._open(loop)
            self._sessions.add(session)
        return session

    def _open(self, loop: object) -> Session:
        seam = loop_here()
        limiter = Limiter(seam, self.max_connections)
        if self.http_client is None:
            return self._open_own(loop, seam, limiter)
        if self._home is not None and self._home() is not loop:
            raise ConfigurationError(
                "this AsyncKling was made with http_client=... and is used from a "
                "second event loop; an httpx client belongs to one loop. Leave "
                "http_client out, or make one AsyncKling for each loop",
            )
        self._home = weakref.ref(loop)
        return Session(ClientSender(self.http_client), self.http_client, seam, limiter)

    def _open_own(self, loop: object, seam: Loop, limiter: Limiter) -> Session:
        if self.library == "aiohttp" and not isinstance(
            loop, asyncio.AbstractEventLoop
        ):
            raise ConfigurationError(
                "transport='aiohttp' runs on asyncio alone; leave it out on trio"
            )
        library = library_named(self.library)
        tls = self._ssl or create_ssl_context(library)
        files = self._new_client(library, tls)
        http = self._new_sender(library, tls)

        async def close() -> None:
            with anyio.CancelScope(shield=True):
                for line in limiter.take_connections():
                    await close_line(line)
                await http.aclose()
                await files.aclose()

        return Session(http, files, seam, limiter, closing=at_loop_end(close))

    def _new_sender(self, library: HTTPLibrary, tls: ssl.SSLContext) -> Sender:
        if self.library == "aiohttp":
            from kling_async._http import aiohttp as _aiohttp

            return _aiohttp.open_sender(_USER_AGENT, _limits(self.max_connections), tls)
        open_route = partial(open_transport, library, tls, _KEEPALIVE_EXPIRY)
        return TransportSender(ProxyRoutingTransport(open_route), library, _USER_AGENT)

    def _new_client(
        self, library: HTTPLibrary, tls: ssl.SSLContext
    ) -> httpx.AsyncClient:
        limits = _limits(self.max_connections)

        def open_route(proxy: str | None) -> httpx.AsyncBaseTransport:
            return library.AsyncHTTPTransport(verify=tls, limits=limits, proxy=proxy)

        return library.AsyncClient(
            transport=ProxyRoutingTransport(open_route),
            headers={"user-agent": _USER_AGENT},
            timeout=phase_limits(_LIMIT),  # each request has its own
            trust_env=False,  # our transport chooses the proxy
        )

    async def aclose(self, patience: float) -> None:
        """Close the session of the running loop; forget those of other loops."""
        self.is_closed = True
        here = _sessions_of(running_loop()).pop(self, None)
        for session in list(self._sessions):
            if session is here:
                await session.aclose(patience)
            elif session.loop.is_running():
                logger.warning(
                    "aclose() was called in another event loop than some "
                    "connections were opened in: they end with that loop",
                )
        self._sessions.clear()


_SESSIONS = "_kling_async_sessions"

_Sessions: TypeAlias = "weakref.WeakKeyDictionary[Connections, Session]"

_of_other_loops: weakref.WeakKeyDictionary[object, _Sessions] = (
    weakref.WeakKeyDictionary()
)


def _sessions_of(loop: object) -> _Sessions:
    """Give the sessions in an event loop: it has them, and they go with it.

    A mapping of ours would keep the loop, which open sockets know, for ever.
    """
    if not isinstance(loop, asyncio.AbstractEventLoop):
        return _of_other_loops.setdefault(loop, weakref.WeakKeyDictionary())
    own: dict[str, _Sessions] = vars(loop)
    if _SESSIONS not in own:
        own[_SESSIONS] = weakref.WeakKeyDictionary()
    return own[_SESSIONS]


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
    if find_spec(str(library)) is None:
        raise ConfigurationError(
            f"transport: given {library!r}, which is not installed: "
            f"pip install 'kling_async[{library}]'",
        )


def _limits(most: int) -> httpx.Limits:
    return httpx.Limits(
        max_connections=most,
        max_keepalive_connections=most,
        keepalive_expiry=_KEEPALIVE_EXPIRY,
    )


def _require_async(http_client: object) -> None:
    """Refuse `httpx.Client`, which would send a create and then fail on `await`."""
    if not is_async_client(http_client):
        raise ConfigurationError(
            f"http_client: given {http_client!r}; allowed: an httpx.AsyncClient or "
            "an httpx2.AsyncClient",
        )

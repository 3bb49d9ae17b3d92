"""`Emulator`: the parts of the stand-in server put together, with its settings.

Holds no logic of its own but the check of what it is given.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Sequence
from types import TracebackType
from typing import Self

from starlette.types import ASGIApp

from kling_async._errors import ConfigurationError
from kling_async.emulator._account import AccountPages
from kling_async.emulator._app import build_app
from kling_async.emulator._clock import Clock
from kling_async.emulator._faults import Fault, Faults
from kling_async.emulator._generations import Generations
from kling_async.emulator._ledger import Account
from kling_async.emulator._listener import Listener
from kling_async.emulator._log import RequestLog
from kling_async.emulator._models import ModelPages
from kling_async.emulator._page import Page
from kling_async.emulator._settings import LEAST, are_keys, is_number, is_whole, require
from kling_async.emulator._shelf import Shelf
from kling_async.emulator._studio import ChargeRecord, CreateRecord, Studio
from kling_async.emulator._traffic import RequestRecord, Traffic

_PLENTY_OF_CREDITS = 2e12  # a million USD
_LAST_PORT = 65535
_SIZES = (64, 4096)


class Emulator:
    """The vendor's API on this machine: same wire, real videos, no bill.

    Over a socket (asyncio only), until the block ends::

        async with Emulator(speed=60) as emulator:
            kling = AsyncKling("any-key", base_url=emulator.base_url)

    Without a socket, on any event loop, nothing to start or stop::

        transport = httpx.ASGITransport(app=Emulator().app)
        client = httpx.AsyncClient(transport=transport, base_url="http://kling")

    A generation is queued for some seconds, then takes as long as the vendor
    documents for its model (give or take 12 %), all divided by `speed`, on the
    clock of the event loop. Then its video is there: an H.264 MP4 of the length
    that was asked for, a slow zoom into the image if that came as a data URI, else
    a title card with the prompt. Nothing is ever fetched from the internet.

    Args:
        speed: How many times faster than the vendor; 1 is real time, 1e6 at once.
        seed: What chance starts from. The n-th create that is accepted has the
            same id, duration and outcome for the same seed.
        host: The address to listen on.
        port: The port to listen on; 0 for any that is free.
        api_keys: The keys that are taken; None for any that is not empty.
        credits: What the account starts with; 2,000,000 are 1 USD. A create that
            the rest cannot pay for is refused; a failed generation costs nothing.
        failure_rate: The share of generations that end with ``error``, 0 to 1.
        log_delay: How many seconds a create takes to appear in the request log,
            ``GET /v2/logs``; infinite for never. Not divided by `speed`.
        request_log: Whether there is a request log; without one its path is a 404.
        faults: What goes wrong from the start; `faults` adds and removes more.
        size: The videos' longer side in pixels, 64 to 4096. Five seconds take
            about 0.2 s of CPU time at 320, 2 s at 1280.

    Raises:
        ConfigurationError: One of them makes no sense.
    """

    def __init__(
        self,
        *,
        speed: float = 60,
        seed: int = 0,
        host: str = "127.0.0.1",
        port: int = 0,
        api_keys: Collection[str] | None = None,
        credits: float = _PLENTY_OF_CREDITS,  # noqa: A002 (the API's own word)
        failure_rate: float = 0.0,
        log_delay: float = 0.0,
        request_log: bool = True,
        faults: Iterable[Fault] = (),
        size: int = 320,
    ) -> None:
        require("speed", speed, "finite, above 0", fits=is_number(speed, LEAST))
        require("credits", credits, "finite, at least 0", fits=is_number(credits))
        is_rate = is_number(failure_rate, 0, 1)
        require("failure_rate", failure_rate, "from 0 to 1", fits=is_rate)
        require("port", port, "0 to 65535", fits=is_whole(port, 0, _LAST_PORT))
        require("size", size, "64 to 4096 (pixels)", fits=is_whole(size, *_SIZES))
        is_delay = is_number(log_delay, 0, math.inf)
        require("log_delay", log_delay, "at least 0 (seconds)", fits=is_delay)
        fit = are_keys(api_keys)
        require("api_keys", "***", "texts in a collection, or None", fits=fit)
        self._host, self._port = host, port
        self._listener: Listener | None = None
        self._shelf = Shelf(size)
        self._traffic = Traffic(random.Random(f"{seed}/requests"))  # noqa: S311 (no secret)
        self._clock = Clock()
        self._faults = Faults(seed, self._clock.now)
        for fault in faults:
            self._faults.add(fault)
        self._studio = Studio(
            seed=seed,
            speed=speed,
            failure_rate=failure_rate,
            account=Account.opened(credits, at=self._clock.now()),
        )
        self._app = self._build(RequestLog(log_delay), api_keys, has_log=request_log)

    def _build(
        self, log: RequestLog, api_keys: Collection[str] | None, *, has_log: bool
    ) -> ASGIApp:
        studio, clock = self._studio, self._clock
        return build_app(
            traffic=self._traffic,
            faults=self._faults,
            api_keys=None if api_keys is None else frozenset(api_keys),
            generations=Generations(
                studio=studio,
                shelf=self._shelf,
                log=log,
                clock=clock,
                traffic=self._traffic,
            ),
            account=AccountPages(studio=studio, log=log, clock=clock),
            models=ModelPages(studio=studio, clock=clock),
            page=Page(studio=studio, clock=clock),
            has_log=has_log,
        )

    @property
    def app(self) -> ASGIApp:
        """The ASGI app, to be used with or without a server."""
        return self._app

    @property
    def base_url(self) -> str:
        """Where it listens, such as ``http://127.0.0.1:8765``.

        Raises:
            ConfigurationError: It does not listen.
        """
        if self._listener is None:
            raise ConfigurationError(
                "the emulator listens only inside `async with Emulator() as emulator:`"
            )
        return self._listener.url

    @property
    def faults(self) -> Faults:
        """What goes wrong: rules to add, count and remove, while it runs."""
        return self._faults

    @property
    def requests(self) -> Sequence[RequestRecord]:
        """Every request that was dealt with, in order."""
        return self._traffic.records

    @property
    def creates(self) -> Sequence[CreateRecord]:
        """Every create that was accepted, in order: what the vendor would bill."""
        return self._studio.creates

    @property
    def charges(self) -> Sequence[ChargeRecord]:
        """Every generation that was completed and paid for by now, in order."""
        self._studio.settle(self._clock.now())
        return self._studio.charges

    @property
    def balance(self) -> float:
        """The credits that are not spent by now; 2,000,000 are 1 USD."""
        self._studio.settle(self._clock.now())
        return self._studio.account.balance

    @property
    def videos_rendered(self) -> int:
        """How many videos were rendered; the same input is rendered once."""
        return self._shelf.rendered

    async def __aenter__(self) -> Self:
        if self._listener is not None:
            raise ConfigurationError("the emulator is listening already; make another")
        self._listener = await Listener.open(
            self._app,
            host=self._host,
            port=self._port,
            hang_up=self._traffic.hang_up,
        )
        self._shelf.in_threads = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        listener, self._listener = self._listener, None
        try:
            if listener is not None:
                await listener.aclose()
        finally:
            self._shelf.in_threads = False
            self._shelf.clear()

    def __repr__(self) -> str:
        where = self._listener.url if self._listener else "not listening"
        return f"<Emulator {where}, {len(self.creates)} generations>"

"""`Emulator`: assembles the parts of the emulator, with its settings.

Has no logic of its own.
"""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from starlette.types import ASGIApp

from kling_async._billing.account import forget_server
from kling_async._checks import LEAST, is_number, require
from kling_async._errors import ConfigurationError
from kling_async._requests.catalogue import Catalogue, catalogue_in_use
from kling_async.emulator._account import AccountPages, RequestLog
from kling_async.emulator._app import StatusPage, build_app
from kling_async.emulator._faults import EmulatorSettings, Fault, Faults
from kling_async.emulator._generations import Generations
from kling_async.emulator._ledger import Ledger
from kling_async.emulator._models import ModelPages
from kling_async.emulator._protocol import Auth, Clock
from kling_async.emulator._server import Guard, Listener
from kling_async.emulator._state import StateFile
from kling_async.emulator._store import ChargeRecord, CreateRecord, GenerationStore
from kling_async.emulator._traffic import RequestRecord, Traffic
from kling_async.emulator._video import VideoCache

_PLENTY_OF_CREDITS = 2e12  # a million USD


class Emulator:
    """The vendor's API on this machine: same protocol, real videos, no bill.

    Over a socket (asyncio only), until the block ends::

        async with Emulator(speed=60) as emulator:
            kling = AsyncKling("any-key", base_url=emulator.base_url)

    Without a socket, on any event loop, nothing to start or stop::

        transport = httpx.ASGITransport(app=Emulator().app)
        client = httpx.AsyncClient(transport=transport, base_url="https://kling")

    A generation is queued for 3 to 30 seconds, then takes as long as the vendor
    documents for its model (give or take 12 %), all divided by `speed`, on the clock of
    the event loop. Its video is an H.264 MP4 of the requested length: a slow zoom into
    each image that was sent as a data URI or is served by this machine, else a title
    card with the prompt. It fetches nothing from the internet.

    Args:
        speed: How many times faster than the vendor; 1 is real time, 1e6 at once.
        seed: The seed of all random choices. For the same seed the n-th accepted
            create has the same id, duration and outcome.
        host: The address to listen on; by default only this machine reaches it.
            Requests with a foreign ``Host`` header are refused.
        port: The port to listen on; 0 for any free one.
        api_keys: The valid keys; None accepts any that is not empty.
        credits: The account's first balance; 2,000,000 are 1 USD. A create that
            costs more than is left is refused; a failed generation costs nothing.
        failure_rate: The share of generations that end with ``error``, 0 to 1.
        rate_limit: How many requests a minute each key may make; more get a 429
            with ``Retry-After``. None for any number.
        max_running: How many generations may be unfinished at once; a further
            create gets a 429. None for any number.
        expire_after: For how many seconds a finished video is served; afterwards
            its link answers 403. None for ever. Not divided by `speed`.
        log_delay: How many seconds a create takes to appear in the request log,
            ``GET /v2/logs``; infinite for never. Not divided by `speed`.
        request_log: Whether there is a request log; without one its path answers
            404.
        state: A file to keep generations, account and log in; the next emulator
            with this file continues from it, with its account. None keeps nothing.
        faults: The faults at the start; `faults` adds and removes more.
        size: The videos' longer side in pixels, 64 to 4096. Five seconds of video
            take about 0.12 s of CPU time at 320, 1.7 s at 1280.
        strict: Whether a field that the model does not take is refused. By default
            the emulator drops it, as the vendor does, and says so on its page and in
            its log.
        nulls: Whether answers contain absent values as null; by default they are
            left out, as by the vendor.
        names: Other host names by which it may be reached: a container's name, say.
        catalogue: The models; by default those that this version knows.

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
        rate_limit: int | None = None,
        max_running: int | None = None,
        expire_after: float | None = None,
        log_delay: float = 0.0,
        request_log: bool = True,
        state: str | Path | None = None,
        faults: Iterable[Fault] = (),
        size: int = 320,
        strict: bool = False,
        nulls: bool = False,
        names: Collection[str] = (),
        catalogue: Catalogue | None = None,
    ) -> None:
        self._settings = EmulatorSettings(
            speed=speed,
            seed=seed,
            host=host,
            port=port,
            api_keys=api_keys,
            credits=credits,
            failure_rate=failure_rate,
            rate_limit=rate_limit,
            max_running=max_running,
            expire_after=expire_after,
            log_delay=log_delay,
            request_log=request_log,
            state=None if state is None else Path(state),
            size=size,
            strict=strict,
            nulls=nulls,
            names=names,
        )
        self._catalogue = catalogue or catalogue_in_use()
        self._listener: Listener | None = None
        self._clock = Clock()
        self._videos = VideoCache(size)
        self._log = RequestLog(log_delay)
        self._store = self._open_store()
        self._state = self._open_state()
        # Another seed for each process that continues from a state file.
        chance = random.Random(f"{seed}/requests/{len(self._log.rows)}")  # noqa: S311 (no secret)
        self._traffic = Traffic(chance)
        self._faults = Faults(seed, self._clock.now)
        for fault in faults:
            self._faults.add(fault)
        self._account = AccountPages(
            store=self._store, log=self._log, clock=self._clock
        )
        self._app = self._build()

    def _open_store(self) -> GenerationStore:
        given = self._settings
        return GenerationStore(
            seed=given.seed,
            speed=given.speed,
            failure_rate=given.failure_rate,
            max_running=given.max_running,
            nulls=given.nulls,
            account=Ledger.open(given.credits, at=self._clock.now()),
        )

    def _open_state(self) -> StateFile | None:
        path = self._settings.state
        if path is None:
            return None
        state = StateFile(path, self._store, self._log, self._clock)
        state.load()
        return state

    def _build(self) -> ASGIApp:
        given, store, clock = self._settings, self._store, self._clock
        end = given.expire_after
        keys = None if given.api_keys is None else frozenset(given.api_keys)
        return build_app(
            traffic=self._traffic,
            faults=self._faults,
            auth=Auth(clock, keys, given.rate_limit),
            generations=Generations(
                store=store,
                videos=self._videos,
                log=self._log,
                clock=clock,
                traffic=self._traffic,
                state=self._state,
                expire_after=math.inf if end is None else end,
                is_strict=given.strict,
            ),
            account=self._account,
            models=ModelPages(store=store, clock=clock),
            page=StatusPage(store=store, clock=clock),
            has_log=given.request_log,
            catalogue=self._catalogue,
        )

    @property
    def app(self) -> ASGIApp:
        """The ASGI app, for use with or without a server."""
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
        """The active faults, to add, count and remove while it runs."""
        return self._faults

    @property
    def requests(self) -> Sequence[RequestRecord]:
        """The requests so far, in order: at least the last 50,000."""
        return self._traffic.records

    @property
    def creates(self) -> Sequence[CreateRecord]:
        """Every accepted create, in order: what the vendor would bill."""
        return self._store.creates

    @property
    def charges(self) -> Sequence[ChargeRecord]:
        """Every generation that was completed and charged by now, in order."""
        self._store.settle(self._clock.now())
        return self._store.charges

    @property
    def balance(self) -> float:
        """The credits left; 2,000,000 are 1 USD."""
        self._store.settle(self._clock.now())
        return self._store.account.balance

    def top_up(self, credits: float) -> None:  # noqa: A002 (the API's own word)
        """Add credits to the account, now; 2,000,000 are 1 USD.

        Raises:
            ConfigurationError: They are not a number above 0.
        """
        require("credits", credits, "finite, above 0", fits=is_number(credits, LEAST))
        self._account.top_up(credits)

    @property
    def videos_rendered(self) -> int:
        """How many videos were rendered; the same input is rendered once."""
        return self._videos.rendered

    async def __aenter__(self) -> Self:
        if self._listener is not None:
            raise ConfigurationError("the emulator is listening already; make another")
        own_names = (self._settings.host, *self._settings.names)
        self._listener = await Listener.open(
            Guard(self._app, frozenset(map(str.lower, own_names))),
            host=self._settings.host,
            port=self._settings.port,
            hang_up=self._traffic.hang_up,
        )
        forget_server(self.base_url)
        self._work_in_threads(is_right=True)
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
            self._work_in_threads(is_right=False)
            self._videos.clear()
            if self._state is not None:
                self._state.save_now()

    def _work_in_threads(self, *, is_right: bool) -> None:
        self._videos.in_threads = is_right
        if self._state is not None:
            self._state.in_threads = is_right

    def __repr__(self) -> str:
        where = self._listener.url if self._listener else "not listening"
        return f"<Emulator {where}, {len(self.creates)} generations>"

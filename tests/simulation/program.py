"""What users do: processes that create, wait, download, leave, close, stall and die."""

from __future__ import annotations

import asyncio
import contextvars
import datetime as dt
import itertools
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Mapping
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

import detangle
import httpx
from attrs import define, field
from machine import WALL_CLOCK, tls
from world import BASE_URL, MODEL, STORE, USD_PER_SECOND, Vendor, World, seconds_of

from kling_async import (
    AsyncKling,
    Budget,
    Exponential,
    Fixed,
    Generation,
    Hooks,
    KlingError,
    Learned,
    RetryPolicy,
    SubmissionUncertainError,
    Video,
)
from kling_async._polling.schedules import Polling

T = TypeVar("T")

BAD_WEATHER = 120.0  # seconds; then all goes well

LEFT = "left"
"""What became of a call whose caller was cancelled, or whose process died."""


@define(eq=False, kw_only=True)
class Act:
    """What a process began, and what became of it.

    Attributes:
        process: Whose it is.
        timeout: How long it would wait; 0 if for no end.
        began: When, on the loop's clock.
        ended: Likewise.
        outcome: What it got: a generation, an error, or `LEFT`.
    """

    process: Process
    timeout: float = 0.0
    began: float = field(factory=detangle.now)
    ended: float = math.inf
    outcome: object = None


@define(eq=False, kw_only=True)
class Call(Act):
    """One video that a program asked for.

    Attributes:
        number: Which; its prompt says so.
        body: What for.
        client_request_id: Its own id for it, if it gave one.
        batch: Of which batch it is.
        asked_at: When, by the process's wall clock.
    """

    number: int
    body: Mapping[str, object]
    client_request_id: str | None
    batch: int | None
    asked_at: dt.datetime


@define(eq=False, kw_only=True)
class Wait(Act):
    """One wait for a generation, or a watch of it."""

    generation_id: str


@define(eq=False, kw_only=True)
class Fetch(Act):
    """One download."""

    path: Path
    url_path: str


@define(eq=False, kw_only=True)
class Search(Act):
    """One `reconcile`."""

    client_request_id: str


PROCESS: contextvars.ContextVar[Process] = contextvars.ContextVar("PROCESS")


class _Log(logging.Handler):
    """Gives each line to the process that wrote it, while that lives."""

    def emit(self, record: logging.LogRecord) -> None:
        process = PROCESS.get(None)
        is_said_once = record.module == "classes"  # of a model that nobody knows
        if process is not None and not process.is_dead and not is_said_once:
            process.log.append(record.getMessage())


logger = logging.getLogger("kling_async")


@contextmanager
def listening() -> Generator[None]:
    """Take in what the library logs."""
    handler, propagates, level = _Log(), logger.propagate, logger.level
    logger.addHandler(handler)
    logger.propagate = False
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.propagate = propagates
        logger.setLevel(level)


@define(eq=False)
class Process:
    """A process of a user, with one client.

    Attributes:
        host: Its name in the network.
        run: What it is part of.
        timeout: Of one exchange.
        max_connections: Of its client.
        attempts: Of each of its calls.
        log: What it wrote to its log.
        is_dead: Whether it was killed.
        closed_at: When its client was closed, on the loop's clock.
        closed_in: How long that took.
        tasks: What it does.
    """

    host: str
    run: Run
    timeout: float
    max_connections: int
    attempts: int
    log: list[str] = field(factory=list[str])
    is_dead: bool = False
    closed_at: float = math.inf
    closed_in: float = 0.0
    tasks: list[asyncio.Task[None]] = field(factory=list[asyncio.Task[None]])
    kling: AsyncKling = field(init=False)
    _lent: list[httpx.AsyncClient] = field(factory=list[httpx.AsyncClient])

    @property
    def is_lent(self) -> bool:
        """Whether the client goes over one of the user's own."""
        return bool(self._lent)

    @classmethod
    def draw(cls, run: Run) -> Process:
        """Draw how it sets its client up."""
        host = f"app{len(run.processes)}"
        timeout = detangle.choice([60.0, 15.0])
        connections = detangle.choice([100, 1, 2, 4])
        process = cls(host, run, timeout, connections, detangle.choice([5, 2]))
        run.processes.append(process)
        return process

    def start(self, work: Callable[[], Awaitable[object]], points: int = 0) -> None:
        """Do work in a task that may be cancelled at one of so many of its steps."""

        async def run() -> None:
            PROCESS.set(self)
            # Noted where it arose.
            with suppress(KlingError, asyncio.CancelledError, OverflowError):
                await work()

        task = detangle.spawn(run(), host=self.host)
        self.tasks.append(task)
        if points:
            detangle.inject_cancellation(task, points)

    async def open(self) -> None:
        """Make its client."""
        pollings: list[Polling] = [Fixed(2.0), Learned(), Exponential(0.5), Fixed(7.0)]
        searches = detangle.choice(["reconcile", "reconcile", "reconcile", "raise"])
        retry = RetryPolicy(attempts=self.attempts, uncertain=searches)  # type: ignore[arg-type]  # one of the two
        self.kling = AsyncKling(
            self.run.key,
            base_url=BASE_URL,
            allow_plain_http=True,
            timeout=self.timeout,
            wait_timeout=300.0,
            retry=retry,
            polling=detangle.choice(pollings),
            max_connections=self.max_connections,
            http_client=self._lend(),
            hooks=Hooks(),
        )

    def _lend(self) -> httpx.AsyncClient | None:
        """Now and then a client of the user's own, with a life of its own."""
        kind = detangle.choice(["own", "own", "own", "own", "hook", "foreign"])
        if kind == "own":
            return None
        telemetry = httpx.AsyncClient(verify=tls(), trust_env=False)
        self._lent.append(telemetry)

        async def push(response: httpx.Response) -> None:
            if not self.run.world.weather.is_fair and detangle.flip(0.3):
                self.run.has_failed_hook = True
                is_price = response.request.url.path == "/v1/models"
                self.run.vendor.has_priced_badly |= is_price
                await telemetry.post("http://198.51.100.7/metrics")

        hooks = {"response": [push]} if kind == "hook" else {}
        transport = _Foreign(verify=tls()) if kind == "foreign" else None
        lent = httpx.AsyncClient(
            verify=tls(), trust_env=False, event_hooks=hooks, transport=transport
        )
        self._lent.append(lent)
        return lent

    async def close(self) -> None:
        """Close its client."""
        self.closed_at = min(self.closed_at, detangle.now())
        began = detangle.now()
        await self.kling.aclose()
        self.closed_in = max(self.closed_in, detangle.now() - began)
        for lent in self._lent:
            await lent.aclose()

    def die(self) -> None:
        """Be killed: nothing that it does from now on is seen anywhere."""
        self.is_dead = True
        detangle.network().crash(self.host)


class _Foreign(httpx.AsyncHTTPTransport):
    """Calls every lost connection one that was never made, as some libraries do."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        try:
            return await super().handle_async_request(request)
        except (httpx.ReadError, httpx.RemoteProtocolError) as error:
            raise httpx.ConnectError(str(error), request=request) from error


_numbers = itertools.count()


@define(eq=False)
class Run:
    """One run, and all that is noted of it.

    Attributes:
        folder: Where videos go.
        world: What is around.
        key: Of the account.
        processes: Those there were, one after another.
        acts: What they did, in order.
        budgets: What each batch may spend, in USD.
        stood_still: How long all of it was paused, in seconds.
        is_disturbed: Whether the network failed, or time jumped.
        has_failed_hook: Whether a hook of the user's own HTTP client failed.
        last_looks: What came of using the client once all was well again.
        left_over: What was still there when the client was closed.
    """

    folder: Path
    world: World
    # Its own: what one key's clients have in common outlives them.
    key: str = field(factory=lambda: f"sk-simulated-{next(_numbers):010}")
    processes: list[Process] = field(factory=list[Process])
    acts: list[Act] = field(factory=list[Act])
    budgets: list[float | None] = field(factory=list[float | None])
    stood_still: float = 0.0
    is_disturbed: bool = False
    has_failed_hook: bool = False
    last_looks: list[tuple[float, object]] = field(factory=list[tuple[float, object]])
    left_over: list[str] = field(factory=list[str])

    @property
    def vendor(self) -> Vendor:
        """Give the vendor."""
        return self.world.vendor

    def all(self, kind: type[T]) -> list[T]:
        """Give the acts of a kind."""
        return [it for it in self.acts if isinstance(it, kind)]

    def new_call(
        self,
        process: Process,
        *,
        batch: int | None = None,
        client_request_id: str | None = None,
        timeout: float = 0.0,
    ) -> Call:
        """Note a call, before it is made."""
        number = len(self.all(Call))
        call = Call(
            number=number,
            process=process,
            body=_draw_body(number),
            client_request_id=client_request_id,
            batch=batch,
            asked_at=WALL_CLOCK.now(dt.UTC),
            timeout=timeout,
        )
        self.acts.append(call)
        return call


def _draw_body(number: int) -> Mapping[str, object]:
    prompt = f"A paper boat, call {number}."
    if detangle.flip(0.5):
        length = detangle.choice([1, 7, 15])
        shots = [{"prompt": prompt, "duration": length}]
        return {"model": MODEL, "multi_prompt": shots}
    return {"model": MODEL, "prompt": prompt, "duration": detangle.choice([3, 5, 15])}


async def _noting(act: Act, work: Awaitable[T]) -> T:
    """Note what becomes of an act."""
    act.outcome = LEFT
    try:
        result = await work
    except (KlingError, OverflowError) as error:
        _note(act, error)
        raise
    else:
        _note(act, result)
        return result
    finally:
        if not act.process.is_dead:
            act.ended = detangle.now()


def _note(act: Act, outcome: object) -> None:
    if not act.process.is_dead:
        act.outcome = outcome


async def create(process: Process, **options: str) -> Generation:
    """Ask for a video."""
    given = options.get("client_request_id")
    call = process.run.new_call(process, client_request_id=given)
    made = process.kling.create(client_request_id=given, **call.body)  # type: ignore[arg-type]
    return await _noting(call, made)


async def wait(process: Process, what: Generation | str, timeout: float) -> Generation:
    """Wait for one."""
    generation_id = what if isinstance(what, str) else what.id
    noted = Wait(generation_id=generation_id, timeout=timeout, process=process)
    process.run.acts.append(noted)
    return await _noting(noted, process.kling.wait(what, timeout=timeout))


async def search(
    process: Process, client_request_id: str, since: dt.datetime, timeout: float
) -> Generation | None:
    """Look for one."""
    noted = Search(
        client_request_id=client_request_id, process=process, timeout=timeout
    )
    process.run.acts.append(noted)
    found = process.kling.reconcile(client_request_id, since=since, timeout=timeout)
    return await _noting(noted, found)


async def create_and_wait(process: Process) -> None:
    """Create, under an own id or not, wait, perhaps fetch; look if uncertain."""
    number = len(process.run.all(Call))
    options = detangle.choice([{}, {"client_request_id": f"order-{number}"}])
    try:
        made = await create(process, **options)
    except SubmissionUncertainError as error:
        timeout = detangle.choice([60.0, 5.0])
        found = await search(
            process, str(error.client_request_id), error.since, timeout
        )
        if found is None:
            return
        made = found
    late = detangle.choice([0.0, 100.0])
    await asyncio.sleep(late)
    done = await wait(process, made, detangle.choice([120.0, 10.0, 30.0]))
    if done.video is not None:
        await fetch(process, done)


async def fetch(process: Process, done: Generation) -> None:
    """Download a video."""
    number = len(process.run.all(Fetch))
    path = process.run.folder / f"{number}.mp4"
    noted = Fetch(path=path, url_path=f"/{done.id}.mp4", process=process, timeout=200.0)
    process.run.acts.append(noted)
    await _noting(noted, process.kling.download(done, path, timeout=noted.timeout))


async def fetch_many(process: Process) -> None:
    """Download many at once, as if their ids had been kept."""
    done = await wait(process, await create(process), 120.0)
    if done.video is None:
        return

    for number in range(detangle.choice([3, 12])):
        url = f"http://{STORE}/{done.id}-{number}.mp4"  # which nobody else asks for
        other = Generation(id=done.id, status=done.status, video=Video(url=url))
        process.start(partial(_fetch_of_many, process, other))


async def _fetch_of_many(process: Process, other: Generation) -> None:
    number = len(process.run.all(Fetch))
    path = process.run.folder / f"{number}.mp4"
    assert other.video is not None
    url_path = other.video.url.removeprefix(f"http://{STORE}")
    noted = Fetch(path=path, url_path=url_path, process=process, timeout=200.0)
    process.run.acts.append(noted)
    await _noting(noted, process.kling.download(other.video, path, timeout=200.0))


async def try_again(process: Process) -> None:
    """Use an order's id again when the first try fails, as queues of tasks do."""
    order = f"order-again-{len(process.run.all(Call))}"
    for _ in range(6):
        try:
            await create(process, client_request_id=order)
        except SubmissionUncertainError:
            return
        except KlingError:
            await asyncio.sleep(detangle.choice([0.0, 2.0]))
        else:
            return


async def generate(process: Process) -> None:
    """Create and wait in one."""
    timeout = detangle.choice([120.0, 20.0])
    call = process.run.new_call(process, timeout=timeout)
    made = process.kling.generate(timeout=timeout, **call.body)  # type: ignore[arg-type]
    await _noting(call, made)


async def batch(process: Process) -> None:
    """Generate many, perhaps within a budget; perhaps leave or close in the middle."""
    run, number = process.run, len(process.run.budgets)
    usd = detangle.choice([None, 1.7, 3.2])
    run.budgets.append(usd)
    calls: list[Call] = []
    count = detangle.choice([2, 6])
    closes_at = detangle.randint(0, count) if detangle.flip(0.1) else -1
    leaves_at = detangle.randint(1, count) if detangle.flip(0.2) else math.inf

    async def source() -> AsyncIterator[Mapping[str, object]]:
        for index in range(count):
            if index == closes_at:
                run.is_disturbed = True
                await process.close()
            call = run.new_call(process, batch=number, timeout=120.0)
            call.outcome = LEFT
            calls.append(call)
            yield call.body

    outcomes = process.kling.generate_many(
        source(),
        max_in_flight=detangle.choice([32, 2]),
        budget=Budget(usd=usd) if usd is not None else None,
        timeout=120.0,
    )
    came = 0
    try:
        async for outcome in outcomes:
            call = calls[outcome.index]
            _note(call, outcome.error or outcome.generation)
            call.ended = detangle.now()
            came += 1
            if came >= leaves_at:
                break
    finally:
        try:
            await outcomes.aclose()
        finally:
            if not process.is_dead:
                for call in calls:
                    call.ended = min(call.ended, detangle.now())


async def watch_together(process: Process) -> None:
    """Watch one generation twice; one watcher may leave early."""
    made = await create(process)
    process.start(partial(wait, process, made.id, 60.0), points=30)
    await wait(process, made, 120.0)


async def rush(process: Process) -> None:
    """Create many at once."""
    for _ in range(detangle.choice([4, 24])):
        process.start(partial(create, process))


async def ask_oddly(process: Process) -> None:
    """Ask an unknown model for a length that no clock can count."""
    call = process.run.new_call(process)
    body = {**call.body, "model": "klingai/of-tomorrow", "duration": 10**400}
    body.pop("multi_prompt", None)
    body["prompt"] = f"A paper boat, call {call.number}."
    made = process.kling.create(**body)  # type: ignore[arg-type]
    await _noting(call, made)


Action = Callable[[Process], Awaitable[None]]

ACTIONS: tuple[Action, ...] = (
    create_and_wait,
    create_and_wait,
    generate,
    batch,
    watch_together,
    rush,
    try_again,
    try_again,
    fetch_many,
    ask_oddly,
)


def cost_of(call: Call) -> float:
    """What a call's video costs, in USD."""
    return USD_PER_SECOND * seconds_of(call.body)


def recover(process: Process, died: Process) -> None:
    """Look for what the process before had asked for under ids of its own."""
    for call in process.run.all(Call):
        is_unknown = call.process is died and call.outcome in (None, LEFT)
        if is_unknown and call.client_request_id is not None:
            since = call.asked_at
            process.start(partial(search, process, call.client_request_id, since, 60.0))


def start_actions(process: Process, most: int) -> None:
    """Begin some of what users do, of a kind or two, each at a moment of its own."""

    async def later(seconds: float, action: Action) -> None:
        await asyncio.sleep(seconds)
        await action(process)

    kinds = [detangle.choice(ACTIONS) for _ in range(2)]
    for _ in range(detangle.randint(1, most)):
        action = detangle.choice(kinds)
        seconds = detangle.choice([0.0, 0.0, 1.0, 20.0])
        points = detangle.choice([0, 0, 20, 200])
        process.start(partial(later, seconds, action), points)


async def disturb(run: Run) -> None:
    """Let the network fail, time jump, the wall clock be set."""
    kind = detangle.choice(["no", "no", "away", "cut", "stall", "sleep", "clock"])
    if kind == "no":
        return
    run.is_disturbed = True
    await asyncio.sleep(detangle.uniform(0, 60))
    seconds = detangle.choice([2.0, 25.0, 50.0])
    if kind == "away":
        await run.world.be_away(seconds)
    elif kind == "cut":
        net = detangle.network()
        net.partition(
            net.hosts[-1:], [host for host in net.hosts if host[:1].isdigit()]
        )
        await asyncio.sleep(seconds)
        net.heal()
    elif kind == "stall":  # SIGSTOP: all that was due meanwhile is due at once
        seconds = detangle.choice([seconds, 4000.0])
        run.stood_still += seconds
        asyncio.get_running_loop()._now += seconds  # type: ignore[attr-defined]
    else:  # a lid shut while the loop's clock stood still, or somebody set the time
        WALL_CLOCK.skew += detangle.choice([-7200.0, -900.0, 900.0, 7200.0])

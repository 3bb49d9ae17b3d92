"""Every public coroutine, cut short at every point: nothing is lost, torn or left.

A call's caller is cancelled, or its client closed, at the n-th suspension, for each n
until the call ends before; on a socket, on both event loops.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from attrs import define, field
from cancelling import Counted, Strike, counting_the_clients_own
from clients import IMAGE, KEY, MODEL, PROMPT
from jumping_clock import living_tasks
from local_media import image
from shell import serving

from kling_async import (
    AsyncKling,
    Budget,
    ClientClosedError,
    CreatedEvent,
    Fixed,
    Generation,
    Hooks,
    ImageToVideo,
    RetryPolicy,
    SubmissionUncertainError,
    UncertainEvent,
)
from kling_async._runtime.window import SlidingWindow
from kling_async.emulator import Emulator, Fault

PATIENCE = 300.0  # seconds, for what happens in milliseconds
OFTEN = Fixed(0.001)
AT_ONCE = RetryPolicy(initial=0)
PAINTED = image()
BUSY = Fault("status", status=503, times=1)
LOST = Fault("reset", method="POST", accepted=True, times=1)


@pytest.fixture(scope="module")
def emulator() -> Iterator[Emulator]:
    """Run one emulator for all, in a thread of its own, whose log is never shut."""

    def wide(_limit: int, seconds: float) -> SlidingWindow:
        return SlidingWindow(10**9, seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kling_async.emulator._account.SlidingWindow", wide)
        with serving() as running:
            yield running


@pytest.fixture(scope="module", autouse=True)
def _looked_at_once() -> Iterator[None]:  # pyright: ignore[reportUnusedFunction]  # pytest uses it
    """Look into the request log at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kling_async._billing.log_search._SOONEST", 0.001)
        yield
    gc.collect()  # what was left open is told now


# --- the calls


@define(eq=False)
class Stage:
    """Where one call is made.

    Attributes:
        kling: The client, with one connection: a place that is lost is missed.
        finished: A generation that is completed.
        folder: Where its video goes.
        told: The ids of the generations that the caller came to know.
    """

    kling: AsyncKling
    finished: Generation
    folder: Path
    told: set[str] = field(factory=set[str])


async def create(stage: Stage) -> None:
    """Create from a URL."""
    created = await stage.kling.create(model=MODEL, image_url=IMAGE, prompt=PROMPT)
    stage.told.add(created.id)


async def create_from_bytes(stage: Stage) -> None:
    """Create from a picture, which a thread encodes."""
    created = await stage.kling.create(model=MODEL, image_url=PAINTED, prompt=PROMPT)
    stage.told.add(created.id)


REQUEST = ImageToVideo(model=MODEL, image_url=IMAGE, prompt=PROMPT)


async def generate(stage: Stage) -> None:
    """Create and wait."""
    stage.told.add((await stage.kling.generate(REQUEST)).id)


async def generate_many(stage: Stage) -> None:
    """Generate two at a time within a budget."""
    outcomes = stage.kling.generate_many([REQUEST] * 2, budget=Budget(usd=100))
    async for outcome in outcomes:
        if outcome.generation is not None:
            stage.told.add(outcome.generation.id)


async def download(stage: Stage) -> None:
    """Fetch the video."""
    await stage.kling.download(stage.finished, stage.folder / "video.mp4")


async def drained(items: AsyncIterator[object]) -> None:
    """Take all there is."""
    async for _ in items:
        pass


async def look_in_vain(stage: Stage) -> None:
    """Look for what is not there; a busy machine has not read the log in time."""
    with contextlib.suppress(SubmissionUncertainError):
        assert await stage.kling.reconcile("nobodys", timeout=0.02) is None


async def close_at_work(stage: Stage) -> None:
    """Close the client while it creates, polls and fetches."""
    async with anyio.create_task_group() as tasks:
        for work in (create, download, generate):
            tasks.start_soon(until_closed, work, stage)
        for _ in range(5):
            await anyio.lowlevel.checkpoint()
        await stage.kling.aclose()


async def until_closed(
    work: Callable[[Stage], Awaitable[object]], stage: Stage
) -> None:
    """Make a call that may find the client closed."""
    try:
        await work(stage)
    except (ClientClosedError, SubmissionUncertainError) as error:
        if error.generation_id is not None:
            stage.told.add(error.generation_id)


Call = Callable[[Stage], Awaitable[object]]

# What is called, and what goes wrong once at the server meanwhile.
CALLS: Mapping[str, list[tuple[Call, Fault | None]]] = {
    "create": [
        (create, None),
        (create_from_bytes, None),
        (create, Fault("status", status=429, times=1)),
        (create, LOST),
        (create, Fault("cut", method="POST", times=1)),
    ],
    "get": [
        (lambda it: it.kling.get(it.finished.id), None),
        (lambda it: it.kling.get(it.finished.id), BUSY),
    ],
    "watch": [(lambda it: drained(it.kling.watch(it.finished.id)), BUSY)],
    "wait": [(lambda it: it.kling.wait(it.finished.id), Fault("close", times=1))],
    "generate": [(generate, None), (generate, LOST)],
    "generate_many": [(generate_many, None)],
    "download": [(download, Fault("cut", path="files", times=1))],
    "balance": [(lambda it: it.kling.balance(), None)],
    "price": [(lambda it: it.kling.price({"model": MODEL, "duration": 5}), None)],
    "request_log": [
        (lambda it: drained(it.kling.request_log(status="failed")), None),
    ],
    "transactions": [
        (lambda it: drained(it.kling.transactions(direction="TOPUP")), None)
    ],
    "reconcile": [
        (lambda it: it.kling.reconcile(str(it.finished.client_request_id)), None),
        (look_in_vain, None),
    ],
    "diagnose": [(lambda it: it.kling.diagnose(), None)],
    "aclose": [(close_at_work, None)],
}


def public_coroutines() -> list[str]:
    """Name every method of the client that can be awaited or iterated."""
    return [
        name
        for name, method in inspect.getmembers(AsyncKling, inspect.isfunction)
        if not name.startswith("_")
        and (inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method))
    ]


# --- ways to cut a call short


async def leave(stage: Stage, call: Call, strike: Strike) -> None:
    """Cancel the caller as anyio does."""
    with anyio.CancelScope() as caller:
        strike.blow = lambda _: caller.cancel()
        await Counted(call(stage), strike.suspended)


async def cancel(stage: Stage, call: Call, strike: Strike) -> None:
    """Cancel the caller's task as asyncio does, where no shield helps."""
    caller = in_a_task(stage, call, strike)
    strike.blow = lambda _: caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled() or caller.exception() is None


async def cancel_awaking(stage: Stage, call: Call, strike: Strike) -> None:
    """The same, just when what the caller waits for has come."""

    def when_there(waiting: object) -> None:
        if isinstance(waiting, asyncio.Future):
            waiting.add_done_callback(lambda _: caller.cancel())
        else:
            caller.cancel()

    caller = in_a_task(stage, call, strike)
    strike.blow = when_there
    await asyncio.wait([caller])
    assert caller.cancelled() or caller.exception() is None


async def close(stage: Stage, call: Call, strike: Strike) -> None:
    """Close the client; the caller has what it came for, or is told."""
    now = anyio.Event()
    strike.blow = lambda _: now.set()

    async def work(stage: Stage) -> None:
        try:
            await Counted(call(stage), strike.suspended)
        finally:
            now.set()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(until_closed, work, stage)
        await now.wait()
        await stage.kling.aclose()


def in_a_task(stage: Stage, call: Call, strike: Strike) -> asyncio.Task[None]:
    """Make the call in a task of its own."""

    async def work() -> None:
        await Counted(call(stage), strike.suspended)

    return asyncio.create_task(work())


Way = Callable[[Stage, Call, Strike], Awaitable[None]]
WAYS: list[tuple[str, Way]] = [
    ("asyncio", cancel),
    ("asyncio", cancel_awaking),
    ("asyncio", close),
    ("trio", leave),
    *([("asyncio", leave), ("trio", close)] if "KLING_SOAK" in os.environ else []),
]


_NATIVE = (cancel, cancel_awaking)


# --- what holds afterwards


@define(eq=False)
class Seen:
    """What the client tells of its creates.

    Attributes:
        created: The ids of the generations.
        lost: The client request ids of those whose answer was lost for good.
    """

    created: list[str] = field(factory=list[str])
    lost: set[str] = field(factory=set[str])

    def create(self, event: CreatedEvent) -> None:
        """Hear that one was accepted."""
        self.created.append(event.generation.id)

    def uncertainty(self, event: UncertainEvent) -> None:
        """Hear that an answer was lost, or found."""
        change = self.lost.discard if event.outcome == "found" else self.lost.add
        change(event.client_request_id)


@define(eq=False)
class Trial:
    """One call, cut short again and again, each time a suspension later.

    Attributes:
        way: How.
        emulator: Whom the client asks.
        folder: Where videos go.
        log: What the client warns of.
        seen: What it tells of its creates. The server may accept one that was cut
            off while the next one is tried.
        told: The ids of the generations that a caller came to know.
    """

    way: Way
    emulator: Emulator
    folder: Path
    log: pytest.LogCaptureFixture
    seen: Seen = field(factory=Seen)
    told: set[str] = field(factory=set[str])
    _before: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._before = len(self.emulator.creates)

    async def run(self, call: Call, fault: Fault | None, finished: Generation) -> int:
        """Cut it short until it ends before; give how often that could be done."""
        for nth in range(1, 1000):
            self.emulator.faults.clear()
            if fault is not None:
                self.emulator.faults.add(fault)
            strike = Strike(nth)
            with anyio.fail_after(PATIENCE):
                await self._attempt(call, finished, strike)
            if strike.is_missed:
                return nth - 1
        raise AssertionError

    async def _attempt(self, call: Call, finished: Generation, strike: Strike) -> None:
        tasks, seen = await living_tasks(), self.seen
        kling = AsyncKling(
            KEY,
            base_url=self.emulator.base_url,
            max_connections=1,
            polling=OFTEN,
            retry=AT_ONCE,
            hooks=Hooks(on_created=seen.create, on_uncertain=seen.uncertainty),
        )
        stage = Stage(kling, finished, self.folder, self.told)
        # Who is cancelled while awaking is the caller: only its own steps count.
        with counting_the_clients_own(strike, self.way is not cancel_awaking):
            await self.way(stage, call, strike)
        if not kling.is_closed:
            assert (await kling.get(finished.id)).succeeded
        await kling.aclose()
        created = [
            it.generation_id
            for it in self.emulator.creates[self._before :]
            if it.client_request_id not in seen.lost
        ]
        assert sorted(seen.created) == sorted(created)
        # `asyncio.Task.cancel` on `aclose` ends its patience: nothing else does.
        assert not seen.lost or (call is close_at_work and self.way in _NATIVE)
        assert {it for it in created if it not in self.log.text} <= stage.told
        assert await living_tasks() == tasks
        assert [it for it in self.folder.iterdir() if it.name.startswith(".")] == []


@pytest.mark.parametrize("name", public_coroutines())
@pytest.mark.parametrize("backend, way", WAYS)
def test_a_call_cut_short_anywhere_loses_tears_and_leaves_nothing(
    backend: str,
    way: Way,
    name: str,
    emulator: Emulator,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The client works on, every create is known, and closing leaves no task.

    A create whose caller did not get it is in the log, with its id.
    """
    caplog.set_level(logging.WARNING, "kling_async")

    async def main() -> None:
        async with AsyncKling(
            KEY, base_url=emulator.base_url, polling=OFTEN, retry=AT_ONCE
        ) as kling:
            finished = await kling.generate(REQUEST)
        trial = Trial(way, emulator, tmp_path, caplog)
        for call, fault in CALLS[name]:
            assert await trial.run(call, fault, finished) > 0

    anyio.run(main, backend=backend)

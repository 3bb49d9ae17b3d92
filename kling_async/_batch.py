"""Many generations at once: outcomes in order of completion.

The work runs in the client's tasks, not in the generator: an async generator
must not hold a task group across a ``yield`` (PEP 789).
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from contextlib import AsyncExitStack, aclosing
from typing import TYPE_CHECKING, Generic, TypeVar

import anyio
import anyio.lowlevel
from attrs import define, field, frozen

from kling_async._checks import require, require_count
from kling_async._errors import KlingError, RateLimitError
from kling_async._generation import Generation
from kling_async._runtime.loop import new_event, new_lock
from kling_async._runtime.tasks import ClientTasks

if TYPE_CHECKING:
    from anyio.abc import TaskGroup, TaskStatus

RequestT = TypeVar("RequestT")


@frozen(kw_only=True)
class Outcome(Generic[RequestT]):
    """The outcome of one of many requests.

    Attributes:
        index: The request's position among those given, from 0.
        request: The request itself.
        generation: The completed generation; after an error its last known state,
            or None if nothing was created.
        error: Why there is no video; None on success.
    """

    index: int
    request: RequestT
    generation: Generation | None = None
    error: KlingError | None = None

    @property
    def succeeded(self) -> bool:
        """Whether there is a video."""
        return self.error is None


@define(eq=False, repr=False)
class Holdback:
    """Keeps a batch within the generations that the account allows at once.

    A create that gets 429 even after its retries does not fail: it waits for
    one of the batch's own generations to end, or for a while, and is tried again. The
    other creates queue behind it.

    Attributes:
        patience: How long to retry a refused create, in seconds.
        wait_after: Returns the seconds to wait after the nth refusal in a row.
    """

    patience: float
    wait_after: Callable[[RateLimitError, int], float]
    _turn: anyio.Lock = field(factory=new_lock, init=False)
    _ended: anyio.Event = field(factory=new_event, init=False)

    async def create(self, create: Callable[[], Awaitable[Generation]]) -> Generation:
        """Create as soon as the account allows one more.

        Raises:
            RateLimitError: It allowed none within ``patience``.
        """
        if not self._turn.locked():
            try:
                return await create()
            except RateLimitError:
                pass
        deadline = anyio.current_time() + self.patience
        async with self._turn:
            return await self._insist(create, deadline)

    async def _insist(
        self, create: Callable[[], Awaitable[Generation]], deadline: float
    ) -> Generation:
        for number in itertools.count(1):
            ended = self._ended
            try:
                return await create()
            except RateLimitError as error:
                wait = self.wait_after(error, number)
                if anyio.current_time() + wait >= deadline:
                    raise
            with anyio.move_on_after(wait):
                await ended.wait()
        raise AssertionError  # for the type checkers: the loop has no end

    def note_end(self) -> None:
        """Note that one of the batch's generations has ended."""
        self._ended.set()
        self._ended = anyio.Event()


@define(eq=False, repr=False)
class _Arrivals(Generic[RequestT]):
    """Outcomes that nobody has taken yet.

    anyio's memory stream loses an item if asyncio cancels its receiver during the
    handover; here it stays until it is taken.
    """

    untaken: deque[Outcome[RequestT]] = field(factory=deque[Outcome[RequestT]])
    _news: anyio.Event = field(factory=new_event)
    _is_over: bool = False

    def add(self, outcome: Outcome[RequestT]) -> None:
        self.untaken.append(outcome)
        self._news.set()

    def end(self) -> None:
        self._is_over = True
        self._news.set()

    async def wait(self) -> bool:
        """Wait for an outcome; return False if no more will come."""
        await anyio.lowlevel.checkpoint()
        while not self.untaken and not self._is_over:
            self._news = anyio.Event()
            await self._news.wait()
        return bool(self.untaken)


@define(eq=False, repr=False)
class Batch(Generic[RequestT]):
    """Many requests, and their outcomes.

    Attributes:
        requests: What to generate; the next one is pulled when a slot is free.
        generate: Makes the completed generation of one request.
        left: Called with each generation whose outcome nobody took.
        max_in_flight: How many may be between create and outcome at once.
    """

    requests: Iterable[RequestT] | AsyncIterable[RequestT]
    generate: Callable[[RequestT], Awaitable[Generation]]
    left: Callable[[Generation], None]
    max_in_flight: int

    def __attrs_post_init__(self) -> None:
        require_count("max_in_flight", self.max_in_flight)
        allowed = "a list of requests, or any other iterable of them, sync or async"
        require("requests", self.requests, allowed, fits=_are_many(self.requests))

    async def outcomes(
        self, tasks: ClientTasks
    ) -> AsyncGenerator[Outcome[RequestT], None]:
        """Yield each outcome as it comes; leaving early stops the rest."""
        arrivals = _Arrivals[RequestT]()
        slots = anyio.Semaphore(self.max_in_flight)

        async def one(
            index: int, request: RequestT, *, task_status: TaskStatus[None]
        ) -> None:
            task_status.started()
            arrivals.add(await self._outcome(index, request))

        async def take_place() -> None:
            await slots.acquire()
            await anyio.lowlevel.checkpoint_if_cancelled()  # by whoever took its news

        async def feed(group: TaskGroup) -> None:
            async with aclosing(_each(self.requests)) as source:
                await take_place()
                index = 0
                async for request in source:
                    # Started one after another: trio would start them in any order.
                    await group.start(one, index, request)
                    index += 1
                    await take_place()

        async def pump() -> None:
            failure: Exception | None = None
            async with anyio.create_task_group() as group:
                try:
                    await feed(group)
                except Exception as error:  # noqa: BLE001 (raised once all is done)
                    failure = error
            if failure is not None:
                raise failure

        job = tasks.start(pump, at_end=arrivals.end)
        async with AsyncExitStack() as stack:
            stack.callback(self._tell_untaken, arrivals)
            stack.push_async_callback(_await_shielded, job.wait)
            stack.callback(job.cancel)
            while await arrivals.wait():
                slots.release()
                yield arrivals.untaken.popleft()
        await job.result()

    def _tell_untaken(self, arrivals: _Arrivals[RequestT]) -> None:
        for outcome in arrivals.untaken:
            if outcome.generation is not None:
                self.left(outcome.generation)

    async def _outcome(self, index: int, request: RequestT) -> Outcome[RequestT]:
        try:
            generation = await self.generate(request)
        except KlingError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 (one must not stop the others)
            failure = KlingError(f"{type(error).__name__}: {error}")
            failure.__cause__ = error
        else:
            return Outcome(index=index, request=request, generation=generation)
        return Outcome(
            index=index,
            request=request,
            generation=failure.generation,
            error=failure,
        )


def _are_many(given: object) -> bool:
    if isinstance(given, (str, bytes, Mapping)):
        return False
    return isinstance(given, Iterable | AsyncIterable)


async def _await_shielded(wait: Callable[[], Awaitable[None]]) -> None:
    with anyio.CancelScope(shield=True):
        await wait()


async def _each(
    requests: Iterable[RequestT] | AsyncIterable[RequestT],
) -> AsyncGenerator[RequestT, None]:
    if isinstance(requests, AsyncIterable):
        iterator = aiter(requests)
        try:
            async for request in iterator:
                yield request
        finally:  # if it was made just now: trio warns of one that nobody closes
            if isinstance(iterator, AsyncGenerator) and iterator is not requests:
                await iterator.aclose()
    else:
        for request in requests:
            yield request

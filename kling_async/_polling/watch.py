"""Watches: who shares the polls of an id, when the next is due, what each watcher sees.

Nothing here ever forgets the id.
"""

from __future__ import annotations

import contextvars
import copy
import math
import random
import weakref
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Self

import anyio
from attrs import define, evolve, field, frozen

from kling_async._errors import (
    APIStatusError,
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    KlingError,
    PermissionDeniedError,
    WaitTimeoutError,
)
from kling_async._failures import RetryPolicy, may_repeat_get, wait_after
from kling_async._generation import Generation
from kling_async._hooks import Reporter, RetryEvent, StatusEvent, notify
from kling_async._polling.schedules import (
    Completion,
    LearningPolling,
    Polling,
    PollState,
)
from kling_async._requests.catalogue import catalogue_in_use
from kling_async._runtime.limiter import Kind, Limiter, Slot
from kling_async._runtime.loop import CLOCK_TICK, Signal
from kling_async._runtime.tasks import CLOSED, BackgroundTask, ClientTasks

# Creations kept; the oldest make room.
KEPT = 100_000


@frozen
class CreationInfo:
    """Where a generation comes from.

    Attributes:
        model: The id of its model.
        video_length: The length of its video, in seconds, if it has one to choose.
        tasks: The client's tasks in the event loop whose clock tells `created`.
        created: When its create was answered, on that clock.
    """

    model: str
    video_length: float | None
    tasks: ClientTasks
    created: float = field(factory=anyio.current_time)


@define(eq=False)
class CreationIndex:
    """What one client knows of its creates, by the generation's id."""

    _known: dict[str, CreationInfo] = field(factory=dict[str, CreationInfo], init=False)

    def note(
        self, generation_id: str, body: Mapping[str, object], tasks: ClientTasks
    ) -> None:
        """Take note that a create with this body was just answered."""
        model = str(body["model"])
        length = _video_length(model, body.get("duration"))
        self._known[generation_id] = CreationInfo(model, length, tasks)
        if len(self._known) > KEPT:
            del self._known[next(iter(self._known))]

    def of(self, generation_id: str, tasks: ClientTasks) -> CreationInfo | None:
        """Give a creation, if it is known and its clock is that of the tasks."""
        creation = self._known.get(generation_id)
        return creation if creation is not None and creation.tasks is tasks else None

    def forget(self, generation_id: str) -> None:
        """Let a creation go whose generation has ended."""
        self._known.pop(generation_id, None)


def _video_length(model: str, given: object) -> float | None:
    """Read a length, which may be text; what is left out is the server's default."""
    known = catalogue_in_use().get(model)
    duration = known.fields.get("duration") if known else None
    if given is None and duration is not None:
        given = duration.default
    try:
        length = float(given) if isinstance(given, int | float | str) else math.nan
    except (ValueError, OverflowError):
        length = math.nan
    return length if math.isfinite(length) else None


# When the time is up there is a last look: it may take a twentieth more, within bounds.
_LAST_LOOK, _LAST_LOOK_SHARE = 5.0, 0.05

# A generation may be unknown to the server for a moment after its create.
REFUSAL_GRACE = 20.0


Ask = Callable[[Slot, str, float], Awaitable[Generation]]
"""Asks the server for one generation, once: in which slot, and for how many seconds."""


@define(eq=False)
class HistoryNode:
    """Where one stands in the chain of news; each watcher follows at its own pace.

    Attributes:
        next: What was seen from there on and the place after it, once there is more.
    """

    next: tuple[Generation, HistoryNode] | None = None


@define(eq=False, kw_only=True)
class PollLoop:
    """The polls of one generation, for one or a thousand watchers: one task.

    The task sleeps until the next poll is due, takes a slot, polls, and wakes those
    for whom there is news. It lives while somebody waits.

    Attributes:
        generation_id: What is watched.
        ask: How to poll.
        limiter: Whose turn it is.
        tasks: Where the task runs.
        retry: How often and how soon to ask again after a failure.
        reporter: Who is told, once for all watchers.
        creations: Where the generation may be known from.
        chance: Where jitter comes from: numbers in [0, 1).
        last: What was seen last.
        error: Why there will be no more polls, if it ended so.
        failure: What the last poll met, if it failed.
        asked_at: When the last poll went out, on the event loop's clock.
        client_request_id: The one of the create, which polls do not tell.
    """

    generation_id: str
    ask: Ask
    limiter: Limiter
    tasks: ClientTasks
    retry: RetryPolicy
    reporter: Reporter
    creations: CreationIndex
    chance: Callable[[], float] = random.random
    last: Generation | None = None
    error: KlingError | None = None
    failure: KlingError | None = None
    asked_at: float = field(default=-math.inf, init=False)
    client_request_id: str | None = None
    _end: HistoryNode = field(factory=HistoryNode, init=False)
    _waiting: dict[Watch, None] = field(factory=dict["Watch", None], init=False)
    _context: contextvars.Context = field(factory=contextvars.copy_context, init=False)
    _task: BackgroundTask[None] | None = field(default=None, init=False)
    _signal: Signal = field(init=False)
    _wakes_at: float = field(default=math.inf, init=False)
    _is_queued: bool = field(default=False, init=False)
    _polls: int = field(default=0, init=False)
    _failures: int = field(default=0, init=False)
    _soon: float = field(default=math.inf, init=False)
    _chance: float = field(init=False)
    _started: float = field(init=False)
    _polled_at: float = field(init=False)
    _told: Generation | None = field(default=None, init=False)
    _is_untold: bool = field(default=False, init=False)
    _refused_since: float = field(default=math.inf, init=False)
    _creation: CreationInfo | None = field(init=False)
    _unfinished_at: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._signal = self.limiter.loop.signal()
        self._started = self.limiter.loop.time()
        self._creation = self.creations.of(self.generation_id, self.tasks)
        self._unfinished_at = (
            self._creation.created if self._creation else self._started
        )
        self._polled_at = self._unfinished_at
        self._chance = self.chance()

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to see."""
        return self.error is not None or (
            self.last is not None and self.last.is_terminal
        )

    def subscribe(self, known: Generation | None) -> HistoryNode:
        """Give a watcher its place: before what was seen last, if it knows nothing."""
        if known is not None:
            self.client_request_id = known.client_request_id or self.client_request_id
            self._emit_status(known)
        elif self.last is not None:
            return HistoryNode((self.last, self._end))
        return self._end

    async def wait(self, watch: Watch) -> None:
        """Wait for news, or until the watcher has to look again.

        Raises:
            ConfigurationError: The watcher's schedule is not one.
            ClientClosedError: The client was closed.
        """
        if self.tasks.is_closed:
            raise ClientClosedError(CLOSED)
        watch.due = self._due(watch)
        self._waiting[watch] = None
        try:
            if self._task is None:
                self._task = self.tasks.start(
                    self._run,
                    at_end=self._wake_all,
                    context=self._context,
                    is_plain=True,
                )
            elif watch.due < self._wakes_at:
                self._signal.set()
            await watch.signal.wait()
        finally:
            del self._waiting[watch]
            if not self._waiting:
                self._stop_if_unwanted()

    def _stop_if_unwanted(self) -> None:
        """Stop when nobody waits, without tearing what is under way."""
        if self._task is not None and self._is_queued:
            self._task.cancel()
        self._signal.set()

    def _wake_all(self) -> None:
        """Let those who wait see for themselves, however the task ended."""
        self._task = None
        self._wake(self._waiting)

    def _wake(self, watches: Iterable[Watch]) -> None:
        for watch in watches:
            watch.signal.set()

    async def _run(self) -> None:
        loop = self.limiter.loop
        while self._waiting and not self.is_over:
            due = min(it.due for it in self._waiting)
            if due <= loop.time() + CLOCK_TICK:
                self._wakes_at = -math.inf
                await self._poll()
            else:
                self._wakes_at = due
                await self._signal.wait(due)

    async def _poll(self) -> None:
        """Poll once, and tell whoever there is news for; plan the next poll."""
        loop = self.limiter.loop
        until = max(it.leaves_at for it in self._waiting)
        # Nobody waits past their own time for the sake of another.
        first = min(it.leaves_at for it in self._waiting)
        timer = loop.call_at(first, self._release) if first < until else None
        try:
            self._is_queued = True
            slot = await self.limiter.acquire(Kind.POLL, until)
            self._is_queued = False
            with slot:
                self.asked_at = loop.time()
                await self._ask(slot, until)
        except TimeoutError:
            self.asked_at = loop.time()
        finally:
            self._is_queued = False
            if timer is not None:
                timer.cancel()
        self._plan()

    def _release(self) -> None:
        """Wake those whose time is up though a poll is still under way."""
        now = self.limiter.loop.time() + CLOCK_TICK
        self._wake(it for it in self._waiting if it.leaves_at <= now)

    def _plan(self) -> None:
        """Plan the next poll; nobody is woken for what is no news."""
        if self.last is not None and self.last.is_terminal:
            return
        now = self.limiter.loop.time() + CLOCK_TICK
        for watch in self._waiting:
            try:
                watch.due = self._due(watch)
            except ConfigurationError:  # it asks for itself, and is told
                watch.due = math.inf
                watch.signal.set()
            if watch.deadline <= self.asked_at + CLOCK_TICK or watch.leaves_at <= now:
                watch.due = math.inf
                watch.signal.set()
        self._report_failure(min((it.due for it in self._waiting), default=math.inf))

    def _due(self, watch: Watch) -> float:
        """When a watcher wants the next poll.

        One that knows nothing wants it now, and so does one whose knowledge is of
        unknown age. All look once more when their time is up.
        """
        knows = watch.last is not None and self._creation is not None
        if not self._polls and not knows:
            return self._started
        creation, last = self._creation, self.last or watch.last
        state = PollState(
            polls=self._polls,
            elapsed=max(0.0, self._polled_at - self._started),
            status=last.status if last else None,
            chance=self._chance,
            age=self._polled_at - creation.created if creation else None,
            model=creation.model if creation else None,
            video_length=creation.video_length if creation else None,
        )
        due = self._polled_at + next_delay(watch.polling, state)
        return min(self._soon, due, watch.deadline)

    def _report_failure(self, due: float) -> None:
        if self._is_untold and self.failure is not None and due < math.inf:
            event = RetryEvent(
                attempt=self._polls,
                delay=max(0.0, due - self.limiter.loop.time()),
                error=self.failure,
            )
            self.reporter.emit(event)
        self._is_untold = False

    async def _ask(self, slot: Slot, until: float) -> None:
        """Ask once; what fails in a way that may heal is only noted."""
        loop = self.limiter.loop
        asked_at = self.asked_at
        try:
            seen = await self.ask(slot, self.generation_id, until - asked_at)
        except Exception as error:  # noqa: BLE001 (told to all who watch)
            self._record_failure(_as_ours(error))
        else:
            self._failures, self._soon, self._refused_since = 0, math.inf, math.inf
            self.failure = None
            if seen.is_terminal:
                self._record_completion(seen)
            else:
                self._unfinished_at = asked_at
            self._see(seen)
        self._polls += 1
        self._polled_at = loop.time()
        self._chance = self.chance()

    def _record_failure(self, error: KlingError) -> None:
        """Take note of a failure; if it is the last, all hear of it."""
        self._failures += 1
        self._classify_failure(error)
        if self._failures < self.retry.attempts and may_repeat_get(error):
            wait = wait_after(error, self._failures, self.retry)
            self._soon = self.limiter.loop.time() + wait
        else:
            self._soon = math.inf
        if self.error is not None:
            self._wake(self._waiting)

    def _see(self, seen: Generation) -> None:
        views = [self.last, *(it.last for it in self._waiting)]
        if not any(is_change(view, seen) for view in views):
            return
        if seen.client_request_id is None and self.client_request_id is not None:
            seen = evolve(seen, client_request_id=self.client_request_id)
        self._emit_status(seen)
        self.last = seen
        self._end.next = (seen, end := HistoryNode())
        self._end = end
        self._wake(self._waiting)

    def _record_completion(self, ended: Generation) -> None:
        """Tell the schedules that learn how long the video took."""
        creation = self._creation
        self.creations.forget(self.generation_id)
        if creation is None or not ended.succeeded:
            return
        completion = Completion(
            model=creation.model,
            video_length=creation.video_length,
            after=self._unfinished_at - creation.created,
            by=self.limiter.loop.time() - creation.created,
        )
        for polling in {id(it.polling): it.polling for it in self._waiting}.values():
            if isinstance(polling, LearningPolling):
                notify(polling.observe, completion)

    def _classify_failure(self, error: KlingError) -> None:
        """Pass over what may heal; end with what will not."""
        error.concerning(self.generation_id, self.last)
        self.failure, self._is_untold = error, True
        if may_repeat_get(error):
            self._refused_since = math.inf
            return
        now = self.limiter.loop.time()
        self._refused_since = min(self._refused_since, now)
        is_final = isinstance(error, AuthenticationError | PermissionDeniedError)
        lasted = now - self._refused_since >= REFUSAL_GRACE
        if is_final or lasted or not isinstance(error, APIStatusError):
            self.error = error

    def _emit_status(self, seen: Generation) -> None:
        if is_change(self._told, seen):
            self._told = seen
            self.reporter.emit(StatusEvent(generation=seen))


@define(eq=False)
class PollLoops:
    """The poll loops of one client: one for each id in each event loop.

    A loop lives as long as somebody watches; then it is forgotten.
    """

    _creations: CreationIndex
    _loops: weakref.WeakValueDictionary[tuple[ClientTasks, str], PollLoop] = field(
        factory=weakref.WeakValueDictionary[tuple[ClientTasks, str], PollLoop],
        init=False,
    )

    def join(
        self,
        generation_id: str,
        *,
        ask: Ask,
        limiter: Limiter,
        tasks: ClientTasks,
        retry: RetryPolicy,
        reporter: Reporter,
    ) -> PollLoop:
        """Give the loop of an id, a new one if there is none that goes on."""
        key = tasks, generation_id
        loop = self._loops.get(key)
        if loop is None or loop.is_over:
            loop = self._loops[key] = PollLoop(
                generation_id=generation_id,
                ask=ask,
                limiter=limiter,
                tasks=tasks,
                retry=retry,
                reporter=reporter,
                creations=self._creations,
            )
        return loop


def is_change(last: Generation | None, seen: Generation) -> bool:
    """Whether there is news in what was seen, for one who saw the last."""
    return last is None or (last.status, last.is_terminal) != (
        seen.status,
        seen.is_terminal,
    )


def next_delay(polling: Polling, state: PollState) -> float:
    """Ask a schedule, which may be a user's own, for the next delay.

    Raises:
        ConfigurationError: It failed, or gave what is no span of time.
    """
    try:
        delay = polling.delay(state)
    except Exception as error:
        raise ConfigurationError(
            f"polling: {polling!r} failed at {state}: {type(error).__name__}: {error}",
        ) from error
    if not _is_span(delay):
        raise ConfigurationError(
            f"polling: {polling!r} gave a delay of {delay!r} at {state}; "
            "allowed: seconds, 0 or more, finite",
        )
    return delay


def _is_span(value: object) -> bool:
    return isinstance(value, int | float) and 0 <= value < math.inf


def _as_ours(error: Exception) -> KlingError:
    if isinstance(error, KlingError):
        return error
    ours = KlingError(f"{type(error).__name__}: {error}")
    ours.__cause__ = error
    return ours


@define(eq=False, kw_only=True)
class Watch:
    """An iterator over what is new; between two steps it holds nothing open.

    Attributes:
        loop: Who polls.
        polling: When to poll, by this watcher's wish.
        timeout: How long to go on, in seconds from now.
        last: What has been seen last; it is not given again.
        deadline: When the time is up, on the event loop's clock.
        leaves_at: When it leaves, whatever became of its last look.
        due: When it wants the next poll, on the same clock.
        signal: Set to let it look again.
    """

    loop: PollLoop
    polling: Polling
    timeout: float
    last: Generation | None = None
    deadline: float = field(init=False)
    leaves_at: float = field(init=False)
    due: float = field(default=math.inf, init=False)
    signal: Signal = field(init=False)
    _place: HistoryNode = field(init=False)

    def __attrs_post_init__(self) -> None:
        loop = self.loop.limiter.loop
        self.signal = loop.signal()
        self.deadline = loop.time() + self.timeout
        self.leaves_at = self.deadline + last_look(self.timeout)
        self._place = self.loop.subscribe(self.last)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Generation:
        """Give the next change; the terminal one is the last.

        Raises:
            WaitTimeoutError: The time was up before the end.
            KlingError: There will be no more news.
        """
        try:
            while self.last is None or not self.last.is_terminal:
                while self._place.next is None:
                    self._raise_if_ended()
                    await self.loop.wait(self)
                seen, self._place = self._place.next
                if is_change(self.last, seen):
                    self.last = seen
                    return seen
        except KlingError as error:
            error.concerning(self.loop.generation_id, self.last)
            raise
        raise StopAsyncIteration

    def _raise_if_ended(self) -> None:
        if self.loop.error is not None:
            raise _copy_for_raise(self.loop.error)
        now = self.loop.limiter.loop.time() + CLOCK_TICK
        has_looked = self.loop.asked_at + CLOCK_TICK >= self.deadline
        if now >= self.deadline and (has_looked or now >= self.leaves_at):
            failure = self.loop.failure
            raise WaitTimeoutError(
                self.loop.generation_id, timeout=self.timeout, failure=failure
            ) from failure


def last_look(timeout: float) -> float:
    """How long the poll may take that is made when a watcher's time is up."""
    return min(_LAST_LOOK, max(1.0, timeout * _LAST_LOOK_SHARE))


def _copy_for_raise(error: KlingError) -> KlingError:
    """Copy an error that many will raise: each raise writes into its traceback."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own

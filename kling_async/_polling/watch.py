"""One watch of a generation: news at its own pace, until its own deadline.

Follows what the shared poll loop sees. Nothing here ever forgets the id.
"""

from __future__ import annotations

import contextvars
import copy
import math
import random
import weakref
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol, Self

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
from kling_async._runtime.tasks import CLOCK_TICK, CLOSED, Job, Scope
from kling_async._runtime.timers import Timetable

# Origins kept; the oldest make room.
KEPT = 100_000


@frozen
class Origin:
    """Where a generation comes from.

    Attributes:
        model: The id of its model.
        video_length: The length of its video, in seconds, if it has one to choose.
        scope: The client's tasks in the event loop whose clock tells `created`.
        created: When its create was answered, on that clock.
    """

    model: str
    video_length: float | None
    scope: Scope
    created: float = field(factory=anyio.current_time)


@define(eq=False)
class Origins:
    """The origins of one client's generations, by id."""

    _known: dict[str, Origin] = field(factory=dict[str, Origin], init=False)

    def note(
        self, generation_id: str, body: Mapping[str, object], scope: Scope
    ) -> None:
        """Take note that a create with this body was just answered."""
        model = str(body["model"])
        length = _video_length(model, body.get("duration"))
        self._known[generation_id] = Origin(model, length, scope)
        if len(self._known) > KEPT:
            del self._known[next(iter(self._known))]

    def of(self, generation_id: str, scope: Scope) -> Origin | None:
        """Give an origin, if it is known and its clock is that of the scope."""
        origin = self._known.get(generation_id)
        return origin if origin is not None and origin.scope is scope else None

    def forget(self, generation_id: str) -> None:
        """Let an origin go whose generation has ended."""
        self._known.pop(generation_id, None)


def _video_length(model: str, given: object) -> float | None:
    """Read a length, which may be text; what is left out is the server's default."""
    known = catalogue_in_use().get(model)
    duration = known.fields.get("duration") if known else None
    if given is None and duration is not None:
        given = duration.default
    try:
        length = float(given) if isinstance(given, int | float | str) else math.nan
    except ValueError:
        length = math.nan
    return length if math.isfinite(length) else None


# A generation may be unknown to the server for a moment after its create.
REFUSAL_GRACE = 20.0


class Fetch(Protocol):
    """Asks the server for one generation, once."""

    def __call__(
        self, generation_id: str, *, attempt: int, begin: Callable[[], float]
    ) -> Awaitable[Generation]:
        """Ask.

        Args:
            generation_id: For which.
            attempt: How many polls have failed in a row, and one more.
            begin: Called when the request goes out; tells how many seconds it may take.
        """
        ...


class Watcher(Protocol):
    """One who waits for news.

    Attributes:
        polling: When to poll, by its wish.
        last: What it has seen last.
        deadline: When it leaves, on the event loop's clock.
        due: When it wants the next poll, on the same clock.
        news: Set to let it look again.
    """

    polling: Polling
    last: Generation | None
    deadline: float
    due: float
    news: anyio.Event


@define(eq=False)
class Place:
    """Where one stands in the chain of news; each watcher follows at its own pace.

    Attributes:
        next: What was seen from there on and the place after it, once there is more.
    """

    next: tuple[Generation, Place] | None = None


@define(eq=False, kw_only=True)
class PollLoop:
    """The polls of one generation, for one or a thousand watchers.

    Attributes:
        generation_id: What is watched.
        fetch: How to poll.
        timetable: Where and when it runs.
        retry: How often and how soon to ask again after a failure.
        reporter: Who is told, once for all watchers.
        origins: Where the generation may be known from.
        chance: Where jitter comes from: numbers in [0, 1).
        last: What was seen last.
        error: Why there will be no more polls, if it ended so.
        client_request_id: The one of the create, which polls do not tell.
        rings_at: When the alarm rings.
    """

    generation_id: str
    fetch: Fetch
    timetable: Timetable
    retry: RetryPolicy
    reporter: Reporter
    origins: Origins
    chance: Callable[[], float] = random.random
    last: Generation | None = None
    error: KlingError | None = None
    client_request_id: str | None = None
    rings_at: float = field(default=math.inf, init=False)
    _end: Place = field(factory=Place, init=False)
    _waiting: list[Watcher] = field(factory=list[Watcher], init=False)
    _context: contextvars.Context = field(factory=contextvars.copy_context, init=False)
    _poll: Job[None] | None = field(default=None, init=False)
    _is_polled: bool = field(default=False, init=False)
    _is_asking: bool = field(default=False, init=False)
    _is_quiet: bool = field(default=False, init=False)
    _polls: int = field(default=0, init=False)
    _failures: int = field(default=0, init=False)
    _soon: float = field(default=math.inf, init=False)
    _chance: float = field(init=False)
    _started: float = field(factory=anyio.current_time, init=False)
    _polled_at: float = field(init=False)
    _told: Generation | None = field(default=None, init=False)
    _failure: KlingError | None = field(default=None, init=False)
    _refused_since: float = field(default=math.inf, init=False)
    _origin: Origin | None = field(init=False)
    _unfinished_at: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._origin = self.origins.of(self.generation_id, self.timetable.scope)
        self._unfinished_at = self._origin.created if self._origin else self._started
        self._polled_at = self._started
        self._chance = self.chance()

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to see."""
        return self.error is not None or (
            self.last is not None and self.last.is_terminal
        )

    def enter(self, known: Generation | None) -> Place:
        """Give a watcher its place: before what was seen last, if it knows nothing."""
        if known is not None:
            self.client_request_id = known.client_request_id or self.client_request_id
            self._tell(known)
        elif self.last is not None:
            return Place((self.last, self._end))
        return self._end

    async def wait(self, watcher: Watcher) -> None:
        """Wait for news, or until the watcher has to look and ask again.

        Raises:
            ConfigurationError: The watcher's schedule is not one.
            ClientClosedError: The client was closed.
        """
        if self.timetable.scope.is_closed:
            raise ClientClosedError(CLOSED)
        watcher.due = self._due(watcher)
        watcher.news = anyio.Event()
        self._waiting.append(watcher)
        try:
            now = anyio.current_time() + CLOCK_TICK
            self._look_ahead(now, watcher.due, watcher.deadline, self.rings_at)
            await watcher.news.wait()
        finally:
            self._waiting.remove(watcher)
            if not self._waiting:
                self._rest()

    def _rest(self) -> None:
        """Stop when nobody waits, without tearing what is under way."""
        self.timetable.alarm.forget(self)
        if self._poll is not None and not self._is_asking:
            self._poll.cancel()

    def _look_ahead(self, now: float, due: float, *others: float) -> None:
        """Poll if that is due, and set the alarm for what comes next."""
        if due <= now:
            self._queue_up()
        self.timetable.alarm.set(
            self, min(math.inf if self._is_polled else due, *others)
        )

    def ring(self) -> None:
        """Poll if it is time, and let those leave whose time is up."""
        now = anyio.current_time() + CLOCK_TICK
        due = leave = math.inf
        for watcher in self._waiting:
            if watcher.deadline <= now:
                watcher.news.set()
            else:
                due, leave = min(due, watcher.due), min(leave, watcher.deadline)
        if self._waiting:
            self._look_ahead(now, due, leave)

    def wake(self) -> None:
        """Let all who wait look again."""
        for watcher in self._waiting:
            watcher.news.set()

    def _queue_up(self) -> None:
        if not self._is_polled:
            self._is_polled = True
            self.timetable.turns.take(self._begin)

    def _begin(self) -> bool:
        """Start a poll, if there is still somebody who waits for it."""
        if self.timetable.scope.is_closed or not self._waiting:
            self._is_polled = False
            return False
        self._is_asking = self._is_quiet = False
        self._poll = self.timetable.scope.start(
            self._ask, at_end=self._ended, context=self._context.copy()
        )
        return True

    def _ended(self) -> None:
        self._poll, self._is_polled = None, False
        if self._is_quiet:
            self._go_on()
        else:
            self.wake()
        self.timetable.turns.give_back()

    def _go_on(self) -> None:
        """Plan the next poll; nobody is woken for what is no news."""
        for watcher in self._waiting:
            try:
                watcher.due = self._due(watcher)
            except ConfigurationError:  # it asks for itself, and is told
                watcher.due = math.inf
                watcher.news.set()
        self._report_failure(min((it.due for it in self._waiting), default=math.inf))
        self.ring()

    def _due(self, watcher: Watcher) -> float:
        """When a watcher wants the next poll; one that knows nothing wants it now."""
        if watcher.last is None and not self._polls:
            return self._started
        origin = self._origin
        state = PollState(
            polls=self._polls,
            elapsed=self._polled_at - self._started,
            status=watcher.last.status if watcher.last else None,
            chance=self._chance,
            age=self._polled_at - origin.created if origin else None,
            model=origin.model if origin else None,
            video_length=origin.video_length if origin else None,
        )
        return min(self._soon, self._polled_at + checked_delay(watcher.polling, state))

    def _report_failure(self, due: float) -> None:
        failure, self._failure = self._failure, None
        if failure is not None and due < math.inf:
            event = RetryEvent(
                attempt=self._polls,
                delay=max(0.0, due - anyio.current_time()),
                error=failure,
            )
            self.reporter.retry(event)

    def _time_left(self) -> float:
        """Begin to ask, for as long as the most patient watcher stays."""
        self._is_asking = True
        now = anyio.current_time()
        return max((it.deadline for it in self._waiting), default=now) - now

    async def _ask(self) -> None:
        """Poll once; what fails in a way that may heal is only noted."""
        asked_at = anyio.current_time()
        try:
            seen = await self.fetch(
                self.generation_id, attempt=self._failures + 1, begin=self._time_left
            )
        except Exception as error:  # noqa: BLE001 (told to all who watch)
            has_news = self._failed(_as_ours(error))
        else:
            self._failures, self._soon, self._refused_since = 0, math.inf, math.inf
            if seen.is_terminal:
                self._teach(seen)
            else:
                self._unfinished_at = asked_at
            has_news = self._see(seen)
        self._polls += 1
        self._polled_at = anyio.current_time()
        self._chance = self.chance()
        self._is_quiet = not has_news

    def _failed(self, error: KlingError) -> bool:
        """Take note of a failure; tell whether it is the last."""
        self._failures += 1
        self._judge(error)
        if self._failures < self.retry.attempts and may_repeat_get(error):
            wait = wait_after(error, self._failures, self.retry)
            self._soon = anyio.current_time() + wait
        else:
            self._soon = math.inf
        return self.error is not None

    def _see(self, seen: Generation) -> bool:
        views = [self.last, *(it.last for it in self._waiting)]
        if not any(is_change(view, seen) for view in views):
            return False
        if seen.client_request_id is None and self.client_request_id is not None:
            seen = evolve(seen, client_request_id=self.client_request_id)
        self._tell(seen)
        self.last = seen
        self._end.next = (seen, end := Place())
        self._end = end
        return True

    def _teach(self, ended: Generation) -> None:
        """Tell the schedules that learn how long the video took."""
        origin = self._origin
        self.origins.forget(self.generation_id)
        if origin is None or not ended.succeeded:
            return
        completion = Completion(
            model=origin.model,
            video_length=origin.video_length,
            after=self._unfinished_at - origin.created,
            by=anyio.current_time() - origin.created,
        )
        for polling in {id(it.polling): it.polling for it in self._waiting}.values():
            if isinstance(polling, LearningPolling):
                notify(polling.observe, completion)

    def _judge(self, error: KlingError) -> None:
        """Pass over what may heal; end with what will not."""
        error.concerning(self.generation_id, self.last)
        if may_repeat_get(error):
            self._refused_since = math.inf
            self._failure = error
            return
        now = anyio.current_time()
        self._refused_since = min(self._refused_since, now)
        is_final = isinstance(error, AuthenticationError | PermissionDeniedError)
        lasted = now - self._refused_since >= REFUSAL_GRACE
        if is_final or lasted or not isinstance(error, APIStatusError):
            self.error = error
        else:
            self._failure = error

    def _tell(self, seen: Generation) -> None:
        if is_change(self._told, seen):
            self._told = seen
            self.reporter.status(StatusEvent(generation=seen))


@define(eq=False)
class PollLoops:
    """The poll loops of one client: one for each id in each event loop.

    A loop lives as long as somebody watches; then it is forgotten.
    """

    _origins: Origins
    _loops: weakref.WeakValueDictionary[tuple[Timetable, str], PollLoop] = field(
        factory=weakref.WeakValueDictionary[tuple[Timetable, str], PollLoop],
        init=False,
    )

    def join(
        self,
        generation_id: str,
        *,
        fetch: Fetch,
        timetable: Timetable,
        retry: RetryPolicy,
        reporter: Reporter,
    ) -> PollLoop:
        """Give the loop of an id, a new one if there is none that goes on."""
        key = timetable, generation_id
        loop = self._loops.get(key)
        if loop is None or loop.is_over:
            loop = self._loops[key] = PollLoop(
                generation_id=generation_id,
                fetch=fetch,
                timetable=timetable,
                retry=retry,
                reporter=reporter,
                origins=self._origins,
            )
        return loop


def is_change(last: Generation | None, seen: Generation) -> bool:
    """Whether there is news in what was seen, for one who saw the last."""
    return last is None or (last.status, last.is_terminal) != (
        seen.status,
        seen.is_terminal,
    )


def checked_delay(polling: Polling, state: PollState) -> float:
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
        due: When it wants the next poll, on the same clock.
        news: Set to let it look again.
    """

    loop: PollLoop
    polling: Polling
    timeout: float
    last: Generation | None = None
    deadline: float = field(init=False)
    due: float = field(init=False)
    news: anyio.Event = field(init=False)
    _place: Place = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.deadline = anyio.current_time() + self.timeout
        self._place = self.loop.enter(self.last)

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
                    self._require_hope()
                    await self.loop.wait(self)
                seen, self._place = self._place.next
                if is_change(self.last, seen):
                    self.last = seen
                    return seen
        except KlingError as error:
            error.concerning(self.loop.generation_id, self.last)
            raise
        raise StopAsyncIteration

    def _require_hope(self) -> None:
        if self.loop.error is not None:
            raise _own(self.loop.error)
        if anyio.current_time() + CLOCK_TICK >= self.deadline:
            raise WaitTimeoutError(self.loop.generation_id, timeout=self.timeout)


def _own(error: KlingError) -> KlingError:
    """Copy an error that many will raise: each raise writes into its traceback."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own

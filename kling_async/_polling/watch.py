"""Watches: who shares the polls of an id, when the next is due, what each watcher sees.

Every error has the id.
"""

from __future__ import annotations

import contextvars
import copy
import math
import random
import sys
import weakref
from collections.abc import Awaitable, Callable
from functools import partial

from attrs import define, evolve, field

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
from kling_async._generation import KNOWN_STATUSES, Generation
from kling_async._hooks import Reporter, RetryEvent, StatusEvent, notify
from kling_async._polling.creations import CreationIndex, CreationInfo
from kling_async._polling.schedules import (
    Completion,
    LearningPolling,
    Polling,
    PollState,
)
from kling_async._runtime.limiter import Kind, Limiter, Slot, Waiter
from kling_async._runtime.loop import CLOCK_TICK, Timer, Wakeup, wake
from kling_async._runtime.tasks import CLOSED, ClientTasks

# When the time is up there is a last poll: it may take a twentieth more, within bounds.
_LAST_LOOK, _LAST_LOOK_SHARE = 5.0, 0.05

# A generation may be unknown to the server for a moment after its create.
REFUSAL_GRACE = 20.0


Ask = Callable[[Slot, str, float], Awaitable[Generation]]
"""Asks the server for one generation, once: in which slot, and for how many seconds."""


@define(eq=False, repr=False, weakref_slot=False)
class HistoryNode:
    """A node in the chain of changes; each watcher follows it at its own pace.

    Attributes:
        next: The next change and the node after it, once there is one.
    """

    next: tuple[Generation, HistoryNode] | None = None


@define(eq=False, kw_only=True, repr=False)
class PollSetup:
    """What the poll loops of one client in one event loop share.

    Attributes:
        ask: Makes one poll.
        limiter: Decides when a poll begins.
        tasks: The tasks of the client, in which polls run.
        retry: How often and how soon to poll again after a failure.
        reporter: Where events go, once for all watchers.
        creations: What is known about creates.
        chance: Random numbers in [0, 1), for jitter.
        loops: The loops by generation id; one lives as long as somebody watches.
        waiting: How many watchers wait.
    """

    ask: Ask
    limiter: Limiter
    tasks: ClientTasks
    retry: RetryPolicy
    reporter: Reporter
    creations: CreationIndex
    chance: Callable[[], float] = random.random
    loops: weakref.WeakValueDictionary[str, PollLoop] = field(
        factory=weakref.WeakValueDictionary[str, "PollLoop"], init=False
    )
    waiting: int = field(default=0, init=False)

    def wake_all(self) -> None:
        """Let all watchers look again."""
        for loop in list(self.loops.values()):
            loop.wake()


@define(eq=False, kw_only=True, repr=False)
class PollLoop:
    """The polls of one generation, for one or a thousand watchers.

    While somebody waits, one timer runs until the next poll is due. Then it queues for
    a slot, polls in a task of the client, and wakes the watchers to whom the answer is
    new. The same timer lets a watcher leave in time meanwhile. A sleeping task would
    be half of the memory of a watch.

    Attributes:
        generation_id: The generation that is watched.
        setup: What all loops share.
        last: The last state seen.
        error: Why there will be no more polls, if so.
        failure: The error of the last poll, if it failed.
        asked_at: When the last poll was sent, on the event loop's clock.
        client_request_id: That of the create, which polls do not contain.
    """

    generation_id: str
    setup: PollSetup
    last: Generation | None = None
    error: KlingError | None = None
    failure: KlingError | None = None
    asked_at: float = field(default=-math.inf, init=False)
    client_request_id: str | None = None
    _end: HistoryNode = field(factory=HistoryNode, init=False)
    _waiting: list[Watch] = field(factory=list["Watch"], init=False)
    _context: contextvars.Context = field(factory=contextvars.copy_context, init=False)
    _timer: Timer | None = field(default=None, init=False)
    _rings_at: float = field(default=math.inf, init=False)
    _turn: Waiter | None = field(default=None, init=False)
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
        self._started = self.setup.limiter.loop.time()
        self._creation = self.setup.creations.of(self.generation_id, self.setup.tasks)
        self._unfinished_at = (
            self._creation.created if self._creation else self._started
        )
        self._polled_at = self._unfinished_at
        self._chance = self.setup.chance()

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to see."""
        return self.error is not None or (
            self.last is not None and self.last.is_terminal
        )

    def subscribe(self, known: Generation | None) -> HistoryNode:
        """Return a watcher's node: before the last state, if it has seen nothing."""
        if known is not None:
            self.client_request_id = known.client_request_id or self.client_request_id
            self._emit_status(known)
        elif self.last is not None:
            return HistoryNode((self.last, self._end))
        return self._end

    def enter(self, watch: Watch) -> Wakeup:
        """Register a watcher until there is a change, or it has to look again."""
        watch.wakeup = wakeup = self.setup.limiter.loop.wakeup()
        self._waiting.append(watch)
        self.setup.waiting += 1
        self.setup.tasks.listeners[self.setup.wake_all] = None
        if self._turn is None:
            self._poll_by(watch.due)
        else:
            self._ring_by(watch.leaves_at)
        return wakeup

    def leave(self, watch: Watch) -> None:
        """Remove a watcher; the last one ends the wait, but not a poll in flight."""
        self._waiting.remove(watch)
        self.setup.waiting -= 1
        if not self.setup.waiting:
            del self.setup.tasks.listeners[self.setup.wake_all]
        if self._waiting:
            return
        self._silence()
        if self._turn is not None and self._turn.slot is None:
            self.setup.limiter.leave(self._turn)
            self._turn = None

    def wake(self, until: float = math.inf) -> None:
        """Let the watchers look again, or only those who leave until then."""
        for watch in self._waiting:
            if watch.leaves_at <= until:
                wake(watch.wakeup)

    def _poll_by(self, due: float) -> None:
        """Poll when it is due, in a slot of the limiter."""
        if due > self.setup.limiter.loop.time() + CLOCK_TICK:
            self._ring_by(due)
            return
        self._silence()
        self._ring_by(min(it.leaves_at for it in self._waiting))
        self._turn = self.setup.limiter.enqueue(Kind.POLL, self._begin)

    def _ring_by(self, when: float) -> None:
        if when < self._rings_at:
            self._silence()
            self._rings_at = when
            self._timer = self.setup.limiter.loop.call_at(when, self._ring)

    def _silence(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer, self._rings_at = None, math.inf

    def _ring(self) -> None:
        """Poll if it is time; no watcher waits past its deadline because of another."""
        self._timer, self._rings_at = None, math.inf
        if self._turn is None:
            self._poll_by(min(it.due for it in self._waiting))
            return
        now = self.setup.limiter.loop.time() + CLOCK_TICK
        others = [it.leaves_at for it in self._waiting if it.leaves_at > now]
        if others or self._turn.slot is None:  # else the poll ends now, and tells why
            self.wake(until=now)
            self._ring_by(min(others, default=math.inf))

    def _begin(self, turn: Waiter) -> None:
        """Poll in a task, for there is a slot; where there is none, all know why."""
        if turn.slot is None:
            return
        if self.setup.limiter.is_closed:
            turn.slot.release()
            return
        self.setup.tasks.start(
            partial(self._poll, turn),
            at_end=partial(self._end_turn, turn),
            context=self._context,
            is_plain=True,
        )

    def _end_turn(self, turn: Waiter) -> None:
        """Let all see for themselves where a task ended and planned no other poll."""
        if turn.slot is not None:
            turn.slot.release()
        if self._turn is turn:
            self._turn = None
            self._silence()
        if self._turn is None and self._timer is None:
            self.wake()

    async def _poll(self, turn: Waiter) -> None:
        """Poll once; only note a failure that may pass."""
        loop = self.setup.limiter.loop
        until = max((it.leaves_at for it in self._waiting), default=-math.inf)
        if turn.slot is None or not self._waiting:
            return
        self.asked_at = asked_at = loop.time()
        try:
            with turn.slot as slot:
                seen = await self.setup.ask(slot, self.generation_id, until - asked_at)
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
        self._chance = self.setup.chance()
        self._plan()

    def _plan(self) -> None:
        """Plan the next poll, without waking anybody."""
        if self.is_over:
            return
        now = self.setup.limiter.loop.time() + CLOCK_TICK
        for watch in self._waiting:
            try:
                watch.due = self.due(watch)
            except ConfigurationError:  # it asks for itself, and is told
                watch.due = math.inf
                wake(watch.wakeup)
            if watch.deadline <= self.asked_at + CLOCK_TICK or watch.leaves_at <= now:
                watch.due = math.inf
                wake(watch.wakeup)
        due = min((it.due for it in self._waiting), default=math.inf)
        self._report_failure(due)
        self._turn = None
        self._silence()
        self._poll_by(due)

    def due(self, watch: Watch) -> float:
        """When a watcher wants the next poll.

        One that has seen nothing wants it now, and so does one whose state is of
        unknown age. All poll once more when their time is up.

        Raises:
            ConfigurationError: The watcher's schedule is not valid.
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
                delay=max(0.0, due - self.setup.limiter.loop.time()),
                error=self.failure,
            )
            self.setup.reporter.emit(event)
        self._is_untold = False

    def _record_failure(self, error: KlingError) -> None:
        """Note a failure; if it is final, end for all watchers."""
        self._failures += 1
        self._classify_failure(error)
        if self._failures < self.setup.retry.attempts and may_repeat_get(error):
            wait = wait_after(error, self._failures, self.setup.retry)
            self._soon = self.setup.limiter.loop.time() + wait
        else:
            self._soon = math.inf
        if self.error is not None:
            self.wake()

    def _see(self, seen: Generation) -> None:
        views = [self.last, *(it.last for it in self._waiting)]
        if not any(is_change(view, seen) for view in views):
            return
        # Thousands are kept: none has a copy of its own of what all have.
        mine, raw = self.generation_id, seen.raw.items()
        seen = evolve(
            seen,
            status=KNOWN_STATUSES.get(seen.status, seen.status),
            client_request_id=seen.client_request_id or self.client_request_id,
            raw={sys.intern(name): mine if it == mine else it for name, it in raw},
        )
        self._emit_status(seen)
        self.last = seen
        self._end.next = (seen, end := HistoryNode())
        self._end = end
        self.wake()

    def _record_completion(self, ended: Generation) -> None:
        """Pass the completion to the schedules that learn."""
        creation = self._creation
        self.setup.creations.forget(self.generation_id)
        if creation is None or not ended.succeeded:
            return
        completion = Completion(
            model=creation.model,
            video_length=creation.video_length,
            after=self._unfinished_at - creation.created,
            by=self.setup.limiter.loop.time() - creation.created,
        )
        for polling in {id(it.polling): it.polling for it in self._waiting}.values():
            if isinstance(polling, LearningPolling):
                notify(polling.observe, completion)

    def _classify_failure(self, error: KlingError) -> None:
        """Ignore a failure that may pass; end with any other."""
        error.concerning(self.generation_id, self.last)
        self.failure, self._is_untold = error, True
        if may_repeat_get(error):
            self._refused_since = math.inf
            return
        now = self.setup.limiter.loop.time()
        self._refused_since = min(self._refused_since, now)
        is_final = isinstance(error, AuthenticationError | PermissionDeniedError)
        lasted = now - self._refused_since >= REFUSAL_GRACE
        if is_final or lasted or not isinstance(error, APIStatusError):
            self.error = error

    def _emit_status(self, seen: Generation) -> None:
        if is_change(self._told, seen):
            self._told = seen
            self.setup.reporter.emit(StatusEvent(generation=seen))


@define(eq=False, repr=False)
class PollLoops:
    """The poll loops of one client: one for each id in each event loop."""

    _setups: weakref.WeakValueDictionary[ClientTasks, PollSetup] = field(
        factory=weakref.WeakValueDictionary[ClientTasks, PollSetup], init=False
    )

    def join(
        self,
        generation_id: str,
        tasks: ClientTasks,
        set_up: Callable[[], PollSetup],
    ) -> PollLoop:
        """Return the running loop of an id, or a new one.

        Args:
            generation_id: The generation.
            tasks: The tasks of the client in the running event loop.
            set_up: Makes what all loops there share, for the first of them.
        """
        setup = self._setups.get(tasks)
        if setup is None:
            setup = self._setups[tasks] = set_up()
        loop = setup.loops.get(generation_id)
        if loop is None or loop.is_over:
            loop = PollLoop(generation_id=generation_id, setup=setup)
            setup.loops[generation_id] = loop
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
        ConfigurationError: It failed, or its result is not a time in seconds.
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


@define(eq=False, kw_only=True, repr=False, weakref_slot=False)
class Watch:
    """One watcher's place in the changes; between two steps it holds nothing open.

        while not watch.is_over:
            if (seen := watch.look()) is None:
                wakeup = watch.loop.enter(watch)
                try:
                    await wakeup
                finally:
                    watch.loop.leave(watch)

    Whoever awaits runs this loop: an iterator with a coroutine for each step is memory
    that every waiting watch has, and so is a `with`.

    Attributes:
        loop: The loop that polls.
        polling: This watcher's schedule.
        timeout: Its time limit, in seconds from now.
        last: The last state seen; `look` does not return it again.
        deadline: When the time is up, on the event loop's clock.
        due: When it wants the next poll, on the same clock.
        wakeup: Lets it look again, while it waits.
    """

    loop: PollLoop
    polling: Polling
    timeout: float
    last: Generation | None = None
    deadline: float = field(init=False)
    due: float = field(default=math.inf, init=False)
    wakeup: Wakeup = field(init=False)
    _place: HistoryNode = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.deadline = self.loop.setup.limiter.loop.time() + self.timeout
        self._place = self.loop.subscribe(self.last)

    @property
    def leaves_at(self) -> float:
        """When it ends, whatever happened to its last poll."""
        return self.deadline + last_look(self.timeout)

    @property
    def is_over(self) -> bool:
        """Whether it has seen the last change."""
        return self.last is not None and self.last.is_terminal

    def look(self) -> Generation | None:
        """Return the next change; None if it has to wait for one.

        Raises:
            WaitTimeoutError: The time was up before the end.
            ConfigurationError: Its schedule is not valid.
            KlingError: There will be no more changes.
        """
        while self._place.next is not None:
            seen, self._place = self._place.next
            if is_change(self.last, seen):
                self.last = seen
                return seen
        try:
            self._raise_if_ended()
            self.due = self.loop.due(self)
        except KlingError as error:
            error.concerning(self.loop.generation_id, self.last)
            raise
        return None

    def _raise_if_ended(self) -> None:
        if self.loop.error is not None:
            raise _copy_for_raise(self.loop.error)
        if self.loop.setup.tasks.is_closed:
            raise ClientClosedError(CLOSED)
        now = self.loop.setup.limiter.loop.time() + CLOCK_TICK
        has_looked = self.loop.asked_at + CLOCK_TICK >= self.deadline
        if now >= self.deadline and (has_looked or now >= self.leaves_at):
            failure = self.loop.failure
            raise WaitTimeoutError(
                self.loop.generation_id, timeout=self.timeout, failure=failure
            ) from failure


def last_look(timeout: float) -> float:
    """The time limit of the last poll, in seconds."""
    return min(_LAST_LOOK, max(1.0, timeout * _LAST_LOOK_SHARE))


def _copy_for_raise(error: KlingError) -> KlingError:
    """Copy an error for each watcher: raising it changes its traceback."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own

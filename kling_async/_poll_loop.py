"""One generation polled once for all who watch it.

Watchers turn the loop: whoever's time has come starts a poll, and all have its
news. The poll is nobody's child but the client's, so each of them may leave at any
moment. A poll that fails is made again when the next is due. Whose time is up is the
business of `_watching`.
"""

from __future__ import annotations

import math
import random
import weakref
from collections.abc import Awaitable, Callable
from typing import Protocol

import anyio
from attrs import define, evolve, field

from kling_async._errors import (
    APIStatusError,
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    KlingError,
    PermissionDeniedError,
)
from kling_async._generation import Generation
from kling_async._hooks import Reporter, RetryEvent, StatusEvent, notify
from kling_async._origins import Origin, Origins
from kling_async._polling import Completion, LearningPolling, Polling, PollState
from kling_async._retrying import may_repeat_get
from kling_async._scope import CLOCK_TICK, CLOSED, Job, Scope

# A generation may be unknown to the server for a moment after its create.
REFUSAL_GRACE = 20.0


class Fetch(Protocol):
    """Asks the server for one generation, within some seconds."""

    def __call__(self, generation_id: str, *, timeout: float) -> Awaitable[Generation]:
        """Ask."""
        ...


class Watcher(Protocol):
    """One who waits for news.

    Attributes:
        polling: When to poll, by its wish.
        last: What it has seen last.
        deadline: When it leaves, on the event loop's clock.
        nap: What it waits in; cancelled to wake it.
    """

    polling: Polling
    last: Generation | None
    deadline: float
    nap: anyio.CancelScope


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
        scope: Where the loop runs.
        reporter: Who is told, once for all watchers.
        origins: Where the generation may be known from.
        chance: Where jitter comes from: numbers in [0, 1).
        last: What was seen last.
        error: Why there will be no more polls, if it ended so.
        client_request_id: The one of the create, which polls do not tell.
    """

    generation_id: str
    fetch: Fetch
    scope: Scope
    reporter: Reporter
    origins: Origins
    chance: Callable[[], float] = random.random
    last: Generation | None = None
    error: KlingError | None = None
    client_request_id: str | None = None
    _end: Place = field(factory=Place, init=False)
    _waiting: list[Watcher] = field(factory=list[Watcher], init=False)
    _is_polled: bool = field(default=False, init=False)
    _poll: Job[None] | None = field(default=None, init=False)
    _polls: int = field(default=0, init=False)
    _chance: float = field(init=False)
    _started: float = field(factory=anyio.current_time, init=False)
    _polled_at: float = field(init=False)
    _told: Generation | None = field(default=None, init=False)
    _failure: KlingError | None = field(default=None, init=False)
    _refused_since: float = field(default=math.inf, init=False)
    _origin: Origin | None = field(init=False)
    _unfinished_at: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._origin = self.origins.of(self.generation_id, self.scope)
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
        if self.scope.is_closed:
            raise ClientClosedError(CLOSED)
        due = self._due(watcher)
        self._report_failure(due)
        watcher.nap = anyio.CancelScope()
        self._waiting.append(watcher)
        self.scope.naps.add(watcher.nap)
        try:
            with watcher.nap:
                now = anyio.current_time()
                if due <= now + CLOCK_TICK:
                    self._queue_up()
                alarm = math.inf if self._is_polled else due
                await anyio.sleep(min(alarm, watcher.deadline) - now)
        finally:
            self._remove(watcher)

    def _queue_up(self) -> None:
        if not self._is_polled:
            self._is_polled = True
            self.scope.turns.take(self._begin)

    def _remove(self, watcher: Watcher) -> None:
        self.scope.naps.discard(watcher.nap)
        self._waiting.remove(watcher)
        if not self._waiting and self._poll is not None:
            self._poll.cancel()

    def _begin(self) -> bool:
        """Start a poll, if there is still somebody who waits for it."""
        if self.scope.is_closed or not self._waiting:
            self._is_polled = False
            return False
        self._poll = self.scope.start(self._ask, at_end=self._ended)
        return True

    def _ended(self) -> None:
        self._poll, self._is_polled = None, False
        for watcher in self._waiting:
            watcher.nap.cancel()
        self.scope.turns.give_back()

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
        return self._polled_at + checked_delay(watcher.polling, state)

    def _report_failure(self, due: float) -> None:
        failure, self._failure = self._failure, None
        if failure is not None:
            event = RetryEvent(
                attempt=self._polls,
                delay=max(0.0, due - anyio.current_time()),
                error=failure,
            )
            self.reporter.retry(event)

    async def _ask(self) -> None:
        """Poll once; what fails in a way that may heal is only noted."""
        asked_at = anyio.current_time()
        until = max((it.deadline for it in self._waiting), default=asked_at)
        try:
            seen = await self.fetch(self.generation_id, timeout=until - asked_at)
        except Exception as error:  # noqa: BLE001 (told to all who watch)
            self._judge(_as_ours(error))
        else:
            self._refused_since = math.inf
            if seen.is_terminal:
                self._teach(seen)
            else:
                self._unfinished_at = asked_at
            self._see(seen)
        self._polls += 1
        self._polled_at = anyio.current_time()
        self._chance = self.chance()

    def _see(self, seen: Generation) -> None:
        views = [self.last, *(it.last for it in self._waiting)]
        if any(is_change(view, seen) for view in views):
            if seen.client_request_id is None and self.client_request_id is not None:
                seen = evolve(seen, client_request_id=self.client_request_id)
            self._tell(seen)
            self.last = seen
            self._end.next = (seen, end := Place())
            self._end = end

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
    _loops: weakref.WeakValueDictionary[tuple[Scope, str], PollLoop] = field(
        factory=weakref.WeakValueDictionary[tuple[Scope, str], PollLoop],
        init=False,
    )

    def join(
        self, generation_id: str, *, fetch: Fetch, scope: Scope, reporter: Reporter
    ) -> PollLoop:
        """Give the loop of an id, a new one if there is none that goes on."""
        key = scope, generation_id
        loop = self._loops.get(key)
        if loop is None or loop.is_over:
            loop = self._loops[key] = PollLoop(
                generation_id=generation_id,
                fetch=fetch,
                scope=scope,
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

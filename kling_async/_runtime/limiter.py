"""Decides when an exchange begins: one limiter for each client and event loop.

It has as many slots as connections, and one queue. A released slot goes to the first
of the highest class; every so often to the one that has waited
longest, whatever its class. After a 429 fewer are admitted, one after another (additive
increase, multiplicative decrease: Chiu and Jain, "Analysis of the Increase and Decrease
Algorithms for Congestion Avoidance in Computer Networks", 1989; counted as TCP counts,
RFC 5681, section 3.1). Knows no HTTP.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import partial
from typing import Self

from attrs import define, field

from kling_async._errors import ClientClosedError
from kling_async._runtime.loop import CLOCK_TICK, Loop, Timer, wake
from kling_async._runtime.tasks import CLOSED, is_in_job

# One slot in this many goes to the one that has waited longest.
_TURN = 8

# Downloads take minutes: at most this many at once, and half of the slots.
_MOST_DOWNLOADS = 16

# This many creates go out before the first is accepted; each accepted one admits one
# more (slow start, RFC 5681), so that an account's limit shows before many are refused.
_FIRST_CREATES = 12

# After a 429 the window says how many are admitted in a round of this length (seconds).
_ROUND = 1.0

# After this many seconds without a 429 the full rate is back.
_FORGIVEN = 60.0

# After an outage waiting polls are spread over this many seconds, or at this rate if
# that is faster.
_SPREAD, _LEAST_RATE = 30.0, 20.0


class Kind(IntEnum):
    """The kinds of exchanges, the most urgent first."""

    CREATE = 0
    AWAITED = 1
    LOG = 2
    DOWNLOAD = 3
    POLL = 4


_KINDS = tuple(Kind)  # to iterate over an enumeration takes ten times as long

# Kinds with limits of their own: the vendor's log, and the hosts of files.
_FREE = (Kind.LOG, Kind.DOWNLOAD)


@define(eq=False, repr=False)
class Slot:
    """The right to one exchange, until it is released.

    Attributes:
        kind: The kind of exchange.
        connection: The open connection that the exchange uses; the next one may use it.
        is_excused: Whether its 429 does not count as an attempt: the rate was too
            high for all, and is lower by now.
    """

    _limiter: Limiter
    kind: Kind
    _epoch: int
    _is_reduced: bool
    connection: object = None
    is_excused: bool = False
    _is_taken: bool = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.release()

    def release(self) -> None:
        """Give it back; a second time does nothing."""
        if self._is_taken:
            self._is_taken = False
            self._limiter._take_back(self)  # noqa: SLF001 (its own)  # pyright: ignore[reportPrivateUsage]

    def claim_connection(self) -> object:
        """Return its connection; at first an open one that nobody uses, or None.

        Only an exchange that begins has one, so closing finds all others.
        """
        idle = self._limiter._connections  # noqa: SLF001 (its own)  # pyright: ignore[reportPrivateUsage]
        if self.connection is None and idle:
            self.connection = idle.pop()
        return self.connection

    def accept(self) -> None:
        """Report that the server answered without a 429."""
        if self.kind not in _FREE:
            self._limiter._speed_up(self.kind)  # noqa: SLF001 (its own)  # pyright: ignore[reportPrivateUsage]

    def miss(self) -> None:
        """Report that the server was not reached, or failed."""
        if self.kind not in _FREE:
            self._limiter._is_out = True  # noqa: SLF001 (its own)  # pyright: ignore[reportPrivateUsage]

    def refuse(self, pause: float) -> None:
        """Report a 429.

        Args:
            pause: How long the server asks to wait, in seconds.
        """
        if self.kind in _FREE:
            return
        limiter = self._limiter
        is_news = self._epoch == limiter.epoch
        was_alone = limiter.flight <= 1
        self.is_excused = not (is_news and (self._is_reduced or was_alone))
        limiter._slow_down(pause, is_news=is_news)  # noqa: SLF001 (its own)  # pyright: ignore[reportPrivateUsage]


@define(eq=False, repr=False, weakref_slot=False)
class Waiter:
    """An exchange that waits for a slot.

    Attributes:
        number: Its number in the order of waiting.
        notify: Called when it has its slot, or when none comes: the client closed.
        may_stay: Whether it gets one though it was closed.
        slot: Its slot, once it has it.
        is_gone: Whether it no longer waits.
    """

    number: int
    notify: Callable[[Waiter], None]
    may_stay: bool = False
    slot: Slot | None = None
    is_gone: bool = False


@define(eq=False, repr=False)
class Limiter:
    """Limits the exchanges in flight, and decides which is next.

    Attributes:
        loop: The event loop, whose clock counts.
        slots: How many exchanges may be in flight.
        epoch: How often it has slowed down.
        flight: How many are in flight of the kinds that a 429 holds back.
        refusals: How many slow-downs came in a row, without an accepted exchange.
        is_closed: Whether nothing may begin any more.
    """

    loop: Loop
    slots: int
    epoch: int = field(default=0, init=False)
    flight: int = field(default=0, init=False)
    refusals: int = field(default=0, init=False)
    is_closed: bool = field(default=False, init=False)
    _busy: int = field(default=0, init=False)
    _under_way: list[int] = field(factory=lambda: [0] * len(Kind), init=False)
    _queues: list[deque[Waiter]] = field(
        factory=lambda: [deque[Waiter]() for _ in Kind], init=False
    )
    _waiting: int = field(default=0, init=False)
    _numbers: Iterator[int] = field(factory=itertools.count, init=False)
    _begun: int = field(default=0, init=False)
    _connections: list[object] = field(factory=list[object], init=False)
    _timer: Timer | None = field(default=None, init=False)
    _timer_at: float = field(default=math.inf, init=False)
    _creates: float = field(default=_FIRST_CREATES, init=False)
    _window: float = field(default=math.inf, init=False)
    _gained: int = field(default=0, init=False)
    _resume_at: float = field(default=-math.inf, init=False)
    _next_at: float = field(default=-math.inf, init=False)
    _round_at: float = field(default=-math.inf, init=False)
    _in_round: int = field(default=0, init=False)
    _in_last_round: int = field(default=0, init=False)
    _is_out: bool = field(default=False, init=False)
    _poll_gap: float = field(default=0.0, init=False)
    _spread_until: float = field(default=-math.inf, init=False)
    _next_poll_at: float = field(default=-math.inf, init=False)

    async def acquire(self, kind: Kind, until: float = math.inf) -> Slot:
        """Wait for a slot.

        Args:
            kind: The kind of exchange.
            until: When to give up, on the loop's clock.

        Raises:
            ClientClosedError: The client was closed.
            TimeoutError: There was none in time.
        """
        # Closing waits for the search for a create: that may still send requests.
        may_stay = kind is not Kind.CREATE and is_in_job()
        if self.is_closed and not may_stay:
            raise ClientClosedError(CLOSED)
        if not self._waiting and self._ready_at(kind) <= 0:
            return self._begin(kind)
        wakeup = self.loop.wakeup()
        timer = None
        if until < math.inf:
            timer = self.loop.call_at(until, partial(wake, wakeup))
        waiter = self.enqueue(kind, lambda _: wake(wakeup), may_stay=may_stay)
        try:
            await wakeup
        except BaseException:
            self.leave(waiter)
            raise
        finally:
            if timer is not None:
                timer.cancel()
        is_open = may_stay or not self.is_closed
        if waiter.slot is not None and is_open:
            return waiter.slot
        self.leave(waiter)
        if is_open:
            raise TimeoutError("no slot came free in time")
        raise ClientClosedError(CLOSED)

    def enqueue(
        self, kind: Kind, notify: Callable[[Waiter], None], *, may_stay: bool = False
    ) -> Waiter:
        """Queue for a slot; there may be one at once.

        Args:
            kind: What for.
            notify: Called when there is one, also when that is before this returns.
            may_stay: Whether to wait on when the client closes.
        """
        waiter = Waiter(next(self._numbers), notify, may_stay)
        self._queues[kind].append(waiter)
        self._waiting += 1
        self._serve()
        return waiter

    def leave(self, waiter: Waiter) -> None:
        """Wait no more, and give back what it was given; may be called again."""
        if waiter.slot is not None:
            waiter.slot.release()
        elif not waiter.is_gone:
            self._waiting -= 1
        waiter.is_gone = True

    def pause(self, seconds: float) -> None:
        """Hold back all exchanges that have not begun, for a time."""
        self._resume_at = max(self._resume_at, self.loop.time() + seconds)

    @property
    def pause_left(self) -> float:
        """How much longer exchanges are held back, in seconds."""
        return max(0.0, self._resume_at - self.loop.time())

    def close(self) -> None:
        """Let nothing begin any more, and end all waits at once."""
        self.is_closed = True
        for waiter in [it for queue in self._queues for it in queue if not it.may_stay]:
            if not waiter.is_gone:
                self.leave(waiter)  # a slot that comes back now is for those who stay
                waiter.notify(waiter)

    def stop(self) -> None:
        """Cancel the timer: nobody waits."""
        if self._timer is not None:
            self._timer.cancel()

    def take_connections(self) -> list[object]:
        """Remove and return the connections that no slot uses."""
        idle, self._connections = self._connections, []
        return idle

    def _begin(self, kind: Kind) -> Slot:
        self._busy += 1
        self._begun += 1
        self._under_way[kind] += 1
        if kind not in _FREE:
            self.flight += 1
            self._count()
        return Slot(self, kind, self.epoch, self._window < math.inf)

    def _count(self) -> None:
        """Count what begins in a round, and set the pace of what follows."""
        now = self.loop.time()
        if now >= self._round_at + _ROUND:
            is_next = now < self._round_at + 2 * _ROUND
            self._in_last_round = self._in_round if is_next else 0
            self._round_at, self._in_round = now, 0
        self._in_round += 1
        if self._window < math.inf:
            self._next_at = now + _ROUND / self._window

    def _take_back(self, slot: Slot) -> None:
        self._busy -= 1
        self._under_way[slot.kind] -= 1
        if slot.connection is not None:
            self._connections.append(slot.connection)
            slot.connection = None
        if slot.kind not in _FREE:
            self.flight -= 1
        if self._waiting:
            self._serve()

    def _speed_up(self, kind: Kind) -> None:
        """Admit one more after each full round without a 429."""
        self.refusals = 0
        if self._is_out:
            self._is_out = False
            polls = len(self._queues[Kind.POLL])
            self._poll_gap = min(_SPREAD / max(polls, 1), 1 / _LEAST_RATE)
            self._spread_until = self.loop.time() + _SPREAD
        if kind is Kind.CREATE:
            self._creates += 1
        if self._window < math.inf:
            self._gained += 1
            if self._gained >= self._window:
                self._window += 1
                self._gained = 0

    def _slow_down(self, pause: float, *, is_news: bool) -> None:
        """Admit half as many, once for all that were admitted before."""
        now = self.loop.time()
        self._resume_at = max(self._resume_at, now + pause)
        if not is_news:
            return
        self.epoch += 1
        self.refusals += 1
        self._creates = math.inf
        self._gained = 0
        recent = self._in_round if now < self._round_at + _ROUND else 0
        flight = min(self._window, max(self.flight, recent, self._in_last_round))
        self._window = max(1.0, flight // 2)

    def _ready_at(self, kind: Kind) -> float:
        """When one of a kind may begin: 0 for now, infinite when another ends."""
        if self._busy >= self.slots or self._under_way[kind] >= self._most(kind):
            return math.inf
        if kind in _FREE:
            return 0.0
        if self._window == math.inf and not self._poll_gap:
            return self._zero_if_past(self._resume_at)
        now = self.loop.time()
        if now > self._resume_at + _FORGIVEN:
            self._window, self._creates = math.inf, _FIRST_CREATES
        if self.flight >= self._window:
            return math.inf
        ready_at = max(self._resume_at, self._next_at)
        if kind is Kind.POLL:
            ready_at = max(ready_at, self._next_poll_at)
        return self._zero_if_past(ready_at)

    def _most(self, kind: Kind) -> float:
        """How many of a kind may be in flight."""
        if kind is Kind.DOWNLOAD:
            return min(_MOST_DOWNLOADS, max(1, self.slots // 2))
        return self._creates if kind is Kind.CREATE else math.inf

    def _zero_if_past(self, when: float) -> float:
        """Return 0 for a time that has passed."""
        if when == -math.inf or when <= self.loop.time() + CLOCK_TICK:
            return 0.0
        return when

    def _serve(self) -> None:
        """Let begin all that may."""
        while self._waiting and self._busy < self.slots:
            kind = self._next()
            if kind is None:
                return
            waiter = self._queues[kind].popleft()
            self._waiting -= 1
            waiter.slot = self._begin(kind)
            waiter.notify(waiter)
            if kind is Kind.POLL and self._poll_gap:
                now = self.loop.time()
                self._next_poll_at = now + self._poll_gap
                if not self._queues[kind] or now > self._spread_until:
                    self._poll_gap = 0.0

    def _next(self) -> Kind | None:
        """Return the kind that goes next; None, with a timer set, if none may yet."""
        soonest = math.inf
        ready: list[Kind] = []
        for kind, queue in zip(_KINDS, self._queues, strict=True):
            while queue and queue[0].is_gone:
                queue.popleft()
            if queue:
                when = self._ready_at(kind)
                soonest = min(soonest, when)
                if when <= 0:
                    ready.append(kind)
        if not ready:
            self._look_again_at(soonest)
            return None
        if self._begun % _TURN == _TURN - 1:
            return min(ready, key=self._first)
        return ready[0]

    def _first(self, kind: Kind) -> int:
        return self._queues[kind][0].number

    def _look_again_at(self, when: float) -> None:
        if when == math.inf or when >= self._timer_at:
            return
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self.loop.call_at(when, self._ring)

    def _ring(self) -> None:
        self._timer, self._timer_at = None, math.inf
        self._serve()

"""When to ask next: pure schedules, without a clock and without I/O.

A schedule turns the state of a wait into a number of seconds. Random numbers are part
of the state, so the same state gives the same delay.
"""

from __future__ import annotations

import math
from typing import Protocol, runtime_checkable

from attrs import field, frozen

from kling_async._checks import require_number, require_share
from kling_async._generation import Status


@frozen(kw_only=True)
class PollState:
    """What a schedule knows about a wait.

    Attributes:
        polls: How many polls have been sent so far.
        elapsed: Seconds since the watch began.
        status: The last status seen; None before the first answer.
        chance: A random number in [0, 1), for jitter.
        age: Seconds since the create; None if unknown, as for a
            generation that another process created.
        model: The id of its model; None if unknown.
        video_length: The length of its video, in seconds, if it has one to choose.
    """

    polls: int
    elapsed: float
    status: Status | None = None
    chance: float = 0.5
    age: float | None = None
    model: str | None = None
    video_length: float | None = None


@frozen(kw_only=True)
class Completion:
    """How long a generation with a video took, between two of its polls.

    Attributes:
        model: The id of its model.
        video_length: The length of its video, in seconds, if it has one to choose.
        after: Its age, in seconds, when it was last seen unfinished.
        by: Its age, in seconds, when it was seen finished.
    """

    model: str
    video_length: float | None
    after: float
    by: float


class Polling(Protocol):
    """A schedule of polls; your own needs only this method."""

    def delay(self, state: PollState, /) -> float:
        """Tell how many seconds to wait before the next poll."""
        ...


@runtime_checkable
class LearningPolling(Polling, Protocol):
    """A schedule that learns how long generations took."""

    def observe(self, completion: Completion, /) -> None:
        """Learn from a completion; called once per generation, and must not block."""
        ...


@frozen
class Exponential:
    """Exponential back-off with jitter: soon at first, then further apart.

    The delay before poll n + 1 is ``initial * factor ** n``, at most
    ``maximum``, then spread evenly by ``jitter`` to both sides, so that many
    watches begun at once do not poll at once.

    Attributes:
        initial: The first delay, in seconds.
        factor: The growth of each delay, 1 or more.
        maximum: The longest delay, in seconds, before jitter.
        jitter: The spread as a share of the delay, from 0 (none) to 1.
    """

    initial: float = 1.0
    factor: float = 1.5
    maximum: float = 10.0
    jitter: float = field(default=0.1, kw_only=True)

    def __attrs_post_init__(self) -> None:
        require_number("initial", self.initial, least=0, above=True)
        require_number("factor", self.factor, least=1)
        require_number("maximum", self.maximum, least=self.initial)
        require_share("jitter", self.jitter)

    def delay(self, state: PollState, /) -> float:
        """Tell how many seconds to wait before the next poll."""
        steps_to_maximum = (
            math.log(self.maximum / self.initial, self.factor)
            if self.factor > 1
            else math.inf
        )
        if state.polls >= steps_to_maximum:
            base = self.maximum
        else:
            base = self.initial * self.factor**state.polls
        return base * (1 + self.jitter * (2 * state.chance - 1))


@frozen
class Fixed:
    """A poll at a fixed interval.

    Attributes:
        seconds: The delay before each poll.
    """

    seconds: float = 10.0

    def __attrs_post_init__(self) -> None:
        require_number("seconds", self.seconds, least=0, above=True)

    def delay(self, _state: PollState, /) -> float:
        """Tell how many seconds to wait before the next poll."""
        return self.seconds

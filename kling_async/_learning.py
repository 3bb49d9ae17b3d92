"""`Learned`: polls where completions are, as seen for each model and video length.

Keeps what was seen. Time comes in from outside, the arithmetic is that of
`_pacing`, and files are the business of `_learned_file`.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping, Sequence
from typing import TypeAlias

from attrs import define, field, frozen

from kling_async._catalogue import MODELS
from kling_async._errors import ConfigurationError
from kling_async._pacing import Pace, Span, interpolated, pace_of
from kling_async._polling import Completion, Exponential, PollState, require

Work: TypeAlias = tuple[str, float | None]
"""What takes its own time: a model's id, and the length of the video in seconds."""

# Durations kept of each kind of work, and kinds of work.
KEPT = 128
KINDS_KEPT = 256
# It is not believed that a generation took any other number of seconds.
_SHORTEST, _LONGEST = 1e-3, 1e6
# What is told of durations counts as so many seen, before all others.
_PARTS_TOLD = 3
# Where the ends are not told: so much less for each per cent below, more beyond.
_BELOW, _BEYOND = 0.6, 0.8
# Metrics below this share of the catalogue's duration are of the HTTP exchange.
_PLAUSIBLE = 0.1
# The first gaps are those of exponential back-off, longer by so much for each
# generation seen.
_TRUST = 1.1
# A pace is made anew when this share of what it is made of is new.
_NEW_SHARE = 1 / 32


@define(eq=False)
class _History:
    """The durations of one kind of work, and the pace last made of them."""

    seen: deque[Span] = field(factory=lambda: deque[Span](maxlen=KEPT))
    unsaved: int = 0
    pace: Pace | None = None
    unpaced: int = 0

    @property
    def is_outdated(self) -> bool:
        return self.pace is None or self.unpaced > _NEW_SHARE * len(self.seen)


@frozen(eq=False, repr=False)
class Learned:
    """Polls where completions are: learns how long each model takes.

    Starts from the catalogue's typical durations, takes note of each generation
    that finishes, and puts each poll where it saves the most lateness. A model
    that it knows nothing of is polled with `Exponential`, and so is a generation
    of unknown age. One that outlasts all before it is polled with exponential
    back-off from there on. Little seen is little trusted: the first gaps grow as
    those of `Exponential` until dozens of generations were seen.

    Clients that are given the same object learn together; `save_learned` keeps
    what it knows for the next process.

    Attributes:
        lateness: The mean lateness of news to aim at, in seconds, with as few
            polls as that takes; a fifth of the typical duration where that is
            less.
        polls: The most polls for a generation, on average; None for no bound.
            It comes before ``lateness``.
        worst_gap: The longest gap between two polls, in seconds: no news is
            later. It comes before ``polls``.
        jitter: The share of the first gap by which generations that were created
            at once are spread, from 0 (none) to 1.
    """

    lateness: float = 4.0
    polls: float | None = None
    worst_gap: float = field(default=30.0, kw_only=True)
    jitter: float = field(default=0.1, kw_only=True)
    _told: dict[Work, tuple[Span, ...]] = field(factory=dict, init=False)
    _histories: dict[Work, _History] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        require("lateness", self.lateness, least=0, above=True)
        if self.polls is not None:
            require("polls", self.polls, least=0, above=True)
        require("worst_gap", self.worst_gap, least=0, above=True)
        require("jitter", self.jitter, least=0)
        if self.jitter > 1:
            raise ConfigurationError(f"jitter: given {self.jitter!r}; allowed: 0 to 1")

    def __repr__(self) -> str:
        seen = sum(len(it.seen) for it in self._histories.values())
        options = f"{self.lateness!r}, {self.polls!r}, worst_gap={self.worst_gap!r}"
        return f"<Learned({options}, jitter={self.jitter!r}) of {seen} durations>"

    def delay(self, state: PollState, /) -> float:
        """Tell how many seconds to wait before the next poll."""
        if state.age is None or state.model is None:
            return min(Exponential().delay(state), self.worst_gap)
        work = state.model, state.video_length
        pace = self._pace(work)
        if pace is None:
            return min(Exponential().delay(state), self.worst_gap)
        careful = _TRUST ** len(self._history(work).seen) * (1 + state.age / 2)
        gap = min(pace.gap(state.age), careful, self.worst_gap)
        return gap if state.polls else gap * (1 - self.jitter * state.chance)

    def observe(self, completion: Completion, /) -> None:
        """Learn from one generation that finished."""
        after, by = completion.after, completion.by
        if is_believable(after, by):
            history = self._history((completion.model, completion.video_length))
            history.seen.append((after, by))
            history.unsaved = min(history.unsaved + 1, KEPT)
            history.unpaced += 1

    def expect(
        self,
        model: str,
        percentiles: Mapping[float, float],
        *,
        video_length: float | None = None,
    ) -> bool:
        """Start from what somebody tells of durations, not from the catalogue.

        What is seen soon outweighs it. The vendor's public metrics
        (``GET /models/metrics``: ``duration_ms`` with ``p50`` to ``p99``) are such
        numbers. It is not said that they are of the whole generation, so those
        that cannot be are passed over.

        Args:
            model: The id of the model.
            percentiles: Seconds by percentile, such as ``{50: 330, 90: 400}``.
            video_length: The length of the video, in seconds; if left out, every
                length of which nothing is told by itself.

        Returns:
            Whether they were taken.

        Raises:
            ConfigurationError: They are no percentiles.
        """
        told = _parts(percentiles)
        typical = _typical(model, video_length)
        if typical is not None and told[-1][1] < _PLAUSIBLE * typical:
            return False
        self._told[model, video_length] = told
        for (name, _), history in self._histories.items():
            if name == model:
                history.pace = None
        return True

    def durations(self) -> Mapping[Work, Sequence[Span]]:
        """Give what was seen of each kind of work, the newest last.

        Each duration is two numbers of seconds: how old the generation was when
        it was last seen unfinished, and when it was seen finished.
        """
        return {work: tuple(it.seen) for work, it in self._histories.items() if it.seen}

    def remember(self, durations: Mapping[Work, Sequence[Span]]) -> None:
        """Take durations in that were seen before all that it has seen itself."""
        for work, spans in durations.items():
            history = self._history(work)
            history.seen = deque([*spans, *history.seen], KEPT)
            history.pace = None

    def unsaved(self) -> Mapping[Work, Sequence[Span]]:
        """Give those of the durations that no file has yet, as `durations` does."""
        return {
            work: tuple(it.seen)[-it.unsaved :]
            for work, it in self._histories.items()
            if it.unsaved
        }

    def mark_saved(self, durations: Mapping[Work, Sequence[Span]]) -> None:
        """Take note that a file has now what `unsaved` gave."""
        for work, spans in durations.items():
            history = self._history(work)
            history.unsaved = max(0, history.unsaved - len(spans))

    def _history(self, work: Work) -> _History:
        history = self._histories.pop(work, None) or _History()
        self._histories[work] = history
        if len(self._histories) > KINDS_KEPT:
            del self._histories[next(iter(self._histories))]
        return history

    def _pace(self, work: Work) -> Pace | None:
        history = self._history(work)
        if history.is_outdated:
            spans = (*self._told_of(work, history.seen), *history.seen)[-KEPT:]
            history.unpaced = 0
            history.pace = self._paced(spans) if spans else None
        return history.pace

    def _paced(self, spans: Sequence[Span]) -> Pace:
        return pace_of(
            spans,
            lateness=self.lateness,
            polls=self.polls,
            worst_gap=self.worst_gap,
        )

    def _told_of(self, work: Work, seen: Sequence[Span]) -> Sequence[Span]:
        """Give what is told; of what nothing is told, the first speaks for all."""
        model, video_length = work
        told = self._told.get(work) or self._told.get((model, None))
        typical = _typical(model, video_length)
        if typical is None and seen:
            typical = math.fsum(seen[0]) / 2
        return told or (_parts({50: typical}) if typical else ())


def is_believable(after: float, by: float) -> bool:
    """Whether a generation may have taken between so many seconds and so many."""
    return 0 <= after <= by and _SHORTEST <= by <= _LONGEST


def _typical(model: str, video_length: float | None) -> float | None:
    known = MODELS.get(model)
    return known.typical_seconds(video_length) if known else None


def _parts(percentiles: Mapping[float, float]) -> tuple[Span, ...]:
    """Cut what is told of durations into spans of as many generations each.

    Of the median alone, the ends are taken to be at 0.7 and 1.4 of it.
    """
    knots = sorted(percentiles.items())
    if not knots or not _rise(knots):
        raise ConfigurationError(
            f"percentiles: given {percentiles!r}; allowed: seconds, more than 0, by "
            "percentile from 0 to 100, the higher the longer",
        )
    (first, least), (last, most) = knots[0], knots[-1]
    start = 0.0, least * (1 - _BELOW * first / 100)
    end = 100.0, most * (1 + _BEYOND * (100 - last) / 100)
    percents, seconds = zip(start, *knots, end, strict=True)
    cuts = [
        interpolated(100 * part / _PARTS_TOLD, percents, seconds)
        for part in range(_PARTS_TOLD)
    ]
    return tuple(itertools.pairwise([*cuts, seconds[-1]]))


def _rise(knots: Sequence[tuple[float, float]]) -> bool:
    percents, seconds = zip(*knots, strict=True)
    return (
        percents[0] >= 0
        and percents[-1] <= 100  # noqa: PLR2004 (per cent)
        and seconds[0] > 0
        and seconds[-1] <= _LONGEST
        and list(seconds) == sorted(seconds)
    )

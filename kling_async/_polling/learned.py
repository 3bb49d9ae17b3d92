"""`Learned`: how long each model takes, the polls that follow from it, and its file.

A file that cannot be read is no error: polling learns again without it.
"""

from __future__ import annotations

import itertools
import json
import math
import operator
import os
from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias, cast

from attrs import define, field, frozen

from kling_async._checks import is_number, require, require_number, require_share
from kling_async._errors import ConfigurationError
from kling_async._hooks import logger
from kling_async._polling.schedules import Completion, Exponential, PollState
from kling_async._requests.catalogue import catalogue_in_use
from kling_async._runtime.disk import write_atomically

DurationInterval: TypeAlias = tuple[float, float]
"""A duration between two polls: more than the first number of seconds, at most the
second."""

# A span counts half as much as the one that came so many spans later, to follow drift.
_HALF_LIFE = 32

# A span is widened to this many neighbours, so that few spans make a smooth curve.
_NEIGHBOURS = 5

# For short waits a smaller lateness is the aim: a fifth of the wait.
_SHORT = 0.2

_LEAST_AIM = 0.25

# Prices to choose from, in seconds of mean lateness for a poll: 0.1 ms to 1 h.
_PRICES = [1e-4 * 1.035**step for step in range(512)]


@frozen
class PollPlan:
    """When to poll, at every age.

    Attributes:
        ages: Where the gap changes, in seconds since the create, from 0 on.
        polls: How many polls come before each of these ages.
        last_gap: The gap at the last of them, in seconds.
    """

    ages: Sequence[float]
    polls: Sequence[float]
    last_gap: float

    def gap(self, age: float) -> float:
        """Return how many seconds after an age the next poll is due.

        Args:
            age: Seconds since the create.
        """
        end = self.ages[-1]
        if age >= end:
            # Longer than any seen so far: exponential back-off from here.
            return self.last_gap + (age - end) / 2
        due = interpolate(age, self.ages, self.polls) + 1
        if due >= self.polls[-1]:
            return end + (due - self.polls[-1]) * self.last_gap - age
        return interpolate(due, self.polls, self.ages) - age


def plan_polls(
    spans: Sequence[DurationInterval],
    *,
    lateness: float,
    polls: float | None,
    worst_gap: float,
) -> PollPlan:
    """Place polls where generations like these finish.

    Args:
        spans: One or more, the newest last.
        lateness: The mean lateness to aim at, in seconds.
        polls: The most polls for a generation, on average; None for no bound.
            It comes before ``lateness``.
        worst_gap: The longest gap between two polls, in seconds. It comes first.
    """
    import statistics

    typical = statistics.median(math.fsum(span) / 2 for span in spans)
    aim = min(lateness, max(_LEAST_AIM, _SHORT * typical))
    curve = _HazardCurve(*_stretches(_widen(spans)), aim / 2, worst_gap)
    price = curve.price_of_lateness(aim)
    if polls is not None:
        price = max(price, curve.price_of_polls(polls))
    gaps = curve.gaps(price)
    return PollPlan(
        ages=_sums(curve.seconds),
        polls=_sums(map(operator.truediv, curve.seconds, gaps)),
        last_gap=min(worst_gap, max(gaps[-1], 2 * aim)),
    )


@frozen(eq=False, repr=False)
class _HazardCurve:
    """When generations finish, and which polls are worth their price.

    Ages are divided into stretches with a constant chance of completion.
    The price of a poll is the mean lateness, in seconds, that it has to save.

    Attributes:
        seconds: How long each stretch is.
        masses: The share of all generations that finish in it.
        lives: The seconds that a generation lives through in it, on average.
        least_gap: The shortest gap between two polls, in seconds.
        worst_gap: The longest.
    """

    seconds: Sequence[float]
    masses: Sequence[float]
    lives: Sequence[float]
    least_gap: float
    worst_gap: float

    def gaps(self, price: float) -> list[float]:
        """Give the gap between polls in each stretch."""
        least, worst = self.least_gap, self.worst_gap
        return [
            min(worst, max(least, math.sqrt(2 * price * life / mass)))
            if mass
            else worst
            for life, mass in zip(self.lives, self.masses, strict=True)
        ]

    def lateness(self, price: float) -> float:
        """Give the mean lateness: half the gap in which a generation finishes."""
        late = math.fsum(map(operator.mul, self.masses, self.gaps(price)))
        return late / 2 / math.fsum(self.masses)

    def polls(self, price: float) -> float:
        """Give the mean number of polls, with half a poll for the last gap."""
        return 0.5 + math.fsum(map(operator.truediv, self.lives, self.gaps(price)))

    def price_of_lateness(self, lateness: float) -> float:
        """Return the highest price at which news is not later than that."""
        at = bisect_right(_PRICES, lateness, key=self.lateness)
        return _PRICES[max(0, at - 1)]

    def price_of_polls(self, polls: float) -> float:
        """Return the lowest price at which there are not more polls than that."""
        at = bisect_left(_PRICES, -polls, key=lambda price: -self.polls(price))
        return _PRICES[min(at, len(_PRICES) - 1)]


def _widen(spans: Sequence[DurationInterval]) -> list[tuple[float, float, float]]:
    """Spread each span over its neighbours; give start, end and weight of each."""
    newest = len(spans) - 1
    weights = (0.5 ** ((newest - age) / _HALF_LIFE) for age in range(len(spans)))
    ordered = sorted(zip(spans, weights, strict=True), key=lambda it: sum(it[0]))
    middles = [math.fsum(span) / 2 for span, _ in ordered]
    reach = min(_NEIGHBOURS, newest)
    # Beyond both ends the curve is mirrored.
    before = [2 * middles[0] - it for it in middles[reach:0:-1]]
    after = [2 * middles[-1] - it for it in middles[-2 : -2 - reach : -1]]
    around = [*before, *middles, *after]
    widened: list[tuple[float, float, float]] = []
    for place, ((start, end), weight) in enumerate(ordered):
        low, high = min(start, around[place]), max(end, around[place + 2 * reach])
        widened.append((max(0.0, min(low, 0.99 * high)), high, weight))
    return widened


def _stretches(
    spans: Sequence[tuple[float, float, float]],
) -> tuple[Sequence[float], Sequence[float], Sequence[float]]:
    """Lay spans over each other; give what `_HazardCurve` asks of each stretch."""
    # One part is left for what has never been seen: as much as the newest span.
    total = 1 + math.fsum(weight for _, _, weight in spans)
    changes: list[tuple[float, float]] = []
    for start, end, weight in spans:
        rate = weight / total / (end - start)
        changes += [(start, rate), (end, -rate)]
    stretches: list[tuple[float, float, float]] = []
    age = rate = 0.0
    alive = 1.0
    for until, change in sorted(changes):
        if until > age:
            seconds = until - age
            mass = max(0.0, rate) * seconds
            stretches.append((seconds, mass, (alive - mass / 2) * seconds))
            age, alive = until, alive - mass
        rate += change
    seconds_of, masses, lives = zip(*stretches, strict=True)
    return seconds_of, masses, lives


def _sums(numbers: Iterable[float]) -> Sequence[float]:
    return tuple(itertools.accumulate(numbers, initial=0.0))


def interpolate(
    place: float, places: Sequence[float], values: Sequence[float]
) -> float:
    """Read a value between two places, the last of which lies above this one."""
    at = bisect_right(places, place) - 1
    share = (place - places[at]) / (places[at + 1] - places[at])
    return values[at] + share * (values[at + 1] - values[at])


WorkloadKey: TypeAlias = tuple[str, float | None]
"""A kind of work: a model's id, and the length of the video in seconds."""

# Durations kept of each kind of work, and kinds of work.
KEPT = 128

KINDS_KEPT = 256

# Durations outside these bounds are not believed, in seconds.
_SHORTEST, _LONGEST = 1e-3, 1e6

# Known percentiles count as this many durations, seen before all others.
_PARTS_TOLD = 3

# If the ends are not given: how much less for each per cent below, more above.
_BELOW, _BEYOND = 0.6, 0.8

# Metrics below this share of the catalogue's duration measure the HTTP exchange.
_PLAUSIBLE = 0.1

# The first gaps are those of exponential back-off, longer by so much for each
# generation seen.
_TRUST = 1.1

# A plan is made again when this share of its durations is new.
_NEW_SHARE = 1 / 32


@define(eq=False, repr=False)
class _History:
    """The durations of one kind of work, and the pace last made of them."""

    seen: deque[DurationInterval] = field(
        factory=lambda: deque[DurationInterval](maxlen=KEPT)
    )
    unsaved: int = 0
    pace: PollPlan | None = None
    unpaced: int = 0

    @property
    def is_outdated(self) -> bool:
        return self.pace is None or self.unpaced > _NEW_SHARE * len(self.seen)


@frozen(eq=False, repr=False)
class Learned:
    """Learns how long each model takes, and polls when completions are likely.

    It starts from the catalogue's typical durations, learns from each generation
    that finishes, and puts each poll where it saves the most lateness. A model
    that it knows nothing about is polled with `Exponential`, and so is a generation
    of unknown age. One that takes longer than all before it is polled with exponential
    back-off from then on. Until it has seen dozens of generations, the first gaps
    grow as those of `Exponential`.

    Clients with the same object learn together; `save_learned` keeps
    what it knows for the next process.

    Attributes:
        lateness: The mean lateness to aim at, in seconds, with as few polls as
            possible; at most a fifth of the typical duration.
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
    _told: dict[WorkloadKey, tuple[DurationInterval, ...]] = field(
        factory=dict, init=False
    )
    _histories: dict[WorkloadKey, _History] = field(factory=dict, init=False)

    def __attrs_post_init__(self) -> None:
        require_number("lateness", self.lateness, least=0, above=True)
        if self.polls is not None:
            require_number("polls", self.polls, least=0, above=True)
        require_number("worst_gap", self.worst_gap, least=0, above=True)
        require_share("jitter", self.jitter)

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
        """Start from known durations instead of the catalogue's.

        Durations that it sees soon outweigh them. The vendor's public metrics
        (``GET /models/metrics``: ``duration_ms`` with ``p50`` to ``p99``) are such
        numbers. They may not measure whole generations, so numbers that are too
        small are ignored.

        Args:
            model: The id of the model.
            percentiles: Seconds by percentile, such as ``{50: 330, 90: 400}``.
            video_length: The length of the video, in seconds; if left out, every
                length without percentiles of its own.

        Returns:
            Whether they were accepted.

        Raises:
            ConfigurationError: They are not percentiles.
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

    def durations(self) -> Mapping[WorkloadKey, Sequence[DurationInterval]]:
        """Return the durations seen of each kind of work, the newest last.

        Each duration is two numbers of seconds: how old the generation was when
        it was last seen unfinished, and when it was seen finished.
        """
        return {work: tuple(it.seen) for work, it in self._histories.items() if it.seen}

    def remember(
        self, durations: Mapping[WorkloadKey, Sequence[DurationInterval]]
    ) -> None:
        """Take durations in that were seen before all that it has seen itself."""
        for work, spans in durations.items():
            history = self._history(work)
            history.seen = deque([*spans, *history.seen], KEPT)
            history.pace = None

    def unsaved(self) -> Mapping[WorkloadKey, Sequence[DurationInterval]]:
        """Give those of the durations that no file has yet, as `durations` does."""
        return {
            work: tuple(it.seen)[-it.unsaved :]
            for work, it in self._histories.items()
            if it.unsaved
        }

    def mark_saved(
        self, durations: Mapping[WorkloadKey, Sequence[DurationInterval]]
    ) -> None:
        """Take note that a file has now what `unsaved` gave."""
        for work, spans in durations.items():
            history = self._history(work)
            history.unsaved = max(0, history.unsaved - len(spans))

    def _history(self, work: WorkloadKey) -> _History:
        history = self._histories.pop(work, None) or _History()
        self._histories[work] = history
        if len(self._histories) > KINDS_KEPT:
            del self._histories[next(iter(self._histories))]
        return history

    def _pace(self, work: WorkloadKey) -> PollPlan | None:
        history = self._history(work)
        if history.is_outdated:
            spans = (*self._prior_for(work, history.seen), *history.seen)[-KEPT:]
            history.unpaced = 0
            history.pace = self._plan_from(spans) if spans else None
        return history.pace

    def _plan_from(self, spans: Sequence[DurationInterval]) -> PollPlan:
        return plan_polls(
            spans,
            lateness=self.lateness,
            polls=self.polls,
            worst_gap=self.worst_gap,
        )

    def _prior_for(
        self, work: WorkloadKey, seen: Sequence[DurationInterval]
    ) -> Sequence[DurationInterval]:
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
    known = catalogue_in_use().get(model)
    return known.typical_seconds(video_length) if known else None


def _parts(percentiles: Mapping[float, float]) -> tuple[DurationInterval, ...]:
    """Cut what is told of durations into spans of as many generations each.

    Of the median alone, the ends are taken to be at 0.7 and 1.4 of it.
    """
    allowed = "seconds, more than 0, by percentile from 0 to 100, the higher the longer"
    require("percentiles", percentiles, allowed, fits=_rise(percentiles))
    knots = sorted(percentiles.items())
    (first, least), (last, most) = knots[0], knots[-1]
    start = 0.0, least * (1 - _BELOW * first / 100)
    end = 100.0, most * (1 + _BEYOND * (100 - last) / 100)
    percents, seconds = zip(start, *knots, end, strict=True)
    cuts = [
        interpolate(100 * part / _PARTS_TOLD, percents, seconds)
        for part in range(_PARTS_TOLD)
    ]
    return tuple(itertools.pairwise([*cuts, seconds[-1]]))


def _rise(given: object) -> bool:
    """Whether these are percentiles: the higher, the longer."""
    if not isinstance(given, Mapping) or not given:
        return False
    percents, seconds = zip(*cast("Mapping[float, float]", given).items(), strict=True)
    are_numbers = all(is_number(it, 0, 100) for it in percents) and all(
        is_number(it, math.ulp(0), _LONGEST) for it in seconds
    )
    return are_numbers and [given[it] for it in sorted(percents)] == sorted(seconds)


VERSION = 1


def load_learned(
    path: str | os.PathLike[str], learned: Learned | None = None
) -> Learned:
    """Read what was learned from a file.

    A file that is missing, broken, or of a later version is ignored, with a line in
    the log. Blocks for a moment: call it before the event loop runs, or in a thread.

    Args:
        path: The file that `save_learned` wrote.
        learned: The object to fill; a new `Learned` if left out.
    """
    learned = Learned() if learned is None else learned
    learned.remember(_read(Path(path)))
    return learned


def save_learned(learned: Learned, path: str | os.PathLike[str]) -> None:
    """Add what was learned to a file, which is replaced as a whole.

    It adds only new durations to those that other processes have saved. If two save at
    the very same moment, the later one's file wins. Blocks for a moment: call it after
    the event loop has ended, or in a thread.

    Raises:
        ConfigurationError: The file cannot be written.
    """
    news = learned.unsaved()
    known = dict(_read(Path(path)))
    for work, spans in news.items():
        known[work] = (*known.pop(work, ()), *spans)
    newest = dict(list(known.items())[-KINDS_KEPT:])
    try:
        write_atomically(path, _encode(newest))
    except OSError as error:
        raise ConfigurationError(
            f"path: given {os.fspath(path)!r}; allowed: a file that can be written, "
            f"in a directory that is there ({error.strerror or error})",
        ) from error
    learned.mark_saved(news)


def _encode(durations: Mapping[WorkloadKey, Sequence[DurationInterval]]) -> bytes:
    rows = [
        {
            "model": model,
            "video_length": video_length,
            "seconds": [[round(after, 3), round(by, 3)] for after, by in spans[-KEPT:]],
        }
        for (model, video_length), spans in durations.items()
    ]
    return json.dumps({"version": VERSION, "durations": rows}).encode()


def _read(path: Path) -> Mapping[WorkloadKey, Sequence[DurationInterval]]:
    try:
        content: object = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, RecursionError) as error:
        logger.warning("ignored %s, a file of learned durations: %s", path, error)
        return {}
    if not isinstance(content, dict) or content.get("version") != VERSION:
        logger.warning("ignored %s: no durations that this version can read", path)
        return {}
    return dict(_works(content.get("durations")))


def _works(rows: object) -> Iterator[tuple[WorkloadKey, Sequence[DurationInterval]]]:
    """Give what in the file is as it should be; the rest is passed over."""
    for row in rows if isinstance(rows, list) else ():
        match row:
            case {
                "model": str(model),
                "video_length": None | int() | float() as video_length,
                "seconds": list(spans),
            }:
                yield (model, video_length), tuple(_spans(spans))
            case _:
                pass


def _spans(values: Sequence[object]) -> Iterator[DurationInterval]:
    for value in values[-KEPT:]:
        match value:
            case [int() | float() as after, int() | float() as by]:
                if is_believable(after, by):
                    yield after, by
            case _:
                pass

"""`Learned`: where it polls, what it learns and forgets, what it never does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from random import Random

import pytest
from hypothesis import given, settings, strategies as st

from kling_async import (
    Completion,
    ConfigurationError,
    Exponential,
    Fixed,
    Learned,
    LearningPolling,
    Polling,
    PollState,
)
from kling_async._polling.learned import KEPT, KINDS_KEPT

MASTER = "klingai/v2-master-image-to-video"  # 330 s by the catalogue, 750 s for 10 s
SILENT = "klingai/video-v3-motion-control"  # of which nobody says how long it takes


def at(
    age: float | None,
    *,
    model: str | None = MASTER,
    polls: int = 1,
    length: float = 5,
    chance: float = 0.0,
) -> PollState:
    """Make the state of a watch at an age."""
    return PollState(
        polls=polls,
        elapsed=age or 0.0,
        chance=chance,
        age=age,
        model=model,
        video_length=length,
    )


def finished(after: float, by: float, *, model: str = MASTER) -> Completion:
    """Make a completion of a 5 s video."""
    return Completion(model=model, video_length=5, after=after, by=by)


def taught(
    durations: Sequence[float], *, model: str = MASTER, learned: Learned | None = None
) -> Learned:
    """Let a schedule see generations that took so many seconds."""
    learned = learned or Learned()
    for seconds in durations:
        learned.observe(finished(max(0, seconds - 1), seconds, model=model))
    return learned


def around(median: float, count: int, spread: float = 0.12) -> list[float]:
    """Draw durations."""
    random = Random(median)
    return [random.lognormvariate(math.log(median), spread) for _ in range(count)]


def ages_of_polls(polling: Polling, until: float, model: str = MASTER) -> list[float]:
    """Follow a schedule from the create on, up to an age."""

    def follow() -> Iterator[float]:
        age = 0.0
        for polls in itertools.count():
            age += polling.delay(at(age, polls=polls, model=model))
            yield age

    return list(itertools.takewhile(lambda age: age <= until, follow()))


def gap_at(polling: Polling, age: float) -> float:
    """Give the gap between the polls around an age."""
    ages = ages_of_polls(polling, age + 100)
    return next(b - a for a, b in itertools.pairwise(ages) if b > age)


def test_polls_are_dense_where_generations_finish_and_rare_where_none_does() -> None:
    """Around the typical duration gaps are a fraction of those long before it."""
    learned = taught(around(330, 60))
    assert gap_at(learned, 100) == pytest.approx(30)
    assert gap_at(learned, 330) < 10


def test_two_modes_have_polls_each_and_few_between() -> None:
    """It learns the shape, not just a mean."""
    learned = taught([*around(150, 64, 0.04), *around(420, 64, 0.04)][::-1])
    assert gap_at(learned, 150) < 10
    assert gap_at(learned, 290) > 20
    assert gap_at(learned, 420) < 10


def test_the_catalogue_is_where_it_starts() -> None:
    """Before anything was seen, polls are dense where the vendor says."""
    learned = Learned()
    assert gap_at(learned, 330) < gap_at(learned, 100)
    longer = [learned.delay(at(age, length=10)) for age in (330.0, 750.0)]
    assert longer[1] < longer[0]


def test_the_first_gaps_of_a_new_one_are_those_of_exponential_back_off() -> None:
    """Whatever the catalogue says: a short job is seen soon, as on a fast emulator."""
    new, back_off = Learned(jitter=0), Exponential(jitter=0)
    states = [at(age, polls=polls) for polls, age in enumerate([0, 1, 2.5, 4.75])]
    assert [new.delay(it) for it in states] == [back_off.delay(it) for it in states]


@pytest.mark.parametrize(
    "state",
    [at(None), at(40.0, model=None), at(40.0, model=SILENT), at(1.0, model="new-one")],
    ids=["unknown age", "unknown model", "nothing told of it", "not in the catalogue"],
)
def test_what_it_knows_nothing_of_is_polled_with_back_off(state: PollState) -> None:
    """Then it is `Exponential`, within the worst gap."""
    assert taught(around(330, 60)).delay(state) == Exponential().delay(state)
    assert Learned(worst_gap=0.5).delay(state) == 0.5


def test_a_model_that_nobody_speaks_of_is_learned_too() -> None:
    """A few generations are enough for the gaps to follow."""
    learned = taught(around(90, 20), model=SILENT)
    ages = ages_of_polls(learned, 200, model=SILENT)
    back_off = ages_of_polls(Exponential(), 200)
    assert len([age for age in ages if age < 50]) < len(
        [age for age in back_off if age < 50]
    )
    assert len([age for age in ages if 70 < age < 110]) > 5


def test_each_video_length_is_learned_by_itself() -> None:
    """Ten seconds of video take longer than five."""
    learned = taught(around(330, 60))
    before = Learned()
    assert learned.delay(at(400, length=10)) == before.delay(at(400, length=10))
    assert learned.delay(at(200)) != before.delay(at(200))


def test_what_outlasts_all_that_was_seen_is_polled_further_and_further_apart() -> None:
    """Beyond what is known: exponential back-off, up to the worst gap."""
    learned = taught(around(330, 60))
    gaps = [
        b - a
        for a, b in itertools.pairwise(ages_of_polls(learned, 900))
        if a > 1.5 * 330
    ]
    assert gaps == sorted(gaps)
    assert gaps[0] < 20
    assert gaps[-1] == pytest.approx(30)


def test_drift_is_followed_and_the_past_forgotten() -> None:
    """After some dozens of slower generations polls are where they finish now."""
    learned = taught(around(200, 128))
    assert gap_at(learned, 200) < 10
    taught(around(500, 96), learned=learned)
    assert gap_at(learned, 500) < 10
    assert gap_at(learned, 200) > 20


def test_an_observation_is_as_vague_as_the_polls_that_made_it() -> None:
    """Seen between 200 and 400 s is anywhere between, not at 300 s."""
    vague, exact = Learned(), Learned()
    for _ in range(40):
        vague.observe(finished(200, 400))
        exact.observe(finished(299, 301))
    assert gap_at(exact, 300) < gap_at(vague, 300) < 15
    assert gap_at(vague, 220) < gap_at(exact, 220)


def test_a_budget_is_no_duty_to_spend_it() -> None:
    """Where fewer polls bring the lateness asked for, fewer are sent."""
    durations = around(330, 60)
    plain, rich = taught(durations), taught(durations, learned=Learned(polls=1000))
    assert ages_of_polls(plain, 500) == ages_of_polls(rich, 500)


def test_the_worst_gap_comes_before_the_budget() -> None:
    """One poll for 330 s would break the promise that no news is later."""
    learned = taught(around(330, 60), learned=Learned(polls=1))
    gaps = [b - a for a, b in itertools.pairwise(ages_of_polls(learned, 500))]
    assert gaps == [pytest.approx(30)] * len(gaps)


def test_less_lateness_takes_more_polls() -> None:
    """The first option is a dial between early news and few polls."""
    counts = [
        len(ages_of_polls(taught(around(330, 60), learned=Learned(aim)), 400))
        for aim in (1.0, 4.0, 8.0)
    ]
    assert counts == sorted(counts, reverse=True)
    assert counts[0] > 2 * counts[2]


def test_short_work_is_not_told_late() -> None:
    """Of ten seconds four are much: the aim shrinks with the duration."""
    learned = taught(around(10, 80), model=SILENT)
    ages = ages_of_polls(learned, 60, model=SILENT)
    late = [next(age for age in ages if age >= s) - s for s in around(10, 50)]
    assert sum(late) / len(late) < 2.2


@pytest.mark.parametrize("chance", [0.0, 0.5, 0.99])
def test_those_created_at_once_are_spread_from_the_first_poll_on(chance: float) -> None:
    """The first gap is shortened by up to ``jitter``; later ones are not."""
    learned = taught(around(330, 60), learned=Learned(jitter=0.5))
    whole = learned.delay(at(0.0, polls=1))
    assert learned.delay(at(0.0, polls=1, chance=chance)) == whole
    first = learned.delay(at(0.0, polls=0, chance=chance))
    assert first == pytest.approx(whole * (1 - 0.5 * chance))


SECONDS = st.floats(0, 1e4) | st.floats() | st.sampled_from([0.0, 1e-3, 1e6])


@given(
    spans=st.lists(st.tuples(SECONDS, SECONDS), max_size=40),
    ages=st.lists(st.floats(0, 1e5) | st.floats(0, 1e12), min_size=1),
    lateness=st.floats(1e-3, 1e3),
    polls=st.none() | st.floats(1e-3, 1e4),
    worst_gap=st.floats(1e-3, 1e4),
    chance=st.floats(0, 1, exclude_max=True),
)
@settings(derandomize=True, deadline=None)
def test_no_delay_leaves_its_bounds(
    spans: list[tuple[float, float]],
    ages: list[float],
    lateness: float,
    polls: float | None,
    worst_gap: float,
    chance: float,
) -> None:
    """Whatever it was told and asked: above 0, at most the worst gap, and pure."""
    learned = Learned(lateness, polls, worst_gap=worst_gap)
    for after, by in spans:
        learned.observe(finished(after, by))
    for sent, age in enumerate(ages):
        state = at(age, polls=sent, chance=chance)
        delay = learned.delay(state)
        assert 0 < delay <= worst_gap
        assert age + delay > age or age > 1e9
        assert learned.delay(state) == delay


@pytest.mark.parametrize(
    "after, by",
    [(-1, 5), (6, 5), (0, 0), (0, math.inf), (math.nan, 5), (0, math.nan), (0, 1e7)],
)
def test_what_cannot_be_is_not_learned(after: float, by: float) -> None:
    """A clock that jumped does not spoil what is known."""
    learned = Learned()
    learned.observe(finished(after, by))
    assert learned.durations() == {}


def test_it_learns_by_itself_what_a_watch_tells_it() -> None:
    """It is a `LearningPolling`; the plain schedules are not."""
    assert isinstance(Learned(), LearningPolling)
    assert not isinstance(Exponential(), LearningPolling)
    assert not isinstance(Fixed(), LearningPolling)


def test_what_is_learned_while_a_file_is_written_waits_for_the_next_one() -> None:
    """Saving happens in a thread; generations finish meanwhile."""
    learned = taught([300.0, 310.0])
    written = learned.unsaved()
    taught([320.0], learned=learned)
    learned.mark_saved(written)
    assert learned.unsaved() == {(MASTER, 5): ((319, 320),)}


def test_its_memory_is_bounded() -> None:
    """Old durations and kinds of work not met for long make room."""
    learned = taught(around(330, KEPT + 50))
    assert len(learned.durations()[MASTER, 5]) == KEPT
    for number in range(2 * KINDS_KEPT):
        taught([60.0], model=f"model-{number}", learned=learned)
        learned.delay(at(3.0))
    known = learned.durations()
    assert len(known) == KINDS_KEPT
    assert (MASTER, 5) in known
    assert ("model-0", 5) not in known


def test_what_others_measured_takes_the_place_of_the_catalogue() -> None:
    """As of the vendor's metrics: the median and the slowest, in seconds."""
    learned = Learned()
    assert learned.delay(at(330)) < learned.delay(at(600))
    assert learned.expect(MASTER, {50: 600, 75: 640, 90: 700, 99: 800})
    assert learned.delay(at(600)) < learned.delay(at(330))
    assert learned.expect(MASTER, {50: 330}, video_length=5)
    assert learned.delay(at(330)) < learned.delay(at(600))
    assert learned.delay(at(600, length=10)) < learned.delay(at(330, length=10))


def test_what_was_seen_outweighs_what_others_measured() -> None:
    """Being told is a beginning, no more."""
    learned = taught(around(330, 60))
    assert learned.expect(MASTER, {50: 900})
    assert gap_at(learned, 330) < 10


def test_metrics_of_the_http_exchange_are_passed_over() -> None:
    """Where the catalogue says minutes, half a second was not the generation."""
    learned, plain = Learned(), Learned()
    assert not learned.expect(MASTER, {50: 0.4, 99: 2.5})
    assert learned.delay(at(50)) == plain.delay(at(50))
    assert learned.expect(SILENT, {50: 0.4, 99: 2.5})


@pytest.mark.parametrize(
    "percentiles",
    [
        *({}, {50: 0}, {-1: 5}, {101: 5}, {50: 9, 90: 8}, {50: math.nan}),
        *(
            {50: math.inf},
            {50: "9"},
            {"p50": 9},
            {None: 9},
            {50: True},
            [(50, 9)],
            None,
        ),
    ],
    ids=repr,
)
def test_percentiles_that_make_no_sense_are_refused(percentiles: object) -> None:
    """The message shows what was given and what is allowed."""
    with pytest.raises(ConfigurationError, match="percentiles: given"):
        Learned().expect(MASTER, percentiles)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options, told",
    [
        ({"lateness": 0}, "lateness: given 0; allowed: more than 0, finite"),
        ({"lateness": math.inf}, "lateness: given inf; allowed: more than 0, finite"),
        ({"polls": 0}, "polls: given 0; allowed: more than 0, finite"),
        ({"polls": math.nan}, "polls: given nan; allowed: more than 0, finite"),
        ({"worst_gap": 0}, "worst_gap: given 0; allowed: more than 0, finite"),
        ({"jitter": -1}, "jitter: given -1; allowed: 0 to 1"),
        ({"jitter": 1.1}, "jitter: given 1.1; allowed: 0 to 1"),
    ],
    ids=repr,
)
def test_a_schedule_that_makes_no_sense_is_refused(
    options: dict[str, float], told: str
) -> None:
    """The message names the option, what was given and what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        Learned(**options)
    assert str(caught.value) == told


def test_it_shows_its_options_and_how_much_it_knows() -> None:
    """And not hundreds of numbers."""
    assert repr(taught([5.0, 6.0])) == (
        "<Learned(4.0, None, worst_gap=30.0, jitter=0.1) of 2 durations>"
    )

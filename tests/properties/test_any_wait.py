"""Any schedule, policy or header: how long to wait is a finite span, within bounds.

What hypothesis thinks of goes in: odd durations, broken files, servers that ask for
quiet in both forms of ``Retry-After``.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from jumping_clock import run_on

from kling_async import (
    Completion,
    Exponential,
    Fixed,
    KlingError,
    Learned,
    Polling,
    PollState,
    RateLimitError,
    RetryPolicy,
    Status,
    load_learned,
    save_learned,
)
from kling_async._failures import may_repeat_get, repeat
from kling_async._http.wire import Response, decode_error

MODEL = "klingai/v2-master-text-to-video"
NOW = dt.datetime(2026, 11, 24, 18, 0, tzinfo=dt.UTC)
MORE = settings(derandomize=True, deadline=None)

spans = st.floats(0, 1e7)
states = st.builds(
    PollState,
    polls=st.integers(0, 10**9),
    elapsed=spans,
    status=st.none() | st.text().map(Status),
    chance=st.floats(0, 1, exclude_max=True),
    age=st.none() | spans,
    model=st.none() | st.just(MODEL) | st.text(),
    video_length=st.none() | st.sampled_from([5, 10]) | st.floats(0, 1e3),
)
completions = st.builds(
    Completion,
    model=st.just(MODEL) | st.text(),
    video_length=st.none() | st.sampled_from([5, 10]) | st.floats(),
    after=st.floats(),
    by=st.floats(),
)


# Schedules


@pytest.mark.parametrize(
    "polling, longest",
    [(Exponential(), 11.0), (Fixed(7), 7.0), (Learned(), 30.0)],
    ids=lambda it: type(it).__name__,
)
@given(state=states)
@MORE
def test_a_schedule_gives_the_same_span_for_the_same_state(
    polling: Polling, longest: float, state: PollState
) -> None:
    """It is more than nothing, bounded, and hangs on the state alone."""
    delay = polling.delay(state)
    assert 0 < delay <= longest
    assert polling.delay(state) == delay


@given(state=states, more=st.integers(1, 100))
@MORE
def test_back_off_never_becomes_quicker(state: PollState, more: int) -> None:
    """Without jitter each delay is as long as the one before, or longer."""
    schedule = Exponential(0.5, 1.3, 20, jitter=0)
    later = PollState(polls=state.polls + more, elapsed=state.elapsed)
    assert schedule.delay(state) <= schedule.delay(later)


@given(seen=st.lists(completions, max_size=20), states=st.lists(states, min_size=1))
@MORE
def test_no_completion_spoils_a_schedule_that_learns(
    seen: list[Completion], states: list[PollState]
) -> None:
    """Durations that are negative, endless or no numbers are not believed."""
    learned = Learned(worst_gap=30)
    for completion in seen:
        learned.observe(completion)
    for state in states:
        assert 0 < learned.delay(state) <= 30


@given(content=st.binary() | st.text().map(str.encode), seen=st.lists(completions))
@settings(MORE, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_file_of_durations_is_an_error(
    tmp_path: Path, content: bytes, seen: list[Completion]
) -> None:
    """It is passed over and replaced, and what is replaced reads back."""
    path = tmp_path / "durations.json"
    path.write_bytes(content)
    learned = load_learned(path)
    for completion in seen:
        learned.observe(completion)
    save_learned(learned, path)
    assert load_learned(path).durations().keys() == learned.durations().keys()


# Retry-After


def asked(value: str) -> float | None:
    """Read how long a server asks to wait."""
    headers = {
        "retry-after": value,
        "date": email.utils.format_datetime(NOW, usegmt=True),
    }
    error = decode_error(Response(status_code=429, headers=headers, content=b""))
    return error.retry_after


@given(seconds=st.integers(0, 10**9))
@MORE
def test_both_forms_of_retry_after_tell_the_same(seconds: int) -> None:
    """RFC 9110, section 10.2.3: a number of seconds, or the date then."""
    date = NOW + dt.timedelta(seconds=seconds)
    assert asked(str(seconds)) == seconds
    assert asked(email.utils.format_datetime(date, usegmt=True)) == seconds
    assert asked(email.utils.format_datetime(date)) == seconds


@given(seconds=st.integers(-(10**9), -1))
@MORE
def test_a_date_that_has_passed_asks_for_no_wait(seconds: int) -> None:
    """Nor does a negative number."""
    date = NOW + dt.timedelta(seconds=seconds)
    assert asked(str(seconds)) == 0
    assert asked(email.utils.format_datetime(date, usegmt=True)) == 0


# Back-off

policies = st.builds(
    RetryPolicy,
    attempts=st.integers(2, 12),
    initial=st.floats(0, 1e3),
    factor=st.floats(1, 1e3),
    maximum=st.floats(0, 1e4),
    max_retry_after=st.floats(0, 1e4),
)


@given(policy=policies, asked=st.lists(st.none() | spans, min_size=12, max_size=12))
@MORE
def test_no_wait_before_an_attempt_leaves_the_policys_bounds(
    policy: RetryPolicy, asked: list[float | None]
) -> None:
    """As long as the server asks, within the cap, and else at most the maximum."""
    told: list[float] = []

    async def attempt() -> None:
        raise RateLimitError("", status_code=429, retry_after=asked[len(told)])

    def before_wait(number: int, delay: float, error: KlingError) -> None:
        assert number == len(told) + 1
        bound = min(policy.maximum, policy.initial * policy.factor ** (number - 1))
        least = min(getattr(error, "retry_after", None) or 0, policy.max_retry_after)
        assert least <= delay <= max(least, bound)
        assert math.isfinite(delay)
        told.append(delay)

    async def tried() -> None:
        with pytest.raises(RateLimitError):
            await repeat(attempt, policy, may_repeat_get, before_wait)

    run_on("asyncio", tried)
    assert len(told) == policy.attempts - 1

"""What may be tried again: the billing rule as a table over every error."""

from __future__ import annotations

import asyncio
import datetime as dt
import math
from collections.abc import Callable, Iterator

import pytest
from attrs import frozen
from attrs.exceptions import FrozenInstanceError

from kling_async import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    DownloadError,
    Generation,
    GenerationFailedError,
    InvalidRequestError,
    JobConflictError,
    JobError,
    KlingError,
    NotFoundError,
    OutOfCreditsError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
    Status,
    SubmissionUncertainError,
    TransportError,
    WaitTimeoutError,
)
from kling_async._failures import (
    Fate,
    Healing,
    may_be_accepted,
    may_repeat_create,
    may_repeat_create_at_own_risk,
    may_repeat_get,
    meaning_of,
)


@frozen
class Decision:
    """What each of the three questions is answered with for one error."""

    error: BaseException
    get: bool
    create: bool
    uncertain: bool

    def __str__(self) -> str:
        error = self.error
        detail = getattr(error, "status_code", getattr(error, "request_sent", ""))
        return f"{type(error).__name__}-{detail}".rstrip("-")


def answered(cls: type[APIStatusError], status_code: int) -> APIStatusError:
    """Make the error of an answer."""
    return cls("no", status_code=status_code)


LOST = SubmissionUncertainError(
    client_request_id="request-1", since=dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
)
FAILED = Generation(id="g-1", status=Status.ERROR)
POLICY: Callable[..., RetryPolicy] = RetryPolicy  # takes what a caller may give
NETWORK = (TransportError, RequestTimeoutError, ConnectionFailedError)

HARMLESS = tuple(  # never reached the queue: any call may go again
    Decision(error, get=True, create=True, uncertain=False)
    for error in (
        answered(RateLimitError, 429),
        answered(APIStatusError, 425),
        *(cls("refused", request_sent=False) for cls in NETWORK),
    )
)
UNCERTAIN = tuple(  # may have been accepted: reading again is free, creating is not
    Decision(error, get=True, create=False, uncertain=True)
    for error in (
        *(cls("reset", request_sent=True) for cls in NETWORK),
        *(answered(ServerError, code) for code in (500, 502, 503, 504, 599)),
        answered(APIStatusError, 408),
        DecodeError("not JSON", status_code=200),
    )
)
OPEN = tuple(  # nothing to repeat, and work may be going on
    Decision(error, get=False, create=False, uncertain=True) for error in (LOST,)
)
DONE = (  # to a create it says: look there; a GET would be sent there again
    Decision(answered(APIStatusError, 303), get=False, create=False, uncertain=True),
)
FINAL = tuple(  # the same again would end the same
    Decision(error, get=False, create=False, uncertain=False)
    for error in (
        KlingError("any"),
        ConfigurationError("no key"),
        ClientClosedError("closed"),
        InvalidRequestError([]),
        *(answered(APIStatusError, code) for code in (302, 402, 409, 418, 422)),
        answered(BadRequestError, 400),
        answered(AuthenticationError, 401),
        answered(PermissionDeniedError, 403),
        answered(OutOfCreditsError, 403),
        answered(NotFoundError, 404),
        GenerationFailedError(FAILED),
        WaitTimeoutError("g-1", timeout=1.0),
        DownloadError("disk full"),
        BudgetExceededError(budget=1, spent=1, in_flight=0, needed=1),
        JobError("ended", key="a"),
        JobConflictError("taken", key="a"),
        ValueError("a bug"),
        TimeoutError("not translated"),
        OSError("not translated"),
        asyncio.CancelledError(),
        KeyboardInterrupt(),
    )
)
DECISIONS = (*HARMLESS, *UNCERTAIN, *OPEN, *DONE, *FINAL)


def tree_below(cls: type[KlingError]) -> Iterator[type[KlingError]]:
    """Give the library's public subclasses, this class first."""
    if cls.__module__ == "kling_async":
        yield cls
    for subclass in cls.__subclasses__():
        yield from tree_below(subclass)


def test_the_table_decides_on_every_error_there_is() -> None:
    """A new error class without a decision fails here."""
    decided = {type(row.error) for row in DECISIONS}
    assert set(tree_below(KlingError)) <= decided


@pytest.mark.parametrize("row", DECISIONS, ids=str)
def test_reading_again_is_decided_by_what_time_could_heal(row: Decision) -> None:
    """GET: connection faults, time-outs, 408, 429, 5xx, an unreadable body."""
    assert may_repeat_get(row.error) is row.get


@pytest.mark.parametrize("row", DECISIONS, ids=str)
def test_a_create_is_repeated_only_if_it_never_reached_the_queue(row: Decision) -> None:
    """POST: faults before the request was sent, and 429; nothing else."""
    assert may_repeat_create(row.error) is row.create


@pytest.mark.parametrize("row", DECISIONS, ids=str)
def test_a_create_is_uncertain_wherever_it_may_have_been_accepted(
    row: Decision,
) -> None:
    """Sent and unanswered, answered without sense, or by a failing server."""
    assert may_be_accepted(row.error) is row.uncertain


@pytest.mark.parametrize("row", DECISIONS, ids=str)
def test_what_is_uncertain_is_never_repeated(row: Decision) -> None:
    """The billing rule itself: no error is both uncertain and safe to repeat."""
    assert not (may_repeat_create(row.error) and may_be_accepted(row.error))


@pytest.mark.parametrize("row", DECISIONS, ids=str)
def test_at_ones_own_risk_lost_answers_are_repeated_too(row: Decision) -> None:
    """``uncertain="retry"`` adds exactly the uncertain submission."""
    expected = row.create or row.error is LOST
    assert may_repeat_create_at_own_risk(row.error) is expected


@pytest.mark.parametrize("status", [401, 403, 404])
def test_a_gateways_page_is_read_again_and_the_vendors_own_word_is_not(
    status: int,
) -> None:
    """A challenge, a login or a missing route may be gone in a moment."""
    page = APIStatusError("Who are you?", status_code=status, from_vendor=False)
    assert may_repeat_get(page)
    assert not may_repeat_create(page)
    assert not may_repeat_get(answered(APIStatusError, status))


@pytest.mark.parametrize("status", [400, 402, 405, 409, 422])
def test_what_a_gateway_says_of_the_request_is_final(status: int) -> None:
    """The same request would be answered the same."""
    page = APIStatusError("No.", status_code=status, from_vendor=False)
    assert not may_repeat_get(page)


@pytest.mark.parametrize(
    "healing, statuses",
    [
        (Healing.SOMEBODY, [401, 402, 403, 407]),
        (Healing.TIME, [408, 425, 429, *range(500, 600)]),
        (Healing.NOTHING, [302, 303, 400, 404, 405, 406, 409, 410, 413, 418, 422, 426]),
    ],
)
def test_what_heals_a_failure_is_known_by_its_status(
    healing: Healing, statuses: list[int]
) -> None:
    """A job waits for somebody who can help; it fails where nothing will."""
    assert {meaning_of(it).healing for it in statuses} == {healing}


def test_a_proxy_that_wants_a_password_has_sent_nothing_on() -> None:
    """So that a job may go again once it has one."""
    assert meaning_of(407).fate is Fate.UNSENT
    assert meaning_of(403).fate is Fate.REFUSED


def test_the_default_policy_never_risks_a_second_bill() -> None:
    """Five attempts, half a second to half a minute, a Retry-After of a minute."""
    policy = RetryPolicy()
    assert policy.uncertain == "reconcile"
    assert policy.reconcile_timeout == 60
    assert (policy.attempts, policy.initial, policy.factor) == (5, 0.5, 2.0)
    assert (policy.maximum, policy.max_retry_after) == (30.0, 60.0)


def test_a_policy_is_a_frozen_value() -> None:
    """Clients may share one: it cannot change, and equals its like."""
    policy = RetryPolicy(attempts=2)
    with pytest.raises(FrozenInstanceError):
        policy.attempts = 3  # type: ignore[misc]  # what must not be possible
    assert policy == RetryPolicy(attempts=2)


@pytest.mark.parametrize(
    "options",
    [
        {"attempts": 1},
        {"initial": 0},
        {"factor": 1},
        {"maximum": 0},
        {"max_retry_after": 0},
        {"reconcile_timeout": 0},
        {"uncertain": "retry"},
        {"uncertain": "raise"},
    ],
    ids=repr,
)
def test_the_bounds_themselves_are_allowed(options: dict[str, float]) -> None:
    """One attempt, no wait at all and no growth are policies too."""
    (name, value), *_ = options.items()
    assert getattr(POLICY(**options), name) == value


@pytest.mark.parametrize(
    "name, value, allowed",
    [
        *(("attempts", value, "1 or more") for value in (0, -1, math.nan, "5", None)),
        *(
            (name, value, "0 or more, finite")
            for name in ("initial", "maximum", "max_retry_after", "reconcile_timeout")
            for value in (-0.1, math.nan, math.inf, "1", None)
        ),
        *(
            ("factor", value, "1 or more, finite")
            for value in (0.9, -2, math.nan, math.inf, "2", None)
        ),
        *(
            ("uncertain", value, "'reconcile', 'raise', 'retry'")
            for value in ("perhaps", "", None, True)
        ),
    ],
    ids=repr,
)
def test_a_policy_that_makes_no_sense_is_refused(
    name: str, value: object, allowed: str
) -> None:
    """The message names the option, what was given and what is allowed."""
    options: dict[str, object] = {name: value}
    with pytest.raises(ConfigurationError) as caught:
        POLICY(**options)
    assert str(caught.value).startswith(f"{name}: given {value!r}; allowed: {allowed}")

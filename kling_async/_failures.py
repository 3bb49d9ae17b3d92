"""What a failure means, and when to try again: one table, read by everyone.

Everything that repeats, resumes, waits, gives up or picks an exit code reads it.
tenacity repeats calls *inside* the mapping of foreign errors, so that it sees the
errors that the table decides on.
"""

from __future__ import annotations

import datetime as dt
import email.utils
import math
import random
import re
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from importlib import import_module
from typing import TYPE_CHECKING, Literal, TypeVar, get_args

import anyio
from attrs import field, frozen

from kling_async._checks import require, require_count, require_number
from kling_async._errors import (
    APIStatusError,
    BudgetExceededError,
    ClientClosedError,
    ConfigurationError,
    DecodeError,
    DownloadError,
    GenerationFailedError,
    InvalidRequestError,
    JobConflictError,
    KlingError,
    SubmissionUncertainError,
    TransportError,
    WaitTimeoutError,
)

if TYPE_CHECKING:
    from tenacity import RetryCallState

T = TypeVar("T")

OnUncertain = Literal["reconcile", "raise", "retry"]

_ON_UNCERTAIN: tuple[OnUncertain, ...] = get_args(OnUncertain)


class Healing(Enum):
    """What can cure a failure."""

    TIME = "time"
    """It passes: an outage, a limit, a broken answer. The same again may succeed."""

    SOMEBODY = "somebody"
    """Somebody has to act: set a key, top up the account, raise a budget."""

    NOTHING = "nothing"
    """The same request ends the same way."""


class Fate(Enum):
    """What a failure says about the create that ended in it."""

    UNSENT = "unsent"
    """Refused by the client, or lost before its first byte: the server saw nothing."""

    REFUSED = "refused"
    """The server said no: nothing is queued, nothing is billed."""

    UNKNOWN = "unknown"
    """It may have been accepted, and may be running and billed."""

    ACCEPTED = "accepted"
    """It was accepted: the failure came later."""


@frozen(eq=False, repr=False)
class Meaning:
    """A row of the table.

    Attributes:
        fate: What the failure says about a create.
        healing: What can cure it.
    """

    fate: Fate
    healing: Healing


# Statuses that mean something else than their class (RFC 9110, section 15, unless
# another source is named).
_BY_STATUS: Mapping[int, Meaning] = {
    303: Meaning(Fate.UNKNOWN, Healing.NOTHING),  # to a POST: done, look there
    401: Meaning(Fate.REFUSED, Healing.SOMEBODY),
    402: Meaning(Fate.REFUSED, Healing.SOMEBODY),
    403: Meaning(Fate.REFUSED, Healing.SOMEBODY),  # out of credits, among others
    407: Meaning(Fate.UNSENT, Healing.SOMEBODY),  # from a proxy
    408: Meaning(Fate.UNKNOWN, Healing.TIME),
    425: Meaning(Fate.REFUSED, Healing.TIME),  # not processed: RFC 8470, section 5.2
    429: Meaning(Fate.REFUSED, Healing.TIME),  # RFC 6585, section 4
}

# If they are not from the vendor: a challenge, a login, or a route missing for a while.
_SAID_BY_GATEWAYS = frozenset({401, 403, 404})

_ANY_OTHER = Meaning(Fate.REFUSED, Healing.NOTHING)

# An answer that does not come, or a server's own failure (5xx).
_LOST = Meaning(Fate.UNKNOWN, Healing.TIME)

# Its answer was lost, and the vendor's log lists it as failed.
_UNBILLED = Meaning(Fate.REFUSED, Healing.TIME)

_NEVER_SENT = Meaning(Fate.UNSENT, Healing.TIME)

# Subclasses before their base classes.
_BY_KIND: tuple[tuple[type[KlingError], Meaning], ...] = (
    (DecodeError, _LOST),
    (SubmissionUncertainError, Meaning(Fate.UNKNOWN, Healing.SOMEBODY)),
    (WaitTimeoutError, Meaning(Fate.ACCEPTED, Healing.SOMEBODY)),
    (GenerationFailedError, Meaning(Fate.ACCEPTED, Healing.NOTHING)),
    (DownloadError, Meaning(Fate.ACCEPTED, Healing.NOTHING)),
    (ClientClosedError, Meaning(Fate.UNSENT, Healing.SOMEBODY)),
    (BudgetExceededError, Meaning(Fate.UNSENT, Healing.SOMEBODY)),
    (ConfigurationError, Meaning(Fate.UNSENT, Healing.NOTHING)),
    (InvalidRequestError, Meaning(Fate.UNSENT, Healing.NOTHING)),
    (JobConflictError, Meaning(Fate.UNSENT, Healing.NOTHING)),
)


def meaning_of(failure: BaseException | int) -> Meaning:
    """Look up an error, or the status of an answer, in the table."""
    if isinstance(failure, KlingError) and failure.is_unbilled:
        return _UNBILLED
    if isinstance(failure, APIStatusError):
        failure = failure.status_code
    if isinstance(failure, int):
        is_servers = failure // 100 == 5  # noqa: PLR2004 (RFC 9110, section 15.6)
        return _BY_STATUS.get(failure, _LOST if is_servers else _ANY_OTHER)
    if isinstance(failure, TransportError):
        return _LOST if failure.request_sent else _NEVER_SENT
    rows = (row for kind, row in _BY_KIND if isinstance(failure, kind))
    return next(rows, _ANY_OTHER)


def may_repeat_get(failure: BaseException | int) -> bool:
    """Whether a GET may be repeated: whenever time may cure the failure."""
    return meaning_of(failure).healing is Healing.TIME or _is_gateways_page(failure)


def _is_gateways_page(failure: BaseException | int) -> bool:
    """Whether a gateway refuses, which may pass, and not the vendor."""
    return (
        isinstance(failure, APIStatusError)
        and not failure.from_vendor
        and failure.status_code in _SAID_BY_GATEWAYS
    )


def may_repeat_create(failure: BaseException | int) -> bool:
    """Whether a create may be sent again: only if it certainly was not accepted."""
    meaning = meaning_of(failure)
    return meaning.healing is Healing.TIME and meaning.fate is not Fate.UNKNOWN


def may_repeat_create_at_own_risk(failure: BaseException | int) -> bool:
    """Whether a caller who accepts the risk of a second bill may send it again."""
    return may_repeat_create(failure) or isinstance(failure, SubmissionUncertainError)


def may_be_accepted(failure: BaseException | int) -> bool:
    """Whether a create with this failure may be running and billed."""
    return meaning_of(failure).fate is Fate.UNKNOWN


def may_resume_download(status: int) -> bool:
    """Whether a download with this answer may continue after a while."""
    return meaning_of(status).healing is Healing.TIME


@frozen(kw_only=True)
class RetryPolicy:
    """How often and how long to try again.

    The wait before attempt n + 1 is random, evenly spread between 0 and
    ``initial * factor ** (n - 1)`` seconds (full jitter: "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015), at most ``maximum``, and never less
    than the server's ``Retry-After`` (RFC 9110, section 10.2.3).

    Attributes:
        attempts: How many attempts in all; 1 means no retry. After so many failed polls
            in a row, a watch returns to its normal schedule.
        initial: The upper bound of the first wait, in seconds.
        factor: By how much this bound grows with each further wait.
        maximum: The largest such bound, in seconds.
        max_retry_after: The longest ``Retry-After`` honoured, in seconds; longer
            ones are cut to this.
        uncertain: What to do if a create was sent and its answer was lost.
            ``"reconcile"`` looks it up in the vendor's request log: if the log lists
            the generation, that is returned; if it lists a failure, the first error
            is raised; if neither in time, `SubmissionUncertainError` is raised.
            ``"raise"`` raises that at once. ``"retry"`` sends the create again at
            once, which may bill twice.
        reconcile_timeout: How long to search the log, in seconds.
    """

    attempts: int = 5
    initial: float = 0.5
    factor: float = 2.0
    maximum: float = 30.0
    max_retry_after: float = 60.0
    uncertain: OnUncertain = field(default="reconcile")
    reconcile_timeout: float = 60.0

    def __attrs_post_init__(self) -> None:
        import_module("tenacity")  # which the loop of the first retry would wait for
        require_count("attempts", self.attempts)
        allowed = ", ".join(map(repr, _ON_UNCERTAIN))
        fits = self.uncertain in _ON_UNCERTAIN
        require("uncertain", self.uncertain, allowed, fits=fits)
        require_number("initial", self.initial, least=0)
        require_number("factor", self.factor, least=1)
        require_number("maximum", self.maximum, least=0)
        require_number("max_retry_after", self.max_retry_after, least=0)
        require_number("reconcile_timeout", self.reconcile_timeout, least=0)


def retry_after_from(headers: Mapping[str, str]) -> float | None:
    """Read how many seconds a server asks to wait (RFC 9110, section 10.2.3).

    It is seconds, or a date by the server's own clock if the answer has a ``Date``. A
    header that comes twice is one list (section 5.3): the longest wait counts.
    """
    value = headers.get("retry-after", "")
    now = date_from(headers.get("date", "")) or dt.datetime.now(dt.UTC)
    waits = [
        seconds
        for part in _RETRY_AFTER.findall(value)
        if (seconds := _seconds_from(part, now)) is not None
    ]
    return max(waits, default=None)


# Seconds, or a date: its weekday has a comma of its own (RFC 9110, section 5.6.7).
_RETRY_AFTER = re.compile(r"(?:[A-Za-z]+,)?[^,]+")


def _seconds_from(text: str, now: dt.datetime) -> float | None:
    try:
        seconds = float(text)
    except ValueError:
        date = date_from(text)
        if date is None:
            return None
        seconds = (date - now).total_seconds()
    return max(0.0, seconds) if math.isfinite(seconds) else None


def date_from(text: str) -> dt.datetime | None:
    """Read an HTTP date (RFC 9110, section 5.6.7); None if it is not one."""
    try:
        date = email.utils.parsedate_to_datetime(text.strip())
    except (ValueError, OverflowError):
        return None
    return date if date.tzinfo else date.replace(tzinfo=dt.UTC)


def backoff(policy: RetryPolicy, attempt: int, retry_after: float | None) -> float:
    """Return a random number of seconds to wait after failed attempts.

    Args:
        policy: The bounds.
        attempt: How many failed in a row, from 1.
        retry_after: What the server asked for, in seconds.
    """
    bound = longest_backoff(policy, attempt)
    asked = min(retry_after or 0.0, policy.max_retry_after)
    return max(random.uniform(0, bound), asked)  # noqa: S311 (jitter is no secret)


def longest_backoff(policy: RetryPolicy, attempt: int) -> float:
    """Return the most seconds to wait after failed attempts, unless the server asks."""
    try:
        return min(policy.initial * policy.factor ** (attempt - 1), policy.maximum)
    except OverflowError:
        return policy.maximum


def wait_after(error: BaseException, attempt: int, policy: RetryPolicy) -> float:
    """Return a random number of seconds to wait after the nth error in a row."""
    return backoff(policy, attempt, getattr(error, "retry_after", None))


async def repeat(
    attempt: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    may_repeat: Callable[[BaseException], bool],
    before_wait: Callable[[int, float, KlingError], None],
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
) -> T:
    """Make an attempt, and repeat it while that is allowed; raise the last error.

    Args:
        attempt: Makes one attempt.
        policy: How often and how long.
        may_repeat: Whether an attempt may be repeated after an error.
        before_wait: Gets the attempt's number, the wait in seconds, and the error.
        sleep: Waits for a number of seconds.
    """
    try:
        return await attempt()
    except KlingError as error:
        if policy.attempts == 1 or not may_repeat(error):
            # Without our own frames a traceback fits on a screen.
            raise error.with_traceback(None) from error.__cause__
        delay = wait_after(error, 1, policy)
        before_wait(1, delay, error)
    await sleep(delay)
    # Only now: tenacity inspects its callables for longer than most calls take.
    return await _repeat(attempt, policy, may_repeat, before_wait, sleep)


async def _repeat(
    attempt: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    may_repeat: Callable[[BaseException], bool],
    before_wait: Callable[[int, float, KlingError], None],
    sleep: Callable[[float], Awaitable[None]],
) -> T:
    """Make the attempts after the first one."""
    # Not above: it takes a tenth of the time to import all else.
    from tenacity import AsyncRetrying, retry_if_exception, stop_after_attempt

    def wait(state: RetryCallState) -> float:
        return wait_after(_error_of(state), state.attempt_number + 1, policy)

    def tell(state: RetryCallState) -> None:
        error = _error_of(state)
        if isinstance(error, KlingError):
            before_wait(state.attempt_number + 1, state.upcoming_sleep, error)

    retrying = AsyncRetrying(
        stop=stop_after_attempt(policy.attempts - 1),
        wait=wait,
        retry=retry_if_exception(may_repeat),
        before_sleep=tell,
        sleep=sleep,
        reraise=True,
    )

    async def make_attempt() -> T:  # tenacity awaits what it can see to be a coroutine
        return await attempt()

    try:
        return await retrying(make_attempt)
    except KlingError as error:
        raise error.with_traceback(None) from error.__cause__  # tenacity's frames


def _error_of(state: RetryCallState) -> BaseException:
    error = state.outcome.exception() if state.outcome else None
    if error is None:
        raise TypeError("tenacity waits after failures alone")
    return error

"""Which failure may be tried again, and when.

The decisions are here; tenacity does the repeating, *inside* the mapping of
foreign errors, so that what it sees is what it decides on.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Literal, TypeVar, get_args

import anyio
from attrs import field, frozen
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_exception,
    stop_after_attempt,
    wait_random_exponential,
)

from kling_async._checks import is_whole, require
from kling_async._errors import (
    APIStatusError,
    ConfigurationError,
    DecodeError,
    KlingError,
    RateLimitError,
    ServerError,
    SubmissionUncertainError,
    TransportError,
)

T = TypeVar("T")

Uncertain = Literal["reconcile", "raise", "retry"]

_UNCERTAIN: tuple[Uncertain, ...] = get_args(Uncertain)

_REQUEST_TIMEOUT = 408

# To a POST it says: done, look there (RFC 9110, section 15.4.4).
_SEE_OTHER = 303


@frozen(kw_only=True)
class RetryPolicy:
    """How often and how long to try again.

    The wait before attempt n + 1 is random, evenly spread between 0 and
    ``initial * factor ** (n - 1)`` seconds (full jitter: "Exponential Backoff And
    Jitter", AWS Architecture Blog, 2015), at most ``maximum``, and never less
    than the server's ``Retry-After`` (RFC 9110, section 10.2.3).

    Attributes:
        attempts: How many attempts in all; 1 means never again. After so many polls
            of a watch have failed in a row, the next comes when it is due.
        initial: The upper bound of the first wait, in seconds.
        factor: What this bound is multiplied with for each further wait.
        maximum: The greatest such bound, in seconds.
        max_retry_after: The longest ``Retry-After`` honoured, in seconds; a
            longer one counts as this much.
        uncertain: What to do when a create was sent and its answer was lost.
            ``"reconcile"`` looks it up in the vendor's request log: found, it is
            returned as if nothing had happened; failed, it is sent again;
            neither in time, `SubmissionUncertainError` is raised. ``"raise"``
            raises that at once. ``"retry"`` sends it again at once, which may
            bill twice.
        reconcile_timeout: How long to look for it, in seconds.
    """

    attempts: int = 5
    initial: float = 0.5
    factor: float = 2.0
    maximum: float = 30.0
    max_retry_after: float = 60.0
    uncertain: Uncertain = field(default="reconcile")
    reconcile_timeout: float = 60.0

    def __attrs_post_init__(self) -> None:
        if not is_whole(self.attempts) or self.attempts < 1:
            raise ConfigurationError(
                f"attempts: given {self.attempts!r}; allowed: 1 or more",
            )
        if self.uncertain not in _UNCERTAIN:
            allowed = ", ".join(map(repr, _UNCERTAIN))
            raise ConfigurationError(
                f"uncertain: given {self.uncertain!r}; allowed: {allowed}",
            )
        require("initial", self.initial, least=0)
        require("factor", self.factor, least=1)
        require("maximum", self.maximum, least=0)
        require("max_retry_after", self.max_retry_after, least=0)
        require("reconcile_timeout", self.reconcile_timeout, least=0)


def may_repeat_get(error: BaseException) -> bool:
    """Reading twice harms nobody: all that a later answer could heal."""
    return isinstance(error, RateLimitError | TransportError) or _is_unclear(error)


def may_repeat_create(error: BaseException) -> bool:
    """A create costs money: only what certainly never reached the queue."""
    if isinstance(error, TransportError):
        return not error.request_sent
    return isinstance(error, RateLimitError)


def may_repeat_create_at_own_risk(error: BaseException) -> bool:
    """As above, and lost answers too: the caller chose to risk a second bill."""
    return may_repeat_create(error) or isinstance(error, SubmissionUncertainError)


def is_uncertain(error: BaseException) -> bool:
    """Whether a create that ended so may have been accepted."""
    if isinstance(error, TransportError):
        return error.request_sent
    is_done = isinstance(error, APIStatusError) and error.status_code == _SEE_OTHER
    return is_done or _is_unclear(error)


def _is_unclear(error: BaseException) -> bool:
    """Whether the server answered without telling what it did."""
    if isinstance(error, APIStatusError):
        return isinstance(error, ServerError) or error.status_code == _REQUEST_TIMEOUT
    return isinstance(error, DecodeError)


async def repeat(
    attempt: Callable[[], Awaitable[T]],
    policy: RetryPolicy,
    may_repeat: Callable[[BaseException], bool],
    before_wait: Callable[[int, float, KlingError], None],
) -> T:
    """Make an attempt, and others where it may be repeated; raise the last error.

    Args:
        attempt: What to make.
        policy: How often and how long.
        may_repeat: Which errors may be tried again.
        before_wait: Told the attempt's number, the wait in seconds, the error.
    """
    try:
        return await attempt()
    except KlingError as error:
        if not may_repeat(error):
            raise
        failed = error
    # Only now: most calls never need it. Its state is not to be shared by tasks.
    return await _repeat(failed, attempt, _retrying(policy, may_repeat, before_wait))


async def _repeat(
    error: KlingError, attempt: Callable[[], Awaitable[T]], retrying: AsyncRetrying
) -> T:
    """Go on after a first attempt that failed."""
    failed = [error]

    async def next_attempt() -> T:
        if failed:
            raise failed.pop()
        return await attempt()

    return await retrying(next_attempt)


def wait_after(error: KlingError, attempt: int, policy: RetryPolicy) -> float:
    """Tell how many seconds to wait after so many attempts that failed in a row."""
    retrying = _retrying(policy, lambda _: True, lambda *_: None)
    state = RetryCallState(retrying, None, (), {})
    state.attempt_number = attempt
    state.set_exception((type(error), error, None))
    return retrying.wait(state)


def _retrying(
    policy: RetryPolicy,
    may_repeat: Callable[[BaseException], bool],
    before_wait: Callable[[int, float, KlingError], None],
) -> AsyncRetrying:
    backoff = wait_random_exponential(
        multiplier=policy.initial,
        max=policy.maximum,
        exp_base=policy.factor,
    )

    def wait(state: RetryCallState) -> float:
        asked = getattr(_error_of(state), "retry_after", None) or 0.0
        return max(backoff(state), min(asked, policy.max_retry_after))

    def tell(state: RetryCallState) -> None:
        error = _error_of(state)
        if isinstance(error, KlingError):
            before_wait(state.attempt_number, state.upcoming_sleep, error)

    return AsyncRetrying(
        stop=stop_after_attempt(policy.attempts),
        wait=wait,
        retry=retry_if_exception(may_repeat),
        before_sleep=tell,
        sleep=anyio.sleep,
        reraise=True,
    )


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome else None

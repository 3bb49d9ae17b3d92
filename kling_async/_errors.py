"""Every exception that a public method raises.

    KlingError
    ├── ConfigurationError            the client was set up wrongly
    ├── ClientClosedError             used after aclose()
    ├── InvalidRequestError           refused here, before a byte was sent
    ├── APIStatusError                the API answered with a refusal
    │   ├── BadRequestError           400
    │   ├── AuthenticationError       401
    │   ├── PermissionDeniedError     403
    │   │   └── OutOfCreditsError
    │   ├── NotFoundError             404
    │   ├── RateLimitError            429
    │   └── ServerError               5xx
    ├── TransportError                the network failed
    │   ├── RequestTimeoutError
    │   └── ConnectionFailedError
    ├── DecodeError                   the answer is not what the API promises
    ├── BudgetExceededError           a create would exceed the budget: not sent
    ├── SubmissionUncertainError      a create may or may not have been accepted
    ├── GenerationFailedError         the generation ended without a video
    ├── WaitTimeoutError              it had not ended when the time was up
    ├── DownloadError                 the video could not be written
    └── JobError                      a durable job that cannot give its video
        └── JobConflictError      it has another request or state than expected

All of them can be pickled; after a create they carry the generation.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal, Self

from attrs import frozen

from kling_async._generation import Generation
from kling_async._text import pluralize, safe_line

Hint = Literal[
    "allow_plain_http",
    "allow_private_downloads",
    "check_the_key",
    "get_a_fresh_link",
    "give_a_key",
    "pass_unknown_fields",
    "reconcile",
    "resume",
    "skip_media_check",
    "take_any_format",
    "take_more_bytes",
    "start_the_emulator",
    "top_up",
    "wait_longer_for_a_download",
]
"""What to do about an error, as a key that each face puts into its own words."""

# For programmers. `kling_async.cli` has its own words for shell users.
_HINTS: Mapping[Hint, str] = {
    "allow_plain_http": "AsyncKling(allow_plain_http=True) sends it anyway",
    "allow_private_downloads": "AsyncKling(allow_private_downloads=True) allows it",
    "check_the_key": "check the API key (argument api_key, or AIMLAPI_KEY)",
    "get_a_fresh_link": "`await kling.get(generation_id)` gives a fresh link",
    "give_a_key": "in a program AsyncKling(api_key=...) takes one",
    "pass_unknown_fields": "others can be given in extra={...}",
    "reconcile": (
        "`await kling.reconcile(error.client_request_id, since=error.since)` does"
    ),
    "resume": "wait(error.generation_id) continues",
    "skip_media_check": "AsyncKling(check_media=False) sends it anyway",
    "take_any_format": "download(..., check_mp4=False) takes it as it is",
    "take_more_bytes": "download(..., max_bytes=...) takes more",
    "start_the_emulator": "is the emulator running? `kling-async emulator` starts it",
    "top_up": "top up the account, then ask again: nothing was billed",
    "wait_longer_for_a_download": "download(..., timeout=...) waits longer",
}


class KlingError(Exception):
    """The root of all errors of this library.

    Attributes:
        generation: The generation concerned, as last seen, if known.
        generation_id: Its id; ``await kling.wait(error.generation_id)`` continues.
        client_request_id: The id that its create was sent with, if known.
        is_unbilled: Whether the vendor's request log lists the create as failed, so
            that it costs nothing. False proves nothing.
        hint: What to do about it, as a key: ``"give_a_key"``, ``"reconcile"``, ...;
            ``str(error)`` words it for programmers, the command for shell users.
    """

    hint: Hint | None = None
    generation: Generation | None = None
    generation_id: str | None = None
    client_request_id: str | None = None
    is_unbilled: bool = False

    def concerning(
        self,
        generation_id: str,
        generation: Generation | None = None,
    ) -> Self:
        """Note which generation this error is about, and return the error."""
        self.generation_id = generation_id
        if generation is not None:
            self.generation = generation
            self.client_request_id = (
                generation.client_request_id or self.client_request_id
            )
        return self

    def with_hint(self, hint: Hint) -> Self:
        """Note what to do about it, and return the error."""
        self.hint = hint
        return self

    @property
    def reason(self) -> str:
        """What happened, without advice in terms of Python."""
        reason = self._message()
        if self.is_unbilled:
            reason += "; the vendor's request log lists it as failed: nothing is billed"
        return reason

    @property
    def is_settled(self) -> bool:
        """Whether the generation concerned is known to have ended."""
        return self.generation is not None and self.generation.is_terminal

    def _message(self) -> str:
        """Return its words, a server's among them, on one line."""
        return safe_line(super().__str__())

    def __str__(self) -> str:
        message = self.reason
        if self.hint is not None:
            message = f"{message}; {_HINTS[self.hint]}"
        if self.generation_id is None:
            return message
        about = f"{message} [generation {safe_line(self.generation_id)}"
        if self.generation is not None:
            about += f", last seen {safe_line(self.generation.status)}"
        if self.is_settled:
            return about + "]"
        return f"{about}; it may still be running and billed: {_HINTS['resume']}]"

    def __reduce__(
        self,
    ) -> tuple[object, tuple[type[KlingError], tuple[object, ...], dict[str, object]]]:
        return _restore, (type(self), self.args, dict(self.__dict__))


def _restore(
    cls: type[KlingError],
    args: tuple[object, ...],
    state: Mapping[str, object],
) -> KlingError:
    """Rebuild an error from a pickle, whatever its constructor takes."""
    error = cls.__new__(cls, *args)
    error.args = args
    error.__dict__.update(state)
    return error


class ConfigurationError(KlingError):
    """The client was set up in a way that cannot work."""


class ClientClosedError(KlingError):
    """The client was used after it was closed."""


@frozen
class Problem:
    """One thing that is wrong with a request.

    Attributes:
        field: The field, as the API names it: ``duration``, ``image_list[2]``,
            ``camera_control.config.zoom``.
        given: What was given, shortened.
        allowed: What is allowed there.
        hint: What to do about it, in words.
        advice: What to do about it, as a key that each face puts into its own words.
    """

    field: str
    given: str
    allowed: str
    hint: str | None = None
    advice: Hint | None = None

    def __str__(self) -> str:
        return self.in_words(_HINTS)

    def in_words(self, hints: Mapping[Hint, str]) -> str:
        """Say it, with the advice in the words of one face."""
        text = f"{self.field}: given {self.given}; allowed {self.allowed}"
        more = [self.hint] if self.hint else []
        if self.advice is not None:
            advice = hints[self.advice]
            more.append(f"{advice[0].upper()}{advice[1:]}.")
        return ". ".join([text, " ".join(more)]) if more else text


class InvalidRequestError(KlingError):
    """The request was refused here: nothing was sent, nothing is billed.

    Attributes:
        problems: Everything that is wrong with it, at once.
    """

    def __init__(
        self, problems: Sequence[Problem], *, model: str | None = None
    ) -> None:
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.model = model
        of = f" for {safe_line(model)}" if model else ""
        count = pluralize(len(self.problems), "problem")
        lines = "".join(f"\n  - {safe_line(problem)}" for problem in self.problems)
        super().__init__(f"invalid request{of}, {count}, nothing was sent:{lines}")

    def _message(self) -> str:
        return Exception.__str__(self)


class APIStatusError(KlingError):
    """The API answered with a refusal.

    Attributes:
        status_code: The HTTP status.
        message: The server's own explanation.
        request_id: The vendor's id of this request, to quote to its support.
        body: The body as text, shortened.
        retry_after: How many seconds the server asks to wait, if it does.
        from_vendor: Whether the answer is in the vendor's own form. The page of a
            gateway is not, and says nothing about a generation.
    """

    def __init__(
        self,
        message: str,
        *,
        status_code: int,
        request_id: str | None = None,
        body: str = "",
        retry_after: float | None = None,
        from_vendor: bool = True,
    ) -> None:
        self.message = message
        self.from_vendor = from_vendor
        self.status_code = status_code
        self.request_id = request_id
        self.body = body
        self.retry_after = retry_after
        traced = f" (request id {request_id})" if request_id else ""
        super().__init__(f"the API answered {status_code}: {message}{traced}")


class BadRequestError(APIStatusError):
    """400: the request does not fit the model."""


class AuthenticationError(APIStatusError):
    """401: the key is missing or wrong."""

    hint: Hint | None = "check_the_key"


class PermissionDeniedError(APIStatusError):
    """403: this key is not allowed to do that."""


class OutOfCreditsError(PermissionDeniedError):
    """403: the account has no credits left."""

    hint: Hint | None = "top_up"


class NotFoundError(APIStatusError):
    """404: no such generation, model or endpoint."""


class RateLimitError(APIStatusError):
    """429: too many requests, or too many generations at once."""


class ServerError(APIStatusError):
    """5xx: the service, or one behind it, failed."""


class TransportError(KlingError):
    """The network failed before the answer was complete.

    Attributes:
        request_sent: False if the server certainly received nothing.
    """

    def __init__(self, message: str, *, request_sent: bool) -> None:
        self.request_sent = request_sent
        super().__init__(message)


class RequestTimeoutError(TransportError):
    """One HTTP exchange took longer than the client's ``timeout``."""


class ConnectionFailedError(TransportError):
    """The connection could not be made, or broke."""


class DecodeError(KlingError):
    """The answer is not what the API promises.

    Attributes:
        status_code: The HTTP status that it came with.
        body: The body as text, shortened.
    """

    def __init__(self, message: str, *, status_code: int, body: str = "") -> None:
        self.status_code = status_code
        self.body = body
        shown = f"; the body begins {body[:120]!r}" if body else ""
        super().__init__(f"{message} (HTTP {status_code}){shown}")


class BudgetExceededError(KlingError):
    """A create would exceed the budget: it was not sent and is not billed.

    All amounts are in credits; 2,000,000 are 1 USD.

    Attributes:
        budget: The budget.
        spent: What was spent of it by then.
        in_flight: What is reserved for generations that had not ended.
        needed: What this create would cost; None if unknown.
    """

    def __init__(
        self, *, budget: float, spent: float, in_flight: float, needed: float | None
    ) -> None:
        self.budget = budget
        self.spent = spent
        self.in_flight = in_flight
        self.needed = needed
        cost = "its price is not known" if needed is None else f"it costs {needed:,.0f}"
        super().__init__(
            f"not created: it would exceed the budget of {budget:,.0f} credits: "
            f"{spent:,.0f} are spent, {in_flight:,.0f} in flight, and {cost}",
        )


class SubmissionUncertainError(KlingError):
    """A create was sent and its answer was lost: it may be running and billed.

    It is not sent again, since that could bill twice, unless
    ``RetryPolicy(uncertain="retry")`` is set.

    Attributes:
        client_request_id: The id that it was sent with: the vendor's request
            log lists it beside the generation's id.
        since: When it was sent (UTC, by the vendor's clock if known): search that log
            from this time on.
    """

    hint: Hint | None = "reconcile"

    def __init__(
        self, *, client_request_id: str, since: dt.datetime, reason: str | None = None
    ) -> None:
        self.client_request_id: str = client_request_id  # pyright: ignore[reportIncompatibleVariableOverride]  # here it is always known
        self.since = since
        because = f" ({reason})" if reason else ""
        super().__init__(
            "the answer to a create was lost, so it may be running and "
            f"billed{because}. Before you send it again, look in the vendor's request "
            f"log for client request id {client_request_id} since "
            f"{since.isoformat(timespec='seconds')}"
        )


class GenerationFailedError(KlingError):
    """The generation ended without a video; `generation` says why."""

    def __init__(self, generation: Generation) -> None:
        reason = str(generation.error or "") or "the server gave no reason"
        super().__init__(f"the generation failed: {reason}")
        self.concerning(generation.id, generation)


class WaitTimeoutError(KlingError):
    """The generation had not ended when the time was up.

    It was not cancelled: it goes on at the server and is billed.

    Attributes:
        timeout: How long the wait lasted, in seconds.

    If the last poll failed, its error is the cause, and the message says it.
    """

    def __init__(
        self,
        generation_id: str,
        *,
        timeout: float,
        generation: Generation | None = None,
        failure: KlingError | None = None,
    ) -> None:
        self.timeout = timeout
        why = f"; the last poll failed: {failure.reason}" if failure else ""
        super().__init__(f"not finished after {timeout:g} s{why}")
        self.concerning(generation_id, generation)


class DownloadError(KlingError):
    """The video could not be downloaded or written; no partial file is left."""


class JobError(KlingError):
    """A durable job has no video to give: it failed, is held, or was cancelled.

    Attributes:
        key: The job's key.
        state: Its state, such as ``"held"``.
    """

    def __init__(self, message: str, *, key: str, state: str | None = None) -> None:
        self.key = key
        self.state = state
        super().__init__(message)


class JobConflictError(JobError):
    """A job has another request or state than the caller expects."""


def causes_of(error: BaseException) -> Iterator[BaseException]:
    """Walk an error and all that led to it, each once: a chain may be a ring."""
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        it = left.pop()
        if it is None or id(it) in seen:
            continue
        seen.add(id(it))
        yield it
        left += [it.__context__, it.__cause__]
        if isinstance(it, BaseExceptionGroup):
            left += it.exceptions


def drop_frames(error: BaseException) -> None:
    """Remove the tracebacks of an error and all its causes: locals hold secrets."""
    for it in causes_of(error):
        it.__traceback__ = None

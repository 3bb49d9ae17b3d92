"""Events of the client's work, for hooks and for the log.

A hook observes; it never decides. If it raises, the error is logged and ignored, so
that no observer can lose a generation.
"""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping
from typing import Literal, TypeAlias, TypeVar

from attrs import frozen

from kling_async._errors import KlingError
from kling_async._generation import Generation, Status
from kling_async._text import safe_line, spell_out

logger = logging.getLogger("kling_async")


def _make_safe(record: logging.LogRecord) -> bool:
    """Keep a server's text from controlling a terminal or forging a log line."""
    if isinstance(record.args, tuple):
        record.args = tuple(
            it if isinstance(it, int | float) else safe_line(it) for it in record.args
        )
    if record.exc_info and not record.exc_text:
        text = logging.Formatter().formatException(record.exc_info)
        # Indented, so that a line break in a message cannot imitate a record.
        record.exc_text = "\n".join(f"  {spell_out(it)}" for it in text.split("\n"))
    return True


logger.addFilter(_make_safe)


@frozen(kw_only=True)
class RequestEvent:
    """One HTTP exchange ended.

    Attributes:
        method: ``GET`` or ``POST``.
        url: The URL, without the key (which is only ever in a header).
        status_code: The answer's status; None when no answer came.
        seconds: How long it took, from sending to the last byte.
        error: Why no answer came, if none did.
    """

    method: str
    url: str
    status_code: int | None
    seconds: float
    error: KlingError | None = None


@frozen(kw_only=True)
class RetryEvent:
    """Something failed and will be tried again.

    Attributes:
        attempt: The number of the attempt that failed, from 1.
        delay: Seconds until the next one.
        error: How it failed.
    """

    attempt: int
    delay: float
    error: KlingError


@frozen(kw_only=True)
class CreatedEvent:
    """The server accepted a create: from here on it costs money.

    Attributes:
        generation: The generation, as the create answered.
        model: The model asked for.
    """

    generation: Generation
    model: str


UncertainOutcome = Literal["lost", "found", "failed", "missing"]


@frozen(kw_only=True)
class UncertainEvent:
    """The answer to a create was lost, or its outcome is now known.

    Attributes:
        client_request_id: The id that it was sent with.
        model: The model asked for.
        since: When it was first sent (UTC).
        outcome: ``lost`` at first; then what the vendor's request log shows. ``found``:
            the create goes on as if nothing had happened. ``failed``: nothing is billed
            and the first error is raised. ``missing``: it may be running and billed;
            `AsyncKling.reconcile` searches again.
        generation_id: The generation that was found.
    """

    client_request_id: str
    model: str
    since: dt.datetime
    outcome: UncertainOutcome
    generation_id: str | None = None


@frozen(kw_only=True)
class StatusEvent:
    """A watch saw a status for the first time, or a new one.

    Attributes:
        generation: The generation, as the poll answered.
    """

    generation: Generation


E_ = TypeVar("E_")


Event: TypeAlias = (
    RequestEvent | RetryEvent | CreatedEvent | UncertainEvent | StatusEvent
)


@frozen(kw_only=True)
class Hooks:
    """Functions to call for each kind of event; each may be None.

    They are called on the event loop, between two awaits: keep them short.

    Attributes:
        on_request: For every HTTP exchange with the API.
        on_retry: Before every wait for another attempt or poll.
        on_created: For every accepted create, even one whose caller has
            been cancelled.
        on_uncertain: For every create whose answer was lost, and again for its
            outcome, even if its caller has been cancelled.
        on_status: Once for every new status of a generation, however many
            watch it.
    """

    on_request: Callable[[RequestEvent], object] | None = None
    on_retry: Callable[[RetryEvent], object] | None = None
    on_created: Callable[[CreatedEvent], object] | None = None
    on_uncertain: Callable[[UncertainEvent], object] | None = None
    on_status: Callable[[StatusEvent], object] | None = None


def notify(hook: Callable[[E_], object] | None, event: E_) -> None:
    """Call a hook; log and ignore what it raises."""
    if hook is None:
        return
    try:
        hook(event)
    except Exception:
        logger.exception("a hook raised on %s; its error was ignored", event)


@frozen(repr=False)
class Reporter:
    """Gives each event to the logger and to the user's hooks."""

    hooks: Hooks = Hooks()

    @property
    def wants_requests(self) -> bool:
        """Whether requests, of which there are many, go to a hook or to the log."""
        return self.hooks.on_request is not None or logger.isEnabledFor(logging.DEBUG)

    def emit(self, event: Event) -> None:
        """Call the hook for this kind of event, the logger's own first."""
        for hooks in (_LOG, self.hooks):
            match event:
                case RequestEvent():
                    notify(hooks.on_request, event)
                case RetryEvent():
                    notify(hooks.on_retry, event)
                case CreatedEvent():
                    notify(hooks.on_created, event)
                case UncertainEvent():
                    notify(hooks.on_uncertain, event)
                case StatusEvent():
                    notify(hooks.on_status, event)


def warn_abandoned(generation: Generation) -> None:
    """Warn that the caller was cancelled; the generation goes on at the server."""
    logger.warning(
        "left generation %s, %s; wait(%r) returns it",
        generation.id,
        "which has ended" if generation.is_terminal else "which goes on and is billed",
        generation.id,
    )


def _log_request(event: RequestEvent) -> None:
    logger.debug(
        "%s %s: %s in %.3f s",
        event.method,
        event.url,
        event.status_code if event.error is None else event.error,
        event.seconds,
    )


def _log_retry(event: RetryEvent) -> None:
    known = event.error.generation_id
    logger.warning(
        "attempt %d failed, next in %.1f s: %s%s",
        event.attempt,
        event.delay,
        event.error.reason,  # without advice: it is retried anyway
        f" [generation {known}]" if known else "",
    )


def _log_created(event: CreatedEvent) -> None:
    logger.info(
        "created generation %s with %s (client request id %s)",
        event.generation.id,
        event.model,
        event.generation.client_request_id,
    )


_IN_WORDS: Mapping[UncertainOutcome, tuple[int, str]] = {
    "lost": (
        logging.WARNING,
        "lost the answer to a create: it may be running and billed",
    ),
    "found": (logging.INFO, "the vendor's log lists the lost create"),
    "failed": (logging.WARNING, "the vendor's log lists the lost create as failed"),
    "missing": (
        logging.ERROR,
        "a lost create was not found: it may be running and billed",
    ),
}


def _log_uncertain(event: UncertainEvent) -> None:
    level, words = _IN_WORDS[event.outcome]
    logger.log(
        level,
        "%s (client request id %s since %s%s)",
        words,
        event.client_request_id,
        event.since.isoformat(timespec="seconds"),
        f", generation {event.generation_id}" if event.generation_id else "",
    )


def _log_status(event: StatusEvent) -> None:
    generation = event.generation
    level = logging.INFO if generation.is_terminal else logging.DEBUG
    note = ""
    if not generation.status.is_known:
        level, note = logging.WARNING, " (a status unknown to this version)"
    elif generation.status == Status.COMPLETED and not generation.is_terminal:
        level, note = logging.WARNING, " (no video yet: waiting for it)"
    logger.log(level, "generation %s: %s", generation.id, generation.status + note)


_LOG = Hooks(
    on_request=_log_request,
    on_retry=_log_retry,
    on_created=_log_created,
    on_uncertain=_log_uncertain,
    on_status=_log_status,
)

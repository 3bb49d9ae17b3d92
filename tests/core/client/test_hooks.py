"""Who is told of what: the user's hooks, and the logger as one more of them."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable, Mapping
from typing import NoReturn

import pytest
from attrs import evolve

from kling_async import (
    ConnectionFailedError,
    CreatedEvent,
    Generation,
    Hooks,
    KlingError,
    RequestEvent,
    RetryEvent,
    Status,
    StatusEvent,
    UncertainEvent,
    Video,
)
from kling_async._hooks import Reporter, logger, notify

Event = RequestEvent | RetryEvent | CreatedEvent | UncertainEvent | StatusEvent

QUEUED = Generation(id="g-1", status=Status.QUEUED, client_request_id="request-1")
FINISHED = Generation(
    id="g-1", status=Status.COMPLETED, video=Video(url="https://example.com/v.mp4")
)
REFUSED = ConnectionFailedError("connection refused", request_sent=False)

REQUEST = RequestEvent(
    method="GET",
    url="https://api.example.com/v2/video/generations?generation_id=g-1",
    status_code=200,
    seconds=0.25,
)
RETRY = RetryEvent(attempt=2, delay=1.25, error=REFUSED)
CREATED = CreatedEvent(generation=QUEUED, model="klingai/v2-master-image-to-video")
STATUS = StatusEvent(generation=QUEUED)


def hooks_into(record: Callable[[Event], object]) -> Hooks:
    """Make hooks that all end in one place."""
    return Hooks(
        on_request=record,
        on_retry=record,
        on_created=record,
        on_uncertain=record,
        on_status=record,
    )


LOST = UncertainEvent(
    client_request_id="request-1",
    model="klingai/v2-master-image-to-video",
    since=dt.datetime(2026, 8, 1, 12, tzinfo=dt.UTC),
    outcome="lost",
)
EVENTS: list[Event] = [REQUEST, RETRY, CREATED, LOST, STATUS]
HOOKS: Mapping[str, type] = {
    "on_request": RequestEvent,
    "on_retry": RetryEvent,
    "on_created": CreatedEvent,
    "on_uncertain": UncertainEvent,
    "on_status": StatusEvent,
}
each_event = pytest.mark.parametrize(
    "event", EVENTS, ids=lambda event: type(event).__name__
)


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Listen to the library's logger, from DEBUG on."""
    caplog.set_level(logging.DEBUG, logger="kling_async")
    return caplog


@each_event
def test_each_hook_is_told_of_its_event(event: Event) -> None:
    """The very event arrives, once, and at that hook alone."""
    told: list[Event] = []
    Reporter(hooks_into(told.append)).emit(event)
    assert told == [event]
    assert told[0] is event


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_alone_is_enough(name: str) -> None:
    """Each may be left out: the others' events reach nobody and break nothing."""
    told: list[Event] = []
    reporter = Reporter(Hooks(**{name: told.append}))
    for event in EVENTS:
        reporter.emit(event)
    assert [type(event) for event in told] == [HOOKS[name]]


@each_event
def test_a_hook_that_raises_is_logged_and_passed_over(
    log: pytest.LogCaptureFixture, event: Event
) -> None:
    """No observer can lose a generation: its error is told, with its traceback."""

    def fail(_event: Event) -> NoReturn:
        raise ZeroDivisionError("the user's own mistake")

    Reporter(hooks_into(fail)).emit(event)
    (record,) = [r for r in log.records if r.levelno == logging.ERROR]
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError
    assert type(event).__name__ in record.getMessage()


def test_an_interrupt_in_a_hook_is_not_swallowed() -> None:
    """Ctrl-C means the program, wherever it happens to be."""

    def interrupt(_event: Event) -> NoReturn:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        notify(interrupt, STATUS)


def test_no_hook_is_no_work(log: pytest.LogCaptureFixture) -> None:
    """None is not called, and not complained of."""
    notify(None, STATUS)
    assert not log.records


def status_of(name: str, video: Video | None = None) -> StatusEvent:
    """Make the event of a status."""
    generation = Generation(id="g-1", status=Status(name), video=video)
    return StatusEvent(generation=generation)


@pytest.mark.parametrize(
    "event, level",
    [
        (REQUEST, logging.DEBUG),
        (RETRY, logging.WARNING),
        (CREATED, logging.INFO),
        (LOST, logging.WARNING),
        (evolve(LOST, outcome="found", generation_id="g-1"), logging.INFO),
        (evolve(LOST, outcome="failed"), logging.WARNING),
        (evolve(LOST, outcome="missing"), logging.ERROR),
        (STATUS, logging.DEBUG),
        (status_of("generating"), logging.DEBUG),
        (status_of("completed"), logging.WARNING),  # without a video: odd
        (status_of("error"), logging.INFO),
        (StatusEvent(generation=FINISHED), logging.INFO),
        (status_of("rendering"), logging.WARNING),
        (status_of("unknown"), logging.WARNING),
        (status_of("rendering", FINISHED.video), logging.WARNING),
    ],
)
def test_each_event_has_its_level_in_the_log(
    log: pytest.LogCaptureFixture, event: Event, level: int
) -> None:
    """INFO for what costs or ends, DEBUG for the rest, WARNING for the unexpected."""
    Reporter().emit(event)
    assert [(r.name, r.levelno) for r in log.records] == [("kling_async", level)]


@pytest.mark.parametrize(
    "event, parts",
    [
        (REQUEST, ["GET", REQUEST.url, "200", "0.250 s"]),
        (
            RequestEvent(
                method="POST",
                url="https://x",
                status_code=None,
                seconds=1,
                error=REFUSED,
            ),
            ["POST", "https://x", "connection refused"],
        ),
        (RETRY, ["attempt 2", "1.2 s", "connection refused"]),
        (CREATED, ["g-1", "klingai/v2-master-image-to-video", "request-1"]),
        (LOST, ["lost", "request-1", "2026-08-01T12:00:00+00:00"]),
        (evolve(LOST, outcome="found", generation_id="g-1"), ["request-1", "g-1"]),
        (STATUS, ["g-1", "queued"]),
        (status_of("rendering"), ["g-1", "rendering", "unknown to this version"]),
    ],
)
def test_a_line_of_the_log_says_what_and_which(
    log: pytest.LogCaptureFixture, event: Event, parts: list[str]
) -> None:
    """Ids, model, attempt and reason are in the one line that tells of it."""
    Reporter().emit(event)
    (record,) = log.records
    assert [part for part in parts if part not in record.getMessage()] == []


def test_the_logger_is_told_before_the_hooks(log: pytest.LogCaptureFixture) -> None:
    """A hook that ends the program does not take the created id with it."""
    seen: list[int] = []
    Reporter(Hooks(on_created=lambda _: seen.append(len(log.records)))).emit(CREATED)
    assert seen == [1]


def test_the_logger_is_named_after_the_package() -> None:
    """It is the one to configure; no handler and no level are put on it."""
    assert logger.name == "kling_async"
    assert logger.handlers == []
    assert logger.level == logging.NOTSET


def test_an_event_is_a_value() -> None:
    """Events are equal by what they tell, for tests of one's own hooks."""
    assert StatusEvent(generation=QUEUED) == STATUS
    error: KlingError | None = RETRY.error
    assert RetryEvent(attempt=2, delay=1.25, error=REFUSED).error is error

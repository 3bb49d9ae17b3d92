"""Whatever a stranger says: it steers no terminal, forges no line, starts no formula.

Texts of escapes, line ends, bidi, markup and formulas go through every place that
shows foreign text, and each comes out as one plain line.
"""

from __future__ import annotations

import datetime as dt
import html.parser
import io
import logging
import os
import pickle
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import pytest
from attrs import define, field
from hostile import PIECES, is_plain
from hypothesis import assume, example, given, settings, strategies as st
from rich.console import Console

from kling_async import (
    APIStatusError,
    ConfigurationError,
    DecodeError,
    DownloadError,
    Generation,
    GenerationError,
    GenerationFailedError,
    Hooks,
    InvalidRequestError,
    JobError,
    KlingError,
    Problem,
    RateLimitError,
    RetryEvent,
    Status,
    StatusEvent,
    TransportError,
    Video,
    WaitTimeoutError,
)
from kling_async._generation import describe
from kling_async._hooks import Reporter, logger, warn_abandoned
from kling_async._text import safe_cell
from kling_async.cli._output import Screen, as_lines, format_error
from kling_async.cli._report import Card, render_page
from kling_async.durable import JobState, JobStatus
from kling_async.web import ProgressEvent

texts = st.lists(st.sampled_from(PIECES) | st.text(max_size=8), max_size=5).map("".join)


def errors_about(text: str) -> list[KlingError]:
    """Give every kind of error, each with a stranger's words in it."""
    failed = Generation(
        id=text, status=Status(text), error=GenerationError(name=text, message=text)
    )
    return [
        APIStatusError(text, status_code=500, request_id=text, body=text),
        RateLimitError(text, status_code=429, body=text),
        DecodeError(text, status_code=200, body=text),
        TransportError(text, request_sent=True),
        ConfigurationError(text),
        DownloadError(text).concerning(text, failed),
        JobError(text, key=text, state=text),
        GenerationFailedError(failed),
        WaitTimeoutError(text, timeout=1.0, generation=failed),
    ]


@settings(deadline=None, max_examples=25)
@given(text=texts)
@example("".join(PIECES))
def test_an_error_is_one_plain_line(text: str) -> None:
    """Also after a pickle, and in the words of the command."""
    for error in errors_about(text):
        for it in (error, pickle.loads(pickle.dumps(error))):
            assert is_plain(str(it))
            assert is_plain(repr(it))
            assert all(is_plain(str(line)) for line in shown(it))


@settings(deadline=None, max_examples=25)
@given(text=texts)
@example("".join(PIECES))
def test_each_problem_of_a_request_is_one_plain_line(text: str) -> None:
    """A manifest names fields, models and values."""
    problems = [Problem(text, text, text, text), Problem("prompt", text, text)]
    lines = str(InvalidRequestError(problems, model=text)).split("\n")
    assert len(lines) == 3
    assert all(map(is_plain, lines))


def shown(error: KlingError) -> list[str]:
    """Give what the command prints of an error, on a terminal."""
    screen = Screen(err=Console(file=io.StringIO(), markup=False, highlight=False))
    for line in format_error(error):
        screen.error(line)
    return screen.err.file.getvalue().split("\n")  # type: ignore[attr-defined, no-any-return]


@define(eq=False)
class Log(logging.Handler):
    """A handler as a program sets one up, with the library's usual format."""

    lines: list[str] = field(factory=list[str])

    def __attrs_pre_init__(self) -> None:
        super().__init__()

    def emit(self, record: logging.LogRecord) -> None:
        """Note what it would write."""
        text = logging.Formatter("%(levelname)s:%(name)s:%(message)s").format(record)
        self.lines += text.split("\n")


@settings(deadline=None, max_examples=25)
@given(text=texts)
@example("".join(PIECES))
def test_a_log_line_is_one_plain_line(text: str) -> None:
    """Statuses, retries, whatever comes: and nothing begins a record of its own."""
    log, before = Log(), logger.level
    logger.addHandler(log)
    logger.setLevel(1)
    logger.propagate = False

    def broken(_: object) -> None:
        raise ValueError(text)

    try:
        told = Reporter(Hooks(on_status=broken))
        told.emit(StatusEvent(generation=Generation(id=text, status=Status(text))))
        for error in errors_about(text):
            told.emit(RetryEvent(attempt=1, delay=1.0, error=error))
        warn_abandoned(Generation(id=text, status=Status(text)))
        logger.warning("passed over %s: %r", text, text)
    finally:
        logger.propagate = True
        logger.setLevel(before)
        logger.removeHandler(log)
    assert all(map(is_plain, log.lines))
    begun = [it for it in log.lines if not it.startswith("  ")]
    assert len(begun) == 13
    assert all(":kling_async:" in it for it in begun)


@settings(deadline=None, max_examples=25)
@given(text=texts, cells=st.lists(texts, min_size=2, max_size=3))
@example("".join(PIECES), ["=1", "-5"])
def test_what_the_command_prints_is_plain(text: str, cells: list[str]) -> None:
    """Tables that a spreadsheet opens start no formula, and keep their columns."""
    plain = Console(file=io.StringIO(), markup=False, highlight=False)
    screen = Screen(out=plain)
    screen.result(*cells)
    screen.result(text)
    for line in as_lines(
        Generation(
            id=text,
            status=Status(text),
            video=Video(url=text, content_type=text),
            error=GenerationError(name=text, message=text),
        )
    ):
        screen.show(line)
    table, rest = plain.file.getvalue().split("\n", 1)  # type: ignore[attr-defined]
    assert all(map(is_plain, table.split("\t")))
    assert len(table.split("\t")) == len(cells)
    assert all(map(is_plain, rest.split("\n")))


@pytest.mark.parametrize("number", ["-0.50", "+1", "12,000.5", "-5%"])
def test_a_number_is_no_formula(number: str) -> None:
    """What a script adds up stays as it is."""
    assert safe_cell(number) == number


@settings(deadline=None, max_examples=25)
@given(text=texts)
def test_no_cell_is_a_formula(text: str) -> None:
    """For a spreadsheet a text that begins so is one."""
    cell = safe_cell(f"={text}")
    assert cell.startswith("'=")
    assert safe_cell(f" @{text}").startswith("'@")


@settings(deadline=None, max_examples=25)
@given(text=texts)
@example("javascript:alert(1)")
def test_an_event_stream_is_not_broken_into(text: str) -> None:
    """One event stays one, and a page may link to what it is told of."""
    seen = Generation(
        id=text,
        status=Status(text),
        video=Video(url=text),
        error=GenerationError(message=text),
    )
    told = describe(seen)
    event = ProgressEvent(event="status", data=told, id="status").encode()
    assert event.count(b"\n") == 4
    assert event.isascii()
    assert b"\x1b" not in event
    video = told["video"]
    assert video is None or urlsplit(text.lower()).scheme in ("http", "https")


class Links(html.parser.HTMLParser):
    """Collects where a page leads to, and what runs in it."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self.tags: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note one element."""
        self.tags.append(tag)
        assert not any(name.startswith("on") for name, _ in attrs)
        self.found += [
            it or "" for name, it in attrs if name in ("href", "src", "data-src")
        ]


@settings(deadline=None, max_examples=25)
@given(text=texts)
@example("javascript:alert(1)")
@example("http://evil.example/x.mp4")
@example("//evil.example/x.mp4")
@example("../../secret.mp4")
def test_a_report_leads_nowhere_but_into_its_folder(text: str) -> None:
    """Whatever the output is called, and whatever was asked for."""
    folder = Path("/batch").absolute()
    file = folder / text.lstrip("/").replace("\0", "")
    try:
        os.fsencode(file)
    except UnicodeEncodeError:
        assume(False)  # noqa: FBT003 (no file can be called so)
    status = JobStatus(
        key=text,
        batch="b",
        state=JobState.DONE,
        attempt=1,
        model=text,
        generation_id=text,
        error=text,
        created_at=dt.datetime(2026, 1, 1, tzinfo=dt.UTC),
    )
    page = render_page(text, [Card(status=status, prompt=text, file=file)], folder)
    links = Links(page)
    for link in links.found:
        base = "https://page.example/batch/report.html"
        assert urljoin(base, link).startswith("https://page.example/batch/")
    assert links.tags.count("script") == 1
    assert {"img", "iframe", "object", "form", "base"}.isdisjoint(links.tags)

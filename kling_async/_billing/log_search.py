"""Creates whose answer was lost, looked for in the vendor's request log.

However many are looked for, one reading of the log serves all. Knows no HTTP and
decides nothing about sending again; it tells what the log says.
"""

from __future__ import annotations

import datetime as dt
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Literal

import anyio
from attrs import define, field

from kling_async._billing.money import LogRow
from kling_async._billing.rows import Page
from kling_async._errors import KlingError
from kling_async._runtime.tasks import CLOCK_TICK

Verdict = Literal["found", "failed", "missing"]

ReadPage = Callable[[str, int, float], Awaitable[Page[LogRow]]]

# "200 requests per 60 s, then 429" (the vendor's page on usage logs).
LOG_CALLS, LOG_WINDOW = 200, 60.0

# How long a reading takes to be due: rows come late, and soon or never.
_SOONEST, _LATEST = 1.0, 5.0

_AGE_SHARE = 0.5

# Two clocks may be so far apart; the log's period is counted by the vendor's.
_MARGIN = dt.timedelta(minutes=10)

_LONGEST_DAYS = 92

_KEPT_SECONDS = 3600.0


@define(eq=False)
class Sent:
    """What was sent under one client request id, by this client.

    Attributes:
        posts: How many creates went out; each may be a row of the log.
        generations: The ids that answered them.
        used_at: When it was last used, on the loop's clock.
    """

    posts: int = 0
    generations: set[str] = field(factory=set[str])
    used_at: float = 0.0


@define(eq=False)
class Trace:
    """One create that is looked for.

    Attributes:
        client_request_id: What it was sent with.
        since: When it was first sent, by this machine's clock.
        deadline: When to give up, on the loop's clock.
        sent: What this client sent under that id; None after a crash, when
            nobody knows: then no number of failures proves that the last failed.
        max_retry_after: The longest wait that the log may ask for, in seconds.
        found: The row of the generation.
        is_read: Whether the whole log was read at least once meanwhile.
        failure: Why the log could not be read, the last time that it could not.
    """

    client_request_id: str
    since: dt.datetime = field(kw_only=True)
    deadline: float = field(kw_only=True)
    sent: Sent | None = field(default=None, kw_only=True)
    max_retry_after: float = field(default=LOG_WINDOW, kw_only=True)
    found: LogRow | None = None
    is_read: bool = False
    failure: KlingError | None = None
    began: float = field(factory=anyio.current_time)
    wake: anyio.Event = field(factory=anyio.Event)
    _failures: set[tuple[object, ...]] = field(factory=set[tuple[object, ...]])

    @property
    def verdict(self) -> Verdict:
        """What the log says so far.

        A create that was tried again under the same id has a row for each
        attempt, and they come in no order. So the last one has failed only when
        as many have failed as were sent and not answered with a generation.
        """
        if self.found is not None:
            return "found"
        if self.sent is not None:
            unanswered = self.sent.posts - len(self.sent.generations)
            if len(self._failures) >= unanswered:
                return "failed"
        return "missing"

    @property
    def is_over(self) -> bool:
        """Whether it is settled, or its time is up."""
        is_late = anyio.current_time() + CLOCK_TICK >= self.deadline
        return is_late or self.verdict != "missing"

    def give_up(self) -> None:
        """Look no further: whoever wanted it has gone."""
        self.deadline = min(self.deadline, anyio.current_time())
        self.wake.set()

    def note(self, row: LogRow) -> None:
        """Take in a row of this create's id."""
        if self.verdict != "missing":
            return
        if row.created is not None and row.created < self.since - _MARGIN:
            return  # of an earlier create under the same id
        if row.failed:
            self._failures.add((row.inference_id, row.request_id, row.created))
        elif row.inference_id and not self._is_anothers(row.inference_id):
            self.found = row
            if self.sent is not None:
                self.sent.generations.add(row.inference_id)
        if self.verdict != "missing":
            self.wake.set()

    def _is_anothers(self, generation_id: str) -> bool:
        return self.sent is not None and generation_id in self.sent.generations


@define(eq=False)
class Tracer:
    """Looks for all lost creates of one account in one event loop.

    Whoever looks first reads, page by page, for everyone; when it has finished,
    another takes over.
    """

    _traces: set[Trace] = field(factory=set[Trace])
    _sent: OrderedDict[str, Sent] = field(factory=OrderedDict[str, Sent])
    _is_led: bool = False
    _due: float = 0.0
    _pass_began: float = 0.0
    _offset: int = 0
    _pages: int = 0
    _failures: int = 0

    def sent_under(self, client_request_id: str) -> Sent:
        """Give the record of an id, new or old; what is long past is forgotten."""
        now = anyio.current_time()
        while (
            self._sent and next(iter(self._sent.values())).used_at < now - _KEPT_SECONDS
        ):
            self._sent.popitem(last=False)
        sent = self._sent.setdefault(client_request_id, Sent())
        sent.used_at = now
        self._sent.move_to_end(client_request_id)
        return sent

    async def look_for(self, trace: Trace, read_page: ReadPage) -> Verdict:
        """Read the log until it tells what became of a create, or the time is up.

        To be called in the client's scope: who reads is not to be torn away.

        Args:
            trace: The create.
            read_page: Reads a page of the log: given the period, such as ``24h``,
                the offset, and how many seconds it may take.
        """
        if not self._traces:
            self._offset, self._due = 0, anyio.current_time() + _SOONEST
            self._failures = 0
        self._traces.add(trace)
        try:
            while not trace.is_over:
                if self._is_led:
                    with anyio.move_on_after(trace.deadline - anyio.current_time()):
                        await trace.wake.wait()
                    trace.wake = anyio.Event()
                else:
                    await self._lead(trace, read_page)
        finally:
            self._traces.discard(trace)
        return trace.verdict

    async def _lead(self, leader: Trace, read_page: ReadPage) -> None:
        self._is_led = True
        try:
            while not leader.is_over:
                await self._step(leader, read_page)
        finally:
            self._is_led = False
            for trace in self._traces:
                trace.wake.set()  # one of them is to take over

    async def _step(self, leader: Trace, read_page: ReadPage) -> None:
        """Read the page that is due, if that is before the leader's deadline."""
        deadline = leader.deadline
        due = min(self._due, deadline)
        await anyio.sleep(max(0.0, due - anyio.current_time()))
        if self._offset == 0:
            self._pass_began, self._pages = anyio.current_time(), 0
        left = deadline - anyio.current_time()
        if left <= CLOCK_TICK:
            return
        try:
            page = await read_page(self._period(), self._offset, left)
        except KlingError as error:
            self._put_off(error, leader.max_retry_after)
        else:
            self._failures = 0
            self._take_in(page)

    def _put_off(self, error: KlingError, longest: float) -> None:
        """Ask for the same page later: a long log would never be read without."""
        for trace in self._traces:
            trace.failure = error
        self._failures += 1
        pause = min(_SOONEST * self._failures, _LATEST)
        asked = getattr(error, "retry_after", None) or 0.0
        self._due = anyio.current_time() + max(pause, min(asked, longest))

    def _take_in(self, page: Page[LogRow]) -> None:
        for row in page.rows:
            for trace in self._traces:
                if trace.client_request_id == row.client_request_id:
                    trace.note(row)
        self._pages += 1
        self._offset += len(page.rows)
        if not page.has_more or not page.rows or self._is_past(page.rows[-1]):
            for trace in self._traces:
                trace.is_read = trace.is_read or trace.began <= self._pass_began
            self._end_pass()
        elif all(trace.verdict != "missing" for trace in self._traces):
            self._end_pass()

    def _is_past(self, row: LogRow) -> bool:
        """Whether a row, and so all that follow, is older than any lost create."""
        oldest = min(trace.since for trace in self._traces)
        return row.created is not None and row.created < oldest - _MARGIN

    def _end_pass(self) -> None:
        """Go back to the newest row, after a pause within the vendor's limit."""
        now = anyio.current_time()
        youngest = min((now - trace.began for trace in self._traces), default=0.0)
        pause = min(max(_SOONEST, youngest * _AGE_SHARE), _LATEST)
        self._due = now + max(pause, self._pages * LOG_WINDOW / LOG_CALLS)
        self._offset = 0

    def _period(self) -> str:
        oldest = min(trace.since for trace in self._traces)
        age = dt.datetime.now(dt.UTC) - oldest + _MARGIN
        hours = int(age.total_seconds() // 3600) + 1
        return f"{min(max(hours, 1), _LONGEST_DAYS * 24)}h"

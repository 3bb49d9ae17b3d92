"""Creates whose answer was lost, looked for in the vendor's request log.

One reading of the log serves all of them. Sends nothing; tells what the log says of
a create, by the vendor's clock and never by this machine's.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Literal

import anyio
from attrs import define, field

from kling_async._billing.money import LogRow
from kling_async._billing.rows import Page
from kling_async._errors import KlingError
from kling_async._runtime.loop import CLOCK_TICK

Verdict = Literal["found", "failed", "missing"]

ReadPage = Callable[[int, int, float], Awaitable[Page[LogRow]]]

# "200 requests per 60 s, then 429" (the vendor's page on usage logs).
LOG_CALLS, LOG_WINDOW = 200, 60.0

# Seconds between two reads from the top: a late row comes within seconds or not at all.
_SOONEST, _LATEST = 1.0, 5.0

_AGE_SHARE = 0.5

# How far off a row's time may be, in seconds: a server's `Date` is in whole seconds, a
# row in milliseconds; the vendor's servers may differ, and may begin late.
_DATE, _ROW, _EARLY, _LATE = 1.0, 0.001, 1.0, 30.0

# Read so much further back than should be needed, in seconds.
_MARGIN = 600.0

_LONGEST_HOURS = 92 * 24

_KEPT = 10_000


@define(eq=False)
class GivenIds:
    """The creates of one account whose client request id is the caller's own.

    Such an id may be used again, in another client or event loop of this process too,
    so a row with it may be another create's.
    """

    _in_flight: Counter[str] = field(factory=Counter[str])
    _answered: dict[str, None] = field(factory=dict[str, None])

    @contextmanager
    def use(self, client_request_id: str) -> Generator[None]:
        """Count a create under an id while its answer is awaited or looked for."""
        self._in_flight[client_request_id] += 1
        try:
            yield
        finally:
            self._in_flight[client_request_id] -= 1
            if not self._in_flight[client_request_id]:
                del self._in_flight[client_request_id]

    def add_answered(self, generation_id: str) -> None:
        """Note the generation that one of them was answered with."""
        self._answered[generation_id] = None
        if len(self._answered) > _KEPT:
            del self._answered[next(iter(self._answered))]

    def is_shared(self, client_request_id: str) -> bool:
        """Whether several creates under an id are in flight."""
        return self._in_flight[client_request_id] > 1

    def has_answered(self, generation_id: str | None) -> bool:
        """Whether a generation is already somebody's."""
        return generation_id in self._answered


@define(eq=False)
class LostCreate:
    """One create that is looked for.

    Attributes:
        client_request_id: What it was sent with.
        since: When it was sent, by this machine's clock.
        sent_at: Likewise, on the event loop's clock.
        lost_at: When its answer was lost, on that clock; ``math.inf`` where nobody
            knows, after a crash: then the newest generation of the id is taken.
        deadline: When to give up, on that clock.
        is_unique: Whether no other create has its id. A row is then certainly of this
            one, however old it seems.
        is_single: Whether it was sent once under its id, so that a row which failed
            is of this attempt.
        given_ids: The creates of this process whose ids may be used again.
        max_retry_after: The longest wait that the log may ask for, in seconds.
        verdict: What the log says so far.
        generation_id: What was found.
        others: Generations under its id that may be another create's.
        is_read: Whether the log of the whole time was read at least once meanwhile.
        pages: How many pages have been read.
        back_to: When the oldest row that was read came, by the vendor's clock.
        failure: Why the log could not be read, the last time that it could not.
        settled: Set when there is a verdict, or nobody waits for one any more.
        offset: How many rows have been read since the newest.
        due: When to read on, on the event loop's clock.
    """

    client_request_id: str
    since: dt.datetime = field(kw_only=True)
    sent_at: float = field(kw_only=True)
    lost_at: float = field(default=math.inf, kw_only=True)
    deadline: float = field(kw_only=True)
    is_unique: bool = field(default=False, kw_only=True)
    is_single: bool = field(default=False, kw_only=True)
    given_ids: GivenIds = field(factory=GivenIds, kw_only=True)
    max_retry_after: float = field(default=LOG_WINDOW, kw_only=True)
    verdict: Verdict = field(default="missing", init=False)
    generation_id: str | None = field(default=None, init=False)
    others: set[str] = field(factory=set[str], init=False)
    is_read: bool = field(default=False, init=False)
    pages: int = field(default=0, init=False)
    back_to: dt.datetime | None = field(default=None, init=False)
    failure: KlingError | None = field(default=None, init=False)
    settled: anyio.Event = field(factory=anyio.Event, init=False)
    offset: int = field(default=0, init=False)
    due: float = field(init=False)
    _began: float = field(factory=anyio.current_time, init=False)
    _pass_pages: int = field(default=0, init=False)
    _has_failed: bool = field(default=False, init=False)
    _candidates: set[str] = field(factory=set[str], init=False)
    # What to take from a vendor's time (a timestamp) to have it on the loop's clock:
    # at least, and at most. By this machine's clock until the server tells its own.
    _offsets: tuple[float, float] = field(init=False)
    _is_dated: bool = field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self.due = self._began + (0.0 if self._is_of_crash else _SOONEST)
        offset = self.since.timestamp() - self.sent_at
        self._offsets = offset, offset

    @property
    def is_over(self) -> bool:
        """Whether it is settled, or its time is up."""
        is_late = anyio.current_time() + CLOCK_TICK >= self.deadline
        return is_late or self.verdict != "missing"

    @property
    def is_wanted(self) -> bool:
        """Whether to read on now; another read may have made it wait, or settled it."""
        return not self.is_over and self.due <= anyio.current_time() + CLOCK_TICK

    @property
    def sent(self) -> dt.datetime:
        """When it was sent; by the server's clock if this machine's is off."""
        by_server = self.sent_at + self._offsets[0]
        if abs(by_server - self.since.timestamp()) <= _DATE + _EARLY:
            return self.since
        return dt.datetime.fromtimestamp(by_server, dt.UTC)

    @property
    def hours(self) -> int:
        """How far back to read; the vendor counts it from its own now."""
        age = anyio.current_time() - self._reach
        return min(math.ceil(age / 3600), _LONGEST_HOURS)

    @property
    def _is_of_crash(self) -> bool:
        return self.lost_at == math.inf

    @property
    def _reach(self) -> float:
        """How far back to read, on the loop's clock, which may stop in a sleep."""
        now = anyio.current_time()
        by_wall = (dt.datetime.now(dt.UTC) - self.since).total_seconds()
        told = math.inf
        if self._is_of_crash:  # `since` may be by a better clock than this machine's
            told = self.since.timestamp() - self._offsets[0]
        return min(self.sent_at, now - by_wall, told) - _MARGIN

    def give_up(self) -> None:
        """Look no further: whoever wanted it has gone."""
        self.deadline = min(self.deadline, anyio.current_time())
        self.settled.set()

    def put_off(self, error: KlingError, pause: float) -> None:
        """Ask for the same page later."""
        self.failure = error
        asked = getattr(error, "retry_after", None) or 0.0
        wait = max(pause, min(asked, self.max_retry_after))
        self.due = max(self.due, anyio.current_time() + wait)

    def take(
        self, page: Page[LogRow], *, offset: int, hours: int, asked_at: float
    ) -> None:
        """Take in a page of the log, which another create may have been due for."""
        now = anyio.current_time()
        if page.date is not None and not self._is_dated:
            date = page.date.timestamp()
            self._is_dated, self._offsets = True, (date - now, date + _DATE - asked_at)
        for row in page.rows:
            if row.client_request_id == self.client_request_id:
                self._note(row)
        if self.offset != offset or self.verdict != "missing":
            return
        self._count(page)
        is_last = (not page.has_more or not page.rows) and hours >= self.hours
        if is_last or any(map(self._is_past, page.rows[-1:])):
            self._end_pass(now)
        else:
            self.due = now

    def _count(self, page: Page[LogRow]) -> None:
        self.pages += 1
        self._pass_pages += 1
        self.offset += len(page.rows)
        if page.rows and not self.is_read:
            self.back_to = page.rows[-1].created or self.back_to

    def _note(self, row: LogRow) -> None:
        """Take in a row of this create's id."""
        if row.failed:
            self._has_failed = True
        elif row.inference_id and (self.is_unique or self._may_be_own(row)):
            self._candidates.add(row.inference_id)
            if self.is_unique or self._is_of_crash:
                self._settle("found", row.inference_id)
        elif row.inference_id:
            self.others.add(row.inference_id)

    def _may_be_own(self, row: LogRow) -> bool:
        """Whether a row came while this create was in flight, as far as clocks tell."""
        if row.created is None:
            return self._is_of_crash
        least, most = self._offsets
        came = row.created.timestamp()
        if self._is_of_crash:
            return came - least >= self._reach
        early = _EARLY if self._is_dated else _ROW
        is_early = came - least < self.sent_at - early
        is_late = came - most > self.lost_at + _LATE
        return not (
            is_early or is_late or self.given_ids.has_answered(row.inference_id)
        )

    def _is_past(self, row: LogRow) -> bool:
        """Whether a row, and so all that follow, came before this create."""
        if row.created is None or not self._is_dated:
            return False
        return row.created.timestamp() - self._offsets[0] < self._reach

    def _end_pass(self, now: float) -> None:
        """Decide by all that was read, or go back to the newest row."""
        self.is_read = True
        own = {it for it in self._candidates if not self.given_ids.has_answered(it)}
        if len(own) == 1 and not self.given_ids.is_shared(self.client_request_id):
            self._settle("found", own.pop())
        elif self._has_failed and self.is_unique and self.is_single:
            self._settle("failed")
        else:
            self.others |= own
        pause = min(max(_SOONEST, (now - self._began) * _AGE_SHARE), _LATEST)
        self.due = now + max(pause, self._pass_pages * LOG_WINDOW / LOG_CALLS)
        self.offset = self._pass_pages = 0

    def _settle(self, verdict: Verdict, generation_id: str | None = None) -> None:
        if self.verdict == "missing":
            self.verdict, self.generation_id = verdict, generation_id
            self.settled.set()


@define(eq=False)
class RequestLogSearch:
    """Looks for all lost creates of one account in one event loop.

    Each reads the log from the newest row down; what one reads is shown to all, and
    they take turns, so that a long way back keeps nobody from the newest rows.
    """

    _lost: set[LostCreate] = field(factory=set[LostCreate])
    _turn: anyio.Lock = field(factory=anyio.Lock)
    _failures: int = 0

    async def look_for(self, lost: LostCreate, read_page: ReadPage) -> Verdict:
        """Read the log until it tells what became of a create, or the time is up.

        Args:
            lost: The create.
            read_page: Reads a page of the log: given how many hours back, the
                offset, and how many seconds it may take.
        """
        self._lost.add(lost)
        try:
            while not lost.is_over:
                with anyio.CancelScope(deadline=min(lost.due, lost.deadline)):
                    await lost.settled.wait()
                with anyio.CancelScope(deadline=lost.deadline) as patience:
                    await self._turn.acquire()
                if patience.cancelled_caught:
                    break
                try:
                    if lost.is_wanted:
                        await self._read(lost, read_page)
                finally:
                    self._turn.release()
        finally:
            self._lost.discard(lost)
        return lost.verdict

    async def _read(self, due: LostCreate, read_page: ReadPage) -> None:
        """Read the page that is due, for all."""
        offset, hours, asked_at = due.offset, due.hours, anyio.current_time()
        left = due.deadline - asked_at
        try:
            page = await read_page(hours, offset, left)
        except KlingError as error:
            self._failures += 1
            pause = min(_SOONEST * self._failures, _LATEST)
            for lost in self._lost:
                lost.put_off(error, pause)
        else:
            self._failures = 0
            for lost in self._lost:
                lost.take(page, offset=offset, hours=hours, asked_at=asked_at)

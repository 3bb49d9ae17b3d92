"""The search in the vendor's request log for creates whose answer was lost.

One reading of the log serves all of them. Sends no create; finds what the log says
about one, by the vendor's clock and never by this machine's.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from typing import Literal

import anyio
from attrs import define, field

from kling_async._billing.money import LogRow
from kling_async._billing.rows import Page
from kling_async._errors import KlingError
from kling_async._runtime.loop import CLOCK_TICK, new_event, new_lock

Verdict = Literal["found", "failed", "missing"]

ReadPage = Callable[[int, int, float], Awaitable[Page[LogRow]]]

# "200 requests per 60 s, then 429" (the vendor's page on usage logs).
LOG_CALLS, LOG_WINDOW = 200, 60.0

# Seconds between two reads from the top: a late row comes within seconds or not at all.
_SOONEST, _LATEST = 1.0, 5.0

_AGE_SHARE = 0.5

# How wrong a row's time may be, in seconds: a server's `Date` is in whole seconds;
# the vendor's servers may differ, and may begin late.
_DATE, _EARLY, _LATE = 1.0, 1.0, 30.0

# How much further back to read than should be needed, in seconds.
_MARGIN = 600.0

_LONGEST_HOURS = 92 * 24

_KEPT = 10_000


@define(eq=False, repr=False)
class GivenIds:
    """The creates of one account whose client request id is the caller's own.

    Such an id may be used again, in another client or event loop of this process too,
    so a row with it may be another create's.

    Attributes:
        in_flight: How many creates an id has whose answer is awaited or looked for.
        answered: The generations that the last of them were answered with.
    """

    in_flight: Counter[str] = field(factory=Counter[str])
    answered: deque[str] = field(factory=lambda: deque[str](maxlen=_KEPT))

    @contextmanager
    def use(self, client_request_id: str) -> Generator[None]:
        """Count a create under an id until its outcome is known."""
        self.in_flight[client_request_id] += 1
        try:
            yield
        finally:
            self.in_flight[client_request_id] -= 1
            if not self.in_flight[client_request_id]:
                del self.in_flight[client_request_id]


@define(eq=False, kw_only=True, repr=False)
class LostCreate:
    """One create that is searched for.

    Attributes:
        client_request_id: The id that it was sent with.
        since: When it was sent, by this machine's clock.
        sent_at: The same, on the event loop's clock.
        lost_at: When its answer was lost, on that clock; ``math.inf`` if unknown,
            after a crash: then the newest generation with the id is taken.
        deadline: When to give up, on that clock.
        is_unique: Whether no other create has its id. A row with it then certainly
            belongs to this one, however old it seems.
        is_single: Whether it was sent once under its id, so that a failed row
            belongs to this attempt.
        given_ids: The creates of this process whose ids may be used again.
        max_retry_after: The longest wait that the log may ask for, in seconds.
        verdict: What the log says so far.
        generation_id: What was found.
        is_read: Whether the log of the whole time was read at least once.
        back_to: The time of the oldest row read, by the vendor's clock.
        failure: The last error in reading the log.
        settled: Set when there is a verdict.
        offset: How many rows have been read since the newest.
        due: When to read on, on the event loop's clock.
    """

    client_request_id: str
    since: dt.datetime
    sent_at: float
    lost_at: float = math.inf
    deadline: float
    is_unique: bool = False
    is_single: bool = False
    given_ids: GivenIds = field(factory=GivenIds)
    max_retry_after: float = LOG_WINDOW
    verdict: Verdict = field(default="missing", init=False)
    generation_id: str | None = field(default=None, init=False)
    is_read: bool = field(default=False, init=False)
    back_to: dt.datetime | None = field(default=None, init=False)
    failure: KlingError | None = field(default=None, init=False)
    settled: anyio.Event = field(factory=new_event, init=False)
    offset: int = field(default=0, init=False)
    due: float = field(init=False)
    _began: float = field(factory=anyio.current_time, init=False)
    _has_failed: bool = field(default=False, init=False)
    _rows: dict[str, LogRow] = field(factory=dict[str, LogRow], init=False)
    # How much a vendor's timestamp is ahead of the loop's clock: at least, and at most.
    # Known once the server has sent its time.
    _vendor_offsets: tuple[float, float] | None = field(default=None, init=False)

    def __attrs_post_init__(self) -> None:
        self.due = self._began + (0.0 if self._is_of_crash else _SOONEST)

    @property
    def is_over(self) -> bool:
        """Whether it is settled, or its time is up."""
        is_late = anyio.current_time() + CLOCK_TICK >= self.deadline
        return is_late or self.settled.is_set()

    @property
    def is_due(self) -> bool:
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
    def gap(self) -> str | None:
        """Why the log does not prove that there is no generation, in words."""
        if self._rows:
            ids = ", ".join(sorted(self._rows))
            return f"the log lists under this id what may be another create's: {ids}"
        if self.is_read:
            return None
        far = f"only back to {self.back_to:%Y-%m-%dT%H:%M:%SZ}" if self.back_to else ""
        why = f": {self.failure}" if self.failure else ""
        return f"the log could {far or 'not'} be read{why}"

    @property
    def _is_of_crash(self) -> bool:
        return self.lost_at == math.inf

    @property
    def _offsets(self) -> tuple[float, float]:
        by_wall = self.since.timestamp() - self.sent_at
        return self._vendor_offsets or (by_wall, by_wall)

    @property
    def _reach(self) -> float:
        """How far back to read, on the loop's clock, which may stop in a sleep."""
        by_wall = (dt.datetime.now(dt.UTC) - self.since).total_seconds()
        ages = [self.sent_at, anyio.current_time() - by_wall]
        if self._is_of_crash:  # `since` may be by a better clock than this machine's
            ages.append(self.since.timestamp() - self._offsets[0])
        return min(ages) - _MARGIN

    def put_off(self, at_least: float = 0.0) -> None:
        """Read on later, with longer and longer pauses."""
        now = anyio.current_time()
        pause = min(max(_SOONEST, (now - self._began) * _AGE_SHARE), _LATEST)
        self.due = max(self.due, now + max(pause, at_least))

    def note_failure(self, error: KlingError) -> None:
        """Ask for the same page later."""
        self.failure = error
        asked = getattr(error, "retry_after", None) or 0.0
        self.put_off(min(asked, self.max_retry_after))

    def take(
        self, page: Page[LogRow], *, offset: int, hours: int, asked_at: float
    ) -> None:
        """Add a page of the log, which may have been read for another create."""
        if page.date is not None and self._vendor_offsets is None:
            date = page.date.timestamp()
            least, most = date - anyio.current_time(), date + _DATE - asked_at
            self._vendor_offsets = least, most
        for row in page.rows:
            if row.client_request_id == self.client_request_id:
                self._has_failed |= row.failed
                if row.inference_id and not row.failed:
                    self._rows.setdefault(row.inference_id, row)
        is_next = self.offset == offset
        is_last = (not page.has_more or not page.rows) and hours >= self.hours
        is_end = is_next and (is_last or any(map(self._is_past, page.rows[-1:])))
        if page.rows and is_next and not self.is_read:
            self.back_to = page.rows[-1].created or self.back_to
        self.is_read |= is_end
        self._decide(is_end=is_end)
        if is_end:  # back to the newest row
            self.offset = 0
            self.put_off()
        elif is_next:
            self.offset += len(page.rows)

    def _decide(self, *, is_end: bool) -> None:
        """Settle it by the rows read so far; at the end, by all."""
        own = [it for it, row in self._rows.items() if self._may_be_own(row)]
        is_shared = self.given_ids.in_flight[self.client_request_id] > 1
        is_only = is_end and len(own) == 1 and not is_shared
        if own and (self.is_unique or self._is_of_crash or is_only):
            self.verdict, self.generation_id = "found", own[0]
        elif is_end and not own and self._has_failed and self.is_unique:
            self.verdict = "failed" if self.is_single else "missing"
        if self.verdict != "missing":
            self.settled.set()

    def _may_be_own(self, row: LogRow) -> bool:
        """Whether a row came while this create was in flight, as far as clocks tell."""
        if self.is_unique or row.created is None:
            return self.is_unique or self._is_of_crash
        least, most = self._offsets
        came = row.created.timestamp()
        if self._is_of_crash:
            return came - least >= self._reach
        is_early = came - least < self.sent_at - _EARLY
        is_late = came - most > self.lost_at + _LATE
        is_taken = row.inference_id in self.given_ids.answered
        return not (is_early or is_late or is_taken)

    def _is_past(self, row: LogRow) -> bool:
        """Whether a row, and so all that follow, came before this create."""
        if row.created is None or self._vendor_offsets is None:
            return False
        return row.created.timestamp() - self._offsets[0] < self._reach


@define(eq=False, repr=False)
class RequestLogSearch:
    """Searches for all lost creates of one account in one event loop.

    Each reads the log from the newest row down. All see each page, and they take
    turns, so that a long search does not keep others from the newest rows.
    """

    _lost: dict[LostCreate, None] = field(factory=dict[LostCreate, None])
    _turn: anyio.Lock = field(factory=new_lock)

    async def look_for(self, lost: LostCreate, read_page: ReadPage) -> Verdict:
        """Read the log until it shows the outcome of a create, or the time is up.

        Args:
            lost: The create.
            read_page: Reads a page of the log: given how many hours back, the
                offset, and how many seconds it may take.
        """
        self._lost[lost] = None
        try:
            while not lost.is_over:
                with anyio.CancelScope(deadline=lost.deadline) as patience:
                    with anyio.CancelScope(deadline=lost.due):
                        await lost.settled.wait()
                    async with self._turn:
                        patience.deadline = math.inf  # others want the page, too
                        if lost.is_due:
                            await self._read(lost, read_page)
        finally:
            self._lost.pop(lost, None)
        return lost.verdict

    async def _read(self, due: LostCreate, read_page: ReadPage) -> None:
        """Read the page that is due, for all."""
        offset, hours, asked_at = due.offset, due.hours, anyio.current_time()
        try:
            page = await read_page(hours, offset, due.deadline - asked_at)
        except KlingError as error:
            for lost in self._lost:
                lost.note_failure(error)
        else:
            for lost in self._lost:
                lost.take(page, offset=offset, hours=hours, asked_at=asked_at)

"""Lost creates looked for in the request log: what it proves, and at what cost."""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Sequence

import anyio
import anyio.lowlevel
import pytest
from attrs import define, evolve, field

from kling_async import KlingError, LogRow, RateLimitError, ServerError
from kling_async._billing.log_search import (
    GivenIds,
    LostCreate,
    RequestLogSearch,
    Verdict,
)
from kling_async._billing.rows import Page
from kling_async._runtime.window import SlidingWindow

pytestmark = pytest.mark.looptime

NOW = dt.datetime.now(dt.UTC)  # set anew for each test
ROWS = 100
BROKEN = ServerError("analytics are down", status_code=503)


@pytest.fixture(autouse=True)
def begin_now(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count from the test's own beginning: a run of all tests takes a while."""
    monkeypatch.setitem(globals(), "NOW", dt.datetime.now(dt.UTC))


def row(
    client_request_id: str | None,
    inference_id: str | None = "g-1",
    *,
    status: str = "succeeded",
    age: float = 0,
    request_id: str | None = None,
) -> LogRow:
    """Make a row of the log, so many seconds old."""
    return LogRow(
        created=NOW - dt.timedelta(seconds=age),
        status=status,
        model="klingai/v2-master-image-to-video",
        usd=0,
        credits=0,
        inference_id=inference_id,
        request_id=request_id,
        client_request_id=client_request_id,
        origin="api",
    )


def others(count: int) -> list[LogRow]:
    """Make rows of other requests."""
    return [row(f"other-{n}", f"o-{n}") for n in range(count)]


@define(eq=False)
class Log:
    """A log whose rows come when they come, and which may be out of order.

    Attributes:
        rows: Each with when it appears, in seconds of loop time; newest first.
        failures: What reading it raises, reading by reading, before it heals; None
            where it does not fail.
        seconds: How long a page takes.
        reads: When each page was read, and from which offset.
        periods: How many hours back was asked for.
        date: What time the server says it is when the test begins.
    """

    rows: Sequence[tuple[float, LogRow]] = ()
    failures: list[KlingError | None] = field(factory=list[KlingError | None])
    seconds: float = 0.1
    reads: list[tuple[float, int]] = field(factory=list[tuple[float, int]])
    periods: list[int] = field(factory=list[int])
    readers: int = 0
    date: dt.datetime | None = None

    async def __call__(self, hours: int, offset: int, left: float) -> Page[LogRow]:
        """Read a page."""
        assert left > 0
        self.readers += 1
        assert self.readers == 1, "the log is read by two at once"
        await anyio.sleep(self.seconds)
        self.readers -= 1
        now = anyio.current_time()
        self.reads.append((now, offset))
        self.periods.append(hours)
        if self.failures and (failure := self.failures.pop(0)) is not None:
            raise failure
        there = [it for at, it in self.rows if at <= now]
        page = tuple(there[offset : offset + ROWS])
        date = self.date and self.date + dt.timedelta(seconds=int(now))
        return Page(rows=page, has_more=len(there) > offset + ROWS, date=date)


def lost(
    client_request_id: str = "r-1",
    *,
    timeout: float = 60,
    is_unique: bool = True,
    ids: GivenIds | None = None,
) -> LostCreate:
    """Make a create that was sent once, and whose answer was lost just now."""
    return LostCreate(
        client_request_id=client_request_id,
        since=NOW,
        sent_at=anyio.current_time(),
        lost_at=anyio.current_time(),
        deadline=anyio.current_time() + timeout,
        is_unique=is_unique,
        is_single=True,
        given_ids=ids or GivenIds(),
    )


def crashed(*, ago: float = 0, timeout: float = 60) -> LostCreate:
    """Make a create that another process sent so many seconds ago."""
    now = anyio.current_time()
    return LostCreate(
        client_request_id="r-1",
        since=NOW - dt.timedelta(seconds=ago),
        sent_at=now - ago,
        deadline=now + timeout,
    )


async def looked_for(log: Log, *traces: LostCreate) -> list[Verdict]:
    """Look for creates all at once, and give what each is told."""
    search, verdicts = RequestLogSearch(), dict[LostCreate, Verdict]()

    async def look(trace: LostCreate) -> None:
        verdicts[trace] = await search.look_for(trace, log)

    async with anyio.create_task_group() as tasks:
        for trace in traces:
            tasks.start_soon(look, trace)
    return [verdicts[trace] for trace in traces]


# --- what the log proves


async def test_a_create_is_found_by_its_client_request_id() -> None:
    """Beside which stands the generation that was paid for."""
    log, trace = Log([(0, row("other", "g-2")), (0, row("r-1", "g-1"))]), lost()
    assert await looked_for(log, trace) == ["found"]
    assert trace.verdict == "found"
    assert trace.generation_id == "g-1"
    assert len(log.reads) == 1


async def test_a_row_that_comes_late_is_waited_for() -> None:
    """Analytics lag behind: the readings go on until it is there."""
    log, trace = Log([(40, row("r-1"))]), lost()
    assert await looked_for(log, trace) == ["found"]
    assert 40 <= anyio.current_time() < 46


async def test_a_row_on_the_third_page_is_found() -> None:
    """Others are busy with the same key."""
    rows = [*others(250), row("r-1"), *others(200)]
    log = Log([(0, it) for it in rows])
    assert await looked_for(log, lost()) == ["found"]
    assert [offset for _, offset in log.reads] == [0, 100, 200]


async def test_a_log_that_fails_for_a_while_is_asked_again() -> None:
    """An outage of the log shorter than the time-out costs no generation."""
    log = Log([(0, row("r-1"))], failures=[BROKEN] * 6)
    trace = lost()
    assert await looked_for(log, trace) == ["found"]
    assert trace.failure is BROKEN


async def test_a_page_that_fails_is_read_again_before_the_next() -> None:
    """Else a long log, of which a page fails now and then, is never read whole."""
    rows = [*others(950), row("r-1")]
    log = Log([(0, it) for it in rows], failures=[None, BROKEN] * 9)
    assert await looked_for(log, lost()) == ["found"]
    offsets = [offset for _, offset in log.reads]
    assert offsets == sorted(offsets)


async def test_a_create_that_is_not_there_in_time_is_missing() -> None:
    """The time-out bounds the search, and the trace says that the log was read."""
    log, trace = Log([(70, row("r-1"))]), lost(timeout=60)
    assert await looked_for(log, trace) == ["missing"]
    assert 60 <= anyio.current_time() < 61
    assert trace.is_read


async def test_a_log_that_never_answers_proves_nothing() -> None:
    """The trace says that the log was never read, and why."""
    log, trace = Log(failures=[BROKEN] * 99), lost()
    assert await looked_for(log, trace) == ["missing"]
    assert not trace.is_read
    assert trace.failure is BROKEN


async def test_a_create_that_failed_is_told_at_once() -> None:
    """Nothing was billed, and no row of its id can be another's."""
    log = Log([(0, row("r-1", status="failed"))])
    assert await looked_for(log, lost()) == ["failed"]
    assert len(log.reads) == 1


async def test_a_generation_counts_for_more_than_a_failure_of_the_same_id() -> None:
    """Something on the way may have sent the create twice."""
    rows = [row("r-1", "f-1", status="failed"), *others(150), row("r-1", "g-1")]
    trace = lost()
    assert await looked_for(Log([(0, it) for it in rows]), trace) == ["found"]
    assert trace.generation_id == "g-1"


async def test_the_failure_of_an_earlier_attempt_proves_nothing() -> None:
    """The row of a 429 comes first, that of the accepted attempt later."""
    refused = row("r-1", "f-1", status="failed", age=5)
    trace = lost()
    trace.is_single = False
    log = Log([(20, row("r-1", "g-1")), (0, refused)])
    assert await looked_for(log, trace) == ["found"]
    assert trace.generation_id == "g-1"


async def test_after_a_crash_a_failure_proves_nothing() -> None:
    """Nobody knows how often it was sent: a later attempt may yet appear."""
    failed = row("r-1", "f-1", status="failed")
    assert await looked_for(Log([(0, failed)]), crashed()) == ["missing"]
    log = Log([(0, failed), (0, row("r-1"))])
    assert await looked_for(log, crashed()) == ["found"]


async def test_an_undocumented_status_with_an_id_is_a_generation() -> None:
    """Only what the vendor calls failed has failed."""
    assert await looked_for(Log([(0, row("r-1", status="running"))]), lost()) == [
        "found"
    ]


async def test_a_row_without_an_id_finds_nothing() -> None:
    """There is nothing to poll for."""
    assert await looked_for(Log([(0, row("r-1", None))]), lost()) == ["missing"]


async def test_a_request_without_a_client_request_id_is_no_match() -> None:
    """The vendor writes null where nothing was sent."""
    assert await looked_for(Log([(0, row(None))]), lost()) == ["missing"]


# --- ids that may be used again


async def test_an_id_of_the_callers_own_is_found_too() -> None:
    """If one generation was created under it while the create was in flight."""
    trace = lost(is_unique=False)
    assert await looked_for(Log([(0, row("r-1", age=-0.1))]), trace) == ["found"]


@pytest.mark.parametrize("age", [3600, 5, -300])
async def test_a_generation_of_another_time_is_not_taken(age: float) -> None:
    """An order number may be on many creates: of an hour ago, or of later."""
    trace = lost(is_unique=False)
    assert await looked_for(Log([(0, row("r-1", "old", age=age))]), trace) == [
        "missing"
    ]
    assert "old" in (trace.gap or "")


async def test_a_failure_proves_nothing_of_an_id_that_may_be_used_again() -> None:
    """It may be an earlier create's, refused a moment ago."""
    log = Log([(0, row("r-1", status="failed", age=-0.1))])
    assert await looked_for(log, lost(is_unique=False)) == ["missing"]


async def test_a_generation_that_answered_another_create_is_not_taken() -> None:
    """However closely the two follow each other."""
    ids, log = GivenIds(), Log([(0, row("r-1", "g-1")), (15, row("r-1", "g-2"))])
    ids.answered.append("g-1")
    trace = lost(is_unique=False, ids=ids)
    assert await looked_for(log, trace) == ["found"]
    assert trace.generation_id == "g-2"


async def test_of_two_generations_of_one_id_none_is_taken() -> None:
    """Nobody can tell whose is which."""
    rows = [row("r-1", "g-1"), *others(150), row("r-1", "g-2")]
    trace = lost(is_unique=False)
    assert await looked_for(Log([(0, it) for it in rows]), trace) == ["missing"]
    assert "another create's: g-1, g-2" in (trace.gap or "")


async def test_while_two_creates_of_one_id_are_in_flight_none_is_settled() -> None:
    """The row may be the other's, which then has its answer."""
    ids, log = GivenIds(), Log([(0, row("r-1", "g-1")), (20, row("r-1", "g-2"))])
    trace, verdicts = lost(is_unique=False, ids=ids), list[Verdict]()

    async def look() -> None:
        with ids.use("r-1"):
            verdicts.append(await RequestLogSearch().look_for(trace, log))

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(look)
        with ids.use("r-1"):
            await anyio.sleep(10)
            assert not verdicts
            ids.answered.append("g-1")
    assert verdicts == ["found"]
    assert trace.generation_id == "g-2"


# --- clocks


@pytest.mark.parametrize("ahead", [-5, -0.3, 0.3, 5], ids="{} h".format)
async def test_an_own_id_is_found_however_wrong_the_clock_is(ahead: float) -> None:
    """The server's `Date` tells what time it was when the create was sent."""
    off = dt.timedelta(hours=ahead)
    earlier, own = row("r-1", "old", age=5), row("r-1", "g-1", age=-0.1)
    log = Log([(0, own), (0, earlier)], date=NOW)
    trace = evolve(lost(is_unique=False), since=NOW + off)
    assert await looked_for(log, trace) == ["found"]
    assert trace.generation_id == "g-1"
    assert abs(trace.sent - NOW) < dt.timedelta(seconds=3)


@pytest.mark.parametrize("ahead", [-30, -5, 5, 30])
async def test_a_drawn_id_is_found_however_old_its_row_seems(ahead: float) -> None:
    """With a server that tells no time, too."""
    trace = evolve(lost(), since=NOW + dt.timedelta(hours=ahead))
    assert await looked_for(Log([(0, row("r-1"))]), trace) == ["found"]


@pytest.mark.parametrize("hours", [1.5, 30])
async def test_what_was_in_flight_for_long_is_looked_for_as_far_back(
    hours: float,
) -> None:
    """A time-out of hours: the whole time is asked for."""
    trace, log = lost(timeout=1e6), Log([(0, row("r-1"))])
    await anyio.sleep(hours * 3600)
    assert await looked_for(log, trace) == ["found"]
    assert log.periods[0] >= hours


# --- what it costs


async def test_many_share_one_reading() -> None:
    """A thousand lost at once need no more pages than the log has."""
    rows = [row(f"r-{n}", f"g-{n}") for n in range(1000)]
    log = Log([(0, it) for it in rows])
    traces = [lost(f"r-{n}") for n in range(1000)]
    assert set(await looked_for(log, *traces)) == {"found"}
    assert len(log.reads) == 10


async def test_the_others_go_on_when_the_reader_has_what_it_wants() -> None:
    """Whoever reads for all may leave; another takes over."""
    rows = [(5.0 * n, row(f"r-{n}", f"g-{n}")) for n in range(8)]
    log = Log(rows)
    assert set(await looked_for(log, *(lost(f"r-{n}") for n in range(8)))) == {"found"}


async def test_the_others_go_on_when_the_reader_is_cancelled() -> None:
    """Closing a client's scope, say, tears it away."""
    log, search, verdicts = Log([(20, row("r-2"))]), RequestLogSearch(), list[Verdict]()

    async def second() -> None:
        verdicts.append(await search.look_for(lost("r-2"), log))

    async with anyio.create_task_group() as tasks:
        with anyio.move_on_after(10):
            tasks.start_soon(second)
            await search.look_for(lost("r-1"), log)
    assert verdicts == ["found"]


async def test_one_that_comes_later_shares_the_reading_too() -> None:
    """It need not wait for the one before it to be settled."""
    log, search = Log([(0, row("r-2"))]), RequestLogSearch()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(search.look_for, lost("r-1"), log)
        await anyio.sleep(30)
        with anyio.fail_after(6):
            assert await search.look_for(lost("r-2"), log) == "found"
        tasks.cancel_scope.cancel()


async def test_one_that_comes_during_a_reading_has_not_seen_all_of_it() -> None:
    """The pages before it came are not its own: it counts from the next reading."""
    log, search = Log([(0, it) for it in others(150)], seconds=2), RequestLogSearch()
    first, second = lost("r-1", timeout=20), lost("r-2", timeout=1.5)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(search.look_for, first, log)
        await anyio.sleep(3.5)
        second = lost("r-2", timeout=2)
        assert await search.look_for(second, log) == "missing"
    assert not second.is_read
    assert first.is_read


async def test_the_readings_get_rarer_with_time() -> None:
    """A row comes soon or late: a minute takes a dozen readings, not sixty."""
    log = Log()
    await looked_for(log, lost(timeout=60))
    gaps = [round(b - a, 6) for (a, _), (b, _) in itertools.pairwise(log.reads)]
    assert gaps == sorted(gaps)
    assert len(log.reads) <= 20


async def test_a_log_that_asks_to_wait_is_left_alone_so_long() -> None:
    """A 429 with Retry-After: another program uses the same key."""
    busy = RateLimitError("slow down", status_code=429, retry_after=30)
    log = Log([(0, row("r-1"))], failures=[busy])
    assert await looked_for(log, lost()) == ["found"]
    assert log.reads[1][0] - log.reads[0][0] >= 30


async def test_a_log_that_asks_for_too_long_is_not_left_alone_so_long() -> None:
    """Its wish counts for as much as the retry policy allows."""
    busy = RateLimitError("slow down", status_code=429, retry_after=1e11)
    log = Log([(0, row("r-1"))], failures=[busy])
    trace = evolve(lost(), max_retry_after=5)
    assert await looked_for(log, trace) == ["found"]
    assert 5 <= log.reads[1][0] - log.reads[0][0] <= 6


async def test_rows_older_than_the_create_are_not_read() -> None:
    """A day of a busy key has thousands of pages; the newest come first."""
    old = [row(f"o-{n}", age=700 + n) for n in range(900)]
    log = Log([(0, it) for it in [*others(150), *old]], date=NOW)
    trace = lost(timeout=3)
    await looked_for(log, trace)
    assert max(offset for _, offset in log.reads) == 100
    assert trace.is_read


@pytest.mark.parametrize(
    "age, hours",
    [(0, 1), (2800, 1), (3300, 2), (86_400, 25), (1e8, 2208)],
)
async def test_the_period_reaches_back_to_the_create(age: float, hours: int) -> None:
    """With ten minutes for clocks that differ; the vendor allows 92 days."""
    log = Log()
    await looked_for(log, crashed(ago=age, timeout=2))
    assert log.periods[0] == hours


@pytest.mark.parametrize("behind", [3, 20])
async def test_a_log_is_read_as_far_back_as_the_server_says(behind: int) -> None:
    """This machine's clock is behind, so that the time told is longer ago."""
    log = Log(date=NOW + dt.timedelta(hours=behind))
    trace = crashed(timeout=5)
    await looked_for(log, trace)
    assert log.periods[-1] == behind + 1
    assert trace.is_read


async def test_a_long_search_keeps_nobody_from_the_newest_rows() -> None:
    """A crashed create of yesterday is looked for in 200 pages; both are found."""
    log = Log([(0, it) for it in others(20_000)], seconds=0.2)
    old, search = crashed(ago=86_000, timeout=1e4), RequestLogSearch()
    log.rows = [*log.rows, (0, row("r-1", age=85_000))]
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(search.look_for, old, log)
        await anyio.sleep(5)
        log.rows = [(0, row("r-2", "g-2")), *log.rows]
        with anyio.fail_after(2.5):
            assert await search.look_for(lost("r-2"), log) == "found"
    assert old.verdict == "found"
    assert anyio.current_time() < 150


async def test_fresh_searches_do_not_starve_a_long_one() -> None:
    """One after another joins, and the one from yesterday is found all the same."""
    log = Log([(0, it) for it in [*others(5000), row("r-1", age=85_000)]])
    old, search = crashed(ago=86_000, timeout=1e4), RequestLogSearch()

    async def join() -> None:
        while not old.is_over:
            await search.look_for(lost("never", timeout=2), log)

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(join)
            await anyio.sleep(0.3)
        await search.look_for(old, log)
    assert old.verdict == "found"


async def test_a_bug_in_a_reader_reaches_who_asked() -> None:
    """Only errors of this library are waited out."""

    async def read(*_: object) -> Page[LogRow]:
        await anyio.lowlevel.checkpoint()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await RequestLogSearch().look_for(lost(), read)


@pytest.mark.parametrize("tasks_at_once", [1, 7])
async def test_a_pace_is_kept_in_every_window(tasks_at_once: int) -> None:
    """A burst is let through, then no more until the window has moved on."""
    pace, taken = SlidingWindow(limit=10, seconds=60), list[float]()

    async def take(count: int) -> None:
        for _ in range(count):
            await pace.take()
            taken.append(anyio.current_time())

    async with anyio.create_task_group() as tasks:
        for _ in range(tasks_at_once):
            tasks.start_soon(take, 35 // tasks_at_once)
    windows = [taken[n + 10] - taken[n] for n in range(25)]
    assert all(window >= 60 or math.isclose(window, 60) for window in windows)
    assert taken[9] == taken[0]

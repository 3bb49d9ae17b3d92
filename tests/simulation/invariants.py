"""What has to hold after each run, whatever happened in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

from program import (
    LEFT,
    Act,
    Call,
    Fetch,
    Run,
    Search,
    Wait,
    cost_of,
)
from world import VIDEO, Accepted

from kling_async import (
    APIStatusError,
    ClientClosedError,
    Generation,
    KlingError,
    RateLimitError,
    SubmissionUncertainError,
    WaitTimeoutError,
)

# One exchange's connection, request and answer, where nothing goes wrong.
EXCHANGE = 3.0

# No starvation: once all is well, what has no deadline of its own ends in this time.
# Longest of all takes a create that was in the middle of an exchange (60 s), is looked
# for (60 s), and has others before it that are let in one after another.
SOON = 300.0


class BrokenPromiseError(AssertionError):
    """An invariant does not hold."""


def _require(holds: bool, promise: str, what: object) -> None:
    if not holds:
        raise BrokenPromiseError(f"{promise}: {what}")


def _accepted(run: Run, call: Call) -> list[Accepted]:
    return [it for it in run.vendor.accepted if it.call == call.number]


def _told(act: Act) -> str:
    outcome = act.outcome
    what = f"{type(outcome).__name__}: {outcome}"
    number = f"call {act.number}, " if isinstance(act, Call) else ""
    return f"{number}{what}, after {act.ended - act.began:.1f} s"


def billed_once(run: Run) -> None:
    """No call is billed twice."""
    for call in run.all(Call):
        ids = [it.id for it in _accepted(run, call)]
        _require(len(ids) <= 1, "billed twice", f"{ids} for {_told(call)}")


def billed_is_asked(run: Run) -> None:
    """Whoever hears of a call's end hears of the generation that it is billed for."""
    for call in run.all(Call):
        billed = next(iter(_accepted(run, call)), None)
        outcome = call.outcome
        if isinstance(outcome, Generation):
            is_own = billed is not None and outcome.id == billed.id
            _require(is_own, "given what is not its own", (outcome.id, _told(call)))
        elif isinstance(outcome, SubmissionUncertainError):
            if billed is not None:
                is_id = outcome.client_request_id == billed.client_request_id
                _require(is_id, "uncertain under another id", _told(call))
        elif isinstance(outcome, KlingError) and billed is not None:
            is_told = outcome.generation_id == billed.id
            _require(is_told, "billed, and its caller told it is not", _told(call))
        elif isinstance(outcome, KlingError):
            told = outcome.generation_id
            _require(told is None, "told of what nobody bills", (told, _told(call)))
        elif isinstance(outcome, BaseException):
            _require(billed is None, "billed, and its id lost", _told(call))


def nothing_is_unknown(run: Run) -> None:
    """What is billed for a call that was left is in the log of its process."""
    for call in run.all(Call):
        if call.outcome is not LEFT or call.process.is_dead:
            continue
        for billed in _accepted(run, call):
            names = (billed.id, billed.client_request_id)
            log = "\n".join(call.process.log)
            is_there = any(name in log for name in names)
            _require(is_there, "billed, left, and in no log", (names, _told(call)))


def searches_tell_the_truth(run: Run) -> None:
    """`reconcile` gives what was started under an id; None only if none is listed."""
    for search in run.all(Search):
        rows = [
            it
            for it in run.vendor.rows
            if it.inference_id and it.client_request_id == search.client_request_id
        ]
        if isinstance(search.outcome, Generation):
            is_it = any(search.outcome.id == it.inference_id for it in rows)
            _require(is_it, "found what is another's", _told(search))
        elif search.outcome is None and search.ended < math.inf:
            shown = [it for it in rows if it.shown_at <= search.began]
            _require(not shown, "None, though it is billed", (shown, _told(search)))


def budgets_are_kept(run: Run) -> None:
    """A batch spends no more than it may, where the vendor tells its prices."""
    if run.vendor.has_priced_badly or run.is_disturbed:
        return
    for number, usd in enumerate(run.budgets):
        calls = [it for it in run.all(Call) if it.batch == number]
        spent = sum(
            cost_of(it) for it in calls for made in _accepted(run, it) if made.succeeds
        )
        if usd is not None:
            _require(spent <= usd + 1e-6, "over its budget", f"{spent} of {usd} USD")


def a_limit_fails_no_create(run: Run) -> None:
    """A vendor that takes only so many at once fails nothing of a batch.

    One that takes only so many in a second fails no create, unless other failures use
    up its attempts.
    """
    vendor, weather = run.vendor, run.world.weather
    is_rate_alone = vendor.most_running == math.inf and "429" not in weather.faults
    has_failed_otherwise = run.is_disturbed or weather.rate > 0
    for call in run.all(Call):
        is_limit = isinstance(call.outcome, RateLimitError)
        is_patient = call.process.attempts == 5
        if has_failed_otherwise and call.batch is None:
            is_patient &= vendor.refused[call.number] >= 5
        if call.batch is not None or (is_rate_alone and is_patient):
            _require(not is_limit, "failed by a limit", _told(call))


def waits_see_the_end(run: Run) -> None:
    """A wait gives what has ended, and in calm weather misses none that ended in time.

    One that begins late asks at once.
    """
    by_id = {it.id: it for it in run.vendor.accepted}
    for wait in run.all(Wait):
        made = by_id[wait.generation_id]
        if isinstance(wait.outcome, Generation):
            was_over = made.succeeds and made.ends_at <= wait.ended
            _require(was_over, "ended before its time", _told(wait))
        if not _is_calm(run):
            continue
        late = isinstance(wait.outcome, WaitTimeoutError)
        in_time = made.ends_at <= wait.began + wait.timeout - EXCHANGE
        _require(not (late and in_time), "an end missed", (made.ends_at, _told(wait)))
        if made.ends_at <= wait.began and wait.process.max_connections > 1:
            took = wait.ended - wait.began
            _require(took <= 2 * EXCHANGE, "a late wait that waits", _told(wait))


def _is_calm(run: Run) -> bool:
    is_disturbed = run.is_disturbed or run.has_failed_hook or run.vendor.refusals
    return run.world.weather.rate == 0 and not is_disturbed


def fetches_go_on(run: Run) -> None:
    """A download fails only after attempts in a row that brought nothing new."""
    for fetch in run.all(Fetch):
        left = isinstance(fetch.outcome, ClientClosedError | str)
        if left or fetch.process.is_lent or not _is_all_read(run):
            continue
        if isinstance(fetch.outcome, KlingError) and fetch.ended - fetch.began < 190:
            most = run.world.store.most_fruitless.get(fetch.url_path, 0)
            _require(most >= 2, "gave up on a download that came on", _told(fetch))
        elif not isinstance(fetch.outcome, KlingError) and not fetch.process.is_dead:
            whole = fetch.path.read_bytes() == VIDEO
            _require(whole, "a file that is not the video", fetch.path.name)


def limits_are_kept(run: Run) -> None:
    """Downloads take no more than half of the connections, and at least one."""
    lent = any(it.is_lent for it in run.processes)
    if len(run.processes) == 1 and not lent:
        most = max(1, run.processes[0].max_connections // 2)
        at_once = run.world.store.most_at_once
        _require(at_once <= most, "more downloads at once than may be", at_once)


def waits_end_in_time(run: Run) -> None:
    """Each wait ends within its deadline plus one exchange."""
    for act in run.acts:
        if act.process.is_dead:
            continue
        _require(act.ended < math.inf, "never ended", _told(act))
        most = _longest(run, act) + run.stood_still
        took = act.ended - act.began
        _require(took <= most, f"took longer than {most:.0f} s", _told(act))


def _longest(run: Run, act: Act) -> float:
    if isinstance(act, Call):
        is_bad_for = max(0.0, run.world.weather.ends_at - act.began)
        batch = 6 * SOON if act.batch is not None else 0.0
        return is_bad_for + SOON + act.timeout + batch
    if isinstance(act, Wait):
        look = min(5.0, max(1.0, act.timeout * 0.05))
        return act.timeout + look + EXCHANGE
    if isinstance(act, Search):
        return act.timeout + 10 + act.process.timeout + EXCHANGE
    return act.timeout + EXCHANGE + 1  # a download


def closing_is_heard(run: Run) -> None:
    """Closing takes no longer than an exchange, and ends all that goes on."""
    for process in run.processes:
        if process.is_dead or process.closed_at == math.inf:
            continue
        _require(
            process.closed_in <= process.timeout + EXCHANGE + run.stood_still,
            "closing took",
            f"{process.closed_in} s",
        )
        for act in run.acts:
            if act.process is process and act.began < process.closed_at < act.ended:
                over = act.ended - process.closed_at
                most = process.closed_in if _was_sent(run, act) else 0.0
                most += EXCHANGE + run.stood_still
                _require(over <= most, "went on after aclose()", (over, _told(act)))


def _was_sent(run: Run, act: Act) -> bool:
    """Whether a create may be under way, which closing waits for."""
    if not isinstance(act, Call):
        return False
    last = run.vendor.last_post.get(act.number)
    if act.process.is_lent:  # a hook of its own may lose what was answered
        return True
    return not _is_all_read(run) or (last is not None and not last.is_answered)


def _is_all_read(run: Run) -> bool:
    """Whether the vendor has read each request that was sent."""
    return not run.is_disturbed and "impatient" not in run.world.weather.faults


def all_is_given_back(run: Run) -> None:
    """Once all is well, the client serves as many as ever; closed, nothing is left."""
    for took, outcome in run.last_looks:
        _require(
            not isinstance(outcome, Exception) and took <= SOON,
            "not served though all was well",
            f"{type(outcome).__name__}: {outcome}, after {took:.1f} s",
        )
    _require(not run.left_over, "left over", run.left_over)


def errors_are_ours(run: Run) -> None:
    """What is raised is an error of this library, and says what an answer said."""
    for act in run.acts:
        error = act.outcome
        if isinstance(error, BaseException):
            _require(isinstance(error, KlingError), "not our error", _told(act))
        if isinstance(error, APIStatusError):
            _require(error.status_code >= 400, "an error that is none", _told(act))


INVARIANTS: tuple[Callable[[Run], None], ...] = (
    billed_once,
    billed_is_asked,
    nothing_is_unknown,
    searches_tell_the_truth,
    budgets_are_kept,
    a_limit_fails_no_create,
    waits_see_the_end,
    fetches_go_on,
    limits_are_kept,
    waits_end_in_time,
    closing_is_heard,
    all_is_given_back,
    errors_are_ours,
)


def check(run: Run) -> None:
    """Check them all.

    Raises:
        BrokenPromiseError: One does not hold.
    """
    for invariant in INVARIANTS:
        invariant(run)


def names() -> Iterator[str]:
    """Name them."""
    return (it.__name__ for it in INVARIANTS)

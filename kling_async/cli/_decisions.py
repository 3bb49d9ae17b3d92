"""What `kling-async jobs` shows of jobs, and does to them one by one.

A job that a decision does not fit stops none of the others.
"""

from __future__ import annotations

import datetime as dt
import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import typer
from attrs import asdict
from rich.table import Table
from rich.text import Text

from kling_async import KlingError
from kling_async._text import safe_line
from kling_async.cli._manifest import JOBS
from kling_async.cli._options import JobOptions
from kling_async.cli._output import Exit, Screen, as_json, cost_in_words, format_error
from kling_async.cli._progress import STYLES
from kling_async.durable import Account, DurableKling, JobStatus
from kling_async.durable._database import Database

Decision = Literal["adopt", "cancel", "give_up", "recheck", "redeliver", "resubmit"]


async def show_jobs(
    screen: Screen,
    given: JobOptions,
    *,
    is_json: bool,
    limit: int | None,
    offset: int,
) -> Exit:
    """List the jobs of one batch, or of all."""
    database, count = find_database(given.database), 0
    for name in await _batches(database, given.batch):
        async with DurableKling(database, batch=name) as jobs:
            statuses = await jobs.list(*given.states, limit=limit, offset=offset)
            account = await jobs.account()
        count += len(statuses)
        if is_json:
            for status in statuses:
                screen.json(_as_json(status))
        elif statuses and screen.out.is_terminal:
            screen.show(_table(name, statuses))
        else:
            for status in statuses:
                screen.row(_cells(status))
        if statuses and not is_json:
            screen.note(f"{name}: {_count(statuses)}; {_in_words(account)}")
    if not count:
        screen.note("no such jobs" if given.states or offset else "no jobs")
    return Exit.DONE


async def show_summary(screen: Screen, given: JobOptions) -> Exit:
    """Count the jobs of one batch, or of all."""
    database = find_database(given.database)
    for name in await _batches(database, given.batch):
        async with DurableKling(database, batch=name) as jobs:
            statuses = await jobs.list(*given.states)
            account = await jobs.account()
        screen.result(f"{name}: {_count(statuses) or 'none'}; {_in_words(account)}")
    return Exit.DONE


async def set_budget(screen: Screen, given: JobOptions, amount: float) -> Exit:
    """Set the budget of a batch, infinite for none."""
    database = find_database(given.database)
    name = await _only_batch(database, given.batch)
    async with DurableKling(database, batch=name) as jobs:
        await jobs.set_budget(None if math.isinf(amount) else amount)
        account = await jobs.account()
    screen.note(f"{name}: {_in_words(account)}", "")
    return Exit.DONE


async def purge_jobs(screen: Screen, given: JobOptions, age: dt.timedelta) -> Exit:
    """Delete settled jobs of one batch, or of all."""
    database = find_database(given.database)
    for name in await _batches(database, given.batch):
        async with DurableKling(database, batch=name) as jobs:
            count = await jobs.purge(age)
        screen.note(f"{name}: {count} deleted", "")
    return Exit.DONE


async def show_undelivered(screen: Screen, given: JobOptions, *, is_json: bool) -> Exit:
    """List the jobs whose end the webhook has not taken yet."""
    database = find_database(given.database)
    for name in await _batches(database, given.batch):
        async with DurableKling(database, batch=name) as jobs:
            due = await jobs.undelivered()
        for it in due:
            if is_json:
                screen.json({"batch": name, **asdict(it)})
            else:
                state = "given up" if it.is_given_up else "under way"
                screen.note(safe_line(f"{name}/{it.key}: {state} {it.error or ''}"), "")
    return Exit.DONE


async def decide(
    screen: Screen,
    given: JobOptions,
    decision: Decision,
    keys: Sequence[str],
    *arguments: str,
) -> Exit:
    """Decide on jobs.

    Args:
        screen: Where it is told.
        given: Where they are.
        decision: What.
        keys: On which; those in the states that were given if none is named.
        *arguments: What else the decision needs.
    """
    if not keys and not given.states:
        raise typer.BadParameter("name jobs, or their state with --state")
    database = find_database(given.database)
    name = await _only_batch(database, given.batch)
    code = Exit.DONE
    async with DurableKling(database, batch=name) as jobs:
        if given.states:
            fitting = [it.key for it in await jobs.list(*given.states)]
            keys = [it for it in fitting if it in keys] if keys else fitting
        for key in keys:
            try:
                await getattr(jobs, decision)(key, *arguments)
            except KlingError as error:
                code = Exit.FAILED
                for line in format_error(error):
                    screen.error(line)
            else:
                status = await jobs.status(key)
                screen.note(f"{key}: {status.state}", "")
        if not keys:
            screen.note("no such jobs")
    return code


def find_database(given: str) -> str:
    """Find the database that is meant by a URL, a file, a folder or a manifest.

    Raises:
        typer.BadParameter: There is none: a slip makes no new one.
    """
    path, is_url = Path(given), "://" in given
    if is_url:
        database = Database.at(given)
        path = database.file if database.is_sqlite else Path("/")
    elif path.is_dir():
        path /= JOBS
    elif path.suffix not in {".db", ".sqlite", ".sqlite3"}:
        path = path.with_name(path.stem) / JOBS
    if path.exists():
        return given if is_url else str(path)
    message = f"there is no {path}; give a batch's folder, its manifest or a database"
    raise typer.BadParameter(message, param_hint="--database")


async def _batches(database: str, wanted: str | None) -> list[str]:
    async with DurableKling(database) as jobs:
        batches = await jobs.batches()
    if wanted is None:
        return batches
    if wanted not in batches:
        there = ", ".join(batches) or "none"
        message = f"there is no batch {wanted}; there is: {there}"
        raise typer.BadParameter(message, param_hint="--batch")
    return [wanted]


async def _only_batch(database: str, wanted: str | None) -> str:
    batches = await _batches(database, wanted)
    if len(batches) == 1:
        return batches[0]
    if not batches:
        raise typer.BadParameter("there are no jobs", param_hint="--database")
    message = f"there are several batches: {', '.join(batches)}; name one"
    raise typer.BadParameter(message, param_hint="--batch")


def _count(statuses: Sequence[JobStatus]) -> str:
    counts = Counter(str(it.state) for it in statuses)
    return ", ".join(f"{counts[state]} {state}" for state in STYLES if counts[state])


def _cells(status: JobStatus) -> list[str]:
    what = status.error or (str(status.output) if status.output else "")
    cells = (status.key, status.state, status.generation_id or "", what)
    return [safe_line(it) for it in cells]


def _in_words(account: Account) -> str:
    budget = account.budget
    of = "" if budget is None else f", of a budget of {cost_in_words(budget)}"
    return f"{cost_in_words(account.committed)} spent or set aside{of}"


def _table(batch: str, statuses: Sequence[JobStatus]) -> Table:
    table = Table(title=batch, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("key", "state", "generation", "what"):
        table.add_column(name, overflow="fold")
    for it in statuses:
        key, state, generation_id, what = _cells(it)
        table.add_row(
            Text(key, "bold"),
            Text(state, STYLES[it.state]),
            Text(generation_id),
            Text(what, "dim"),
        )
    return table


def _as_json(status: JobStatus) -> dict[str, object]:
    plain: dict[str, object] = asdict(status, recurse=False)
    return plain | {
        "output": status.output and str(status.output),
        "generation": status.generation and as_json(status.generation),
        "intent": status.intent and status.intent.to_json(),
        "created_at": status.created_at and status.created_at.isoformat(),
        "started_at": status.started_at and status.started_at.isoformat(),
        "ended_at": status.ended_at and status.ended_at.isoformat(),
        "credits_used": status.credits_used,
    }

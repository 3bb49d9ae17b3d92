"""What `kling-async jobs` shows of jobs, and does to them one by one.

A job that a decision does not fit stops none of the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import typer
from attrs import asdict
from rich.table import Table
from rich.text import Text

from kling_async import KlingError
from kling_async._text import safe_line
from kling_async.cli._output import Exit, Screen, as_json, cost_in_words, format_error
from kling_async.cli._progress import STYLES
from kling_async.durable import Account, DurableKling, JobStatus

Decision = Literal["adopt", "cancel", "give_up", "recheck", "redeliver", "resubmit"]


async def show_jobs(
    screen: Screen,
    database: str,
    batch: str | None,
    states: Sequence[str],
    *,
    is_json: bool,
) -> Exit:
    """List the jobs of one batch, or of all."""
    for name in [batch] if batch else await _batches(database):
        async with DurableKling(database, batch=name) as jobs:
            statuses = await jobs.list(*states)
            account = await jobs.account()
        if is_json:
            for status in statuses:
                screen.json(_as_json(status))
        elif statuses:
            screen.show(_table(name, statuses))
            screen.note(f"{len(statuses)} jobs, {_in_words(account)}")
    return Exit.DONE


async def show_undelivered(
    screen: Screen, database: str, batch: str | None, *, is_json: bool
) -> Exit:
    """List the jobs whose end the webhook has not taken yet."""
    for name in [batch] if batch else await _batches(database):
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
    database: str,
    batch: str | None,
    decision: Decision,
    keys: Sequence[str],
    *arguments: str,
) -> Exit:
    """Decide on jobs.

    Args:
        screen: Where it is told.
        database: Where they are.
        batch: Which batch; None for the only one there is.
        decision: What.
        keys: On which.
        *arguments: What else the decision needs.
    """
    name = batch or await _only_batch(database)
    code = Exit.DONE
    async with DurableKling(database, batch=name) as jobs:
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
    return code


async def _batches(database: str) -> list[str]:
    async with DurableKling(database) as jobs:
        return await jobs.batches()


async def _only_batch(database: str) -> str:
    batches = await _batches(database)
    if len(batches) == 1:
        return batches[0]
    if not batches:
        raise typer.BadParameter("there are no jobs", param_hint="--database")
    message = f"there are several batches: {', '.join(batches)}; name one"
    raise typer.BadParameter(message, param_hint="--batch")


def _in_words(account: Account) -> str:
    budget = account.budget
    of = "" if budget is None else f", of a budget of {cost_in_words(budget)}"
    return f"{cost_in_words(account.committed)} spent or set aside{of}"


def _table(batch: str, statuses: Sequence[JobStatus]) -> Table:
    table = Table(title=batch, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("key", "state", "generation", "what"):
        table.add_column(name, overflow="fold")
    for it in statuses:
        what = it.error or (str(it.output) if it.output else "")
        table.add_row(
            Text(safe_line(it.key), "bold"),
            Text(it.state, STYLES[it.state]),
            Text(safe_line(it.generation_id or "")),
            Text(safe_line(what), "dim"),
        )
    return table


def _as_json(status: JobStatus) -> dict[str, object]:
    plain: dict[str, object] = asdict(status, recurse=False)
    return plain | {
        "output": status.output and str(status.output),
        "generation": status.generation and as_json(status.generation),
        "intent": status.intent and status.intent.to_json(),
        "created_at": status.created_at and status.created_at.isoformat(),
        "ended_at": status.ended_at and status.ended_at.isoformat(),
        "credits_used": status.credits_used,
    }

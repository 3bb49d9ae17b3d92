"""`kling-async jobs`: what is in a database of jobs, and decisions on it."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from kling_async.cli import _fleet as fleet, _options as options
from kling_async.cli._exits import Exit
from kling_async.cli._running import Ledger, until_interrupted
from kling_async.cli._screen import Screen

States = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        metavar="STATE",
        help="Only jobs that are queued, running, done, failed, uncertain, held or "
        "cancelled. Several times.",
    ),
]
Keys = Annotated[list[str], typer.Argument(metavar="KEY...", help="Which jobs.")]
Key = Annotated[str, typer.Argument(metavar="KEY", help="Which job.")]
GenerationId = Annotated[
    str, typer.Argument(metavar="ID", help="The generation that it is to go on with.")
]
ItsBatch = Annotated[
    str | None,
    typer.Option("--batch", metavar="NAME", help="Its batch, if there are several."),
]

jobs = typer.Typer(
    name="jobs",
    help="List the jobs of a database, and decide on them. Nothing is sent from here: "
    "a worker, or the next run of the batch, carries decisions out.",
    invoke_without_command=True,
)
_DATABASE = "kling_async.database"


@jobs.callback()
def list_jobs(
    ctx: typer.Context,
    *,
    database: fleet.Database = fleet.DEFAULT_DATABASE,
    batch: fleet.OneBatch = None,
    state: States = None,
    json: options.Json = False,
) -> Exit | None:
    """List jobs."""
    ctx.meta[_DATABASE] = database
    if ctx.invoked_subcommand is not None:
        return None
    screen = Screen.of(ctx)

    async def work() -> Exit:
        from kling_async.cli._deciding import (  # noqa: PLC0415 (it takes a while)
            show_jobs,
        )

        return await show_jobs(screen, database, batch, state or [], is_json=json)

    return until_interrupted(work, screen=screen, ledger=Ledger())


@jobs.command()
def cancel(ctx: typer.Context, keys: Keys, *, batch: ItsBatch = None) -> Exit:
    """Call jobs off. What was created goes on at the server, and is billed."""
    return _decide(ctx, "cancel", keys, batch)


@jobs.command()
def resubmit(ctx: typer.Context, keys: Keys, *, batch: ItsBatch = None) -> Exit:
    """Try jobs once more. For uncertain ones that may mean a second bill."""
    return _decide(ctx, "resubmit", keys, batch)


@jobs.command()
def recheck(ctx: typer.Context, keys: Keys, *, batch: ItsBatch = None) -> Exit:
    """Look for uncertain jobs in the vendor's log again; nothing is created."""
    return _decide(ctx, "recheck", keys, batch)


@jobs.command("give-up")
def give_up(ctx: typer.Context, keys: Keys, *, batch: ItsBatch = None) -> Exit:
    """Let uncertain jobs fail. They may have been billed all the same."""
    return _decide(ctx, "give_up", keys, batch)


@jobs.command()
def adopt(
    ctx: typer.Context, key: Key, generation_id: GenerationId, *, batch: ItsBatch = None
) -> Exit:
    """Let a job go on with a generation that was found by other means."""
    return _decide(ctx, "adopt", [key], batch, generation_id)


def _decide(
    ctx: typer.Context,
    decision: Literal["adopt", "cancel", "give_up", "recheck", "resubmit"],
    keys: list[str],
    batch: str | None,
    *arguments: str,
) -> Exit:
    screen, database = Screen.of(ctx), str(ctx.meta[_DATABASE])

    async def work() -> Exit:
        from kling_async.cli._deciding import decide  # noqa: PLC0415 (it takes a while)

        return await decide(screen, database, batch, decision, keys, *arguments)

    return until_interrupted(work, screen=screen, ledger=Ledger())

"""The commands over a database of jobs: `batch`, `worker` and `jobs`.

Light to import: the engine is loaded by the command that needs it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, NoReturn

import anyio
import typer

from kling_async import AsyncKling
from kling_async.cli import _options as fleet, _options as options
from kling_async.cli._output import Exit, Screen
from kling_async.cli._running import SeenGenerations, until_interrupted

ManifestFile = Annotated[
    str,
    typer.Argument(
        metavar="MANIFEST",
        help="A CSV or JSON Lines file; - for standard input. Its columns are the "
        "fields of requests, and key and output.",
    ),
]


def batch(
    ctx: typer.Context,
    manifest: ManifestFile,
    *,
    output_dir: fleet.BatchDir = None,
    database: fleet.MaybeDatabase = None,
    name: fleet.BatchName = None,
    max_in_flight: fleet.MaxInFlight = 32,
    creates_per_minute: fleet.CreatesPerMinute = None,
    budget: fleet.Budget = None,
    on_uncertain: fleet.OnUncertain = "ask",
    webhook: fleet.Webhook = None,
    any_format: options.AnyFormat = False,
    retry_failed: fleet.RetryFailed = False,
    check_media: options.CheckMedia = True,
    dry_run: fleet.DryRun = False,
) -> Exit:
    """Generate a video for each row of a manifest. This costs money.

    All rows are checked before the first is sent. Run it again after whatever
    ended it, and it goes on: nothing is made twice, nothing is forgotten.
    """
    # Late: it takes a while, and needs the extra `durable`.
    from kling_async.cli._batch import (  # noqa: PLC0415 (as said above)
        BatchRun,
        estimate,
        plan,
        webhook_from,
    )

    screen = Screen.of(ctx)
    stem = "batch" if manifest == "-" else Path(manifest).stem
    run = BatchRun(
        screen=screen,
        name=name or fleet.batch_name(stem),
        folder=output_dir or Path(manifest).with_name(stem),
        database=database,
        max_in_flight=max_in_flight,
        creates_per_minute=creates_per_minute,
        budget=budget,
        on_uncertain=on_uncertain,
        retry_failed=retry_failed,
        check_media=check_media,
        webhook=webhook_from(webhook),
        check_mp4=not any_format,
    )

    async def work() -> Exit:
        planned = await plan(manifest, run.folder, check_media=check_media)
        return await (estimate(screen, planned) if dry_run else run.work_off(planned))

    code = until_interrupted(work, screen=screen, generations=SeenGenerations())
    if code in {Exit.INTERRUPTED, Exit.TERMINATED}:
        screen.note("interrupted; the same command goes on with it", "yellow")
    return code


States = Annotated[
    list[str] | None,
    typer.Option(
        "--state",
        metavar="STATE",
        help="Only jobs that are queued, running, done, failed, uncertain, held or "
        "cancelled. Several times.",
    ),
]

Undelivered = Annotated[
    bool,
    typer.Option(
        "--undelivered", help="Only jobs whose end the webhook has not taken yet."
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
    undelivered: Undelivered = False,
    json: options.Json = False,
) -> Exit | None:
    """List jobs."""
    ctx.meta[_DATABASE] = database
    if ctx.invoked_subcommand is not None:
        return None
    screen = Screen.of(ctx)

    async def work() -> Exit:
        from kling_async.cli._decisions import (  # noqa: PLC0415 (it takes a while)
            show_jobs,
            show_undelivered,
        )

        if undelivered:
            return await show_undelivered(screen, database, batch, is_json=json)
        return await show_jobs(screen, database, batch, state or [], is_json=json)

    return until_interrupted(work, screen=screen, generations=SeenGenerations())


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


@jobs.command()
def redeliver(ctx: typer.Context, keys: Keys, *, batch: ItsBatch = None) -> Exit:
    """Tell the webhook of the end of jobs once more."""
    return _decide(ctx, "redeliver", keys, batch)


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
    decision: Literal["adopt", "cancel", "give_up", "recheck", "redeliver", "resubmit"],
    keys: list[str],
    batch: str | None,
    *arguments: str,
) -> Exit:
    screen, database = Screen.of(ctx), str(ctx.meta[_DATABASE])

    async def work() -> Exit:
        from kling_async.cli._decisions import decide  # noqa: PLC0415 (it takes a while)

        return await decide(screen, database, batch, decision, keys, *arguments)

    return until_interrupted(work, screen=screen, generations=SeenGenerations())


def worker(
    ctx: typer.Context,
    *,
    database: fleet.Database = fleet.DEFAULT_DATABASE,
    max_in_flight: fleet.MaxInFlight = 32,
    creates_per_minute: fleet.CreatesPerMinute = None,
    on_uncertain: fleet.OnUncertain = "ask",
    webhook: fleet.Webhook = None,
    any_format: options.AnyFormat = False,
) -> Exit:
    """Do the jobs of a database, beside its other workers. This costs money.

    SIGTERM or Ctrl-C ends it in order: nothing new is begun, creates get their
    ids, and what is waited for is handed over.
    """
    screen = Screen.of(ctx)

    async def work() -> NoReturn:
        # Late: it takes a while, and needs the extra `durable`.
        from kling_async.cli._batch import webhook_from  # noqa: PLC0415 (as said above)
        from kling_async.durable import DurableKling  # noqa: PLC0415 (as said above)

        async with AsyncKling() as kling:
            jobs = DurableKling(
                database,
                kling,
                max_in_flight=max_in_flight,
                creates_per_minute=creates_per_minute,
                on_uncertain=on_uncertain,
                webhook=webhook_from(webhook),
                check_mp4=not any_format,
            )
            async with jobs:
                screen.note(f"working on {jobs.database}; Ctrl-C stops in order")
                while True:
                    await anyio.sleep_forever()

    code = until_interrupted(work, screen=screen, generations=SeenGenerations())
    # A signal is how a worker is meant to end.
    is_clean = code in {Exit.INTERRUPTED, Exit.TERMINATED}
    return Exit.DONE if is_clean else code

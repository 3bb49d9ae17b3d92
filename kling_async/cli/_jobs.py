"""The commands over a database of jobs: `batch`, `worker` and `jobs`.

Light to import: the engine is loaded by the command that needs it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn

import anyio
import typer
from typer.core import TyperGroup

from kling_async import AsyncKling
from kling_async._config import JOBS_DATABASE
from kling_async._files.storage import is_url
from kling_async.cli import _options as options
from kling_async.cli._output import Exit, Screen
from kling_async.cli._running import SeenGenerations, until_interrupted

if TYPE_CHECKING:
    from kling_async.cli._batch import BatchRun

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
    output_dir: options.BatchDir = None,
    inputs: options.Inputs = None,
    database: options.MaybeDatabase = None,
    name: options.BatchName = None,
    max_in_flight: options.MaxInFlight = 32,
    creates_per_minute: options.CreatesPerMinute = None,
    budget: options.Budget = None,
    on_uncertain: options.OnUncertain = "ask",
    webhook: options.Webhook = None,
    any_format: options.AnyFormat = False,
    retry_failed: options.RetryFailed = False,
    prune: options.Prune = False,
    check_media: options.CheckMedia = True,
    dry_run: options.DryRun = False,
) -> Exit:
    """Generate a video for each row of a manifest. This costs money.

    All rows are checked before the first is sent. After any interruption run it again,
    and it continues: nothing is created twice, nothing is lost.
    """
    # Late: it takes a while, and needs the extra `durable`.
    from kling_async.cli._batch import BatchRun, webhook_from
    from kling_async.cli._report import place_at

    screen, stem = Screen.of(ctx), _stem_of(manifest)
    folder = own_folder = Path(manifest).with_name(stem)
    if output_dir is not None and not is_url(output_dir):
        folder = Path(output_dir)
    run = BatchRun(
        screen=screen,
        name=name or options.batch_name(stem),
        is_named=bool(name or folder != own_folder),
        folder=folder,
        place=place_at(output_dir, folder),
        inputs=inputs,
        database=database,
        max_in_flight=max_in_flight,
        creates_per_minute=creates_per_minute,
        budget=budget,
        on_uncertain=on_uncertain,
        retry_failed=retry_failed,
        prune=prune,
        check_media=check_media,
        webhook=webhook_from(webhook),
        check_mp4=not any_format,
    )
    code = until_interrupted(
        partial(_work_off, run, manifest, dry_run=dry_run),
        screen=screen,
        generations=SeenGenerations(),
    )
    if code in {Exit.INTERRUPTED, Exit.TERMINATED}:
        screen.note("interrupted; the same command goes on with it", "yellow")
    return code


def _stem_of(manifest: str) -> str:
    """Name a batch by its manifest."""
    if Path(manifest).is_dir():
        message = f"{manifest} is a directory; give the file with the rows"
        raise typer.BadParameter(message, param_hint="MANIFEST")
    return "batch" if manifest == "-" else Path(manifest).stem


async def _work_off(run: BatchRun, manifest: str, *, dry_run: bool) -> Exit:
    from kling_async.cli._batch import plan

    try:
        rows = await plan(manifest, run.folder, check_media=run.check_media)
    except OSError as error:
        message = f"{manifest}: {error.strerror or error}"
        raise typer.BadParameter(message, param_hint="MANIFEST") from error
    return await (run.estimate(rows) if dry_run else run.work_off(rows))


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
        "--undelivered", help="Only jobs whose end the webhook has not received yet."
    ),
]

Keys = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY...", help="The keys of the jobs; or use --state."),
]

Key = Annotated[str, typer.Argument(metavar="KEY", help="Which job.")]

GenerationId = Annotated[
    str, typer.Argument(metavar="ID", help="The id of the generation to continue with.")
]

Limit = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="The most jobs to list.")
]

Offset = Annotated[
    int, typer.Option(min=0, metavar="N", help="How many jobs to skip first.")
]

Amount = Annotated[
    float,
    typer.Argument(
        parser=options.read_budget,
        metavar="CREDITS",
        help="Credits, dollars such as 5usd, or none for no limit.",
    ),
]

OlderThan = Annotated[
    str, typer.Option(metavar="AGO", help="How long ago they ended: 24h, 30d.")
]


class Jobs(TyperGroup):
    """Takes its options before and after the subcommand, and a place in front."""

    def parse_args(  # type: ignore[override]  # the contexts are Typer's own
        self, ctx: typer.Context, args: list[str]
    ) -> list[str]:
        """Put the options first, and the folder or manifest among them."""
        given, rest = options.split_options(args, self.params, known_only=True)
        is_place = bool(rest) and not rest[0].startswith("-")
        if is_place and rest[0] not in self.commands:
            given += ["--database", rest.pop(0)]
        return super().parse_args(ctx, [*given, *rest])


jobs = typer.Typer(
    cls=Jobs,
    name="jobs",
    help="List the jobs of a batch, and decide on them. Nothing is sent from here: a "
    "worker, or the next run of the batch, carries decisions out. The batch is named "
    "by its folder or manifest in front, or by --database; options may stand before "
    "or after the subcommand.",
    invoke_without_command=True,
    subcommand_metavar="[FOLDER|MANIFEST] [COMMAND] [ARGS]...",
)


@jobs.callback()
def list_jobs(
    ctx: typer.Context,
    *,
    database: options.Database = JOBS_DATABASE,
    batch: options.OneBatch = None,
    state: States = None,
    undelivered: Undelivered = False,
    json: options.Json = False,
    limit: Limit = None,
    offset: Offset = 0,
) -> Exit | None:
    """List jobs."""
    given = options.JobOptions(database=database, batch=batch, states=state or [])
    ctx.meta[_GIVEN] = given
    if ctx.invoked_subcommand is not None:
        return None

    async def work(screen: Screen) -> Exit:
        from kling_async.cli._decisions import (
            show_jobs,
            show_undelivered,
        )

        if undelivered:
            return await show_undelivered(screen, given, is_json=json)
        return await show_jobs(screen, given, is_json=json, limit=limit, offset=offset)

    return _run(ctx, work)


_GIVEN = "kling_async.jobs"


def _run(ctx: typer.Context, work: Callable[[Screen], Awaitable[Exit]]) -> Exit:
    screen = Screen.of(ctx)
    return until_interrupted(
        lambda: work(screen), screen=screen, generations=SeenGenerations()
    )


@jobs.command()
def summary(ctx: typer.Context) -> Exit:
    """Count the jobs of each batch by state, and show their cost."""

    async def work(screen: Screen) -> Exit:
        from kling_async.cli._decisions import show_summary

        return await show_summary(screen, ctx.meta[_GIVEN])

    return _run(ctx, work)


@jobs.command(cls=options.KeyCommand)
def cancel(ctx: typer.Context, keys: Keys = None) -> Exit:
    """Cancel jobs. Created generations go on at the server, and are billed."""
    return _decide(ctx, "cancel", keys)


@jobs.command(cls=options.KeyCommand)
def resubmit(ctx: typer.Context, keys: Keys = None) -> Exit:
    """Try jobs again: a known generation is followed, and not paid for again.

    For uncertain jobs it may mean a second bill.
    """
    return _decide(ctx, "resubmit", keys)


@jobs.command(cls=options.KeyCommand)
def recheck(ctx: typer.Context, keys: Keys = None) -> Exit:
    """Search the vendor's log again for uncertain jobs; nothing is created."""
    return _decide(ctx, "recheck", keys)


@jobs.command(cls=options.KeyCommand)
def redeliver(ctx: typer.Context, keys: Keys = None) -> Exit:
    """Send the webhook message of jobs again."""
    return _decide(ctx, "redeliver", keys)


@jobs.command("give-up", cls=options.KeyCommand)
def give_up(ctx: typer.Context, keys: Keys = None) -> Exit:
    """Mark uncertain jobs as failed. They may still have been billed."""
    return _decide(ctx, "give_up", keys)


@jobs.command(cls=options.KeyCommand)
def adopt(ctx: typer.Context, key: Key, generation_id: GenerationId) -> Exit:
    """Continue a job with a generation whose id you found."""
    return _decide(ctx, "adopt", [key], generation_id)


@jobs.command()
def budget(ctx: typer.Context, amount: Amount) -> Exit:
    """Set the budget of a batch, or remove it."""

    async def work(screen: Screen) -> Exit:
        from kling_async.cli._decisions import set_budget

        return await set_budget(screen, ctx.meta[_GIVEN], amount)

    return _run(ctx, work)


@jobs.command()
def purge(ctx: typer.Context, *, older_than: OlderThan) -> Exit:
    """Delete jobs that are done, failed or cancelled, and ended long ago.

    Their cost stays in the batch's total. A deleted key is new to the batch: a manifest
    that still has it pays for it again.
    """

    async def work(screen: Screen) -> Exit:
        from kling_async.cli._decisions import purge_jobs

        age = options.age(older_than, "--older-than")
        return await purge_jobs(screen, ctx.meta[_GIVEN], age)

    return _run(ctx, work)


def _decide(
    ctx: typer.Context,
    decision: Literal["adopt", "cancel", "give_up", "recheck", "redeliver", "resubmit"],
    keys: list[str] | None,
    *arguments: str,
) -> Exit:
    async def work(screen: Screen) -> Exit:
        from kling_async.cli._decisions import decide

        given = ctx.meta[_GIVEN]
        return await decide(screen, given, decision, keys or [], *arguments)

    return _run(ctx, work)


def worker(
    ctx: typer.Context,
    *,
    database: options.Database = JOBS_DATABASE,
    max_in_flight: options.MaxInFlight = 32,
    creates_per_minute: options.CreatesPerMinute = None,
    on_uncertain: options.OnUncertain = "ask",
    webhook: options.Webhook = None,
    any_format: options.AnyFormat = False,
) -> Exit:
    """Run the jobs of a database, along with its other workers. This costs money.

    SIGTERM or Ctrl-C ends it cleanly: it starts nothing new, waits for the ids of
    creates in flight, and leaves its other jobs to the other workers.
    """
    screen = Screen.of(ctx)

    async def work() -> NoReturn:
        # Late: it takes a while, and needs the extra `durable`.
        from kling_async.cli._batch import webhook_from
        from kling_async.cli._progress import WarningCounter
        from kling_async.durable import DurableKling

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
            with WarningCounter(screen.note):
                async with jobs:
                    screen.note(f"working on {jobs.database}; Ctrl-C stops it cleanly")
                    while True:
                        await anyio.sleep_forever()

    code = until_interrupted(work, screen=screen, generations=SeenGenerations())
    # A signal is how a worker is meant to end.
    is_clean = code in {Exit.INTERRUPTED, Exit.TERMINATED}
    return Exit.DONE if is_clean else code

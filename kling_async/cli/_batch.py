"""`kling-async batch`: a manifest worked off, and gone on with when run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kling_async.cli import _fleet as fleet, _options as options
from kling_async.cli._exits import Exit
from kling_async.cli._running import Ledger, until_interrupted
from kling_async.cli._screen import Screen

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
    retry_failed: fleet.RetryFailed = False,
    check_media: options.CheckMedia = True,
    dry_run: fleet.DryRun = False,
) -> Exit:
    """Generate a video for each row of a manifest. This costs money.

    All rows are checked before the first is sent. Run it again after whatever
    ended it, and it goes on: nothing is made twice, nothing is forgotten.
    """
    # Late: it takes a while, and needs the extra `durable`.
    from kling_async.cli._batch_run import (  # noqa: PLC0415 (as said above)
        BatchRun,
        estimate,
        plan,
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
        retries_failed=retry_failed,
        check_media=check_media,
    )

    async def work() -> Exit:
        planned = await plan(manifest, run.folder, check_media=check_media)
        return await (estimate(screen, planned) if dry_run else run.work_off(planned))

    code = until_interrupted(work, screen=screen, ledger=Ledger())
    if code in {Exit.INTERRUPTED, Exit.TERMINATED}:
        screen.note("interrupted; the same command goes on with it", "yellow")
    return code

"""`kling-async worker`: one of a fleet, until it is told to stop."""

from __future__ import annotations

from typing import NoReturn

import anyio
import typer

from kling_async import AsyncKling
from kling_async.cli import _fleet as fleet
from kling_async.cli._exits import Exit
from kling_async.cli._running import Ledger, until_interrupted
from kling_async.cli._screen import Screen


def worker(
    ctx: typer.Context,
    *,
    database: fleet.Database = fleet.DEFAULT_DATABASE,
    max_in_flight: fleet.MaxInFlight = 32,
    creates_per_minute: fleet.CreatesPerMinute = None,
    on_uncertain: fleet.OnUncertain = "ask",
) -> Exit:
    """Do the jobs of a database, beside its other workers. This costs money.

    SIGTERM or Ctrl-C ends it in order: nothing new is begun, creates get their
    ids, and what is waited for is handed over.
    """
    screen = Screen.of(ctx)

    async def work() -> NoReturn:
        # Late: it takes a while, and needs the extra `durable`.
        from kling_async.durable import DurableKling  # noqa: PLC0415 (as said above)

        async with AsyncKling() as kling:
            jobs = DurableKling(
                database,
                kling,
                max_in_flight=max_in_flight,
                creates_per_minute=creates_per_minute,
                on_uncertain=on_uncertain,
            )
            async with jobs:
                screen.note(f"working on {jobs.database}; Ctrl-C stops in order")
                while True:
                    await anyio.sleep_forever()

    code = until_interrupted(work, screen=screen, ledger=Ledger())
    # A signal is how a worker is meant to end.
    is_clean = code in {Exit.INTERRUPTED, Exit.TERMINATED}
    return Exit.DONE if is_clean else code

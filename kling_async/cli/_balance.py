"""`kling-async balance`: what the account holds."""

from __future__ import annotations

import typer

from kling_async import AsyncKling
from kling_async.cli import _options as options
from kling_async.cli._exits import Exit
from kling_async.cli._running import Ledger, run
from kling_async.cli._screen import Screen


def balance(ctx: typer.Context, *, json: options.Json = False) -> Exit:
    """Tell what the account holds."""
    screen = Screen.of(ctx)

    async def work(kling: AsyncKling) -> Exit:
        held = await kling.balance()
        if json:
            screen.json(
                {"usd": held.usd, "credits": held.credits, "currency": held.currency}
            )
        else:
            screen.result(f"{held.usd:,.2f} {held.currency} ({held.credits:,} credits)")
        return Exit.DONE

    return run(work, screen=screen, ledger=Ledger())

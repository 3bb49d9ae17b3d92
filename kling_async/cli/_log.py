"""`kling-async log`: the vendor's log of the key's requests."""

from __future__ import annotations

from contextlib import aclosing
from typing import Annotated, Literal, cast

import typer
from rich.table import Table
from rich.text import Text

from kling_async import AsyncKling, LogRow
from kling_async.cli import _options as options
from kling_async.cli._exits import Exit
from kling_async.cli._running import Ledger, run
from kling_async.cli._screen import Screen
from kling_async.cli._words import one_line

_STATUSES = ("succeeded", "failed")


def _status(given: str | None) -> str | None:
    if given not in (None, *_STATUSES):
        raise typer.BadParameter(f"given {given}; allowed: {' or '.join(_STATUSES)}")
    return given


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="ID",
        help="Only requests of a model.",
        autocompletion=options.completed_models,
    ),
]
Status = Annotated[
    str | None,
    typer.Option(
        metavar="STATUS",
        help=f"Only those that {' or '.join(_STATUSES)}.",
        callback=_status,
    ),
]
Limit = Annotated[
    int, typer.Option("--limit", "-n", metavar="N", min=1, help="At most so many.")
]


def log(
    ctx: typer.Context,
    *,
    since: options.Since = "24h",
    model: Model = None,
    status: Status = None,
    limit: Limit = 50,
    json: options.Json = False,
) -> Exit:
    """List what the key has asked for, newest first, and what it cost.

    Failed requests are listed too; a video's charge appears once it is completed.
    """
    screen, start = Screen.of(ctx), options.moment(since)

    async def work(kling: AsyncKling) -> Exit:
        table = _empty_table()
        wanted = cast("Literal['succeeded', 'failed'] | None", status)
        rows = kling.request_log(since=start, model=model, status=wanted)
        async with aclosing(rows):
            count = 0
            async for row in rows:
                _tell(screen, row, table, is_json=json)
                count += 1
                if count == limit:
                    break
        if screen.out.is_terminal and not json:
            screen.show(table)
        return Exit.DONE

    return run(work, screen=screen, ledger=Ledger())


def _tell(screen: Screen, row: LogRow, table: Table, *, is_json: bool) -> None:
    if is_json:
        screen.json(_as_json(row))
        return
    created = row.created.isoformat(" ", "seconds")[:19] if row.created else ""
    cells = [
        created,
        row.status,
        f"{row.usd:.2f}",
        row.model or "",
        row.client_request_id or "",
        row.inference_id or "",
    ]
    words = [one_line(it) for it in cells]
    if screen.out.is_terminal:
        table.add_row(*map(Text, words), style="red" if row.failed else "")
    else:
        screen.result("\t".join(words))


def _empty_table() -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in ("created (UTC)", "status"):
        table.add_column(name, no_wrap=True)
    table.add_column("USD", justify="right", no_wrap=True)
    for name in ("model", "client request id", "generation"):
        table.add_column(name, overflow="fold")
    return table


def _as_json(row: LogRow) -> dict[str, object]:
    return {
        "created": row.created and row.created.isoformat(),
        "status": row.status,
        "model": row.model,
        "usd": row.usd,
        "credits": row.credits,
        "inference_id": row.inference_id,
        "request_id": row.request_id,
        "client_request_id": row.client_request_id,
    }

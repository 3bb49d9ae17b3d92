"""`kling-async reconcile`: the generation of a create whose answer was lost."""

from __future__ import annotations

from typing import Annotated

import typer

from kling_async import AsyncKling
from kling_async.cli import _options as options
from kling_async.cli._exits import Exit
from kling_async.cli._running import Ledger, run
from kling_async.cli._screen import Screen
from kling_async.cli._words import as_json, as_lines

ClientRequestId = Annotated[
    str,
    typer.Argument(
        metavar="ID", help="The client request id that the create was sent with."
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        metavar="SECONDS",
        help="How long to look: a row of the log may come late.",
        callback=options.positive,
    ),
]


def reconcile(
    ctx: typer.Context,
    client_request_id: ClientRequestId,
    *,
    since: options.Since = "24h",
    timeout: Timeout = 60,
    json: options.Json = False,
) -> Exit:
    """Find the generation that a create whose answer was lost did start.

    Looks for its client request id in the vendor's log. Ends with 1 if the log was
    read and lists no generation: the create failed, which costs nothing, or it never
    came.
    """
    screen, ledger, start = Screen.of(ctx), Ledger(), options.moment(since)

    async def work(kling: AsyncKling) -> Exit:
        found = await kling.reconcile(client_request_id, since=start, timeout=timeout)
        if found is None:
            screen.error(
                f"the vendor's log lists no generation under {client_request_id}: the "
                "create failed, which costs nothing, or it never came"
            )
            return Exit.FAILED
        if json:
            screen.json(as_json(found))
            return Exit.DONE
        for line in as_lines(found):
            screen.show(line)
        if not found.is_terminal:
            screen.note(f"go on with: {ledger.resume_command(found.id)}", "")
        return Exit.DONE

    return run(work, screen=screen, ledger=ledger)

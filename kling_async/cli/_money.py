"""The commands about money: `balance`, `price`, `log`, `reconcile` and `doctor`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import product
from typing import Annotated, Literal, cast

import anyio
import typer
from attrs import asdict, frozen
from rich.table import Table
from rich.text import Text

from kling_async import AsyncKling, LogRow, Price, models as catalogue
from kling_async._text import safe_line
from kling_async.cli import _options as options
from kling_async.cli._output import Exit, Screen, as_json, as_lines
from kling_async.cli._running import SeenGenerations, run


def balance(ctx: typer.Context, *, json: options.Json = False) -> Exit:
    """Show the account's balance."""
    screen = Screen.of(ctx)

    async def work(kling: AsyncKling) -> Exit:
        held = await kling.balance()
        if json:
            screen.json(
                {"usd": held.usd, "credits": held.credits, "currency": held.currency}
            )
        else:
            currency = safe_line(held.currency)
            screen.result(f"{held.usd:,.2f} {currency} ({held.credits:,} credits)")
        return Exit.DONE

    return run(work, screen=screen, generations=SeenGenerations())


_MARKS = {"ok": "ok", "warning": "look", "failed": "FAILED", "skipped": "-"}


def doctor(ctx: typer.Context, *, json: options.Json = False) -> Exit:
    """Check everything needed: network, key, clock, log, prices, downloads.

    Nothing is created, and nothing is spent.
    """
    screen = Screen.of(ctx)

    async def work(kling: AsyncKling) -> Exit:
        found = await kling.diagnose()
        if json:
            screen.json(
                {"healthy": found.is_healthy, "checks": list(map(asdict, found))}
            )
        for check in () if json else found:
            advice = f". {check.advice}" if check.advice else ""
            told = f"{check.name}: {check.seen}{advice}"
            screen.result(f"{_MARKS[check.state]:6}  {safe_line(told)}")
        return Exit.DONE if found.is_healthy else Exit.FAILED

    return run(work, screen=screen, generations=SeenGenerations())


# The lengths that all models together are shown with, and what else a price may
# hang on, to be shown for one.
_LENGTHS = (5, 10, 15)

_PARAMETERS = ("generate_audio", "mode")

Setting = Mapping[str, object]

ModelId = Annotated[
    str | None,
    typer.Argument(
        metavar="[ID]",
        help="Show every length and variant of one model.",
        autocompletion=options.complete_model,
    ),
]


@frozen
class Quote:
    """What one request to a model would cost.

    Attributes:
        model: The model.
        setting: What is asked for, by the wire's names.
        price: As far as the vendor quotes it.
    """

    model: catalogue.Model
    setting: Setting
    price: Price

    def as_json(self) -> dict[str, object]:
        """Return it as a script reads it."""
        return {
            "model": self.model.id,
            "kind": self.price.kind,
            **self.setting,
            "usd": self.price.usd,
            "credits": self.price.credits,
        }

    def __str__(self) -> str:
        return "" if self.price.usd is None else f"{self.price.usd:.2f}"


def price(
    ctx: typer.Context,
    *,
    model_id: ModelId = None,
    kind: options.Kind = None,
    json: options.Json = False,
) -> Exit:
    """Show the price of videos in USD, if the vendor quotes it."""
    screen = Screen.of(ctx)
    if model_id is None:
        found = catalogue.list(cast("catalogue.Kind | None", kind))
        asked = [(it, list(_settings(it, _lengths(it)))) for it in found]
    else:
        model = catalogue.get(model_id)
        asked = [(model, list(_settings(model, _choices(model), *_PARAMETERS)))]

    async def work(kling: AsyncKling) -> Exit:
        quotes = await _ask_quotes(kling, asked)
        if json:
            screen.json([it.as_json() for it in quotes])
        elif not screen.out.is_terminal:
            for it in quotes:
                told = [str(value) for value in it.setting.values()]
                screen.result(it.model.id, *told, str(it))
        elif model_id is None:
            screen.show(_table(quotes))
            screen.result(
                "in USD, with the server's defaults; more by its ID", style="dim"
            )
        elif any(it.price for it in quotes):
            screen.show(_variants(quotes))
        else:
            screen.result(f"the vendor quotes no price ({quotes[0].price.kind})")
        return Exit.DONE

    return run(work, screen=screen, generations=SeenGenerations())


async def _ask_quotes(
    kling: AsyncKling, asked: Sequence[tuple[catalogue.Model, Sequence[Setting]]]
) -> list[Quote]:
    """Ask for all models at once, for the lengths of each one after the other."""
    quotes: dict[str, list[Quote]] = {}

    async def ask(model: catalogue.Model, settings: Sequence[Setting]) -> None:
        quotes[model.id] = [
            Quote(model, it, await kling.price({"model": model.id, **it}))
            for it in settings
        ]

    async with anyio.create_task_group() as tasks:
        for model, settings in asked:
            tasks.start_soon(ask, model, settings)
    return [quote for model, _ in asked for quote in quotes[model.id]]


def _choices(model: catalogue.Model) -> Sequence[object]:
    field = model.fields.get("duration")
    return field.choices if field is not None else ()


def _lengths(model: catalogue.Model) -> Sequence[object]:
    return [it for it in _LENGTHS if it in _choices(model)]


def _settings(
    model: catalogue.Model, lengths: Sequence[object], *parameters: str
) -> Iterator[Setting]:
    """Give every combination of lengths and parameters that a model has."""
    values = {"duration": lengths} if lengths else {}
    for name in parameters:
        if (field := model.fields.get(name)) is not None:
            values[name] = field.choices or (True, False)
    for chosen in product(*values.values()):
        yield dict(zip(values, chosen, strict=True))


def _table(quotes: Sequence[Quote]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("model", no_wrap=True)
    for length in _LENGTHS:
        table.add_column(f"{length} s", justify="right", no_wrap=True)
    kind = ""
    for model in {it.model.id: it.model for it in quotes}.values():
        if model.kind != kind:
            kind = model.kind
            table.add_row(Text(kind, "bold cyan"))
        mine = [it for it in quotes if it.model is model]
        by_length = {it.setting.get("duration"): it for it in mine}
        if any(it.price for it in mine):
            cells = [str(by_length.get(length, "")) for length in _LENGTHS]
        else:
            cells = [mine[0].price.kind]
        table.add_row(f"  {model.id}", *cells)
    return table


def _variants(quotes: Sequence[Quote]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name in quotes[0].setting:
        table.add_column(name, no_wrap=True)
    table.add_column("USD", justify="right", no_wrap=True)
    table.add_column("credits", justify="right", no_wrap=True)
    for it in quotes:
        told = [str(value) for value in it.setting.values()]
        credits_ = it.price.credits
        known = [str(it), f"{credits_:,}"] if credits_ is not None else [it.price.kind]
        table.add_row(*told, *known)
    return table


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
        autocompletion=options.complete_model,
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
    int, typer.Option("--limit", "-n", metavar="N", min=1, help="The most rows.")
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
    """List the key's requests with their cost, newest first.

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

    return run(work, screen=screen, generations=SeenGenerations())


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
    if screen.out.is_terminal:
        words = [Text(safe_line(it)) for it in cells]
        table.add_row(*words, style="red" if row.failed else "")
    else:
        screen.result(*cells)


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
        help="How many seconds to search: rows of the log may appear late.",
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
    """Find the generation of a create whose answer was lost.

    Searches the vendor's log for its client request id. Ends with 1 if the log lists
    no generation: the create failed, which costs nothing, or it never arrived.
    """
    screen, generations = Screen.of(ctx), SeenGenerations()
    start = options.moment(since)

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
            screen.note(f"go on with: {generations.resume_command(found.id)}", "")
        return Exit.DONE

    return run(work, screen=screen, generations=generations)

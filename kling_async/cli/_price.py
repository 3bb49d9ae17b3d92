"""`kling-async price`: what a video costs, by model, length and what else counts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from typing import Annotated, cast

import anyio
import typer
from attrs import frozen
from rich.table import Table
from rich.text import Text

from kling_async import AsyncKling, Price, models as catalogue
from kling_async.cli import _options as options
from kling_async.cli._exits import Exit
from kling_async.cli._running import Ledger, run
from kling_async.cli._screen import Screen

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
        autocompletion=options.completed_models,
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
    """Tell what videos cost in USD, as far as the vendor quotes it."""
    screen = Screen.of(ctx)
    if model_id is None:
        found = catalogue.list(cast("catalogue.Kind | None", kind))
        asked = [(it, list(_settings(it, _lengths(it)))) for it in found]
    else:
        model = catalogue.get(model_id)
        asked = [(model, list(_settings(model, _choices(model), *_PARAMETERS)))]

    async def work(kling: AsyncKling) -> Exit:
        quotes = await _quoted(kling, asked)
        if json:
            screen.json([it.as_json() for it in quotes])
        elif not screen.out.is_terminal:
            for it in quotes:
                told = [str(value) for value in it.setting.values()]
                screen.result("\t".join([it.model.id, *told, str(it)]))
        elif model_id is None:
            screen.show(_table(quotes))
            screen.result("in USD, with the server's defaults; more by its ID", "dim")
        elif any(it.price for it in quotes):
            screen.show(_variants(quotes))
        else:
            screen.result(f"the vendor quotes no price ({quotes[0].price.kind})")
        return Exit.DONE

    return run(work, screen=screen, ledger=Ledger())


async def _quoted(
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

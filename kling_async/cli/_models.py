"""`kling-async models`: the catalogue, as a table, a page for each model, or JSON."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, cast

import attrs
import typer
from rich.table import Table
from rich.text import Text

from kling_async import models as catalogue
from kling_async.cli import _options as options
from kling_async.cli._output import Screen, clock, in_words

_SOURCES = {"page": " (says the vendor)", "run": " (one run that the vendor shows)"}

_LISTED = 3  # that many lengths are listed, more are told as a range

ModelId = Annotated[
    str | None,
    typer.Argument(
        metavar="[ID]",
        help="Show all fields of a model.",
        autocompletion=options.complete_model,
    ),
]

Field = Annotated[
    str | None, typer.Option(metavar="FIELD", help="Only models with this field.")
]


def models(
    ctx: typer.Context,
    *,
    model_id: ModelId = None,
    kind: options.Kind = None,
    field: Field = None,
    json: options.Json = False,
) -> None:
    """List the known models, or show the fields of one."""
    screen = Screen.of(ctx)
    if model_id is not None:
        model = catalogue.get(model_id)
        if json:
            screen.json(as_json(model))
        else:
            _show_one(screen, model)
        return
    # What is no kind is refused by the catalogue itself.
    found = catalogue.list(cast("catalogue.Kind | None", kind), field=field)
    if json:
        screen.json([as_json(model) for model in found])
    elif not found:
        screen.note(f"no model takes {field}", "yellow")
    elif screen.out.is_terminal:
        screen.show(_table(found))
    else:
        for model in found:
            screen.result(model.id, model.kind)


def as_json(model: catalogue.Model) -> dict[str, object]:
    """Return a model as a script reads it; what is not said is left out."""
    return {
        "id": model.id,
        "kind": model.kind,
        "required": list(model.required),
        "fields": {name: _field_as_json(it) for name, it in model.fields.items()},
        "rules": [rule.text for rule in model.rules],
        "notes": list(model.notes),
        "typical_seconds": {str(k): v for k, v in model.durations.items()},
        "typical_seconds_by": model.durations_by,
        "aliases": list(model.aliases),
        "standing": model.standing,
    }


def _field_as_json(field: catalogue.Field) -> dict[str, object]:
    def is_said(attribute: attrs.Attribute[object], value: object) -> bool:
        return value not in (None, attribute.default, {})

    return attrs.asdict(field, filter=is_said)


def _table(found: list[catalogue.Model]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("model", no_wrap=True)
    table.add_column("length", no_wrap=True)
    table.add_column("usually takes", no_wrap=True)
    kind = ""
    for model in found:
        if model.kind != kind:
            kind = model.kind
            table.add_row(Text(kind, "bold cyan"))
        mark = "" if model.standing == "current" else f" ({model.standing})"
        table.add_row(f"  {model.id}{mark}", _lengths(model), _usual(model))
    return table


def _lengths(model: catalogue.Model) -> str:
    field = model.fields.get("duration")
    if field is None or not field.choices:
        return ""
    first, *_, last = field.choices
    listed = len(field.choices) > _LISTED
    lengths = f"{first} to {last}" if listed else ", ".join(map(str, field.choices))
    return f"{lengths} s"


def _usual(model: catalogue.Model) -> str:
    return ", ".join(map(clock, model.durations.values()))


def _show_one(screen: Screen, model: catalogue.Model) -> None:
    screen.result(model.id, style="bold")
    screen.result("  ".join([model.kind, *_times(model)]), style="dim")
    screen.result("")
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    table.add_column("field", no_wrap=True)
    table.add_column("takes", overflow="fold")
    table.add_column("default", no_wrap=True)
    for name, field in model.fields.items():
        must = name in model.required
        style = "bold" if must else "dim" if field.legacy else ""
        default = "required" if must else _default(field)
        table.add_row(Text(name, style), field.allowed, default)
    screen.show(table)
    for line in _remarks(model):
        screen.result(line, style="dim")


def _default(field: catalogue.Field) -> str:
    return "" if field.default is None else str(field.default)


def _times(model: catalogue.Model) -> Iterator[str]:
    times = [
        f"{in_words(took)} for {length} s of video"
        for length, took in model.durations.items()
    ]
    if times:
        how = _SOURCES.get(model.durations_by or "", "")
        yield f"usually {', '.join(times)}{how}"


def _remarks(model: catalogue.Model) -> Iterator[str]:
    remarks = [rule.text for rule in model.rules] + list(model.notes)
    if model.standing != "current":
        remarks.append(f"{model.standing} by the vendor")
    if model.aliases:
        remarks.append(f"also taken as {', '.join(model.aliases)}")
    if model.legacy_fields:
        older = ", ".join(model.legacy_fields)
        remarks.append(f"only in the vendor's older schema: {older}")
    for name, instead in model.deprecated.items():
        use = f"; use {instead}" if instead else ""
        remarks.append(f"{name} is deprecated{use}")
    yield from ("", *(f"- {it}" for it in remarks)) if remarks else ()

"""Models on the command line: `kling-async models`, and requests of what people write.

A request is made of a command's options or a manifest's cells: the model that fits is
found, and each text is read as its field would have it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, cast

import attrs
import typer
from attrs import frozen
from rich.table import Table
from rich.text import Text

from kling_async import (
    Avatar,
    Effects,
    ImageToVideo,
    MotionControl,
    MultiImageToVideo,
    ReferenceToVideo,
    Request,
    TextToVideo,
    VideoToVideo,
    models as catalogue,
)
from kling_async._files.storage import is_url
from kling_async._http.wire import is_deep
from kling_async._requests.catalogue import catalogue_in_use
from kling_async._requests.classes import build_request
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


# The first whose fields fit best is taken.
_CLASSES = (
    Avatar,
    Effects,
    VideoToVideo,
    MotionControl,
    ImageToVideo,
    TextToVideo,
    ReferenceToVideo,
    MultiImageToVideo,
)


@frozen(kw_only=True)
class RequestOptions:
    """What was asked for on the command line.

    Attributes:
        model: The model's id; None for the one that fits.
        images: Images, as addresses or paths.
        fields: The other fields that have an option of their own.
        settings: The arguments of ``--set``.
    """

    model: str | None
    images: Sequence[str]
    fields: Mapping[str, object]
    settings: Sequence[str]

    def to_request(self) -> Request:
        """Return the request.

        Raises:
            typer.BadParameter: An argument of ``--set`` cannot be read.
            InvalidRequestError: It cannot be right.
        """
        given = {k: v for k, v in self.fields.items() if v is not None}
        texts = self._settings(given)
        model = self.model or fitting_model({*given, *texts}, images=len(self.images))
        known = find_model(model)
        rules = known.fields if known else {}
        params: dict[str, object] = {"model": model, **given}
        params |= {name: _value(text, rules.get(name)) for name, text in texts.items()}
        if self.images:
            images = [_local(it) for it in self.images]
            name = _image_field(known, len(images)) if known else "image_url"
            several = name == "image_list" or len(images) > 1
            params[name] = images if several else images[0]
        for name in ("tail_image_url", "audio_url"):
            if isinstance(text := params.get(name), str):
                params[name] = _local(text)
        return build_request(params)

    def _settings(self, given: Collection[str]) -> dict[str, str]:
        texts: dict[str, str] = {}
        images = {"image_url", "image_list"} if self.images else set[str]()
        for argument in self.settings:
            name, equals, text = argument.partition("=")
            if not equals or not name.strip():
                message = f"given {argument!r}; allowed field=value"
            elif name == "model":
                message = "the model is given with --model"
            elif name in texts or name in given or name in images:
                message = f"{name} is given twice"
            else:
                texts[name] = text
                continue
            raise typer.BadParameter(message, param_hint="--set")
        return texts


def fitting_model(given: Collection[str], *, images: int) -> str:
    """Return the newest model that takes what is given, and needs no more."""

    def misfits(model: catalogue.Model) -> int:
        names = {*given, _image_field(model, images)} if images else set(given)
        required = set(model.required)
        return len(names - model.fields.keys() - {"extra"}) + len(required - names)

    return min(_candidates(), key=misfits).id


def _candidates() -> Iterable[catalogue.Model]:
    for cls in _CLASSES:
        yield catalogue.get(str(attrs.fields_dict(cls)["model"].default))
    yield from reversed(catalogue.list())


def _image_field(model: catalogue.Model, images: int) -> str:
    """Return the field of a model that so many images belong in."""
    single = model.fields.get("image_url")
    if single is not None and (images == 1 or single.or_list):
        return "image_url"
    takes_list = "image_list" in model.fields
    return "image_list" if takes_list or images > 1 else "image_url"


def find_model(model: str) -> catalogue.Model | None:
    """Return what is known of a model, if anything is."""
    return catalogue_in_use().get(model) if model else None


def _local(text: str) -> str | Path:
    """Take what is no address, on the web or in a bucket, for a path."""
    if is_url(text) or text[:5].casefold() == "data:":
        return text
    return Path(os.path.expanduser(text))  # noqa: PTH111 (raises where this does not)


def read_value(value: object, rule: catalogue.Field | None, *, is_text: bool) -> object:
    """Give a value as its field would have it, local files as paths.

    Args:
        value: The value.
        rule: What the field takes, where that is known.
        is_text: Whether it was written as a text, whatever it is meant to be.
    """
    if is_text and isinstance(value, str):
        return _value(value, rule)
    return _with_paths(value, rule)


def _value(text: str, rule: catalogue.Field | None) -> object:
    """Read a text as its field would have it: words as they are, else JSON."""
    is_text = rule is not None and rule.type in {"string", "media"}
    if is_text and not (rule and rule.or_list and text.startswith("[")):
        return _with_paths(text, rule)
    try:
        value: object = json.loads(_as_json(text, rule))
    except (ValueError, RecursionError):
        value = text
    return _with_paths(text if is_deep(value) else value, rule)


_BOOLEANS = {
    **dict.fromkeys(("true", "1", "1.0"), "true"),
    **dict.fromkeys(("false", "0", "0.0"), "false"),
}

_DECIMAL_COMMA = re.compile(r"\s*-?[0-9]+,[0-9]+\s*")


def _as_json(text: str, rule: catalogue.Field | None) -> str:
    """Write a cell of Excel, pandas or Python as JSON has it."""
    if rule is not None and rule.type == "boolean":
        return _BOOLEANS.get(text.strip().casefold(), text)
    if rule is not None and rule.type == "number" and _DECIMAL_COMMA.fullmatch(text):
        return text.replace(",", ".")
    return text


def _with_paths(value: object, rule: catalogue.Field | None) -> object:
    """Turn local files, wherever they are named in a value, into paths."""
    match value:
        case str() if rule and rule.type == "media" and rule.medium != "video":
            return _local(value)
        case list():
            item = rule and (rule.items or rule)
            return [_with_paths(it, item) for it in value]
        case dict():
            properties = rule.properties if rule else {}
            return {k: _with_paths(v, properties.get(k)) for k, v in value.items()}
        case _:
            return value

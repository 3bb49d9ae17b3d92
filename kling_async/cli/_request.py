"""A request made of what people write: options of a command, or cells of a manifest.

Finds the model that fits, and reads each text as its field would have it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import attrs
import typer
from attrs import frozen

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
    models,
)
from kling_async._files.storage import is_url
from kling_async._http.wire import is_deep
from kling_async._requests.catalogue import catalogue_in_use
from kling_async._requests.classes import build_request

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

    def misfits(model: models.Model) -> int:
        names = {*given, _image_field(model, images)} if images else set(given)
        required = set(model.required)
        return len(names - model.fields.keys() - {"extra"}) + len(required - names)

    return min(_candidates(), key=misfits).id


def _candidates() -> Iterable[models.Model]:
    for cls in _CLASSES:
        yield models.get(str(attrs.fields_dict(cls)["model"].default))
    yield from reversed(models.list())


def _image_field(model: models.Model, images: int) -> str:
    """Return the field of a model that so many images belong in."""
    single = model.fields.get("image_url")
    if single is not None and (images == 1 or single.or_list):
        return "image_url"
    takes_list = "image_list" in model.fields
    return "image_list" if takes_list or images > 1 else "image_url"


def find_model(model: str) -> models.Model | None:
    """Return what is known of a model, if anything is."""
    return catalogue_in_use().get(model) if model else None


def _local(text: str) -> str | Path:
    """Take what is no address, on the web or in a bucket, for a path."""
    if is_url(text) or text[:5].casefold() == "data:":
        return text
    return Path(os.path.expanduser(text))  # noqa: PTH111 (raises where this does not)


def read_value(value: object, rule: models.Field | None, *, is_text: bool) -> object:
    """Give a value as its field would have it, local files as paths.

    Args:
        value: The value.
        rule: What the field takes, where that is known.
        is_text: Whether it was written as a text, whatever it is meant to be.
    """
    if is_text and isinstance(value, str):
        return _value(value, rule)
    return _with_paths(value, rule)


def _value(text: str, rule: models.Field | None) -> object:
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


def _as_json(text: str, rule: models.Field | None) -> str:
    """Write a cell of Excel, pandas or Python as JSON has it."""
    if rule is not None and rule.type == "boolean":
        return _BOOLEANS.get(text.strip().casefold(), text)
    if rule is not None and rule.type == "number" and _DECIMAL_COMMA.fullmatch(text):
        return text.replace(",", ".")
    return text


def _with_paths(value: object, rule: models.Field | None) -> object:
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

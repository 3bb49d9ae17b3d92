"""The options that commands share, and the request that they make up."""

from __future__ import annotations

import datetime as dt
import json
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

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
from kling_async._http.wire import is_deep
from kling_async._requests.catalogue import catalogue_in_use
from kling_async._requests.classes import build_request

REQUEST, RESULT = "What to generate", "What to do with it"


def completed_models(incomplete: str) -> list[tuple[str, str]]:
    """Give the ids that a shell may complete a word to, with their kinds."""
    found = [it for it in models.list() if it.id.startswith(incomplete)]
    return [(it.id, it.kind) for it in found]


def positive(seconds: float | None) -> float | None:
    """Refuse a time before it costs money; not a number is none either."""
    if seconds is not None and not seconds > 0:
        message = f"given {seconds:g}; allowed: seconds, more than 0"
        raise typer.BadParameter(message)
    return seconds


_MOMENT = re.compile(r"([0-9]{1,6})([smhd])")

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


def moment(text: str) -> dt.datetime | dt.timedelta:
    """Read a time: how long ago, such as 24h, or a date with its time zone.

    Raises:
        typer.BadParameter: It is neither.
    """
    if found := _MOMENT.fullmatch(text.strip()):
        return dt.timedelta(**{_UNITS[found[2]]: int(found[1])})
    try:
        time = dt.datetime.fromisoformat(text.strip())
    except ValueError:
        time = None
    if time is None:
        message = f"given {text}; allowed: 30m, 24h, 7d, or 2026-08-01T12:00:00Z"
        raise typer.BadParameter(message, param_hint="--since")
    return time if time.tzinfo else time.replace(tzinfo=dt.UTC)


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="ID",
        help="Which model; by default the newest that takes what is given.",
        autocompletion=completed_models,
        rich_help_panel=REQUEST,
    ),
]

Kind = Annotated[
    str | None,
    typer.Option(
        metavar="KIND", help=f"Only those of a kind: {', '.join(models.KINDS)}."
    ),
]

Prompt = Annotated[
    str | None,
    typer.Option("--prompt", "-p", help="What happens.", rich_help_panel=REQUEST),
]

Images = Annotated[
    list[str] | None,
    typer.Option(
        "--image",
        "-i",
        metavar="FILE|URL",
        help="The first frame; several times for models of several images.",
        rich_help_panel=REQUEST,
    ),
]

TailImage = Annotated[
    str | None,
    typer.Option(metavar="FILE|URL", help="The last frame.", rich_help_panel=REQUEST),
]

Video = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="A video to edit, or to follow in style or movement.",
        rich_help_panel=REQUEST,
    ),
]

Audio = Annotated[
    str | None,
    typer.Option(
        metavar="FILE|URL",
        help="What the person in the image says or sings.",
        rich_help_panel=REQUEST,
    ),
]

Duration = Annotated[
    int | None,
    typer.Option(
        "--duration",
        "-d",
        metavar="SECONDS",
        help="The video's length: 5 or 10; 3 to 15 for v3.",
        rich_help_panel=REQUEST,
    ),
]

AspectRatio = Annotated[
    str | None,
    typer.Option(metavar="W:H", help="16:9, 9:16 or 1:1.", rich_help_panel=REQUEST),
]

NegativePrompt = Annotated[
    str | None,
    typer.Option(help="What to avoid.", rich_help_panel=REQUEST),
]

CfgScale = Annotated[
    float | None,
    typer.Option(
        metavar="0..1",
        help="How closely to keep to the prompt.",
        rich_help_panel=REQUEST,
    ),
]

GenerateAudio = Annotated[
    bool | None,
    typer.Option(
        "--generate-audio/--no-generate-audio",
        help="Whether the video has sound.",
        rich_help_panel=REQUEST,
    ),
]

Effect = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="A ready-made effect, such as hug.",
        rich_help_panel=REQUEST,
    ),
]

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        "-s",
        metavar="FIELD=VALUE",
        help="Any other field of the model (see `kling-async models ID`); the value "
        "is JSON or a text. Several times.",
        rich_help_panel=REQUEST,
    ),
]

CheckMedia = Annotated[
    bool,
    typer.Option(
        "--check-media/--no-check-media",
        help="Hold local files against the limits that Kling documents.",
        rich_help_panel=REQUEST,
    ),
]

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The file to write; by default a new one here, named after the id.",
        rich_help_panel=RESULT,
    ),
]

OutputDir = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="Where to write files that are named after their ids.",
        rich_help_panel=RESULT,
    ),
]

Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace a file that is there already.",
        rich_help_panel=RESULT,
    ),
]

AnyFormat = Annotated[
    bool,
    typer.Option(
        "--any-format",
        help="Take the video as it is, also if it is no MP4 that opens, such as WebM.",
        rich_help_panel=RESULT,
    ),
]

NoWait = Annotated[
    bool,
    typer.Option(
        "--no-wait",
        help="Print the id and leave; `kling-async wait ID` fetches the video.",
        rich_help_panel=RESULT,
    ),
]

NoDownload = Annotated[
    bool,
    typer.Option(
        "--no-download",
        help="Print the video's address and write no file.",
        rich_help_panel=RESULT,
    ),
]

Timeout = Annotated[
    float | None,
    typer.Option(
        metavar="SECONDS",
        help="How long to wait; by default half an hour.",
        callback=positive,
        rich_help_panel=RESULT,
    ),
]

Json = Annotated[
    bool,
    typer.Option("--json", help="Print JSON on stdout.", rich_help_panel=RESULT),
]

Since = Annotated[
    str,
    typer.Option(
        metavar="AGO|TIME",
        help="From when on: 30m, 24h or 7d ago, at most 92d; or a time (UTC).",
    ),
]

Ids = Annotated[
    list[str], typer.Argument(metavar="ID...", help="What create answered.")
]

FLEET, RESULTS = "The fleet", "Results"

DEFAULT_DATABASE = "sqlite:///kling-jobs.db"

Database = Annotated[
    str,
    typer.Option(
        "--database",
        metavar="URL",
        envvar="KLING_DATABASE",
        help="Where the jobs are: sqlite:///jobs.db, or postgresql://user@host/name.",
        rich_help_panel=FLEET,
    ),
]

MaybeDatabase = Annotated[
    str | None,
    typer.Option(
        "--database",
        metavar="URL",
        envvar="KLING_DATABASE",
        help="Where the jobs are: sqlite:///jobs.db, or postgresql://user@host/name. "
        "By default jobs.db in the output directory.",
        rich_help_panel=FLEET,
    ),
]

MaxInFlight = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="N",
        help="How many jobs run at once, over all workers on the database.",
        rich_help_panel=FLEET,
    ),
]

CreatesPerMinute = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="How many creates begin in any minute, over all workers.",
        rich_help_panel=FLEET,
    ),
]

Webhook = Annotated[
    str | None,
    typer.Option(
        "--webhook",
        metavar="URL",
        help="Tell this https URL of each job that ends. What it is signed with is in "
        "KLING_WEBHOOK_SECRET.",
        rich_help_panel=FLEET,
    ),
]

Uncertain = Literal["ask", "resubmit", "give_up"]

OnUncertain = Annotated[
    Uncertain,
    typer.Option(
        help="What to do with a create whose answer was lost and that the vendor's "
        "log does not tell of: leave it to `kling-async jobs`, send it again "
        "(which may bill twice), or let it fail.",
        rich_help_panel=FLEET,
    ),
]

Budget = Annotated[
    float | None,
    typer.Option(
        min=0,
        metavar="CREDITS",
        help="What the whole batch may cost; 2,000,000 are 1 USD. No create that "
        "would go over it is begun; what runs goes on.",
        rich_help_panel=FLEET,
    ),
]

BatchName = Annotated[
    str | None,
    typer.Option(
        "--name",
        metavar="NAME",
        help="What the batch is called in the database; by default as the manifest.",
        rich_help_panel=FLEET,
    ),
]

OneBatch = Annotated[
    str | None,
    typer.Option(
        "--batch", metavar="NAME", help="Which batch; by default all there are."
    ),
]

BatchDir = Annotated[
    Path | None,
    typer.Option(
        "--output-dir",
        metavar="DIR",
        help="Where videos, results.jsonl and report.html go; by default a directory "
        "named after the manifest.",
        rich_help_panel=RESULTS,
    ),
]

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check the manifest, tell what it would cost, and send nothing.",
        rich_help_panel=RESULTS,
    ),
]

RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed",
        help="Create those anew that have failed in an earlier run.",
        rich_help_panel=RESULTS,
    ),
]


def batch_name(stem: str) -> str:
    """Make a batch's name of a manifest's."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", stem)[:64] or "batch"


_NOT_LOCAL = re.compile(r"(https?://|data:)", re.IGNORECASE)

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
        known = known_model(model)
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


def known_model(model: str) -> models.Model | None:
    """Return what is known of a model, if anything is."""
    return catalogue_in_use().get(model) if model else None


def _local(text: str) -> str | Path:
    """Take what is no address for a path."""
    if _NOT_LOCAL.match(text):
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
        value: object = json.loads(text)
    except (ValueError, RecursionError):
        value = text
    return _with_paths(text if is_deep(value) else value, rule)


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

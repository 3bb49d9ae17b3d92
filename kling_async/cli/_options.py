"""The options that commands share, each with its help text."""

from __future__ import annotations

import datetime as dt
import re
from pathlib import Path
from typing import Annotated

import typer

from kling_async import models

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

"""The options that commands share, and what their values are read as."""

from __future__ import annotations

import datetime as dt
import itertools
import math
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated

import typer
from attrs import frozen
from typer.core import TyperCommand, TyperOption

from kling_async import (
    models,
)
from kling_async._billing.money import CREDITS_PER_USD
from kling_async._config import BATCH_LETTERS, LONGEST_BATCH, WhenUncertain

REQUEST, RESULT = "What to generate", "What to do with it"


def complete_model(incomplete: str) -> list[tuple[str, str]]:
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


def age(text: str, hint: str) -> dt.timedelta:
    """Read how long ago.

    Raises:
        typer.BadParameter: It is no such time.
    """
    found = _MOMENT.fullmatch(text.strip())
    if found is None:
        message = f"given {text}; allowed: 24h, 30d"
        raise typer.BadParameter(message, param_hint=hint)
    return dt.timedelta(**{_UNITS[found[2]]: int(found[1])})


@frozen(kw_only=True)
class JobOptions:
    """What all commands on jobs are given.

    Attributes:
        database: Where they are: a URL, a file, a batch's folder or its manifest.
        batch: Which batch; None for the only one, or for all.
        states: Only those in one of these states; all if there are none.
    """

    database: str
    batch: str | None
    states: Sequence[str]


# The vendor's ids of today: one in 64 begins with a hyphen, as options do.
_ID_LIKE_OPTION = re.compile(r"-[A-Za-z0-9_-]{20}")


def split_options(
    args: Sequence[str], params: Iterable[object], *, known_only: bool = False
) -> tuple[list[str], list[str]]:
    """Part options, with their values, from the other arguments.

    Args:
        args: The arguments of a command.
        params: What it takes.
        known_only: Whether options that it does not take are no options of it.
    """
    takes_value = {
        name: not it.is_flag
        for it in params
        if isinstance(it, TyperOption)
        for name in (*it.opts, *it.secondary_opts)
    }
    given, rest = list[str](), list[str]()
    words = iter(args)
    for word in words:
        if word == "--":
            rest += words if not known_only else [word, *words]
        elif word in takes_value:
            given.append(word)
            given += itertools.islice(words, int(takes_value[word]))
        elif word.partition("=")[0] in takes_value:
            given.append(word)
        elif known_only or not _is_option(word):
            rest.append(word)
        else:
            given.append(word)
    return given, rest


def _is_option(word: str) -> bool:
    is_id = _ID_LIKE_OPTION.fullmatch(word) is not None
    return word.startswith("-") and word != "-" and not is_id


class IdCommand(TyperCommand):
    """Takes an argument that looks like a generation's id for one."""

    def parse_args(  # type: ignore[override]  # the contexts are Typer's own
        self, ctx: typer.Context, args: list[str]
    ) -> list[str]:
        """Put ids that begin with a hyphen where nobody takes them for options."""
        given, rest = split_options(args, self.params)
        if any(it.startswith("-") and it != "-" for it in rest):
            args = [*given, "--", *rest]
        return super().parse_args(ctx, args)


class KeyCommand(TyperCommand):
    """Takes keys and ids, whatever they begin with: its options are long ones."""

    def parse_args(  # type: ignore[override]  # the contexts are Typer's own
        self, ctx: typer.Context, args: list[str]
    ) -> list[str]:
        """Put keys that begin with a hyphen where nobody takes them for options."""
        if "--" not in args:
            given = [it for it in args if it.startswith("--")]
            args = [*given, "--", *(it for it in args if it not in given)]
        return super().parse_args(ctx, args)


Model = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        metavar="ID",
        help="The model; by default the newest one with all the given fields.",
        autocompletion=complete_model,
        rich_help_panel=REQUEST,
    ),
]

Kind = Annotated[
    str | None,
    typer.Option(
        metavar="KIND", help=f"Only models of this kind: {', '.join(models.KINDS)}."
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
        help="The first frame; repeat it for models of several images.",
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
        help="A video to edit, or whose style or movement to follow.",
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
        help="Check local files against the limits that Kling documents.",
        rich_help_panel=REQUEST,
    ),
]

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="The file to write; by default a new one here, named by the id.",
        rich_help_panel=RESULT,
    ),
]

OutputDir = Annotated[
    Path,
    typer.Option(
        metavar="DIR",
        help="The folder for files, which are named after their ids.",
        rich_help_panel=RESULT,
    ),
]

Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace an existing file.",
        rich_help_panel=RESULT,
    ),
]

AnyFormat = Annotated[
    bool,
    typer.Option(
        "--any-format",
        help="Accept any video file, even one that is not an MP4, such as WebM.",
        rich_help_panel=RESULT,
    ),
]

NoWait = Annotated[
    bool,
    typer.Option(
        "--no-wait",
        help="Print the id and exit; `kling-async wait ID` downloads the video.",
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
        help="The earliest time: 30m, 24h or 7d ago, at most 92d; or a time (UTC).",
    ),
]

Ids = Annotated[
    list[str], typer.Argument(metavar="ID...", help="What create answered.")
]

FLEET, RESULTS = "The fleet", "Results"

Database = Annotated[
    str,
    typer.Option(
        "--database",
        metavar="URL",
        envvar="KLING_DATABASE",
        help="Where the jobs are: sqlite:///jobs.db, or postgresql://user@host/name; "
        "for `kling-async jobs` also a batch's folder or manifest.",
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
        help="How many creates may begin in any minute, over all workers.",
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

OnUncertain = Annotated[
    WhenUncertain,
    typer.Option(
        help="What to do with a create whose answer was lost and that the vendor's "
        "log does not tell of: leave it to `kling-async jobs`, send it again "
        "(which may bill twice), or let it fail.",
        rich_help_panel=FLEET,
    ),
]

_AMOUNT = re.compile(r"\$?([0-9][0-9_,]*(?:\.[0-9]+)?)(usd)?", re.IGNORECASE)


def read_budget(text: str) -> float:
    """Read a budget: credits, dollars as ``5usd``, or ``none``, which is infinite.

    Raises:
        typer.BadParameter: It is none of them.
    """
    word = text.strip().replace(" ", "")
    if word.casefold() == "none":
        return math.inf
    found = _AMOUNT.fullmatch(word)
    if found is None:
        message = f"given {text}; allowed: credits, dollars such as 5usd, or none"
        raise typer.BadParameter(message)
    amount = float(re.sub("[_,]", "", found[1]))
    in_dollars = found[2] or word.startswith("$")
    return amount * CREDITS_PER_USD if in_dollars else amount


Budget = Annotated[
    float | None,
    typer.Option(
        parser=read_budget,
        metavar="CREDITS",
        help="What the whole batch may cost, in credits or as 5usd; it stays until it "
        "is changed, and none lifts it. No create that would go over it is begun; "
        "what runs goes on.",
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
    str | None,
    typer.Option(
        "--output-dir",
        metavar="DIR|URL",
        help="Where videos, results.jsonl and report.html go: a directory, or a folder "
        "of a bucket, such as s3://bucket/scenes; by default a directory named after "
        "the manifest.",
        rich_help_panel=RESULTS,
    ),
]

Inputs = Annotated[
    str | None,
    typer.Option(
        "--inputs",
        metavar="URL",
        help="A folder of a bucket that local images are uploaded to, once each, so "
        "that any worker has them: s3://bucket/inputs.",
        rich_help_panel=FLEET,
    ),
]

Prune = Annotated[
    bool,
    typer.Option(
        "--prune",
        help="Call off the jobs that are no longer in the manifest and were not sent; "
        "without it they are held.",
        rich_help_panel=RESULTS,
    ),
]

DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Compare the manifest with the batch, tell what this run would cost, and "
        "send nothing.",
        rich_help_panel=RESULTS,
    ),
]

RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed",
        help="Try those once more that have failed in an earlier run: a generation "
        "that is known is followed, never paid for again; one that the server failed "
        "is created anew.",
        rich_help_panel=RESULTS,
    ),
]


def batch_name(stem: str) -> str:
    """Make a batch's name of a manifest's."""
    return re.sub(f"[^{BATCH_LETTERS}]", "-", stem)[:LONGEST_BATCH] or "batch"

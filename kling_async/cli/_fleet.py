"""The options of the commands that work on a database of jobs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

import typer

FLEET, RESULT = "The fleet", "Results"
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
        rich_help_panel=RESULT,
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Check the manifest, tell what it would cost, and send nothing.",
        rich_help_panel=RESULT,
    ),
]
RetryFailed = Annotated[
    bool,
    typer.Option(
        "--retry-failed",
        help="Create those anew that have failed in an earlier run.",
        rich_help_panel=RESULT,
    ),
]


def batch_name(stem: str) -> str:
    """Make a batch's name of a manifest's."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", stem)[:64] or "batch"

"""Exit codes, and which error ends in which; what a user is told of each.

Prints nothing itself.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from enum import IntEnum

from kling_async import (
    ConfigurationError,
    InvalidRequestError,
    KlingError,
    Problem,
    SubmissionUncertainError,
    WaitTimeoutError,
)


class Exit(IntEnum):
    """How a command ends; the codes are explained in `kling_async.cli`."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNSETTLED = 3
    INTERRUPTED = 130
    TERMINATED = 143


_CODES: tuple[tuple[type[KlingError], Exit], ...] = (
    (ConfigurationError, Exit.USAGE),
    (InvalidRequestError, Exit.USAGE),
    (SubmissionUncertainError, Exit.UNSETTLED),
    (WaitTimeoutError, Exit.UNSETTLED),
)
_HEAD, _TAIL = 300, 120  # characters that are shown of a long message
_WEIGHTS = (Exit.DONE, Exit.UNSETTLED, Exit.USAGE, Exit.FAILED)
# A field of a request, and the option that fills it where the names differ.
_OPTIONS = {
    "image_url": "--image",
    "image_list": "--image",
    "tail_image_url": "--tail-image",
    "video_url": "--video",
    "audio_url": "--audio",
    "effect_scene": "--effect",
    "generation_id": "ID",
}
# What the library calls a thing, and what it is called here.
_WORDS = {
    "AsyncKling(check_media=False) sends it all the same": (
        "--no-check-media sends it all the same"
    ),
    "pass AsyncKling(api_key=...), or set": "set",
    "AsyncKling(allow_plain_http=True) or the": "the",
    "argument api_key, or AIMLAPI_KEY": "the environment variable AIMLAPI_KEY",
    "`await kling.get(generation_id)` gives a fresh one": (
        "the command below gets a fresh one"
    ),
    "reconcile(error.client_request_id, since=error.since) does": (
        "`kling-async reconcile ID` does"
    ),
    "Others can be given in extra={...}.": (
        "--set 'extra={\"field\": value}' passes on what is unknown."
    ),
}


def exit_for(error: KlingError) -> Exit:
    """Return the code that a command ends with after an error."""
    fits = (code for cls, code in _CODES if isinstance(error, cls))
    return next(fits, Exit.FAILED)


def worst(codes: Sequence[Exit]) -> Exit:
    """Return the code for several generations: of a failure before all else."""
    return max(codes, key=_WEIGHTS.index, default=Exit.DONE)


def told(error: KlingError) -> Iterator[str]:
    """Give what to say of an error: a line each for the problems of a request."""
    if not isinstance(error, InvalidRequestError):
        # Without the clause on the generation, which speaks of Python.
        yield _reworded(_shortened(Exception.__str__(error)))
        return
    for problem in error.problems:
        line = _reworded(_named_by_option(problem))
        yield f"{error.model}: {line} (nothing was sent)" if error.model else line


def resume_command(ids: Sequence[str], options: Sequence[str] = ()) -> str:
    """Return the command that goes on with generations, ready to be pasted."""
    return shlex.join(["kling-async", "wait", *ids, *options])


def _named_by_option(problem: Problem) -> str:
    name, bracket, rest = problem.field.partition("[")
    if name not in _OPTIONS:
        return str(problem)
    return str(problem).replace(problem.field, _OPTIONS[name] + bracket + rest, 1)


def _reworded(text: str) -> str:
    for word, here in _WORDS.items():
        text = text.replace(word, here)
    return text


def _shortened(text: str) -> str:
    """Keep both ends: what it is about, and the id to quote."""
    is_long = len(text) > _HEAD + _TAIL
    return f"{text[:_HEAD]} … {text[-_TAIL:]}" if is_long else text

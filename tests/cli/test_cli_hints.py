"""What a shell user reads of an error is in the words of a shell."""

from __future__ import annotations

import datetime as dt
import re
from typing import get_args

import pytest

from kling_async import (
    AuthenticationError,
    ConfigurationError,
    DownloadError,
    InvalidRequestError,
    KlingError,
    OutOfCreditsError,
    Problem,
    SubmissionUncertainError,
    WaitTimeoutError,
)
from kling_async._errors import Hint
from kling_async.cli._output import Exit, exit_for, format_error

PYTHON = re.compile(r"await|error\.|kling\.\w+\(|AsyncKling|\w\(|api_key|argument")
SINCE = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
HINTS: tuple[Hint, ...] = get_args(Hint)


@pytest.mark.parametrize("hint", HINTS)
def test_every_hint_has_words_of_a_shell(hint: Hint) -> None:
    """An advice that a shell user cannot follow would name Python."""
    error = ConfigurationError("wrong").with_hint(hint)
    (line,) = format_error(error)
    assert line.startswith("wrong; ")
    assert not PYTHON.search(line)


@pytest.mark.parametrize("hint", HINTS)
def test_a_problem_of_a_request_has_them_too(hint: Hint) -> None:
    """In a sentence of its own, after what is wrong."""
    problem = Problem("duration", "7", "5 or 10", "It is odd.", advice=hint)
    (line,) = format_error(InvalidRequestError([problem]))
    assert line.startswith("duration: given 7; allowed 5 or 10. It is odd. ")
    assert not PYTHON.search(line)


@pytest.mark.parametrize(
    "error, code",
    [
        (ConfigurationError("no key"), Exit.USAGE),
        (InvalidRequestError([Problem("model", "7", "a model")]), Exit.USAGE),
        (AuthenticationError("no", status_code=401), Exit.FAILED),
        (OutOfCreditsError("no", status_code=403), Exit.FAILED),
        (WaitTimeoutError("g-1", timeout=60), Exit.UNSETTLED),
        (
            SubmissionUncertainError(client_request_id="a", since=SINCE),
            Exit.UNSETTLED,
        ),
        (DownloadError("the disk is full"), Exit.FAILED),
    ],
    ids=lambda it: type(it).__name__,
)
def test_an_error_ends_in_its_code_and_names_no_python(
    error: KlingError, code: Exit
) -> None:
    """Refused here is wrong usage; what may go on is unsettled."""
    assert exit_for(error) is code
    assert not PYTHON.search("".join(format_error(error)))

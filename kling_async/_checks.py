"""Checks of arguments: ids, numbers and time-outs that a caller gave.

Knows nothing of models; `_requests` checks the fields of a request.
"""

from __future__ import annotations

import datetime as dt
import math
import re
import sys
import uuid
from collections.abc import Generator, Mapping
from contextlib import contextmanager

from kling_async._errors import ConfigurationError, InvalidRequestError, Problem

_CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")

_DRAWN = re.compile(r"kling-[0-9a-f]{32}")

# Far longer than any documented id, and far shorter than a URL may be.
_LONGEST = 1024


def require_generation_id(given: object) -> str:
    """Return an id of a generation; refuse anything else."""
    if isinstance(given, str):
        found = given.strip()
        if 0 < len(found) <= _LONGEST and found.isprintable():
            return found
    problem = Problem(
        "generation_id",
        repr(given)[:80],
        "the id of a generation, as create() returned it",
    )
    raise InvalidRequestError([problem])


def is_client_request_id(text: str) -> bool:
    """Whether the vendor accepts this id: it silently drops any other."""
    return _CLIENT_REQUEST_ID.fullmatch(text) is not None


class DrawnId(str):
    """A random client request id, made for a single create."""

    __slots__ = ()


def is_drawn(client_request_id: str) -> bool:
    """Whether only one create can have this id; a caller's own may be used twice."""
    return isinstance(client_request_id, DrawnId) or bool(
        _DRAWN.fullmatch(client_request_id)
    )


def client_request_id_from(given: object) -> str:
    """Return the caller's own id if it fits the vendor's alphabet, or make one."""
    if given is None:
        return DrawnId(f"kling-{uuid.uuid4().hex}")
    if isinstance(given, str) and is_client_request_id(given):
        return given
    problem = Problem(
        "client_request_id",
        repr(given)[:80],
        "1 to 128 of A-Z a-z 0-9 . _ : -",
        "The vendor silently drops any other, so the create could not be traced",
    )
    raise InvalidRequestError([problem])


LEAST, MOST = sys.float_info.min, sys.float_info.max


def require(name: str, given: object, allowed: str, *, fits: bool) -> None:
    """Refuse an argument that does not fit: annotations are not enforced.

    Args:
        name: The argument.
        given: What was given.
        allowed: What is allowed, in words.
        fits: Whether ``given`` fits.

    Raises:
        ConfigurationError: It does not fit.
    """
    if not fits:
        raise ConfigurationError(f"{name}: given {given!r}; allowed: {allowed}")


def is_number(given: object, low: float = 0, high: float = MOST) -> bool:
    """Whether a value is a number within bounds."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        return False
    return low <= given <= high


def is_whole(given: object, low: int = 1, high: float = math.inf) -> bool:
    """Whether a value is a whole number within bounds."""
    return isinstance(given, int) and is_number(given, low, high)


def require_timeout(name: str, value: object) -> None:
    """Refuse anything but a time-out in seconds; ``math.inf`` is one."""
    allowed = "seconds, more than 0, or math.inf for no limit"
    require(name, value, allowed, fits=is_number(value, LEAST, math.inf))


def require_count(name: str, value: object) -> None:
    """Refuse anything but a whole number of at least 1."""
    require(name, value, "1 or more", fits=is_whole(value))


def require_number(
    name: str, value: object, *, least: float, above: bool = False
) -> None:
    """Refuse anything but a finite number that is large enough."""
    allowed = f"more than {least:g}" if above else f"{least:g} or more"
    low = math.nextafter(least, math.inf) if above else least
    require(name, value, f"{allowed}, finite", fits=is_number(value, low))


class MissingExtraError(ModuleNotFoundError):
    """An extra of this package is needed and not installed."""


@contextmanager
def needs_extra(extra: str, *packages: str) -> Generator[None]:
    """Import packages of an extra; if one is missing, say how to install it.

    Raises:
        MissingExtraError: One of the packages is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        raise MissingExtraError(
            f'{error.name} is not installed: pip install "kling_async[{extra}]"',
            name=error.name,
        ) from error


# "The window cannot exceed 92 days" (the vendor's page on usage).
_LONGEST_WINDOW = dt.timedelta(days=92)


def time_from(
    name: str, given: object, *, before: dt.datetime | None = None
) -> dt.datetime:
    """Return a time, given itself or as how long ago; check its distance to another."""
    if isinstance(given, dt.timedelta):
        time = dt.datetime.now(dt.UTC) - given
    elif isinstance(given, dt.datetime) and given.tzinfo is not None:
        time = given
    else:
        allowed = "a datetime with its time zone, or a timedelta: how long ago"
        hint = "Such as datetime.now(UTC), or timedelta(hours=24)"
        raise InvalidRequestError([Problem(name, repr(given)[:80], allowed, hint)])
    if before is not None and not dt.timedelta() <= before - time <= _LONGEST_WINDOW:
        start = time.isoformat(timespec="seconds")
        end = before.isoformat(timespec="seconds")
        allowed = f"at most {_LONGEST_WINDOW.days} days before {end}, and not after it"
        hint = "Ask for a longer time in several parts"
        raise InvalidRequestError([Problem(name, start, allowed, hint)])
    return time


def without_none(filters: Mapping[str, str | None]) -> dict[str, str]:
    """Keep the filters that were given."""
    return {name: value for name, value in filters.items() if value is not None}

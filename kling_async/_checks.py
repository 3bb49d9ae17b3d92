"""Checks of arguments: ids, numbers and time-outs that a caller gave.

Knows nothing of models; `_requests` checks what a request holds.
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

# Far above every documented form, and far below what no URL takes any more.
_LONGEST = 1024


def require_generation_id(given: object) -> str:
    """Refuse what cannot be the id of a generation."""
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
    """Whether the vendor keeps it: any other is silently dropped."""
    return _CLIENT_REQUEST_ID.fullmatch(text) is not None


class DrawnId(str):
    """A client request id that was drawn for one create alone."""

    __slots__ = ()


def is_drawn(client_request_id: str) -> bool:
    """Whether no two creates can have an id; what a caller gives may be used twice."""
    return isinstance(client_request_id, DrawnId) or bool(
        _DRAWN.fullmatch(client_request_id)
    )


def client_request_id_from(given: object) -> str:
    """Take the caller's own id if it fits the vendor's alphabet, or draw one."""
    if given is None:
        return DrawnId(f"kling-{uuid.uuid4().hex}")
    if isinstance(given, str) and is_client_request_id(given):
        return given
    problem = Problem(
        "client_request_id",
        repr(given)[:80],
        "1 to 128 of A-Z a-z 0-9 . _ : -",
        "The vendor silently drops any other, and the create could not be traced",
    )
    raise InvalidRequestError([problem])


LEAST, MOST = sys.float_info.min, sys.float_info.max


def require(name: str, given: object, allowed: str, *, fits: bool) -> None:
    """Refuse an argument that does not fit; annotations hold nobody back.

    Args:
        name: The argument.
        given: What was given.
        allowed: What is allowed, in words.
        fits: Whether it is.

    Raises:
        ConfigurationError: It is not.
    """
    if not fits:
        raise ConfigurationError(f"{name}: given {given!r}; allowed: {allowed}")


def is_number(given: object, low: float = 0, high: float = MOST) -> bool:
    """Whether something is a number within bounds."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        return False
    return low <= given <= high


def is_whole(given: object, low: int = 1, high: float = math.inf) -> bool:
    """Whether something is a whole number within bounds."""
    return isinstance(given, int) and is_number(given, low, high)


def require_timeout(name: str, value: object) -> None:
    """Refuse what is no span of time; ``math.inf`` is one."""
    allowed = "seconds, more than 0, or math.inf for no limit"
    require(name, value, allowed, fits=is_number(value, LEAST, math.inf))


def require_count(name: str, value: object) -> None:
    """Refuse what is no whole number from 1 on."""
    require(name, value, "1 or more", fits=is_whole(value))


def require_number(
    name: str, value: object, *, least: float, above: bool = False
) -> None:
    """Refuse what is no number, not finite, or too small."""
    allowed = f"more than {least:g}" if above else f"{least:g} or more"
    low = math.nextafter(least, math.inf) if above else least
    require(name, value, f"{allowed}, finite", fits=is_number(value, low))


class MissingExtraError(ModuleNotFoundError):
    """Something needs an extra of this package that is not installed."""


@contextmanager
def needs_extra(extra: str, *packages: str) -> Generator[None]:
    """Import what an extra brings; where it is missing, say how to install it.

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
    """Take a time, or how long ago; not too long before another, where given."""
    if isinstance(given, dt.timedelta):
        time = dt.datetime.now(dt.UTC) - given
    elif isinstance(given, dt.datetime) and given.tzinfo is not None:
        time = given
    else:
        allowed = "a datetime with its time zone, or a timedelta: how long ago"
        hint = "Such as datetime.now(UTC), or timedelta(hours=24)"
        raise InvalidRequestError([Problem(name, repr(given)[:80], allowed, hint)])
    if before is not None and not dt.timedelta() <= before - time <= _LONGEST_WINDOW:
        told = time.isoformat(timespec="seconds")
        end = before.isoformat(timespec="seconds")
        allowed = f"at most {_LONGEST_WINDOW.days} days before {end}, and not after it"
        hint = "Ask for a longer time in several parts"
        raise InvalidRequestError([Problem(name, told, allowed, hint)])
    return time


def without_none(filters: Mapping[str, str | None]) -> dict[str, str]:
    """Keep the filters that were given."""
    return {name: value for name, value in filters.items() if value is not None}

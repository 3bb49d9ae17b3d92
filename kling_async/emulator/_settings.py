"""Checks of what a user sets: numbers, texts, and the error that names the setting.

Says what fits where no type can; knows no setting itself.
"""

from __future__ import annotations

import sys
from collections.abc import Collection

from kling_async._errors import ConfigurationError

LEAST, MOST = sys.float_info.min, sys.float_info.max


def require(name: str, given: object, allowed: str, *, fits: bool) -> None:
    """Refuse a setting that does not fit.

    Args:
        name: The setting.
        given: What was given.
        allowed: What is allowed, in words.
        fits: Whether it is.

    Raises:
        ConfigurationError: It is not.
    """
    if not fits:
        raise ConfigurationError(f"{name} is {given!r}; it must be {allowed}")


def is_number(given: object, low: float = 0, high: float = MOST) -> bool:
    """Whether something is a number within bounds."""
    if isinstance(given, bool) or not isinstance(given, int | float):
        return False
    return low <= given <= high


def is_whole(given: object, low: int, high: int) -> bool:
    """Whether something is a whole number within bounds."""
    if isinstance(given, bool) or not isinstance(given, int):
        return False
    return low <= given <= high


def are_keys(given: object) -> bool:
    """Whether something is a collection of keys, or None."""
    if given is None:
        return True
    if isinstance(given, str) or not isinstance(given, Collection):
        return False
    return all(isinstance(key, str) and key.strip() for key in given)

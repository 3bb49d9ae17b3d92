"""Checks of what a user sets: numbers, texts, and the error that names the setting.

Says what fits where no type can.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from pathlib import Path

from attrs import field, frozen

from kling_async._errors import ConfigurationError

_LAST_PORT = 65535
_SIZES = (64, 4096)
_MANY = 10**9
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


@frozen(kw_only=True)
class Settings:
    """What an emulator is told when it is made, checked; `Emulator` says what for.

    Raises:
        ConfigurationError: One of them makes no sense.
    """

    speed: float
    seed: int
    host: str
    port: int
    api_keys: Collection[str] | None = field(repr=False)
    credits: float
    failure_rate: float
    rate_limit: int | None
    max_running: int | None
    expire_after: float | None
    log_delay: float
    request_log: bool
    size: int
    state: Path | None

    def __attrs_post_init__(self) -> None:
        is_speed = is_number(self.speed, LEAST)
        require("speed", self.speed, "finite, above 0", fits=is_speed)
        is_sum = is_number(self.credits)
        require("credits", self.credits, "finite, at least 0", fits=is_sum)
        is_rate = is_number(self.failure_rate, 0, 1)
        require("failure_rate", self.failure_rate, "from 0 to 1", fits=is_rate)
        is_port = is_whole(self.port, 0, _LAST_PORT)
        require("port", self.port, "0 to 65535", fits=is_port)
        is_size = is_whole(self.size, *_SIZES)
        require("size", self.size, "64 to 4096 (pixels)", fits=is_size)
        is_delay = is_number(self.log_delay, 0, math.inf)
        require("log_delay", self.log_delay, "at least 0 (seconds)", fits=is_delay)
        is_time = self.expire_after is None or is_number(self.expire_after)
        words = "at least 0 (seconds), or None"
        require("expire_after", self.expire_after, words, fits=is_time)
        for name in ("rate_limit", "max_running"):
            given = getattr(self, name)
            is_count = given is None or is_whole(given, 1, _MANY)
            require(name, given, "a whole number from 1, or None", fits=is_count)
        words = "texts in a collection, or None"
        require("api_keys", "***", words, fits=are_keys(self.api_keys))

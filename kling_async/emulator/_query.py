"""Reads a query: each parameter checked, all that is wrong told at once.

Knows what numbers, times and choices look like, and no endpoint.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection

from attrs import define, field
from starlette.datastructures import QueryParams

from kling_async._errors import Problem
from kling_async._fields import shown
from kling_async.emulator._refusals import Refusal


@define(eq=False)
class Query:
    """The parameters of one request, and what is wrong with them."""

    params: QueryParams
    problems: list[Problem] = field(factory=list[Problem], init=False)

    def take_only(self, names: Collection[str]) -> None:
        """Note every parameter that has another name."""
        for name in self.params.keys() - set(names):
            self.object_to(name, f"only {', '.join(names)}")

    def object_to(self, name: str, allowed: str) -> None:
        """Note that a parameter is wrong."""
        given = shown(self.params[name]) if name in self.params else "nothing"
        self.problems.append(Problem(name, given, allowed))

    def whole(self, name: str, low: int, high: int, default: int) -> int:
        """Read a whole number within bounds."""
        text = self.params.get(name)
        if text is None:
            return default
        if text.isascii() and text.isdigit() and low <= int(text) <= high:
            return int(text)
        self.object_to(name, f"a whole number from {low} to {high}")
        return default

    def moment(self, name: str) -> float | None:
        """Read a time, UTC if it does not say otherwise, in seconds since 1970."""
        text = self.params.get(name)
        if text is None:
            return None
        try:
            moment = dt.datetime.fromisoformat(text)
            zoned = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
            return zoned.timestamp()
        except (ValueError, OverflowError):
            self.object_to(name, "a time as in ISO 8601")
            return None

    def choices(self, name: str, allowed: Collection[str]) -> list[str]:
        """Read a parameter that may be repeated, each time with one of a few texts."""
        given = self.params.getlist(name)
        if not set(given) <= set(allowed):
            self.object_to(name, " | ".join(map(repr, allowed)))
        return given

    def check(self) -> None:
        """Refuse the request if anything was wrong.

        Raises:
            Refusal: With all of it.
        """
        if self.problems:
            raise Refusal.over(self.problems, part="Query")

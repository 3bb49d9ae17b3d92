"""What a client knows of the generations that it created: what they are, since when.

In memory, bounded, and forgotten as each one ends. A generation that another
process created has no origin here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import anyio
from attrs import define, field, frozen

from kling_async._catalogue import MODELS
from kling_async._scope import Scope

# Origins kept; the oldest make room.
KEPT = 100_000


@frozen
class Origin:
    """Where a generation comes from.

    Attributes:
        model: The id of its model.
        video_length: The length of its video, in seconds, if it has one to choose.
        scope: The client's tasks in the event loop whose clock tells `created`.
        created: When its create was answered, on that clock.
    """

    model: str
    video_length: float | None
    scope: Scope
    created: float = field(factory=anyio.current_time)


@define(eq=False)
class Origins:
    """The origins of one client's generations, by id."""

    _known: dict[str, Origin] = field(factory=dict[str, Origin], init=False)

    def note(
        self, generation_id: str, body: Mapping[str, object], scope: Scope
    ) -> None:
        """Take note that a create with this body was just answered."""
        model = str(body["model"])
        length = _video_length(model, body.get("duration"))
        self._known[generation_id] = Origin(model, length, scope)
        if len(self._known) > KEPT:
            del self._known[next(iter(self._known))]

    def of(self, generation_id: str, scope: Scope) -> Origin | None:
        """Give an origin, if it is known and its clock is that of the scope."""
        origin = self._known.get(generation_id)
        return origin if origin is not None and origin.scope is scope else None

    def forget(self, generation_id: str) -> None:
        """Let an origin go whose generation has ended."""
        self._known.pop(generation_id, None)


def _video_length(model: str, given: object) -> float | None:
    """Read a length, which may be text; what is left out is the server's default."""
    duration = MODELS[model].fields.get("duration") if model in MODELS else None
    if given is None and duration is not None:
        given = duration.default
    try:
        length = float(given) if isinstance(given, int | float | str) else math.nan
    except ValueError:
        length = math.nan
    return length if math.isfinite(length) else None

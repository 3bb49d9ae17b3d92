"""What time it is here: seconds since 1970, driven by the clock of the event loop.

So a test that turns the loop's clock turns this one, and what is kept in a file
still makes sense in another process.
"""

from __future__ import annotations

import datetime as dt
import time

import anyio
from attrs import define, field

from kling_async._scope import running_loop


@define(eq=False)
class Clock:
    """A clock that goes on from one event loop to the next, and never back."""

    _last: float = field(factory=time.time)
    _loop: object = field(default=None, init=False)
    _offset: float = field(default=0.0, init=False)

    def go_on_from(self, at: float) -> None:
        """Never tell a time before this one, which another process has told."""
        self._last = max(self._last, at)

    def now(self) -> float:
        """Return the time; outside an event loop, when it was last asked."""
        try:
            loop = running_loop()
        except RuntimeError:
            return self._last
        if loop is not self._loop:
            self._loop = loop
            self._offset = max(time.time(), self._last) - anyio.current_time()
        # The offset is rounded: without `max` this could be a moment too early.
        self._last = max(self._last, anyio.current_time() + self._offset)
        return self._last


def timestamp(at: float) -> str:
    """Write a time as the vendor does: UTC, in milliseconds, with a Z."""
    moment = dt.datetime.fromtimestamp(at, dt.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")

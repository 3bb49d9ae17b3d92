"""A sliding window: limits the calls within any interval of some seconds."""

from __future__ import annotations

from collections import deque

import anyio
from attrs import define, field


@define(eq=False, repr=False)
class SlidingWindow:
    """Counts calls, and says how long the next one has to wait.

    Attributes:
        limit: The most calls.
        seconds: The length of the interval.
    """

    limit: int
    seconds: float
    _times: deque[float] = field(factory=deque[float], init=False)

    def try_take(self, now: float) -> float:
        """Count a call and return 0; or return how many seconds it is too early."""
        while len(self._times) >= self.limit:
            early = self._times[0] + self.seconds - now
            if early > 0:
                return early
            self._times.popleft()
        self._times.append(now)
        return 0.0

    async def take(self) -> None:
        """Wait until one more call is within the limit, and count it."""
        while early := self.try_take(anyio.current_time()):  # noqa: ASYNC110 (a known time)
            await anyio.sleep(early)

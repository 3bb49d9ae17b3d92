"""How often one may ask: a sliding window over the times of what was let through.

Pure: the time comes in from outside.
"""

from __future__ import annotations

from collections import deque

from attrs import define, field


@define(eq=False)
class Window:
    """At most so many in so many seconds.

    Attributes:
        limit: How many.
        seconds: In how long a time.
    """

    limit: int
    seconds: float
    _times: deque[float] = field(factory=deque[float], init=False)

    def wait_of(self, now: float) -> float:
        """Let one through and return 0; or return how many seconds it is too early."""
        while self._times and self._times[0] <= now - self.seconds:
            self._times.popleft()
        if len(self._times) >= self.limit:
            return self._times[0] + self.seconds - now
        self._times.append(now)
        return 0.0

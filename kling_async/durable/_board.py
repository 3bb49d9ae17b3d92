"""The latest news of all jobs of a batch, asked for once for all who wait.

Whoever needs news and finds none fresh enough asks; the others wait for it.
Only what has changed is read, and the more there is to read, the less often.
"""

from __future__ import annotations

import datetime as dt
import math

import anyio
from attrs import define, field

from kling_async.durable._store import JobStatus, Store

# A row is written a moment after its time was taken, by another machine's clock.
_OVERLAP = dt.timedelta(seconds=10)
# A look may take this share of the time.
_SHARE = 0.05


@define(eq=False)
class Board:
    """What is known of each job.

    Attributes:
        store: Where news come from.
        interval: The least time between two looks, in seconds.
    """

    store: Store
    interval: float
    statuses: dict[str, JobStatus] = field(factory=dict[str, JobStatus])
    looks: int = 0
    _due: float = -math.inf
    _since: dt.datetime | None = None
    _turn: anyio.Lock = field(factory=anyio.Lock)

    async def news(self) -> None:
        """Wait for the next look at the database, or take it."""
        seen = self.looks
        async with self._turn:
            if self.looks > seen:
                return
            await anyio.sleep(max(0.0, self._due - anyio.current_time()))
            now, began = dt.datetime.now(dt.UTC), anyio.current_time()
            changed = await self.store.changed(self._since)
            self.statuses |= {
                key: status
                for key, status in changed.items()
                if not self._is_older(status)
            }
            self._since = now - _OVERLAP
            took = anyio.current_time() - began
            self._due = anyio.current_time() + max(self.interval, took / _SHARE)
            self.looks += 1

    def _is_older(self, status: JobStatus) -> bool:
        known = self.statuses.get(status.key)
        return known is not None and known.attempt > status.attempt

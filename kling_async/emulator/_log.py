"""The vendor's log of requests: what was asked of a model, and what came of it.

Rows appear late, as the vendor's analytics do. Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from attrs import define, field, frozen

from kling_async._generation import Status
from kling_async.emulator._studio import Job

SUCCEEDED, FAILED = "succeeded", "failed"


@frozen(kw_only=True)
class Row:
    """One request to a model.

    Attributes:
        at: When it came, in seconds since 1970.
        model: The model that it named.
        request_id: The id of the HTTP exchange.
        inference_id: The generation's id, or one of its own if there is none.
        client_request_id: The ``X-Client-Request-Id`` it came with, if any.
        job: The generation; None for a request that was refused.
    """

    at: float
    model: str
    request_id: str
    inference_id: str
    client_request_id: str | None
    job: Job | None = None

    def status_at(self, now: float) -> str:
        """Return what the log says of it: work under way has not failed."""
        if self.job is None or self.job.status_at(now) == Status.ERROR:
            return FAILED
        return SUCCEEDED

    def credits_at(self, now: float) -> int:
        """Return what it has cost so far: nothing before the video is there."""
        return self.job.credits_used_at(now) if self.job else 0


@define(eq=False)
class RequestLog:
    """All rows of one account.

    Attributes:
        delay: How many seconds a row takes to appear.
        rows: The rows, in order of time.
    """

    delay: float = 0.0
    rows: list[Row] = field(factory=list[Row], init=False)

    def between(
        self,
        start: float,
        end: float,
        *,
        now: float,
        models: Collection[str] = (),
        statuses: Collection[str] = (),
    ) -> Iterator[Row]:
        """Give the rows of a time that have appeared, newest first.

        Args:
            start: From when, in seconds since 1970.
            end: Until when.
            now: What time it is.
            models: The models to show, by id or without the part before the first
                slash; all if empty.
            statuses: The statuses to show; all if empty.
        """
        for row in reversed(self.rows):
            if not start <= row.at <= end or row.at + self.delay > now:
                continue
            if models and not {row.model, row.model.partition("/")[2]} & set(models):
                continue
            if not statuses or row.status_at(now) in statuses:
                yield row

"""How the vendor says no: the body of an error, and the exception that becomes one.

Says nothing of when to refuse.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import Self

from kling_async._errors import Problem
from kling_async.emulator._clock import timestamp


class Refusal(Exception):  # noqa: N818 (an answer, not a fault)
    """A request is answered with an error status.

    Attributes:
        status: The HTTP status.
        message: The vendor's words.
        headers: What the answer's head says besides.
    """

    def __init__(
        self,
        status: int,
        message: str,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = dict(headers or {})

    @classmethod
    def over(cls, problems: Iterable[Problem], *, part: str = "Body") -> Self:
        """Refuse a request with all that is wrong with a part of it."""
        lines = (
            f"{it.field}: Expected {it.allowed}. Received {it.given}" for it in problems
        )
        message = "\n".join((f"{part} validation error", *lines))
        return cls(HTTPStatus.BAD_REQUEST, message)

    @classmethod
    def too_many(cls, message: str, seconds: float) -> Self:
        """Refuse a request that comes so many seconds too early."""
        headers = {"retry-after": str(max(1, math.ceil(seconds)))}
        return cls(HTTPStatus.TOO_MANY_REQUESTS, message, headers)


def error_body(
    *, status: int, message: str, path: str, request_id: str
) -> dict[str, object]:
    """Return the vendor's error body, stamped with the time of day."""
    return {
        "message": message,
        "path": path,
        "requestId": request_id,
        "statusCode": status,
        "timestamp": timestamp(time.time()),
    }

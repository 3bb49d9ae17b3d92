"""The protocol: paths, refusals, query parameters, keys, and the clock."""

from __future__ import annotations

import datetime as dt
import math
import time
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from http import HTTPStatus
from typing import Self

import anyio
from attrs import define, field
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import Response

from kling_async._config import PATHS
from kling_async._errors import Problem
from kling_async._runtime.loop import running_loop
from kling_async._runtime.window import SlidingWindow
from kling_async._text import short_repr


@define(eq=False)
class Clock:
    """A clock that continues from one event loop to the next, and never goes back."""

    _last: float = field(factory=time.time)
    _loop: object = field(default=None, init=False)
    _offset: float = field(default=0.0, init=False)

    def go_on_from(self, at: float) -> None:
        """Continue from a time that another process has reached."""
        self._last = max(self._last, at)

    def now(self) -> float:
        """Return the time; outside an event loop, the last one returned."""
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


# The paths of creates and polls, with the status of an accepted create.
GENERATIONS: Mapping[str, HTTPStatus] = {
    PATHS["universal"]: HTTPStatus.OK,
    PATHS["legacy"]: HTTPStatus.CREATED,
}

FILES = "/files/"

LOGS = "/v2/logs"

BALANCE, TRANSACTIONS = "/v2/billing", "/v2/billing/transactions"

BALANCE_DETAIL, OLD_BALANCE = "/v2/billing/detail", "/v1/billing/balance"

USAGE, USAGE_DETAIL = "/v2/usage", "/v2/usage/detail"

KEY, KEYS = "/v1/key", "/v1/keys"

# Three paths of one list, the path of one model, and of the metrics.
MODELS, MODEL, METRICS = (
    ("/v1/models", "/models", "/api/v1/models"),
    "/model/",
    "/models/metrics",
)

ADMIN = "/_emulator/"  # not the vendor's

# Short names for paths; a star stands for anything.
PATHS_BY_NAME: Mapping[str, tuple[str, ...]] = {
    "generations": tuple(GENERATIONS),
    "files": (f"{FILES}*",),
    "logs": (LOGS,),
    "billing": (BALANCE, TRANSACTIONS, BALANCE_DETAIL, OLD_BALANCE),
    "usage": (USAGE, USAGE_DETAIL),
    "keys": (KEY, KEYS),
    "models": (*MODELS, f"{MODEL}*"),
    "metrics": (METRICS,),
}


class Refusal(Exception):  # noqa: N818 (an answer, not a fault)
    """A request is answered with an error status.

    Attributes:
        status: The HTTP status.
        message: The vendor's words.
        headers: Further headers of the answer.
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
        """Refuse a request, listing all problems of a part of it."""
        lines = (
            f"{it.field}: Expected {it.allowed}. Received {it.given}" for it in problems
        )
        message = "\n".join((f"{part} validation error", *lines))
        return cls(HTTPStatus.BAD_REQUEST, message)

    @classmethod
    def too_many(cls, message: str, seconds: float) -> Self:
        """Refuse a request that came some seconds too early."""
        headers = {"retry-after": str(max(1, math.ceil(seconds)))}
        return cls(HTTPStatus.TOO_MANY_REQUESTS, message, headers)


def is_from_elsewhere(request: Request) -> bool:
    """Whether a browser sends it for a page of another site."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.url.netloc:
        return True
    return request.headers.get("sec-fetch-site") in {"cross-site", "same-site"}


def error_body(
    *, status: int, message: str, path: str, request_id: str
) -> dict[str, object]:
    """Return the vendor's error body, with the current time."""
    return {
        "message": message,
        "path": path,
        "requestId": request_id,
        "statusCode": status,
        "timestamp": timestamp(time.time()),
    }


@define(eq=False)
class Query:
    """The query parameters of one request, and their problems."""

    params: QueryParams
    problems: list[Problem] = field(factory=list[Problem], init=False)

    def take_only(self, names: Collection[str]) -> None:
        """Reject every parameter with another name."""
        for name in self.params.keys() - set(names):
            self.reject(name, f"only {', '.join(names)}")

    def reject(self, name: str, allowed: str) -> None:
        """Note a wrong parameter."""
        given = short_repr(self.params[name]) if name in self.params else "nothing"
        self.problems.append(Problem(name, given, allowed))

    def whole(self, name: str, low: int, high: int, default: int) -> int:
        """Read a whole number within bounds."""
        text = self.params.get(name)
        if text is None:
            return default
        if text.isascii() and text.isdigit() and low <= int(text) <= high:
            return int(text)
        self.reject(name, f"a whole number from {low} to {high}")
        return default

    def moment(self, name: str) -> float | None:
        """Read a time, UTC unless it has a zone, in seconds since 1970."""
        text = self.params.get(name)
        if text is None:
            return None
        try:
            moment = dt.datetime.fromisoformat(text)
            zoned = moment if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
            return zoned.timestamp()
        except (ValueError, OverflowError):
            self.reject(name, "a time as in ISO 8601")
            return None

    def choices(self, name: str, allowed: Collection[str]) -> list[str]:
        """Read a repeatable parameter with one of a few values."""
        given = self.params.getlist(name)
        if not set(given) <= set(allowed):
            self.reject(name, " | ".join(map(repr, allowed)))
        return given

    def check(self) -> None:
        """Refuse the request if any parameter was wrong.

        Raises:
            Refusal: It lists all problems.
        """
        if self.problems:
            raise Refusal.over(self.problems, part="Query")


Endpoint = Callable[[Request], Awaitable[Response]]

_MINUTE = 60.0


@define(eq=False)
class Auth:
    """Checks keys, and limits how often each is used.

    Attributes:
        clock: The clock.
        api_keys: The valid keys; None for any that is not empty.
        rate_limit: How many requests a minute each key may make; None for any
            number.
    """

    clock: Clock
    api_keys: Collection[str] | None
    rate_limit: int | None
    _windows: dict[str, SlidingWindow] = field(
        factory=dict[str, SlidingWindow], init=False
    )

    def require(self, endpoint: Endpoint) -> Endpoint:
        """Return an endpoint that checks the key first."""

        async def check_first(request: Request) -> Response:
            self.check(request.headers.get("authorization", ""))
            return await endpoint(request)

        return check_first

    def check(self, authorization: str) -> None:
        """Check a key.

        Raises:
            Refusal: It is missing or wrong, or has been used too often.
        """
        scheme, _, key = authorization.partition(" ")
        key = key.strip()
        allowed = self.api_keys is None or key in self.api_keys
        if scheme.lower() != "bearer" or not key or not allowed:
            wrong = "invalid" if key else "missing"
            raise Refusal(
                HTTPStatus.UNAUTHORIZED,
                "This request requires a valid API key. You can create one at "
                f"https://aimlapi.com/app/keys (the key is {wrong})",
                {"www-authenticate": "Bearer"},
            )
        if self.rate_limit is None:
            return
        window = self._windows.setdefault(key, SlidingWindow(self.rate_limit, _MINUTE))
        if early := window.try_take(self.clock.now()):
            words = f"Too many requests: at most {self.rate_limit} a minute"
            raise Refusal.too_many(words, early)

"""Who may come in, and how often: keys and the rate limit.

Knows nothing of what is behind the door.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from http import HTTPStatus

from attrs import define, field
from starlette.requests import Request
from starlette.responses import Response

from kling_async.emulator._clock import Clock
from kling_async.emulator._limits import Window
from kling_async.emulator._refusals import Refusal

Endpoint = Callable[[Request], Awaitable[Response]]
_MINUTE = 60.0


@define(eq=False)
class Door:
    """Lets those in who have a key, each so many times a minute.

    Attributes:
        clock: What time it is.
        api_keys: The keys that are taken; None for any that is not empty.
        rate_limit: How many requests a minute each key may make; None for any
            number.
    """

    clock: Clock
    api_keys: Collection[str] | None
    rate_limit: int | None
    _windows: dict[str, Window] = field(factory=dict[str, Window], init=False)

    def before(self, endpoint: Endpoint) -> Endpoint:
        """Return an endpoint behind the door."""

        async def guarded(request: Request) -> Response:
            self.let_in(request.headers.get("authorization", ""))
            return await endpoint(request)

        return guarded

    def let_in(self, authorization: str) -> None:
        """Look at a key.

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
                f"Unauthorized: the API key is {wrong}",
                {"www-authenticate": "Bearer"},
            )
        if self.rate_limit is None:
            return
        window = self._windows.setdefault(key, Window(self.rate_limit, _MINUTE))
        if early := window.wait_of(self.clock.now()):
            words = f"Too many requests: at most {self.rate_limit} a minute"
            raise Refusal.too_many(words, early)

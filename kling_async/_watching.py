"""One generation followed to its end: polls, changes, outages, the deadline.

A poll that fails is tried again when the next one is due. Only what cannot heal
ends a watch early; nothing here ever forgets the id.
"""

from __future__ import annotations

import math
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Protocol

import anyio
from attrs import define, evolve, field

from kling_async._errors import (
    APIStatusError,
    AuthenticationError,
    KlingError,
    PermissionDeniedError,
    WaitTimeoutError,
)
from kling_async._generation import Generation
from kling_async._hooks import Reporter, RetryEvent, StatusEvent
from kling_async._polling import Polling, PollState
from kling_async._retrying import may_repeat_get

# A generation may be unknown to the server for a moment after its create.
REFUSAL_GRACE = 20.0


class Fetch(Protocol):
    """Asks the server for one generation, within some seconds."""

    def __call__(self, generation_id: str, *, timeout: float) -> Awaitable[Generation]:
        """Ask."""
        ...


@define(eq=False, kw_only=True)
class Watch:
    """The state of one watch.

    Attributes:
        generation_id: What is watched.
        fetch: How to poll.
        polling: When to poll.
        timeout: How long to go on, in seconds.
        reporter: Who is told.
        last: The last observation.
        chance: Where jitter comes from: numbers in [0, 1).
    """

    generation_id: str
    fetch: Fetch
    polling: Polling
    timeout: float
    reporter: Reporter
    last: Generation | None = None
    chance: Callable[[], float] = random.random
    _polls: int = 0
    _failure: KlingError | None = None
    _refused_since: float = math.inf
    _started: float = field(factory=anyio.current_time)

    async def changes(self) -> AsyncGenerator[Generation, None]:
        """Yield the first observation, then each change, the terminal one last.

        Raises:
            WaitTimeoutError: The time was up before the end.
            APIStatusError: The server refuses to tell, and goes on refusing.
        """
        if self.last is not None:
            self.reporter.status(StatusEvent(generation=self.last))
            yield self.last
        while self.last is None or not self.last.is_terminal:
            await self._sleep()
            seen = await self._poll()
            if seen is None or not self._is_change(seen):
                continue
            self.last = self._remembered(seen)
            self.reporter.status(StatusEvent(generation=self.last))
            yield self.last

    def _left(self) -> float:
        return self._started + self.timeout - anyio.current_time()

    def _is_change(self, seen: Generation) -> bool:
        last = self.last
        return last is None or (last.status, last.is_terminal) != (
            seen.status,
            seen.is_terminal,
        )

    def _remembered(self, seen: Generation) -> Generation:
        """Keep the request id of the create, which polls do not tell."""
        if self.last is None or self.last.client_request_id is None:
            return seen
        return evolve(seen, client_request_id=self.last.client_request_id)

    async def _sleep(self) -> None:
        if self.last is None and self._polls == 0:
            return
        delay = self._delay()
        if self._failure is not None:
            event = RetryEvent(attempt=self._polls, delay=delay, error=self._failure)
            self.reporter.retry(event)
        await anyio.sleep(min(delay, max(0.0, self._left())))
        if self._left() <= 0:
            raise self._timed_out()

    def _delay(self) -> float:
        state = PollState(
            polls=self._polls,
            elapsed=anyio.current_time() - self._started,
            status=self.last.status if self.last else None,
            chance=self.chance(),
        )
        return self.polling.delay(state)

    async def _poll(self) -> Generation | None:
        """Ask once; None when it failed in a way that may heal."""
        left = self._left()
        try:
            with anyio.fail_after(left):
                seen = await self.fetch(self.generation_id, timeout=left)
        except TimeoutError:
            raise self._timed_out() from None
        except KlingError as error:
            self._judge(error)
            return None
        finally:
            self._polls += 1
        self._refused_since = math.inf
        self._failure = None
        return seen

    def _judge(self, error: KlingError) -> None:
        """Pass over what may heal; raise what will not."""
        error.concerning(self.generation_id, self.last)
        now = anyio.current_time()
        if not may_repeat_get(error):
            self._refused_since = min(self._refused_since, now)
            is_final = isinstance(error, AuthenticationError | PermissionDeniedError)
            lasted = now - self._refused_since >= REFUSAL_GRACE
            if is_final or lasted or not isinstance(error, APIStatusError):
                raise error
        else:
            self._refused_since = math.inf
        self._failure = error

    def _timed_out(self) -> WaitTimeoutError:
        return WaitTimeoutError(
            self.generation_id,
            timeout=self.timeout,
            generation=self.last,
        )

"""One watch of a generation: news at its own pace, until its own deadline.

Follows what the shared poll loop sees. Nothing here ever forgets the id.
"""

from __future__ import annotations

import copy
from typing import Self

import anyio
from attrs import define, field

from kling_async._errors import KlingError, WaitTimeoutError
from kling_async._generation import Generation
from kling_async._poll_loop import Place, PollLoop, is_change
from kling_async._polling import Polling
from kling_async._scope import CLOCK_TICK


@define(eq=False, kw_only=True)
class Watch:
    """An iterator over what is new; between two steps it holds nothing open.

    Attributes:
        loop: Who polls.
        polling: When to poll, by this watcher's wish.
        timeout: How long to go on, in seconds from now.
        last: What has been seen last; it is not given again.
        deadline: When the time is up, on the event loop's clock.
        due: When it wants the next poll, on the same clock.
        news: Set to let it look again.
    """

    loop: PollLoop
    polling: Polling
    timeout: float
    last: Generation | None = None
    deadline: float = field(init=False)
    due: float = field(init=False)
    news: anyio.Event = field(init=False)
    _place: Place = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.deadline = anyio.current_time() + self.timeout
        self._place = self.loop.enter(self.last)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Generation:
        """Give the next change; the terminal one is the last.

        Raises:
            WaitTimeoutError: The time was up before the end.
            KlingError: There will be no more news.
        """
        try:
            while self.last is None or not self.last.is_terminal:
                while self._place.next is None:
                    self._require_hope()
                    await self.loop.wait(self)
                seen, self._place = self._place.next
                if is_change(self.last, seen):
                    self.last = seen
                    return seen
        except KlingError as error:
            error.concerning(self.loop.generation_id, self.last)
            raise
        raise StopAsyncIteration

    def _require_hope(self) -> None:
        if self.loop.error is not None:
            raise _own(self.loop.error)
        if anyio.current_time() + CLOCK_TICK >= self.deadline:
            raise WaitTimeoutError(self.loop.generation_id, timeout=self.timeout)


def _own(error: KlingError) -> KlingError:
    """Copy an error that many will raise: each raise writes into its traceback."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own

"""Many generations at once: outcomes in order of completion.

The work runs in the client's scope, not in the generator: an async generator
must not hold a task group across a ``yield`` (PEP 789).
"""

from __future__ import annotations

import math
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Awaitable,
    Callable,
    Iterable,
    Mapping,
)
from contextlib import AsyncExitStack, aclosing
from typing import Generic, TypeVar

import anyio
from anyio.abc import TaskGroup
from attrs import define, frozen

from kling_async._errors import ConfigurationError, KlingError
from kling_async._fields import shown
from kling_async._generation import Generation
from kling_async._polling import is_whole
from kling_async._scope import Scope

RequestT = TypeVar("RequestT")


@frozen(kw_only=True)
class Outcome(Generic[RequestT]):
    """What became of one request of many.

    Attributes:
        index: The request's place among those given, from 0.
        request: The request itself.
        generation: The completed generation; after an error the last that is
            known of it, None when nothing was created.
        error: Why there is no video, None on success.
    """

    index: int
    request: RequestT
    generation: Generation | None = None
    error: KlingError | None = None

    @property
    def succeeded(self) -> bool:
        """Whether there is a video."""
        return self.error is None


@define(eq=False)
class Batch(Generic[RequestT]):
    """Requests on their way to outcomes.

    Attributes:
        requests: What to generate; pulled only when there is a free place.
        generate: Takes one request to its completed generation.
        max_in_flight: How many may be between create and outcome.
    """

    requests: Iterable[RequestT] | AsyncIterable[RequestT]
    generate: Callable[[RequestT], Awaitable[Generation]]
    max_in_flight: int

    def __attrs_post_init__(self) -> None:
        if not is_whole(self.max_in_flight) or self.max_in_flight < 1:
            raise ConfigurationError(
                f"max_in_flight: given {self.max_in_flight!r}; allowed: 1 or more",
            )
        if not _are_many(self.requests):
            raise ConfigurationError(
                f"requests: given {shown(self.requests)}; allowed: a list of requests, "
                "or any other iterable of them, sync or async",
            )

    async def outcomes(self, scope: Scope) -> AsyncGenerator[Outcome[RequestT], None]:
        """Yield each outcome as it comes; leaving early stops the rest."""
        send, receive = anyio.create_memory_object_stream[Outcome[RequestT]](math.inf)
        places = anyio.Semaphore(self.max_in_flight)

        async def one(index: int, request: RequestT) -> None:
            send.send_nowait(await self._outcome(index, request))

        async def feed(tasks: TaskGroup) -> None:
            async with aclosing(_each(self.requests)) as source:
                await places.acquire()
                index = 0
                async for request in source:
                    tasks.start_soon(one, index, request)
                    index += 1
                    await places.acquire()

        async def pump() -> None:
            failure: Exception | None = None
            async with send, anyio.create_task_group() as tasks:
                try:
                    await feed(tasks)
                except Exception as error:  # noqa: BLE001 (raised once all is done)
                    failure = error
            if failure is not None:
                raise failure

        job = scope.start(pump)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(_ended, job.finished)
            stack.callback(job.cancel)
            stack.enter_context(receive)
            async for outcome in receive:
                places.release()
                yield outcome
        await job.result()

    async def _outcome(self, index: int, request: RequestT) -> Outcome[RequestT]:
        try:
            generation = await self.generate(request)
        except KlingError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 (one must not stop the others)
            failure = KlingError(f"{type(error).__name__}: {error}")
            failure.__cause__ = error
        else:
            return Outcome(index=index, request=request, generation=generation)
        return Outcome(
            index=index,
            request=request,
            generation=failure.generation,
            error=failure,
        )


def _are_many(given: object) -> bool:
    if isinstance(given, (str, bytes, Mapping)):
        return False
    return isinstance(given, Iterable | AsyncIterable)


async def _ended(finished: Callable[[], Awaitable[None]]) -> None:
    with anyio.CancelScope(shield=True):
        await finished()


async def _each(
    requests: Iterable[RequestT] | AsyncIterable[RequestT],
) -> AsyncGenerator[RequestT, None]:
    if isinstance(requests, AsyncIterable):
        async for request in requests:
            yield request
    else:
        for request in requests:
            yield request

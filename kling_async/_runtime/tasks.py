"""The client's own tasks: work that outlives its caller, but never the client.

A create is not cut off when its caller is cancelled. The caller leaves at once; the
exchange ends here, since its answer has the id of paid work.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from typing import Generic, TypeVar, cast

import anyio
from attrs import define, field

from kling_async._errors import ClientClosedError
from kling_async._runtime.loop import running_loop

T = TypeVar("T")

T_co = TypeVar("T_co", covariant=True)

CLOSED = "the client is closed; make a new AsyncKling"

# The jobs that the running code belongs to: closing cannot wait for these.
_within: contextvars.ContextVar[frozenset[object]] = contextvars.ContextVar(
    "_within", default=frozenset()
)


def is_asyncio() -> bool:
    """Whether the loop that runs is one of asyncio."""
    return isinstance(running_loop(), asyncio.AbstractEventLoop)


def is_in_job() -> bool:
    """Whether the code that runs is part of a job, which the client ends."""
    return bool(_within.get())


def _spawn(
    work: Callable[[], Coroutine[object, object, None]],
    at_end: Callable[[object], None],
    context: contextvars.Context | None,
) -> object:
    """Start a task of the loop itself; the result keeps it from collection."""
    loop = running_loop()
    if context is None:  # an empty Context is falsy, too
        context = contextvars.copy_context()
    if isinstance(loop, asyncio.AbstractEventLoop):
        task = loop.create_task(work(), context=context)
        # asyncio never starts a task that is cancelled before its first step.
        task.add_done_callback(at_end, context=context)
        return task
    import trio.lowlevel

    # A copy: to start in it, trio enters it, which may be what runs.
    return trio.lowlevel.spawn_system_task(work, context=context.copy())


def at_loop_end(work: Callable[[], Awaitable[None]]) -> AsyncGenerator[None, None]:
    """Do some work when the running loop ends.

    It is done earlier if the returned generator is closed or collected. asyncio and
    trio close the generators that were started in them.
    """

    async def wait_for_end() -> AsyncGenerator[None, None]:
        try:
            yield
        finally:
            await work()

    generator = wait_for_end()
    with contextlib.suppress(StopIteration):
        generator.__anext__().send(None)  # begins, up to the yield
    return generator


@define(eq=False, repr=False)
class BackgroundTask(Generic[T_co]):
    """One piece of work in a client's tasks, and its result."""

    _work: Callable[[], Awaitable[T_co]]
    wait_on_close: bool
    _owner: ClientTasks
    _at_end: Callable[[], None] | None
    _cancelled: anyio.CancelScope | None
    _done: anyio.Event | None = None
    _is_whole: bool = False
    _result: T_co | None = None
    _error: Exception | None = None
    task: object = None

    async def run(self) -> None:
        """Do the work; keep its error for the caller, instead of raising it."""
        if self._cancelled is not None:
            _within.set(_within.get() | {self})
        try:
            with self._cancelled or contextlib.nullcontext():
                self._result = await self._work()
                self._is_whole = True
        except Exception as error:  # noqa: BLE001 (handed to the one who waits)
            self._error = error
        finally:
            self.end()

    def end(self, _: object = None) -> None:
        """Set the result, and wake the callers."""
        if self._owner.forget(self):
            if self._done is not None:
                self._done.set()
            if self._at_end is not None:
                self._at_end()

    def cancel(self) -> None:
        """Ask the work to stop; `wait` returns when it has."""
        if self._cancelled is not None:
            self._cancelled.cancel()
        elif isinstance(self.task, asyncio.Task):
            self.task.cancel()

    def wait(self) -> Awaitable[None]:
        """Wait for the end of the work, however it ends."""
        if self._done is None:
            self._done = anyio.Event()
            if not self._owner.has(self):
                self._done.set()
        return self._done.wait()

    async def result(self) -> T_co:
        """Wait for what the work returns or raises.

        A caller that is cancelled here leaves; the work goes on.

        Raises:
            ClientClosedError: The client was closed before the work ended.
        """
        await self.wait()
        if self._error is not None:
            try:
                raise self._error
            finally:
                del self  # the traceback holds this frame: leave no cycle
        if not self._is_whole:
            raise ClientClosedError(CLOSED)
        return cast("T_co", self._result)


def _is_running(job: BackgroundTask[object]) -> bool:
    """Whether it is this code's own task."""
    return is_asyncio() and job.task is asyncio.current_task()


@define(eq=False, repr=False)
class ClientTasks:
    """The tasks of one client in one event loop.

    Attributes:
        is_closed: Whether nothing starts here any more.
        listeners: Called when it closes: who waits in a task of its own hears of it.
    """

    # In the order of their start, so that the same run always ends in the same order.
    listeners: dict[Callable[[], None], None] = field(
        factory=dict[Callable[[], None], None], init=False
    )
    _jobs: dict[BackgroundTask[object], None] = field(
        factory=dict[BackgroundTask[object], None]
    )
    is_closed: bool = False

    def start(
        self,
        work: Callable[[], Awaitable[T]],
        *,
        wait_on_close: bool = False,
        at_end: Callable[[], None] | None = None,
        context: contextvars.Context | None = None,
        is_plain: bool = False,
    ) -> BackgroundTask[T]:
        """Start work that belongs to the client and not to the caller.

        Args:
            work: What to do.
            wait_on_close: Closing waits for it instead of cancelling it.
            at_end: Called once when it has ended, in any way.
            context: Its context variables; by default a copy of the caller's.
            is_plain: Whether to cancel it by `asyncio.Task.cancel` on asyncio: a
                cancel scope is most of the cost of a small task.

        Raises:
            ClientClosedError: The client is closed.
        """
        if self.is_closed:
            raise ClientClosedError(CLOSED)
        needs_scope = not is_plain or not is_asyncio()
        cancelled = anyio.CancelScope() if needs_scope else None
        job = BackgroundTask(work, wait_on_close, self, at_end, cancelled)
        self._jobs[job] = None
        job.task = _spawn(job.run, job.end, context)
        return job

    def has(self, job: BackgroundTask[object]) -> bool:
        """Whether a job is running."""
        return job in self._jobs

    def forget(self, job: BackgroundTask[object]) -> bool:
        """Remove a job from the running ones; return whether it was there."""
        is_first = job in self._jobs
        self._jobs.pop(job, None)
        return is_first

    async def aclose(self, patience: float) -> None:
        """End all work; wait ``patience`` seconds for essential work first.

        `asyncio.Task.cancel`, which no shield stops, ends this wait.
        """
        self.is_closed = True
        for listener in self.listeners:
            listener()
        with anyio.CancelScope(shield=True):
            for job in list(self._jobs):
                if not job.wait_on_close:
                    job.cancel()
            try:
                with anyio.move_on_after(patience):
                    await self._drain()
            finally:
                for job in list(self._jobs):
                    job.cancel()
                await self._drain()

    async def _drain(self) -> None:
        """Wait for all jobs but those that wait for this."""
        for job in list(self._jobs):
            if job not in _within.get() and not _is_running(job):
                await job.wait()

"""A command's work in an event loop, from the client to the exit code.

Whatever ends it, the generations that go on at the server are told, with the
command that goes on with them. Knows nothing of what the command is for.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import threading
from collections.abc import Awaitable, Callable, Generator, Iterable
from types import FrameType

import anyio
from attrs import define, field

from kling_async import (
    AsyncKling,
    CreatedEvent,
    Generation,
    Hooks,
    KlingError,
    NotFoundError,
    StatusEvent,
)
from kling_async.cli._exits import Exit, exit_for, resume_command, told
from kling_async.cli._screen import Screen


@define(eq=False)
class Ledger:
    """The generations that one command has to do with, as last seen.

    Attributes:
        tell: Told of each observation.
        announce: Told of each create, before all else.
        resume_options: What the command that resumes is to be given.
        create_under_way: The client request id of a create without an answer yet.
        done: The ids of those with which the command has no more to do.
    """

    tell: Callable[[Generation], object] = lambda _: None
    announce: Callable[[Generation], object] = lambda _: None
    resume_options: tuple[str, ...] = ()
    create_under_way: str | None = None
    done: set[str] = field(factory=set[str], init=False)
    last: dict[str, Generation | None] = field(
        factory=dict[str, Generation | None], init=False
    )

    def follow(self, ids: Iterable[str]) -> None:
        """Note generations that are somebody's business, seen or not."""
        self.last.update(dict.fromkeys(ids))

    def see(self, event: CreatedEvent | StatusEvent) -> None:
        """Note what the server said."""
        generation = event.generation
        if generation.client_request_id == self.create_under_way:
            self.create_under_way = None
        self.last[generation.id] = generation
        if isinstance(event, CreatedEvent):
            self.announce(generation)
        self.tell(generation)

    @property
    def hooks(self) -> Hooks:
        """What a client has to be given for the ledger to be kept."""
        return Hooks(on_created=self.see, on_status=self.see)

    @property
    def unfinished(self) -> dict[str, str]:
        """The last status of those of which more is to come, or to fetch."""
        return {
            it: seen.status if seen else "not seen yet"
            for it, seen in self.last.items()
            if it not in self.done and not (seen and seen.failed)
        }

    @property
    def finished(self) -> list[str]:
        """The ids of those that have a video."""
        return [it for it, seen in self.last.items() if seen and seen.succeeded]

    def goes_on_after(self, error: KlingError) -> bool:
        """Whether there is more to come, or to fetch, of an error's generation."""
        if error.generation_id not in self.last:
            return False
        seen = self.last[error.generation_id]
        if seen is None:
            return not isinstance(error, NotFoundError)
        return not seen.failed

    def resume_command(self, *ids: str) -> str:
        """Return the command that goes on with some of them."""
        return resume_command(ids, self.resume_options)


def run(
    work: Callable[[AsyncKling], Awaitable[Exit]],
    *,
    screen: Screen,
    ledger: Ledger,
    check_media: bool = True,
) -> Exit:
    """Do a command's work with a client, and return the code to end with.

    Args:
        work: What to do.
        screen: Where errors and interruptions are told.
        ledger: What is kept of the generations.
        check_media: As for `AsyncKling`.
    """

    async def with_client() -> Exit:
        async with AsyncKling(hooks=ledger.hooks, check_media=check_media) as kling:
            try:
                return await work(kling)
            except anyio.get_cancelled_exc_class():
                _leave_next_time(screen, ledger)
                if ledger.create_under_way is not None:
                    screen.note(
                        "waiting for the answer to a create that is under way; "
                        "Ctrl-C again leaves at once"
                    )
                raise

    return until_interrupted(with_client, screen=screen, ledger=ledger)


def until_interrupted(
    work: Callable[[], Awaitable[Exit]], *, screen: Screen, ledger: Ledger
) -> Exit:
    """Do some work in an event loop until it ends, fails, or a signal ends it."""
    with _terminated_like_interrupted() as terminated:
        try:
            return anyio.run(work)
        except KeyboardInterrupt:
            tell_unfinished(screen, ledger)
            return Exit.TERMINATED if terminated else Exit.INTERRUPTED
        except KlingError as error:
            return report(error, screen=screen, ledger=ledger)


def report(error: KlingError, *, screen: Screen, ledger: Ledger) -> Exit:
    """Tell an error and the way back to its generation; return its exit code."""
    goes_on = ledger.goes_on_after(error)
    unknown_end = goes_on and not error.is_settled
    billed = "; it may still be running and billed" if unknown_end else ""
    for line in told(error):
        screen.error(line + billed)
    if goes_on:
        screen.note(
            f"resume with: {ledger.resume_command(str(error.generation_id))}", ""
        )
    return exit_for(error)


def tell_unfinished(screen: Screen, ledger: Ledger) -> None:
    """Tell what goes on at the server after an interruption."""
    if unfinished := ledger.unfinished:
        screen.note("interrupted; at the server it goes on, and is billed:", "yellow")
        for generation_id, status in unfinished.items():
            screen.note(f"{generation_id} ({status})", "bold")
        screen.note(f"resume with: {ledger.resume_command(*unfinished)}", "")
    if ledger.create_under_way is not None:
        screen.note(
            "interrupted before a create was answered: it may be running and billed; "
            "the vendor's request log lists it under client request id "
            f"{ledger.create_under_way}",
            "yellow",
        )
        found = shlex.join(["kling-async", "reconcile", ledger.create_under_way])
        screen.note(f"find it with: {found}", "")


def _leave_next_time(screen: Screen, ledger: Ledger) -> None:
    """Let a second Ctrl-C end the process: the client waits for a create's answer."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        tell_unfinished(screen, ledger)
        os._exit(Exit.INTERRUPTED)  # the event loop would wait on

    signal.signal(signal.SIGINT, leave)


@contextlib.contextmanager
def _terminated_like_interrupted() -> Generator[list[int]]:
    """Let SIGTERM do what Ctrl-C does; the list tells whether it came."""
    came: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        signal.raise_signal(signal.SIGINT)

    if threading.current_thread() is not threading.main_thread():
        yield came  # signals are the main thread's
        return
    # A script's jobs with `&` ignore SIGINT, and asyncio would leave it at that.
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)
    terminated = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield came
    finally:
        signal.signal(signal.SIGTERM, terminated)
        signal.signal(signal.SIGINT, interrupted)

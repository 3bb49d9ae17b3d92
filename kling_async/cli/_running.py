"""A command's work in an event loop: signals, the client, the file, the exit code.

Whatever ends it, the generations that go on at the server are named, with the
command that continues them.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import signal
import threading
from collections.abc import Awaitable, Callable, Collection, Generator, Iterable
from itertools import count
from pathlib import Path
from types import FrameType

import anyio
import typer
from anyio import to_thread
from attrs import define, field, frozen

from kling_async import (
    AsyncKling,
    CreatedEvent,
    Generation,
    Hooks,
    KlingError,
    NotFoundError,
    StatusEvent,
)
from kling_async._text import safe_line
from kling_async.cli._output import (
    Exit,
    Screen,
    as_json,
    command_line,
    cost_in_words,
    exit_for,
    format_error,
    resume_command,
    size_in_words,
    worst,
)
from kling_async.cli._progress import Progress


@define(eq=False)
class SeenGenerations:
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
        """What a client has to be given for the generations to be kept."""
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
    def completed_ids(self) -> list[str]:
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
    generations: SeenGenerations,
    check_media: bool = True,
) -> Exit:
    """Do a command's work with a client, and return the code to end with.

    Args:
        work: What to do.
        screen: Where errors and interruptions are told.
        generations: What is kept of the generations.
        check_media: As for `AsyncKling`.
    """

    async def with_client() -> Exit:
        async with AsyncKling(
            hooks=generations.hooks, check_media=check_media
        ) as kling:
            try:
                return await work(kling)
            except anyio.get_cancelled_exc_class():
                _leave_next_time(screen, generations)
                if generations.create_under_way is not None:
                    screen.note(
                        "waiting for the answer to a create that is under way; "
                        "Ctrl-C again leaves at once"
                    )
                raise

    return until_interrupted(with_client, screen=screen, generations=generations)


def until_interrupted(
    work: Callable[[], Awaitable[Exit]], *, screen: Screen, generations: SeenGenerations
) -> Exit:
    """Do some work in an event loop until it ends, fails, or a signal ends it."""
    gc.freeze()  # what was loaded stays, and need not be looked through again
    with _interrupt_on_sigterm() as terminated:
        try:
            return anyio.run(work)
        except KeyboardInterrupt:
            tell_unfinished(screen, generations)
            return Exit.TERMINATED if terminated else Exit.INTERRUPTED
        except KlingError as error:
            return report(error, screen=screen, generations=generations)


def report(error: KlingError, *, screen: Screen, generations: SeenGenerations) -> Exit:
    """Tell an error and the way back to its generation; return its exit code."""
    goes_on = generations.goes_on_after(error)
    unknown_end = goes_on and not error.is_settled
    billed = "; it may still be running and billed" if unknown_end else ""
    for line in format_error(error):
        screen.error(line + billed)
    if goes_on:
        screen.note(
            f"resume with: {generations.resume_command(str(error.generation_id))}", ""
        )
    return exit_for(error)


def tell_unfinished(screen: Screen, generations: SeenGenerations) -> None:
    """Tell what goes on at the server after an interruption."""
    if unfinished := generations.unfinished:
        screen.note("interrupted; it goes on at the server, and is billed:", "yellow")
        for generation_id, status in unfinished.items():
            screen.note(f"{generation_id} ({status})", "bold")
        screen.note(f"resume with: {generations.resume_command(*unfinished)}", "")
    if generations.create_under_way is not None:
        screen.note(
            "interrupted before a create was answered: it may be running and billed; "
            "the vendor's request log lists it under client request id "
            f"{generations.create_under_way}",
            "yellow",
        )
        found = command_line(["kling-async", "reconcile", generations.create_under_way])
        screen.note(f"find it with: {found}", "")


def _leave_next_time(screen: Screen, generations: SeenGenerations) -> None:
    """Let a second Ctrl-C end the process: the client waits for a create's answer."""

    def leave(_number: int, _frame: FrameType | None) -> None:
        tell_unfinished(screen, generations)
        os._exit(Exit.INTERRUPTED)  # the event loop would wait on

    signal.signal(signal.SIGINT, leave)


# SIGBREAK is how Windows ends a console's programs.
_TERMINATIONS = [
    signal.Signals[it]
    for it in ("SIGTERM", "SIGBREAK")
    if it in signal.Signals.__members__
]


@contextlib.contextmanager
def _interrupt_on_sigterm() -> Generator[list[int]]:
    """Let SIGTERM do what Ctrl-C does; the list tells whether it came."""
    came: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        signal.raise_signal(signal.SIGINT)

    if threading.current_thread() is not threading.main_thread():
        yield came  # signals are the main thread's
        return
    # A script's jobs with `&` ignore SIGINT, and asyncio would leave it at that.
    former = {signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler)}
    for number in _TERMINATIONS:
        former[number] = signal.signal(number, interrupt)
    try:
        yield came
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


_ID_CHARACTERS = 8


@frozen
class Target:
    """Where a video is to go.

    Attributes:
        file: The file that the user named; None for a name after the id.
        folder: Where such a name goes.
        overwrite: Whether a file that is there already may be replaced.
        any_format: Whether a video that is no MP4 is taken, too.
    """

    file: Path | None = None
    folder: Path = Path()
    overwrite: bool = False
    any_format: bool = False

    def check(self) -> None:
        """Refuse what could not be written, as long as that costs nothing.

        Raises:
            typer.BadParameter: It could not; the message says what to do.
        """
        option, folder = "--output-dir", self.folder
        if self.file is not None:
            option, folder = "--output", self.file.parent
            self._check_file(self.file)
        if not folder.is_dir():
            message = f"there is no directory {folder}; make it first"
        elif not os.access(folder, os.W_OK):
            message = f"the directory {folder} cannot be written to"
        else:
            return
        raise typer.BadParameter(message, param_hint=option)

    def _check_file(self, file: Path) -> None:
        if file.is_dir():
            example = file / "video.mp4"
            message = f"{file} is a directory; name a file, such as {example}"
        elif file.exists() and not self.overwrite:
            message = f"{file} exists; --overwrite replaces it"
        else:
            return
        raise typer.BadParameter(message, param_hint="--output")

    def path_for(self, generation: Generation, taken: Collection[Path] = ()) -> Path:
        """Return the file for the video of a generation, none of those taken."""
        if self.file is not None:
            return self.file
        # The id is the server's: only what is harmless in a file name is taken.
        letters = re.sub(r"[^A-Za-z0-9]", "", generation.id)[:_ID_CHARACTERS]
        stem = f"kling-{letters or 'video'}"
        names = (f"{stem}-{n}.mp4" if n > 1 else f"{stem}.mp4" for n in count(1))
        paths = (self.folder / name for name in names)
        free = (it for it in paths if it not in taken)
        return next(it for it in free if self.overwrite or not it.exists())

    @property
    def options(self) -> tuple[str, ...]:
        """The options that name it again."""
        named = ("--output", str(self.file)) if self.file is not None else ()
        inside = ("--output-dir", str(self.folder)) if self.folder != Path() else ()
        flags = ("--overwrite",) * self.overwrite + ("--any-format",) * self.any_format
        return named + inside + flags


@define(eq=False, kw_only=True)
class VideoFetcher:
    """The videos of one command on their way.

    Attributes:
        screen: Where results are printed.
        is_json: Whether they are printed as JSON.
        target: Where videos are written; None to print their addresses only.
        timeout: How long to wait for each, in seconds.
    """

    screen: Screen
    is_json: bool
    target: Target | None
    timeout: float | None
    progress: Progress = field(init=False)
    generations: SeenGenerations = field(init=False)
    _files: dict[str, Path] = field(factory=dict[str, Path], init=False)
    _errors: list[KlingError] = field(factory=list[KlingError], init=False)

    def __attrs_post_init__(self) -> None:
        self.progress = Progress(self.screen.err)
        options = ("--no-download",) if self.target is None else self.target.options
        self.generations = SeenGenerations(self.progress.show, resume_options=options)

    async def fetch(self, kling: AsyncKling, *these: Generation | str) -> Exit:
        """Wait for generations, write their videos, and tell what went wrong."""
        async with anyio.create_task_group() as tasks:
            for it in these:
                tasks.start_soon(self._fetch_one, kling, it)
        self.progress.stop()
        codes = [
            report(error, screen=self.screen, generations=self.generations)
            for error in self._errors
        ]
        return worst(codes)

    def print_results(self) -> None:
        """Print what is known of each generation, whatever has become of it."""
        for generation_id, generation in self.generations.last.items():
            file = self._files.get(generation_id)
            if self.is_json and generation is not None:
                told = {"file": None if file is None else str(file)}
                self.screen.json(as_json(generation) | told)
            elif not self.is_json and generation is not None:
                self._print(generation, file)

    async def _fetch_one(self, kling: AsyncKling, this: Generation | str) -> None:
        try:
            done = await kling.wait(this, timeout=self.timeout)
            if self.target is not None:
                await self._write(kling, done, self.target)
            self.generations.done.add(done.id)
        except KlingError as error:
            self._errors.append(error)

    async def _write(self, kling: AsyncKling, done: Generation, to: Target) -> None:
        path = await to_thread.run_sync(to.path_for, done, self._files.values())
        self._files[done.id] = path
        self.progress.say(done, "downloading")
        try:
            await kling.download(done, path, check_mp4=not to.any_format)
        except BaseException:
            del self._files[done.id]
            raise
        self.progress.say(done, "downloaded")

    def _print(self, generation: Generation, file: Path | None) -> None:
        if file is not None:
            about = [size_in_words(file.stat().st_size)]
            if generation.credits_used is not None:
                about.append(cost_in_words(generation.credits_used))
            self.screen.note(", ".join(about))
            self.screen.result(str(file))
        elif self.target is None and generation.video is not None:
            self.screen.result(safe_line(generation.video.url))

"""Generations waited for, and their videos written: from an id to a file.

Any number at once; one that fails stops no other.
"""

from __future__ import annotations

from pathlib import Path

import anyio
from anyio import to_thread
from attrs import define, field

from kling_async import AsyncKling, Generation, KlingError
from kling_async.cli._exits import Exit, worst
from kling_async.cli._progress import Progress
from kling_async.cli._running import Ledger, report
from kling_async.cli._screen import Screen
from kling_async.cli._target import Target
from kling_async.cli._words import as_json, cost_in_words, one_line, size_in_words


@define(eq=False, kw_only=True)
class Delivery:
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
    ledger: Ledger = field(init=False)
    _files: dict[str, Path] = field(factory=dict[str, Path], init=False)
    _errors: list[KlingError] = field(factory=list[KlingError], init=False)

    def __attrs_post_init__(self) -> None:
        self.progress = Progress(self.screen.err)
        options = ("--no-download",) if self.target is None else self.target.options
        self.ledger = Ledger(self.progress.show, resume_options=options)

    async def bring(self, kling: AsyncKling, *these: Generation | str) -> Exit:
        """Wait for generations, write their videos, and tell what went wrong."""
        async with anyio.create_task_group() as tasks:
            for it in these:
                tasks.start_soon(self._bring, kling, it)
        self.progress.stop()
        codes = [
            report(error, screen=self.screen, ledger=self.ledger)
            for error in self._errors
        ]
        return worst(codes)

    def print_results(self) -> None:
        """Print what is known of each generation, whatever has become of it."""
        for generation_id, generation in self.ledger.last.items():
            file = self._files.get(generation_id)
            if self.is_json and generation is not None:
                told = {"file": None if file is None else str(file)}
                self.screen.json(as_json(generation) | told)
            elif not self.is_json and generation is not None:
                self._print(generation, file)

    async def _bring(self, kling: AsyncKling, this: Generation | str) -> None:
        try:
            done = await kling.wait(this, timeout=self.timeout)
            if self.target is not None:
                await self._write(kling, done, self.target)
            self.ledger.done.add(done.id)
        except KlingError as error:
            self._errors.append(error)

    async def _write(self, kling: AsyncKling, done: Generation, to: Target) -> None:
        path = await to_thread.run_sync(to.path_for, done, self._files.values())
        self._files[done.id] = path
        self.progress.say(done, "downloading")
        try:
            await kling.download(done, path)
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
            self.screen.result(one_line(generation.video.url))

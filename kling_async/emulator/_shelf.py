"""Videos as files: each scene is rendered once, when it is first asked for.

Where the work is done is decided here: in a thread beside a server, a frame at
a time on the event loop where a test may turn the clock.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TypeVar

import anyio
from anyio import from_thread, lowlevel, to_thread
from attrs import define, field

from kling_async.emulator._film import film_to
from kling_async.emulator._scene import Scene

T = TypeVar("T")


@define(eq=False)
class Shelf:
    """The finished videos of one emulator, in a folder of its own.

    Attributes:
        size: The videos' longer side, in pixels.
        in_threads: Whether work is done in worker threads.
        rendered: How many videos were rendered.
    """

    size: int
    in_threads: bool = False
    rendered: int = field(default=0, init=False)
    _files: dict[str, Path] = field(factory=dict[str, Path], init=False)
    _turns: dict[str, anyio.Lock] = field(factory=dict[str, anyio.Lock], init=False)
    _remove_folder: Callable[[], object] | None = field(default=None, init=False)
    _folder: Path | None = field(default=None, init=False)

    async def video_of(self, scene: Scene) -> Path:
        """Return a scene's video; who asks meanwhile waits for the same one."""
        key = scene.key
        async with self._turns.setdefault(key, anyio.Lock()):
            if key not in self._files:
                part = self._make_folder() / f"{key}.part"
                await self.finish(film_to(part, scene, self.size))
                path = part.rename(part.with_suffix(".mp4"))
                self._files[key] = path
                self.rendered += 1
        return self._files[key]

    async def finish(self, work: Generator[None, None, T]) -> T:
        """Do some work to its end, and give up between two steps if cancelled."""
        if self.in_threads:
            return await to_thread.run_sync(_finish_in_thread, work)
        # A thread's work takes no time on a virtual clock, which would run on
        # to the next timeout meanwhile. A busy event loop holds it.
        with contextlib.closing(work):
            while True:
                try:
                    next(work)
                except StopIteration as end:
                    result: T = end.value
                    return result
                await lowlevel.checkpoint()

    def clear(self) -> None:
        """Remove all files. What is asked for afterwards is rendered again."""
        self._files.clear()
        self._folder = None
        if self._remove_folder is not None:
            self._remove_folder()

    def _make_folder(self) -> Path:
        if self._folder is None:
            self._folder = Path(tempfile.mkdtemp(prefix="kling-emulator-"))
            # Also for an app that is used without a server, and just dropped.
            self._remove_folder = weakref.finalize(
                self, shutil.rmtree, self._folder, ignore_errors=True
            )
        return self._folder


def _finish_in_thread(work: Generator[None, None, T]) -> T:
    # Closed here, since a task that is cancelled for good leaves its thread behind.
    with contextlib.closing(work):
        while True:
            try:
                next(work)
            except StopIteration as end:
                result: T = end.value
                return result
            from_thread.check_cancelled()

"""Where a batch's files go: into a folder of this machine, or of a bucket.

Decides names, links and what is there; what is written is others' business.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Protocol

import anyio
from anyio import to_thread
from attrs import evolve, frozen

from kling_async import DownloadError
from kling_async._files.storage import BucketObject, StorageError, is_url
from kling_async._runtime.disk import write_atomically
from kling_async.cli._manifest import RowPlan
from kling_async.durable import JobState, JobStatus, NewJob

# The longest that stores sign a link for, in seconds.
LINK_LIFE = 7 * 24 * 60 * 60.0

_TYPES = {".html": "text/html; charset=utf-8", ".jsonl": "application/jsonl"}


@frozen(kw_only=True)
class VideoFile:
    """A video that is there.

    Attributes:
        name: How programs name it: from the batch's folder, if it is inside.
        path: Where it is on this machine.
        link: A signed link to it, where it is in a bucket.
    """

    name: str
    path: Path | None = None
    link: str | None = None


class Place(Protocol):
    """Where the files of a batch go."""

    async def prepare(self) -> None:
        """Make sure that files can be put there, before anything is paid for.

        Raises:
            DownloadError: They cannot.
            OSError: Likewise.
        """
        ...

    def job_of(self, row: RowPlan) -> NewJob:
        """Give what is submitted for a row."""
        ...

    async def videos(self, statuses: Iterable[JobStatus]) -> Mapping[str, VideoFile]:
        """Give the videos of jobs that are there, by key."""
        ...

    async def write(self, name: str, text: str) -> str:
        """Write a file of the batch's own, and tell where it is.

        Raises:
            OSError: It cannot be written.
            StorageError: Likewise.
        """
        ...


async def has_video(status: JobStatus) -> bool:
    """Whether the video of a job is where it belongs.

    Raises:
        StorageError: The store does not tell.
    """
    output = status.output
    if isinstance(output, str):
        return await BucketObject(output).exists()
    return output is None or await anyio.Path(output).exists()


def place_at(given: str | None, folder: Path) -> Place:
    """Give the place that is meant by a path or a URL; by default a folder."""
    if given is not None and is_url(given):
        return BucketPlace(given.rstrip("/"))
    return LocalPlace(folder)


@frozen
class LocalPlace:
    """A folder of this machine."""

    folder: Path

    async def prepare(self) -> None:
        """Make it."""
        await anyio.Path(self.folder).mkdir(parents=True, exist_ok=True)

    def job_of(self, row: RowPlan) -> NewJob:
        """Name the video from the folder, which can be moved."""
        return row.job

    async def videos(self, statuses: Iterable[JobStatus]) -> Mapping[str, VideoFile]:
        """Look for the files."""
        return await to_thread.run_sync(self._videos, list(statuses))

    def _videos(self, statuses: Iterable[JobStatus]) -> Mapping[str, VideoFile]:
        return {
            it.key: VideoFile(name=self._name(it.output), path=it.output)
            for it in statuses
            if isinstance(it.output, Path) and _is_file(it.output)
        }

    def _name(self, file: Path) -> str:
        home = self.folder.absolute()
        inside = file.is_relative_to(home)
        return (file.relative_to(home) if inside else file).as_posix()

    async def write(self, name: str, text: str) -> str:
        """Write it whole, beside one that is in use."""
        return str(await to_thread.run_sync(_write, self.folder / name, text))


@frozen
class BucketPlace:
    """A folder of a bucket."""

    url: str

    async def prepare(self) -> None:
        """Put something there, and take it away."""
        there = BucketObject(f"{self.url}/.kling-check")
        try:
            await there.upload(b"", "text/plain")
        except StorageError as error:
            raise DownloadError(f"cannot write below {self.url}: {error}") from error
        await there.delete()

    def job_of(self, row: RowPlan) -> NewJob:
        """Name the object, so that any worker can write it."""
        return evolve(row.job, output=f"{self.url}/{row.output.as_posix()}")

    async def videos(self, statuses: Iterable[JobStatus]) -> Mapping[str, VideoFile]:
        """Sign a link to each that its worker has written."""
        found = dict[str, VideoFile]()
        for it in statuses:
            if it.state is JobState.DONE and isinstance(it.output, str):
                link = await BucketObject(it.output).sign_url(LINK_LIFE)
                name = it.output.removeprefix(f"{self.url}/")
                found[it.key] = VideoFile(name=name, link=link)
        return found

    async def write(self, name: str, text: str) -> str:
        """Replace the object, as a whole."""
        there = BucketObject(f"{self.url}/{name}")
        await there.upload(text.encode(), _TYPES[Path(name).suffix])
        return there.url


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # a name that no file can have
        return False


def _write(path: Path, text: str) -> Path:
    try:
        return write_atomically(path, text)
    except PermissionError:  # on Windows: open in another program
        return write_atomically(path.with_stem(f"{path.stem}-new"), text)

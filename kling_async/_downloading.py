"""The part of `AsyncKling` that brings videos.

Checks what it is given and passes on; `_download` fetches and writes.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

from kling_async._addresses import Reach
from kling_async._download import Download, Limits, path_from
from kling_async._errors import DownloadError, KlingError
from kling_async._fields import shown
from kling_async._generation import Generation, Video
from kling_async._settings import Settings, require_timeout
from kling_async._transport import Transport


class Downloading(ABC):
    """What brings finished videos to files."""

    _settings: Settings

    @abstractmethod
    def _transport(self) -> Transport:
        """Give the way to the client's connections."""

    async def download(
        self,
        generation_or_video: Generation | Video,
        path: str | os.PathLike[str],
        *,
        max_bytes: int = 2**30,
        timeout: float | None = None,
        check_mp4: bool = True,
    ) -> Path:
        """Write a finished video to a file, whole or not at all.

        A dropped connection is resumed where it broke. The key is not sent
        along. A file that is there already is replaced at the end, and so is a
        symbolic link: what it leads to stays as it is.

        Args:
            generation_or_video: What to fetch.
            path: The file to write; its directory has to be there. The server
                has no say in it.
            max_bytes: The most bytes to take; by default 1 GiB.
            timeout: How long to take in all, in seconds; ``math.inf`` for as long
                as it takes. By default the client's ``wait_timeout``.
            check_mp4: Whether it has to be an MP4 that a player can open.

        Returns:
            The path written.

        Raises:
            DownloadError: There is no video, its link has expired or leads to an
                address that is not public, the server failed for good, what it
                sent is no MP4 or passes a limit, or the file cannot be written.
        """
        limits = self._limits(max_bytes, timeout, check_mp4)
        if isinstance(generation_or_video, Video):
            return await self._download(generation_or_video.url, path, limits)
        generation = _generation_from(generation_or_video)
        try:
            return await self._download(_url_of(generation), path, limits)
        except KlingError as error:
            error.concerning(generation.id, generation)
            raise

    def _limits(
        self,
        max_bytes: int,
        timeout: float | None,
        check_mp4: bool,  # noqa: FBT001 (private)
    ) -> Limits:
        settings = self._settings
        if timeout is not None:
            require_timeout("timeout", timeout)
        return Limits(
            silence=settings.timeout,
            seconds=timeout or settings.wait_timeout,
            size=max_bytes,
            is_mp4=check_mp4,
            reach=Reach(settings.base_url, settings.allow_private_downloads),
        )

    async def _download(
        self, url: str, path: str | os.PathLike[str], limits: Limits
    ) -> Path:
        transport = self._transport()
        settings = transport.settings
        download = Download(
            url=url,
            target=path_from(path),
            limits=limits,
            retry=settings.retry,
            reporter=settings.reporter,
        )
        session = transport.connections.here()
        job = session.scope.start(lambda: download.run(session))
        try:
            return await job.result()
        finally:
            download.is_abandoned = True


def _generation_from(given: object) -> Generation:
    if isinstance(given, Generation):
        return given
    raise DownloadError(
        f"cannot download {shown(given)}: give a Generation or a Video, such as "
        "`await kling.get(generation_id)`",
    )


def _url_of(generation: Generation) -> str:
    if generation.video is not None:
        return generation.video.url
    if generation.failed:
        reason = generation.error or "the server gave no reason"
        raise DownloadError(f"there is no video, since it failed: {reason}")
    raise DownloadError("there is no video to download yet: wait for it first")

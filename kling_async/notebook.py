"""Show the progress of a generation in one output of a notebook cell.

Needs IPython, which every notebook has.
"""

from __future__ import annotations

import base64
import os
from collections.abc import AsyncIterable
from pathlib import Path
from urllib.parse import quote

import anyio

from kling_async import AsyncKling, Generation, GenerationFailedError
from kling_async._generation import show_player

__all__ = ["follow"]

# Bytes. Editors complain about notebooks that hold much larger videos.
_LARGEST = 8 * 1024 * 1024


async def follow(
    watching: AsyncIterable[Generation],
    *,
    kling: AsyncKling | None = None,
    copy_to: str | os.PathLike[str] | None = None,
) -> Generation:
    """Show each change of status in one output, and the video at the end.

    ``generation = await follow(kling.watch(created))``

    The notebook stores a link, which expires. With ``copy_to`` it shows a copy:
    ``await follow(kling.watch(created), kling=kling, copy_to="boat.mp4")``. A copy of
    up to 8 MiB is stored in the notebook, too.

    Args:
        watching: The iterator that `AsyncKling.watch` returns.
        kling: The client that downloads the copy.
        copy_to: The file for it.

    Returns:
        The completed generation.

    Raises:
        GenerationFailedError: It ended without a video.
        KlingError: Whatever the watch, or the download, raises.
    """
    from IPython.display import display

    if (kling is None) != (copy_to is None):
        raise ValueError("give both of kling and copy_to, or neither")
    last: Generation | None = None
    output = None
    async for last in watching:
        if output is None:
            output = display(last, display_id=True)  # type: ignore[no-untyped-call]
        else:
            output.update(last)
    if last is None:
        raise ValueError("nothing was watched; give what kling.watch(...) returns")
    if not last.succeeded:
        raise GenerationFailedError(last)
    if output is not None and kling is not None and copy_to is not None:
        path = Path(await kling.download(last, Path(copy_to)))
        output.update(await _show_copy(last, path), raw=True)
    return last


async def _show_copy(generation: Generation, path: Path) -> dict[str, str]:
    url, file = quote(path.as_posix()), anyio.Path(path)
    if (await file.stat()).st_size <= _LARGEST:
        content = base64.b64encode(await file.read_bytes()).decode()
        url = f"data:video/mp4;base64,{content}"
    note = f"kept in {path}"
    player = show_player(generation, url, note)
    return {"text/plain": f"{generation!r}, {note}", "text/html": player}

"""A program as users write them, to be run where every warning is an error.

Creates, follows, fetches, and leaves in the middle of each, on both event loops and
over both libraries. Leaves closing to the end of the loop once, too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Literal

import anyio

from kling_async import AsyncKling, Fixed, ImageToVideo

REQUEST = ImageToVideo(image_url="https://example.com/mona.jpg", prompt="She smiles.")


async def use(kling: AsyncKling, folder: Path) -> None:
    """Do all of it once as it should be, and once cut short."""
    created = await kling.create(REQUEST)
    last = created
    async for update in kling.watch(created):
        last = update
    await kling.download(last, folder / "video.mp4")
    for work in (
        kling.create(REQUEST),
        kling.wait(created.id),
        kling.generate(REQUEST),
        kling.download(last, folder / "cut.mp4"),
    ):
        with anyio.move_on_after(0.003):
            await work
    async with aclosing(kling.generate_many([REQUEST] * 3)) as outcomes:
        async for _ in outcomes:
            break
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(kling.balance)
        await anyio.sleep(0.001)
        tasks.cancel_scope.cancel()


async def main(
    base_url: str, folder: str, transport: Literal["httpx", "aiohttp"]
) -> None:
    """Close it once by hand, and leave it once to the loop's end."""
    with contextlib.suppress(RuntimeError):  # on trio
        asyncio.get_running_loop().slow_callback_duration = 60  # the machine's matter
    for closes in (True, False):
        kling = AsyncKling(
            "any-key", base_url=base_url, polling=Fixed(0.001), transport=transport
        )
        await use(kling, Path(folder))
        if closes:
            await kling.aclose()


if __name__ == "__main__":
    logging.getLogger("kling_async").setLevel(logging.CRITICAL)
    url, directory = sys.argv[1:]
    anyio.run(main, url, directory, "httpx")
    anyio.run(main, url, directory, "aiohttp")
    anyio.run(main, url, directory, "httpx", backend="trio")

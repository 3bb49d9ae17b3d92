"""The seam to the event loop: a block that has an end."""

from __future__ import annotations

import anyio
from jumping_clock import on_each_loop

from kling_async._runtime.loop import loop_here


@on_each_loop
async def test_a_block_that_is_cut_twice_ends_once() -> None:
    """Its time is up while the client closes; the task itself goes on."""
    start = anyio.current_time()
    with loop_here().bound(start + 60) as bound:
        bound.cut()
        bound.cut()
        await anyio.sleep(3600)
    assert bound.is_cut
    await anyio.sleep(1)
    assert anyio.current_time() == start + 1

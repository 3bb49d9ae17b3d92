"""A generation that is followed in one output of a notebook's cell.

Shows, and decides nothing. Needs IPython, which every notebook has.
"""

from __future__ import annotations

from collections.abc import AsyncIterable

from kling_async import Generation, GenerationFailedError

__all__ = ["follow"]


async def follow(watching: AsyncIterable[Generation]) -> Generation:
    """Show each change in one output that is updated, the video at the end.

    ``generation = await follow(kling.watch(created))``

    Args:
        watching: What `AsyncKling.watch` gives.

    Returns:
        The completed generation.

    Raises:
        GenerationFailedError: It ended without a video.
        KlingError: Whatever the watch raises.
    """
    from IPython.display import display  # noqa: PLC0415 (only there in notebooks)

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
    return last

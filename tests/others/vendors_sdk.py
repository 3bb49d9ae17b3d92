"""Use the vendor's own SDK as its README does; run where that is installed."""

from __future__ import annotations

import asyncio
import json
import sys

import aimlapi  # type: ignore[import-not-found] # in an environment of its own

MODEL = "klingai/v2-master-text-to-video"
URL = sys.argv[1]


async def generate() -> dict[str, object]:
    """Do it with the async client."""
    client = aimlapi.AsyncAIMLAPI(api_key="any-key", base_url=f"{URL}/v1")
    told: dict[str, object] = await client.videos.generate_with_polling(
        model=MODEL, prompt="A paper boat.", duration=5, seed=7, poll_interval=0.1
    )
    return told


def refused() -> str:
    """Name a model that there is not."""
    client = aimlapi.AIMLAPI(api_key="any-key", base_url=f"{URL}/v1")
    try:
        client.videos.generate_with_polling(model="no/model", prompt="A boat.")
    except aimlapi.BadRequestError as error:
        return str(error)
    return ""


sync = aimlapi.AIMLAPI(api_key="any-key", base_url=f"{URL}/v1")
film = sync.videos.generate_with_polling(
    model=MODEL, prompt="A paper boat.", poll_interval=0.1, return_bytes=True
)
told = {
    "bytes": len(film),
    "box": film[4:8].decode(),
    "async": asyncio.run(generate()),
    "refused": refused(),
    "models": [it.id for it in sync.models.list()],
}
sys.stdout.write(json.dumps(told))

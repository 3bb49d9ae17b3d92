"""Recorders of HTTP traffic: what docs/security.md advises keeps the key out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
import respx
import vcr  # type: ignore[import-untyped]  # it tells no types
from clients import KEY

from kling_async import AsyncKling
from kling_async.emulator import Emulator

MODEL = "klingai/v2-master-text-to-video"


async def record(cassette: Path, *left_out: str) -> str:
    """Record a create and a poll, leaving some headers out, and give the cassette."""
    async with Emulator(speed=1e6, size=64) as emulator:
        with vcr.use_cassette(str(cassette), filter_headers=list(left_out)):
            async with AsyncKling(KEY, base_url=emulator.base_url) as kling:
                created = await kling.create(model=MODEL, prompt="A boat")
                await kling.get(created.id)
    text = await anyio.Path(cassette).read_text("utf-8")
    assert created.id in text
    return text


async def test_a_cassette_without_the_header_holds_no_key(tmp_path: Path) -> None:
    """The advice of docs/security.md, with a real recorder on a real socket."""
    assert KEY not in await record(tmp_path / "kept.yaml", "authorization")


async def test_the_key_is_nowhere_but_in_that_header(tmp_path: Path) -> None:
    """Else the advice would not do: where nothing is left out, it is there alone."""
    text = await record(tmp_path / "all.yaml")
    told = [line.strip() for line in text.splitlines() if KEY in line]
    assert told == [f"- Bearer {KEY}"] * len(told)
    assert told


@pytest.mark.parametrize("show", [repr, str])
async def test_the_record_of_respx_shows_no_key(
    show: Callable[[object], str], respx_mock: respx.MockRouter
) -> None:
    """Its calls hold the request, whose headers httpx hides when they are shown."""
    respx_mock.get().respond(json={"id": "a", "status": "queued"})
    async with AsyncKling(KEY, base_url="https://kling.test") as kling:
        await kling.get("a")
    assert respx_mock.calls[0].request.headers["authorization"] == f"Bearer {KEY}"
    assert KEY not in show(respx_mock.calls)
    assert KEY not in show(respx_mock.calls[0].request.headers)

"""The emulator's limits: requests a minute, generations at once, links that expire."""

from __future__ import annotations

import random

import anyio
import httpx
import pytest

from kling_async.emulator import Emulator, _traffic

PATH = "/v2/video/generations"
MASTER = {
    "model": "klingai/v2-master-image-to-video",
    "image_url": "https://example.com/mona.jpg",
}
AT_ONCE = 1e9


def client_of(emulator: Emulator, key: str = "some-key") -> httpx.AsyncClient:
    """Give a client whose requests go to the app without a socket."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=emulator.app),
        base_url="https://kling.test",
        headers={"Authorization": f"Bearer {key}"},
    )


@pytest.mark.looptime
async def test_a_key_may_make_so_many_requests_a_minute() -> None:
    """The next is a 429 that says when to come again; by then it is let in."""
    async with client_of(Emulator(rate_limit=3)) as client:
        for _ in range(2):
            assert (await client.get("/v2/billing")).status_code == 200
        await anyio.sleep(20)
        assert (await client.post(PATH, json=MASTER)).status_code == 200
        refused = await client.get("/v2/billing")
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "40")
        assert refused.json()["message"].startswith("Too many requests")
        await anyio.sleep(39)
        assert (await client.get("/v2/billing")).status_code == 429
        await anyio.sleep(1)
        answers = [(await client.get("/v2/billing")).status_code for _ in range(3)]
    assert answers == [200, 200, 429]


async def test_each_key_has_a_limit_of_its_own() -> None:
    """What one uses up is not another's; catalogue and files count for nobody."""
    emulator = Emulator(rate_limit=1)
    for key in ("one", "two"):
        async with client_of(emulator, key) as client:
            for _ in range(3):
                assert (await client.get("/v1/models")).status_code == 200
            assert (await client.get("/v2/billing")).status_code == 200
            assert (await client.get("/v2/billing")).status_code == 429


async def test_a_polls_limit_is_that_of_all_requests() -> None:
    """A poll is refused like anything else, on both paths."""
    async with client_of(Emulator(rate_limit=2)) as client:
        created = (await client.post(PATH, json=MASTER)).json()
        query = {"generation_id": created["id"]}
        assert (await client.get(PATH, params=query)).status_code == 200
        assert (await client.get(PATH, params=query)).status_code == 429


@pytest.mark.looptime
async def test_so_many_generations_may_be_unfinished() -> None:
    """A further create is a 429 until one has ended; it is not accepted or logged."""
    emulator = Emulator(max_running=2, speed=1, size=64)
    async with client_of(emulator) as client:
        for _ in range(2):
            assert (await client.post(PATH, json=MASTER)).status_code == 200
        refused = await client.post(PATH, json=MASTER)
        assert refused.status_code == 429
        assert len(emulator.creates) == 2
        wait = int(refused.headers["retry-after"])
        assert 180 < wait < 600
        await anyio.sleep(wait)
        assert (await client.post(PATH, json=MASTER)).status_code == 200
        rows = (await client.get("/v2/logs?period=1h")).json()["data"]
    assert len(rows) == 3


@pytest.mark.looptime
async def test_a_link_expires() -> None:
    """The file is refused as by a content network; the generation is still known."""
    emulator = Emulator(speed=60, expire_after=3600, size=64)
    async with client_of(emulator) as client:
        created = (await client.post(PATH, json=MASTER)).json()
        query = {"generation_id": created["id"]}
        await anyio.sleep(60)
        url = (await client.get(PATH, params=query)).json()["video"]["url"]
        assert (await client.get(url)).status_code == 200
        await anyio.sleep(3600)
        gone = await client.get(url)
        again = (await client.get(PATH, params=query)).json()
    assert (gone.status_code, gone.headers["content-type"]) == (
        403,
        "text/xml; charset=utf-8",
    )
    assert "AccessDenied" in gone.text
    assert (again["status"], again["video"]["url"]) == ("completed", url)


def test_a_long_life_keeps_the_last_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that runs for days does not fill the memory with its records."""
    monkeypatch.setattr(_traffic, "_KEPT_RECORDS", 3)
    traffic = _traffic.Traffic(random.Random(0))
    for number in range(20):
        record = _traffic.RequestRecord(method="GET", path=f"/{number}", status=200)
        traffic.keep(record)
        assert len(traffic.records) < 6
    assert [it.path for it in traffic.records][-3:] == ["/17", "/18", "/19"]

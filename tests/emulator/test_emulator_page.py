"""The emulator's page: its files, and the stream of events that feeds it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from contextlib import aclosing

import anyio
import httpx
import pytest

from kling_async.emulator import Emulator
from kling_async.emulator._generations import truncate

AT_ONCE = 1e9
PATH = "/v2/video/generations"
TEXT = {
    "model": "klingai/video-v3-pro-text-to-video",
    "prompt": "<script>alert(1)</script>",
    "duration": 3,
}

Event = dict[str, dict[str, object]]


def client_of(emulator: Emulator) -> httpx.AsyncClient:
    """Give a client of a running emulator."""
    headers = {"Authorization": "Bearer some-key", "X-Client-Request-Id": "mine-1"}
    return httpx.AsyncClient(
        base_url=emulator.base_url, headers=headers, trust_env=False, timeout=300
    )


async def events(client: httpx.AsyncClient) -> AsyncGenerator[Event, None]:
    """Read the stream as a browser does, without a key."""
    async with client.stream(
        "GET", "/_emulator/events", headers={"Authorization": ""}
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        async for line in answer.aiter_lines():
            if line.startswith("data: "):
                event: Event = json.loads(line.removeprefix("data: "))
                yield event


@pytest.mark.parametrize(
    "path, kind",
    [
        ("/", "text/html"),
        ("/_emulator/page.css", "text/css"),
        ("/_emulator/page.js", "text/javascript"),
    ],
)
async def test_the_page_and_its_files_are_served_to_anyone(
    path: str, kind: str
) -> None:
    """Without a key, with a policy that lets nothing foreign in."""
    transport = httpx.ASGITransport(app=Emulator().app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith(kind)
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


async def test_the_page_names_only_files_that_are_there() -> None:
    """No script, style or address of another host is in it, and none inline."""
    transport = httpx.ASGITransport(app=Emulator().app)
    async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
        page = (await client.get("/")).text
        script = (await client.get("/_emulator/page.js")).text
    assert "http:" not in page + script
    assert "https:" not in page + script
    assert "innerHTML" not in script
    assert '<link rel="stylesheet" href="/_emulator/page.css">' in page
    assert '<script src="/_emulator/page.js" defer></script>' in page
    assert page.count("<script") == 1
    assert "<style" not in page


async def test_the_first_event_tells_all_that_is_there() -> None:
    """Status, request, times, cost and the file of the video, by id."""
    async with Emulator(speed=AT_ONCE, size=64) as emulator, client_of(emulator) as it:
        created = (await it.post(PATH, json=TEXT)).json()["id"]
        async with aclosing(events(it)) as stream:
            first = await anext(stream)
        told = first[created]
        video = await it.get(str(told["video"]))
    assert first[""]["count"] == 1
    assert told["status"] == "completed"
    assert told["request"] == TEXT
    assert told["client_request_id"] == "mine-1"
    assert told["usd"] == emulator.charges[0].usd
    assert video.headers["content-type"] == "video/mp4"


async def test_later_events_tell_what_has_changed() -> None:
    """A new generation comes alone, not with all that was told before."""
    async with Emulator(speed=AT_ONCE, size=64) as emulator, client_of(emulator) as it:
        first = (await it.post(PATH, json=TEXT)).json()["id"]
        async with aclosing(events(it)) as stream:
            assert first in await anext(stream)
            second = (await it.post(PATH, json=TEXT)).json()["id"]
            news = await anext(stream)
    assert set(news) == {"", second}
    assert news[""]["count"] == 2


async def test_a_failed_generation_tells_why() -> None:
    """Its error is there, no video, and no cost."""
    emulator = Emulator(speed=AT_ONCE, failure_rate=1)
    async with emulator, client_of(emulator) as it:
        created = (await it.post(PATH, json=TEXT)).json()["id"]
        async with aclosing(events(it)) as stream:
            told = (await anext(stream))[created]
    assert (told["status"], told["video"], told["usd"]) == ("error", None, 0)
    assert told["error"]


async def test_an_open_page_does_not_hold_the_emulator() -> None:
    """It stops although a browser listens."""
    with anyio.fail_after(300):
        async with Emulator() as emulator, client_of(emulator) as it:
            stream = events(it)
            await anext(stream)
    with pytest.raises(httpx.HTTPError):
        await anext(stream)


def test_a_request_is_told_without_its_megabytes() -> None:
    """A data URI is told by its beginning and its length, however deep it lies."""
    uri = "data:image/png;base64," + "A" * 5000
    told = truncate({"image_list": [uri, "https://x.org/1"], "duration": 5})
    assert told == {
        "image_list": [f"{uri[:60]}… (5,022 characters)", "https://x.org/1"],
        "duration": 5,
    }

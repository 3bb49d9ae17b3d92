"""Answers that are odd: pages of gateways, videos in other shapes, long headers.

What is paid is taken where it is plain, and told at once where it is not.
"""

from __future__ import annotations

import gzip
import json
import logging
import zlib
from collections.abc import Mapping, Sequence

import httpx
import pytest
from clients import ID, client, create, over
from raw_server import QUEUED, RawServer, answer, answering
from told_by_time import VIDEO, Api, done

from kling_async import (
    APIStatusError,
    AsyncKling,
    GenerationFailedError,
    Hooks,
    KlingError,
    WaitTimeoutError,
)
from kling_async._http.session import Library
from kling_async._requests.classes import build_request

URL = "https://cdn.example.com/v.mp4"

PAGES: Mapping[str, httpx.Response] = {
    f"{status} {name}": httpx.Response(status, text=text)
    for status in (401, 403, 404)
    for name, text in {
        "page": "<html><title>Just a moment...</title></html>",
        "text": "forbidden by the load balancer",
        "nothing": "",
        "JSON": '{"error": "access_denied", "code": 1020}',
        "a list": "[]",
    }.items()
}


@pytest.mark.looptime
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
async def test_a_page_of_a_gateway_is_an_outage_to_a_wait(
    page: httpx.Response, caplog: pytest.LogCaptureFixture
) -> None:
    """It is outlived, for minutes too, and told in the log."""
    api = Api({0: "generating", 25: page, 200: done()})
    async with api.client() as kling:
        assert (await kling.wait(ID)).succeeded
    told = [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING]
    assert any(str(page.status_code) in it for it in told)


@pytest.mark.looptime
@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
async def test_a_page_that_lasts_is_told_when_the_time_is_up(
    page: httpx.Response,
) -> None:
    """The error says what came, and has it as its cause."""
    api = Api({0: "generating", 25: page})
    async with api.client() as kling:
        with pytest.raises(WaitTimeoutError) as caught:
            await kling.wait(ID, timeout=120)
    cause = caught.value.__cause__
    assert isinstance(cause, APIStatusError)
    assert cause.status_code == page.status_code
    assert cause.reason in str(caught.value)
    assert str(page.status_code) in caught.value.reason


@pytest.mark.looptime
@pytest.mark.parametrize("body", [{"message": "no"}, {"error": {"message": "no"}}])
@pytest.mark.parametrize("status", [401, 403])
async def test_the_vendors_own_refusal_ends_a_wait_at_once(
    status: int, body: Mapping[str, object]
) -> None:
    """In the vendor's own JSON it is the vendor's word."""
    api = Api({0: "generating", 25: httpx.Response(status, json=body)})
    async with api.client() as kling:
        with pytest.raises(APIStatusError):
            await kling.wait(ID)
    assert api.now < 60


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
async def test_a_create_that_gets_such_a_page_is_refused(page: httpx.Response) -> None:
    """One POST, and never a second."""
    posts = list[httpx.Request]()

    def refuse(request: httpx.Request) -> httpx.Response:
        posts.append(request)
        return httpx.Response(page.status_code, content=page.content)

    async with over(refuse) as mine:
        with pytest.raises(APIStatusError):
            await create(client(http_client=mine))
    assert len(posts) == 1


@pytest.mark.parametrize(
    "body",
    [
        {"video": [{"url": URL}]},
        {"video": {"url": [URL]}},
        {"video": URL},
        {"video": [URL, "https://cdn.example.com/second.mp4"]},
        {"videos": [{"url": URL}]},
        {"video": None, "videos": [URL]},
        {"video_url": URL},
        {"output": {"video_url": URL}},
        {"output": [URL]},
    ],
    ids=json.dumps,
)
async def test_a_finished_video_is_taken_in_every_plain_shape(
    body: Mapping[str, object],
) -> None:
    """Others in the trade put it there."""
    told = {"id": ID, "status": "completed", **body}
    async with over(lambda _: httpx.Response(200, json=told)) as mine:
        generation = await client(http_client=mine).wait(ID)
    assert generation.video is not None
    assert generation.video.url == URL


@pytest.mark.parametrize(
    "body",
    [
        {"video": {"href": URL}},
        {"video": [7.5]},
        {"videos": {"first": URL}},
        {"clip": {"url": URL}},
        {"video": {"url": {"https": URL}}},
    ],
    ids=json.dumps,
)
async def test_a_finished_video_that_cannot_be_read_is_told_at_once(
    body: Mapping[str, object],
) -> None:
    """With the id and the answer, instead of polling on in silence."""
    told, polls = {"id": ID, "status": "completed", **body}, list[httpx.Request]()

    def complete(request: httpx.Request) -> httpx.Response:
        polls.append(request)
        return httpx.Response(200, json=told)

    async with over(complete) as mine:
        with pytest.raises(GenerationFailedError) as caught:
            await client(http_client=mine).wait(ID)
    assert len(polls) == 1
    assert caught.value.generation_id == ID
    assert URL in str(caught.value) or "7.5" in str(caught.value)
    assert caught.value.generation is not None
    assert caught.value.generation.raw == told


@pytest.mark.looptime
async def test_a_video_that_is_not_there_yet_is_waited_for_and_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Completed a moment before its video is: a warning, not silence."""
    api = Api({0: "completed", 25: {"status": "completed", "video": VIDEO}})
    async with api.client() as kling:
        assert (await kling.wait(ID)).succeeded
    assert any("no video yet" in it.getMessage() for it in caplog.records)


def fail(_: object) -> None:
    """Be a hook with a bug."""
    raise ZeroDivisionError


@pytest.mark.parametrize("duration", [10**400, 10**18])
async def test_nothing_of_our_own_loses_a_paid_answer(duration: int) -> None:
    """Neither hooks that fail, nor notes of what was asked for."""
    hooks = Hooks(on_request=fail, on_created=fail, on_status=fail)
    async with over(lambda _: httpx.Response(200, json=QUEUED)) as mine:
        kling = client(http_client=mine, hooks=hooks)
        params: dict[str, object] = {
            "model": "a-model-of-tomorrow",
            "prompt": "A boat.",
        }
        request = build_request({**params, "duration": duration})
        generation = await kling.create(request)
    assert generation.id == QUEUED["id"]


ODD: Sequence[bytes] = (
    b'{"id": "g-1", "status": 5}',
    b'{"id": "g-1", "status": ["queued"]}',
    b'{"id": "g-1", "status": "queued", "video": {"url": "u", "file_size": 1e400}}',
    b'{"id": "g-1", "status": "queued", "meta": {"usage": {"credits_used": "1e999"}}}',
    b'{"id": "g-1", "status": "\\ud83d", "error": {"name": []}}',
    b'{"id": "g-1", "meta": 7, "video": [[[]]], "error": 0}',
    b'\xef\xbb\xbf{"id": "g-1", "status": "queued"}',
)


@pytest.mark.parametrize("body", ODD)
async def test_odd_but_valid_json_loses_no_id(body: bytes) -> None:
    """Whatever else is in it."""
    async with over(lambda _: httpx.Response(200, content=body)) as mine:
        try:
            generation_id = (await create(client(http_client=mine))).id
        except KlingError as error:
            generation_id = str(error)
    assert "g-1" in generation_id


PACKED: Mapping[str, tuple[str, bytes]] = {
    "gzip": ("gzip", gzip.compress(json.dumps(QUEUED).encode())),
    "members": (
        "gzip",
        b"".join(gzip.compress(bytes([it])) for it in json.dumps(QUEUED).encode()),
    ),
    "padded": ("gzip", gzip.compress(json.dumps(QUEUED).encode()) + bytes(64)),
    "deflate": ("deflate", zlib.compress(json.dumps(QUEUED).encode())),
    "raw deflate": (
        "deflate",
        zlib.compress(json.dumps(QUEUED).encode(), wbits=-zlib.MAX_WBITS),
    ),
}


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
async def test_a_packed_answer_is_read(
    packed: tuple[str, bytes], transport: Library
) -> None:
    """In several members too, and deflate with and without its header."""
    encoding, body = packed
    script = answering(answer(body, content_encoding=encoding))
    async with (
        RawServer(script) as server,
        AsyncKling("any-key", base_url=server.base_url, transport=transport) as kling,
    ):
        assert (await kling.get("g-1")).status == "queued"


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
@pytest.mark.parametrize("count, size", [(1, 12_000), (1, 100_000), (200, 400)])
async def test_long_headers_lose_no_create(
    transport: Library, count: int, size: int
) -> None:
    """One of 100 kB, or two hundred cookies."""
    headers = {f"x-{n}": "h" * size for n in range(count)}
    async with (
        RawServer(answering(answer(**headers))) as server,
        AsyncKling("any-key", base_url=server.base_url, transport=transport) as kling,
    ):
        assert (await create(kling)).id == QUEUED["id"]
        assert len(server.requests) == 1

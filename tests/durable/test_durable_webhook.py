"""News of jobs that end: signed, at least once, whatever the receiver does."""

from __future__ import annotations

import datetime as dt
import json
import signal
from pathlib import Path

import anyio
import httpx
import pytest
from durable_worker import worker
from raw_server import (
    Peer,
    RawRequest,
    RawServer,
    Script,
    answer,
    answering,
    stay_silent,
)
from standardwebhooks.webhooks import Webhook as Receiver
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from kling_async import AsyncKling, ConfigurationError, Fixed, JobError, TextToVideo
from kling_async.durable import DurableKling, Webhook
from kling_async.emulator import Emulator
from kling_async.web import verified_event

KEY = "a-key-that-nobody-may-read"
SECRET = "whsec_" + "c2VjcmV0" * 4
OK = answer(b"", "204 No Content")


def prompt() -> TextToVideo:
    """Ask for the cheapest thing there is."""
    return TextToVideo(prompt="A sea.", model="kling-video/v1/standard/text-to-video")


async def first_delivery(
    server: RawServer, emulator: Emulator, database: Path, count: int = 1
) -> None:
    """Have a job done, and wait for so many messages."""
    webhook = Webhook(url=server.base_url, secret=SECRET, allow_private=True)
    async with (
        AsyncKling(KEY, base_url=emulator.base_url, polling=Fixed(0.1)) as kling,
        DurableKling(database, kling, webhook=webhook) as jobs,
    ):
        job = await jobs.submit(prompt(), key="sea")
        await job.result()
        with anyio.fail_after(60):
            while len(server.requests) < count:
                await anyio.sleep(0.05)
            while count == 1 and await jobs.undelivered():
                await anyio.sleep(0.05)


async def test_the_end_of_a_job_is_told_once_and_signed(tmp_path: Path) -> None:
    """By the specification's own library; the API key is nowhere in it."""
    async with (
        Emulator(speed=1000, size=64) as emulator,
        RawServer(answering(OK)) as server,
    ):
        await first_delivery(server, emulator, tmp_path / "jobs.db")
    (request,) = server.requests
    told = Receiver(SECRET).verify(request.body, dict(request.headers))
    assert told["type"] == "job.done"
    assert told["data"]["key"] == "sea"
    assert told["data"]["generation_id"] == next(iter(emulator.creates)).generation_id
    assert request.method == "POST"
    assert KEY not in str(request)
    assert SECRET not in str(request)


@pytest.mark.parametrize(
    "first",
    [
        answering(answer(b"", "500 No")),
        answering(answer(b"", "301 Moved", location="http://127.0.0.1:1/elsewhere")),
        answering(answer(bytes(10_000_000), "500 No")),
    ],
    ids=["500", "301", "10 MB"],
)
async def test_what_was_not_taken_is_sent_again(tmp_path: Path, first: Script) -> None:
    """Under the same id; a redirect is not followed, a long answer is not read."""
    count = 0

    async def script(request: RawRequest, peer: Peer) -> None:
        nonlocal count
        count += 1
        await (first if count == 1 else answering(OK))(request, peer)

    async with (
        Emulator(speed=1000, size=64) as emulator,
        RawServer(script) as server,
    ):
        await first_delivery(server, emulator, tmp_path / "jobs.db", 2)
    assert len({it.headers["webhook-id"] for it in server.requests}) == 1
    for request in server.requests:
        Receiver(SECRET).verify(request.body, dict(request.headers))


async def test_what_is_not_delivered_is_listed_and_survives_its_worker(
    tmp_path: Path,
) -> None:
    """The worker is killed while the receiver is silent; the next one delivers."""
    database = f"sqlite:///{tmp_path / 'jobs.db'}"
    async with Emulator(speed=1000, size=64) as emulator:
        async with RawServer(stay_silent) as silent:
            url = silent.base_url
            port = int(url.rpartition(":")[2])
            async with (
                DurableKling(database) as jobs,
                worker(database, emulator, webhook=url) as process,
            ):
                await (await jobs.submit(prompt(), key="sea")).result()
                with anyio.fail_after(60):
                    while not silent.requests:
                        await anyio.sleep(0.05)
                process.send_signal(signal.SIGKILL)
                await process.wait()
                (due,) = await jobs.undelivered()
                assert due.key == "sea"
                assert not due.is_given_up
        async with RawServer(answering(OK), port) as server:
            async with (
                DurableKling(database) as jobs,
                worker(database, emulator, webhook=url),
            ):
                with anyio.fail_after(60):
                    while await jobs.undelivered():
                        await anyio.sleep(0.05)
                await jobs.redeliver("sea")
                with anyio.fail_after(60):
                    while len(server.requests) < 2:
                        await anyio.sleep(0.05)
                with pytest.raises(JobError, match="no message of a job 'land'"):
                    await jobs.redeliver("land")
    told = [json.loads(it.body)["type"] for it in server.requests]
    assert told == ["job.done", "job.done"]
    assert len(emulator.creates) == 1


@pytest.mark.parametrize(
    "url",
    ["", "ftp://h/x", "http://example.com/", "https://u:p@example.com/", "https:"],
)
def test_a_url_that_cannot_be_used_is_told_of(url: str) -> None:
    """When it is given; plain http is for private networks alone."""
    with pytest.raises(ConfigurationError, match="webhook: given"):
        Webhook(url=url, secret=SECRET)


@pytest.mark.parametrize("secret", ["", "whsec_", "whsec_%%%", "ü"])
def test_a_secret_that_is_none_is_told_of_and_not_shown(secret: str) -> None:
    """Nor is one that is."""
    with pytest.raises(ConfigurationError, match="secret is invalid"):
        Webhook(url="https://example.com/", secret=secret)
    assert SECRET not in repr(Webhook(url="https://example.com/", secret=SECRET))


async def test_a_private_address_is_refused(tmp_path: Path) -> None:
    """Whoever may set a URL does not thereby reach the network behind the worker."""
    async with (
        Emulator(speed=1000, size=64) as emulator,
        RawServer(answering(OK)) as server,
        AsyncKling(KEY, base_url=emulator.base_url, polling=Fixed(0.1)) as kling,
    ):
        port = server.base_url.rpartition(":")[2]
        webhook = Webhook(url=f"https://localhost:{port}/", secret=SECRET)
        async with DurableKling(tmp_path / "jobs.db", kling, webhook=webhook) as jobs:
            await (await jobs.submit(prompt(), key="sea")).result()
            (due,) = await jobs.undelivered()
            assert due.key == "sea"
    assert server.accepted == 0


async def test_an_app_takes_news_that_is_signed_and_no_other() -> None:
    """By `verified_event`: 401 for a stranger's, 413 for what is too large."""

    async def take(request: Request) -> JSONResponse:
        return JSONResponse(await verified_event(request, secret=SECRET))

    app = Starlette(routes=[Route("/", take, methods=["POST"])])
    body = json.dumps({"type": "job.done", "data": {"key": "sea"}})
    now = dt.datetime.now(dt.UTC)
    headers = {
        "webhook-id": "1",
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": Receiver(SECRET).sign("1", now, body),
    }
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as http:
        taken = await http.post("/", content=body, headers=headers)
        forged = await http.post("/", content=body + " ", headers=headers)
        bare = await http.post("/", content=body)
        large = await http.post("/", content=bytes(2_000_000), headers=headers)
    assert taken.json()["data"] == {"key": "sea"}
    codes = [it.status_code for it in (taken, forged, bare, large)]
    assert codes == [200, 401, 401, 413]

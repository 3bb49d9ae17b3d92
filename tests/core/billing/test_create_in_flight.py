"""A create on its way: on a socket, left by its caller, in a client that closes."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterator
from typing import TypeVar

import anyio
import httpx
import httpx_aiohttp
import pytest
import respx
from cancelling import Counted, Strike
from clients import (
    BASE_URL,
    ID,
    MODEL,
    PATH,
    QUEUED,
    client,
    create,
)
from local_media import image
from raw_server import (
    Peer,
    RawRequest,
    RawServer,
    Script,
    answer,
    hang_up,
    reset,
    stay_silent,
)
from socket_clock import without_waiting

from kling_async import (
    AsyncKling,
    AuthenticationError,
    ClientClosedError,
    ConnectionFailedError,
    CreatedEvent,
    Hooks,
    KlingError,
    RequestTimeoutError,
    RetryPolicy,
    SubmissionUncertainError,
    TransportError,
)
from kling_async.emulator import Emulator, Fault

T = TypeVar("T")


@pytest.fixture
def api() -> Iterator[respx.Route]:
    """Stand in for the endpoint that starts generations."""
    with respx.mock(base_url=BASE_URL, assert_all_called=False) as router:
        yield router.post(PATH)


# --- on a socket


def only_headers(*lines: str) -> Script:
    """Accept the create, send the answer's headers, and close."""

    async def script(_: RawRequest, peer: Peer) -> None:
        head = "".join(f"{line}\r\n" for line in lines)
        await peer.send(f"HTTP/1.1 200 OK\r\n{head}\r\n".encode())
        peer.hang_up()

    return script


async def half_an_answer(_: RawRequest, peer: Peer) -> None:
    """Promise more than is sent, and close."""
    await peer.send(answer(QUEUED)[:-10])
    peer.hang_up()


async def no_last_chunk(_: RawRequest, peer: Peer) -> None:
    """Send all of the answer, and close before saying that it is all."""
    body = json.dumps(QUEUED).encode()
    head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
    await peer.send(head + b"%x\r\n%s\r\n" % (len(body), body))
    peer.hang_up()


@pytest.mark.parametrize(
    "script, cause",
    [
        (reset, ConnectionFailedError),
        (hang_up, ConnectionFailedError),
        (half_an_answer, ConnectionFailedError),
        (only_headers("content-length: 80"), ConnectionFailedError),
        (stay_silent, RequestTimeoutError),
    ],
)
@without_waiting
async def test_an_accepted_create_is_sent_once_on_a_socket_too(
    script: Script, cause: type[KlingError]
) -> None:
    """The server has read the POST: reset, silence or half an answer come too late."""
    async with RawServer(script) as server:
        async with client(server.base_url, timeout=0.2) as kling:
            with pytest.raises(SubmissionUncertainError) as caught:
                await create(kling)
        assert [it.method for it in server.requests] == ["POST"]
        sent_with = server.requests[0].headers["x-client-request-id"]
    assert caught.value.client_request_id == sent_with
    assert isinstance(caught.value.__cause__, cause)


@pytest.mark.parametrize(
    "script",
    [only_headers("content-length: 80", f"x-inference-id: {ID}"), no_last_chunk],
)
async def test_an_id_that_arrived_is_kept_though_the_connection_broke(
    script: Script,
) -> None:
    """In the headers, or in a body that is whole but for the end of the transfer."""
    async with RawServer(script) as server, client(server.base_url) as kling:
        assert (await create(kling)).id == ID
        assert len(server.requests) == 1


async def test_a_connection_that_is_closed_unread_counts_as_sent() -> None:
    """What a server did before it closed nobody can tell."""

    async def connected(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.transport.abort()

    connections = list[asyncio.StreamWriter]()
    async with await asyncio.start_server(connected, "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        async with client(f"http://127.0.0.1:{port}") as kling:
            with pytest.raises(SubmissionUncertainError):
                await create(kling)
    assert len(connections) == 1


async def test_no_server_means_that_nothing_was_sent() -> None:
    """All attempts are used, and the error says so."""
    async with RawServer(hang_up) as server:
        base_url = server.base_url
    async with client(base_url) as kling:
        with pytest.raises(ConnectionFailedError) as caught:
            await create(kling)
    assert not caught.value.request_sent


@pytest.mark.parametrize("script", [reset, hang_up, stay_silent, half_an_answer])
@without_waiting
async def test_over_aiohttp_an_accepted_create_is_sent_once_too(script: Script) -> None:
    """httpx-aiohttp calls a lost connection a ConnectTimeout: it is not believed."""
    transport = httpx_aiohttp.AiohttpTransport()
    async with RawServer(script) as server:
        async with httpx.AsyncClient(transport=transport) as mine:
            kling = client(server.base_url, http_client=mine, timeout=0.2)
            with pytest.raises(SubmissionUncertainError):
                await create(kling)
            await kling.aclose()
        assert len(server.requests) == 1


async def test_over_aiohttp_a_refused_connection_is_tried_again() -> None:
    """There it is believed: nothing was sent."""
    async with RawServer(hang_up) as server:
        base_url = server.base_url
    transport = httpx_aiohttp.AiohttpTransport()
    async with httpx.AsyncClient(transport=transport) as mine:
        kling = client(base_url, http_client=mine)
        with pytest.raises(TransportError) as caught:
            await create(kling)
    assert not caught.value.request_sent


# --- a caller who leaves


async def test_a_caller_who_leaves_after_the_post_loses_no_id() -> None:
    """The caller is gone at once; the answer reaches ``on_created`` all the same."""
    posted, may_answer = asyncio.Event(), asyncio.Event()
    created = asyncio.Queue[CreatedEvent]()

    async def script(_: RawRequest, peer: Peer) -> None:
        posted.set()
        await may_answer.wait()
        await peer.send(answer(QUEUED, "201 Created"))

    hooks = Hooks(on_created=created.put_nowait)
    async with RawServer(script) as server, client(server.base_url, hooks=hooks) as k:
        caller = asyncio.create_task(create(k, "mine"))
        await posted.wait()
        caller.cancel()
        await asyncio.wait([caller], timeout=300)
        assert caller.cancelled()
        assert created.empty()
        may_answer.set()
        event = await asyncio.wait_for(created.get(), 300)
    assert event.generation.id == ID
    assert event.generation.client_request_id == "mine"
    assert event.model == MODEL


async def test_what_was_lost_after_its_caller_left_is_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nobody is there to catch an error: a warning holds the client request id."""
    posted, may_answer = asyncio.Event(), asyncio.Event()

    async def script(_: RawRequest, peer: Peer) -> None:
        posted.set()
        await may_answer.wait()
        peer.reset()

    caplog.set_level(logging.WARNING, "kling_async")
    async with RawServer(script) as server, client(server.base_url) as kling:
        caller = asyncio.create_task(create(kling, "mine"))
        await posted.wait()
        caller.cancel()
        await asyncio.wait([caller], timeout=300)
        may_answer.set()
    assert "may be running and billed" in caplog.text
    assert "client request id mine since 20" in caplog.text


async def cancelled_at(nth: int) -> tuple[int, int, list[str]]:
    """Create, cancelled at the n-th checkpoint.

    Gives how many checkpoints were passed, how many requests were sent, and the
    ids that became known.
    """
    sent, known = list[httpx.Request](), list[str]()

    async def accept(request: httpx.Request) -> httpx.Response:
        sent.append(request)
        for _ in range(5):
            await asyncio.sleep(0)
        return httpx.Response(200, json=QUEUED)

    hooks = Hooks(on_created=lambda event: known.append(event.generation.id))
    mine = httpx.AsyncClient(transport=httpx.MockTransport(accept))
    async with mine, client(http_client=mine, hooks=hooks) as kling:
        # Reading a picture comes before sending it, with a checkpoint of its own.
        creating = kling.create(model=MODEL, image_url=image(), prompt="A cat")
        strike = Strike(nth, lambda _: creator.cancel())

        async def call() -> None:
            await Counted(creating, strike.suspended)

        creator = asyncio.create_task(call())
        await asyncio.wait([creator], timeout=300)
    return strike.passed, len(sent), known


async def test_a_create_cancelled_anywhere_is_not_sent_or_not_lost() -> None:
    """At each of its checkpoints: what was sent has told its id by the close."""
    outcomes = list[int]()
    for nth in range(1, 100):
        passed, sent, known = await cancelled_at(nth)
        assert known == [ID] * sent, f"cancelled at checkpoint {nth}"
        outcomes.append(sent)
        if passed < nth:
            break  # it ended before it could be cancelled
    assert outcomes[0] == 0
    assert outcomes[-2:] == [1, 1]
    assert len(outcomes) > 3


# --- a client that is closed


async def test_closing_waits_for_the_answer_to_a_create() -> None:
    """The paid id comes home; caller and hook both have it."""
    posted, may_answer = asyncio.Event(), asyncio.Event()

    async def script(_: RawRequest, peer: Peer) -> None:
        posted.set()
        await may_answer.wait()
        await peer.send(answer(QUEUED))

    async with RawServer(script) as server:
        kling = client(server.base_url)
        caller = asyncio.create_task(create(kling))
        await posted.wait()
        closing = asyncio.create_task(kling.aclose())
        await asyncio.sleep(0)
        assert not closing.done()
        may_answer.set()
        assert (await caller).id == ID
        await closing
        await server.until_idle()


@pytest.mark.looptime
async def test_closing_waits_for_no_create_longer_than_its_time_out() -> None:
    """What then is cut off is told as uncertain, never as merely closed."""
    sent = asyncio.Event()

    async def never(_: httpx.Request) -> httpx.Response:
        sent.set()
        await anyio.sleep_forever()
        raise AssertionError

    async with httpx.AsyncClient(transport=httpx.MockTransport(never)) as mine:
        kling = client(http_client=mine, timeout=30)
        caller = asyncio.create_task(create(kling, "mine"))
        await sent.wait()
        started = anyio.current_time()
        await kling.aclose()
        assert anyio.current_time() - started == pytest.approx(30)
        with pytest.raises(SubmissionUncertainError) as caught:
            await caller
    assert caught.value.client_request_id == "mine"
    assert isinstance(caught.value.__cause__, ClientClosedError)


@pytest.mark.looptime
async def test_what_was_found_comes_home_though_its_status_does_not() -> None:
    """Its row is found, the client closes, the poll of it hangs: here is its id."""
    asked = asyncio.Event()

    async def hang_at_the_poll(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            row["client_request_id"] = request.headers["x-client-request-id"]
            return httpx.Response(502)
        if request.url.path == "/v2/logs":
            return httpx.Response(200, json={"data": [row]})
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    row: dict[str, object] = {"status": "succeeded", "inference_id": ID}
    transport = httpx.MockTransport(hang_at_the_poll)
    async with httpx.AsyncClient(transport=transport) as mine:
        kling = client(http_client=mine, timeout=5, retry=RetryPolicy())
        caller = asyncio.create_task(create(kling))
        await asked.wait()
        await kling.aclose()
        assert (await caller).id == ID


@pytest.mark.looptime
async def test_a_create_that_waits_its_turn_is_not_sent_by_a_closed_client(
    api: respx.Route,
) -> None:
    """Refused by 429 and waiting to try again: closed is closed, and not uncertain."""
    api.respond(429, headers={"retry-after": "50"})
    refused = asyncio.Event()
    kling = client(hooks=Hooks(on_retry=lambda _: refused.set()))
    caller = asyncio.create_task(create(kling))
    await refused.wait()
    await kling.aclose()
    with pytest.raises(ClientClosedError):
        await caller
    assert api.call_count == 1


# --- against the emulator


@pytest.mark.parametrize("endpoint", ["universal", "legacy"])
async def test_each_create_is_accepted_once(endpoint: str) -> None:
    """200 on the one path, 201 on the other: twenty at once are twenty bills."""
    async with Emulator(size=64) as emulator:
        async with AsyncKling("k", base_url=emulator.base_url) as kling:
            made = kling.with_options(endpoint=endpoint)  # type: ignore[arg-type]  # one of the two
            created = await asyncio.gather(*(create(made) for _ in range(20)))
        assert {it.id for it in created} == {
            it.generation_id for it in emulator.creates
        }
        assert len(emulator.creates) == 20


@pytest.mark.parametrize(
    "fault, expected, accepted",
    [
        (Fault("reset", accepted=True), SubmissionUncertainError, 1),
        (Fault("close", accepted=True), SubmissionUncertainError, 1),
        (Fault("status", status=503, accepted=True), SubmissionUncertainError, 1),
        (Fault("html", status=200, accepted=True), SubmissionUncertainError, 1),
        (Fault("reset"), SubmissionUncertainError, 0),
        (Fault("status", status=502), SubmissionUncertainError, 0),
        (Fault("status", status=401), AuthenticationError, 0),
        (Fault("truncate"), None, 1),
        (Fault("cut"), None, 1),
        (Fault("wrong_shape"), None, 1),
        (Fault("status", status=429, times=2), None, 1),
    ],
    ids=repr,
)
async def test_no_fault_of_the_server_bills_twice(
    fault: Fault, expected: type[KlingError] | None, accepted: int
) -> None:
    """One accepted create at most, and the caller has its id or its client id."""
    async with Emulator(size=64, faults=[fault]) as emulator:
        async with client(emulator.base_url) as kling:
            if expected is None:
                created = [(await create(kling)).id]
            else:
                created = []
                with pytest.raises(expected) as caught:
                    await create(kling, "mine")
                assert expected is AuthenticationError or (
                    caught.value.client_request_id == "mine"
                )
        assert len(emulator.creates) == accepted
        if created:
            assert created == [it.generation_id for it in emulator.creates]
        elif accepted:
            assert emulator.creates[0].client_request_id == "mine"

"""The emulator's faults: which requests they strike, and what a client sees then."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager

import anyio
import httpx
import pytest
from socket_clock import without_waiting

from kling_async.emulator import Emulator, Fault

PATH = "/v2/video/generations"
LEGACY = "/v2/generate/video/kling/generation"
MASTER = {
    "model": "klingai/v2-master-image-to-video",
    "image_url": "https://example.com/mona.jpg",
}
TEXT = {"model": "klingai/video-v3-pro-text-to-video", "prompt": "A cat"}
AT_ONCE = 1e9
HEADERS = {"Authorization": "Bearer some-key"}


def in_process(emulator: Emulator) -> httpx.AsyncClient:
    """Give a client whose requests go to the app without a socket."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=emulator.app),
        base_url="https://kling.test",
        headers=HEADERS,
    )


@asynccontextmanager
async def over_socket(
    emulator: Emulator, timeout: float = 20
) -> AsyncGenerator[httpx.AsyncClient]:
    """Give a client of an emulator that listens."""
    async with (
        emulator,
        httpx.AsyncClient(
            base_url=emulator.base_url,
            headers=HEADERS,
            trust_env=False,
            timeout=timeout,
        ) as client,
    ):
        yield client


async def statuses(
    emulator: Emulator, count: int, url: str = "/v2/billing"
) -> list[int]:
    """Ask several times, and give the status of each answer."""
    async with in_process(emulator) as client:
        return [(await client.get(url)).status_code for _ in range(count)]


DROPS = {
    "reset": (Fault("reset"), httpx.ReadError, 0),
    "reset once accepted": (Fault("reset", accepted=True), httpx.ReadError, 1),
    "close": (Fault("close"), httpx.RemoteProtocolError, 0),
    "close once accepted": (
        Fault("close", accepted=True),
        httpx.RemoteProtocolError,
        1,
    ),
    "cut": (Fault("cut"), httpx.RemoteProtocolError, 1),
}


@pytest.mark.parametrize("fault, error, creates", DROPS.values(), ids=DROPS)
@pytest.mark.parametrize("has_socket", [False, True])
async def test_a_dropped_connection(
    fault: Fault, error: type[Exception], creates: int, *, has_socket: bool
) -> None:
    """A client sees it as it is, in process too; the work is done or not, as told."""
    emulator = Emulator(faults=[fault])
    if has_socket:
        async with over_socket(emulator) as client:
            with pytest.raises(error):
                await client.post(PATH, json=MASTER)
    else:
        async with in_process(emulator) as client:
            with pytest.raises(error):
                await client.post(PATH, json=MASTER)
    assert len(emulator.creates) == creates
    (request,) = emulator.requests
    assert request.fault == fault.effect
    assert request.status == (200 if fault.effect == "cut" else 0)


async def test_only_the_struck_connection_is_dropped() -> None:
    """Others go on, and so does the client afterwards."""
    emulator = Emulator()
    async with over_socket(emulator) as client:
        emulator.faults.add(Fault("reset", times=1))
        with pytest.raises(httpx.ReadError):
            await client.get("/v2/billing")
        assert (await client.get("/v2/billing")).status_code == 200


async def test_a_drop_is_no_news_in_the_servers_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What was asked for is no error."""
    emulator = Emulator(faults=[Fault("reset", times=1), Fault("cut", times=1)])
    async with over_socket(emulator) as client:
        for _ in range(2):
            with pytest.raises(httpx.TransportError):
                await client.get("/v2/billing")
    assert caplog.records == []
    assert asyncio.all_tasks() == {asyncio.current_task()}


ANSWERS: Mapping[str, tuple[Fault, int, str, int]] = {
    "status": (Fault("status"), 503, "application/json", 0),
    "status once accepted": (
        Fault("status", status=504, accepted=True),
        504,
        "application/json",
        1,
    ),
    "own body": (
        Fault("status", status=400, body={"error": {"message": "no"}}),
        400,
        "application/json",
        0,
    ),
    "text": (Fault("status", status=500, body="oops"), 500, "text/plain", 0),
    "page": (Fault("html"), 502, "text/html", 0),
    "page of success": (
        Fault("html", status=200, accepted=True),
        200,
        "text/html",
        1,
    ),
    "truncated": (Fault("truncate"), 200, "application/json", 1),
    "wrong type": (Fault("wrong_type"), 200, "text/plain", 1),
    "wrong shape": (Fault("wrong_shape"), 200, "application/json", 1),
    "own shape": (Fault("wrong_shape", body=[]), 200, "application/json", 1),
    "late": (Fault("delay", seconds=0.01), 200, "application/json", 1),
    "stalled": (Fault("stall", seconds=0.01), 200, "application/json", 1),
}


@pytest.mark.parametrize("fault, status, kind, creates", ANSWERS.values(), ids=ANSWERS)
@pytest.mark.parametrize("has_socket", [False, True])
async def test_a_wrong_answer(
    fault: Fault, status: int, kind: str, creates: int, *, has_socket: bool
) -> None:
    """Status and type are as told, over a socket and in process alike."""
    emulator = Emulator(faults=[fault])
    if has_socket:
        async with over_socket(emulator) as client:
            answer = await client.post(PATH, json=MASTER)
    else:
        async with in_process(emulator) as client:
            answer = await client.post(PATH, json=MASTER)
    assert (answer.status_code, len(emulator.creates)) == (status, creates)
    assert answer.headers["content-type"].startswith(kind)
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert emulator.requests[0].status == status


async def answer_to(fault: Fault) -> httpx.Response:
    """Post a create that a fault strikes."""
    async with in_process(Emulator(faults=[fault])) as client:
        return await client.post(PATH, json=MASTER)


async def test_a_status_has_the_vendors_body_unless_told_otherwise() -> None:
    """Message, path, request id, status and time."""
    body = (await answer_to(Fault("status", status=500))).json()
    assert (body["statusCode"], body["path"]) == (500, PATH)
    assert body["message"] == "Internal Server Error"
    own = {"error": {"message": "no"}}
    assert (await answer_to(Fault("status", body=own))).json() == own


async def test_a_status_that_nobody_knows() -> None:
    """It is sent all the same."""
    answer = await answer_to(Fault("status", status=599))
    assert (answer.status_code, answer.json()["statusCode"]) == (599, 599)


async def test_headers_are_those_told() -> None:
    """They replace the answer's own, whatever the effect."""
    retry = {"Retry-After": "7"}
    answer = await answer_to(Fault("status", status=429, headers=retry))
    assert answer.headers["retry-after"] == "7"
    answer = await answer_to(Fault("delay", headers={"content-type": "x/y"}))
    assert answer.headers.get_list("content-type") == ["x/y"]


async def test_a_truncated_body_is_no_json() -> None:
    """Half of it is there, and the id's header besides."""
    answer = await answer_to(Fault("truncate"))
    with pytest.raises(ValueError, match=r"Unterminated|Expecting"):
        answer.json()
    assert answer.headers["x-inference-id"]


async def test_a_wrong_shape_is_json_all_the_same() -> None:
    """The true answer is somewhere in it."""
    answer = await answer_to(Fault("wrong_shape"))
    assert answer.json()["data"][0]["id"] == answer.headers["x-inference-id"]


async def test_a_wrong_id_is_that_of_another_generation() -> None:
    """The header tells the true one; what has no id stays as it is."""
    answer = await answer_to(Fault("wrong_id"))
    assert answer.json()["id"] != answer.headers["x-inference-id"]
    assert answer.json()["status"] == "queued"
    assert await statuses(Emulator(faults=[Fault("wrong_id")]), 1) == [200]


async def test_a_byte_that_is_none_is_in_the_text() -> None:
    """No reader of UTF-8 gets past it."""
    with pytest.raises(UnicodeDecodeError):
        (await answer_to(Fault("bad_utf8"))).content.decode()


async def test_what_is_called_packed_is_not() -> None:
    """Whoever unpacks it fails."""
    with pytest.raises(httpx.DecodingError):
        await answer_to(Fault("bad_gzip"))


async def test_a_deep_body_costs_a_reader_its_stack() -> None:
    """JSON it is all the same."""
    body = (await answer_to(Fault("deep"))).content
    with pytest.raises(RecursionError):
        json.loads(body)
    assert body.count(b"[") == body.count(b"]") == 100_000
    assert body.endswith(b"}")


@pytest.mark.parametrize("size", [1, 2**20 - 1, 2**20, 3 * 2**20 + 7])
async def test_a_bomb_is_small_until_it_is_unpacked(size: int) -> None:
    """Whoever has room for it finds the true answer behind the spaces."""
    answer = await answer_to(Fault("bomb", size=size))
    assert answer.headers["content-encoding"] == "gzip"
    assert int(answer.headers["content-length"]) < size / 500 + 1000
    assert answer.content.startswith(b" " * size + b"{")
    assert answer.json()["status"] == "queued"


async def test_a_huge_body_is_as_large_as_told() -> None:
    """Its length is not told before."""
    answer = await answer_to(Fault("huge", size=100_001))
    assert "content-length" not in answer.headers
    assert answer.content.startswith(b" " * 100_001 + b"{")
    assert answer.json()["status"] == "queued"


async def test_a_billion_bytes_are_sent_to_nobody_who_does_not_want_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Over a socket, as they are read; and no further once the client is gone."""
    emulator = Emulator(faults=[Fault("huge", path="billing")])
    async with over_socket(emulator) as client:
        async with client.stream("GET", "/v2/billing") as answer:
            async for piece in answer.aiter_raw():
                assert set(piece) == {ord(" ")}
                break
        assert (await client.delete("/_emulator/faults")).status_code == 204
        assert (await client.get("/v2/billing")).status_code == 200
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert [it for it in caplog.records if it.name == "asyncio"] == []


@pytest.mark.looptime
async def test_a_trickle_takes_its_time_for_each_byte() -> None:
    """None comes sooner than told, and all come."""
    before = anyio.current_time()
    answer = await answer_to(Fault("trickle", seconds=10))
    assert answer.json()["status"] == "queued"
    passed = anyio.current_time() - before
    assert passed == pytest.approx(10 * len(answer.content))


@pytest.mark.looptime
@pytest.mark.parametrize("effect", ["delay", "stall"])
async def test_a_late_answer_is_late(effect: str) -> None:
    """By so many seconds of the loop's clock; what comes then is whole."""
    before = anyio.current_time()
    fault = Fault.from_json({"effect": effect, "seconds": 100})
    assert (await answer_to(fault)).json()["status"] == "queued"
    assert anyio.current_time() - before == pytest.approx(100)


@pytest.mark.looptime
async def test_other_faults_can_be_late_too() -> None:
    """A gateway gives up after a while."""
    before = anyio.current_time()
    assert (await answer_to(Fault("html", status=504, seconds=60))).status_code == 504
    assert anyio.current_time() - before == pytest.approx(60)


@pytest.mark.parametrize("accepted, creates", [(True, 1), (False, 0)])
@without_waiting
async def test_a_read_timeout_before_or_after_the_work(
    *, accepted: bool, creates: int
) -> None:
    """The client gives up; whether the create was accepted is the rule's to say."""
    fault = Fault("delay", seconds=600, accepted=accepted)
    emulator = Emulator(faults=[fault])
    async with over_socket(emulator, timeout=0.5) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.post(PATH, json=MASTER)
    assert emulator.requests[0].status == 0
    assert len(emulator.creates) == creates


@without_waiting
async def test_nobody_waits_for_a_client_that_is_gone() -> None:
    """A request that was to be answered late is over as soon as nobody listens."""
    emulator = Emulator(faults=[Fault("delay", seconds=600)])
    async with over_socket(emulator, timeout=0.2) as client:
        with pytest.raises(httpx.ReadTimeout):
            await client.get("/v2/billing")
        with anyio.fail_after(300):
            while not emulator.requests:
                await anyio.lowlevel.checkpoint()
        assert emulator.requests[0].status == 0


async def test_a_stall_ends_with_the_server() -> None:
    """It holds nobody up who wants to stop."""
    emulator = Emulator(faults=[Fault("stall", seconds=600)])
    with anyio.fail_after(300):
        async with emulator:
            client = httpx.AsyncClient(trust_env=False, timeout=300, headers=HEADERS)
            url = f"{emulator.base_url}/v2/billing"
            async with client.stream("GET", url) as answer:
                assert answer.status_code == 200
    await client.aclose()
    assert asyncio.all_tasks() == {asyncio.current_task()}


SELECTIONS: Mapping[str, tuple[Fault, list[int]]] = {
    "every request": (Fault("status"), [1, 2, 3, 4, 5, 6]),
    "the third": (Fault("status", nth=3), [3]),
    "every second": (Fault("status", every=2), [2, 4, 6]),
    "twice": (Fault("status", times=2), [1, 2]),
    "every second, once": (Fault("status", every=2, times=1), [2]),
    "never": (Fault("status", probability=0), []),
    "another verb": (Fault("status", method="POST"), []),
    "this verb": (Fault("status", method="GET", nth=1), [1]),
    "this place": (Fault("status", path="billing"), [1, 2, 3, 4, 5, 6]),
    "another place": (Fault("status", path="generations"), []),
    "this path": (Fault("status", path="/v2/bill*"), [1, 2, 3, 4, 5, 6]),
    "another path": (Fault("status", path="/v2/bill"), []),
    "a model": (Fault("status", model=MASTER["model"]), []),
}


@pytest.mark.parametrize("fault, struck", SELECTIONS.values(), ids=SELECTIONS)
async def test_a_fault_strikes_what_it_is_about(
    fault: Fault, struck: list[int]
) -> None:
    """By verb, place, model and number; the rule counts what it did."""
    emulator = Emulator()
    rule = emulator.faults.add(fault)
    answers = await statuses(emulator, 6)
    assert [n for n, it in enumerate(answers, 1) if it == 503] == struck
    assert rule.struck == len(struck)


@pytest.mark.parametrize(
    "place, url",
    [
        ("generations", PATH),
        ("generations", LEGACY),
        ("files", "/files/one.mp4"),
        ("logs", "/v2/logs"),
        ("billing", "/v2/billing"),
        ("billing", "/v2/billing/transactions"),
        ("models", "/v1/models"),
        ("metrics", "/models/metrics"),
    ],
)
async def test_every_place_has_its_paths(place: str, url: str) -> None:
    """A short name stands for them."""
    emulator = Emulator(faults=[Fault("status", path=place)])
    assert await statuses(emulator, 1, url=url) == [503]


async def test_a_fault_can_be_about_one_model() -> None:
    """Creates of another go through, also when their body is no JSON."""
    emulator = Emulator(faults=[Fault("status", model=MASTER["model"])])
    async with in_process(emulator) as client:
        for json_body, status in ((MASTER, 503), (TEXT, 200)):
            assert (await client.post(PATH, json=json_body)).status_code == status
        assert (await client.post(PATH, content=b"{")).status_code == 400


async def test_chance_hangs_on_the_seed() -> None:
    """The same seed strikes the same requests, about as many as told."""
    runs: list[list[int]] = []
    for seed in (1, 1, 2):
        emulator = Emulator(seed=seed, faults=[Fault("status", probability=0.3)])
        runs.append(await statuses(emulator, 200))
    assert runs[0] == runs[1] != runs[2]
    assert 40 <= runs[0].count(503) <= 80


@pytest.mark.looptime
async def test_an_outage_ends() -> None:
    """A rule holds from and to a time after it was added, on the loop's clock."""
    emulator = Emulator()
    await anyio.sleep(1000)
    emulator.faults.add(Fault("status", starts_after=10, ends_after=3610))
    found: list[int] = []
    for pause in (0, 11, 3590, 20):
        await anyio.sleep(pause)
        found += await statuses(emulator, 1)
    assert found == [200, 503, 503, 200]


async def test_the_first_rule_strikes_and_all_count() -> None:
    """The order is that of adding; a rule sees what another has struck."""
    emulator = Emulator()
    first = emulator.faults.add(Fault("status", status=500, nth=2))
    second = emulator.faults.add(Fault("status", status=502, every=2))
    assert await statuses(emulator, 4) == [200, 500, 200, 502]
    assert [(it.seen, it.struck) for it in (first, second)] == [(4, 1), (4, 1)]


async def test_a_rule_can_be_taken_out() -> None:
    """By itself, by its id, or all of them."""
    emulator = Emulator()
    rules = [emulator.faults.add(Fault("status")) for _ in range(4)]
    emulator.faults.remove(rules[0])
    emulator.faults.remove(rules[1].id)
    assert list(emulator.faults) == rules[2:]
    with pytest.raises(KeyError):
        emulator.faults.remove(rules[0])
    emulator.faults.clear()
    assert len(emulator.faults) == 0
    assert await statuses(emulator, 1) == [200]


async def test_what_was_lost_is_found_in_the_account() -> None:
    """A create whose answer was lost is billed, and in the log with its id."""
    emulator = Emulator(speed=AT_ONCE, faults=[Fault("reset", accepted=True, times=1)])
    async with in_process(emulator) as client:
        headers = {"X-Client-Request-Id": "scene-1"}
        with pytest.raises(httpx.ReadError):
            await client.post(PATH, json=MASTER, headers=headers)
        (row,) = (await client.get("/v2/logs?period=1h")).json()["data"]
        polled = await client.get(PATH, params={"generation_id": row["inference_id"]})
    assert (row["client_request_id"], row["status"]) == ("scene-1", "succeeded")
    assert polled.json()["status"] == "completed"
    assert [it.client_request_id for it in emulator.charges] == ["scene-1"]


@pytest.mark.parametrize(
    "fault, rows",
    [
        (Fault("status", status=500), ["failed"]),
        (Fault("html"), ["failed"]),
        (Fault("status", status=500, accepted=True), ["succeeded"]),
        (Fault("status", status=429), []),
        (Fault("status", status=401), []),
        (Fault("reset"), []),
        (Fault("delay"), ["succeeded"]),
    ],
)
async def test_the_log_tells_what_the_server_knows(
    fault: Fault, rows: list[str]
) -> None:
    """A create that it has failed is there as failed; one that never came is not."""
    emulator = Emulator(faults=[fault])
    fault_is_over = {"period": "1h"}
    async with in_process(emulator) as client:
        try:
            await client.post(PATH, json=MASTER)
        except httpx.TransportError:
            assert rows == []
        emulator.faults.clear()
        answer = await client.get("/v2/logs", params=fault_is_over)
    assert [it["status"] for it in answer.json()["data"]] == rows

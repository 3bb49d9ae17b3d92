"""The emulator's answers: ids, bodies and headers on both paths, as the vendor's.

In process, through httpx: nothing listens, nothing is waited for.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import pairwise

import httpx
import pytest

from kling_async.emulator import Emulator, Fault

UNIVERSAL = "/v2/video/generations"
LEGACY = "/v2/generate/video/kling/generation"
PATHS = pytest.mark.parametrize("path", [UNIVERSAL, LEGACY])
MASTER = {
    "model": "klingai/v2-master-image-to-video",
    "image_url": "https://example.com/mona.jpg",
}
MASTER_PRICE = 2_800_000
V3 = {"model": "klingai/video-v3-pro-text-to-video", "prompt": "A cat", "duration": 3}
AT_ONCE = 1e9
UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"


def client_of(emulator: Emulator) -> httpx.AsyncClient:
    """Give a client whose requests go to the app without a socket."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=emulator.app),
        base_url="https://kling.test",
        headers={"Authorization": "Bearer some-key"},
    )


async def create(
    emulator: Emulator,
    body: Mapping[str, object] = MASTER,
    path: str = UNIVERSAL,
    headers: Mapping[str, str] | None = None,
) -> httpx.Response:
    """Post a create."""
    async with client_of(emulator) as client:
        return await client.post(path, json=dict(body), headers=headers)


async def poll(emulator: Emulator, generation_id: str) -> httpx.Response:
    """Ask for a generation."""
    async with client_of(emulator) as client:
        return await client.get(UNIVERSAL, params={"generation_id": generation_id})


@pytest.mark.parametrize("path, status", [(UNIVERSAL, 200), (LEGACY, 201)])
async def test_a_create_is_answered_with_an_id(path: str, status: int) -> None:
    """Both paths take it, each with its own status; nothing is there or billed yet."""
    answer = await create(Emulator(), path=path)
    body = answer.json()
    assert answer.status_code == status
    assert body == {"id": body["id"], "status": "queued"}
    assert answer.headers["x-inference-id"] == body["id"]
    assert answer.headers["x-aimlapi-credits-used"] == "0"
    assert answer.headers["x-aimlapi-usd-spent"] == "0.000000000"


@PATHS
async def test_a_generation_is_found_on_either_path(path: str) -> None:
    """Where it was created does not matter."""
    emulator = Emulator(speed=AT_ONCE, size=64)
    generation_id = (await create(emulator, path=LEGACY)).json()["id"]
    async with client_of(emulator) as client:
        answer = await client.get(path, params={"generation_id": generation_id})
    assert (answer.status_code, answer.json()["id"]) == (200, generation_id)
    assert answer.headers["x-inference-id"] == generation_id


async def test_a_completed_generation_tells_video_and_cost() -> None:
    """The body and the headers name the same price, in credits and in USD."""
    emulator = Emulator(speed=AT_ONCE, size=64)
    generation_id = (await create(emulator)).json()["id"]
    answer = await poll(emulator, generation_id)
    body = answer.json()
    name = generation_id.partition(":")[0]
    assert body == {
        "id": generation_id,
        "status": "completed",
        "video": {
            "url": f"https://kling.test/files/{name}.mp4",
            "content_type": "video/mp4",
            "file_name": "output.mp4",
            "file_size": body["video"]["file_size"],
        },
        "meta": {"usage": {"credits_used": MASTER_PRICE, "usd_spent": 1.4}},
    }
    assert answer.headers["x-aimlapi-credits-used"] == str(MASTER_PRICE)
    assert answer.headers["x-aimlapi-usd-spent"] == "1.400000000"


async def test_a_failed_generation_tells_why_and_costs_nothing() -> None:
    """It has the status `error`, a name and a message, and no video."""
    emulator = Emulator(speed=AT_ONCE, failure_rate=1)
    answer = await poll(emulator, (await create(emulator)).json()["id"])
    body = answer.json()
    assert answer.status_code == 200
    assert body["status"] == "error"
    assert "video" not in body
    assert body["error"]["name"]
    assert body["error"]["message"]
    assert body["meta"] == {"usage": {"credits_used": 0, "usd_spent": 0}}
    assert answer.headers["x-aimlapi-credits-used"] == "0"


@pytest.mark.parametrize(
    "model, pattern",
    [
        ("klingai/v2-master-image-to-video", "kling-video/v2/master/image-to-video"),
        (
            "klingai/v2.1-master-image-to-video",
            "kling-video/v2.1/master/image-to-video",
        ),
        (
            "klingai/v2.5-turbo/pro/image-to-video",
            "kling-video/v2.5-turbo/pro/image-to-video",
        ),
        (
            "kling-video/v1.5/pro/image-to-video",
            "kling-video/v1.5/pro/image-to-video",
        ),
        ("klingai/video-o1-image-to-video", None),
        ("klingai/video-v3-pro-image-to-video", None),
    ],
)
async def test_an_id_has_the_form_of_its_models_line(
    model: str, pattern: str | None
) -> None:
    """A UUID with the route for the older models, 21 characters for the newer."""
    body = {**MASTER, "model": model, "prompt": "A cat"}
    generation_id = (await create(Emulator(), body)).json()["id"]
    form = f"{UUID}:{re.escape(pattern)}" if pattern else r"[A-Za-z0-9_-]{21}"
    assert re.fullmatch(form, generation_id)


@pytest.mark.parametrize("body", [MASTER, V3])
async def test_the_same_seed_gives_the_same_ids(body: Mapping[str, object]) -> None:
    """The n-th create has the same id in each emulator of a seed, and no other has."""
    ids: dict[int, list[str]] = {}
    for number, seed in enumerate((1, 1, 2)):
        emulator = Emulator(seed=seed)
        for _ in range(5):
            await create(emulator, body)
        ids[number] = [it.generation_id for it in emulator.creates]
    assert ids[0] == ids[1]
    assert len(set(ids[0] + ids[2])) == 10


@pytest.mark.parametrize(
    "given, kept",
    [
        ("scene-12", True),
        ("A.b_c:d-9", True),
        ("x" * 128, True),
        ("x" * 129, False),
        ("scene 12", False),
        ("scene/12", False),
        ("", False),
    ],
)
async def test_a_client_request_id_is_echoed_or_silently_dropped(
    given: str, *, kept: bool
) -> None:
    """1 to 128 of the vendor's alphabet come back and are recorded; others are not."""
    emulator = Emulator()
    answer = await create(emulator, headers={"X-Client-Request-Id": given})
    assert answer.status_code == 200
    assert answer.headers.get("x-client-request-id") == (given if kept else None)
    assert emulator.creates[0].client_request_id == (given if kept else None)


async def test_a_longer_video_costs_more() -> None:
    """The price goes by the second of video, and by the model."""
    emulator = Emulator(speed=AT_ONCE, size=64)
    spent: list[int] = []
    for body in ({**V3, "duration": 3}, {**V3, "duration": 6}, MASTER):
        answer = await poll(emulator, (await create(emulator, body)).json()["id"])
        spent.append(answer.json()["meta"]["usage"]["credits_used"])
    assert spent[1] == 2 * spent[0]
    assert all(less < more for less, more in pairwise(spent))


async def test_every_request_is_recorded() -> None:
    """Verb, path, status, model, generation and client request id, in order."""
    emulator = Emulator()
    headers = {"X-Client-Request-Id": "scene-1"}
    generation_id = (await create(emulator, path=LEGACY, headers=headers)).json()["id"]
    await poll(emulator, generation_id)
    await create(emulator, {"model": MASTER["model"]})
    facts = [
        (it.method, it.path, it.status, it.model, it.generation_id)
        for it in emulator.requests
    ]
    assert facts == [
        ("POST", LEGACY, 201, MASTER["model"], generation_id),
        ("GET", UNIVERSAL, 200, None, generation_id),
        ("POST", UNIVERSAL, 400, MASTER["model"], None),
    ]
    assert [it.client_request_id for it in emulator.requests] == ["scene-1", None, None]
    assert [(it.model, it.generation_id) for it in emulator.creates] == [
        (MASTER["model"], generation_id)
    ]


PLAIN_POLLS = {
    "queued": ("{id}", "some-key"),
    "unknown": ("V1StGXR8Z5jdHi6BmyT8k", "some-key"),
    "twice": ("{id}&generation_id={id}", "some-key"),
    "wrong key": ("{id}", "wrong"),
    "no key": ("{id}", ""),
}


@pytest.mark.parametrize("query, key", PLAIN_POLLS.values(), ids=PLAIN_POLLS)
async def test_a_poll_is_answered_alike_on_its_quick_and_its_ordinary_way(
    query: str, key: str
) -> None:
    """A rule that strikes nothing makes every request go the ordinary way."""
    seen: list[object] = []
    never = Fault("status", probability=0)
    for faults in ((), (never,)):
        emulator = Emulator(faults=faults, api_keys={"some-key"})
        generation_id = (await create(emulator)).json()["id"]
        escaped = query.format(id=generation_id.replace(":", "%3A"))
        headers = {"Authorization": f"Bearer {key}", "X-Client-Request-Id": "poll-1"}
        async with client_of(emulator) as client:
            url = f"{UNIVERSAL}?generation_id={escaped}"
            answer = await client.get(url, headers=headers)
        told = answer.json()
        for chance in ("requestId", "timestamp"):
            told.pop(chance, None)
        lengths = {"date", *(["content-length"] if answer.is_error else [])}
        kept = [it for it in answer.headers.multi_items() if it[0] not in lengths]
        seen.append((answer.status_code, kept, told, emulator.requests))
    assert seen[0] == seen[1]

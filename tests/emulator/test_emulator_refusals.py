"""How the emulator refuses: each status with the vendor's body and its own words.

In process, through httpx: nothing listens, nothing is waited for.
"""

from __future__ import annotations

import datetime as dt
import logging
import re
import uuid
from collections.abc import Mapping

import av
import httpx
import pytest

from kling_async.emulator import Emulator

UNIVERSAL = "/v2/video/generations"
LEGACY = "/v2/generate/video/kling/generation"
PATHS = pytest.mark.parametrize("path", [UNIVERSAL, LEGACY])
MASTER = {
    "model": "klingai/v2-master-image-to-video",
    "image_url": "https://example.com/mona.jpg",
}
MASTER_PRICE = 2_800_000
AT_ONCE = 1e9


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
) -> httpx.Response:
    """Post a create."""
    async with client_of(emulator) as client:
        return await client.post(UNIVERSAL, json=dict(body))


async def poll(emulator: Emulator, generation_id: str) -> httpx.Response:
    """Ask for a generation."""
    async with client_of(emulator) as client:
        return await client.get(UNIVERSAL, params={"generation_id": generation_id})


BAD_REQUESTS = {
    "no JSON": ("POST", UNIVERSAL, {"content": b"{"}, 400, "Expected JSON"),
    "no UTF-8": ("POST", UNIVERSAL, {"content": b'"\xff"'}, 400, "Expected JSON"),
    "too deep": ("POST", LEGACY, {"content": b"[" * 100_000}, 400, "Expected JSON"),
    "no object": ("POST", LEGACY, {"json": [1]}, 400, "Expected a JSON object"),
    "no body": ("POST", LEGACY, {}, 400, "Expected JSON"),
    "no id": ("GET", UNIVERSAL, {}, 400, "generation_id: Expected"),
    "empty id": ("GET", f"{LEGACY}?generation_id=", {}, 400, "generation_id: Expected"),
    "unknown id": ("GET", f"{LEGACY}?generation_id=nope", {}, 404, "not found"),
    "wrong path": ("GET", "/v2/video/generation", {}, 404, "Cannot GET"),
    "slash at end": ("GET", f"{UNIVERSAL}/", {}, 404, "Cannot GET"),
    "wrong verb": ("PUT", UNIVERSAL, {}, 405, "Cannot PUT"),
    "wrong verb, legacy": ("DELETE", LEGACY, {}, 405, "Cannot DELETE"),
    "wrong file": ("GET", "/files/none.mp4", {}, 404, "Cannot GET"),
    "no key": ("GET", UNIVERSAL, {"headers": {"Authorization": ""}}, 401, "missing"),
}


@pytest.mark.parametrize(
    "method, path, content, status, message", BAD_REQUESTS.values(), ids=BAD_REQUESTS
)
async def test_every_refusal_has_the_vendors_body(
    method: str,
    path: str,
    content: dict[str, bytes],
    status: int,
    message: str,
) -> None:
    """Message, path, request id, status and time, whatever was wrong."""
    emulator = Emulator()
    async with client_of(emulator) as client:
        request = client.build_request(method, path, **content)  # type: ignore[arg-type]
        answer = await client.send(request)
    body = answer.json()
    assert answer.status_code == status
    assert set(body) == {"message", "path", "requestId", "statusCode", "timestamp"}
    assert re.search(message, body["message"])
    assert body["path"] == path.partition("?")[0]
    assert body["statusCode"] == status
    assert uuid.UUID(body["requestId"]).version == 4
    assert dt.datetime.fromisoformat(body["timestamp"]).tzinfo == dt.UTC
    assert (len(emulator.requests), len(emulator.creates)) == (1, 0)
    assert emulator.requests[0].status == status


@pytest.mark.parametrize("scheme, status", [("Bearer", 400), ("bearer", 400)])
@pytest.mark.parametrize("keys", [None, {"secret"}])
async def test_a_key_that_is_taken(
    scheme: str, status: int, keys: set[str] | None
) -> None:
    """Any key is taken, or those listed; the scheme's case does not matter."""
    async with client_of(Emulator(api_keys=keys)) as client:
        headers = {"Authorization": f"{scheme} secret"}
        answer = await client.get(UNIVERSAL, headers=headers)
    assert answer.status_code == status


@pytest.mark.parametrize(
    "authorization, keys",
    [
        ("Bearer other", {"secret"}),
        ("Bearer secret", set[str]()),
        ("Bearer ", None),
        ("Bearer", None),
        ("Basic secret", None),
        ("secret", None),
    ],
)
@PATHS
async def test_a_key_that_is_refused(
    path: str, authorization: str, keys: set[str] | None
) -> None:
    """An unknown, empty or otherwise written key is a 401, before anything else."""
    async with client_of(Emulator(api_keys=keys)) as client:
        headers = {"Authorization": authorization}
        answer = await client.post(path, json=MASTER, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["statusCode"] == 401
    assert answer.headers["www-authenticate"] == "Bearer"


async def test_all_that_is_wrong_with_a_body_is_told_at_once() -> None:
    """After the vendor's heading a line for each field: expected and received."""
    body = {"model": MASTER["model"], "duration": 7, "cfg_scale": 2, "colour": "red"}
    answer = await create(Emulator(strict=True), body)
    heading, *lines = answer.json()["message"].splitlines()
    assert (answer.status_code, heading) == (400, "Body validation error")
    assert {line.partition(":")[0] for line in lines} == {
        "image_url",
        "duration",
        "cfg_scale",
        "colour",
    }
    assert all(re.search(r": Expected .+\. Received .+", line) for line in lines)
    assert "x-inference-id" not in answer.headers


@pytest.mark.parametrize("model", ["klingai/v9", 3, None])
async def test_an_unknown_model_is_a_wrong_field(model: object) -> None:
    """The server knows its models, unlike a client of yesterday."""
    answer = await create(Emulator(), {**MASTER, "model": model})
    message = answer.json()["message"]
    assert answer.status_code == 400
    assert message.startswith("Body validation error\nmodel: Expected ")
    assert message.endswith(f"Received {model!r}")


@pytest.mark.parametrize(
    "body, where",
    [
        ({"image_url": "data:image/png;base64,aGVsbG8="}, "image_url"),
        ({"static_mask": "data:image/png;base64,aGVsbG8="}, "static_mask"),
        (
            {
                "model": "kling-video/v1.6/standard/multi-image-to-video",
                "image_list": ["https://x.org/1", "data:image/jpeg;base64,/9j/4AAQ"],
            },
            "image_list[1]",
        ),
    ],
    ids=["picture", "mask", "in a list"],
)
async def test_an_image_that_is_none_is_refused(
    body: Mapping[str, object], where: str
) -> None:
    """What came along as base64 must decode, wherever it is."""
    whole = body if "model" in body else {**MASTER, **body}
    answer = await create(Emulator(), whole)
    assert answer.status_code == 400
    assert f"{where}: Expected an image" in answer.json()["message"]


@pytest.mark.parametrize(
    "generation_id, traced",
    [
        ("60ac7c34-3224-4b14-8e7d-0aa0db708325", True),
        ("88a64d31-cce4-41e8-b9d8-5392e8c2a6d4:kling-video/v2/master/x", True),
        ("V1StGXR8Z5jdHi6BmyT8k", True),
        ("nope", False),
        ("V1StGXR8Z5jdHi6BmyT8k\r\n", False),
        ("V1StGXR8Z5jdHi6BmyTé", False),
    ],
)
async def test_the_trace_of_an_unknown_id(generation_id: str, *, traced: bool) -> None:
    """A poll's answer names the id, unless it is malformed."""
    answer = await poll(Emulator(), generation_id)
    expected = generation_id if traced else None
    assert answer.status_code == 404
    assert answer.headers.get("x-inference-id") == expected


async def test_credits_of_unfinished_work_cannot_be_spent_twice() -> None:
    """A create must be covered by what earlier ones leave; else it is a 403."""
    emulator = Emulator(credits=2 * MASTER_PRICE)
    answers = [await create(emulator) for _ in range(3)]
    assert [it.status_code for it in answers] == [200, 200, 403]
    assert answers[2].json()["message"].startswith("You've run out of credits")
    assert len(emulator.creates) == 2


@pytest.mark.parametrize(
    "failure_rate, statuses", [(0, [200, 403, 403]), (1, [200, 200, 200])]
)
async def test_only_a_completed_generation_is_charged(
    failure_rate: float, statuses: list[int]
) -> None:
    """What a failed one had set aside is free again."""
    emulator = Emulator(
        speed=AT_ONCE, credits=MASTER_PRICE, failure_rate=failure_rate, size=64
    )
    found: list[int] = []
    for _ in statuses:
        answer = await create(emulator)
        found.append(answer.status_code)
        if answer.is_success:
            await poll(emulator, answer.json()["id"])
    assert found == statuses


async def test_a_failure_of_its_own_is_a_500(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is answered as the vendor does, and logged with its cause."""

    def fail(*_: object, **__: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(av, "open", fail)
    emulator = Emulator(speed=AT_ONCE)
    generation_id = (await create(emulator)).json()["id"]
    with caplog.at_level(logging.ERROR, "kling_async.emulator"):
        answer = await poll(emulator, generation_id)
    body = answer.json()
    assert (answer.status_code, body["statusCode"]) == (500, 500)
    assert body["message"] == "Internal server error"
    assert "disk full" in caplog.text
    assert emulator.requests[-1].status == 500

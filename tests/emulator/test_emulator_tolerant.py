"""As tolerant as the vendor: unknown fields, aliases, browsers, all routes."""

from __future__ import annotations

import io
import json
import logging
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from PIL import Image

from kling_async import AsyncKling, ConfigurationError, load_catalogue, models
from kling_async._requests import catalogue
from kling_async.emulator import Emulator

PATH = "/v2/video/generations"
AUTH = {"Authorization": "Bearer some-key"}
TEXT = {"model": "klingai/video-v3-pro-text-to-video", "prompt": "A cat"}
URL = "https://example.com/a.jpg"


def client_of(emulator: Emulator, **headers: str) -> httpx.AsyncClient:
    """Give a client of an emulator, in process."""
    transport = httpx.ASGITransport(emulator.app, client=("127.0.0.1", 1))
    return httpx.AsyncClient(
        transport=transport,
        base_url="http://localhost",
        headers={**AUTH, **{k.replace("_", "-"): v for k, v in headers.items()}},
    )


async def create(emulator: Emulator, body: Mapping[str, object]) -> httpx.Response:
    """Send a create."""
    async with client_of(emulator) as client:
        return await client.post(PATH, json=body)


async def test_a_field_that_a_model_does_not_take_is_dropped_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As the vendor's own recorded runs show; also deep inside."""
    shots = [{"prompt": "a", "mood": "grim"}]
    body = {"model": "klingai/video-v3-turbo-pro-text-to-video", "multi_prompt": shots}
    with caplog.at_level(logging.WARNING, "kling_async.emulator"):
        answer = await create(Emulator(), {**body, "aspect_ratio": "1:1", "seed": 3})
    assert answer.status_code == 200
    assert caplog.messages == [f"{body['model']} does not take seed: dropped"]


async def test_a_strict_emulator_refuses_it() -> None:
    """To find a slip in one's own program."""
    answer = await create(Emulator(strict=True), {**TEXT, "seed": 3})
    assert answer.status_code == 400
    assert "seed: Expected only prompt" in answer.json()["message"]


async def test_what_is_known_is_checked_all_the_same() -> None:
    """Beside a field that is not."""
    answer = await create(Emulator(), {**TEXT, "seed": 3, "duration": 99})
    assert answer.status_code == 400
    assert "duration" in answer.json()["message"]
    assert "seed" not in answer.json()["message"]


async def test_extra_can_be_tried_on_it() -> None:
    """What a model takes and this version does not know goes through."""
    emulator = Emulator(speed=1e9)
    async with (
        httpx.AsyncClient(transport=httpx.ASGITransport(emulator.app)) as http,
        AsyncKling("k", base_url="http://localhost", http_client=http) as kling,
    ):
        made = await kling.create(
            model=TEXT["model"], prompt="a", extra={"a_new_field": {"deep": [1]}}
        )
    assert [it.generation_id for it in emulator.creates] == [made.id]


async def test_every_alias_that_it_tells_of_is_taken() -> None:
    """A price, a duration and a video are those of the model."""
    emulator = Emulator()
    whole: Mapping[str, object] = {
        "prompt": "a",
        "image_url": URL,
        "video_url": URL,
        "audio_url": URL,
        "image_list": [URL, URL],
        "effect_scene": "kiss",
    }
    async with client_of(emulator) as client:
        listed = (await client.get("/v1/models")).json()["data"]
        for item in listed:
            for alias in item["aliases"]:
                answer = await client.post(PATH, json={"model": alias, **whole})
                assert answer.status_code == 200, (alias, answer.text)
    asked = [item["id"] for item in listed for _ in item["aliases"]]
    assert [it.model for it in emulator.creates] == asked
    assert set(asked) == {it.id for it in models.list()}


async def test_a_deprecated_model_is_a_404() -> None:
    """As the vendor says; an unknown one is told with the nearest."""
    gone = {**TEXT, "model": "kling-video/v1.5/standard/text-to-video"}
    answer = await create(Emulator(), gone)
    assert answer.status_code == 404
    assert "deprecated" in answer.json()["message"]
    slip = await create(Emulator(), {**TEXT, "model": "klingai/avatar-prp"})
    assert slip.status_code == 400
    assert len(slip.json()["message"]) < 200
    assert "'klingai/avatar-pro'" in slip.json()["message"]


async def test_the_model_list_has_three_names() -> None:
    """And each of its items an address, by id or alias, in any case."""
    async with client_of(Emulator()) as client:
        lists = [
            await client.get(it) for it in ("/v1/models", "/models", "/api/v1/models")
        ]
        assert len({it.text for it in lists}) == 1
        item = lists[0].json()["data"][0]
        for name in (item["id"], item["aliases"][0].upper()):
            one = (await client.get(f"/model/{name}")).json()
            assert one == {"object": "model", "data": item}
        assert (await client.get("/model/klingai/none")).status_code == 404
    assert item["type"] == "internal/video-generations/submit"


async def test_the_account_is_told_on_every_documented_path() -> None:
    """With one balance, one usage and one key."""
    emulator = Emulator(speed=1e9, credits=4e6)
    await create(emulator, TEXT)
    async with client_of(emulator) as client:

        async def got(path: str) -> dict[str, Any]:
            answer = await client.get(path)
            assert answer.status_code == 200, (path, answer.text)
            body: dict[str, Any] = answer.json()
            return body

        balance = (await got("/v2/billing"))["current_balance"]
        assert (await got("/v2/billing/detail"))["current_balance"] == balance
        assert (await got("/v1/billing/balance"))["balance"] == balance * 2e6
        usage = await got("/v2/usage?period=24h")
        detail = await got("/v2/usage/detail?period=24h")
        assert usage["spend"] == pytest.approx(2 - balance)
        assert usage["requests"] == 1
        assert detail["models"] == [
            {"model": TEXT["model"], "spend": usage["spend"], "requests": 1}
        ]
        key = (await got("/v1/key"))["data"]
        assert key["prefix"] == "some-key"
        assert (await got("/v1/keys"))["data"] == [key]
        assert (await client.get("/v2/usage")).status_code == 400
        assert (await client.get("/v2/usage?period=24h&tz=UTC")).status_code == 400


@pytest.mark.parametrize(
    "path", ["/v1/key", "/v2/usage?period=1h", "/v1/billing/balance"]
)
async def test_only_a_right_key_is_told_of_the_account(path: str) -> None:
    """Several may be right."""
    emulator = Emulator(api_keys=["one", "two"])
    async with client_of(emulator) as client:
        for key, status in (("one", 200), ("two", 200), ("three", 401)):
            headers = {"Authorization": f"Bearer {key}"}
            answer = await client.get(path, headers=headers)
            assert answer.status_code == status
    assert answer.json()["message"].startswith("This request requires a valid API key")


async def test_a_page_of_any_site_can_use_the_api() -> None:
    """With a preflight, and with the tracing headers to be read."""
    origin = "https://app.example"
    async with client_of(Emulator(), origin=origin) as client:
        asked = {
            "access-control-request-method": "POST",
            "access-control-request-headers": "authorization,content-type",
        }
        preflight = await client.options(PATH, headers=asked)
        assert preflight.status_code == 200
        assert preflight.headers["access-control-allow-origin"] == "*"
        assert "POST" in preflight.headers["access-control-allow-methods"]
        assert "authorization" in preflight.headers["access-control-allow-headers"]
        answers = [await client.post(PATH, json=TEXT), await client.get("/nowhere")]
    for answer in answers:
        assert answer.headers["access-control-allow-origin"] == "*"
        exposed = answer.headers["access-control-expose-headers"]
        assert {"x-inference-id", "x-client-request-id"} <= set(exposed.split(", "))
    assert [it.status_code for it in answers] == [200, 404]


@pytest.mark.parametrize(
    "headers",
    [{"origin": "https://evil.example"}, {"sec-fetch-site": "cross-site"}],
)
async def test_what_drives_the_emulator_is_closed_to_other_sites(
    headers: Mapping[str, str],
) -> None:
    """No answer that their pages could read either."""
    async with client_of(Emulator()) as client:
        answer = await client.post(
            "/_emulator/credits", headers=headers, json={"credits": 1}
        )
    assert answer.status_code == 403
    assert "access-control-allow-origin" not in answer.headers


async def test_what_is_not_there_is_left_out_or_null() -> None:
    """As the vendor's recorded answers do, or as its schema allows."""
    plain = (await create(Emulator(), TEXT)).json()
    full = (await create(Emulator(nulls=True), TEXT)).json()
    assert plain == {"id": plain["id"], "status": "queued"}
    assert full == {**plain, "video": None, "error": None, "meta": None}


async def test_credits_are_topped_up_while_it_runs(tmp_path: Path) -> None:
    """From Python or over HTTP; the ledger has it, and the next emulator knows."""
    path = tmp_path / "state.json"
    emulator = Emulator(credits=0, speed=1e9, state=path)
    assert (await create(emulator, TEXT)).status_code == 403
    emulator.top_up(1e6)
    async with client_of(emulator) as client:
        told = await client.post("/_emulator/credits", json={"credits": 3e6})
        assert told.json() == {"balance": 4e6}
        odd: object
        for odd in ({}, {"credits": -1}, {"credits": True}, {"credits": "9"}, []):
            answer = await client.post("/_emulator/credits", json=odd)
            assert answer.status_code == 400, odd
        assert (await client.post(PATH, json=TEXT)).status_code == 200
        ledger = (await client.get("/v2/billing/transactions")).json()["data"]
    assert [it["type"] for it in ledger] == [
        "MODEL_USAGE",
        "PAYMENT",
        "PAYMENT",
        "INIT",
    ]
    assert Emulator(state=path).balance == emulator.balance
    with pytest.raises(ConfigurationError, match="credits: given 0"):
        emulator.top_up(0)


def png(width: int, height: int) -> str:
    """Give an image of one colour as a data URI: small, whatever its size."""
    file = io.BytesIO()
    Image.new("1", (width, height)).save(file, "PNG")
    return f"data:image/png;base64,{b64encode(file.getvalue()).decode()}"


async def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded() -> None:
    """Ten kilobytes would cost half a gigabyte."""
    model = "klingai/video-v3-pro-image-to-video"
    body = {"model": model, "prompt": "a", "image_url": png(9000, 9000)}
    answer = await create(Emulator(size=64), body)
    assert answer.status_code == 400
    assert "image_url" in answer.json()["message"]
    assert (
        await create(Emulator(size=64), {**body, "image_url": png(6000, 6000)})
    ).status_code == 200


async def test_a_page_elsewhere_has_nothing_fetched_for_it() -> None:
    """Else any site could make the emulator ask this machine's other servers."""
    asked: list[bytes] = []

    async def listen(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            asked.append(await stream.receive())

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    port = listener.extra(anyio.abc.SocketAttribute.local_port)
    body = {
        "model": "klingai/video-v3-pro-image-to-video",
        "prompt": "a",
        "image_url": f"http://127.0.0.1:{port}/secret",
    }
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, listen)
        for headers in ({"origin": "https://evil.example"}, {}):
            async with client_of(Emulator(), **headers) as client:
                assert (await client.post(PATH, json=body)).status_code == 200
            assert len(asked) == (0 if headers else 1)
        tasks.cancel_scope.cancel()


async def test_a_newer_catalogue_is_known_to_it(tmp_path: Path) -> None:
    """So a new model can be tried before a release knows it."""
    data = json.loads(Path(catalogue.__file__).with_name("catalogue.json").read_text())
    data["models"]["klingai/v9"] = {"kind": "text-to-video", "fields": ["prompt"]}
    path = tmp_path / "newer.json"
    path.write_text(json.dumps(data))
    emulator = Emulator(catalogue=load_catalogue(path))
    answer = await create(emulator, {"model": "klingai/v9", "prompt": "a"})
    assert answer.status_code == 200
    assert (await create(Emulator(), {"model": "klingai/v9"})).status_code == 400

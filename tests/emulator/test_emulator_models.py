"""The emulator's model catalogue on the wire: prices, filters and metrics."""

from __future__ import annotations

import anyio
import httpx
import pytest

from kling_async._requests.catalogue import MODELS
from kling_async.emulator import Emulator

PATH = "/v2/video/generations"
MASTER = "klingai/v2-master-image-to-video"
BODY = {"model": MASTER, "image_url": "https://example.com/mona.jpg"}


def client_of(emulator: Emulator) -> httpx.AsyncClient:
    """Give a client without a key, whose requests go to the app without a socket."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=emulator.app), base_url="https://kling.test"
    )


async def models_of(**query: object) -> list[dict[str, object]]:
    """Ask for the catalogue, without a key."""
    async with client_of(Emulator(api_keys={"secret"})) as client:
        answer = await client.get("/v1/models", params=query)  # type: ignore[arg-type]
    data: list[dict[str, object]] = answer.json()["data"]
    return data


async def price_of(model: str) -> dict[str, object]:
    """Ask for the price of one model."""
    (found,) = await models_of(id=model, include="pricing")
    price = found["pricing"]
    assert isinstance(price, dict)
    return price


async def test_every_model_is_listed_with_its_identity_alone() -> None:
    """What is more has to be asked for."""
    found = await models_of()
    assert [it["id"] for it in found] == list(MODELS)
    assert found[0].keys() == {"id", "aliases", "type", "info", "tags"}


async def test_every_model_has_a_price_of_a_documented_kind() -> None:
    """Fixed, by variants, or not quoted; always in USD."""
    kinds = {str(it["id"]): it["pricing"] for it in await models_of(include="all")}
    assert {it["kind"] for it in kinds.values()} == {  # type: ignore[index]
        "fixed",
        "variants",
        "variable",
    }


async def test_a_fixed_price_has_units() -> None:
    """A price is for so many of a unit."""
    assert await price_of(MASTER) == {
        "kind": "fixed",
        "currency": "USD",
        "units": [{"price": 0.28, "unit": "second", "per": 1}],
    }


async def test_a_price_by_variants_names_what_it_hangs_on() -> None:
    """Each variant says for which values of the parameters it is."""
    assert await price_of("klingai/video-v3-pro-image-to-video") == {
        "kind": "variants",
        "currency": "USD",
        "dimensions": ["generate_audio"],
        "variants": [
            {"when": {"generate_audio": True}, "price": 0.17}
            | {"unit": "second", "per": 1},
            {"when": {"generate_audio": False}, "price": 0.12}
            | {"unit": "second", "per": 1},
        ],
    }


async def test_a_price_that_hangs_on_the_input_is_not_quoted() -> None:
    """An avatar talks as long as the sound that is given."""
    assert await price_of("klingai/avatar-pro") == {
        "kind": "variable",
        "currency": "USD",
    }


@pytest.mark.parametrize(
    "query, count",
    [
        ({"id": MASTER}, 1),
        ({"id": "v2-master-image-to-video"}, 1),
        ({"id": MASTER.upper()}, 1),
        ({"id": f"{MASTER},klingai/avatar-pro"}, 2),
        ({"id": [MASTER, "klingai/avatar-pro"]}, 2),
        ({"id": "klingai/v9"}, 0),
        ({"capabilities": "avatar,effects"}, 4),
        ({"capabilities": "avatar", "input_modalities": "audio"}, 2),
        ({"input_modalities": "audio"}, 2),
        ({"output_modalities": "audio"}, 0),
        ({"tags": "playground:video"}, len(MODELS)),
    ],
)
async def test_the_catalogue_is_filtered(query: dict[str, object], count: int) -> None:
    """One of several values, all of several parameters, ids and aliases alike."""
    assert len(await models_of(**query)) == count


async def test_an_unchanged_catalogue_is_not_sent_again() -> None:
    """Whoever names its ETag gets a 304."""
    async with client_of(Emulator()) as client:
        etag = (await client.get("/v1/models")).headers["etag"]
        again = await client.get("/v1/models", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


async def metrics_of(emulator: Emulator, **query: object) -> list[dict[str, object]]:
    """Ask for the metrics."""
    async with client_of(emulator) as client:
        answer = await client.get("/models/metrics", params=query)  # type: ignore[arg-type]
    assert answer.json()["window_seconds"] == 300
    models: list[dict[str, object]] = answer.json()["models"]
    return models


@pytest.mark.looptime
async def test_metrics_are_of_the_last_minutes_successes() -> None:
    """A model is there while a success of it lies in the window, and not after."""
    emulator = Emulator(speed=60, size=64)
    async with client_of(emulator) as client:
        headers = {"Authorization": "Bearer some-key"}
        for _ in range(20):
            await client.post(PATH, json=BODY, headers=headers)
    assert await metrics_of(emulator) == []
    await anyio.sleep(60)
    (found,) = await metrics_of(emulator)
    assert (found["alias"], found["endpoint"]) == (MASTER, PATH)
    durations = found["metrics"]["duration_ms"]  # type: ignore[index]
    ordered = [durations[name] for name in ("p50", "p75", "p90", "p99")]
    assert ordered == sorted(ordered)
    assert 4_000 < ordered[0] < 8_000
    await anyio.sleep(300)
    assert await metrics_of(emulator) == []


@pytest.mark.looptime
async def test_metrics_leave_failures_out() -> None:
    """A model that fails every time is not measured."""
    emulator = Emulator(speed=1e9, failure_rate=1)
    async with client_of(emulator) as client:
        headers = {"Authorization": "Bearer some-key"}
        await client.post(PATH, json=BODY, headers=headers)
    await anyio.sleep(1)
    assert await metrics_of(emulator) == []


@pytest.mark.looptime
async def test_metrics_of_some_models() -> None:
    """By id or alias, repeated; a comma is part of a name."""
    emulator = Emulator(speed=1e9, size=64)
    async with client_of(emulator) as client:
        headers = {"Authorization": "Bearer some-key"}
        await client.post(PATH, json=BODY, headers=headers)
    await anyio.sleep(1)
    assert len(await metrics_of(emulator, aliases=[MASTER, "other"])) == 1
    assert len(await metrics_of(emulator, aliases="v2-master-image-to-video")) == 1
    assert await metrics_of(emulator, aliases=f"{MASTER},other") == []


async def test_metrics_take_no_other_parameter() -> None:
    """A 400 says which there are."""
    async with client_of(Emulator()) as client:
        answer = await client.get("/models/metrics", params={"alias": MASTER})
    assert answer.status_code == 400
    assert "alias: Expected only aliases" in answer.json()["message"]

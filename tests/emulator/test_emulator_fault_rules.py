"""The emulator's fault rules as JSON, and its own paths to set and count them by."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping

import httpx
import pytest

from kling_async import ConfigurationError
from kling_async.emulator import Emulator, Fault, faults_in

PATH = "/v2/video/generations"
MASTER = {
    "model": "klingai/v2-master-image-to-video",
    "image_url": "https://example.com/mona.jpg",
}
AT_ONCE = 1e9


def in_process(emulator: Emulator) -> httpx.AsyncClient:
    """Give a client whose requests go to the app without a socket."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=emulator.app),
        base_url="https://kling.test",
        headers={"Authorization": "Bearer some-key"},
    )


async def test_faults_are_set_over_http() -> None:
    """Added one or several, listed with their counts, removed; from any language."""
    emulator = Emulator()
    url = "/_emulator/faults"
    async with in_process(emulator) as client:
        one = await client.post(url, json={"effect": "status", "path": "billing"})
        two = await client.post(url, json=[{"effect": "reset", "nth": 9}] * 2)
        assert (one.status_code, two.status_code) == (201, 201)
        assert (await client.get("/v2/billing")).status_code == 503
        listed = (await client.get(url)).json()["faults"]
        assert listed[0] == {
            "id": 1,
            "seen": 1,
            "struck": 1,
            "effect": "status",
            "path": "billing",
        }
        assert [it["id"] for it in listed] == [1, 2, 3]
        assert (await client.delete(f"{url}/1")).status_code == 204
        assert (await client.delete(f"{url}/1")).status_code == 404
        assert (await client.get("/v2/billing")).status_code == 200
        assert (await client.delete(url)).status_code == 204
        assert (await client.get(url)).json() == {"faults": []}
    assert {it.path for it in emulator.requests} == {"/v2/billing"}


async def test_what_happened_is_told_over_http() -> None:
    """Requests, accepted creates and charges, as the emulator's own lists have them."""
    emulator = Emulator(speed=AT_ONCE)
    async with in_process(emulator) as client:
        headers = {"X-Client-Request-Id": "scene-1"}
        created = await client.post(PATH, json=MASTER, headers=headers)
        told = {
            name: (await client.get(f"/_emulator/{name}")).json()[name]
            for name in ("requests", "creates", "charges")
        }
    generation_id = created.json()["id"]
    assert [it["status"] for it in told["requests"]] == [200]
    for name in ("creates", "charges"):
        (record,) = told[name]
        assert record["generation_id"] == generation_id
        assert record["client_request_id"] == "scene-1"
    assert told["charges"][0]["usd"] == 1.4


@pytest.mark.parametrize(
    "client, headers, status",
    [
        ("127.0.0.1", {}, 200),
        ("127.8.8.8", {}, 200),
        ("::1", {}, 200),
        ("::ffff:127.0.0.1", {}, 200),
        ("10.0.0.1", {}, 403),
        ("fe80::1%eth0", {}, 403),
        ("testclient", {}, 403),
        ("127.0.0.1", {"Origin": "https://kling.test"}, 200),
        ("127.0.0.1", {"Origin": "https://evil.example"}, 403),
    ],
)
async def test_only_this_machine_may_set_faults(
    client: str, headers: Mapping[str, str], status: int
) -> None:
    """Nor may a page of somebody else's in a browser on it."""
    transport = httpx.ASGITransport(app=Emulator().app, client=(client, 1))
    async with httpx.AsyncClient(
        transport=transport, base_url="https://kling.test"
    ) as http:
        answer = await http.get("/_emulator/faults", headers=headers)
    assert answer.status_code == status


WRONG = {
    "no effect": ({"method": "GET"}, "effect"),
    "unknown effect": ({"effect": "explode"}, "effect: given 'explode'"),
    "a slip": ({"effect": "status", "methd": "GET"}, "Did you mean 'method'"),
    "unknown field": ({"effect": "status", "zzz": 1}, "It has effect, method"),
    "no object": ("status", "allowed: an object"),
    "number as verb": ({"effect": "status", "method": 1}, "method: given 1"),
    "nowhere": ({"effect": "status", "path": "polls"}, "path: given 'polls'"),
    "nought": ({"effect": "status", "nth": 0}, "nth: given 0"),
    "half": ({"effect": "status", "every": 1.5}, "every: given 1.5"),
    "true": ({"effect": "status", "times": True}, "times: given True"),
    "too likely": ({"effect": "status", "probability": 2}, "probability: given 2"),
    "in the past": ({"effect": "status", "starts_after": -1}, "starts_after: given -1"),
    "backwards": (
        {"effect": "status", "starts_after": 2, "ends_after": 1},
        "ends_after: given 1",
    ),
    "no status": ({"effect": "status", "status": 99}, "status: given 99"),
    "perhaps": ({"effect": "status", "accepted": "yes"}, "accepted: given 'yes'"),
    "headers in a list": ({"effect": "status", "headers": []}, "headers: given"),
    "two lines": (
        {"effect": "status", "headers": {"a": "b\r\nc: d"}},
        "headers: given",
    ),
    "no size": ({"effect": "huge", "size": 0}, "size: given 0"),
    "half a byte": ({"effect": "bomb", "size": 1.5}, "size: given 1.5"),
    "minus seconds": ({"effect": "delay", "seconds": -1}, "seconds: given -1"),
}


@pytest.mark.parametrize("data, words", WRONG.values(), ids=WRONG)
async def test_a_rule_that_makes_no_sense_is_refused(data: object, words: str) -> None:
    """The error names what is wrong; over HTTP it is a 400 that says the same."""
    with pytest.raises(ConfigurationError, match=words) as caught:
        faults_in(json.dumps(data))
    emulator = Emulator()
    async with in_process(emulator) as client:
        answer = await client.post("/_emulator/faults", json=data)
    assert answer.status_code == 400
    assert answer.json()["message"] == str(caught.value)
    assert len(emulator.faults) == 0


def test_rules_that_are_no_json_are_refused() -> None:
    """Also those that are nested without end."""
    for text in ("{", "[" * 100_000):
        with pytest.raises(ConfigurationError, match="not JSON"):
            faults_in(text)


def test_a_rule_is_the_same_after_a_round_through_json() -> None:
    """What it is told in is what it is read from."""
    chance = random.Random(0)
    for _ in range(50):
        fault = Fault(
            chance.choice(["status", "delay", "cut"]),
            method=chance.choice([None, "GET"]),
            nth=chance.choice([None, 3]),
            probability=chance.choice([1.0, 0.5]),
            ends_after=chance.choice([None, 7.0]),
            accepted=chance.choice([True, False]),
            headers=chance.choice([{}, {"a": "b"}]),
            body=chance.choice([None, "text", {"a": [1]}]),
        )
        assert faults_in(json.dumps(fault.to_json())) == [fault]

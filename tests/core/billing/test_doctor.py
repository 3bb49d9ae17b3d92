"""`diagnose`: what is seen of each thing that is relied on, and what to do about it."""

from __future__ import annotations

import pytest

from kling_async import AsyncKling, Diagnosis, RetryPolicy, TextToVideo
from kling_async._http.session import Library
from kling_async.emulator import Emulator, Fault

AT_ONCE = 1e6
NAMES = [
    *("proxy", "name resolution", "connection and TLS", "clock", "key", "balance"),
    *("request log", "tracing headers", "price list", "metrics", "downloads"),
]


async def diagnosis(*faults: Fault) -> Diagnosis:
    """Create a video, put faults to work, and look."""
    async with Emulator(speed=AT_ONCE, size=64) as emulator:
        url = emulator.base_url
        async with AsyncKling("any-key", base_url=url) as kling:
            await kling.generate(TextToVideo(prompt="A boat."))
        for fault in faults:
            emulator.faults.add(fault)
        created = len(emulator.creates)
        async with AsyncKling("any-key", base_url=url, timeout=60) as kling:
            found = await kling.diagnose()
        assert len(emulator.creates) == created
    return found


async def test_all_is_well_on_the_emulator() -> None:
    """Each thing is looked at, and none is wrong."""
    found = await diagnosis()
    assert [check.name for check in found] == NAMES
    assert {check.name: check.seen for check in found if check.state != "ok"} == {}
    assert found.is_healthy
    seen = {check.name: check.seen for check in found}
    assert seen["proxy"] == "none is set for this host"
    assert seen["connection and TLS"] == "answered 200, without TLS"


@pytest.mark.parametrize("library", ["httpx", "httpx2", "aiohttp"])
async def test_a_proxy_is_named_and_looks_names_up_itself(
    monkeypatch: pytest.MonkeyPatch, library: Library
) -> None:
    """Without the password that may be in its address."""
    monkeypatch.setenv("HTTPS_PROXY", "http://somebody:secret@127.0.0.1:1")
    url, once = "https://api.example.com", RetryPolicy(attempts=1)
    async with AsyncKling(
        "any-key", base_url=url, retry=once, transport=library
    ) as kling:
        found = {check.name: check for check in await kling.diagnose()}
    assert found["proxy"].seen == "through http://127.0.0.1:1"
    assert found["name resolution"].state == "skipped"
    assert found["connection and TLS"].state == "failed"


FAILURES = {
    "clock": Fault(
        "status",
        path="models",
        status=200,
        headers={"Date": "Thu, 01 Jan 2026 00:00:00 GMT"},
    ),
    "key": Fault("status", path="billing", status=401),
    "balance": Fault("status", path="billing", status=503),
    "request log": Fault("status", path="logs", status=404),
    "price list": Fault("html", path="models", status=200),
    "metrics": Fault("reset", path="metrics"),
    "downloads": Fault("status", path="files", status=403),
    "connection and TLS": Fault("reset", path="models"),
}


@pytest.mark.parametrize("name", FAILURES)
async def test_each_failure_is_told_with_what_to_do(name: str) -> None:
    """Made on the emulator, and told under its name."""
    found = await diagnosis(FAILURES[name])
    check = next(it for it in found if it.name == name)
    assert check.state in {"warning", "failed"}
    assert check.seen
    assert check.advice


async def test_what_needs_the_key_is_skipped_where_the_key_fails() -> None:
    """Advice on the balance or the log would lead astray; the rest is looked at."""
    found = await diagnosis(Fault("status", status=401, path="billing"))
    states = {check.name: check.state for check in found}
    skipped = ("balance", "request log", "tracing headers", "downloads")
    assert {states[name] for name in skipped} == {"skipped"}
    assert states["price list"] == states["metrics"] == "ok"
    told = {check.seen for check in found if check.state == "skipped"}
    assert told == {"skipped because the key failed"}
    assert not found.is_healthy


async def test_a_server_that_is_down_says_nothing_of_the_key() -> None:
    """The balance has failed, not the key."""
    found = await diagnosis(FAILURES["balance"])
    states = {check.name: check.state for check in found}
    assert (states["key"], states["balance"]) == ("skipped", "failed")


async def test_a_gateways_401_is_not_blamed_on_the_key() -> None:
    """Its page says nothing of the key; the vendor's own refusal does."""
    by_gateway = await diagnosis(Fault("html", status=401, path="billing"))
    by_vendor = await diagnosis(Fault("status", status=401, path="billing"))
    for found, is_blamed in ((by_gateway, False), (by_vendor, True)):
        key = next(check for check in found if check.name == "key")
        assert key.state == "failed"
        assert ("Check the API key" in str(key.advice)) is is_blamed

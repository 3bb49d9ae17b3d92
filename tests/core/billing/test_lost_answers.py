"""Answers to creates lost on a real socket: what is paid for is in the caller's hand.

The emulator is the vendor and counts what it would bill. The clock is turned, and in
steps much shorter than the time-outs: a busy machine reaches none by chance.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import anyio
import pytest
from socket_clock import without_waiting

from kling_async import (
    AsyncKling,
    Fixed,
    Generation,
    RetryPolicy,
    ServerError,
    SubmissionUncertainError,
    TextToVideo,
)
from kling_async.emulator import Emulator, Fault

MODEL = "klingai/v2-master-text-to-video"
AT_ONCE = 1e6
TIMEOUT = 60.0
ASKED = 4

# Each strikes a create once it was accepted. `x-inference-id` comes with none of them.
WAYS = {
    "reset": Fault("reset", method="POST", accepted=True),
    "closed": Fault("close", method="POST", accepted=True),
    "time-out": Fault("delay", method="POST", accepted=True, seconds=3 * TIMEOUT),
    "500": Fault("status", method="POST", accepted=True, status=500),
    "502": Fault("html", method="POST", accepted=True, status=502),
    "504": Fault("status", method="POST", accepted=True, status=504),
    "408": Fault("status", method="POST", accepted=True, status=408),
    "unreadable": Fault("html", method="POST", accepted=True, status=200),
}
# These spoil the body only: the id is in the header, and no log is needed.
SPOILT = {
    "truncated": Fault("truncate", method="POST"),
    "cut": Fault("cut", method="POST"),
    "stalled": Fault("stall", method="POST", seconds=3 * TIMEOUT),
    "wrong type": Fault("wrong_type", method="POST"),
    "wrong shape": Fault("wrong_shape", method="POST"),
}


def client(
    emulator: Emulator, *, host: str = "127.0.0.1", **policy: float
) -> AsyncKling:
    """Make a client that does not wait long for an answer."""
    return AsyncKling(
        "any-key",
        base_url=emulator.base_url.replace("127.0.0.1", host),
        timeout=TIMEOUT,
        polling=Fixed(0.05),
        retry=RetryPolicy(initial=0.05, reconcile_timeout=policy.get("look", 20)),
    )


async def create_many(kling: AsyncKling, count: int) -> dict[str, Generation]:
    """Create so many at once; give each by the id that it was asked for with."""
    made: dict[str, Generation] = {}

    async def one(name: str) -> None:
        request = TextToVideo(model=MODEL, prompt="A paper boat.", duration=5)
        made[name] = await kling.create(request, client_request_id=name)

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(one, f"scene-{number}")
    return made


def paid(emulator: Emulator) -> dict[str | None, str]:
    """Give what the vendor would bill, by the id that it was asked for with."""
    assert len(emulator.creates) == len(
        {it.client_request_id for it in emulator.creates}
    )
    return {it.client_request_id: it.generation_id for it in emulator.creates}


async def settled(kling: AsyncKling, made: dict[str, Generation]) -> None:
    """Wait for every video, and hold the bill against what was asked for."""
    before = (await kling.balance()).credits
    for generation in made.values():
        assert (await kling.wait(generation)).succeeded
    spent = [it async for it in kling.transactions(direction="CHARGE")]
    assert sorted(it.reference_id or "" for it in spent) == sorted(
        generation.id for generation in made.values()
    )
    assert before >= (await kling.balance()).credits


@pytest.mark.parametrize("way", WAYS)
@without_waiting
async def test_each_create_is_paid_for_once_however_its_answer_is_lost(
    way: str,
) -> None:
    """The log finds each: asked for four times, billed four times, four in hand."""
    async with Emulator(speed=AT_ONCE, size=64, faults=[WAYS[way]]) as emulator:
        async with client(emulator) as kling:
            made = await create_many(kling, ASKED)
            assert {name: it.id for name, it in made.items()} == paid(emulator)
            await settled(kling, made)
        posts = [it for it in emulator.requests if it.method == "POST"]
        assert len(posts) == ASKED


@pytest.mark.parametrize("way", SPOILT)
@without_waiting
async def test_a_body_that_is_spoilt_loses_nothing(way: str) -> None:
    """The id is in the header `x-inference-id`, or still in the body."""
    faults = [SPOILT[way]]
    async with Emulator(speed=AT_ONCE, size=64, faults=faults) as emulator:
        async with client(emulator) as kling:
            made = await create_many(kling, ASKED)
            assert {name: it.id for name, it in made.items()} == paid(emulator)
            await settled(kling, made)
        assert not [it for it in emulator.requests if it.path == "/v2/logs"]


@without_waiting
async def test_rows_that_come_late_are_waited_for() -> None:
    """Two seconds here; the vendor does not say how long."""
    faults = [WAYS["reset"]]
    async with (
        Emulator(speed=AT_ONCE, size=64, faults=faults, log_delay=2) as emulator,
        client(emulator) as kling,
    ):
        made = await create_many(kling, ASKED)
        assert {name: it.id for name, it in made.items()} == paid(emulator)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@without_waiting
async def test_the_next_emulator_on_a_port_has_ids_of_its_own(host: str) -> None:
    """They are the same as those of the one before it, and stand for other creates.

    However its address is written.
    """
    async with Emulator(speed=AT_ONCE, size=64) as first:
        port = int(first.base_url.rpartition(":")[2])
        async with client(first, host=host) as kling:
            before = await create_many(kling, ASKED)
    lose = [WAYS["reset"]]
    async with Emulator(speed=AT_ONCE, size=64, faults=lose, port=port) as emulator:
        async with client(emulator, host=host) as kling:
            made = await create_many(kling, ASKED)
        assert {name: it.id for name, it in made.items()} == paid(emulator)
    assert {it.id for it in made.values()} == {it.id for it in before.values()}


@without_waiting
async def test_a_row_on_the_third_page_is_found() -> None:
    """More than two hundred others with the same key came after it."""
    delay = Fault("delay", method="POST", accepted=True, seconds=3 * TIMEOUT, nth=1)
    made: dict[str, Generation] = {}
    is_made = anyio.Event()
    async with (
        Emulator(speed=AT_ONCE, size=64, faults=[delay]) as emulator,
        client(emulator) as kling,
        anyio.create_task_group() as tasks,
    ):

        async def first() -> None:
            request = TextToVideo(model=MODEL, prompt="A paper boat.", duration=5)
            made["first"] = await kling.create(request, client_request_id="first")
            is_made.set()

        tasks.start_soon(first)
        while not emulator.creates:  # noqa: ASYNC110 (it tells nobody)
            await anyio.sleep(0.01)
        others = await create_many(kling, 230)
        assert not made
        await is_made.wait()
        found = {name: it.id for name, it in (made | others).items()}
        assert found == paid(emulator)
    assert len([it for it in emulator.requests if it.path == "/v2/logs"]) >= 3


@pytest.mark.parametrize(
    "outage",
    [
        Fault("status", path="logs", status=503, times=1),
        Fault("reset", path="logs", times=1),
        Fault("html", path="logs", status=200, times=1),
        Fault("truncate", path="logs", times=1),
        Fault("status", path="logs", status=404, times=1),
    ],
    ids=lambda fault: f"{fault.effect}-{fault.status}",
)
@without_waiting
async def test_a_log_that_fails_for_a_while_is_outlived(outage: Fault) -> None:
    """It is asked again until the time is up."""
    faults = [WAYS["closed"], outage]
    async with (
        Emulator(speed=AT_ONCE, size=64, faults=faults) as emulator,
        client(emulator) as kling,
    ):
        made = await create_many(kling, ASKED)
        assert {name: it.id for name, it in made.items()} == paid(emulator)


async def uncertain(emulator: Emulator, count: int) -> Sequence[str]:
    """Create so many that all end uncertain; give the ids to look for."""
    told: list[str] = []

    async def one(kling: AsyncKling, name: str) -> None:
        request = TextToVideo(model=MODEL, prompt="A paper boat.", duration=5)
        with pytest.raises(SubmissionUncertainError) as caught:
            await kling.create(request, client_request_id=name)
        assert caught.value.client_request_id == name
        told.append(name)

    async with client(emulator, look=1.5) as kling, anyio.create_task_group() as tasks:
        for number in range(count):
            tasks.start_soon(one, kling, f"scene-{number}")
    return sorted(told)


@pytest.mark.parametrize("way", ["reset", "time-out", "500", "unreadable"])
@without_waiting
async def test_without_a_log_each_is_told_and_none_is_sent_twice(
    way: str, caplog: pytest.LogCaptureFixture
) -> None:
    """What cannot be known is said, with what is needed to go on later."""
    faults = [WAYS[way]]
    async with Emulator(
        speed=AT_ONCE, size=64, faults=faults, request_log=False
    ) as emulator:
        told = await uncertain(emulator, ASKED)
        assert told == sorted(map(str, paid(emulator)))
        posts = [it for it in emulator.requests if it.method == "POST"]
        assert len(posts) == ASKED
    lost = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert len(lost) == ASKED


@without_waiting
async def test_what_was_uncertain_is_reconciled_later() -> None:
    """By another client, once the log has caught up."""
    faults = [WAYS["reset"]]
    async with Emulator(
        speed=AT_ONCE, size=64, faults=faults, log_delay=2.5
    ) as emulator:
        told = await uncertain(emulator, ASKED)
        async with client(emulator) as kling:
            found = {name: await kling.reconcile(name) for name in told}
        assert {name: it and it.id for name, it in found.items()} == paid(emulator)
        assert all(it is not None and it.succeeded for it in found.values())


@without_waiting
async def test_what_failed_before_it_was_accepted_is_told_as_unbilled() -> None:
    """A 500 that the log lists as failed: the first error, and no second POST."""
    fault = Fault("status", method="POST", status=500)
    async with (
        Emulator(speed=AT_ONCE, size=64, faults=[fault]) as emulator,
        client(emulator) as kling,
    ):
        with pytest.raises(ServerError, match="nothing is billed") as caught:
            await kling.create(model=MODEL, prompt="A paper boat.", duration=5)
        posts = [it for it in emulator.requests if it.method == "POST"]
    assert caught.value.is_unbilled
    assert len(posts) == 1
    assert not emulator.creates

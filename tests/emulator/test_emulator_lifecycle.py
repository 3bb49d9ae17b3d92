"""How a generation of the emulator lives: queued, generating, completed or error.

The clock is turned, not waited for.
"""

from __future__ import annotations

import random
import statistics
import sys
from collections.abc import Iterator

import anyio
import httpx
import pytest

from kling_async import AsyncKling
from kling_async.emulator import Emulator
from kling_async.emulator._store import Plan, plan_for

PATH = "/v2/video/generations"
MASTER = "klingai/v2-master-image-to-video"
V3 = "klingai/video-v3-pro-image-to-video"
PRO = "kling-video/v2.1/pro/image-to-video"
OLD = "kling-video/v1/standard/image-to-video"


def plans(
    model: str = MASTER, length: int = 5, *, speed: float = 1, failure_rate: float = 0
) -> Iterator[Plan]:
    """Draw many lives, with the seeds 0 to 499."""
    for seed in range(500):
        yield plan_for(
            model,
            length,
            chance=random.Random(seed),
            speed=speed,
            failure_rate=failure_rate,
        )


def client_of(emulator: Emulator) -> httpx.AsyncClient:
    """Give a client whose requests go to the app without a socket."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=emulator.app),
        base_url="https://kling.test",
        headers={"Authorization": "Bearer some-key"},
    )


async def life(emulator: Emulator, every: float) -> list[tuple[str, float]]:
    """Create, poll until the end, and give each status with the time of its news."""
    body = {"model": MASTER, "image_url": "https://example.com/mona.jpg"}
    async with client_of(emulator) as client:
        started = anyio.current_time()
        last = (await client.post(PATH, json=body)).json()
        seen = [(last["status"], 0.0)]
        while last["status"] not in {"completed", "error"}:
            await anyio.sleep(every)
            query = {"generation_id": last["id"]}
            last = (await client.get(PATH, params=query)).json()
            if last["status"] != seen[-1][0]:
                seen.append((last["status"], anyio.current_time() - started))
    return seen


@pytest.mark.looptime
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate, end", [(0, "completed"), (1, "error")])
async def test_a_generation_is_queued_then_generating_then_over(
    seed: int, rate: float, end: str
) -> None:
    """In real time it takes minutes, some seconds of them in the queue."""
    emulator = Emulator(speed=1, seed=seed, failure_rate=rate, size=64)
    statuses, times = zip(*await life(emulator, 1), strict=True)
    assert statuses == ("queued", "generating", end)
    assert 3 <= times[1] <= 31
    assert times[1] < times[2] < 600


@pytest.mark.looptime
async def test_speed_divides_the_time() -> None:
    """Sixty times faster is the same life in a sixtieth of the time."""
    slow = await life(Emulator(speed=1, seed=7, size=64), 1)
    fast = await life(Emulator(speed=60, seed=7, size=64), 1 / 60)
    assert [it for it, _ in fast] == [it for it, _ in slow]
    assert [60 * at for _, at in fast] == pytest.approx([at for _, at in slow], abs=2)


@pytest.mark.looptime
async def test_an_ended_generation_stays_as_it_is() -> None:
    """Whoever asks a day later gets the same answer."""
    emulator = Emulator(size=64)
    body = {"model": MASTER, "image_url": "https://example.com/mona.jpg"}
    async with client_of(emulator) as client:
        generation_id = (await client.post(PATH, json=body)).json()["id"]
        answers: list[object] = []
        for _ in range(2):
            await anyio.sleep(86_400)
            query = {"generation_id": generation_id}
            answers.append((await client.get(PATH, params=query)).json())
    assert answers[0] == answers[1]


@pytest.mark.looptime
async def test_rendering_takes_no_time_on_a_turned_clock() -> None:
    """A client's time-out does not strike while the video is made."""
    emulator = Emulator()
    body = {"model": MASTER, "image_url": "https://example.com/mona.jpg"}
    async with client_of(emulator) as client:
        query = {"generation_id": (await client.post(PATH, json=body)).json()["id"]}
        await anyio.sleep(86_400)
        before = anyio.current_time()
        with anyio.fail_after(0.001):
            polled = (await client.get(PATH, params=query)).json()
    assert polled["status"] == "completed"
    assert anyio.current_time() == before


@pytest.mark.looptime
@pytest.mark.parametrize("path, status", [(PATH, 400), ("/elsewhere", 404)])
async def test_a_refusal_takes_no_time_on_a_turned_clock(
    path: str, status: int
) -> None:
    """No thread is waited for, beside which the clock would run on."""
    async with client_of(Emulator()) as client:
        for _ in range(50):
            with anyio.fail_after(0.001):
                assert (await client.post(path, json={})).status_code == status


@pytest.mark.parametrize(
    "model, length, least, most",
    [
        (MASTER, 5, 5 * 60, 6 * 60),
        (MASTER, 10, 11 * 60, 14 * 60),
        (PRO, 5, 3 * 60, 4 * 60),
        (PRO, 10, 6 * 60, 8 * 60),
        (V3, 5, 190, 210),
        (V3, 10, 390, 410),
        (V3, 15, 590, 610),
        ("klingai/video-v3-omni-720p-image-to-video", 5, 120, 150),
        (OLD, 5, 240, 260),
        (OLD, 10, 480, 520),
        ("kling-video/v1.5/pro/image-to-video", 5, 5 * 60, 6 * 60),
        ("kling-video/v1.5/pro/image-to-video", 10, 11 * 60, 14 * 60),
        ("klingai/avatar-pro", 5, 510, 550),
    ],
)
def test_work_takes_as_long_as_is_documented(
    model: str, length: int, least: float, most: float
) -> None:
    """The median is in the documented range, and one in three is 12 % off or more."""
    work = [it.ends_after - it.starts_after for it in plans(model, length)]
    median = statistics.median(work)
    far = sum(abs(it / median - 1) > 0.12 for it in work) / len(work)
    assert least <= median <= most
    assert 0.25 <= far <= 0.40


@pytest.mark.parametrize("rate", [0, 0.1, 0.5, 1])
def test_the_failure_rate_is_the_share_that_fails(rate: float) -> None:
    """Failures are drawn, each by itself, and end no later than the work would."""
    failed = [it for it in plans(failure_rate=rate) if it.error]
    assert len(failed) / 500 == pytest.approx(rate, abs=0.05)
    assert all(it.ends_after > it.starts_after for it in failed)


def test_a_life_hangs_on_its_seed_alone() -> None:
    """The same seed draws the same life; others differ."""
    assert list(plans()) == list(plans())
    assert len({it.ends_after for it in plans()}) == 500


def test_outside_of_a_loop_it_is_made_without_trio_as_well(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Few have trio; whoever drives the client without a loop is told of the loop."""
    monkeypatch.setitem(sys.modules, "trio", None)
    Emulator()
    get = AsyncKling("any-key").get("some-id")
    with pytest.raises(RuntimeError, match="no running event loop"):
        get.send(None)

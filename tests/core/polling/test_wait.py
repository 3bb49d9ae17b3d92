"""Waiting for the video: `wait`, and `generate`, which creates it before."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Mapping

import anyio
import httpx
import pytest
from jumping_clock import living_tasks, on_each_loop
from told_by_time import ID, Api, Told, done

from kling_async import (
    AsyncKling,
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    Fixed,
    Generation,
    GenerationFailedError,
    Hooks,
    InvalidRequestError,
    KlingError,
    NotFoundError,
    Status,
    TextToVideo,
    Video,
    WaitTimeoutError,
)
from kling_async.emulator import Emulator

LIFE: Mapping[int, Told] = {0: "queued", 25: "generating", 95: done()}
FAILED = {"status": "error", "error": {"name": "Unsafe", "message": "not this"}}
SUNSET = TextToVideo(prompt="A sunset.")
MASTER = "klingai/v2-master-text-to-video"


@on_each_loop
async def test_it_gives_the_completed_generation() -> None:
    """With its video, and not before."""
    api = Api(LIFE)
    async with api.client() as kling:
        generation = await kling.wait(ID)
    assert generation.succeeded
    assert generation.video is not None
    assert api.now == pytest.approx(100)


@on_each_loop
async def test_what_is_completed_already_is_given_at_once() -> None:
    """The very object, and nothing is asked."""
    api = Api(LIFE)
    ended = Generation(id=ID, status=Status.COMPLETED, video=Video(url="https://v.mp4"))
    async with api.client() as kling:
        assert await kling.wait(ended) is ended
    assert api.polls == []


@on_each_loop
async def test_a_failure_is_raised_with_its_reason() -> None:
    """It names the generation, which is settled: nothing of it runs on."""
    async with Api({0: "queued", 5: FAILED}).client() as kling:
        with pytest.raises(GenerationFailedError, match="Unsafe: not this") as caught:
            await kling.wait(ID)
    assert caught.value.generation_id == ID
    assert caught.value.generation is not None
    assert caught.value.generation.status == "error"
    assert "may still be running" not in str(caught.value)


@on_each_loop
async def test_a_failure_without_a_reason_says_so() -> None:
    """The server need not give one."""
    ended = Generation(id=ID, status=Status.ERROR)
    async with Api(LIFE).client() as kling:
        with pytest.raises(GenerationFailedError, match="the server gave no reason"):
            await kling.wait(ended)


@on_each_loop
async def test_a_wait_that_timed_out_can_be_resumed_by_its_error() -> None:
    """The id is in it, as well as what was seen last."""
    api = Api(LIFE)
    async with api.client() as kling:
        with pytest.raises(
            WaitTimeoutError, match=r"wait\(error.generation_id\)"
        ) as it:
            await kling.wait(ID, timeout=60)
        assert it.value.generation_id == ID
        assert it.value.generation is not None
        assert it.value.generation.status == "generating"
        assert (await kling.wait(it.value.generation_id)).succeeded
    assert api.now == pytest.approx(100)


@on_each_loop
async def test_it_can_have_a_schedule_and_a_limit_of_its_own() -> None:
    """As `watch` can."""
    api = Api(LIFE)
    async with api.client() as kling:
        await kling.wait(ID, polling=Fixed(48), timeout=math.inf)
        with pytest.raises(ConfigurationError, match="timeout: given 0"):
            await kling.wait(ID, timeout=0)
    assert api.polls == [0, 48, 96]


@on_each_loop
async def test_a_closed_client_says_so_and_keeps_the_id() -> None:
    """Also one that is closed under the wait."""
    api = Api({0: "queued"})
    async with api.client() as kling:
        errors: list[KlingError] = []

        async def wait() -> None:
            with pytest.raises(ClientClosedError) as caught:
                await kling.wait(ID)
            errors.append(caught.value)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            await anyio.sleep(5)
            await kling.aclose()
        await wait()
    assert [it.generation_id for it in errors] == [ID] * 2


# --- generate


@on_each_loop
async def test_generate_creates_and_waits() -> None:
    """Of keywords or of a request object; the video is there, and one create."""
    emulator = Emulator(speed=1, size=64)
    transport = httpx.ASGITransport(app=emulator.app)
    async with (
        httpx.AsyncClient(transport=transport) as http,
        AsyncKling(
            "some-key", base_url="https://kling.test", http_client=http
        ) as kling,
    ):
        for _ in range(2):
            asked = await kling.generate(SUNSET)
            told = await kling.generate(model=SUNSET.model, prompt="A sunrise.")
            assert asked.succeeded
            assert told.succeeded
            assert asked.client_request_id != told.client_request_id is not None
    assert len(emulator.creates) == 4
    assert len({it.client_request_id for it in emulator.creates}) == 4


@on_each_loop
async def test_a_generation_of_the_emulator_that_fails_is_raised() -> None:
    """From the create to the error, on the wire as the vendor has it."""
    emulator = Emulator(speed=1, size=64, failure_rate=1)
    transport = httpx.ASGITransport(app=emulator.app)
    async with (
        httpx.AsyncClient(transport=transport) as http,
        AsyncKling(
            "some-key", base_url="https://kling.test", http_client=http
        ) as kling,
    ):
        with pytest.raises(GenerationFailedError) as caught:
            await kling.generate(SUNSET)
    assert caught.value.generation_id == emulator.creates[0].generation_id
    assert caught.value.client_request_id == emulator.creates[0].client_request_id


@on_each_loop
async def test_generate_counts_its_limit_from_the_creates_answer() -> None:
    """How long the create took is another matter."""
    api = Api({0: "queued"}, latency=20)
    async with api.client() as kling:
        with pytest.raises(WaitTimeoutError) as caught:
            await kling.generate(SUNSET, timeout=70)
    assert 90 <= api.now < 95  # with its last look
    assert caught.value.generation_id == "g-0"
    assert caught.value.client_request_id is not None


@on_each_loop
async def test_what_makes_no_sense_is_refused_before_anything_is_created() -> None:
    """A limit of nothing, keywords beside a request, and what no model takes."""
    api = Api(LIFE)
    async with api.client() as kling:
        with pytest.raises(ConfigurationError, match="timeout: given -1"):
            await kling.generate(SUNSET, timeout=-1)
        with pytest.raises(InvalidRequestError, match="beside a request object"):
            await kling.generate(SUNSET, prompt="A sunrise.")
        with pytest.raises(InvalidRequestError, match="duration"):
            await kling.generate(model=MASTER, prompt="A sunrise.", duration=7)
    assert api.creates == []


@on_each_loop
@pytest.mark.parametrize(
    "told, error",
    [
        (httpx.Response(401, json={"message": "no"}), AuthenticationError),
        (httpx.Response(404, json={"message": "no"}), NotFoundError),
        (FAILED, GenerationFailedError),
        ("queued", WaitTimeoutError),
        (ValueError("a bug"), KlingError),
    ],
)
async def test_every_error_after_the_create_knows_the_generation(
    told: Told, error: type[KlingError]
) -> None:
    """Its id, what was seen last, and the id that it was created with."""
    api = Api({0: told})
    async with api.client() as kling:
        with pytest.raises(error) as caught:
            await kling.generate(SUNSET, timeout=100)
    assert caught.value.generation_id == "g-0"
    assert caught.value.generation is not None
    assert caught.value.client_request_id == caught.value.generation.client_request_id
    assert caught.value.client_request_id is not None


@on_each_loop
async def test_a_client_that_closes_under_generate_keeps_the_id() -> None:
    """Also when the create is what it waits for."""
    for closing_at in (1, 5):
        api = Api({0: "queued"}, latency=2)
        kling = api.client()

        async def generate(kling: AsyncKling) -> None:
            with pytest.raises(ClientClosedError) as caught:
                await kling.generate(SUNSET)
            assert caught.value.generation_id == "g-0"

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(generate, kling)
            await anyio.sleep(closing_at)
            await kling.aclose()


@on_each_loop
@pytest.mark.parametrize("instant", [1, 5])
async def test_a_cancelled_generate_leaves_the_id_in_the_log(
    instant: float, caplog: pytest.LogCaptureFixture
) -> None:
    """As a warning, also when the create's answer comes after its caller has gone."""
    api = Api({0: "queued"}, latency=2)
    before = await living_tasks()
    with caplog.at_level(logging.WARNING, "kling_async"):
        async with api.client() as kling:
            with anyio.move_on_after(instant) as scope:
                await kling.generate(SUNSET)
            assert scope.cancelled_caught
            assert api.now == pytest.approx(instant)
            await anyio.sleep(60)
            assert await living_tasks() == before
    (record,) = caplog.records
    assert "g-0" in record.message
    assert "billed" in record.message
    assert "wait('g-0')" in record.message


@pytest.mark.looptime
async def test_generate_under_a_timeout_of_asyncio_is_cut_by_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """With the id in the log, too."""
    async with Api({0: "queued"}).client() as kling:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(kling.generate(SUNSET), 25)
    assert "wait('g-0')" in caplog.text


@on_each_loop
async def test_hooks_hear_of_a_generation_from_create_to_end() -> None:
    """One event each: accepted, queued as the create told, and each change."""
    told: list[str] = []
    hooks = Hooks(
        on_created=lambda it: told.append(f"created {it.generation.id}"),
        on_status=lambda it: told.append(str(it.generation.status)),
    )
    async with Api(LIFE).client(hooks=hooks) as kling:
        await kling.generate(SUNSET)
    assert told == ["created g-0", "queued", "generating", "completed"]

"""Many generations at once: outcomes as they come, and never more than asked for."""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import math
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import aclosing

import anyio
import httpx
import pytest
from attrs import define, field
from jumping_clock import living_tasks, on_each_loop
from told_by_time import Api, Life, done

from kling_async import (
    AsyncKling,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    Fixed,
    GenerationFailedError,
    InvalidRequestError,
    KlingError,
    Outcome,
    RateLimitError,
    TextToVideo,
    WaitTimeoutError,
)
from kling_async.emulator import Emulator

FAILED = {"status": "error", "error": {"name": "Unsafe", "message": "not this"}}
SUNSET = TextToVideo(prompt="A sunset.")
QUICK: Life = {0: "queued", 5: done()}


def scenes(count: int) -> list[TextToVideo]:
    """Make so many different requests."""
    return [TextToVideo(prompt=f"Scene {number}.") for number in range(count)]


def ended_after(seconds: int) -> Life:
    """Give the life of a generation that takes so long."""
    return {0: "queued", seconds: done()}


async def outcomes_of(
    kling: AsyncKling, requests: Iterable[TextToVideo], *, max_in_flight: int = 32
) -> list[Outcome[TextToVideo]]:
    """Generate all, and give the outcomes as they came."""
    coming = kling.generate_many(requests, max_in_flight=max_in_flight)
    return [outcome async for outcome in coming]


@define(eq=False)
class Pulled:
    """An endless source of requests, which notes what was taken from it."""

    count: int = 0
    is_closed: bool = False

    def __iter__(self) -> Iterator[TextToVideo]:
        while True:
            self.count += 1
            yield SUNSET

    async def __aiter__(self) -> AsyncIterator[TextToVideo]:
        for request in self:
            await anyio.sleep(0.5)
            yield request


@define(eq=False)
class OnlyAsync:
    """The same, without the sync way."""

    pulled: Pulled = field(factory=Pulled)

    def __aiter__(self) -> AsyncIterator[TextToVideo]:
        return self.pulled.__aiter__()


@define(eq=False)
class Counting(Api):
    """An API that counts what is created and not yet taken off the list."""

    under_way: int = 0
    peak: int = 0

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """Answer as ever."""
        if request.method == "POST":
            self.under_way += 1
            self.peak = max(self.peak, self.under_way)
        return await super().answer(request)


# --- what comes


@on_each_loop
async def test_outcomes_come_in_order_of_completion() -> None:
    """Each with its place, its request and its generation."""
    api = Api({}, lives={n: ended_after(50 - 10 * n) for n in range(4)})
    requests = scenes(4)
    async with api.client(polling=Fixed(1)) as kling:
        outcomes = await outcomes_of(kling, requests)
    assert [it.index for it in outcomes] == [3, 2, 1, 0]
    for outcome in outcomes:
        assert outcome.request is requests[outcome.index]
        assert outcome.succeeded
        assert outcome.error is None
        assert outcome.generation is not None
        assert outcome.generation.id == f"g-{outcome.index}"


@on_each_loop
async def test_nothing_asked_for_is_nothing_done() -> None:
    """No requests, no outcomes."""
    async with Api({}).client() as kling:
        assert await outcomes_of(kling, []) == []


@on_each_loop
async def test_one_failure_stops_no_other() -> None:
    """Refused, failed, timed out or impossible: each is an outcome with its error."""
    api = Api(QUICK, lives={2: {0: FAILED}, 3: {0: "queued"}})
    api.refusals = {1: httpx.Response(400, json={"message": "no such scene"})}
    requests: list[TextToVideo | Mapping[str, object]] = [
        *scenes(4),
        {"model": SUNSET.model, "prompt": ""},
        {"model": SUNSET.model, "prompt": "A sunrise."},
    ]
    async with api.client() as kling:
        coming = kling.generate_many(requests, timeout=100)
        outcomes = {outcome.index: outcome async for outcome in coming}
    errors = [type(outcomes[index].error) for index in range(6)]
    refused, failed, late, invalid = BadRequestError, *errors[2:5]
    assert errors == [type(None), refused, failed, late, invalid, type(None)]
    assert failed is GenerationFailedError
    assert late is WaitTimeoutError
    assert invalid is InvalidRequestError
    ids = [it.generation and it.generation.id for _, it in sorted(outcomes.items())]
    assert ids == ["g-0", None, "g-2", "g-3", None, "g-4"]
    assert [it.succeeded for _, it in sorted(outcomes.items())] == [
        *[True, False, False, False, False, True],
    ]


@on_each_loop
@pytest.mark.parametrize("given", [None, 7, "A sunset.", ["A sunset."], {1: "x"}])
async def test_what_is_no_request_becomes_an_outcome(given: object) -> None:
    """It says what was given and what is allowed; nothing is sent for it."""
    api = Api(QUICK)
    async with api.client() as kling:
        coming = kling.generate_many([given, SUNSET])  # type: ignore[type-var]  # the slip
        outcomes = [outcome async for outcome in coming]
    error = outcomes[0].error
    assert isinstance(error, InvalidRequestError)
    assert "a request object, or a mapping" in str(error)
    assert [it.succeeded for it in outcomes] == [False, True]
    assert len(api.creates) == 1


@on_each_loop
async def test_a_bug_becomes_an_outcome_too() -> None:
    """Whatever it is, as an error of ours with the cause."""

    class Odd(TextToVideo):
        def to_body(self) -> dict[str, object]:
            raise ZeroDivisionError

    async with Api(QUICK).client() as kling:
        coming = kling.generate_many([Odd(prompt="Odd."), SUNSET])
        odd, fine = [outcome async for outcome in coming]
    assert isinstance(odd.error, KlingError)
    assert isinstance(odd.error.__cause__, ZeroDivisionError)
    assert fine.succeeded


# --- how many at once


@on_each_loop
@pytest.mark.parametrize("limit", [1, 3, 7])
async def test_never_more_are_under_way_than_allowed(limit: int) -> None:
    """And no fewer, as long as there is something to do."""
    lives = {n: ended_after(5 + 7 * n % 30) for n in range(20)}
    api = Counting({}, lives=lives, latency=1)
    async with api.client() as kling:
        async for _ in kling.generate_many(scenes(20), max_in_flight=limit):
            api.under_way -= 1
    assert api.peak == limit
    assert len(api.creates) == 20


@on_each_loop
async def test_a_slow_consumer_holds_the_next_ones_back() -> None:
    """What nobody has taken yet is still under way: nothing piles up."""
    api = Api(QUICK)
    kling = api.client()
    coming = kling.generate_many(scenes(9), max_in_flight=2)
    async with kling, aclosing(coming):
        await anext(coming)
        await anyio.sleep(3600)
        assert len(api.creates) == 3
        assert len([outcome async for outcome in coming]) == 8


@on_each_loop
@pytest.mark.parametrize("source", [Pulled(), OnlyAsync()], ids=["sync", "async"])
async def test_an_endless_source_is_read_only_as_places_get_free(
    source: Pulled | OnlyAsync,
) -> None:
    """Breaking out ends it: nothing more is read or created."""
    pulled = source.pulled if isinstance(source, OnlyAsync) else source
    pulled.count = 0
    api = Api(QUICK)
    before = await living_tasks()
    async with api.client() as kling:
        coming = kling.generate_many(source, max_in_flight=3)
        async with aclosing(coming) as outcomes:
            seen = 0
            async for _ in outcomes:
                seen += 1
                assert pulled.count <= seen + 3
                if seen == 10:
                    break
        assert await living_tasks() == before
        taken, created = pulled.count, len(api.creates)
        await anyio.sleep(3600)
    assert (pulled.count, len(api.creates)) == (taken, created)
    assert created <= taken <= 13


@pytest.mark.looptime
async def test_two_thousand_generations_work() -> None:
    """Hundreds at a time, over a hundred connections."""
    lives = {n: ended_after(200 + n % 600) for n in range(2000)}
    api = Api({}, lives=lives, latency=0.2)
    async with api.client(polling=Fixed(300)) as kling:
        outcomes = await outcomes_of(kling, scenes(2000), max_in_flight=500)
    assert sorted(it.index for it in outcomes) == list(range(2000))
    assert all(it.succeeded for it in outcomes)
    assert len(api.creates) == 2000


# --- a source that fails


class SourceError(Exception):
    """What a user's own source may raise."""


def failing_after(count: int) -> Iterator[TextToVideo]:
    """Give some requests, then fail."""
    yield from scenes(count)
    raise SourceError("the file ends here")


async def failing_slowly_after(count: int) -> AsyncIterator[TextToVideo]:
    """Do the same, asynchronously."""
    for request in failing_after(count):
        await anyio.sleep(1)
        yield request


@on_each_loop
@pytest.mark.parametrize("source", [failing_after, failing_slowly_after])
@pytest.mark.parametrize("count", [0, 1, 5])
async def test_a_source_that_fails_is_told_after_the_outcomes(
    source: object, count: int
) -> None:
    """What was created is paid for: its outcome comes first, then the error."""
    api, seen = Api(QUICK), 0
    async with api.client() as kling:
        requests = source(count)  # type: ignore[operator]  # a function, of either kind

        async def consume() -> None:
            nonlocal seen
            async for outcome in kling.generate_many(requests, max_in_flight=2):
                seen += outcome.succeeded

        with pytest.raises(SourceError, match="the file ends here"):
            await consume()
    assert seen == len(api.creates) == count


# --- how it is left


@on_each_loop
async def test_leaving_early_leaves_the_ids_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Of all that go on, also of those whose create was under way."""
    api = Api({}, lives={n: ended_after(50 + n) for n in range(9)}, latency=4)
    api.lives = {**api.lives, 0: ended_after(5)}
    before = await living_tasks()
    with caplog.at_level(logging.WARNING, "kling_async"):
        async with api.client() as kling:
            coming = kling.generate_many(scenes(9), max_in_flight=3)
            async with aclosing(coming) as outcomes:
                first = await anext(outcomes)
                await anyio.sleep(2)
            assert len(api.creates) == 4
            await anyio.sleep(60)
            assert await living_tasks() == before
    assert first.index == 0
    told = " ".join(record.message for record in caplog.records)
    assert [f"wait('g-{n}')" in told for n in range(5)] == [
        *[False, True, True, True, False],
    ]
    assert len(caplog.records) == 3
    assert len(api.creates) == 4


@on_each_loop
async def test_leaving_with_an_outcome_in_hand_pays_for_no_more() -> None:
    """Its place has just gone to the next request, which is not read any more."""
    api, left = Api(QUICK), iter(scenes(9))
    async with api.client() as kling:
        async with aclosing(kling.generate_many(left, max_in_flight=1)) as coming:
            await anext(coming)
        await anyio.sleep(3600)
    assert len(api.creates) == 1
    assert len(list(left)) == 8


@on_each_loop
async def test_a_cancelled_consumer_leaves_nothing_behind() -> None:
    """Under a task group's cancellation; nothing new is created."""
    api = Api({0: "queued"})
    before = await living_tasks()
    async with api.client() as kling:
        with anyio.move_on_after(25) as scope:
            await outcomes_of(kling, scenes(9), max_in_flight=4)
        assert scope.cancelled_caught
        assert await living_tasks() == before
        await anyio.sleep(3600)
    assert len(api.creates) == 4


@pytest.mark.looptime
async def test_a_timeout_of_asyncio_cuts_it() -> None:
    """Also while the consumer itself is what takes long."""
    api = Api(QUICK)
    before = await living_tasks()

    async def consume(kling: AsyncKling) -> None:
        async for _ in kling.generate_many(scenes(9), max_in_flight=2):
            await asyncio.sleep(3600)

    async with api.client() as kling:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(consume(kling), 25)
        gc.collect()
        await asyncio.sleep(1)
        assert await living_tasks() == before
    assert len(api.creates) == 3


@pytest.mark.looptime
async def test_whoever_breaks_out_without_closing_leaves_nothing_behind() -> None:
    """The garbage collector closes it, and there is no warning."""
    api = Api(QUICK)
    before = await living_tasks()
    async with api.client() as kling:
        async for _ in kling.generate_many(scenes(9), max_in_flight=2):
            break
        gc.collect()
        await asyncio.sleep(60)
        assert await living_tasks() == before
    assert len(api.creates) <= 3


@on_each_loop
async def test_an_error_of_the_consumer_comes_through() -> None:
    """And ends the work as a break does."""
    api = Api(QUICK)
    before = await living_tasks()

    async def consume(kling: AsyncKling) -> None:
        async with aclosing(kling.generate_many(scenes(9), max_in_flight=2)) as coming:
            async for _ in coming:
                raise ZeroDivisionError

    async with api.client() as kling:
        with pytest.raises(ZeroDivisionError):
            await consume(kling)
        assert await living_tasks() == before


@on_each_loop
async def test_closing_the_client_ends_it() -> None:
    """With the error that says so; nothing new is created."""
    api = Api({0: "queued"})
    before = await living_tasks()
    kling = api.client()

    async def consume() -> None:
        with pytest.raises(ClientClosedError):
            await outcomes_of(kling, scenes(9), max_in_flight=4)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(consume)
        await anyio.sleep(25)
        await kling.aclose()
    assert await living_tasks() == before
    assert len(api.creates) == 4
    with pytest.raises(ClientClosedError):
        await outcomes_of(kling, [SUNSET])


# --- bad input


@on_each_loop
@pytest.mark.parametrize("limit", [0, -1, 1.5, "3", True, None, math.nan])
async def test_a_limit_that_is_none_is_refused(limit: int) -> None:
    """Before anything is read or created."""
    api, pulled = Api(QUICK), Pulled()
    async with api.client() as kling:
        with pytest.raises(ConfigurationError, match="max_in_flight: given"):
            await outcomes_of(kling, pulled, max_in_flight=limit)
    assert (pulled.count, api.creates) == (0, [])


@on_each_loop
@pytest.mark.parametrize("given", [SUNSET, {"model": "m"}, "abc", b"abc", 7, None])
async def test_what_is_not_many_is_refused(given: Iterable[TextToVideo]) -> None:
    """One request instead of a list of one, say."""
    api = Api(QUICK)
    async with api.client() as kling:
        with pytest.raises(ConfigurationError, match=r"requests: given .* a list of"):
            await outcomes_of(kling, given)
    assert api.creates == []


@on_each_loop
async def test_a_timeout_that_is_none_is_refused_once() -> None:
    """And not as an outcome of each request."""
    async with Api(QUICK).client() as kling:
        coming = kling.generate_many([SUNSET], timeout=-1)
        with pytest.raises(ConfigurationError, match="timeout: given -1"):
            await anext(coming)


# --- the whole way


@on_each_loop
async def test_the_emulators_generations_all_come() -> None:
    """Real requests, some of which fail; what is billed is what came."""
    emulator = Emulator(speed=1, size=64, failure_rate=0.3)
    http = httpx.AsyncClient(transport=httpx.ASGITransport(app=emulator.app))
    kling = AsyncKling("some-key", base_url="https://kling.test", http_client=http)
    async with http, kling:
        requests = itertools.repeat(SUNSET, 40)
        outcomes = await outcomes_of(kling, requests, max_in_flight=10)
    assert sorted(it.index for it in outcomes) == list(range(40))
    failed = [it for it in outcomes if not it.succeeded]
    assert 0 < len(failed) < 40
    assert {type(it.error) for it in failed} == {GenerationFailedError}
    ids = {it.generation.id for it in outcomes if it.generation}
    assert ids == {it.generation_id for it in emulator.creates}


@on_each_loop
async def test_an_account_that_allows_five_at_once_gets_forty_videos() -> None:
    """A 429 holds the batch back and fails nothing; nor is it met over and over."""
    born: dict[str, float] = {}
    refused = 0

    async def serve(request: httpx.Request) -> httpx.Response:
        nonlocal refused
        await anyio.sleep(0.1)
        now = anyio.current_time()
        running = [it for it, since in born.items() if now < since + 120]
        if request.method == "POST":
            if len(running) >= 5:
                refused += 1
                return httpx.Response(429, json={"message": "five at once"})
            born[f"g-{len(born)}"] = now
            return httpx.Response(200, json={"id": f"g-{len(born) - 1}"})
        told = request.url.params["generation_id"]
        return httpx.Response(200, json={"id": told} if told in running else done())

    mine = httpx.AsyncClient(transport=httpx.MockTransport(serve))
    async with mine, AsyncKling("key", http_client=mine) as kling:
        outcomes = [it async for it in kling.generate_many([SUNSET] * 40)]
    assert [it.error for it in outcomes if it.error] == []
    assert len(born) == 40
    assert refused < 400


@on_each_loop
async def test_an_account_that_allows_nothing_fails_a_batch_in_the_end() -> None:
    """Not before its time is up, and with the refusal itself."""
    api = Api({}, refusals=dict.fromkeys(range(10_000), httpx.Response(429)))
    async with api.client() as kling:
        outcomes = [it async for it in kling.generate_many([SUNSET] * 3, timeout=600)]
    assert {type(it.error) for it in outcomes} == {RateLimitError}
    assert 500 < api.now < 900

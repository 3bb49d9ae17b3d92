"""Lost answers to creates: found again, sent again or told of, never paid twice.

The emulator is the vendor, behind a network that loses what a test says; no socket,
and a clock that jumps. What a real socket does to an answer is in
`test_lost_answers`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import gc
import logging
import math
from collections.abc import Awaitable, Callable, Sequence

import anyio
import httpx
import pytest
from attrs import define, field
from jumping_clock import on_each_loop

from kling_async import (
    AsyncKling,
    BadRequestError,
    ClientClosedError,
    CreatedEvent,
    Generation,
    Hooks,
    InvalidRequestError,
    KlingError,
    NotFoundError,
    RateLimitError,
    RetryPolicy,
    Status,
    SubmissionUncertainError,
    TextToVideo,
    TransportError,
    UncertainEvent,
)
from kling_async.emulator import Emulator

pytestmark = pytest.mark.looptime

MODEL = "klingai/v2-master-text-to-video"
PROMPT = "A paper boat crosses a puddle."
POLICY: Callable[..., RetryPolicy] = RetryPolicy  # take what a test gives
EMULATOR: Callable[..., Emulator] = Emulator
Forward = Callable[..., Awaitable[httpx.Response]]
Fate = Callable[[Forward], Awaitable[httpx.Response]]


async def answered(forward: Forward) -> httpx.Response:
    """Lose nothing."""
    return await forward()


async def reset(forward: Forward) -> httpx.Response:
    """Break the connection off once the work was accepted."""
    await forward()
    raise httpx.ReadError("connection reset by peer")


async def silence(forward: Forward) -> httpx.Response:
    """Accept the work, and never say so."""
    await forward()
    await anyio.sleep(60)
    raise httpx.ReadTimeout("")


async def bad_gateway(forward: Forward) -> httpx.Response:
    """Accept the work, and answer that something behind has failed."""
    await forward()
    return httpx.Response(502, text="<html><title>Bad gateway</title></html>")


async def garbage(forward: Forward) -> httpx.Response:
    """Accept the work, and answer with what nobody can read."""
    await forward()
    return httpx.Response(200, text='{"id": "8')


async def vanished(_: Forward) -> httpx.Response:
    """Take the request, and lose it: it never reaches the queue or the log."""
    await anyio.sleep(0.1)
    raise httpx.ReadError("connection reset by peer")


async def refused(_: Forward) -> httpx.Response:
    """Let no connection be made."""
    await anyio.sleep(0.1)
    raise httpx.ConnectError("connection refused")


async def busy(_: Forward) -> httpx.Response:
    """Answer that there are too many, and write no row about it."""
    await anyio.sleep(0.1)
    return httpx.Response(429, json={"message": "Too many requests"})


async def down(_: Forward) -> httpx.Response:
    """Answer that the service is down."""
    await anyio.sleep(0.1)
    return httpx.Response(503, json={"message": "Service unavailable"})


LOST_ONCE_ACCEPTED = (reset, silence, bad_gateway, garbage)


@define(eq=False)
class Network:
    """What lies between a client and the emulator.

    Attributes:
        emulator: The vendor.
        fates: What becomes of each create in its turn; those after it are answered.
        log_fates: Likewise of each reading of the log.
        log_reads: The queries that the log was asked with.
        posts: The client request ids of the creates that were sent.
        posted: Set when the first of them is on its way.
    """

    emulator: Emulator
    fates: list[Fate] = field(factory=list[Fate])
    log_fates: list[Fate] = field(factory=list[Fate])
    log_reads: list[httpx.QueryParams] = field(factory=list[httpx.QueryParams])
    posts: list[str] = field(factory=list[str])
    posted: anyio.Event = field(factory=anyio.Event)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry a request there, and perhaps its answer back."""
        await anyio.sleep(0.05)
        inner = httpx.ASGITransport(app=self.emulator.app)

        async def forward(content: bytes | None = None) -> httpx.Response:
            sent = request
            if content is not None:
                headers = {**request.headers, "content-length": str(len(content))}
                sent = httpx.Request(
                    "POST", request.url, headers=headers, content=content
                )
            return await inner.handle_async_request(sent)

        fates: list[Fate] = []
        if request.method == "POST":
            self.posts.append(request.headers["x-client-request-id"])
            self.posted.set()
            fates = self.fates
        elif request.url.path == "/v2/logs":
            self.log_reads.append(request.url.params)
            fates = self.log_fates
        return await (fates.pop(0) if fates else answered)(forward)


@define(eq=False)
class Told:
    """What the hooks of a client were told."""

    created: list[CreatedEvent] = field(factory=list[CreatedEvent])
    uncertain: list[UncertainEvent] = field(factory=list[UncertainEvent])

    @property
    def hooks(self) -> Hooks:
        """Make the hooks."""
        return Hooks(on_created=self.created.append, on_uncertain=self.uncertain.append)

    @property
    def outcomes(self) -> list[str]:
        """Give what was told of lost creates, in order."""
        return [event.outcome for event in self.uncertain]


def client_of(
    network: Network, told: Told | None = None, **policy: object
) -> AsyncKling:
    """Make a client behind a network."""
    return AsyncKling(
        "any-key",
        base_url="https://kling",
        http_client=httpx.AsyncClient(
            transport=httpx.MockTransport(network.handle_async_request)
        ),
        hooks=(told or Told()).hooks,
        retry=POLICY(**policy),
    )


def network_of(
    *fates: Fate, log_fates: Sequence[Fate] = (), **options: float
) -> Network:
    """Make a network in front of an emulator with these options."""
    emulator = EMULATOR(speed=1, size=64, **options)
    return Network(emulator, fates=list(fates), log_fates=list(log_fates))


async def create(kling: AsyncKling, client_request_id: str | None = None) -> Generation:
    """Create a generation."""
    request = TextToVideo(model=MODEL, prompt=PROMPT)
    return await kling.create(request, client_request_id=client_request_id)


async def leave(kling: AsyncKling, network: Network, *, after: float) -> None:
    """Create, and be cancelled so many seconds after it was sent."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(create, kling)
        await network.posted.wait()
        await anyio.sleep(after)
        tasks.cancel_scope.cancel()


def ids(network: Network) -> list[str]:
    """Give the ids of the generations that would be billed."""
    return [record.generation_id for record in network.emulator.creates]


# --- found again


@pytest.mark.parametrize("fate", LOST_ONCE_ACCEPTED)
async def test_a_lost_answer_is_found_again(fate: Fate) -> None:
    """The caller gets the generation as if nothing had happened."""
    network, told = network_of(fate), Told()
    async with client_of(network, told) as kling:
        generation = await create(kling)
    assert [generation.id] == ids(network)
    assert generation.status in {Status.QUEUED, Status.GENERATING}
    assert generation.inference_id == generation.id
    assert generation.client_request_id == network.posts[0]
    assert [event.generation.id for event in told.created] == ids(network)
    assert told.outcomes == ["lost", "found"]
    assert told.uncertain[1].generation_id == generation.id


@pytest.mark.parametrize("fate", LOST_ONCE_ACCEPTED)
async def test_a_row_that_comes_late_is_waited_for(fate: Fate) -> None:
    """The vendor's analytics lag behind."""
    network = network_of(fate, log_delay=40)
    async with client_of(network) as kling:
        generation = await create(kling)
    assert [generation.id] == ids(network)
    assert len(network.posts) == 1


async def test_a_log_that_fails_for_a_while_is_outlived() -> None:
    """Each way of failing, one after another."""
    network = network_of(reset, log_fates=[down, reset, busy, garbage, refused])
    async with client_of(network) as kling:
        generation = await create(kling)
    assert [generation.id] == ids(network)


async def test_a_log_that_hangs_is_asked_again() -> None:
    """A page of it is waited for ten seconds, not for the whole time."""
    network = network_of(reset, log_fates=[silence, silence])
    async with client_of(network) as kling:
        generation = await create(kling)
    assert [generation.id] == ids(network)
    assert anyio.current_time() < 40


async def test_a_row_on_the_third_page_is_found() -> None:
    """Two hundred others with the same key came later."""
    network = network_of(reset, log_delay=5)
    async with client_of(network) as kling:
        lost: list[Generation] = []

        async def one() -> None:
            lost.append(await create(kling))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            await anyio.sleep(0.2)
            for _ in range(230):
                tasks.start_soon(create, kling)
    first = network.emulator.creates[0]
    assert lost[0].id == first.generation_id
    assert lost[0].client_request_id == first.client_request_id
    assert "200" in {query["offset"] for query in network.log_reads}


async def test_many_lost_answers_share_the_readings_of_the_log() -> None:
    """Three hundred at once, and each caller gets its own generation."""
    network = network_of(*[reset] * 300, log_delay=3)
    found: dict[str, str] = {}
    async with client_of(network) as kling:

        async def one(number: int) -> None:
            generation = await create(kling, client_request_id=f"r-{number}")
            found[f"r-{number}"] = generation.id

        async with anyio.create_task_group() as tasks:
            for number in range(300):
                tasks.start_soon(one, number)
    paid = {it.client_request_id: it.generation_id for it in network.emulator.creates}
    assert found == paid
    assert len(network.log_reads) < 30


async def test_a_generation_that_cannot_be_polled_is_adopted_all_the_same() -> None:
    """Its id is what counts; the status will be seen by whoever watches."""
    network = network_of(reset)

    async def find_only(request: httpx.Request) -> httpx.Response:
        if "generation_id" in request.url.params:
            return httpx.Response(503)
        return await network.handle_async_request(request)

    http = httpx.AsyncClient(transport=httpx.MockTransport(find_only))
    async with AsyncKling(
        "any-key", base_url="https://kling", http_client=http
    ) as kling:
        generation = await create(kling)
    assert [generation.id] == ids(network)
    assert generation.status == Status.UNKNOWN
    assert generation.client_request_id == network.posts[0]


@on_each_loop
async def test_on_trio_too_a_lost_answer_is_found_again() -> None:
    """Whichever event loop it is."""
    network = network_of(reset, log_delay=10)
    async with client_of(network) as kling:
        generation = await create(kling)
    assert [generation.id] == ids(network)


async def test_generate_goes_on_with_what_was_found() -> None:
    """To the video, as if the answer had not been lost."""
    network = network_of(reset)
    async with client_of(network) as kling:
        generation = await kling.generate(model=MODEL, prompt=PROMPT)
    assert generation.succeeded
    assert [generation.id] == ids(network)


# --- failed


async def busy_with_a_row(forward: Forward) -> httpx.Response:
    """Answer that there are too many, and list that as a failed request."""
    await forward(b'{"model": "' + MODEL.encode() + b'"}')  # no prompt: refused
    return httpx.Response(429, json={"message": "Too many requests"})


async def failed_with_a_row(forward: Forward) -> httpx.Response:
    """List it as a failed request, and lose the answer."""
    await busy_with_a_row(forward)
    raise httpx.ReadError("connection reset by peer")


async def test_what_the_log_lists_as_failed_is_told_as_unbilled() -> None:
    """The first error is raised: nothing is sent again, and nothing was billed."""
    network, told = network_of(failed_with_a_row), Told()
    async with client_of(network, told) as kling:
        with pytest.raises(TransportError) as caught:
            await create(kling)
    assert caught.value.is_unbilled
    assert "nothing is billed" in str(caught.value)
    assert isinstance(caught.value.__cause__, httpx.ReadError)
    assert len(network.posts) == 1
    assert told.outcomes == ["lost", "failed"]


async def test_a_failed_row_proves_nothing_of_an_id_of_the_callers_own() -> None:
    """It may be of an earlier use, elsewhere: it is told as uncertain."""
    network = network_of(failed_with_a_row)
    async with client_of(network) as kling:
        with pytest.raises(SubmissionUncertainError) as caught:
            await create(kling, client_request_id="order-1")
    assert not caught.value.is_unbilled
    assert len(network.posts) == 1


async def test_an_attempt_that_was_never_sent_leaves_no_row_to_wait_for() -> None:
    """So the one row there is, is that of the attempt that was."""
    network = network_of(refused, failed_with_a_row)
    async with client_of(network) as kling:
        with pytest.raises(TransportError) as caught:
            await create(kling)
    assert caught.value.is_unbilled
    assert anyio.current_time() < 10


async def test_a_failure_of_an_earlier_attempt_is_not_taken_for_the_last() -> None:
    """The first is logged as failed; the second is accepted, and its row is late."""
    network = network_of(busy_with_a_row, reset, log_delay=8)
    async with client_of(network) as kling:
        generation = await create(kling)
    assert [generation.id] == ids(network)
    assert len(network.posts) == 2


# --- neither in time


async def test_what_is_not_there_in_time_is_told_and_not_sent_again() -> None:
    """The error says what to look for, and since when."""
    before = dt.datetime.now(dt.UTC)
    network, told = network_of(vanished), Told()
    async with client_of(network, told) as kling:
        with pytest.raises(SubmissionUncertainError) as caught:
            await create(kling, client_request_id="order-1")
    error = caught.value
    assert error.client_request_id == "order-1"
    assert before <= error.since <= dt.datetime.now(dt.UTC)
    assert isinstance(error.__cause__, TransportError)
    assert 60 <= anyio.current_time() < 62
    assert network.posts == ["order-1"]
    assert told.outcomes == ["lost", "missing"]
    assert not told.created
    assert not hasattr(error, "__notes__")


@pytest.mark.parametrize("fate", [*LOST_ONCE_ACCEPTED, vanished])
async def test_without_a_log_every_lost_create_is_uncertain(fate: Fate) -> None:
    """And none is sent twice."""
    network = network_of(*[fate] * 5, request_log=False)
    async with client_of(network) as kling:
        for _ in range(5):
            with pytest.raises(SubmissionUncertainError) as caught:
                await create(kling)
            assert "could not be read" in str(caught.value)
        assert (await create(kling)).id == ids(network)[-1]
    assert len(network.posts) == 6


async def test_the_time_to_look_is_that_of_the_policy() -> None:
    """Down to no time at all."""
    network = network_of(vanished, vanished)
    async with client_of(network, reconcile_timeout=7) as kling:
        with pytest.raises(SubmissionUncertainError):
            await create(kling)
        assert anyio.current_time() == pytest.approx(7, abs=0.3)
        hasty = kling.with_options(retry=RetryPolicy(reconcile_timeout=0))
        with pytest.raises(SubmissionUncertainError):
            await create(hasty)
    assert anyio.current_time() == pytest.approx(7, abs=0.5)


async def test_who_would_rather_know_at_once_is_told_at_once() -> None:
    """`uncertain="raise"` reads no log."""
    network, told = network_of(reset), Told()
    async with client_of(network, told, uncertain="raise") as kling:
        with pytest.raises(SubmissionUncertainError):
            await create(kling)
    assert not network.log_reads
    assert told.outcomes == ["lost"]


async def test_who_takes_the_risk_may_pay_twice() -> None:
    """`uncertain="retry"` reads no log either, and sends it again."""
    network = network_of(reset)
    async with client_of(network, uncertain="retry") as kling:
        generation = await create(kling)
    assert len(ids(network)) == 2
    assert generation.id == ids(network)[1]
    assert not network.log_reads


@pytest.mark.parametrize(
    "fate, error", [(refused, TransportError), (busy, RateLimitError)]
)
async def test_what_is_certain_is_not_looked_up(
    fate: Fate, error: type[KlingError]
) -> None:
    """No connection, or a 429: it did not reach the queue, as ever."""
    network = network_of(*[fate] * 5)
    async with client_of(network) as kling:
        with pytest.raises(error):
            await create(kling)
    assert len(network.posts) == 5
    assert not network.log_reads


async def test_a_refusal_is_not_looked_up() -> None:
    """A 400 says that nothing was accepted."""

    async def refuse(_: Forward) -> httpx.Response:
        return httpx.Response(400, json={"message": "no"})

    network = network_of(refuse)
    async with client_of(network) as kling:
        with pytest.raises(BadRequestError):
            await create(kling)
    assert not network.log_reads


async def test_a_busy_log_does_not_keep_the_client_back() -> None:
    """It has a limit of its own: others go on while it is waited for."""

    async def too_many(_: Forward) -> httpx.Response:
        headers = {"retry-after": "25"}
        return httpx.Response(429, json={"message": "slow"}, headers=headers)

    network = network_of(reset, log_fates=[too_many])
    async with client_of(network) as kling, anyio.create_task_group() as tasks:
        tasks.start_soon(create, kling)
        await network.posted.wait()
        await anyio.sleep(5)
        started = anyio.current_time()
        await kling.get(ids(network)[0])
        assert anyio.current_time() - started < 1
    assert anyio.current_time() > 25


async def test_the_id_that_a_failure_names_is_on_the_error() -> None:
    """A 500 that carries `x-inference-id`: whoever is told can ask for it."""

    async def traced(_: Forward) -> httpx.Response:
        await anyio.sleep(0.1)
        return httpx.Response(500, headers={"x-inference-id": "g-1"})

    network = network_of(traced)
    async with client_of(network) as kling:
        with pytest.raises(SubmissionUncertainError) as caught:
            await create(kling)
    assert caught.value.generation_id == "g-1"


async def test_the_generation_that_a_failure_names_is_adopted() -> None:
    """If the server knows it: no log is needed."""

    async def traced(forward: Forward) -> httpx.Response:
        inference_id = (await forward()).headers["x-inference-id"]
        return httpx.Response(504, headers={"x-inference-id": inference_id})

    network, told = network_of(traced, request_log=False), Told()
    async with client_of(network, told) as kling:
        generation = await create(kling)
    assert [generation.id] == ids(network)
    assert generation.status == Status.QUEUED
    assert generation.client_request_id == network.posts[0]
    assert [event.generation.id for event in told.created] == ids(network)
    assert told.outcomes == ["lost", "found"]
    assert not network.log_reads


async def test_a_pause_of_the_client_does_not_keep_the_search_back() -> None:
    """A 429 on a poll says nothing about the log."""
    network = network_of(reset)

    async def carry(request: httpx.Request) -> httpx.Response:
        if "generation_id" in request.url.params:
            return httpx.Response(429, headers={"retry-after": "60"})
        return await network.handle_async_request(request)

    http = httpx.AsyncClient(transport=httpx.MockTransport(carry))
    kling = AsyncKling("any-key", base_url="https://kling", http_client=http)
    async with kling, anyio.create_task_group() as tasks:

        async def one() -> None:
            generation = await create(kling)
            assert [generation.id] == ids(network)
            assert anyio.current_time() < 15
            tasks.cancel_scope.cancel()

        tasks.start_soon(one)
        await network.posted.wait()
        await kling.get("g-1")


async def test_a_client_without_a_free_place_still_gives_up_in_time() -> None:
    """The search waits for a place like any exchange, but not beyond its time."""
    network = network_of(reset)

    async def carry(request: httpx.Request) -> httpx.Response:
        if "generation_id" in request.url.params:
            await anyio.sleep(59)
        return await network.handle_async_request(request)

    http = httpx.AsyncClient(transport=httpx.MockTransport(carry))
    policy = RetryPolicy(reconcile_timeout=30)
    kling = AsyncKling(
        "any-key",
        base_url="https://kling",
        http_client=http,
        max_connections=1,
        retry=policy,
    )
    async with kling, anyio.create_task_group() as tasks:

        async def one() -> None:
            with pytest.raises(SubmissionUncertainError) as caught:
                await create(kling)
            assert "in time" in str(caught.value)
            assert 30 <= anyio.current_time() < 31
            tasks.cancel_scope.cancel()

        tasks.start_soon(one)
        await network.posted.wait()
        await kling.get("g-1")


async def test_a_create_that_was_not_sent_before_the_close_is_not_uncertain() -> None:
    """A 429 held it back: nobody needs to look for it."""
    errors: list[KlingError] = []

    async def carry(request: httpx.Request) -> httpx.Response:
        assert request.method == "GET"
        await anyio.sleep(0.1)
        return httpx.Response(429, headers={"retry-after": "60"})

    http = httpx.AsyncClient(transport=httpx.MockTransport(carry))
    kling = AsyncKling("any-key", base_url="https://kling", http_client=http)

    async def one(call: Callable[[], Awaitable[object]]) -> None:
        try:
            await call()
        except KlingError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one, lambda: kling.get("g-1"))
        await anyio.sleep(1)
        tasks.start_soon(one, lambda: create(kling))
        await anyio.sleep(1)
        await kling.aclose()
    assert [type(error) for error in errors] == [ClientClosedError] * 2


# --- one id on several creates


async def test_of_two_creates_of_one_id_nobody_is_given_the_others() -> None:
    """Both lost at once: both are told as uncertain, with what the log lists."""
    network, told = network_of(reset, reset, log_delay=3), list[str]()
    async with client_of(network) as kling:

        async def one() -> None:
            with pytest.raises(SubmissionUncertainError) as caught:
                await create(kling, client_request_id="order-1")
            told.append(str(caught.value))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(one)
            tasks.start_soon(one)
    assert len(network.posts) == 2
    assert all(generation_id in it for it in told for generation_id in ids(network))


async def test_an_order_that_was_refused_and_is_sent_again_is_billed_once() -> None:
    """By another client, as another process would, under the order's number."""
    network = network_of(refused_with_a_row, reset, log_delay=5)
    with pytest.raises(BadRequestError):
        await create(client_of(network), client_request_id="order-1")
    generation = await create(client_of(network), client_request_id="order-1")
    assert [generation.id] == ids(network)
    assert len(network.posts) == 2


async def refused_with_a_row(forward: Forward) -> httpx.Response:
    """Refuse the create, and list that."""
    return await forward(b'{"model": "' + MODEL.encode() + b'"}')  # no prompt


async def answered_without_headers(forward: Forward) -> httpx.Response:
    """Let nothing through but the body, as some gateways do."""
    answer = await forward()
    return httpx.Response(answer.status_code, content=await answer.aread())


@pytest.mark.parametrize("seconds_between", [0, 3])
@pytest.mark.parametrize("fate", [answered, answered_without_headers])
async def test_the_generation_of_an_earlier_create_is_not_handed_out_again(
    fate: Fate, seconds_between: float
) -> None:
    """The first was answered, the second is lost, under the same id."""
    network = network_of(fate, reset, log_delay=5)
    async with client_of(network) as kling:
        first = await create(kling, client_request_id="order-1")
        await anyio.sleep(seconds_between)
        second = await create(kling, client_request_id="order-1")
    assert [first.id, second.id] == ids(network)


# --- callers that leave, clients that close


async def test_a_caller_that_leaves_does_not_lose_the_id() -> None:
    """The search goes on in the client: the id reaches the hook, and the log."""
    network, told = network_of(reset, log_delay=20), Told()
    async with client_of(network, told) as kling:
        await leave(kling, network, after=5)
        assert not told.created
        await anyio.sleep(30)
        assert [event.generation.id for event in told.created] == ids(network)


async def test_what_failed_after_the_caller_left_is_not_sent_again() -> None:
    """Nobody wants it any more."""
    network, told = network_of(failed_with_a_row, log_delay=20), Told()
    async with client_of(network, told) as kling:
        await leave(kling, network, after=5)
        await anyio.sleep(60)
    assert told.outcomes == ["lost", "failed"]
    assert len(network.posts) == 1


async def test_closing_waits_for_a_search_as_long_as_for_an_exchange() -> None:
    """A create under way is waited for, its answer lost or not."""
    network, told = network_of(reset, log_delay=20), Told()
    kling = client_of(network, told)
    await leave(kling, network, after=5)
    await kling.aclose()
    assert [event.generation.id for event in told.created] == ids(network)
    assert 20 <= anyio.current_time() < 30


async def test_closing_loses_patience_after_the_time_out() -> None:
    """The caller is told what to look for; the log has told it already."""
    network, told = network_of(reset, log_delay=math.inf), Told()
    kling = client_of(network, told, reconcile_timeout=3600)
    errors: list[KlingError] = []

    async def one() -> None:
        try:
            await create(kling, client_request_id="order-1")
        except SubmissionUncertainError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(one)
        await network.posted.wait()
        await anyio.sleep(5)
        await kling.aclose()
    assert anyio.current_time() == pytest.approx(65, abs=1)
    assert [error.client_request_id for error in errors] == ["order-1"]
    assert told.outcomes == ["lost"]


async def test_an_answer_lost_while_closing_is_still_looked_for() -> None:
    """The client takes no new work by then; the search is part of the create."""
    network, told = network_of(slowly_reset), Told()
    kling = client_of(network, told)
    await leave(kling, network, after=5)
    await kling.aclose()
    assert told.outcomes == ["lost", "found"]
    assert [event.generation.id for event in told.created] == ids(network)


async def slowly_reset(forward: Forward) -> httpx.Response:
    """Accept the work, and break the connection off half a minute later."""
    await forward()
    await anyio.sleep(30)
    raise httpx.ReadError("connection reset by peer")


async def test_a_create_cut_off_by_closing_is_told_of() -> None:
    """Also when its answer has not come by the end of the client's patience."""

    async def never(_: Forward) -> httpx.Response:
        await anyio.sleep_forever()
        raise AssertionError

    network, told = network_of(never), Told()
    kling = client_of(network, told)
    await leave(kling, network, after=0)
    await kling.aclose()
    assert told.outcomes == ["lost"]


async def test_nothing_is_left_behind(caplog: pytest.LogCaptureFixture) -> None:
    """No task outlives the client, no error goes unretrieved."""
    before = len(asyncio.all_tasks())
    network = network_of(*[reset] * 20, log_delay=3)
    async with client_of(network) as kling, anyio.create_task_group() as tasks:
        for _ in range(20):
            tasks.start_soon(create, kling)
    assert len(asyncio.all_tasks()) == before
    gc.collect()
    assert [r for r in caplog.records if r.name == "asyncio"] == []


async def test_the_log_of_the_program_names_what_was_lost(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Also for those who have no hooks."""
    network = network_of(vanished)
    async with client_of(network) as kling:
        with pytest.raises(SubmissionUncertainError):
            await create(kling, client_request_id="order-1")
    told = [r for r in caplog.records if "order-1" in r.getMessage()]
    assert [r.levelno for r in told] == [logging.WARNING, logging.ERROR]


# --- reconcile, for later and for another process


def reconcile_of(kling: AsyncKling) -> Callable[..., Awaitable[object]]:
    """Give `reconcile` to a caller that annotations do not hold back."""
    return kling.reconcile


async def lost_for_good(network: Network, client_request_id: str = "order-1") -> None:
    """Lose a create and its client too, as a crash does."""
    network.fates.append(reset)
    async with client_of(network, uncertain="raise") as kling:
        with pytest.raises(SubmissionUncertainError):
            await create(kling, client_request_id=client_request_id)


async def test_an_id_of_a_crashed_process_is_found() -> None:
    """By a client that knows nothing but the id."""
    network = network_of()
    await lost_for_good(network)
    async with client_of(network) as kling:
        generation = await kling.reconcile("order-1")
        assert generation is not None
        assert [generation.id] == ids(network)
        assert generation.client_request_id == "order-1"
        assert (await kling.wait(generation)).succeeded
        again = await kling.reconcile("order-1")
        assert again is not None
        assert again.succeeded
        assert again.video is not None


async def test_an_id_that_never_came_is_none() -> None:
    """After the time that a row may take to come."""
    network = network_of()
    async with client_of(network) as kling:
        assert await kling.reconcile("order-1", timeout=10) is None
        assert anyio.current_time() == pytest.approx(10, abs=0.3)
        assert await kling.reconcile("order-1") is None
        assert anyio.current_time() == pytest.approx(70, abs=0.6)


async def test_an_id_that_failed_is_none() -> None:
    """It costs nothing; but a later attempt's row is waited for."""
    network = network_of(failed_with_a_row)
    async with client_of(network, uncertain="raise") as kling:
        with pytest.raises(SubmissionUncertainError):
            await create(kling, client_request_id="order-1")
        assert await kling.reconcile("order-1", timeout=5) is None


async def test_none_is_not_said_of_a_log_that_was_not_read_to_its_end() -> None:
    """The error says how far it got."""
    network = network_of()

    async def carry(request: httpx.Request) -> httpx.Response:
        await anyio.sleep(0.08)
        offset = int(request.url.params["offset"])
        created = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=offset)
        rows = [{"created": created.isoformat(), "status": "failed", "model": "m"}]
        return httpx.Response(
            200, json={"data": rows * 100, "pagination": {"has_more": True}}
        )

    http = httpx.AsyncClient(transport=httpx.MockTransport(carry))
    kling = AsyncKling("any-key", base_url="https://kling", http_client=http)
    with pytest.raises(SubmissionUncertainError, match=r"only back to 20.* be read"):
        await kling.reconcile("order-1", timeout=3)
    assert not network.posts


async def test_a_long_log_is_read_no_faster_than_the_vendor_allows() -> None:
    """200 pages in any 60 s, and the search goes on after each pause."""
    times: list[float] = []

    async def carry(_: httpx.Request) -> httpx.Response:
        await anyio.sleep(0.01)
        times.append(anyio.current_time())
        rows = [{"created": None, "status": "failed", "model": "m"}]
        return httpx.Response(
            200, json={"data": rows, "pagination": {"has_more": True}}
        )

    http = httpx.AsyncClient(transport=httpx.MockTransport(carry))
    kling = AsyncKling("any-key", base_url="https://kling", http_client=http)
    with pytest.raises(KlingError):
        await kling.reconcile("order-1", timeout=150)
    busiest = max(sum(1 for at in times if start <= at < start + 59) for start in times)
    assert busiest <= 200
    assert len(times) > 400


async def test_none_is_not_said_where_the_log_lists_an_older_create() -> None:
    """It may be the very one, if one of the clocks was wrong."""

    async def carry(_: httpx.Request) -> httpx.Response:
        await anyio.sleep(0.1)
        created = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=50)
        own = {"inference_id": "g-1", "client_request_id": "order-1"}
        row = {"created": created.isoformat(), "status": "succeeded", **own}
        return httpx.Response(200, json={"data": [row], "pagination": {}})

    http = httpx.AsyncClient(transport=httpx.MockTransport(carry))
    async with AsyncKling(
        "any-key", base_url="https://kling", http_client=http
    ) as kling:
        since = dt.timedelta(minutes=5)
        with pytest.raises(SubmissionUncertainError, match="another create's: g-1"):
            await kling.reconcile("order-1", since=since, timeout=5)


async def test_none_is_not_said_where_the_log_cannot_be_read() -> None:
    """Who took it for a no would pay twice."""
    network = network_of(request_log=False)
    async with client_of(network) as kling:
        with pytest.raises(NotFoundError):
            await kling.reconcile("order-1", timeout=5)


async def test_the_log_is_read_back_to_when_it_was_sent() -> None:
    """A day by default; as far as the vendor keeps it, if asked."""
    network = network_of()
    async with client_of(network) as kling:
        await kling.reconcile("order-1", timeout=2)
        await kling.reconcile("order-1", timeout=2, since=dt.timedelta(days=90))
        since = dt.datetime.now(dt.UTC) - dt.timedelta(minutes=30)
        await kling.reconcile("order-1", timeout=2, since=since)
    assert {query["period"] for query in network.log_reads} == {"25h", "2161h", "1h"}


@pytest.mark.parametrize(
    "since",
    [
        dt.datetime(2026, 1, 1),  # noqa: DTZ001 (what is to be refused)
        dt.timedelta(days=93),
        dt.timedelta(days=-1),
        "yesterday",
    ],
    ids=str,
)
async def test_a_time_that_cannot_be_right_is_refused(since: object) -> None:
    """The message says what is allowed."""
    async with client_of(network_of()) as kling:
        with pytest.raises(InvalidRequestError, match="since"):
            await reconcile_of(kling)("order-1", since=since)


async def test_an_id_that_the_vendor_would_drop_is_refused() -> None:
    """It could not be in the log."""
    async with client_of(network_of()) as kling:
        with pytest.raises(InvalidRequestError, match="client_request_id"):
            await kling.reconcile("order 1")


async def test_who_stops_waiting_for_a_reconcile_leaves_at_once() -> None:
    """And may ask again."""
    network = network_of(log_delay=30)
    await lost_for_good(network)
    async with client_of(network) as kling:
        with anyio.move_on_after(3):
            await kling.reconcile("order-1")
        assert anyio.current_time() < 4
        await anyio.sleep(5)
        reads = len(network.log_reads)
        await anyio.sleep(20)
        assert len(network.log_reads) == reads  # nobody looks any more
        assert await kling.reconcile("order-1") is not None

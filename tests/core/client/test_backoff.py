"""How long to wait before another attempt, and that a 429 holds everyone back.

Who was held back begins one after another: no herd breaks a limit anew. The clock
is turned, not waited for.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import statistics
from collections.abc import Iterator

import anyio
import httpx
import pytest
import respx
from clients import BASE_URL, ID, ONCE, PATH, QUEUED, SOON, client, create

from kling_async import (
    AsyncKling,
    ClientClosedError,
    Generation,
    Hooks,
    RateLimitError,
    RetryEvent,
    RetryPolicy,
    ServerError,
)

OK = httpx.Response(200, json=QUEUED)
pytestmark = pytest.mark.looptime


@pytest.fixture
def api() -> Iterator[respx.Route]:
    """Stand in for the endpoint of generations."""
    with respx.mock(base_url=BASE_URL) as router:
        yield router.route(path=PATH)


def refusing(code: int = 429, **headers: str) -> httpx.Response:
    """Answer with no, and headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(code, headers=named)


async def seconds_of(kling: AsyncKling) -> float:
    """Get, and tell how long that took."""
    started = anyio.current_time()
    await kling.get(ID)
    return anyio.current_time() - started


# --- full jitter


async def test_waits_are_spread_evenly_up_to_bounds_that_grow(
    api: respx.Route,
) -> None:
    """From 0 to ``initial * factor ** (n - 1)``, ``maximum`` at most; really waited."""
    random.seed(7)
    told = list[RetryEvent]()
    policy = RetryPolicy(attempts=5, initial=1, factor=3, maximum=20)
    api.respond(503)
    started = anyio.current_time()
    async with client(retry=policy, hooks=Hooks(on_retry=told.append)) as kling:
        for _ in range(300):
            with pytest.raises(ServerError):
                await kling.get(ID)
    for attempt, bound in enumerate((1, 3, 9, 20), start=1):
        waits = [event.delay for event in told if event.attempt == attempt]
        assert len(waits) == 300
        assert 0 <= min(waits) < 0.05 * bound
        assert 0.95 * bound < max(waits) <= bound
        assert statistics.mean(waits) == pytest.approx(bound / 2, rel=0.1)
    waited = anyio.current_time() - started
    assert waited == pytest.approx(sum(event.delay for event in told))


async def test_bounds_that_no_number_holds_are_the_longest_allowed(
    api: respx.Route,
) -> None:
    """However steep: the error of the answer is raised, and none of arithmetic."""
    policy = RetryPolicy(attempts=4, initial=1, factor=1e300, maximum=20)
    api.respond(503)
    started = anyio.current_time()
    async with client(retry=policy) as kling:
        with pytest.raises(ServerError):
            await kling.get(ID)
    assert api.call_count == 4
    assert anyio.current_time() - started <= 3 * 20


async def test_no_wait_follows_the_last_attempt(api: respx.Route) -> None:
    """Who gets the error gets it at once."""
    api.respond(503, headers={"retry-after": "50"})
    started = anyio.current_time()
    async with client(retry=ONCE) as kling:
        with pytest.raises(ServerError):
            await kling.get(ID)
    assert anyio.current_time() == started


async def test_a_retry_is_told_before_its_wait(api: respx.Route) -> None:
    """Which attempt failed, how, and how long it will be."""
    api.side_effect = [refusing(503, retry_after="4"), refusing(500), OK]
    told = list[tuple[RetryEvent, float]]()
    hooks = Hooks(on_retry=lambda event: told.append((event, anyio.current_time())))
    started = anyio.current_time()
    async with client(hooks=hooks) as kling:
        await kling.get(ID)
    assert [(it.attempt, it.delay, at - started) for it, at in told] == [
        (1, 4, 0),
        (2, 0, 4),
    ]
    assert all(isinstance(event.error, ServerError) for event, _ in told)


# --- Retry-After


@pytest.mark.parametrize("code", [429, 503, 500])
@pytest.mark.parametrize(
    "headers, seconds",
    [
        ({"retry_after": "7"}, 7),
        ({"retry_after": "0"}, 0),
        ({"retry_after": "2.5"}, 2.5),
        ({"retry_after": "30"}, 30),
        ({"retry_after": "3600"}, 30),
        (
            {
                "date": "Tue, 15 Nov 1994 08:12:31 GMT",
                "retry_after": "Tue, 15 Nov 1994 08:12:50 GMT",
            },
            19,
        ),
        (
            {
                "date": "Tue, 15 Nov 1994 08:12:31 GMT",
                "retry_after": "Wed, 16 Nov 1994 08:12:31 GMT",
            },
            30,
        ),
        ({"retry_after": "Tue, 15 Nov 1994 08:12:31 GMT"}, 0),
        ({"retry_after": "soon"}, 0),
        ({"retry_after": f"Tue, 15 Nov {10**30} 08:12:31 GMT"}, 0),
        ({}, 0),
    ],
    ids=str,
)
async def test_retry_after_is_honoured_in_both_its_forms_within_a_cap(
    api: respx.Route, headers: dict[str, str], seconds: float, code: int
) -> None:
    """Seconds or a date by the server's clock; ``max_retry_after`` at most."""
    api.side_effect = [refusing(code, **headers), OK]
    policy = RetryPolicy(initial=0, max_retry_after=30)
    async with client(retry=policy) as kling:
        assert await seconds_of(kling) == pytest.approx(seconds)
    assert api.call_count == 2


async def test_a_longer_back_off_is_not_cut_short_by_retry_after(
    api: respx.Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server says from when on, not exactly when."""
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    api.side_effect = [refusing(retry_after="3"), OK]
    async with client(retry=RetryPolicy(initial=8)) as kling:
        assert await seconds_of(kling) == pytest.approx(8)


# --- the pause of a whole client


def assert_held_back(came: list[float], until: float) -> None:
    """Nobody came before, the first then, each other alone, the last soon after."""
    assert came[0] == pytest.approx(until)
    assert all(later > earlier for earlier, later in itertools.pairwise(came))
    assert came[-1] <= until + 5


async def times_of_two(
    api: respx.Route,
    first: AsyncKling,
    second: AsyncKling,
    first_answer: httpx.Response,
) -> list[float]:
    """Get with one, a second later with the other; tell when each request came."""
    came = list[float]()
    started = anyio.current_time()
    answers = [first_answer]

    def reply(_: httpx.Request) -> httpx.Response:
        came.append(anyio.current_time() - started)
        return answers.pop() if answers else OK

    async def later() -> None:
        await asyncio.sleep(1)
        await second.get(ID)

    api.side_effect = reply
    await asyncio.gather(first.get(ID), later())
    return came


async def test_a_rate_limit_holds_back_every_call_that_has_not_begun(
    api: respx.Route,
) -> None:
    """A second call waits out what the first was told."""
    async with client() as kling:
        limited = refusing(retry_after="10")
        at_once, *later = await times_of_two(api, kling, kling, limited)
    assert at_once == 0
    assert len(later) == 2
    assert_held_back(later, until=10)


async def test_a_rate_limit_holds_back_clients_that_share_the_connections(
    api: respx.Route,
) -> None:
    """In both directions between a client and what `with_options` made of it."""
    async with client() as kling:
        other = kling.with_options(timeout=5)
        for first, second in ((kling, other), (other, kling)):
            limited = refusing(retry_after="10")
            at_once, *later = await times_of_two(api, first, second, limited)
            assert at_once == 0
            assert len(later) == 2
            assert_held_back(later, until=10)
            await asyncio.sleep(60)


async def test_another_failure_holds_nobody_else_back(api: respx.Route) -> None:
    """503 with Retry-After is waited out by its own call alone."""
    async with client() as kling:
        failed = refusing(503, retry_after="10")
        assert await times_of_two(api, kling, kling, failed) == [0, 1, 10]


async def test_another_client_is_not_held_back(api: respx.Route) -> None:
    """A pause belongs to one client and its connections."""
    async with client() as one, client() as another:
        limited = refusing(retry_after="10")
        assert await times_of_two(api, one, another, limited) == [0, 1, 10]


async def test_a_rate_limit_without_retry_after_holds_back_for_the_back_off(
    api: respx.Route, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the call that met it waits itself."""
    monkeypatch.setattr(random, "uniform", lambda _, high: high)
    async with client(retry=RetryPolicy(initial=6)) as kling:
        at_once, *later = await times_of_two(api, kling, kling, refusing())
    assert at_once == 0
    assert len(later) == 2
    assert_held_back(later, until=6)


async def test_a_rate_limit_on_the_last_attempt_holds_others_back(
    api: respx.Route,
) -> None:
    """The call that met it gives up; the next one waits out its Retry-After."""
    api.side_effect = [refusing(retry_after="20"), OK]
    async with client(retry=ONCE) as kling:
        with pytest.raises(RateLimitError):
            await kling.get(ID)
        assert await seconds_of(kling) == pytest.approx(20)


async def times_after_two_refusals(
    api: respx.Route, first: str, later: str
) -> list[float]:
    """Refuse one call at once and another after 3 s; tell when each request came."""
    came = list[float]()
    started = anyio.current_time()
    both_asked = asyncio.Event()

    async def reply(_: httpx.Request) -> httpx.Response:
        came.append(anyio.current_time() - started)
        if len(came) == 1:
            await both_asked.wait()
            return refusing(retry_after=first)
        if len(came) == 2:
            both_asked.set()
            await asyncio.sleep(3)
            return refusing(retry_after=later)
        return OK

    async def a_third(kling: AsyncKling) -> None:
        await asyncio.sleep(4)
        await kling.get(ID)

    api.side_effect = reply
    async with client() as kling:
        await asyncio.gather(kling.get(ID), kling.get(ID), a_third(kling))
    return came


async def test_a_pause_that_grows_is_waited_out(api: respx.Route) -> None:
    """Who waits for the end of one waits for the end of a longer one too."""
    first, second, *later = await times_after_two_refusals(api, "5", "30")
    assert first == second == 0
    assert len(later) == 3
    assert_held_back(later, until=33)


async def test_a_pause_does_not_shrink(api: respx.Route) -> None:
    """A shorter one that is asked for meanwhile ends none."""
    first, second, *later = await times_after_two_refusals(api, "30", "5")
    assert first == second == 0
    assert len(later) == 3
    assert_held_back(later, until=30)


async def test_who_waits_for_a_place_waits_out_the_pause_too(api: respx.Route) -> None:
    """The place is free when the refusal comes, and is not taken before its time."""
    came = list[float]()
    started = anyio.current_time()

    async def reply(_: httpx.Request) -> httpx.Response:
        came.append(anyio.current_time() - started)
        await asyncio.sleep(1)
        return refusing(retry_after="10") if len(came) == 1 else OK

    api.side_effect = reply
    async with client(max_connections=1) as kling:
        await asyncio.gather(kling.get(ID), kling.get(ID))
    assert came == [0, 11, 12]


async def test_a_create_is_held_back_too(api: respx.Route) -> None:
    """It costs money, and a refusal only prolongs the pause; it goes before others."""
    came = list[tuple[str, float]]()
    started = anyio.current_time()

    def reply(request: httpx.Request) -> httpx.Response:
        came.append((request.method, anyio.current_time() - started))
        return refusing(retry_after="10") if len(came) == 1 else OK

    async def later() -> Generation:
        await asyncio.sleep(1)
        return await create(kling)

    api.side_effect = reply
    async with client(retry=SOON) as kling:
        await asyncio.gather(kling.get(ID), later())
    assert [method for method, _ in came] == ["GET", "POST", "GET"]
    assert came[0] == ("GET", 0)
    assert_held_back([at for _, at in came[1:]], until=10)


async def test_who_waits_out_a_pause_can_be_cancelled(api: respx.Route) -> None:
    """The caller leaves at once, nothing is sent, and no place stays taken."""
    api.side_effect = [refusing(retry_after="50"), OK]
    async with client(retry=ONCE, max_connections=1) as kling:
        with pytest.raises(RateLimitError):
            await kling.get(ID)
        with anyio.move_on_after(1) as left:
            await kling.get(ID)
        assert left.cancelled_caught
        assert api.call_count == 1
        assert await seconds_of(kling) == pytest.approx(49)


async def test_a_client_closed_in_a_pause_sends_nothing_after_it(
    api: respx.Route,
) -> None:
    """Whoever waited learns that it is closed."""
    api.respond(429, headers={"retry-after": "50"})
    kling = client(retry=ONCE)
    with pytest.raises(RateLimitError):
        await kling.get(ID)
    waiting = asyncio.create_task(kling.get(ID))
    await asyncio.sleep(1)
    await kling.aclose()
    with pytest.raises(ClientClosedError):
        await waiting
    assert api.call_count == 1

"""The client itself: other options on the same connections, and its life."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from clients import BASE_URL, ID, KEY, PATH, QUEUED, SOON, client, create, over
from jumping_clock import on_each_loop
from told_by_time import Api, done

from kling_async import (
    AsyncKling,
    ClientClosedError,
    ConfigurationError,
    Fixed,
    Hooks,
    InvalidRequestError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
    StatusEvent,
    WaitTimeoutError,
)


def noting(seen: list[httpx.Request]) -> httpx.AsyncClient:
    """Give an httpx client that answers every call and keeps it."""

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json=QUEUED)

    return over(answer)


@pytest.mark.parametrize(
    "change, found, before",
    [
        (
            lambda it: it.with_options(api_key="another-key"),
            lambda it: it.headers["authorization"],
            f"Bearer {KEY}",
        ),
        (
            lambda it: it.with_options(base_url="https://elsewhere.test/v2"),
            lambda it: it.url.host,
            "kling.test",
        ),
        (
            lambda it: it.with_options(endpoint="legacy"),
            lambda it: it.url.path,
            PATH,
        ),
    ],
    ids=["api_key", "base_url", "endpoint"],
)
async def test_other_options_are_on_the_wire_and_the_clients_own_stay(
    change: Callable[[AsyncKling], AsyncKling],
    found: Callable[[httpx.Request], object],
    before: str,
) -> None:
    """Neither disturbs the other, in turns."""
    seen: list[httpx.Request] = []
    async with client(http_client=noting(seen)) as kling:
        other = change(kling)
        for it in (kling, other, kling, other):
            await it.get(ID)
    assert [found(it) == before for it in seen] == [True, False, True, False]


async def test_options_of_options_add_up() -> None:
    """What was changed first is still changed."""
    seen: list[httpx.Request] = []
    async with client(http_client=noting(seen)) as kling:
        other = kling.with_options(api_key="another-key")
        await other.with_options(endpoint="legacy").get(ID)
    (request,) = seen
    assert request.headers["authorization"] == "Bearer another-key"
    assert request.url.path != PATH


@on_each_loop
async def test_other_limits_are_kept() -> None:
    """How long an exchange and a watch may take, how often it is tried and polled."""
    api = Api({0: "queued", 95: done()}, latency=5)
    async with api.client() as kling:
        with pytest.raises(RequestTimeoutError):
            await kling.with_options(timeout=1).get(ID)
        with pytest.raises(WaitTimeoutError, match="after 20 s"):
            await kling.with_options(wait_timeout=20).wait(ID)
        api.polls.clear()
        await kling.with_options(polling=Fixed(45)).wait(ID)
        assert len(api.polls) == 3
    down = Api({0: httpx.Response(503)})
    async with down.client() as kling:
        with pytest.raises(ServerError):
            await kling.with_options(retry=RetryPolicy(attempts=4, initial=0)).get(ID)
    assert len(down.polls) == 4


@on_each_loop
async def test_other_hooks_hear_what_the_clients_own_do_not() -> None:
    """And the other way round."""
    told: list[StatusEvent] = []
    own: list[StatusEvent] = []
    api = Api({0: done()})
    async with api.client(hooks=Hooks(on_status=own.append)) as kling:
        await kling.with_options(hooks=Hooks(on_status=told.append)).wait(ID)
    assert (len(told), own) == (1, [])


async def test_media_can_be_taken_unchecked() -> None:
    """``check_media=False`` sends what the documented limits would refuse."""
    seen: list[httpx.Request] = []
    async with client(http_client=noting(seen)) as kling:
        unchecked = kling.with_options(check_media=False)
        odd = {"model": "klingai/v2-master-image-to-video", "image_url": b"odd"}
        with pytest.raises(InvalidRequestError):
            await kling.create(**odd)  # type: ignore[arg-type]
        await unchecked.create(**odd)  # type: ignore[arg-type]
    assert len(seen) == 1


async def test_an_option_that_cannot_be_changed_is_told_of() -> None:
    """The connections are shared: what they are made of stays."""
    async with client() as kling:
        with pytest.raises(ConfigurationError, match="given max_connections; allowed"):
            kling.with_options(max_connections=7)  # type: ignore[call-arg]


async def test_a_client_and_those_made_from_it_close_together() -> None:
    """The first one closes all; each of the others only itself."""
    kling = client(http_client=noting([]))
    child = kling.with_options(timeout=5)
    grandchild = child.with_options(timeout=6)
    sibling = kling.with_options(timeout=7)
    await child.aclose()
    assert [it.is_closed for it in (kling, child, grandchild, sibling)] == [
        *[False, True, True, False],
    ]
    await sibling.get(ID)
    await kling.aclose()
    assert sibling.is_closed
    for it in (kling, child, grandchild, sibling):
        with pytest.raises(ClientClosedError, match="make a new AsyncKling"):
            await it.get(ID)


async def test_a_client_works_with_and_without_a_block() -> None:
    """The block gives the client itself; a closed one cannot be entered."""
    kling = client(http_client=noting([]))
    assert (await create(kling)).id == ID
    async with kling as entered:
        assert entered is kling
    with pytest.raises(ClientClosedError):
        await kling.__aenter__()


async def test_a_client_shows_where_it_goes_and_whether_it_is_open() -> None:
    """Never the key."""
    kling = AsyncKling(KEY, base_url=BASE_URL, retry=SOON)
    assert repr(kling) == "<AsyncKling https://kling.test open>"
    await kling.aclose()
    assert repr(kling) == "<AsyncKling https://kling.test closed>"

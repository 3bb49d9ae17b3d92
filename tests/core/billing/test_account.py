"""The account behind a key: balance, prices, request log and ledger, as asked for."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import anyio
import httpx
import pytest
import respx

from kling_async import (
    AsyncKling,
    AuthenticationError,
    ClientClosedError,
    DecodeError,
    ImageToVideo,
    InvalidRequestError,
    LogRow,
    Request,
    RetryPolicy,
    ServerError,
    TextToVideo,
    Transaction,
)
from kling_async.emulator import Emulator

pytestmark = pytest.mark.looptime

MASTER = "klingai/v2-master-text-to-video"
PRO = "klingai/video-v3-pro-text-to-video"
PROMPT = "A paper boat crosses a puddle."
URL = "https://api.aimlapi.com"


@asynccontextmanager
async def client_of(emulator: Emulator) -> AsyncGenerator[AsyncKling, None]:
    """Open a client on an emulator in the same process."""
    transport = httpx.ASGITransport(app=emulator.app)
    async with (
        httpx.AsyncClient(transport=transport) as http,
        AsyncKling("any-key", base_url="https://kling", http_client=http) as kling,
    ):
        yield kling


def client(*, attempts: int = 5) -> AsyncKling:
    """Make a client whose requests respx meets."""
    return AsyncKling("any-key", base_url=URL, retry=RetryPolicy(attempts=attempts))


def log_of(kling: AsyncKling) -> Callable[..., AsyncIterator[LogRow]]:
    """Give the log to a caller that annotations do not hold back."""
    return kling.request_log


async def listed(rows: AsyncIterator[LogRow]) -> list[LogRow]:
    """Read a log to its end."""
    return [row async for row in rows]


async def entered(rows: AsyncIterator[Transaction]) -> list[Transaction]:
    """Read a ledger to its end."""
    return [row async for row in rows]


# --- balance


async def test_the_balance_is_what_is_left() -> None:
    """In USD and in credits; a video is paid for when it is there."""
    async with client_of(Emulator(credits=20_000_000)) as kling:
        before = await kling.balance()
        assert (before.usd, before.credits) == (10.0, 20_000_000)
        generation = await kling.generate(model=MASTER, prompt=PROMPT, duration=5)
        after = await kling.balance()
    assert generation.credits_used == 2_800_000
    assert generation.usd_spent == 1.4
    assert before.credits - after.credits == generation.credits_used


async def test_what_is_asked_of_the_account_is_asked_like_any_get() -> None:
    """Failures that may heal are waited out; the answer is read, or refused."""
    with respx.mock(base_url=URL) as api:
        api.get("/v2/billing").mock(
            side_effect=[
                httpx.Response(502),
                httpx.ConnectError("no"),
                httpx.Response(200, text="<html>"),
                httpx.Response(200, json={"current_balance": 2}),
            ]
        )
        async with client() as kling:
            assert (await kling.balance()).usd == 2


@pytest.mark.parametrize(
    "answer, error",
    [
        (httpx.Response(401), AuthenticationError),
        (httpx.Response(500), ServerError),
        (httpx.Response(200, json={}), DecodeError),
    ],
)
async def test_an_account_that_cannot_be_asked_is_an_error(
    answer: httpx.Response, error: type[Exception]
) -> None:
    """Never a balance of nothing."""
    with respx.mock(base_url=URL) as api:
        api.get("/v2/billing").mock(return_value=answer)
        async with client(attempts=2) as kling:
            with pytest.raises(error):
                await kling.balance()


# --- prices


@pytest.mark.parametrize(
    "request_, usd",
    [
        (TextToVideo(model=MASTER, prompt=PROMPT, duration=5), 1.4),
        (TextToVideo(model=MASTER, prompt=PROMPT, duration="10"), 2.8),
        (TextToVideo(model=PRO, prompt=PROMPT, duration=3), 0.51),
        (TextToVideo(model=PRO, prompt=PROMPT, generate_audio=False), 0.6),
        (ImageToVideo(image_url="https://example.com/a.jpg", prompt=PROMPT), 0.85),
        ({"model": MASTER, "duration": 10}, 2.8),
    ],
)
async def test_a_price_is_what_will_be_charged(
    request_: Request | dict[str, object], usd: float
) -> None:
    """By the second, by the request's parameters, by the server's defaults."""
    async with client_of(Emulator()) as kling:
        price = await kling.price(request_)
        assert price.usd == usd
        if isinstance(request_, Request):
            generation = await kling.generate(request_)
            assert generation.credits_used == price.credits


async def test_a_price_that_is_not_quoted_is_false() -> None:
    """For an avatar the vendor quotes none; a strange model it does not know."""
    async with client_of(Emulator()) as kling:
        variable = await kling.price({"model": "klingai/avatar-pro"})
        assert (variable.kind, variable.usd, bool(variable)) == (
            "variable",
            None,
            False,
        )
        unknown = await kling.price({"model": "klingai/from-tomorrow"})
        assert (unknown.kind, unknown.usd, bool(unknown)) == ("unknown", None, False)


async def test_a_price_list_is_asked_for_once_in_a_while() -> None:
    """For a quarter of an hour it is good for every request to the model."""
    emulator = Emulator()
    async with client_of(emulator) as kling:

        def asked() -> int:
            return sum(it.path == "/v1/models" for it in emulator.requests)

        for duration in (5, 10):
            await kling.price({"model": MASTER, "duration": duration})
        assert asked() == 1
        await kling.with_options(timeout=5).price({"model": MASTER})
        assert asked() == 1
        await kling.price({"model": PRO})
        assert asked() == 2
        await anyio.sleep(901)
        await kling.price({"model": MASTER})
        assert asked() == 3


@pytest.mark.parametrize("given", [{}, {"model": None}, {"model": 7}], ids=str)
async def test_a_price_of_no_model_is_refused(given: dict[str, object]) -> None:
    """The message names the field."""
    async with client_of(Emulator()) as kling:
        with pytest.raises(InvalidRequestError, match="model"):
            await kling.price(given)


# --- the request log


async def test_the_log_lists_what_was_asked_newest_first() -> None:
    """Failed requests too, each with the ids to find it by, page after page."""
    emulator = Emulator(size=64)
    async with client_of(emulator) as kling:
        for n in range(230):
            request = TextToVideo(model=MASTER, prompt=PROMPT)
            await kling.create(request, client_request_id=f"r-{n}")
        rows = await listed(kling.request_log())
        pages = [it for it in emulator.requests if it.path == "/v2/logs"]
    assert [row.client_request_id for row in rows] == [
        f"r-{n}" for n in reversed(range(230))
    ]
    assert [row.inference_id for row in rows] == [
        record.generation_id for record in reversed(emulator.creates)
    ]
    assert len(pages) == 3


async def test_the_log_can_be_narrowed() -> None:
    """To a model, to failures, to a time."""
    emulator = Emulator(size=64)
    http = httpx.ASGITransport(app=emulator.app)
    async with client_of(emulator) as kling, httpx.AsyncClient(transport=http) as raw:
        await kling.create(model=MASTER, prompt=PROMPT)
        await kling.create(model=PRO, prompt=PROMPT)
        await raw.post(
            "https://kling/v2/video/generations",
            json={"model": MASTER},
            headers={"authorization": "Bearer any-key"},
        )
        whole = await listed(kling.request_log())
        of_model = await listed(kling.request_log(model=PRO))
        failed = await listed(kling.request_log(status="failed"))
        now = dt.datetime.now(dt.UTC)
        before = kling.request_log(
            since=now - dt.timedelta(days=2), until=now - dt.timedelta(days=1)
        )
        assert await listed(before) == []
    assert len(whole) == 3
    assert [row.model for row in of_model] == [PRO]
    assert [(row.failed, row.model) for row in failed] == [(True, MASTER)]


async def test_a_row_that_is_pushed_onto_the_next_page_is_given_once() -> None:
    """New rows come in at the top while the pages are turned."""

    def page(numbers: range, *, has_more: bool) -> httpx.Response:
        rows = [
            {"inference_id": f"g-{n}", "created": "2026-08-01T00:00:00Z"}
            for n in numbers
        ]
        body = {"data": rows, "pagination": {"has_more": has_more}}
        return httpx.Response(200, json=body)

    with respx.mock(base_url=URL) as api:
        pages = [page(range(100), has_more=True), page(range(97, 120), has_more=False)]
        route = api.get("/v2/logs").mock(side_effect=pages)
        async with client() as kling:
            rows = await listed(kling.request_log())
        offsets = [call.request.url.params["offset"] for call in route.calls]
    assert [row.inference_id for row in rows] == [f"g-{n}" for n in range(120)]
    assert offsets == ["0", "100"]


async def test_a_log_is_read_no_further_than_it_is_iterated() -> None:
    """Leaving the loop asks for no more, and leaves nothing open."""
    with respx.mock(base_url=URL) as api:
        body = {"data": [{"inference_id": "g"}] * 100, "pagination": {"has_more": True}}
        route = api.get("/v2/logs").mock(return_value=httpx.Response(200, json=body))
        async with client() as kling, aclosing(kling.request_log()) as rows:
            async for row in rows:
                assert row.inference_id == "g"
                break
        assert route.call_count == 1


async def test_an_empty_page_ends_the_log_whatever_it_says() -> None:
    """Else it would be asked for for ever."""
    with respx.mock(base_url=URL) as api:
        body = {"data": [], "pagination": {"has_more": True}}
        route = api.get("/v2/logs").mock(return_value=httpx.Response(200, json=body))
        async with client() as kling:
            assert await listed(kling.request_log()) == []
        assert route.call_count == 1


async def test_the_log_is_asked_no_faster_than_the_vendor_allows() -> None:
    """200 pages in a minute; a page more waits for the minute to pass."""
    with respx.mock(base_url=URL) as api:
        left = iter(range(250))

        def page(_: httpx.Request) -> httpx.Response:
            n = next(left)
            body = {"data": [{"inference_id": f"g-{n}"}]}
            return httpx.Response(
                200, json={**body, "pagination": {"has_more": n < 249}}
            )

        api.get("/v2/logs").mock(side_effect=page)
        async with client() as kling:
            rows = await listed(kling.request_log())
    assert len(rows) == 250
    assert 60 <= anyio.current_time() < 62


async def test_a_page_that_is_too_early_is_asked_for_again() -> None:
    """Another program uses the same key: the rest of the client goes on meanwhile."""
    with respx.mock(base_url=URL) as api:
        early = httpx.Response(429, headers={"retry-after": "30"})
        good = httpx.Response(200, json={"data": []})
        api.get("/v2/logs").mock(side_effect=[early, good])
        api.get("/v2/billing").mock(
            return_value=httpx.Response(200, json={"current_balance": 1})
        )
        async with client() as kling, anyio.create_task_group() as tasks:
            tasks.start_soon(listed, kling.request_log())
            await anyio.sleep(1)
            await kling.balance()
            assert anyio.current_time() < 2
    assert anyio.current_time() >= 30


async def test_the_window_of_the_log_is_sent_as_the_vendor_writes_times() -> None:
    """UTC with a Z, both ends, and never a period beside them."""
    with respx.mock(base_url=URL) as api:
        route = api.get("/v2/logs").mock(
            return_value=httpx.Response(200, json={"data": []})
        )
        zone = dt.timezone(dt.timedelta(hours=3))
        since = dt.datetime(2026, 7, 1, 3, tzinfo=zone)
        async with client() as kling:
            await listed(
                kling.request_log(since=since, until=since + dt.timedelta(days=1))
            )
        query = route.calls[0].request.url.params
    assert query["start"] == "2026-07-01T00:00:00.000Z"
    assert query["end"] == "2026-07-02T00:00:00.000Z"
    assert "period" not in query


@pytest.mark.parametrize(
    "since, words",
    [
        (dt.datetime(2026, 1, 1), "time zone"),  # noqa: DTZ001 (what is to be refused)
        (dt.timedelta(days=93), "at most 92 days"),
        (dt.timedelta(days=-1), "not after it"),
        ("yesterday", "time zone"),
        (None, "time zone"),
    ],
    ids=str,
)
async def test_a_window_that_cannot_be_right_is_refused(
    since: object, words: str
) -> None:
    """The message says what was given and what is allowed; nothing is sent."""
    async with client() as kling:
        with pytest.raises(InvalidRequestError, match=re.escape(words)) as caught:
            await listed(log_of(kling)(since=since))
    assert caught.value.problems[0].field == "since"


# --- the ledger


async def test_the_ledger_lists_what_moved_the_balance_newest_first() -> None:
    """A charge for each video, by the id of its generation; and what was paid in."""
    emulator = Emulator(credits=10**9, size=64)
    async with client_of(emulator) as kling:
        ids = [(await kling.create(model=MASTER, prompt=PROMPT)).id for _ in range(110)]
        assert [it.type for it in await entered(kling.transactions())] == ["INIT"]
        await anyio.sleep(3600)
        entries = await entered(kling.transactions())
        charges = await entered(kling.transactions(direction="CHARGE"))
        paid_in = await entered(kling.transactions(type="INIT"))
        recent = await entered(kling.transactions(since=dt.timedelta(days=1)))
    assert len(entries) == 111
    assert {it.reference_id for it in charges} == set(ids)
    assert {(it.usd, it.credits, it.model) for it in charges} == {
        (1.4, 2_800_000, MASTER)
    }
    assert [(it.type, it.credits) for it in paid_in] == [("INIT", 10**9)]
    assert len(recent) == 111


async def test_the_ledger_is_paged_by_the_cursor_as_it_was_issued() -> None:
    """It is sent back as it came, with the same filters beside it."""
    with respx.mock(base_url=URL) as api:
        entry = {"amount": {"usd": 1}}
        first = {"data": [entry], "pagination": {"next_cursor": "a+b/c=="}}
        last = {"data": [entry], "pagination": {"next_cursor": None}}
        route = api.get("/v2/billing/transactions").mock(
            side_effect=[httpx.Response(200, json=it) for it in (first, last)]
        )
        since = dt.datetime(2026, 7, 1, tzinfo=dt.UTC)
        async with client() as kling:
            rows = await entered(kling.transactions(since=since, direction="CHARGE"))
        queries = [dict(call.request.url.params) for call in route.calls]
    filters = {
        "from": "2026-07-01T00:00:00.000Z",
        "direction": "CHARGE",
        "limit": "100",
    }
    assert len(rows) == 2
    assert queries == [filters, {**filters, "cursor": "a+b/c=="}]


async def test_a_closed_client_asks_nothing() -> None:
    """It says so, in each of the ways to ask."""
    kling = client()
    await kling.aclose()
    calls: list[Callable[[], Awaitable[object]]] = [
        kling.balance,
        lambda: kling.price({"model": MASTER}),
        lambda: listed(kling.request_log()),
        lambda: entered(kling.transactions()),
        lambda: kling.reconcile("r-1"),
    ]
    for call in calls:
        with pytest.raises(ClientClosedError):
            await call()


async def test_another_key_is_another_account() -> None:
    """Its prices are asked for anew, its log has a limit of its own."""
    with respx.mock(base_url=URL) as api:
        route = api.get("/v1/models").mock(
            return_value=httpx.Response(200, json={"data": []})
        )
        async with client() as kling:
            await kling.price({"model": MASTER})
            await kling.with_options(api_key="other").price({"model": MASTER})
            await kling.price({"model": MASTER})
            assert route.call_count == 2

"""What a client has open: shared, bounded, closed whole, and never torn by a caller."""

from __future__ import annotations

import asyncio
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import get_args

import anyio
import anyio.from_thread
import httpx
import pytest
import respx
from clients import BASE_URL, ID, KEY, ONCE, PATH, QUEUED, client, create, over
from raw_server import (
    Peer,
    RawRequest,
    RawServer,
    Script,
    answer,
    answering,
    stay_silent,
)

from kling_async import (
    AsyncKling,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    KlingError,
    Video,
)
from kling_async._http.session import Library

SERVED = answering(answer(QUEUED))


@contextmanager
def served(script: Script) -> Generator[RawServer]:
    """Run a server in a loop of its own, in another thread."""
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(RawServer(script)) as server,
    ):
        yield server


# --- where requests go, and with what


@pytest.mark.parametrize("variable", ["AIMLAPI_KEY", "AIMLAPI_API_KEY", "AIML_API_KEY"])
async def test_key_and_address_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """With nothing given, the documented variables reach the wire."""
    for name in ("AIMLAPI_KEY", "AIMLAPI_API_KEY", "AIML_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    async with RawServer(SERVED) as server:
        monkeypatch.setenv(variable, "from-environment")
        monkeypatch.setenv("AIMLAPI_BASE_URL", f"{server.base_url}/v2")
        async with AsyncKling() as kling:
            await kling.get(ID)
        async with AsyncKling("given") as kling:
            await kling.get(ID)
    sent = [it.headers["authorization"] for it in server.requests]
    assert sent == ["Bearer from-environment", "Bearer given"]


def test_without_a_key_there_is_no_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Told when it is made, before any request, and how to set one."""
    for name in ("AIMLAPI_KEY", "AIMLAPI_API_KEY", "AIML_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="AIMLAPI_KEY"):
        AsyncKling()


# --- a client of the user's own


async def test_a_client_of_the_user_is_used_and_left_open() -> None:
    """Closing ours closes nothing of theirs; the next one may use it again."""
    async with over(lambda _: httpx.Response(200, json=QUEUED)) as mine:
        for _ in range(2):
            async with client(http_client=mine) as kling:
                assert (await kling.get(ID)).id == ID
            assert not mine.is_closed
        assert (await mine.get("http://elsewhere.test/")).status_code == 200


async def test_a_mocked_router_can_stand_in_for_the_network() -> None:
    """As users' own tests do it, with respx and without patching anything."""
    router = respx.Router(base_url=BASE_URL)
    route = router.get(PATH, params={"generation_id": ID}).respond(json=QUEUED)
    transport = httpx.MockTransport(router.async_handler)
    async with httpx.AsyncClient(transport=transport) as mine:
        assert (await client(http_client=mine).get(ID)).status == "queued"
    assert route.call_count == 1


async def test_without_the_users_client_ours_is_closed_too() -> None:
    """Who closes the one cannot go on with the other, and is told so."""
    mine = over(lambda _: httpx.Response(200, json=QUEUED))
    kling = client(http_client=mine)
    await kling.get(ID)
    await mine.aclose()
    with pytest.raises(ClientClosedError):
        await kling.get(ID)


CLIENT: Callable[..., AsyncKling] = AsyncKling  # takes what a caller may give


@pytest.mark.parametrize("given", [httpx.Client, dict, lambda: "client"])
def test_what_is_no_asynchronous_client_is_refused(given: Callable[[], object]) -> None:
    """`httpx.Client` would send a create, and only then fail."""
    with pytest.raises(ConfigurationError, match=r"http_client: .*httpx\.AsyncClient"):
        CLIENT(KEY, http_client=given())


@pytest.mark.parametrize("given", [0, -1, 1.5, "10", None, True, float("inf")])
def test_a_bound_that_makes_no_sense_is_refused(given: object) -> None:
    """``max_connections`` is a whole number from 1."""
    with pytest.raises(ConfigurationError, match=r"max_connections: .* 1 or more"):
        CLIENT(KEY, max_connections=given)


# --- shared and bounded


async def test_clients_with_other_options_share_the_connections() -> None:
    """One socket serves the client and what `with_options` made of it, in turn."""
    async with RawServer(SERVED) as server, client(server.base_url) as kling:
        other = kling.with_options(api_key="another-key", timeout=5)
        for it in (kling, other, kling, other):
            await it.get(ID)
        assert (len(server.requests), server.accepted) == (4, 1)
    sent = [it.headers["authorization"] for it in server.requests]
    assert sent == [f"Bearer {KEY}", "Bearer another-key"] * 2


@pytest.mark.parametrize("most", [1, 3])
async def test_no_more_are_in_flight_than_allowed(most: int) -> None:
    """A dozen calls take turns, and all are served."""
    under_way, peak = 0, 0

    async def script(_: RawRequest, peer: Peer) -> None:
        nonlocal under_way, peak
        under_way += 1
        peak = max(peak, under_way)
        await asyncio.sleep(0.002)
        under_way -= 1
        await peer.send(answer(QUEUED))

    async with RawServer(script) as server:
        async with client(server.base_url, max_connections=most) as kling:
            await asyncio.gather(*(kling.get(ID) for _ in range(12)))
        assert (peak, len(server.requests)) == (most, 12)
        assert server.accepted <= most


async def test_a_failure_gives_its_place_back() -> None:
    """Errors, cancelled callers, refusals: with one place, the next call has it."""

    async def script(request: RawRequest, peer: Peer) -> None:
        if request.generation_id == "reset":
            peer.reset()
        elif request.generation_id == "refuse":
            await peer.send(answer({}, "404 Not Found"))
        else:
            await peer.send(answer({"id": "g-1", "status": "queued"}))

    async with RawServer(script) as server:
        base_url = server.base_url
        async with client(base_url, retry=ONCE, max_connections=1) as kling:
            for it in ("reset", "refuse"):
                await asyncio.gather(kling.get(it), return_exceptions=True)
            left = asyncio.create_task(kling.get("g-1"))
            waiting = asyncio.create_task(kling.get("g-1"))
            await asyncio.sleep(0)
            left.cancel()
            waiting.cancel()
            assert (await kling.get("g-1")).id == "g-1"


async def test_a_connection_that_the_server_closed_is_replaced() -> None:
    """An idle one is found dead before anything is sent on it: creates too."""

    async def script(_: RawRequest, peer: Peer) -> None:
        await peer.send(answer(QUEUED))
        peer.hang_up()

    async with RawServer(script) as server, client(server.base_url) as kling:
        for _ in range(3):
            await create(kling)
            await server.until_idle()
        assert server.accepted == 3


# --- closing


async def started(calls: int, server: RawServer) -> None:
    """Wait until so many requests have arrived."""
    while len(server.requests) < calls:  # noqa: ASYNC110 (the server has no event)
        await asyncio.sleep(0)


async def test_closing_cancels_polls_and_frees_every_socket() -> None:
    """Whoever waited is told; no task and no connection is left."""
    before = len(asyncio.all_tasks())
    async with RawServer(stay_silent) as server:
        kling = client(server.base_url)
        polls = [asyncio.create_task(kling.get(ID)) for _ in range(5)]
        await started(5, server)
        await kling.aclose()
        ended = await asyncio.gather(*polls, return_exceptions=True)
        await server.until_idle()
    assert [type(it) for it in ended] == [ClientClosedError] * 5
    assert len(asyncio.all_tasks()) == before


async def test_an_idle_client_frees_its_sockets() -> None:
    """Kept connections are closed when the close returns, and not some time later."""
    async with RawServer(SERVED) as server:
        async with client(server.base_url) as kling:
            await asyncio.gather(*(kling.get(ID) for _ in range(4)))
            assert server.open > 0
            before = asyncio.all_tasks()
        assert asyncio.all_tasks() <= before
        await server.until_idle()


async def test_closing_may_be_repeated() -> None:
    """One after the other, at once, unused, and after ``async with``."""
    async with RawServer(SERVED) as server:
        async with client(server.base_url) as kling:
            await kling.get(ID)
            await asyncio.gather(kling.aclose(), kling.aclose())
            await kling.aclose()
        assert kling.is_closed
    unused = client()
    await unused.aclose()
    await unused.aclose()


async def every_call(kling: AsyncKling, path: Path) -> list[object]:
    """Call all that a client offers, and give what each raises."""

    async def watch() -> None:
        async for _ in kling.watch(ID):
            pass

    async def generate_many() -> None:
        async for _ in kling.generate_many([]):
            pass

    calls: list[Awaitable[object]] = [
        create(kling),
        kling.get(ID),
        watch(),
        kling.wait(ID),
        kling.generate(model="klingai/v2-master-text-to-video", prompt="x"),
        generate_many(),
        kling.download(Video(url="http://kling.test/v.mp4"), path / "v.mp4"),
        kling.__aenter__(),
    ]
    return list(await asyncio.gather(*calls, return_exceptions=True))


async def test_a_closed_client_says_so_at_every_call(tmp_path: Path) -> None:
    """`ClientClosedError` everywhere, also from a client made by `with_options`."""
    kling = client()
    other = kling.with_options(timeout=5)
    await kling.aclose()
    for it in (kling, other, other.with_options(timeout=6)):
        errors = await every_call(it, tmp_path)
        assert {type(error) for error in errors} == {ClientClosedError}
        assert it.is_closed
        assert "closed" in repr(it)


async def test_a_client_with_other_options_closes_only_itself(tmp_path: Path) -> None:
    """The connections belong to the one that it was made from."""
    async with RawServer(SERVED) as server, client(server.base_url) as kling:
        async with kling.with_options(timeout=5) as other:
            await other.get(ID)
        errors = await every_call(other, tmp_path)
        assert {type(error) for error in errors} == {ClientClosedError}
        await kling.get(ID)
        assert server.accepted == 1


async def test_a_close_that_is_cancelled_frees_everything_all_the_same() -> None:
    """`asyncio.wait_for` around it ends the patience, not the cleaning up."""
    before = len(asyncio.all_tasks())
    async with RawServer(stay_silent) as server:
        kling = client(server.base_url)
        creating = asyncio.create_task(create(kling))
        await started(1, server)
        closing = asyncio.create_task(kling.aclose())
        await asyncio.sleep(0)
        closing.cancel()
        await asyncio.wait([closing, creating], timeout=300)
        assert closing.cancelled()
        assert creating.exception() is not None
        await server.until_idle()
    assert len(asyncio.all_tasks()) == before


# --- several event loops


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_one_client_works_in_one_loop_after_another(backend: str) -> None:
    """`asyncio.run` three times: each loop's sockets end with it, and so does it."""
    loops = list[weakref.ref[object]]()

    async def call() -> None:
        if backend == "asyncio":
            loops.append(weakref.ref(asyncio.get_running_loop()))
        assert (await kling.get(ID)).id == ID
        assert (await create(kling)).id == ID

    with served(SERVED) as server:
        kling = client(server.base_url)
        for _ in range(3):
            anyio.run(call, backend=backend)
        gc.collect()
        assert (len(server.requests), server.accepted) == (6, 3)
        with anyio.from_thread.start_blocking_portal() as portal:
            portal.call(kling.aclose)
    assert [loop() for loop in loops] == [None] * len(loops)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_closed_client_leaves_its_loop_nothing_to_clean_up(backend: str) -> None:
    """On trio a generator that is left to the collector would warn."""

    async def call() -> None:
        async with client(server.base_url) as kling:
            await kling.get(ID)
        gc.collect()

    with served(SERVED) as server:
        anyio.run(call, backend=backend)
        gc.collect()


def test_one_client_works_in_several_loops_at_once() -> None:
    """Each thread's loop has connections of its own; closing one says so."""
    at_once = threading.Barrier(3)

    async def call() -> str:
        await kling.get(ID)
        at_once.wait(10)
        return (await kling.get(ID)).id

    def run() -> None:
        ids.append(asyncio.run(call()))

    ids = list[str]()
    with served(SERVED) as server:
        kling = client(server.base_url)
        threads = [threading.Thread(target=run) for _ in range(3)]
        for it in threads:
            it.start()
        for it in threads:
            it.join(20)
        assert server.accepted == 3
    assert ids == [ID] * 3


ASK = """
import asyncio, sys
from kling_async import AsyncKling, RetryPolicy

async def ask():
    before = set(sys.modules)
    await kling.get(sys.argv[3])
    await kling.aclose()
    ours = ("kling_async", "tenacity", sys.argv[2])
    print([it for it in sys.modules.keys() - before if it.startswith(ours)])

url, library, _ = sys.argv[1:]
at_once = RetryPolicy(initial=0)
kling = AsyncKling("some-key", base_url=url, transport=library, retry=at_once)
asyncio.run(ask())
"""


@pytest.mark.parametrize("library", get_args(Library))
def test_a_client_has_loaded_its_library_before_a_loop_waits_for_it(
    library: str,
) -> None:
    """An import takes long, and makes the event loops of other threads wait, too.

    So it is with what retries: the first answer is a 503.
    """
    busy = answer(b"", "503 Service Unavailable")
    with served(answering(busy, answer(QUEUED))) as server:
        command = [sys.executable, "-c", ASK, server.base_url, library, ID]
        done = subprocess.run(command, check=True, capture_output=True, timeout=300)
    assert done.stdout.strip() == b"[]"


def test_closing_where_another_loop_still_runs_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A warning: those connections can only be closed where they were opened."""
    with (
        served(SERVED) as server,
        anyio.from_thread.start_blocking_portal() as portal,
    ):
        kling = client(server.base_url)
        portal.call(kling.get, ID)
        asyncio.run(kling.aclose())
        assert "another event loop" in caplog.text
        portal.call(gc.collect)
        portal.call(asyncio.sleep, 0)


def test_a_loop_that_ended_without_ceremony_is_forgotten(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Closing elsewhere finds nothing to close there, and nothing to warn of."""
    with served(SERVED) as server:
        base_url = server.base_url
    kling = client(base_url, retry=ONCE)
    loop = asyncio.new_event_loop()
    with pytest.raises(ConnectionFailedError):
        loop.run_until_complete(kling.get(ID))
    loop.close()
    caplog.clear()
    asyncio.run(kling.aclose())
    assert kling.is_closed
    assert [it for it in caplog.records if it.name == "kling_async"] == []


def test_a_client_of_the_user_stays_in_its_loop() -> None:
    """A second loop is told clearly what to do, not "Event loop is closed"."""

    async def call() -> str:
        return (await kling.get(ID)).id

    mine = over(lambda _: httpx.Response(200, json=QUEUED))
    kling = client(http_client=mine)
    assert asyncio.run(call()) == ID
    with pytest.raises(ConfigurationError, match="one AsyncKling for each loop"):
        asyncio.run(call())


@pytest.mark.looptime
async def test_an_exchange_that_is_killed_before_it_began_gives_its_place_back() -> (
    None
):
    """Some programs cancel every task that they find; nobody waits for ever then."""
    mine = over(lambda _: httpx.Response(200, json=QUEUED))
    async with mine, client(http_client=mine, max_connections=1) as kling:
        task = asyncio.create_task(create(kling))
        await asyncio.sleep(0)
        for own in asyncio.all_tasks() - {task, asyncio.current_task()}:
            own.cancel()
        await asyncio.wait([task])
        assert isinstance(task.exception(), ClientClosedError | KlingError)
        async with asyncio.timeout(5):
            assert (await kling.get(ID)).id == ID

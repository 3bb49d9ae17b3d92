"""A generation's progress as a browser sees it: Server-Sent Events, over a socket."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager

import anyio
import httpx
import pytest
from attrs import frozen
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from kling_async import AsyncKling, ConfigurationError, Generation, Polling
from kling_async.emulator import Emulator
from kling_async.emulator._server import Listener
from kling_async.web import kling_lifespan, progress_events

MODEL = "klingai/v2-master-text-to-video"
AT_ONCE = 1e9


@frozen
class Event:
    """One event as it came over the wire."""

    name: str
    id: str
    data: dict[str, object]


async def read(
    browser: httpx.AsyncClient, path: str, last_id: str = ""
) -> AsyncGenerator[Event, None]:
    """Read a stream of events as a browser does."""
    headers = {"Last-Event-ID": last_id} if last_id else {}
    async with browser.stream("GET", path, headers=headers) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        fields: dict[str, str] = {}
        async for line in answer.aiter_lines():
            name, _, value = line.partition(": ")
            if line and name:
                fields[name] = value
            elif "data" in fields:
                data = json.loads(fields["data"])
                yield Event(fields["event"], fields.get("id", ""), data)
                fields = {}


async def events(request: Request) -> Response:
    """Be the endpoint of a user's app."""
    timeout = request.query_params.get("timeout")
    return progress_events(
        request,
        request.path_params["generation_id"],
        heartbeat=float(request.query_params.get("heartbeat", "15")),
        timeout=float(timeout) if timeout else None,
    )


def starlette_app() -> Starlette:
    """Make an app of Starlette."""
    routes = [Route("/videos/{generation_id:path}/events", events)]
    return Starlette(routes=routes, lifespan=kling_lifespan)


def fastapi_app() -> FastAPI:
    """Make the same of FastAPI."""
    app = FastAPI(lifespan=kling_lifespan)
    app.add_api_route(
        "/videos/{generation_id:path}/events", events, response_model=None
    )
    return app


APPS = pytest.mark.parametrize("make_app", [starlette_app, fastapi_app])


@asynccontextmanager
async def serving(app: Starlette) -> AsyncGenerator[httpx.AsyncClient]:
    """Serve an app on a socket, within its lifespan, and give a browser for it."""
    async with app.router.lifespan_context(app) as state:

        async def with_state(scope: Scope, receive: Receive, send: Send) -> None:
            await app({**scope, "state": dict(state or {})}, receive, send)

        listener = await Listener.open(
            with_state, host="127.0.0.1", port=0, hang_up=lambda: None
        )
        try:
            async with httpx.AsyncClient(base_url=listener.url, trust_env=False) as it:
                yield it
        finally:
            await listener.aclose()


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[Emulator], None]:
    """Point the app's own client at an emulator."""

    def point(emulator: Emulator) -> None:
        monkeypatch.setenv("AIMLAPI_KEY", "any-key")
        monkeypatch.setenv("AIMLAPI_BASE_URL", emulator.base_url)

    return point


async def created(emulator: Emulator) -> str:
    """Create a generation, and give its id."""
    async with AsyncKling("any-key", base_url=emulator.base_url) as kling:
        return (await kling.create(model=MODEL, prompt="A cat")).id


@APPS
async def test_a_browser_is_told_each_status_and_then_the_video(
    make_app: Callable[[], Starlette], environment: Callable[[Emulator], None]
) -> None:
    """Queued or generating first, the video last; then the stream ends."""
    async with Emulator(speed=300, size=64) as emulator:
        environment(emulator)
        generation_id = await created(emulator)
        async with serving(make_app()) as browser:
            path = f"/videos/{generation_id}/events"
            told = [event async for event in read(browser, path)]
    assert {event.name for event in told} == {"status"}
    assert [event.data["id"] for event in told] == [generation_id] * len(told)
    assert told[0].data["status"] in {"queued", "generating"}
    last = told[-1].data
    assert (last["status"], last["succeeded"], last["error"]) == (
        "completed",
        True,
        None,
    )
    assert isinstance(last["video"], dict)
    assert last["video"]["content_type"] == "video/mp4"
    assert last["video"]["file_size"] > 1000


async def test_a_failed_generation_is_the_last_status(
    environment: Callable[[Emulator], None],
) -> None:
    """Its error is told, and no trouble besides."""
    async with Emulator(speed=AT_ONCE, failure_rate=1) as emulator:
        environment(emulator)
        generation_id = await created(emulator)
        async with serving(starlette_app()) as browser:
            path = f"/videos/{generation_id}/events"
            (only,) = [event async for event in read(browser, path)]
    assert (only.name, only.data["status"], only.data["succeeded"]) == (
        "status",
        "error",
        False,
    )
    assert only.data["error"]


async def test_who_comes_back_is_not_told_again(
    environment: Callable[[Emulator], None],
) -> None:
    """The status of ``Last-Event-ID`` is passed over; after the end there is 204."""
    async with Emulator(speed=AT_ONCE, size=64) as emulator:
        environment(emulator)
        generation_id = await created(emulator)
        async with serving(starlette_app()) as browser:
            path = f"/videos/{generation_id}/events"
            (end,) = [event async for event in read(browser, path, "generating")]
            headers = {"Last-Event-ID": end.id}
            again = await browser.get(path, headers=headers)
    assert end.data["status"] == "completed"
    assert (again.status_code, again.content) == (204, b"")


async def test_a_status_that_was_seen_is_passed_over(
    environment: Callable[[Emulator], None],
) -> None:
    """A reconnect in the middle begins with what is new."""
    async with Emulator(speed=300, size=64) as emulator:
        environment(emulator)
        generation_id = await created(emulator)
        async with serving(starlette_app()) as browser:
            path = f"/videos/{generation_id}/events"
            async with aclosing(read(browser, path)) as stream:
                first = await anext(stream)
            rest = [event async for event in read(browser, path, first.id)]
    assert first.id == first.data["status"] != "completed"
    assert first.data["status"] not in {event.data["status"] for event in rest}
    assert rest[-1].data["status"] == "completed"


@pytest.mark.parametrize("generation_id", ["nobodys", "%20"])
async def test_what_ends_a_watch_early_is_told_as_trouble(
    generation_id: str, environment: Callable[[Emulator], None]
) -> None:
    """An id that nobody knows, or that is none: the browser hears why, and stops."""
    async with Emulator() as emulator:
        environment(emulator)
        app = starlette_app()
        async with serving(app) as browser:
            path = f"/videos/{generation_id}/events?timeout=0.2"
            (only,) = [event async for event in read(browser, path)]
    assert (only.name, only.id) == ("trouble", "end")
    assert only.data["type"] in {"WaitTimeoutError", "InvalidRequestError"}


async def test_many_browsers_of_one_generation_share_its_polls(
    environment: Callable[[Emulator], None],
) -> None:
    """Twenty tabs cost as many polls as one."""
    async with Emulator(speed=300, size=64) as emulator:
        environment(emulator)
        generation_id = await created(emulator)
        path = f"/videos/{generation_id}/events"
        ends: list[object] = []

        async def tab(browser: httpx.AsyncClient) -> None:
            told = [event async for event in read(browser, path)]
            ends.append(told[-1].data["status"])

        async with (
            serving(starlette_app()) as browser,
            anyio.create_task_group() as tabs,
        ):
            for _ in range(20):
                tabs.start_soon(tab, browser)
        polls = [it for it in emulator.requests if it.method == "GET"]
    assert ends == ["completed"] * 20
    assert len(polls) < 10


class Noticing(AsyncKling):
    """A client that notices when a watch of it ends."""

    ended: anyio.Event

    async def watch(
        self,
        generation_or_id: Generation | str,
        *,
        polling: Polling | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Generation, None]:
        """Watch as ever."""
        watching = super().watch(generation_or_id, polling=polling, timeout=timeout)
        try:
            async with aclosing(watching) as changes:
                async for generation in changes:
                    yield generation
        finally:
            self.ended.set()


async def test_a_browser_that_leaves_ends_its_watch() -> None:
    """Nothing goes on polling for nobody; and a client of one's own is taken."""
    async with (
        Emulator(speed=0.001) as emulator,
        Noticing("any-key", base_url=emulator.base_url) as kling,
    ):
        kling.ended = anyio.Event()

        async def own(request: Request) -> Response:
            generation_id = request.path_params["generation_id"]
            return progress_events(request, generation_id, kling=kling)

        app = Starlette(routes=[Route("/{generation_id:path}", own)])
        async with serving(app) as browser:
            async with aclosing(read(browser, f"/{await created(emulator)}")) as stream:
                await anext(stream)
            with anyio.fail_after(10):
                await kling.ended.wait()


async def test_a_heartbeat_keeps_the_line_open(
    environment: Callable[[Emulator], None],
) -> None:
    """A comment comes although nothing changes."""
    async with Emulator(speed=0.001) as emulator:
        environment(emulator)
        path = f"/videos/{await created(emulator)}/events?heartbeat=0.05"
        async with (
            serving(starlette_app()) as browser,
            browser.stream("GET", path) as answer,
        ):
            lines = answer.aiter_lines()
            while not (await anext(lines)).startswith(": "):
                pass


@pytest.mark.parametrize("heartbeat", [0, -1, math.nan])
def test_a_heartbeat_that_is_no_span_of_time_is_refused(heartbeat: float) -> None:
    """Zero would send without a pause."""
    request = Request({"type": "http", "headers": []})
    with pytest.raises(ConfigurationError, match="heartbeat"):
        progress_events(request, "some-id", heartbeat=heartbeat)


async def test_an_app_without_a_key_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Better than an app that fails at its first customer."""
    for name in ("AIMLAPI_KEY", "AIMLAPI_API_KEY", "AIML_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="AIMLAPI_KEY"):
        async with kling_lifespan(Starlette()):
            pass


async def test_the_client_is_closed_with_the_app(
    environment: Callable[[Emulator], None],
) -> None:
    """The lifespan's end is the client's."""
    async with Emulator() as emulator:
        environment(emulator)
        async with kling_lifespan(Starlette()) as state:
            assert not state["kling"].is_closed
        assert state["kling"].is_closed

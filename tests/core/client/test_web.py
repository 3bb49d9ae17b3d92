"""A generation's progress as a browser sees it: Server-Sent Events, over a socket."""

from __future__ import annotations

import json
import math
import re
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

import kling_async
from kling_async import (
    AsyncKling,
    ConfigurationError,
    Fixed,
    Generation,
    KlingError,
    Polling,
)
from kling_async._text import safe_line
from kling_async.emulator import Emulator, Fault
from kling_async.emulator._server import Listener
from kling_async.web import (
    describe,
    has_ended,
    kling_lifespan,
    progress,
    progress_events,
    public_message,
)

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
            async with httpx.AsyncClient(
                base_url=listener.url, trust_env=False, timeout=300
            ) as it:
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


def still_generating(generation_id: str, times: int) -> Fault:
    """Answer some polls as if the work were not done yet."""
    body = {"id": generation_id, "status": "generating"}
    return Fault("status", status=200, method="GET", body=body, times=times)


@APPS
async def test_a_browser_is_told_each_status_and_then_the_video(
    make_app: Callable[[], Starlette], environment: Callable[[Emulator], None]
) -> None:
    """Queued or generating first, the video last; then the stream ends."""
    async with Emulator(speed=1e6, size=64) as emulator:
        environment(emulator)
        generation_id = await created(emulator)
        emulator.faults.add(still_generating(generation_id, 2))
        async with serving(make_app()) as browser:
            path = f"/videos/{generation_id}/events"
            told = [event async for event in read(browser, path)]
    assert {event.name for event in told} == {"status"}
    assert [event.data["id"] for event in told] == [generation_id] * len(told)
    statuses = [event.data["status"] for event in told]
    assert statuses == sorted(set(statuses), key=statuses.index)
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
            (end,) = [event async for event in read(browser, path, "status:active")]
            headers = {"Last-Event-ID": end.id}
            again = await browser.get(path, headers=headers)
    assert end.data["status"] == "completed"
    assert (again.status_code, again.content) == (204, b"")


async def test_a_status_that_was_seen_is_passed_over(
    environment: Callable[[Emulator], None],
) -> None:
    """A reconnect in the middle begins with what is new."""
    async with Emulator(speed=AT_ONCE, size=64) as emulator:
        environment(emulator)
        generation_id = await created(emulator)
        emulator.faults.add(still_generating(generation_id, times=2))
        async with serving(starlette_app()) as browser:
            path = f"/videos/{generation_id}/events"
            async with aclosing(read(browser, path)) as stream:
                first = await anext(stream)
            rest = [event async for event in read(browser, path, first.id)]
    assert (first.id, first.data["status"]) == ("status:generating", "generating")
    assert [event.data["status"] for event in rest] == ["completed"]


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
    assert only.data["message"] in {
        "This takes longer than usual. Come back later to see it.",
        "The video service knows no such video.",
    }


def every_error() -> list[KlingError]:
    """Make one of each class of error, with all that a visitor is not to see."""
    secret = f"{SECRET} error.generation_id kling.wait()"
    kinds = [it for it in vars(kling_async).values() if isinstance(it, type)]
    errors = []
    for kind in kinds:
        if issubclass(kind, KlingError):
            error = kind.__new__(kind, secret)
            error.args = (secret,)
            errors.append(error.concerning(SECRET))
    return errors


SECRET = "req-4711"


@pytest.mark.parametrize("error", every_error(), ids=lambda it: type(it).__name__)
def test_a_public_message_names_no_id_and_nothing_of_python(error: KlingError) -> None:
    """What is for the developer goes to the log, whatever the error."""
    words = public_message(error)
    assert SECRET in str(error)
    assert SECRET not in words
    assert re.fullmatch(r"([A-Z][a-z ]+[:.]? ?([a-z ]+[.])? ?)+", words), words


async def test_an_app_words_a_trouble_in_its_own_way(emulated: AsyncKling) -> None:
    """It gives a function; the log has the error as it was."""
    stream = progress(emulated, "nobodys", timeout=0.2, message=lambda _: "Oh dear")
    (only,) = [event async for event in stream]
    assert only.data == {"type": "WaitTimeoutError", "message": "Oh dear"}


@pytest.mark.parametrize("odd", ["end", "status:", "a\nb", "a\r\n\r\nb", "\0", "ä"])
async def test_no_status_of_the_server_breaks_or_ends_a_stream(odd: str) -> None:
    """One that is spelt like the mark of the end, or like the stream's own syntax."""
    statuses = [odd, "generating"]
    answers = [{"id": "some-id", "status": status} for status in statuses]
    done = {"id": "some-id", "status": "completed", "video": {"url": "https://a.b/c"}}

    def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json=answers.pop(0) if answers else done)

    client = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    polling = Fixed(0.001)
    async with AsyncKling("k", http_client=client, polling=polling) as kling:
        told = [event async for event in progress(kling, "some-id")]
    shown = [safe_line(it) for it in (*statuses, "completed")]
    assert [event.data["status"] for event in told] == shown
    assert [has_ended(event.id) for event in told] == [False, False, True]
    for event in told:
        assert event.encode().count(b"\n") == 4
        assert event.encode().isascii()


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
            with anyio.fail_after(300):
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


async def test_a_timeout_that_is_none_is_refused_before_the_stream_begins() -> None:
    """Not in the middle of an answer that said that all is well."""
    request = Request({"type": "http", "headers": []})
    async with AsyncKling("any-key") as kling:
        with pytest.raises(ConfigurationError, match="timeout"):
            progress_events(request, "some-id", kling=kling, timeout=-1)
        with pytest.raises(ConfigurationError, match="heartbeat"):
            progress(kling, "some-id", heartbeat=0)


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


async def test_a_route_of_fastapi_returns_a_generation(emulated: AsyncKling) -> None:
    """By itself and in a list, as `describe` shows it; the app's schema is whole."""
    app = FastAPI()
    generation = await emulated.create(model=MODEL, prompt="A cat")

    @app.get("/one")
    async def one() -> Generation:
        return generation

    @app.get("/all")
    async def several() -> list[Generation]:
        return [generation]

    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://app") as browser:
        assert (await browser.get("/one")).json() == describe(generation)
        assert (await browser.get("/all")).json() == [describe(generation)]
        assert (await browser.get("/openapi.json")).is_success


@pytest.fixture
async def emulated() -> AsyncGenerator[AsyncKling]:
    """Give a client of an emulator."""
    async with (
        Emulator() as emulator,
        AsyncKling("any-key", base_url=emulator.base_url) as kling,
    ):
        yield kling

"""The key goes to the API and nowhere else: no error, log, traceback, pickle, host."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import pickle
import traceback
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path

import anyio
import anyio.to_thread
import httpx
import pytest
from attrs import frozen
from clients import ID, KEY, MODEL, ONCE, PROMPT, QUEUED, client, create, over
from raw_server import (
    RawServer,
    Script,
    answer,
    answering,
    hang_up,
    reset,
)
from rich.console import Console
from rich.traceback import Traceback

from kling_async import (
    APIStatusError,
    AsyncKling,
    AuthenticationError,
    ConfigurationError,
    Hooks,
    KlingError,
    Learned,
    RequestEvent,
    RetryEvent,
    SubmissionUncertainError,
    save_learned,
)
from kling_async._config import Options
from kling_async.emulator import Emulator

BEARER = f"Bearer {KEY}"


def all_that_shows(error: BaseException) -> str:
    """Give all of an error that a log, a crash report or a queue would hold."""
    told = traceback.TracebackException.from_exception(error, capture_locals=True)
    parts = [*told.format(), str(error), repr(error), repr(vars(error))]
    below = error.__cause__
    while below is not None:
        parts += [str(below), repr(below)]
        below = below.__cause__
    return "\n".join([*parts, repr(pickle.dumps(error))])


def lines_with_key(*shown: str) -> list[str]:
    """Give the lines that hold the key, as the failure of a test shows them."""
    return [line for it in shown for line in it.splitlines() if KEY in line]


def echoed(_: httpx.Request) -> dict[str, object]:
    """Send the key back in every place of an answer that is read."""
    return {
        "headers": {"location": f"http://x/?key={KEY}", "x-request-id": KEY},
        "json": {"message": f"no: {BEARER}", "requestId": KEY, "error": KEY},
    }


def in_json(code: int) -> Callable[[httpx.Request], httpx.Response]:
    """Refuse, and send the key back."""
    return lambda request: httpx.Response(code, **echoed(request))  # type: ignore[arg-type]  # by name


def in_a_page(code: int) -> Callable[[httpx.Request], httpx.Response]:
    """Answer with a web page that has the key in its title and in its text."""
    page = f"<html><title>{BEARER}</title><body>{BEARER}</body></html>"
    return lambda _: httpx.Response(code, html=page)


async def chunks() -> AsyncIterator[bytes]:
    """Send the key back, and more than is read."""
    yield KEY.encode()
    for _ in range(17):
        yield b" " * 1024 * 1024


async def cut_off() -> AsyncIterator[bytes]:
    """Send the key back, and break."""
    yield KEY.encode()
    raise httpx.ReadError("reset")


def too_large(_: httpx.Request) -> httpx.Response:
    """Answer with more than is read."""
    return httpx.Response(200, content=chunks())


def broken(code: int) -> Callable[[httpx.Request], httpx.Response]:
    """Answer with less than is promised."""
    return lambda _: httpx.Response(code, content=cut_off())


def below(cls: type[Exception]) -> Callable[[httpx.Request], httpx.Response]:
    """Fail deep inside, with the headers in a local and a chain of causes."""

    def write(head: Mapping[str, str]) -> None:
        raw = [f"{name}: {value}".encode() for name, value in head.items()]
        raise OSError(f"broken after {len(raw)} lines")

    def send(request: httpx.Request) -> httpx.Response:
        head = dict(request.headers)
        try:
            write(head)
        except OSError as error:
            raise cls("on the way") from error
        raise AssertionError

    return send


HANDLERS = {
    **{f"json-{code}": in_json(code) for code in (302, 400, 401, 403, 404, 429, 500)},
    **{f"page-{code}": in_a_page(code) for code in (200, 401, 502)},
    **{f"broken-{code}": broken(code) for code in (200, 401, 502)},
    "too-large": too_large,
    **{
        cls.__name__: below(cls)
        for cls in (httpx.WriteError, httpx.ConnectError, httpx.ReadTimeout, ValueError)
    },
}


@pytest.mark.parametrize("call", ["get", "create"])
@pytest.mark.parametrize("handler", HANDLERS.values(), ids=HANDLERS)
async def test_no_error_holds_the_key(
    handler: Callable[[httpx.Request], httpx.Response],
    call: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Text, attributes, pickle, log, events; the locals of every frame of the chain."""
    caplog.set_level(logging.DEBUG)
    events = list[RequestEvent | RetryEvent]()
    hooks = Hooks(on_request=events.append, on_retry=events.append)
    async with over(handler) as mine:
        kling = client(http_client=mine, hooks=hooks)
        with pytest.raises(KlingError) as caught:
            await (kling.get(ID) if call == "get" else create(kling))
        shown = [all_that_shows(caught.value), caplog.text, repr(events), repr(kling)]
        shown += [repr(vars(kling)), repr(kling.with_options(timeout=5))]
    assert events
    assert lines_with_key(*shown) == []


@pytest.mark.parametrize("call", ["get", "create"])
@pytest.mark.parametrize("script", [answering(answer(QUEUED)), reset])
async def test_no_log_of_any_library_holds_the_key(
    script: Script, call: str, caplog: pytest.LogCaptureFixture
) -> None:
    """At level DEBUG httpx and httpcore tell much of a request, and not that."""
    caplog.set_level(logging.DEBUG)
    async with RawServer(script) as server:
        async with client(server.base_url, retry=ONCE) as kling:
            with contextlib.suppress(KlingError):
                await (kling.get(ID) if call == "get" else create(kling))
        assert server.requests[0].headers["authorization"] == BEARER
    assert {"httpcore.http11", "kling_async"} <= {it.name for it in caplog.records}
    assert lines_with_key(caplog.text) == []


async def test_a_failure_on_a_socket_shows_no_key() -> None:
    """The frames of httpcore and h11, which hold all headers, are not kept."""
    async with RawServer(hang_up) as server:
        base_url = server.base_url
        async with client(base_url, retry=ONCE) as kling:
            with pytest.raises(KlingError) as caught:
                await kling.get(ID)
    del server  # it has seen the key, and shows it
    assert lines_with_key(all_that_shows(caught.value)) == []
    chain = "".join(traceback.format_exception(caught.value))
    assert "httpx.RemoteProtocolError" in chain
    assert "httpcore/" not in chain


@pytest.mark.parametrize("call", ["get", "create"])
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_to_another_host_is_not_followed(code: int, call: str) -> None:
    """The other host hears nothing at all, and the error says where it pointed."""
    async with RawServer(answering(answer(QUEUED))) as other:
        to = f"{other.base_url}/v2/video/generations"
        script = answering(answer(b"", f"{code} Moved", location=to))
        async with RawServer(script) as server, client(server.base_url) as kling:
            with pytest.raises(KlingError) as caught:
                await (kling.get(ID) if call == "get" else create(kling))
            assert len(server.requests) == 1
        assert (other.accepted, other.requests) == (0, [])
    is_lost = isinstance(caught.value, SubmissionUncertainError)
    assert is_lost == ((code, call) == (303, "create"))  # "done, look there"
    error = caught.value.__cause__ if is_lost else caught.value
    assert isinstance(error, APIStatusError)
    assert error.status_code == code
    assert f"a redirect to {to}, not followed" in str(error)


async def test_a_client_of_the_user_that_follows_redirects_does_not_here() -> None:
    """Its own setting is no way around."""
    async with (
        RawServer(answering(answer(QUEUED))) as other,
        RawServer(
            answering(answer(b"", "307 Moved", location=other.base_url))
        ) as server,
        httpx.AsyncClient(follow_redirects=True) as mine,
    ):
        kling = client(server.base_url, http_client=mine)
        with pytest.raises(APIStatusError, match="not followed"):
            await kling.get(ID)
        assert other.accepted == 0


async def test_the_users_own_credentials_do_not_take_the_keys_place() -> None:
    """``auth=`` and headers of the httpx client are for other things."""
    mine = httpx.AsyncClient(
        auth=("user", "hunter2"), headers={"authorization": "Basic x"}
    )
    async with RawServer(answering(answer(QUEUED))) as server, mine:
        await client(server.base_url, http_client=mine).get(ID)
    assert server.requests[0].headers["authorization"] == BEARER


BAD: Mapping[str, Options] = {
    "timeout": {"timeout": 0},
    "base_url": {"base_url": f"https://user:{KEY}@api.example.com"},
    "plain": {"base_url": "http://api.example.com"},
    "key": {"api_key": f"{KEY} and more"},
}


@pytest.mark.parametrize("options", BAD.values(), ids=BAD)
@pytest.mark.parametrize("how", ["made", "changed"])
def test_a_client_that_cannot_be_made_shows_no_secret(
    options: Options, how: str
) -> None:
    """Not even where a crash report lists the locals of every frame, as rich does."""
    given: Options = {"api_key": KEY, **options}
    kling = client()
    with pytest.raises(ConfigurationError) as caught:
        AsyncKling(**given) if how == "made" else kling.with_options(**given)
    told = io.StringIO()
    trace = Traceback.from_exception(
        caught.type,
        caught.value,
        caught.value.__traceback__.tb_next,  # type: ignore[union-attr]  # our frames
        show_locals=True,
    )
    Console(file=told, width=200).print(trace)
    shown = told.getvalue()
    assert "_client.py" in shown
    assert "locals" in shown
    assert lines_with_key(shown, repr(pickle.dumps(caught.value))) == []


@pytest.mark.parametrize("write", [pickle.dumps, copy.deepcopy])
def test_a_client_is_not_pickled(write: Callable[[object], object]) -> None:
    """Nor copied deeply: its key and its connections stay where they are."""
    with pytest.raises(TypeError, match="pickle"):
        write(client())


@frozen
class Case:
    """A key, and an answer that it stands in by chance."""

    key: str
    generation_id: str


@pytest.mark.parametrize(
    "case",
    [Case("k", "g-1:kling-video/v2"), Case("kling-video", ID), Case("queued", ID)],
)
async def test_a_key_that_stands_in_an_answer_by_chance_spoils_nothing(
    case: Case,
) -> None:
    """Test keys are short: an id that holds one comes out whole all the same."""

    def reply(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, json={"id": case.generation_id, "status": "queued"})

    async with over(reply) as mine:
        kling = AsyncKling(case.key, base_url="https://kling.test", http_client=mine)
        assert (await create(kling)).id == case.generation_id
        generation = await kling.get(case.generation_id)
    assert (generation.id, generation.status) == (case.generation_id, "queued")


async def test_the_words_of_a_refusal_are_kept_but_for_the_key() -> None:
    """What else the server said is shown."""
    async with over(in_json(401)) as mine:
        with pytest.raises(AuthenticationError) as caught:
            await client(http_client=mine).get(ID)
    assert caught.value.message == "no: Bearer ***"
    assert caught.value.request_id == "***"


async def test_the_emulator_keeps_and_shows_no_key(tmp_path: Path) -> None:
    """Its page, events, records, state file and request log; nor what was learned."""
    state, learned = tmp_path / "state.json", tmp_path / "learned.json"
    polling = Learned()
    shown = list[str]()
    async with Emulator(speed=1e9, size=64, state=state, api_keys=[KEY]) as emulator:
        url = emulator.base_url
        async with AsyncKling(KEY, base_url=url, polling=polling) as kling:
            await kling.wait(await create(kling))
            async with aclosing(kling.request_log()) as rows:
                shown += [repr(row) async for row in rows]
        async with httpx.AsyncClient(
            base_url=url, trust_env=False, timeout=300
        ) as visitor:
            pages = ("requests", "creates", "charges", "faults", "page.js")
            for path in ("/", *(f"/_emulator/{it}" for it in pages)):
                shown.append((await visitor.get(path)).text)
            async with visitor.stream("GET", "/_emulator/events") as events:
                shown.append(await anext(events.aiter_text()))
        shown += [repr(emulator), repr(emulator.requests)]
    await anyio.to_thread.run_sync(save_learned, polling, learned)
    assert PROMPT in "".join(shown)
    shown += [state.read_text("utf-8"), learned.read_text("utf-8")]
    assert MODEL in shown[-1]
    assert lines_with_key(*shown) == []

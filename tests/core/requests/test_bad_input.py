"""What goes wrong in practice: each ends in the one right error, in words that help.

Bad requests, a bad account, a bad server; and no id is lost over any of them.
"""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from attrs import frozen
from clients import ID, IMAGE, KEY, MODEL, ONCE, PROMPT, QUEUED, client, create
from raw_server import (
    Peer,
    RawRequest,
    RawServer,
    Script,
    answer,
    answering,
    hang_up,
    reset,
    stay_silent,
)
from socket_clock import without_waiting

from kling_async import (
    APIStatusError,
    AsyncKling,
    AuthenticationError,
    BadRequestError,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    Generation,
    InvalidRequestError,
    KlingError,
    NotFoundError,
    OutOfCreditsError,
    RequestTimeoutError,
    RetryPolicy,
    SubmissionUncertainError,
)
from kling_async.emulator import Emulator

TWICE = RetryPolicy(attempts=2, initial=0, uncertain="raise")


def any_create(kling: AsyncKling) -> Callable[..., Awaitable[Generation]]:
    """Give a create that takes what a caller may give, whatever its annotations say."""
    return kling.create


# --- bad requests: refused here, before a byte is sent


@pytest.mark.parametrize(
    "change, words",
    [
        ({"prompt": ""}, ["prompt", "''", "It is empty"]),
        ({"prompt": "   "}, ["prompt", "It is empty"]),
        ({"prompt": 7}, ["prompt", "7"]),
        ({"duration": 7}, ["duration", "7", "5, 10"]),
        ({"duration": "7"}, ["duration", "'7'", "5, 10"]),
        ({"duration": None, "cfg_scale": 1.5}, ["cfg_scale", "1.5", "0 to 1"]),
        ({"cfg_scale": float("nan")}, ["cfg_scale", "nan", "0 to 1"]),
        ({"image_url": "mona.jpg"}, ["image_url", "pathlib.Path('mona.jpg')"]),
        ({"image_url": "ftp://x/mona.jpg"}, ["image_url", "http and https"]),
        ({"image_url": 5}, ["image_url", "5"]),
        ({"model": ""}, ["model", "kling-async models"]),
        ({"pormpt": "x"}, ["pormpt", "'x'"]),
        ({"prompt": "", "duration": 7, "cfg_scale": 1.5}, ["3 problems"]),
    ],
    ids=str,
)
async def test_a_request_that_cannot_be_right_is_never_sent(
    change: dict[str, object], words: list[str]
) -> None:
    """The field, what was given, what is allowed; all problems at once."""
    given = {"model": MODEL, "image_url": IMAGE, "prompt": PROMPT, **change}
    async with Emulator(size=64) as emulator, client(emulator.base_url) as kling:
        with pytest.raises(InvalidRequestError) as caught:
            await any_create(kling)(**given)
        assert list(emulator.requests) == []
    assert all(word in str(caught.value) for word in [*words, "nothing was sent"])
    assert {problem.field for problem in caught.value.problems} <= set(given)


def a_missing_file(folder: Path) -> Path:
    """Name a file that is not there."""
    return folder / "mona.jpg"


def no_image(folder: Path) -> Path:
    """Make a file that is no image, whatever its name says."""
    (folder / "mona.jpg").write_text("a letter")
    return folder / "mona.jpg"


@pytest.mark.parametrize(
    "make, words",
    [
        (a_missing_file, "which is missing"),
        (no_image, "allowed a JPEG or PNG image"),
        (lambda folder: folder, "a directory; allowed the path of a file"),
    ],
    ids=["missing", "no-image", "directory"],
)
async def test_a_file_that_cannot_be_right_is_never_sent(
    tmp_path: Path, make: Callable[[Path], Path], words: str
) -> None:
    """By its path, and what is allowed in its place."""
    path = make(tmp_path)
    async with Emulator(size=64) as emulator, client(emulator.base_url) as kling:
        with pytest.raises(InvalidRequestError) as caught:
            await kling.create(model=MODEL, image_url=path, prompt=PROMPT)
        assert list(emulator.requests) == []
    assert f"image_url: given {path}" in str(caught.value)
    assert words in str(caught.value)


@pytest.mark.parametrize("given", ["", "  ", "\n", "a\nb", "x" * 70_000, 7, None, b"g"])
async def test_what_cannot_be_an_id_is_never_asked_for(given: object) -> None:
    """And the error is about no generation: nothing runs under such a name."""
    get: Callable[[object], Awaitable[Generation]]
    async with RawServer(answering(answer(QUEUED))) as server:
        async with client(server.base_url) as kling:
            get = kling.get  # type: ignore[assignment]  # takes what a caller may give
            with pytest.raises(InvalidRequestError, match="generation_id") as caught:
                await get(given)
        assert server.requests == []
    assert caught.value.generation_id is None
    assert "may still be running" not in str(caught.value)


# --- a bad account


async def test_a_wrong_key_is_an_authentication_error() -> None:
    """For each call, at the first attempt, with where the key comes from."""
    async with Emulator(api_keys=["the-right-one"], size=64) as emulator:
        async with client(emulator.base_url) as kling:
            for call in (create(kling), kling.get(ID)):
                with pytest.raises(AuthenticationError, match="AIMLAPI_KEY") as caught:
                    await call
                assert caught.value.request_id
        assert [it.status for it in emulator.requests] == [401, 401]
        assert len(emulator.creates) == 0


def test_no_key_at_all_is_told_before_any_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """How to set one, and what needs none."""
    for name in ("AIMLAPI_KEY", "AIMLAPI_API_KEY", "AIML_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigurationError, match="set the environment variable"):
        AsyncKling()


async def test_an_account_without_credits_is_told_so() -> None:
    """An `OutOfCreditsError`: top up, and nothing was billed."""
    async with Emulator(credits=0, size=64) as emulator:
        async with client(emulator.base_url) as kling:
            with pytest.raises(OutOfCreditsError, match="nothing was billed"):
                await create(kling)
        assert [it.status for it in emulator.requests] == [403]
        assert len(emulator.creates) == 0


@pytest.mark.parametrize(
    "generation_id", [ID, "60ac7c34-3224-4b14-8e7d-0aa0db708325", "unheard of"]
)
async def test_an_unknown_id_is_not_found(generation_id: str) -> None:
    """One request, and an error that carries the id that was asked for."""
    async with Emulator(size=64) as emulator:
        async with client(emulator.base_url) as kling:
            with pytest.raises(NotFoundError, match="not found") as caught:
                await kling.get(generation_id)
        assert [it.status for it in emulator.requests] == [404]
    assert caught.value.generation_id == generation_id


async def test_what_only_the_server_knows_to_be_wrong_is_told_in_its_words() -> None:
    """Fields of ``extra`` are not checked here, and there they are."""
    async with Emulator(size=64) as emulator:
        async with client(emulator.base_url) as kling:
            with pytest.raises(BadRequestError, match="duration") as caught:
                await kling.create(
                    model=MODEL,
                    image_url=IMAGE,
                    prompt=PROMPT,
                    extra={"duration": 7},
                )
        assert len(emulator.creates) == 0
    assert caught.value.status_code == 400


# --- a bad server


@frozen
class Bad:
    """An answer that is none, and what a get and a create make of it."""

    script: Script
    get: type[KlingError]
    words: str
    create: type[KlingError] = SubmissionUncertainError
    attempts: int = 2


async def redirect(_: RawRequest, peer: Peer) -> None:
    """Point to another host."""
    await peer.send(answer(b"", "302 Found", location="https://elsewhere.test/login"))


async def half(_: RawRequest, peer: Peer) -> None:
    """Promise more than is sent."""
    await peer.send(answer(QUEUED)[:-20])
    peer.hang_up()


PAGE = b"<!doctype html><title>Just a moment...</title>"
BAD_SERVERS = {
    "html": Bad(answering(answer(PAGE)), DecodeError, "Just a moment"),
    "truncated": Bad(answering(answer(b'{"id": "g-')), DecodeError, "not JSON"),
    "cut-off": Bad(half, ConnectionFailedError, "reading the answer"),
    "empty": Bad(answering(answer(b"")), DecodeError, "not JSON"),
    "list": Bad(answering(answer([QUEUED])), DecodeError, "not a JSON object"),
    "null": Bad(answering(answer(None)), DecodeError, "not a JSON object"),
    "no-id": Bad(answering(answer({"ok": True})), DecodeError, "'{\"ok\": true}'"),
    "reset": Bad(reset, ConnectionFailedError, "GET 127.0.0.1:"),
    "closed": Bad(hang_up, ConnectionFailedError, "disconnected"),
    "silent": Bad(stay_silent, RequestTimeoutError, "timeout 0.2 s"),
    "redirect": Bad(
        redirect,
        APIStatusError,
        "a redirect to https://elsewhere.test/login, not followed",
        create=APIStatusError,
        attempts=1,
    ),
}
each_bad_server = pytest.mark.parametrize("bad", BAD_SERVERS.values(), ids=BAD_SERVERS)


@each_bad_server
@without_waiting
async def test_a_get_from_a_bad_server_keeps_the_id(bad: Bad) -> None:
    """The error has its kind and its words, and says which generation goes on."""
    async with RawServer(bad.script) as server:
        async with client(server.base_url, retry=TWICE, timeout=0.2) as kling:
            with pytest.raises(bad.get) as caught:
                await kling.get(ID)
        assert len(server.requests) == bad.attempts
    assert type(caught.value) is bad.get
    assert bad.words in str(caught.value)
    assert caught.value.generation_id == ID
    assert f"generation {ID}; it may still be running" in str(caught.value)
    assert pickle.loads(pickle.dumps(caught.value)).generation_id == ID


@each_bad_server
@without_waiting
async def test_a_create_at_a_bad_server_keeps_the_client_request_id(bad: Bad) -> None:
    """Sent once; where it may be running, the error says what to look for."""
    async with RawServer(bad.script) as server:
        async with client(server.base_url, retry=TWICE, timeout=0.2) as kling:
            with pytest.raises(bad.create) as caught:
                await create(kling, "mine")
        assert len(server.requests) == 1
    assert type(caught.value) is bad.create
    if bad.create is SubmissionUncertainError:
        assert caught.value.client_request_id == "mine"
        assert "client request id mine" in str(caught.value)
        assert isinstance(caught.value.__cause__, bad.get | DecodeError)


async def test_a_server_that_knows_no_status_loses_no_id() -> None:
    """``null`` is a status of none: the generation is there and not at its end."""
    nothing = {"id": ID, "status": None, "video": None, "error": None}
    server = RawServer(answering(answer(nothing)))
    async with server, client(server.base_url) as kling:
        for generation in (await create(kling), await kling.get(ID)):
            assert generation.id == ID
            assert generation.status == "unknown"
            assert not generation.is_terminal


async def test_an_id_that_is_a_number_is_one() -> None:
    """It is kept as text, and asked for again as the same."""
    queued = {"id": 7_000_000_000_000, "status": "queued"}
    async with RawServer(answering(answer(queued))) as server:
        async with client(server.base_url) as kling:
            created = await create(kling)
            assert created.id == "7000000000000"
            assert (await kling.get(created.id)).id == created.id
        assert server.requests[-1].generation_id == "7000000000000"


async def test_an_address_where_nobody_listens_is_told_with_the_address() -> None:
    """Every attempt is used; nothing was sent, so nothing is uncertain."""
    async with RawServer(hang_up) as server:
        base_url = server.base_url
    async with client(base_url) as kling:
        for call in (create(kling), kling.get(ID)):
            with pytest.raises(ConnectionFailedError, match=r"127\.0\.0\.1") as caught:
                await call
            assert not caught.value.request_sent


async def test_a_name_that_does_not_exist_is_told_with_the_name() -> None:
    """Names below ``.invalid`` never do (RFC 6761)."""
    async with client("https://kling.invalid", retry=ONCE) as kling:
        with pytest.raises(ConnectionFailedError, match=r"kling\.invalid"):
            await kling.get(ID)


async def test_https_where_only_http_is_spoken_is_told_and_nothing_is_sent() -> None:
    """The handshake fails before the key has left."""

    async def speak_http(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        heard.append(await reader.read(1000))
        writer.write(answer({}, "400 Bad Request"))
        writer.close()
        await writer.wait_closed()

    heard = list[bytes]()
    async with await asyncio.start_server(speak_http, "127.0.0.1", 0) as server:
        port: int = server.sockets[0].getsockname()[1]
        async with client(f"https://127.0.0.1:{port}", retry=TWICE) as kling:
            with pytest.raises(ConnectionFailedError, match="SSL") as caught:
                await create(kling)
    assert not caught.value.request_sent
    assert len(heard) == 2
    assert KEY.encode() not in b"".join(heard)

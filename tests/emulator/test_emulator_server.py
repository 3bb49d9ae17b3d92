"""The emulator on a socket: it starts, serves many, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import logging
import re
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import httpx
import pytest
from starlette.types import Receive, Scope, Send

import kling_async
from kling_async import ConfigurationError
from kling_async.emulator import Emulator
from kling_async.emulator._server import Guard, is_own

PATH = "/v2/video/generations"
AT_ONCE = 1e9
KEY = "Authorization: Bearer some-key"
TEXT = {
    "model": "klingai/video-v3-pro-text-to-video",
    "prompt": "A cat looks out of the window.",
    "duration": 3,
}


def client_of(emulator: Emulator) -> httpx.AsyncClient:
    """Give a client of a running emulator."""
    return httpx.AsyncClient(
        base_url=emulator.base_url,
        headers={"Authorization": "Bearer some-key"},
        trust_env=False,
        timeout=300,
    )


async def create(client: httpx.AsyncClient, prompt: str = "A cat") -> str:
    """Create, and return the id."""
    answer = await client.post(PATH, json={**TEXT, "prompt": prompt})
    generation_id: str = answer.json()["id"]
    return generation_id


async def poll(client: httpx.AsyncClient, generation_id: str) -> dict[str, str]:
    """Ask for a generation."""
    answer = await client.get(PATH, params={"generation_id": generation_id})
    body: dict[str, str] = answer.json()
    return body


def is_open(url: str) -> bool:
    """Whether something listens there."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", httpx.URL(url).port or 0)) == 0


def names_in(folder: Path) -> list[str]:
    """Give what lies in a folder."""
    return [path.name for path in folder.iterdir()]


async def test_it_serves_from_a_free_port() -> None:
    """Inside the block the API answers; after it nothing listens there."""
    async with Emulator(speed=AT_ONCE, size=64) as emulator:
        url = emulator.base_url
        async with client_of(emulator) as client:
            body = await poll(client, await create(client))
            video: httpx.Response = await client.get(body["video"]["url"])  # type: ignore[index]
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
    assert body["status"] == "completed"
    assert video.content[4:8] == b"ftyp"
    assert not is_open(url)


async def test_many_at_once() -> None:
    """Twenty creates and polls side by side: twenty generations, one video each."""
    finished: list[dict[str, str]] = []
    async with Emulator(speed=AT_ONCE, size=64) as emulator:
        async with client_of(emulator) as client, anyio.create_task_group() as tasks:

            async def generate(number: int) -> None:
                generation_id = await create(client, f"Scene {number % 5}")
                finished.append(await poll(client, generation_id))

            for number in range(20):
                tasks.start_soon(generate, number)
        rendered = emulator.videos_rendered
    assert {it["status"] for it in finished} == {"completed"}
    assert len({it["id"] for it in finished}) == 20
    assert len(emulator.creates) == 20
    assert rendered == 5


async def test_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No task, no listening socket, no file."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with Emulator(speed=AT_ONCE, size=64) as emulator:
        async with client_of(emulator) as client:
            await poll(client, await create(client))
        assert names_in(tmp_path) != []
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert names_in(tmp_path) == []


UNFINISHED = {
    "idle": f"GET {PATH} HTTP/1.1\r\nHost: x\r\n{KEY}\r\n\r\n",
    "half a head": f"GET {PATH} HTTP/1.1\r\nHo",
    "half a body": f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{KEY}\r\n"
    "Content-Length: 100\r\n\r\n{",
    # More than all buffers on the way hold, and nobody reads it.
    "unread download": "GET /files/{name}.mp4 HTTP/1.1\r\nHost: x\r\n\r\n" * 2000,
}


@pytest.mark.parametrize("sent", UNFINISHED.values(), ids=UNFINISHED)
async def test_it_stops_whatever_its_clients_do(
    sent: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An idle connection, half a request or an unread answer do not hold it up."""
    caplog.set_level(logging.WARNING)
    with anyio.fail_after(300):
        async with Emulator(speed=AT_ONCE, size=128) as emulator:
            async with client_of(emulator) as client:
                generation_id = await create(client)
                await poll(client, generation_id)
            port = httpx.URL(emulator.base_url).port
            _, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(sent.replace("{name}", generation_id).encode())
            await anyio.wait_all_tasks_blocked()
    writer.transport.abort()
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert caplog.records == []


async def test_it_stops_in_the_middle_of_a_rendering(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A long rendering is given up, and its thread with it."""
    caplog.set_level(logging.WARNING)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    async with Emulator(speed=AT_ONCE, size=4096) as emulator:
        client = client_of(emulator)
        asking = asyncio.create_task(poll(client, await create(client)))
        while not names_in(tmp_path):
            await anyio.lowlevel.checkpoint()
    with pytest.raises(httpx.TransportError):
        await asking
    await client.aclose()
    assert emulator.videos_rendered == 0
    assert names_in(tmp_path) == []
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert caplog.records == []


async def test_an_error_of_the_body_comes_through_as_it_is() -> None:
    """No group around it, and nothing listens afterwards."""
    urls: list[str] = []

    async def run() -> None:
        async with Emulator() as emulator:
            urls.append(emulator.base_url)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await run()
    assert not is_open(urls[0])


@pytest.mark.parametrize("by_scope", [False, True])
async def test_a_cancelled_body_stops_it_too(*, by_scope: bool) -> None:
    """By asyncio's way or anyio's, the server is gone when the block is left."""
    urls: list[str] = []
    started = anyio.Event()

    async def run() -> None:
        async with Emulator() as emulator:
            urls.append(emulator.base_url)
            started.set()
            await anyio.sleep_forever()

    if by_scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await started.wait()
            tasks.cancel_scope.cancel()
    else:
        task = asyncio.create_task(run())
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert not is_open(urls[0])
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_it_can_be_entered_and_left_in_different_tasks() -> None:
    """As the fixtures of a test framework do."""
    emulator = Emulator()
    await asyncio.create_task(emulator.__aenter__())
    url = emulator.base_url
    assert is_open(url)
    await asyncio.create_task(emulator.__aexit__(None, None, None))
    assert not is_open(url)


async def test_it_can_be_started_again() -> None:
    """Generations stay, and their videos are rendered anew."""
    emulator = Emulator(speed=AT_ONCE, size=64)
    async with emulator, client_of(emulator) as client:
        generation_id = await create(client)
        first = await poll(client, generation_id)
    async with emulator, client_of(emulator) as client:
        again = await poll(client, generation_id)
    assert (first["id"], first["status"]) == (again["id"], again["status"])
    assert len(emulator.creates) == 1


async def test_it_cannot_listen_twice_at_once() -> None:
    """One emulator has one address."""
    async with Emulator() as emulator:
        url = emulator.base_url
        with pytest.raises(ConfigurationError, match="listening already"):
            await emulator.__aenter__()
        assert emulator.base_url == url


async def test_a_taken_port_is_told() -> None:
    """The error names the address and what to do; its cause is the system's."""
    async with Emulator() as emulator:
        port = httpx.URL(emulator.base_url).port or 0
        with pytest.raises(ConfigurationError, match=f"port {port}.*or 0") as caught:
            await Emulator(port=port).__aenter__()
    assert isinstance(caught.value.__cause__, OSError)


async def test_a_port_of_ones_own_choice() -> None:
    """It listens where it is told to."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    async with Emulator(port=port) as emulator:
        assert emulator.base_url == f"http://127.0.0.1:{port}"


async def test_all_interfaces_are_reached_by_the_loopback() -> None:
    """The wildcard is no address that a client could use."""
    async with Emulator(host="0.0.0.0") as emulator, client_of(emulator) as client:
        assert httpx.URL(emulator.base_url).host == "127.0.0.1"
        assert (await client.get("/nowhere")).status_code == 404


@pytest.mark.parametrize("was_started", [False, True])
async def test_it_has_no_address_while_it_does_not_listen(*, was_started: bool) -> None:
    """The error says how to make it listen."""
    emulator = Emulator()
    if was_started:
        async with emulator:
            pass
    with pytest.raises(ConfigurationError, match="async with"):
        assert emulator.base_url


async def test_signals_and_logging_stay_with_their_owner() -> None:
    """Neither Ctrl-C nor another uvicorn in the process notices it."""

    def state() -> list[object]:
        loggers = map(logging.getLogger, ("uvicorn", "uvicorn.access", "uvicorn.error"))
        facts = [(it.level, it.propagate, list(it.handlers)) for it in loggers]
        return [*map(signal.getsignal, (signal.SIGINT, signal.SIGTERM)), facts]

    before = state()
    async with Emulator():
        assert state() == before
    assert state() == before


def test_a_server_on_trio_is_refused() -> None:
    """The error names the way that works there."""

    async def start() -> None:
        await Emulator().__aenter__()

    with pytest.raises(ConfigurationError, match="ASGITransport"):
        anyio.run(start, backend="trio")


@pytest.mark.parametrize(
    "name, value",
    [
        ("speed", 0),
        ("speed", -1),
        ("speed", float("inf")),
        ("speed", float("nan")),
        ("speed", "60"),
        ("speed", True),
        ("credits", -1),
        ("failure_rate", -0.1),
        ("failure_rate", 1.1),
        ("port", -1),
        ("port", 65536),
        ("port", 80.0),
        ("size", 63),
        ("size", 4097),
        ("size", 320.5),
        ("api_keys", "secret"),
        ("api_keys", [""]),
        ("api_keys", [1]),
        ("rate_limit", 0),
        ("rate_limit", 1.5),
        ("max_running", 0),
        ("max_running", True),
        ("expire_after", -1),
        ("expire_after", "1h"),
        ("log_delay", -1),
        ("log_delay", float("nan")),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(name: str, value: object) -> None:
    """The error names the setting."""
    with pytest.raises(ConfigurationError, match=f"^{name}: given .*; allowed: "):
        Emulator(**{name: value})  # type: ignore[arg-type]


def test_a_refused_key_is_not_shown() -> None:
    """A key in the wrong place is a secret all the same."""
    with pytest.raises(ConfigurationError) as caught:
        Emulator(api_keys="secret")
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("missing", ["av", "PIL", "starlette", "uvicorn"])
def test_without_its_extra_it_says_what_to_install(missing: str) -> None:
    """The import fails with the command that helps."""
    code = f"import sys; sys.modules[{missing!r}] = None; import kling_async.emulator"
    folder = Path(kling_async.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    assert 'pip install "kling_async[emulator]"' in done.stderr.splitlines()[-1]
    assert missing in done.stderr.splitlines()[-1]


# --- what a socket takes


async def spoken(emulator: Emulator, *lines: str, body: bytes = b"") -> str:
    """Say something that no HTTP library would, and give the answer."""
    url = httpx.URL(emulator.base_url)
    assert url.port
    stream = await anyio.connect_tcp(url.host, url.port)
    head = "\r\n".join([*lines, "connection: close", "", ""]).encode()
    async with stream:
        await stream.send(head + body)
        heard = b""
        try:
            async for chunk in stream:
                heard += chunk
        except anyio.BrokenResourceError:
            pass  # it did not care to read the rest
    return heard.decode("latin-1")


@pytest.fixture
async def serving() -> AsyncIterator[Emulator]:
    """Run an emulator on a socket."""
    async with Emulator(speed=AT_ONCE, size=64) as emulator:
        yield emulator


OWN = """
    127.0.0.1 127.0.0.1:8765 [::1]:8765 [::1] localhost LOCALHOST:1
    localhost.
""".split()
FOREIGN = """
    evil.example evil.example:8765 127.0.0.1.evil.example localhost.evil.example
    evil.example. 127.0.0.1:80.evil.example [::1].evil.example 1.2.3.4.5 evil.local corp
    x.internal emulator:8765 10.0.0.7:80
""".split()


async def test_it_answers_in_its_own_names(serving: Emulator) -> None:
    """Those of this machine, as long as it was told no other."""
    for host in OWN:
        heard = await spoken(serving, "GET / HTTP/1.1", f"host: {host}")
        assert heard.startswith("HTTP/1.1 200 "), host


@pytest.mark.parametrize("path", ["/", "/_emulator/events", "/_emulator/faults", PATH])
async def test_it_is_nobody_elses_site(serving: Emulator, path: str) -> None:
    """A web site whose name leads here all of a sudden learns and does nothing."""
    for host in FOREIGN:
        heard = await spoken(serving, f"GET {path} HTTP/1.1", f"host: {host}", KEY)
        assert heard.startswith("HTTP/1.1 421 "), host
        assert "not a name of the emulator" in heard


async def test_a_public_name_that_it_was_given_is_its_own() -> None:
    """Who listens on a name answers to it."""
    own = frozenset({"emulator.example.com"})
    assert is_own("Emulator.example.com:80", own)
    assert not is_own("other.example.com:80", own)


async def test_on_all_addresses_it_answers_to_each_of_them_and_to_its_names() -> None:
    """An address is nobody's site; a container's name has to be told."""
    own = frozenset({"0.0.0.0", "kling"})
    assert all(is_own(it, own) for it in ("192.168.0.7:80", "[fe80::1]:80", "kling:80"))
    assert not any(is_own(it, own) for it in ("evil.local", "corp", "x.internal", ""))
    assert not is_own("192.168.0.7", frozenset({"127.0.0.1"}))


BODY = b"x" * 1000


@pytest.mark.parametrize("path", [PATH, "/_emulator/faults"])
@pytest.mark.parametrize("is_told", [True, False])
async def test_a_body_is_taken_up_to_a_bound(path: str, *, is_told: bool) -> None:
    """Told beforehand or not; the answer says how much would do."""

    async def app(_: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        assert len(message["body"]) == 1000
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    def chunks(size: int) -> bytes:
        return b"x" * size

    async def streamed(size: int) -> AsyncIterator[bytes]:
        yield chunks(size)

    for bound, status in ((1000, 200), (999, 413)):
        transport = httpx.ASGITransport(Guard(app, frozenset({"127.0.0.1"}), bound))
        url = f"http://127.0.0.1{path}"
        async with httpx.AsyncClient(transport=transport) as client:
            content = chunks(1000) if is_told else streamed(1000)
            answer = await client.post(url, content=content)
        assert answer.status_code == status
    assert answer.json()["message"] == "Payload too large: at most 999 bytes"


async def test_nobody_needs_memory_for_a_gigabyte(serving: Emulator) -> None:
    """It is refused by its length, before it has come."""
    length = f"content-length: {10**9}"
    heard = await spoken(
        serving, f"POST {PATH} HTTP/1.1", "host: localhost", KEY, length
    )
    assert heard.startswith("HTTP/1.1 413 ")
    assert "at most 67,108,864 bytes" in heard


OUTSIDE = [
    f"{start}{up * 6}{name}"
    for start in ("/files/", "/_emulator/", "/")
    for up in ("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%5c", "%252e%252e%252f")
    for name in ("etc/passwd", "_page.py")
]


async def test_no_path_leads_out_of_its_files(serving: Emulator) -> None:
    """Dots, encoded once, twice or not at all, are a path that there is not."""
    for path in OUTSIDE:
        heard = await spoken(serving, f"GET {path} HTTP/1.1", "host: localhost", KEY)
        assert heard.startswith("HTTP/1.1 404 "), path
        assert "root:" not in heard


async def test_a_browser_takes_a_video_for_nothing_else(serving: Emulator) -> None:
    """Nor the page and its events for anything that somebody smuggled in."""
    async with client_of(serving) as client:
        told = await poll(client, await create(client))
        video = await client.get(told["video"]["url"])  # type: ignore[index]
        page = await client.get("/")
        async with client.stream("GET", "/_emulator/events") as events:
            pass
    for answer in (video, page, events):
        assert answer.headers["x-content-type-options"] == "nosniff"
    for answer in (page, events):
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["referrer-policy"] == "no-referrer"

"""What the connections of slots live through: tunnels, expiry, killed tasks, loops."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import gc
import importlib.util
import ssl
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import get_args

import anyio
import anyio.from_thread
import httpx
import pytest
from clients import ID, KEY, QUEUED, client, over
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from films import film
from raw_server import RawServer, answer, answering

from kling_async import AsyncKling, ClientClosedError, Fixed, KlingError
from kling_async._http.session import Library

SERVED = answering(answer(QUEUED))
DONE = {**QUEUED, "status": "completed", "video": {"url": "https://cdn.test/f.mp4"}}
LIBRARIES: tuple[Library, ...] = get_args(Library)


# --- TLS through a proxy


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a certificate of kling.test, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kling.test")])
    now = dt.datetime.now(dt.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("kling.test")]), False)  # noqa: FBT003 (not critical)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)  # noqa: FBT003 (critical)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "kling.pem"
    pem = serialization.Encoding.PEM
    plain = serialization.NoEncryption()
    form = serialization.PrivateFormat.PKCS8
    file.write_bytes(key.private_bytes(pem, form, plain) + made.public_bytes(pem))
    return file


async def close(writer: asyncio.StreamWriter) -> None:
    """Close one end, whatever became of the other."""
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@asynccontextmanager
async def tunnelling(
    to_port: int, heads: list[bytes], at_work: set[asyncio.Task[None] | None]
) -> AsyncGenerator[str]:
    """Run a proxy whose tunnels all lead to one port here; give its URL."""

    async def copy(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while part := await source.read(65536):
                to.write(part)
                await to.drain()
        await close(to)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at_work.add(asyncio.current_task())
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        there, back = await asyncio.open_connection("127.0.0.1", to_port)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await asyncio.gather(copy(reader, back), copy(there, writer))

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"http://{host}:{port}"


@pytest.mark.parametrize("library", LIBRARIES)
async def test_https_goes_through_a_tunnel_that_is_kept(
    library: Library, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One tunnel for all requests of a slot; the proxy sees the host, never the key."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    heads, keys = list[bytes](), list[bytes]()
    at_work = set[asyncio.Task[None] | None]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        at_work.add(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                keys.append(await reader.readuntil(b"\r\n\r\n"))
                writer.write(answer(QUEUED))
                await writer.drain()
        await close(writer)

    server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with server, tunnelling(port, heads, at_work) as proxy:
        for name in ("https_proxy", "no_proxy", "all_proxy", "NO_PROXY", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv("HTTPS_PROXY", proxy)
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        async with AsyncKling(
            KEY, base_url="https://kling.test", transport=library
        ) as kling:
            for _ in range(3):
                assert (await kling.get(ID)).id == ID
        await asyncio.gather(*filter(None, at_work))
    (head,) = heads
    assert head.startswith(b"CONNECT kling.test:443 ")
    assert KEY.encode() not in head
    assert len(keys) == 3
    assert all(KEY.encode() in it for it in keys)


# --- expiry


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
@pytest.mark.parametrize("seconds, connections", [(3, 1), (5, 2)])
async def test_a_connection_is_not_used_when_a_server_may_be_closing_it(
    library: Library, seconds: float, connections: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Many close one that was idle for five seconds: a create must not meet that."""
    late, now = 0.0, time.monotonic
    async with (
        RawServer(SERVED) as server,
        AsyncKling(KEY, base_url=server.base_url, transport=library) as kling,
    ):
        monkeypatch.setattr(time, "monotonic", lambda: now() / 1000 + late)
        await kling.get(ID)
        late = seconds
        await kling.get(ID)
        monkeypatch.setattr(time, "monotonic", now)
        assert server.accepted == connections


# --- killed and closed from where nobody expects it


async def test_watches_whose_tasks_are_killed_before_they_began_go_on() -> None:
    """Also where sniffio, which trio brings, has to tell what runs."""
    assert importlib.util.find_spec("sniffio") is not None
    mine = over(
        lambda request: httpx.Response(
            200, json={**DONE, "id": request.url.params["generation_id"]}
        )
    )
    async with (
        mine,
        AsyncKling(
            KEY, http_client=mine, max_connections=1, polling=Fixed(0.01)
        ) as kling,
    ):
        waits = [asyncio.create_task(kling.wait(f"g-{n}")) for n in range(3)]
        await asyncio.sleep(0)
        for own in asyncio.all_tasks() - {*waits, asyncio.current_task()}:
            own.cancel()
        with anyio.fail_after(300):
            ended = await asyncio.gather(*waits)
    assert [it.id for it in ended] == ["g-0", "g-1", "g-2"]


async def test_a_source_of_a_batch_may_close_the_client() -> None:
    """It is part of the client's own tasks, which closing does not wait for then."""
    mine = over(lambda _: httpx.Response(200, json=DONE))
    kling = client(http_client=mine)

    async def source() -> AsyncGenerator[dict[str, object]]:
        yield {"model": "klingai/v2-master-text-to-video", "prompt": "A boat."}
        await kling.aclose()
        yield {"model": "klingai/v2-master-text-to-video", "prompt": "A boat."}

    async with mine:
        with anyio.fail_after(300), contextlib.suppress(ClientClosedError):
            async for _ in kling.generate_many(source()):
                pass
    assert kling.is_closed


async def test_a_hook_of_a_lent_client_may_close_ours() -> None:
    """In the middle of an exchange: the caller is told, and nobody hangs."""

    async def close(_: httpx.Response) -> None:
        await kling.aclose()

    mine = over(lambda _: httpx.Response(200, json=QUEUED))
    mine.event_hooks = {"response": [close]}
    kling = client(http_client=mine)
    async with mine:
        with anyio.fail_after(300), contextlib.suppress(KlingError):
            await kling.get(ID)
        with pytest.raises(ClientClosedError):
            await kling.get(ID)


@contextlib.contextmanager
def served_elsewhere() -> Generator[RawServer]:
    """Run a server in a loop of its own, in another thread."""
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(RawServer(SERVED)) as server,
    ):
        yield server


@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_loops_that_are_closed_by_hand_are_freed() -> None:
    """Though the client lives on, and nobody closed what was open there."""

    def use_one() -> weakref.ref[asyncio.AbstractEventLoop]:
        loop = asyncio.new_event_loop()
        assert loop.run_until_complete(kling.get(ID)).id == ID
        loop.close()
        return weakref.ref(loop)

    with served_elsewhere() as server:
        kling = client(server.base_url)
        loops = [use_one() for _ in range(20)]
        gc.collect()
        assert [it for it in loops if it() is not None] == []
        asyncio.run(kling.aclose())
    assert threading.active_count() < 20


# --- fewer open files than downloads


FEW_FILES = """
import asyncio, resource, sys
from kling_async import AsyncKling, Video

async def main(base_url, folder, most):
    async with AsyncKling("some-key", base_url=base_url, max_connections=most) as kling:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))
        video = Video(url=base_url + "/film.mp4")
        files = [f"{folder}/{n}.mp4" for n in range(250)]
        await asyncio.gather(*(kling.download(video, file) for file in files))

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="it has no such limit")
@pytest.mark.parametrize("most", [4, 500])
def test_more_downloads_than_open_files_all_arrive(most: int, tmp_path: Path) -> None:
    """250 at once in a process that may open 256, over few connections and many."""
    content = film(bytes(50_000))
    with (
        anyio.from_thread.start_blocking_portal() as portal,
        portal.wrap_async_context_manager(
            RawServer(answering(answer(content)))
        ) as server,
    ):
        subprocess.run(
            [
                sys.executable,
                "-c",
                FEW_FILES,
                server.base_url,
                str(tmp_path),
                f"{most}",
            ],
            check=True,
            timeout=300,
        )
    sizes = {file.stat().st_size for file in tmp_path.glob("*.mp4")}
    assert len(list(tmp_path.iterdir())) == 250
    assert sizes == {len(content)}

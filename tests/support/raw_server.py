"""A server of bytes on a real socket, for what no mock transport can do.

It reads whole requests and leaves the answer to a script; knows no HTTP library.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import parse_qs, urlsplit

from attrs import define, field, frozen

QUEUED: Mapping[str, object] = {"id": "g-1", "status": "queued"}


@frozen(kw_only=True)
class RawRequest:
    """A request as it came.

    Attributes:
        method: Its verb.
        target: Its path and query.
        headers: By lower-case name.
        body: Its content.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def generation_id(self) -> str:
        """The generation that a poll asks for."""
        return parse_qs(urlsplit(self.target).query)["generation_id"][0]


@frozen(eq=False)
class Peer:
    """The client's end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, content: bytes) -> None:
        """Send it these bytes."""
        self.writer.write(content)
        await self.writer.drain()

    def hang_up(self) -> None:
        """Close the connection, once what was sent is out."""
        self.writer.close()

    def reset(self) -> None:
        """Break the connection off with an RST."""
        connection: socket.socket = self.writer.get_extra_info("socket")
        at_once = struct.pack("ii", 1, 0)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.writer.transport.abort()

    async def gone(self) -> None:
        """Wait until it closes the connection."""
        while await self.reader.read(1):
            pass


Script = Callable[[RawRequest, Peer], Awaitable[None]]


@define(eq=False)
class RawServer:
    """Answers each request as its script does.

    Attributes:
        script: Is given each request and the connection to answer on. A
            connection that it leaves open is kept for the next request.
        port: Where to listen; by default where there is room.
        requests: Every request that was read whole, in order.
        accepted: How many connections there have been.
        open: How many there are.
    """

    script: Script
    port: int = 0
    requests: list[RawRequest] = field(factory=list[RawRequest])
    accepted: int = 0
    _server: asyncio.Server | None = None
    _tasks: set[asyncio.Task[None]] = field(factory=set[asyncio.Task[None]])

    @property
    def base_url(self) -> str:
        """Where it listens."""
        assert self._server is not None
        host, port = self._server.sockets[0].getsockname()
        return f"http://{host}:{port}"

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._tasks)

    async def until_idle(self) -> None:
        """Wait until every connection has been closed by the client."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=300)
        assert self.open == 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", self.port
        )
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._server.wait_closed()

    def _connected(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self.accepted += 1
        task = asyncio.create_task(self._serve(Peer(reader, writer)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, peer: Peer) -> None:
        try:
            while not peer.writer.is_closing():
                request = await _read_request(peer.reader)
                self.requests.append(request)
                await self.script(request, peer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client is gone
        finally:
            peer.writer.close()
            with contextlib.suppress(ConnectionError):
                await peer.writer.wait_closed()


async def _read_request(reader: asyncio.StreamReader) -> RawRequest:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
    first, *lines = head.rstrip("\r\n").split("\r\n")
    method, target, _ = first.split(" ")
    headers = {
        name.lower(): value.strip()
        for name, _, value in (line.partition(":") for line in lines)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return RawRequest(method=method, target=target, headers=headers, body=body)


def answer(body: object = QUEUED, status: str = "200 OK", **headers: str) -> bytes:
    """Give the bytes of a whole answer; a body that is no bytes is sent as JSON."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    head = {"content-length": str(len(content))} | {
        name.replace("_", "-"): value for name, value in headers.items()
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"HTTP/1.1 {status}\r\n{lines}\r\n".encode("ascii") + content


def answering(*answers: bytes) -> Script:
    """Give each answer in its turn, the last one over and over."""
    left = list(answers)

    async def script(_: RawRequest, peer: Peer) -> None:
        await peer.send(left.pop(0) if len(left) > 1 else left[0])

    return script


async def hang_up(_: RawRequest, peer: Peer) -> None:
    """Take the request, and close the connection without a word."""
    peer.hang_up()


async def reset(_: RawRequest, peer: Peer) -> None:
    """Take the request, and break the connection off."""
    peer.reset()


async def stay_silent(_: RawRequest, peer: Peer) -> None:
    """Take the request, and never answer it."""
    await peer.gone()

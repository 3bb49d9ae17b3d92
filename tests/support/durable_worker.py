"""A worker process for the tests: it runs until it is told to stop, or killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import anyio
from anyio.abc import Process

from kling_async import AsyncKling, Fixed
from kling_async.durable import DurableKling
from kling_async.emulator import Emulator


@asynccontextmanager
async def worker(
    database: str, emulator: Emulator, max_in_flight: int = 32
) -> AsyncGenerator[Process]:
    """Run a worker process until the end of the block at the latest."""
    command = [
        sys.executable,
        __file__,
        database,
        emulator.base_url,
        f"{max_in_flight}",
    ]
    async with await anyio.open_process(
        [str(it) for it in command],
        stderr=None,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as process:
        try:
            assert process.stdout is not None
            with anyio.fail_after(300):
                assert (await process.stdout.receive()).startswith(b"working")
            yield process
        finally:
            if process.returncode is None:
                process.kill()


async def main(*given: str) -> None:
    """Work, and say when it has begun; SIGTERM ends it in order."""
    database, base_url, max_in_flight = given
    async with (
        AsyncKling("any-key", base_url=base_url, polling=Fixed(0.2)) as kling,
        DurableKling(
            database,
            kling,
            max_in_flight=int(max_in_flight),
            reconcile_timeout=4,
        ),
    ):
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            print("working", flush=True)  # noqa: T201 (the test reads it)
            async for _ in signals:
                return


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])

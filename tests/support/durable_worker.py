"""A worker process for the tests: it runs until it is told to stop, or killed."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
from anyio.abc import Process

from kling_async import AsyncKling, Fixed
from kling_async.durable import DurableKling, Webhook
from kling_async.emulator import Emulator

SECRET = "whsec_" + "c2VjcmV0" * 4


@asynccontextmanager
async def worker(
    database: str,
    emulator: Emulator,
    max_in_flight: int = 32,
    *,
    webhook: str = "",
    folder: Path | None = None,
) -> AsyncGenerator[Process]:
    """Run a worker process until the end of the block at the latest.

    Args:
        database: Whose jobs it takes.
        emulator: Its API.
        max_in_flight: How many at once.
        webhook: The URL that it tells of their ends, if any.
        folder: Its working directory, and the only place for its temporary files.
    """
    command = [
        sys.executable,
        __file__,
        database,
        emulator.base_url,
        f"{max_in_flight}",
        webhook,
    ]
    async with await anyio.open_process(
        [str(it) for it in command],
        stderr=None,
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(sys.path),
            **({"TMPDIR": str(folder)} if folder else {}),
        },
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
    database, base_url, max_in_flight, url = given
    webhook = Webhook(url=url, secret=SECRET, allow_private=True) if url else None
    async with (
        AsyncKling("any-key", base_url=base_url, polling=Fixed(0.2)) as kling,
        DurableKling(
            database,
            kling,
            max_in_flight=int(max_in_flight),
            reconcile_timeout=4,
            webhook=webhook,
        ),
    ):
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            print("working", flush=True)  # noqa: T201 (the test reads it)
            async for _ in signals:
                return


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])

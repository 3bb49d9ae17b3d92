"""Worker processes for the tests: each runs until it is told to stop, or killed.

They are forks of one process that has imported everything, which takes seconds.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import anyio
from anyio.abc import Process
from anyio.streams.buffered import BufferedByteReceiveStream
from attrs import field, frozen
from crash_points import watch_writes
from dbos import DBOS

from kling_async import AsyncKling, Fixed, RetryPolicy
from kling_async.durable import DurableKling, Webhook
from kling_async.emulator import Emulator

SECRET = "whsec_" + "c2VjcmV0" * 4

_PATIENCE = 300

# How long a create is looked for in the log, in seconds.
_LOOKED_FOR = 4


@frozen
class WorkerProcess:
    """A worker process.

    Attributes:
        name: What the jobs that it has are told to be with.
        pid: The process.
    """

    name: str
    pid: int

    def send_signal(self, number: signal.Signals) -> None:
        """Send it a signal, if it is still there."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it, whatever it is at."""
        self.send_signal(signal.SIGKILL)

    def is_alive(self) -> bool:
        """Whether it is still there."""
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    async def wait(self) -> None:
        """Wait until it is gone."""
        with anyio.fail_after(_PATIENCE), suppress(ProcessLookupError):
            while True:
                os.kill(self.pid, 0)
                await anyio.sleep(0.01)


@frozen(eq=False)
class Crew:
    """The workers on one database.

    Attributes:
        members: All that were ever hired.
    """

    _nursery: Process
    _told: BufferedByteReceiveStream
    _given: tuple[str, str, int, str]
    members: list[WorkerProcess] = field(factory=list[WorkerProcess])

    async def hire(
        self, folder: Path | None = None, *, crash_at: str = ""
    ) -> WorkerProcess:
        """Start one more, and wait until it works.

        Args:
            folder: Its working directory, and the only place for its temporary files.
            crash_at: At which write it dies, as `crash_points` names them.
        """
        assert self._nursery.stdin is not None
        order = json.dumps([*self._given, crash_at, str(folder or "")])
        await self._nursery.stdin.send(f"{order}\n".encode())
        with anyio.fail_after(_PATIENCE):
            told = await self._told.receive_until(b"\n", 1000)
        pid, name = told.decode().split()
        self.members.append(WorkerProcess(name, int(pid)))
        return self.members[-1]


@asynccontextmanager
async def crew(
    database: str, emulator: Emulator, max_in_flight: int = 32, *, webhook: str = ""
) -> AsyncGenerator[Crew]:
    """Make a crew without a member; at the end of the block they are killed.

    Args:
        database: Whose jobs it takes.
        emulator: Its API.
        max_in_flight: How many at once.
        webhook: The URL that it tells of their ends, if any.
    """
    async with await anyio.open_process(
        [sys.executable, __file__],
        stderr=None,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    ) as nursery:
        assert nursery.stdout is not None
        given = (database, emulator.base_url, max_in_flight, webhook)
        it = Crew(nursery, BufferedByteReceiveStream(nursery.stdout), given)
        try:
            yield it
        finally:
            for member in it.members:
                member.send_signal(signal.SIGKILL)
            nursery.kill()


@asynccontextmanager
async def worker(
    database: str, emulator: Emulator, max_in_flight: int = 32, *, webhook: str = ""
) -> AsyncGenerator[WorkerProcess]:
    """Run a crew of one until the end of the block at the latest."""
    async with crew(database, emulator, max_in_flight, webhook=webhook) as one:
        yield await one.hire()


def raise_workers() -> None:
    """Fork a worker for each line of standard input."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody asks how they ended
    for line in sys.stdin:
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            *given, folder = json.loads(line)
            if folder:
                os.chdir(folder)
                os.environ["TMPDIR"] = tempfile.tempdir = folder
            anyio.run(main, *given)
            return


async def main(
    database: str, base_url: str, max_in_flight: int, url: str, crash_at: str
) -> None:
    """Work, and say when it has begun; SIGTERM ends it in order."""
    webhook = Webhook(url=url, secret=SECRET, allow_private=True) if url else None
    async with (
        AsyncKling(
            "any-key",
            base_url=base_url,
            polling=Fixed(0.2),
            retry=RetryPolicy(reconcile_timeout=_LOOKED_FOR),
        ) as kling,
        DurableKling(
            database,
            kling,
            max_in_flight=max_in_flight,
            reconcile_timeout=_LOOKED_FOR,
            webhook=webhook,
        ),
    ):
        with anyio.open_signal_receiver(signal.SIGTERM) as signals:
            watch_writes(crash_at)
            print(os.getpid(), DBOS.executor_id, flush=True)  # noqa: T201 (it is read)
            async for _ in signals:
                return


if __name__ == "__main__":
    raise_workers()

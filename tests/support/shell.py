"""The command as tests run it: in this process, or in one of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import start_blocking_portal
from typer.testing import CliRunner, Result

import kling_async
from kling_async import AsyncKling, Fixed
from kling_async.cli import _running
from kling_async.cli._app import app
from kling_async.emulator import Emulator

_PATIENCE = 300  # seconds: a process that hangs is told from one that is slow
AT_ONCE, NEVER = 1e9, 1e-3
VARIABLES = ("AIMLAPI_BASE_URL", "AIMLAPI_KEY", "AIMLAPI_API_KEY", "AIML_API_KEY")


@contextmanager
def serving(
    *,
    speed: float = AT_ONCE,
    failure_rate: float = 0,
    credits: float = 1e12,  # noqa: A002 (the emulator's own word)
    api_keys: list[str] | None = None,
) -> Generator[Emulator]:
    """Run an emulator in a thread of its own."""
    emulator = Emulator(
        speed=speed,
        failure_rate=failure_rate,
        credits=credits,
        api_keys=api_keys,
        size=64,
    )
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(emulator) as started,
    ):
        yield started


def environment(where: Emulator | str | None) -> dict[str, str | None]:
    """Give what the command finds in its environment."""
    variables: dict[str, str | None] = dict.fromkeys(VARIABLES)
    if where is not None:
        url = where if isinstance(where, str) else where.base_url
        variables |= {"AIMLAPI_BASE_URL": url, "AIMLAPI_KEY": "some-key"}
    return variables


def invoke(
    where: Emulator | str | None,
    *args: str | os.PathLike[str],
    env: Mapping[str, str | None] | None = None,
) -> Result:
    """Run the command in this process, polling often."""
    quick = partial(AsyncKling, polling=Fixed(0.01))
    variables = environment(where) | dict(env or {})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_running, "AsyncKling", quick)
        words = [os.fspath(it) for it in args]
        return CliRunner().invoke(app, words, env=variables, catch_exceptions=False)


@contextmanager
def signalled(emulator: Emulator, number: signal.Signals) -> Generator[None]:
    """Send this process a signal when the emulator has answered one more request."""
    before = len(emulator.requests)

    async def send() -> None:
        while len(emulator.requests) == before:
            await anyio.lowlevel.checkpoint()
        os.kill(os.getpid(), number)

    with start_blocking_portal() as portal:
        sending = portal.start_task_soon(send)
        yield
        sending.result()


@contextmanager
def started(
    where: Emulator | str | None,
    *args: str,
    program: Sequence[str] = (sys.executable, "-m", "kling_async"),
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> Generator[subprocess.Popen[str]]:
    """Run the command in a process of its own, which is ended with the block."""
    # The package under test, wherever the process is started.
    tree = str(Path(kling_async.__file__).parent.parent)
    variables = {**os.environ, **environment(where), "PYTHONPATH": tree}
    with subprocess.Popen(
        [*program, *args],
        env={name: value for name, value in variables.items() if value is not None},
        text=True,
        stdout=stdout,
        stderr=stderr,
    ) as process:
        watchdog = threading.Timer(_PATIENCE, process.kill)
        watchdog.start()
        try:
            yield process
        finally:
            watchdog.cancel()
            process.kill()


def wait_for(holds: Callable[[], object]) -> None:
    """Wait for another process."""
    deadline = time.monotonic() + _PATIENCE
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def errors_in(result: Result) -> list[str]:
    """Give the lines on stderr that tell of errors."""
    lines = result.stderr.splitlines()
    return [line.removeprefix("error: ") for line in lines if "error: " in line[:7]]

"""The recipes of docs/how-to/web-app.md, each served by its own framework's server."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import httpx
import pytest
from anyio.abc import Process

from kling_async import AsyncKling
from kling_async.emulator import Emulator, Fault

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/how-to/web-app.md").read_text("utf-8")
MODEL = "klingai/v2-master-text-to-video"
MOST_LINES = 15

UVICORN = ("-m", "uvicorn", "recipe:app", "--port={port}")
AIOHTTP = (
    "-c",
    "import recipe; from aiohttp import web; web.run_app(recipe.app, port={port})",
)

FRAMEWORKS = pytest.mark.parametrize(
    "name, command",
    [
        ("FastAPI", UVICORN),
        ("Litestar", UVICORN),
        ("aiohttp.web", AIOHTTP),
        ("Quart", UVICORN),
    ],
)


def recipe(name: str) -> str:
    """Take a recipe from the page, by its heading."""
    section = PAGE.split(f"\n### {name}\n")[1].partition("\n### ")[0]
    found = re.search(r"```python\n(.*?)```", section, re.DOTALL)
    assert found
    return found[1]


@asynccontextmanager
async def serving(
    folder: Path, name: str, command: tuple[str, ...], emulator: Emulator
) -> AsyncGenerator[tuple[Process, httpx.AsyncClient]]:
    """Serve a recipe in a process of its own."""
    (folder / "recipe.py").write_text(recipe(name), "utf-8")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    environment = {"AIMLAPI_KEY": "any-key", "AIMLAPI_BASE_URL": emulator.base_url}
    arguments = [it.format(port=port) for it in command]
    async with await anyio.open_process(
        [sys.executable, *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), **environment},
        stdout=None,
        stderr=subprocess.PIPE,
    ) as process:
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(
            base_url=url, timeout=60, trust_env=False
        ) as browser:
            await wait_until_it_serves(port)
            try:
                yield process, browser
            finally:
                if process.returncode is None:
                    process.kill()


async def wait_until_it_serves(port: int) -> None:
    """Try to connect until somebody answers."""
    while True:
        try:
            await (await anyio.connect_tcp("127.0.0.1", port)).aclose()
        except OSError:
            await anyio.sleep(0.05)
        else:
            return


async def create(emulator: Emulator) -> str:
    """Create a generation, and give where its events are."""
    async with AsyncKling("any-key", base_url=emulator.base_url) as kling:
        generation = await kling.create(model=MODEL, prompt="A cat")
    return f"/videos/{generation.id}/events"


@FRAMEWORKS
async def test_a_recipe_streams_to_the_end_and_stops_at_sigterm(
    name: str, command: tuple[str, ...], tmp_path: Path
) -> None:
    """Who has seen the video is answered 204; a stream that lasts delays no stop."""
    async with (
        Emulator(speed=1000, size=64) as emulator,
        serving(tmp_path, name, command, emulator) as (process, browser),
    ):
        path = await create(emulator)
        answer = await browser.get(path)
        fields = [line.partition(": ") for line in answer.text.splitlines()]
        last = {name: value for name, _, value in fields}
        again = await browser.get(path, headers={"Last-Event-ID": last["id"]})
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        assert json.loads(last["data"])["succeeded"]
        assert (again.status_code, again.content) == (204, b"")

        working = {"id": "some-id", "status": "generating"}
        emulator.faults.add(Fault("status", status=200, method="GET", body=working))
        async with browser.stream("GET", "/videos/some-id/events") as endless:
            lines = endless.aiter_lines()
            assert await anext(lines) == "event: status"
            process.send_signal(signal.SIGTERM)
            with anyio.fail_after(60):
                async for _ in lines:
                    pass
                await process.wait()
        assert process.stderr is not None
        log = b"".join([it async for it in process.stderr])
    assert b"ERROR" not in log, log
    assert b"Traceback" not in log, log


@pytest.mark.parametrize("name", ["FastAPI", "Litestar", "aiohttp.web", "Quart"])
def test_a_recipe_is_short(name: str) -> None:
    """Whoever copies it can read it first."""
    code = recipe(name)
    lines = [it for it in code.splitlines() if it and "import" not in it]
    assert len(lines) <= MOST_LINES

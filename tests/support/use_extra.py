"""What one extra is for, done where no other is installed: `nox -s extras`.

A program: ``python use_extra.py cli``. Uses the extra, then looks whether each of the
others says how to install it.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, cast

import anyio
import httpx

from kling_async import AsyncKling, Fixed

if TYPE_CHECKING:
    from starlette.requests import Request

MODEL = "klingai/v2-master-text-to-video"
PROMPT = "A cat wakes up."
VIDEO = {"url": "https://cdn.example.com/cat.mp4", "content_type": "video/mp4"}
COMMAND = [sys.executable, "-m", "kling_async"]


def client() -> AsyncKling:
    """Make a client of a vendor that has every video at once."""

    def answer(request: httpx.Request) -> httpx.Response:
        status = "queued" if request.method == "POST" else "completed"
        return httpx.Response(200, json={"id": "g-1", "status": status, "video": VIDEO})

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    return AsyncKling(
        "any-key",
        base_url="https://kling.test",
        http_client=http,
        polling=Fixed(0.01),
    )


def use_none() -> None:
    """The client alone."""

    async def generate() -> None:
        async with client() as kling:
            assert (await kling.generate(model=MODEL, prompt=PROMPT)).succeeded

    anyio.run(generate)


def use_cli() -> None:
    """The command, as far as it needs no server."""
    done = subprocess.run([*COMMAND, "models"], check=True, capture_output=True)
    assert MODEL.encode() in done.stdout


def use_emulator() -> None:
    """A server that is made outside of any event loop, and a real video from it."""
    from kling_async.emulator import Emulator

    emulator = Emulator(speed=1e6, size=64)

    async def generate(folder: str) -> None:
        async with (
            emulator,
            AsyncKling("any-key", base_url=emulator.base_url) as kling,
        ):
            generation = await kling.generate(model=MODEL, prompt=PROMPT)
            file = await kling.download(generation, Path(folder) / "cat.mp4")
            assert file.read_bytes()[4:8] == b"ftyp"

    with tempfile.TemporaryDirectory() as folder:
        anyio.run(generate, folder)


def use_durable() -> None:
    """A job in a database of its own."""
    from kling_async import TextToVideo
    from kling_async.durable import DurableKling

    async def work(folder: str) -> None:
        async with (
            client() as kling,
            DurableKling(f"sqlite:///{folder}/jobs.db", kling) as jobs,
        ):
            job = await jobs.submit(TextToVideo(prompt=PROMPT), key="cat")
            assert (await job.result()).succeeded

    with tempfile.TemporaryDirectory() as folder:
        anyio.run(work, folder)


def use_web() -> None:
    """A stream of events for a browser."""
    from starlette.applications import Starlette
    from starlette.responses import Response
    from starlette.routing import Route

    from kling_async.web import progress_events

    async def look() -> None:
        async with client() as kling:

            async def follow(request: Request) -> Response:
                return progress_events(request, "g-1", kling=kling)

            app = Starlette(routes=[Route("/", follow)])
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(
                transport=transport, base_url="http://app"
            ) as browser:
                assert '"status": "completed"' in (await browser.get("/")).text

    anyio.run(look)


def use_pytest() -> None:
    """The fixtures, in a project that asks for strict markers."""
    test = """if True:
        import pytest

        @pytest.mark.asyncio
        async def test_it(kling, kling_emulator):
            text = "klingai/v2-master-text-to-video"
            assert (await kling.generate(model=text, prompt="A cat")).succeeded
            assert len(kling_emulator.creates) == 1
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "pytest.ini").write_text("[pytest]\n", "utf-8")
        (Path(folder) / "test_it.py").write_text(test, "utf-8")
        words = ["-m", "pytest", "-q", "--strict-markers", "-p", "no:cacheprovider"]
        subprocess.run([sys.executable, *words], cwd=folder, check=True)


USES: Mapping[str, Callable[[], None]] = {
    "none": use_none,
    "cli": use_cli,
    "emulator": use_emulator,
    "durable": use_durable,
    "web": use_web,
    "pytest": use_pytest,
}


def ask_for(extra: str) -> None:
    """Ask for what an extra brings, as somebody does who does not have it."""
    if extra == "cli":
        subprocess.run(COMMAND, check=True, capture_output=True, text=True)
    elif extra == "web":
        from kling_async.web import progress_events

        progress_events(cast("Request", None), "g-1")
    else:
        import_module(f"kling_async.{extra}")


def main(extra: str) -> None:
    """Use one extra, and see that those that are missing are told by name."""
    USES[extra]()
    brought = {"pytest", "emulator"} if extra == "pytest" else {extra}
    for other in sorted({"cli", "emulator", "durable", "web"} - brought):
        try:
            ask_for(other)
        except ModuleNotFoundError as error:
            told = str(error)
        except subprocess.CalledProcessError as error:
            told = error.stderr
        else:
            told = "nothing"
        print(f"without {other}: {told.strip()}")  # noqa: T201 (a program)
        assert f'pip install "kling_async[{other}]"' in told


if __name__ == "__main__":
    main(*sys.argv[1:])

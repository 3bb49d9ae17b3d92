"""What has to hold wherever Python runs: from a zip, without docstrings, by module."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from shell import invoke

import kling_async

PACKAGE = Path(kling_async.__file__).parent


def run(*words: str, path: Path = PACKAGE.parent) -> str:
    """Run Python with what is importable at a path, and give what it prints."""
    done = subprocess.run(
        [sys.executable, "-P", *words],  # the path given, not where it is started
        env={**os.environ, "PYTHONPATH": str(path), "COLUMNS": "80"},
        capture_output=True,
        check=True,
        text=True,
    )
    return done.stdout


def test_the_package_serves_the_emulators_page_from_a_zip(tmp_path: Path) -> None:
    """As frozen applications import it: what it needs is found beside the modules."""
    packed = tmp_path / "app.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in sorted(PACKAGE.rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                archive.write(file, file.relative_to(PACKAGE.parent))
    program = """if True:
        import asyncio, httpx, kling_async
        from kling_async.emulator import Emulator

        async def look():
            print(kling_async.__file__)
            transport = httpx.ASGITransport(Emulator().app)
            base_url = "http://emulator"
            async with httpx.AsyncClient(
                transport=transport, base_url=base_url
            ) as client:
                for path in "/", "/_emulator/page.css", "/_emulator/page.js":
                    answer = await client.get(path)
                    kind = answer.headers["content-type"].partition(";")[0]
                    print(answer.status_code, kind, len(answer.content) > 500)

        asyncio.run(look())
    """
    imported, *lines = run("-c", program, path=packed).splitlines()
    assert imported.startswith(str(packed))
    assert lines == [
        "200 text/html True",
        "200 text/css True",
        "200 text/javascript True",
    ]


@pytest.mark.parametrize("command", ["", "jobs adopt"])
def test_without_docstrings_the_command_explains_itself_all_the_same(
    command: str,
) -> None:
    """`python -OO -m kling_async` says just what `kling-async` says."""
    words = [*command.split(), "--help"]
    described = invoke(None, *words, env={"COLUMNS": "80"}).stdout.splitlines()[2:]
    told = run("-OO", "-m", "kling_async", *words).splitlines()
    assert [it.rstrip() for it in told[2:]] == [it.rstrip() for it in described]
    assert len(described) > 10
    assert told[1].startswith(f" Usage: kling-async {command}".rstrip())


def test_the_command_needs_no_other_extra_until_it_is_asked_for() -> None:
    """`kling-async models` works with the extra `cli` alone, and starts quickly."""
    program = """if True:
        import sys
        import kling_async.cli._app

        others = {"dbos", "sqlalchemy", "av", "PIL", "starlette", "uvicorn", "aiohttp"}
        print(sorted(others & sys.modules.keys()))
    """
    assert run("-c", program) == "[]\n"

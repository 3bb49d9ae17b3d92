"""Follows the tutorial as a stranger: an empty folder, a wheel, and what the page says.

    python tests/support/follow_tutorial.py dist/kling_async-....whl

Prints how long each step took. Only two things differ from the page: the package comes
from the wheel, and the emulator's port is a free one.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs/tutorial.md"
BLOCK = re.compile(r"<!-- tutorial(.*?) -->\n```\w+\n(.*?)```", re.DOTALL)
VIDEOS = 20  # that the last program asks for


def follow(wheel: Path, folder: Path) -> None:
    """Do what the page says, from top to bottom."""
    blocks = BLOCK.findall(PAGE.read_text("utf-8"))
    (_, install), (_, emulator), *programs = blocks
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder)}
    for line in install.splitlines():
        if line.startswith("source "):
            environment["PATH"] = f"{folder}/.venv/bin:{environment['PATH']}"
        else:
            ours = line.replace("kling_async[all]", f"{wheel}[all]")
            _run(shlex.split(ours), folder, environment)
    command = [*shlex.split(emulator), "--port", "0"]
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stdout is not None
        for line in (serving.stdout.readline() for _ in range(3)):
            if line.startswith("export "):
                name, _, value = line.removeprefix("export ").strip().partition("=")
                environment[name] = value
        try:
            for name, code in programs:
                file = name.removeprefix(": ")
                (folder / file).write_text(code, "utf-8")
                _check(file, _run(["python", file], folder, environment), folder)
        finally:
            serving.terminate()


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    began = time.monotonic()
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    took = time.monotonic() - began
    sys.stdout.write(f"{took:6.1f} s  {' '.join(command)[:70]}\n")
    if done.returncode:
        raise SystemExit(done.stdout)
    return done.stdout


def _check(file: str, told: str, folder: Path) -> None:
    """Hold what a program left and printed against what the page promises."""
    match file:
        case "mona.py":
            assert told.startswith("created "), told
            assert "completed" in told, told
            assert (folder / "mona.mp4").stat().st_size
        case "wrong.py":
            promised = PAGE.read_text("utf-8").split("```text\n")[1].partition("```")[0]
            assert told == promised, told
        case "many.py":
            assert told.count("True None") == VIDEOS, told
        case _:
            pass


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as empty:
        follow(Path(sys.argv[1]).resolve(), Path(empty).resolve())

"""Makes the pictures of the README: the demo, the emulator's page, a batch's report.

    python tests/browser/pictures.py      (or: nox -s pictures)

Each shows what the commands really print and serve. Needs chromium.
"""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
import tempfile
from pathlib import Path

from anyio.from_thread import start_blocking_portal
from PIL import Image
from rich.console import Console
from rich.text import Text
from seats import open_browser
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from kling_async import AsyncKling, TextToVideo
from kling_async.emulator import Emulator

PICTURES = Path(__file__).parents[2] / "docs/_static"
COLUMNS = 92
WIDTH, HEIGHT = 1000, 620
PROMPTS = [
    "A paper boat crosses a puddle.",
    "A cat wakes up and stretches.",
    "The sun rises over a quiet harbour.",
    "Snow falls on a lantern.",
]
COLOURS = 128  # enough for a page, and a third of the bytes


def run_in_terminal(*command: str, folder: Path) -> str:
    """Run a command on a terminal of its own, and give all that it wrote there."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    with subprocess.Popen(
        [sys.executable, "-m", "kling_async", *command],
        cwd=folder,
        env=environment,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        written = b""
        while chunk := _read(ours):
            written += chunk
    os.close(ours)
    if process.returncode:
        raise SystemExit(written.decode())
    return written.decode()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # Linux: everyone has left
        return b""


def last_screen(written: str) -> str:
    """Take away what a live display has drawn over."""
    return written.rpartition("\x1b[2K")[2].replace("\r", "")


def draw_demo(folder: Path) -> None:
    """Draw the terminal after the demo."""
    written = run_in_terminal("demo", "--output-dir", "videos", folder=folder)
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print("[dim]$[/] kling-async demo", highlight=False)
    console.print(Text.from_ansi(last_screen(written).strip("\n")))
    console.save_svg(str(PICTURES / "demo.svg"), title="kling-async demo")


def take(driver: webdriver.Chrome, url: str, videos: int, name: str) -> None:
    """Photograph a page once its videos are there."""
    driver.get(url)
    ready = "return [...document.querySelectorAll('video')].some(v => v.readyState > 1)"
    WebDriverWait(driver, 120).until(
        lambda _: (
            len(driver.find_elements(By.TAG_NAME, "video")) >= videos
            and driver.execute_script(ready)
        )
    )
    for video in driver.find_elements(By.TAG_NAME, "video"):
        driver.execute_script("arguments[0].pause()", video)
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png()))
    small = picture.convert("RGB").quantize(COLOURS)
    small.save(PICTURES / name, optimize=True)


def main() -> None:
    """Make all three."""
    with tempfile.TemporaryDirectory() as made, start_blocking_portal() as portal:
        folder = Path(made)
        draw_demo(folder)
        driver = open_browser()
        driver.set_window_size(WIDTH, HEIGHT)
        emulator = Emulator(speed=600)
        with portal.wrap_async_context_manager(emulator):
            portal.call(generate, emulator.base_url)
            take(driver, emulator.base_url, len(PROMPTS), "emulator.png")
            os.environ["AIMLAPI_KEY"] = "any-key"
            os.environ["AIMLAPI_BASE_URL"] = emulator.base_url
            rows = "\n".join(f"scene-{n},{it}" for n, it in enumerate(PROMPTS, 1))
            (folder / "scenes.csv").write_text(f"key,prompt\n{rows}\n", "utf-8")
            run_in_terminal("batch", "scenes.csv", folder=folder)
        report = next(folder.rglob("report.html"))
        take(driver, report.as_uri(), len(PROMPTS), "report.png")
        driver.quit()


async def generate(base_url: str) -> None:
    """Fill the emulator's page."""
    requests = [TextToVideo(prompt=prompt, duration=5) for prompt in PROMPTS]
    async with AsyncKling("any-key", base_url=base_url) as kling:
        async for outcome in kling.generate_many(requests):
            assert outcome.succeeded


if __name__ == "__main__":
    main()

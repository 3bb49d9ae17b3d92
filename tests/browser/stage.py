"""Who and what acts in the browser tests: a person, and the app they use."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

from anyio.from_thread import start_blocking_portal
from attrs import define, field
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import Select, WebDriverWait

from kling_async.emulator import Emulator

ROOT = Path(__file__).parents[2]
SCREENSHOTS = ROOT / "build" / "screenshots"
LOG_DELAY = 3  # seconds until the app takes the emulator's log at its word
PATIENCE = 60  # seconds until what a person waits for has to be there


@define
class Person:
    """Somebody at a browser: looks for things as a person does, and waits a while."""

    driver: webdriver.Chrome
    name: str

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until something is so."""
        WebDriverWait(self.driver, PATIENCE, 0.05).until(lambda _: condition())

    def find(self, css: str) -> WebElement:
        """Wait for an element, and give it."""
        self.until(lambda: self.driver.find_elements(By.CSS_SELECTOR, css))
        return self.driver.find_element(By.CSS_SELECTOR, css)

    def text(self, css: str) -> str:
        """Read what an element says."""
        return self.find(css).text

    def choose(self, css: str, value: str) -> None:
        """Choose from a list, once it has been filled."""
        self.find(f'{css} option[value="{value}"]')
        Select(self.find(css)).select_by_value(value)

    def is_playing(self, css: str) -> bool:
        """Tell whether a video moves."""
        script = "return arguments[0].currentTime > 0.1 && !arguments[0].paused"
        return bool(self.driver.execute_script(script, self.find(css)))

    def photograph(self, what: str) -> None:
        """Keep what is to be seen, as an artefact."""
        SCREENSHOTS.mkdir(parents=True, exist_ok=True)
        self.driver.save_screenshot(str(SCREENSHOTS / f"{self.name}-{what}.png"))

    def complaints(self) -> list[str]:
        """Give what the browser's console holds against the page's own script."""
        entries = self.driver.get_log("browser")  # type: ignore[no-untyped-call]
        return [it["message"] for it in entries if it["source"] != "network"]


@define
class App:
    """The example app in a process of its own."""

    emulator: Emulator
    port: int
    _process: subprocess.Popen[str] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        """Where it is."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, and wait until it serves."""
        key, url = "any-key", self.emulator.base_url
        self._process = subprocess.Popen(
            [
                sys.executable,
                str(ROOT / "docs/examples/webapp/app.py"),
                f"--port={self.port}",
                f"--log-delay={LOG_DELAY}",
            ],
            env=os.environ | {"AIMLAPI_KEY": key, "AIMLAPI_BASE_URL": url},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self.url in self._process.stdout.readline()

    def kill(self) -> None:
        """End it without a word."""
        if self._process is not None:
            with self._process as process:
                process.kill()
            self._process = None


@contextmanager
def emulating(emulator: Emulator) -> Generator[None]:
    """Run an emulator beside the tests, on an event loop of its own."""
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(emulator),
    ):
        yield


@contextmanager
def serving(emulator: Emulator) -> Generator[App]:
    """Serve the example app."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    app = App(emulator, port)
    app.start()
    try:
        yield app
    finally:
        app.kill()

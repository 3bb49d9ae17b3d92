"""A browser, the example app, and an emulator behind it, each as it really runs."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from stage import App, Person, emulating, serving

from kling_async.emulator import Emulator

FLAGS = """
    --headless --no-sandbox --disable-gpu --disable-quic --no-first-run
    --disable-background-networking --disable-component-update --disable-sync
    --window-size=1280,1000 --autoplay-policy=no-user-gesture-required
""".split()


def open_browser() -> webdriver.Chrome:
    """Open a browser without a window."""
    browser, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert browser, "this needs Debian's packages chromium and chromium-driver"
    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for flag in FLAGS:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


@pytest.fixture(scope="session")
def chrome() -> Generator[webdriver.Chrome]:
    """Open a browser, once for all tests."""
    opened = open_browser()
    try:
        yield opened
    finally:
        opened.quit()


@pytest.fixture
def person(
    chrome: webdriver.Chrome, request: pytest.FixtureRequest
) -> Generator[Person]:
    """Sit somebody down at the browser; each test's app is a site of its own."""
    it = Person(chrome, request.node.name.removeprefix("test_"))
    yield it
    it.photograph("end")
    first, *others = chrome.window_handles
    for handle in others:
        chrome.switch_to.window(handle)
        chrome.close()
    chrome.switch_to.window(first)
    complaints = it.complaints()
    chrome.get("about:blank")
    it.complaints()  # what the page still asked for when it was left
    assert complaints == []


@pytest.fixture
def emulator(request: pytest.FixtureRequest) -> Generator[Emulator]:
    """Run one for this test alone."""
    marker = request.node.get_closest_marker("emulator")
    options: dict[str, Any] = {"speed": 120.0} | (marker.kwargs if marker else {})
    made = Emulator(**options)
    with emulating(made):
        yield made


@pytest.fixture
def app(emulator: Emulator) -> Generator[App]:
    """Serve one for this test alone."""
    with serving(emulator) as running:
        yield running


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """Draw a picture to upload."""
    path = tmp_path / "sunrise.png"
    sky = Image.linear_gradient("L").resize((480, 640))
    Image.merge("RGB", (sky, sky.rotate(180), sky.rotate(90))).save(path)
    return path


AXE = "axe-core@4.11.0"


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Fetch the script that finds what keeps people out of a page."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("axe-core comes by npm, which is not there")
    folder = tmp_path_factory.mktemp("axe")
    command = [npm, "install", "--no-save", "--ignore-scripts", "--prefix", str(folder)]
    subprocess.run([*command, AXE], check=True, capture_output=True)
    return (folder / "node_modules/axe-core/axe.min.js").read_text("utf-8")

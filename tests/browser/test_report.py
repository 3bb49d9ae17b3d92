"""The report of a batch in a real browser: its own script runs, and nobody else's."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import av
import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By

from kling_async.cli._report import Card, render_page
from kling_async.durable import JobState, JobStatus

pytest_plugins = ["seats"]


@pytest.fixture
def visits() -> Iterator[tuple[str, list[str]]]:
    """Be a foreign host, and note who comes."""
    seen: list[str] = []

    class Visited(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.path)
            self.send_error(404)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (its name)
            """Say nothing."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Visited) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


def card(key: str, file: Path, said: str = "") -> Card:
    """Give a job that is done."""
    status = JobStatus(key=key, batch="b", state=JobState.DONE, attempt=1, error=said)
    return Card(status=status, prompt=said, file=file)


def test_a_report_runs_its_own_script_alone(
    chrome: webdriver.Chrome, visits: tuple[str, list[str]], tmp_path: Path
) -> None:
    """A click on what a manifest named runs nothing, and no foreign host is asked."""
    url, seen = visits
    bad = f"<img src='{url}/x'><script>document.title = 'PWNED'</script>"
    cards = [
        card("script", tmp_path / "javascript:void(document.title='PWNED')", bad),
        card("beacon", tmp_path / f"{url}/beacon.mp4", bad),
        card("host", tmp_path / f"/{url.removeprefix('http:')}/beacon.mp4", bad),
    ]
    page = tmp_path / "report.html"
    page.write_text(render_page("scenes", cards, tmp_path), "utf-8")
    chrome.get(page.as_uri())
    films = chrome.find_elements(By.CSS_SELECTOR, "a.film")
    for film in films:
        assert str(film.get_attribute("href")).startswith(tmp_path.as_uri())
    sources = "return [...document.querySelectorAll('video')].map(it => it.src)"
    assert any(chrome.execute_script(sources)), "the page's own script did not run"
    shown = chrome.find_element(By.CSS_SELECTOR, "h1").value_of_css_property(
        "font-size"
    )
    assert shown == "22px", "the page's own style was refused"
    chrome.execute_script("arguments[0].click()", films[0])
    assert chrome.title != "PWNED"
    assert seen == []


def test_a_report_plays_its_video(chrome: webdriver.Chrome, tmp_path: Path) -> None:
    """The policy lets in what lies beside the page."""
    film = tmp_path / "a b.mp4"
    with av.open(str(film), "w", format="mp4") as file:
        stream = file.add_stream("h264", rate=5)
        stream.width = stream.height = 64
        for _ in range(5):
            file.mux(stream.encode(av.VideoFrame(64, 64, "yuv420p")))
        file.mux(stream.encode())
    page = tmp_path / "report.html"
    page.write_text(render_page("scenes", [card("a", film)], tmp_path), "utf-8")
    chrome.get(page.as_uri())
    loads = """
        const done = arguments[0], film = document.querySelector("video");
        film.onloadedmetadata = () => done(film.videoWidth);
        film.onerror = () => done(film.error.message);
        film.src = film.dataset.src; film.preload = "metadata"; film.load();
    """
    assert chrome.execute_async_script(loads) == 64

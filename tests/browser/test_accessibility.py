"""Nothing that axe-core knows keeps anybody out of the pages, in light and in dark."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from stage import ROOT, App, Person

from kling_async.cli._report import Card, render_page
from kling_async.durable import JobState, JobStatus
from kling_async.emulator import Emulator

pytest_plugins = ["seats"]

SCHEMES = pytest.mark.parametrize("scheme", ["light", "dark"])
BUILT = ROOT / "docs/_build/html"


def require_no_violation(person: Person, url: str, scheme: str, axe: str) -> None:
    """Look at a page with axe."""
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    person.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
    person.driver.get(url)
    person.find("h1")
    person.photograph(scheme)
    script = f"""
        {axe};
        axe.run(document).then(arguments[0]);
    """
    found = person.driver.execute_async_script(script)
    told = [
        (it["id"], [node["html"][:120] for node in it["nodes"]])
        for it in found["violations"]
    ]
    assert told == []


@SCHEMES
def test_the_app_and_the_emulators_page_are_for_everybody(
    person: Person, app: App, emulator: Emulator, axe: str, scheme: str
) -> None:
    """Contrast, names and landmarks."""
    require_no_violation(person, app.url, scheme, axe)
    require_no_violation(person, emulator.base_url, scheme, axe)


def job(state: JobState) -> JobStatus:
    """Make a job as the report shows it."""
    return JobStatus(
        key=f"scene-{state}",
        batch="scenes",
        state=state,
        attempt=2,
        model="klingai/v2-master-text-to-video",
        generation_id="g-1",
        error="It went wrong." if state is JobState.FAILED else None,
    )


@SCHEMES
def test_the_report_is_for_everybody(
    person: Person, axe: str, scheme: str, tmp_path: Path
) -> None:
    """With a job in each state, and a video."""
    film = tmp_path / "film.mp4"
    film.write_bytes(b"no video")
    cards = [
        Card(status=job(state), prompt="A cat", file=film if n == 0 else None)
        for n, state in enumerate(JobState)
    ]
    page = tmp_path / "report.html"
    page.write_text(render_page("scenes", cards, tmp_path), "utf-8")
    require_no_violation(person, page.as_uri(), scheme, axe)


@pytest.fixture
def documentation() -> Iterator[str]:
    """Serve the documentation as a web site, where it has been built."""
    if not (BUILT / "index.html").is_file():
        pytest.skip("the documentation is not built: nox -s docs")
    handler = partial(SimpleHTTPRequestHandler, directory=str(BUILT))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@SCHEMES
def test_the_first_page_of_the_docs_is_for_everybody(
    person: Person, documentation: str, axe: str, scheme: str
) -> None:
    """With what the theme makes of it."""
    require_no_violation(person, documentation, scheme, axe)

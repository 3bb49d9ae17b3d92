"""What the example app refuses, and what it tells a browser to refuse."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
from stage import App, Person, emulating, serving

from kling_async.emulator import Emulator

pytest_plugins = ["seats"]

UP = ("../", "..%2f", "%2e%2e/", "%2e%2e%2f", "..%5c", "%252e%252e%252f")
OUTSIDE = [
    f"{start}{up * 5}{name}"
    for start in ("/static/", "/", "/videos/")
    for up in UP
    for name in ("etc/passwd", "app.py")
]


@pytest.fixture(scope="module")
def app() -> Iterator[App]:
    """Serve one app for all: what is refused leaves nothing behind."""
    emulator = Emulator()
    with emulating(emulator), serving(emulator) as running:
        yield running


@pytest.fixture
def visitor(app: App) -> Iterator[httpx.Client]:
    """Speak to the app without a browser."""
    mine = {"x-client-request-id": "drawn-by-the-browser"}
    with httpx.Client(base_url=app.url, headers=mine, trust_env=False) as client:
        yield client


def form(**files: tuple[str, bytes, str]) -> dict[str, object]:
    """Fill the form in."""
    model = {"model": "klingai/video-v3-pro-image-to-video", "prompt": "The sun."}
    return {"data": model, "files": files}


async def _said(port: int, line: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    head = (line, "host: localhost", "x-client-request-id: a-request")
    writer.write("\r\n".join([*head, "connection: close", "", ""]).encode())
    heard = await reader.read()
    writer.close()
    return heard


def test_every_answer_tells_the_browser_what_not_to_do(visitor: httpx.Client) -> None:
    """No foreign script, no guessing of types, no frame, no referrer."""
    for path in ("/", "/static/app.js", "/models", "/no/such/page", "/docs"):
        head = visitor.get(path).headers
        assert "default-src 'none'" in head["content-security-policy"]
        assert "frame-ancestors 'none'" in head["content-security-policy"]
        assert "unsafe" not in head["content-security-policy"]
        assert head["x-content-type-options"] == "nosniff"
        assert head["referrer-policy"] == "no-referrer"


def test_no_path_leads_out_of_its_folder(app: App) -> None:
    """Dots, encoded once, twice or not at all."""
    for path in OUTSIDE:
        heard = asyncio.run(_said(app.port, f"GET {path} HTTP/1.1"))
        assert heard.split()[1] in {b"404", b"405"}, path
        assert b"root:" not in heard
        assert b"FastAPI" not in heard


def test_another_name_is_not_this_site(visitor: httpx.Client, app: App) -> None:
    """A web page of somebody else's, whose name leads here, does nothing."""
    for host in ("evil.example", f"evil.example:{app.port}", "127.0.0.1.evil.example"):
        assert visitor.get("/", headers={"host": host}).status_code == 400
    assert visitor.get("/", headers={"host": f"localhost:{app.port}"}).is_success


def test_an_upload_is_bounded(visitor: httpx.Client, picture: Path, app: App) -> None:
    """In bytes, in files and in kind; each answer says what would do."""
    image = ("a.png", picture.read_bytes(), "image/png")
    long = "POST /videos HTTP/1.1\r\ncontent-length: 999999999"
    heard = asyncio.run(_said(app.port, long))
    assert heard.split()[1] == b"413"
    assert b"at most 67,108,864 bytes" in heard

    many = [("image_url", image)] * 9
    answer = visitor.post("/videos", data={"model": "x"}, files=many)
    assert answer.status_code == 400
    assert "Maximum number of files is 8" in answer.json()["detail"]

    answer = visitor.post("/videos", content=iter([b"model=x"]))
    assert answer.status_code == 411

    for name, kind in (("a.html", "text/html"), ("a.png", "image/png")):
        upload = form(image_url=(name, b"<script>alert(1)</script>" * 30, kind))
        answer = visitor.post("/videos", **upload)  # type: ignore[arg-type]  # by name
        assert answer.status_code == 422
        (problem,) = answer.json()["problems"]
        assert problem["field"] == "image_url"
        assert "JPEG or PNG" in problem["text"]
    assert app.emulator.creates == []


FOREIGN = [
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "http://127.0.0.1:1"},  # another site on this machine
    {"origin": "https://localhost"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"},  # a form
]


@pytest.mark.parametrize("headers", FOREIGN)
def test_a_page_elsewhere_starts_no_video(
    visitor: httpx.Client, picture: Path, app: App, headers: dict[str, str]
) -> None:
    """Whatever tells that a browser sends it for another site's page."""
    image = ("a.png", picture.read_bytes(), "image/png")
    answer = visitor.post("/videos", headers=headers, **form(image_url=image))  # type: ignore[arg-type]  # by name
    assert answer.status_code == 403
    assert app.emulator.creates == []


def test_a_link_from_elsewhere_leads_to_the_page(visitor: httpx.Client) -> None:
    """To be found by a search engine is no attack; to be asked in secret is."""
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    secretly = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert visitor.get("/", headers=link).is_success
    assert visitor.get("/videos/some-id/events", headers=secretly).status_code == 403


def test_a_form_on_another_site_starts_no_video(person: Person, app: App) -> None:
    """In a real browser, which fills in a form there and sends it by itself."""
    evil = (
        f"<form method=post enctype=multipart/form-data action={app.url}/videos>"
        "<input name=model value=klingai/video-v3-pro-text-to-video>"
        "<input name=prompt value=Paid></form>"
        "<script>document.forms[0].submit()</script>"
    )
    person.driver.get(f"data:text/html,{quote(evil)}")
    person.until(lambda: "own pages" in person.text("body"))
    assert app.emulator.creates == []


def test_a_request_without_an_id_of_its_own_is_refused(visitor: httpx.Client) -> None:
    """Its paid video could not be found again after a lost answer."""
    for odd in ("", "short", "with blanks in it", "a" * 129):
        answer = visitor.post("/videos", headers={"x-client-request-id": odd}, **form())  # type: ignore[arg-type]  # by name
        assert answer.status_code == 422

"""The key, whatever breaks: every library, every broken answer, every echo of it."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Literal

import httpx
import httpx2
import httpx_aiohttp
import pytest
from clients import KEY, ONCE, PROMPT
from everything_told import everything_told
from hypothesis import given, settings, strategies as st
from raw_server import RawServer, answer, answering

from kling_async import AsyncKling, Generation, KlingError
from kling_async._config import Secret
from kling_async._http.wire import Response, decode_error, decode_polled

BEARER = f"Bearer {KEY}"
OK = b"HTTP/1.1 200 OK\r\n"
SPELT_OUT = "".join(f"\\u{ord(it):04x}" for it in KEY)

# What is no HTTP, or stops being it; each with the key in it where that can be.
BROKEN = {
    "no answer": b"",
    "half a head": OK + b"content-length: 5",
    "no HTTP": b"SSH-2.0-OpenSSH\r\n",
    "no HTTP that echoes": f"{BEARER}\r\n\r\n".encode(),
    "a status that echoes": f"HTTP/1.1 {KEY}\r\n\r\n".encode(),
    "a reason that echoes": f"HTTP/1.1 500 {BEARER}\r\n\r\n".encode(),
    "a bad length": OK + b"content-length: zzz\r\n\r\n",
    "a length that echoes": OK + f"content-length: {KEY}\r\n\r\n".encode(),
    "two lengths": OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\n",
    "a negative length": OK + b"content-length: -5\r\n\r\n",
    "a bad chunk": OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n",
    "a chunk that echoes": OK
    + f"transfer-encoding: chunked\r\n\r\n{KEY}\r\n{KEY}".encode(),
    "an encoding that echoes": OK
    + f"content-encoding: {KEY}\r\ncontent-length: 2\r\n\r\n{{}}".encode(),
    "a long encoding": OK + f"content-encoding: {BEARER * 3}\r\n\r\n{{}}".encode(),
    "a coding that echoes": OK + f"transfer-encoding: {KEY}\r\n\r\n".encode(),
    "no gzip": OK + b"content-encoding: gzip\r\ncontent-length: 2\r\n\r\n{}",
    "a bad header": OK + b"\x00\x01: x\r\n\r\n",
    "a header that echoes": OK + f"{KEY}\x00: {KEY}\r\n\r\n".encode(),
    "a folded header": OK + f" {KEY}\r\n\r\n".encode(),
    "a huge header": OK + b"x: " + b"y" * 200_000 + b"\r\n\r\n",
    "many headers": OK + b"x: y\r\n" * 5000 + b"\r\n",
    "a cut body": OK + f'content-length: 500\r\n\r\n{{"id": "{KEY}"'.encode(),
    "an upgrade": b"HTTP/1.1 101 Switching Protocols\r\nupgrade: h2c\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/9": b"HTTP/9.9 200 OK\r\n\r\n",
}

FACTS = {
    "message": f"no: {BEARER}",
    "requestId": KEY,
    "error": {"name": KEY, "message": BEARER},
    "status": "error",
    KEY: [KEY, {KEY: KEY}],
}
PAGE = f"<html><title>{BEARER}</title>{BEARER}</html>"
BODIES = {
    "JSON": json.dumps(FACTS).encode(),
    "a list": json.dumps([BEARER]).encode(),
    "spelt out": f'{{"message": "{SPELT_OUT}", "{SPELT_OUT}": "x"}}'.encode(),
    "a status": json.dumps({"id": "g", "status": KEY}).encode(),
    "another id": json.dumps({"id": KEY, "status": "queued"}).encode(),
    "a video": json.dumps(
        {"id": "g", "status": "completed", "video": {"url": f"https://x/?k={KEY}"}}
    ).encode(),
    "UTF-16": json.dumps(FACTS, ensure_ascii=False).encode("utf-16"),
    "UTF-32": json.dumps(FACTS).encode("utf-32-le"),
    "a page": PAGE.encode(),
    "text": BEARER.encode(),
    "no UTF-8": b"\xff" + BEARER.encode(),
    "deep": b'{"a":' * 300 + json.dumps(KEY).encode() + b"}" * 300,
    "half": f'{{"message": "{SPELT_OUT}'.encode(),
}
STATUSES = (200, 201, 302, 400, 401, 402, 403, 404, 407, 408, 422, 425, 429, 500, 503)

OWN: tuple[Literal["httpx", "httpx2", "aiohttp"], ...] = ("httpx", "httpx2", "aiohttp")
LENT: dict[str, Callable[[], httpx.AsyncClient | httpx2.AsyncClient]] = {
    "lent httpx": httpx.AsyncClient,
    "lent httpx2": httpx2.AsyncClient,
    "lent httpx-aiohttp": httpx_aiohttp.HttpxAiohttpClient,
}
LIBRARIES = [*OWN, *LENT]


@asynccontextmanager
async def over(library: str, base_url: str) -> AsyncGenerator[AsyncKling]:
    """Make a client over one of the libraries, for one attempt each."""
    for transport in OWN:
        if library == transport:
            async with AsyncKling(
                KEY, base_url=base_url, retry=ONCE, transport=transport
            ) as kling:
                yield kling
            return
    async with (
        LENT[library]() as http_client,
        AsyncKling(
            KEY, base_url=base_url, retry=ONCE, http_client=http_client
        ) as kling,
    ):
        yield kling


async def everything_asked(kling: AsyncKling) -> str:
    """Ask in every way, and give all that is shown of what comes of it."""
    told: list[str] = []
    for ask in (
        lambda: kling.get("g"),
        lambda: kling.create(model="klingai/video-v3-pro-text-to-video", prompt=PROMPT),
        kling.balance,
    ):
        try:
            value = await ask()
        except KlingError as error:
            told.append(everything_told(error))
        else:
            told.append(repr(value))
            told.append(repr(value.raw) if isinstance(value, Generation) else "")
    return "\n".join(told)


def leaks(*told: str) -> list[str]:
    """Give the places where the key is, in clear or as JSON may spell it out."""
    lines = [line for it in told for line in it.splitlines()]
    at = [
        (line, line.find(it))
        for line in lines
        for it in (KEY, SPELT_OUT, "\\x00".join(KEY), "\0".join(KEY))
        if it in line
    ]
    return [line[max(0, i - 60) : i + 60] for line, i in at]


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("name", BROKEN)
async def test_no_broken_answer_shows_the_key(
    name: str, library: str, caplog: pytest.LogCaptureFixture
) -> None:
    """No error, cause, context, local, pickle or log of any library."""
    caplog.set_level(1)

    async def script(_: object, peer: object) -> None:
        await peer.send(BROKEN[name])  # type: ignore[attr-defined]
        peer.hang_up()  # type: ignore[attr-defined]

    async with RawServer(script) as server, over(library, server.base_url) as kling:
        told = await everything_asked(kling)
    own = [it.getMessage() for it in caplog.records if it.name.startswith("kling")]
    assert leaks(told, *own) == []


@pytest.mark.parametrize("library", LIBRARIES)
async def test_no_answer_hands_the_key_on(
    library: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Of any status and in any encoding, in its body and in its headers.

    Each status with a fifth of the bodies, each body with a fifth of the statuses.
    """
    caplog.set_level(1, logger="kling_async")
    for number, status in enumerate(STATUSES):
        for name, body in [*BODIES.items()][number % 5 :: 5]:
            head = {
                "x_request_id": KEY,
                "x_inference_id": KEY,
                "location": f"http://x/?key={KEY}",
                "retry_after": KEY,
            }
            echo = answer(body, f"{status} {KEY}", **head)
            async with (
                RawServer(answering(echo)) as server,
                over(library, server.base_url) as kling,
            ):
                told = await everything_asked(kling)
            assert leaks(told, caplog.text) == [], (status, name)
            caplog.clear()


@settings(deadline=None)
@given(
    key=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=8),
    before=st.text(max_size=5),
    status=st.sampled_from(STATUSES),
    encoding=st.sampled_from(["utf-8", "utf-16", "utf-32"]),
    is_ascii=st.booleans(),
)
def test_any_key_is_taken_out_of_any_answer(
    key: str, before: str, status: int, encoding: str, *, is_ascii: bool
) -> None:
    """With quotes, slashes and percent signs in it, which JSON and URLs escape."""
    facts = {"id": "g", "status": f"{before}{key}", "message": key, key: [key]}
    body = json.dumps(facts, ensure_ascii=is_ascii)
    content = body.encode(encoding, errors="surrogatepass")
    echo = Response(
        status_code=status, headers={}, content=content, redact=Secret(key).redact
    )
    error = decode_error(echo)
    assert key not in error.message
    assert key not in error.body
    seen = decode_polled(echo, "g")
    assert key not in json.dumps(seen.raw) or key in json.dumps("***")
    assert all(key not in it for it in (seen.status, *seen.raw))

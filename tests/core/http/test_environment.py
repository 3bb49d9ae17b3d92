"""Variables of the environment that are wrong, or that others misread."""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path

import httpx
import pytest
from raw_server import RawServer, answer, answering

from kling_async import AsyncKling, ConfigurationError, Video
from kling_async._http.environment import is_bypassed
from kling_async._http.session import Library

VARIABLES = ("SSL_CERT_FILE", "SSL_CERT_DIR", "SSLKEYLOGFILE")


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("kind", ["stale", "no PEM"])
@pytest.mark.parametrize("name", VARIABLES)
def test_a_wrong_variable_of_tls_is_named(
    name: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a ConfigurationError, before anything is sent."""
    there = tmp_path / "there"
    if name == "SSL_CERT_FILE":
        there.write_text("no certificate")
    else:  # a folder: without certificates, or where a file is wanted
        there.mkdir()
    given = there if kind == "no PEM" else tmp_path / "gone" / "away.pem"
    monkeypatch.setenv(name, str(given))
    with pytest.raises(ConfigurationError, match=name) as caught:
        AsyncKling("any-key")
    assert str(given) in str(caught.value)


def test_what_is_right_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bundle of certificates, and a file for the keys."""
    bundle = ssl.get_default_verify_paths().openssl_cafile
    import certifi

    monkeypatch.setenv("SSL_CERT_FILE", certifi.where() or bundle)
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    assert not AsyncKling("any-key").is_closed


def test_certificates_are_read_once_until_they_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clients share them; a file that was renewed or broken meanwhile is read anew."""
    import certifi

    bundle, read = tmp_path / "bundle.pem", list[None]()
    make = httpx.create_ssl_context

    def count() -> ssl.SSLContext:
        read.append(None)
        return make()

    monkeypatch.setattr(httpx, "create_ssl_context", count)
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    bundle.write_text(Path(certifi.where()).read_text("utf-8"), "utf-8")
    AsyncKling("any-key")
    AsyncKling("another-key")
    assert len(read) == 1
    os.utime(bundle, (0, 0))
    AsyncKling("any-key")
    assert len(read) == 2
    bundle.write_text("no certificate")
    with pytest.raises(ConfigurationError, match="SSL_CERT_FILE"):
        AsyncKling("any-key")


@pytest.mark.parametrize(
    "no_proxy, url, is_meant",
    [
        ("*", "https://api.aimlapi.com", True),
        ("aimlapi.com", "https://api.aimlapi.com", True),
        (".aimlapi.com", "https://api.aimlapi.com", True),
        ("*.aimlapi.com", "https://api.aimlapi.com", True),
        ("API.aimlapi.com", "https://api.aimlapi.com", True),
        ("lapi.com", "https://api.aimlapi.com", False),
        ("api.aimlapi.com:443", "https://api.aimlapi.com", True),
        ("api.aimlapi.com:8443", "https://api.aimlapi.com", False),
        ("api.aimlapi.com:8443", "https://api.aimlapi.com:8443", True),
        ("10.0.0.0/8", "https://10.1.2.3", True),
        ("10.0.0.0/8", "https://11.1.2.3", False),
        ("10.1.2.3", "https://10.1.2.3:9", True),
        ("::1", "https://[::1]", True),
        ("[::1]", "https://[::1]:8", True),
        ("[::1]:8", "https://[::1]:8", True),
        ("[::1]:9", "https://[::1]:8", False),
        ("fd07:b51a:cc66:f0::/64", "https://[fd07:b51a:cc66:f0::7]", True),
        ("fd07:b51a:cc66:f0::/64", "https://[fd08::7]", False),
        ("fd07:b51a:cc66:f0::/64", "https://api.aimlapi.com", False),
        ("localhost, 127.0.0.1 aimlapi.com", "https://api.aimlapi.com", True),
        ("https://api.aimlapi.com", "https://api.aimlapi.com", True),
        ("", "https://api.aimlapi.com", False),
        (", ,", "https://api.aimlapi.com", False),
    ],
)
def test_no_proxy_is_read_as_it_is_written_elsewhere(
    no_proxy: str,
    url: str,
    is_meant: bool,
) -> None:
    """Hosts, addresses, networks and ports, with and without brackets."""
    assert is_bypassed(httpx.URL(url), no_proxy) is is_meant


@pytest.mark.parametrize("transport", ["httpx", "aiohttp"])
async def test_a_no_proxy_of_networks_stops_no_client(
    transport: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some programs write it for all that run below them."""
    monkeypatch.setenv("NO_PROXY", "localhost,::1,fd07:b51a:cc66:f0::/64,[::1]:8")
    async with (
        RawServer(answering(answer())) as server,
        AsyncKling("any-key", base_url=server.base_url, transport=transport) as kling,
    ):
        assert (await kling.get("g-1")).status == "queued"


@pytest.mark.parametrize("name", ["HTTP_PROXY", "ALL_PROXY"])
async def test_what_lies_beside_an_api_on_loopback_is_fetched_directly(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As the API itself is asked: the proxy would look for it on its own machine."""
    monkeypatch.setenv(name, "http://127.0.0.1:9")
    async with (
        RawServer(answering(answer(b"film"))) as server,
        AsyncKling("any-key", base_url=server.base_url) as kling,
    ):
        video = Video(url=f"{server.base_url}/v.mp4")
        await kling.download(video, tmp_path / "v.mp4", check_mp4=False)
    assert (tmp_path / "v.mp4").stat().st_size == len(b"film")


@pytest.mark.parametrize(
    "given",
    ['"sk-test"', "'sk-test'", " sk-test\n", '" sk-test "', "\u201csk-test\u201d"],
)
@pytest.mark.parametrize("from_environment", [True, False])
async def test_quotes_and_blanks_around_a_key_are_left_out_and_told(
    given: str,
    from_environment: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """`docker --env-file` keeps them, and the vendor would refuse the key."""
    monkeypatch.setenv("AIMLAPI_KEY", given)
    key = None if from_environment else given
    async with (
        RawServer(answering(answer())) as server,
        AsyncKling(key, base_url=server.base_url) as kling,
    ):
        await kling.get("g-1")
        assert server.requests[0].headers["authorization"] == "Bearer sk-test"
    told = [it.getMessage() for it in caplog.records if it.levelno == logging.WARNING]
    assert len(told) == 1
    assert ("AIMLAPI_KEY" if from_environment else "api_key") in told[0]
    assert "sk-test" not in told[0]


@pytest.mark.parametrize("given", ['"', '""', "'sk", '"sk-a" "sk-b"'])
def test_a_key_of_which_quotes_are_left_is_refused(given: str) -> None:
    """There is something wrong with it that nobody can guess."""
    with pytest.raises(ConfigurationError, match="quotes"):
        AsyncKling(given)


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v2", "/v1/", "/v2//"])
async def test_a_base_url_may_end_in_a_version(end: str) -> None:
    """The vendor's own examples write it in each of these ways."""
    async with (
        RawServer(answering(answer())) as server,
        AsyncKling("any-key", base_url=server.base_url + end) as kling,
    ):
        await kling.get("g-1")
        assert server.requests[0].target.startswith("/v2/video/generations?")

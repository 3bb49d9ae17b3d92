"""A real S3 server, moto's, in a process of its own, and what tests ask of it.

What moto does not check: signatures and their age, who may do what (any credentials
will do), and the order or the least size of the parts of an upload.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Generator

import obstore
from attrs import frozen
from obstore.store import S3Store

_PATIENCE = 60.0


@frozen
class Bucket:
    """A bucket of a test's own.

    Attributes:
        endpoint: Where its server listens.
        name: Its name.
    """

    endpoint: str
    name: str

    @property
    def url(self) -> str:
        """The URL that obstore takes."""
        return f"s3://{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables by which obstore finds the server."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
        }

    def keys(self) -> list[str]:
        """List what is in it, sorted."""
        return sorted(it["path"] for it in obstore.list(self._store).collect())

    def uploads(self) -> int:
        """Count uploads that were begun and neither ended nor called off."""
        listed = _ask("GET", f"{self.endpoint}/{self.name}?uploads").decode()
        return listed.count("<UploadId>")

    def put(self, key: str, content: bytes) -> None:
        """Put an object there."""
        obstore.put(self._store, key, content)

    def delete(self, key: str) -> None:
        """Take an object away."""
        obstore.delete(self._store, key)

    def read(self, key: str) -> bytes:
        """Read an object."""
        return bytes(obstore.get(self._store, key).bytes())

    @property
    def _store(self) -> S3Store:
        return S3Store(
            self.name,
            endpoint=self.endpoint,
            access_key_id="testing",
            secret_access_key="testing",
            region="us-east-1",
            client_options={"allow_http": True},
        )


@contextlib.contextmanager
def running() -> Generator[str]:
    """Run a server, and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(
        program,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    try:
        _await_port(port, server)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait()


def made(endpoint: str, name: str) -> Bucket:
    """Make a bucket."""
    _ask("PUT", f"{endpoint}/{name}")
    return Bucket(endpoint, name)


def _await_port(port: int, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        with (
            contextlib.suppress(OSError),
            socket.create_connection(("127.0.0.1", port)),
        ):
            return
        time.sleep(0.05)
    raise RuntimeError("moto's server does not start")


def _ask(method: str, url: str) -> bytes:
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=_PATIENCE) as answer:
        body: bytes = answer.read()
        return body

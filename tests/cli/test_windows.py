"""What the command does on Windows, as far as Linux can play it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
from shell import NEVER, invoke, serving, started, wait_for
from windows_files import behave_like_windows

from kling_async.durable._database import Database
from kling_async.durable._engine import locks_on

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="needs Linux's list of open files"
)


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Give a manifest of two."""
    file = tmp_path / "scenes.csv"
    file.write_text("key,prompt\nfox,A fox\nboat,A paper boat\n", "utf-8")
    return file


def test_a_batch_closes_its_files_before_it_removes_or_replaces_them(
    scenes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Videos, results, report, and the lock of the worker: twice, and none is left."""
    refused = behave_like_windows(monkeypatch)
    with serving() as emulator:
        for _ in range(2):
            done = invoke(emulator, "batch", scenes)
            assert done.exit_code == 0, done.stderr
    folder = scenes.with_suffix("")
    assert sorted(it.name for it in folder.glob("*.mp4")) == ["boat.mp4", "fox.mp4"]
    assert not list(folder.glob("*.lock"))
    assert not list(folder.glob("*.part"))
    assert {it.rpartition(".")[2] for it in refused} <= {"lock"}  # tried, then closed


def test_a_lock_that_cannot_be_removed_while_it_is_open_is_closed_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's own, and the one of a worker that is gone."""
    database = Database.at(f"sqlite:///{tmp_path / 'jobs.db'}")
    engine = database.prepare()
    one, other = (locks_on(database, engine, name) for name in ("one", "other"))
    refused = behave_like_windows(monkeypatch)
    one.acquire()
    with other.try_claim("one") as is_gone:
        assert not is_gone
    one.release()
    with other.try_claim("one") as is_gone:
        assert is_gone
    engine.dispose()
    assert len(refused) == 2
    assert not list(tmp_path.glob("*.lock"))


# Python on Windows has SIGBREAK: Ctrl-Break, and a console that is closed.
WITH_SIGBREAK = """if True:
    import enum, signal
    members = {it.name: it.value for it in signal.Signals} | {"SIGBREAK": 10}
    signal.Signals = enum.IntEnum("Signals", members)
    signal.SIGBREAK = signal.SIGUSR1
    from kling_async.cli import main
    main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has the real one")
def test_ctrl_break_ends_a_batch_in_order(scenes: Path) -> None:
    """The ids are kept, and the way to go on is told."""
    with serving(speed=NEVER) as emulator:
        program = (sys.executable, "-c", WITH_SIGBREAK)
        with started(emulator, "batch", str(scenes), program=program) as process:
            wait_for(lambda: len(emulator.creates) == 2)
            os.kill(process.pid, signal.SIGUSR1)
            _, errors = process.communicate()
    assert process.returncode == 143  # as for SIGTERM
    assert "the same command goes on with it" in errors

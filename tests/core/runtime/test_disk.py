"""Files that are written as a whole or not at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from kling_async._runtime.disk import write_atomically


def test_a_file_is_made_and_replaced_as_a_whole(tmp_path: Path) -> None:
    """Nothing else is left beside it."""
    path = tmp_path / "state.json"
    assert write_atomically(path, "one") == path
    write_atomically(str(path), b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_write_that_fails_leaves_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no half file beside it."""
    path = tmp_path / "state.json"
    write_atomically(path, "one")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, "two")
    assert path.read_text("utf-8") == "one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such permissions")
@pytest.mark.parametrize("mode", [0o600, 0o777], ids=oct)
def test_a_file_that_is_replaced_keeps_its_permissions(
    tmp_path: Path, mode: int
) -> None:
    """What was for its owner alone, or for all, stays so."""
    path = tmp_path / "state.json"
    path.write_text("one", "utf-8")
    path.chmod(mode)
    write_atomically(path, "two")
    assert path.stat().st_mode & 0o777 == mode


def test_a_link_planted_beside_it_is_not_followed(tmp_path: Path) -> None:
    """The name of the file in the making cannot be guessed, nor is it reused."""
    victim, path = tmp_path / "victim", tmp_path / "state.json"
    victim.write_text("mine", "utf-8")
    for name in ("state.json.part", ".state.json.part"):
        (tmp_path / name).symlink_to(victim)
    write_atomically(path, "two")
    assert victim.read_text("utf-8") == "mine"
    assert not path.is_symlink()

"""The locks of the checks: every version with its hash, and none forgotten."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
GROUPS = PROJECT["dependency-groups"]
TOOLS = ("lint", "build", "audit")  # groups that do without the package


def locked_in(group: str) -> dict[str, str]:
    """Give the versions that a lock holds, by name."""
    text = (ROOT / "tests/requirements" / f"{group}.txt").read_text("utf-8")
    pins = [line.split(" ")[0] for line in text.splitlines() if line[0] not in "# "]
    return dict(pin.split("==") for pin in pins)


def wanted_by(group: str) -> Iterator[Requirement]:
    """Give what a group asks for, with the groups that it includes."""
    for entry in GROUPS[group]:
        if isinstance(entry, dict):
            yield from wanted_by(entry["include-group"])
        else:
            yield Requirement(entry)


@pytest.mark.parametrize("group", GROUPS)
def test_a_lock_fits_what_its_group_asks_for(group: str) -> None:
    """Whoever changes a dependency is told to write the locks anew: `nox -s lock`."""
    locked = locked_in(group)
    core = map(Requirement, PROJECT["project"]["dependencies"])
    for wanted in [*wanted_by(group), *(core if group not in TOOLS else ())]:
        version = locked[canonicalize_name(wanted.name)]
        assert wanted.specifier.contains(version), (str(wanted), version)


@pytest.mark.parametrize("group", GROUPS)
def test_a_lock_holds_a_hash_for_each_version_and_no_address(group: str) -> None:
    """Another file under the same name is refused, wherever it comes from."""
    text = (ROOT / "tests/requirements" / f"{group}.txt").read_text("utf-8")
    entries = re.split(r"\n(?=\S)", text)
    assert all(re.search(r"--hash=sha256:[0-9a-f]{64}", entry) for entry in entries)
    assert "://" not in text

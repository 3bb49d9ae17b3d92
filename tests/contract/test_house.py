"""Who opens a folder sees its architecture: few entries, each an idea."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import kling_async

HOME = Path(kling_async.__file__).parent

PACKAGES = {"cli": 16, "durable": 9, "emulator": 14}


def _lines_of_code(file: Path) -> int:
    tree = ast.parse(file.read_text())
    return len({it.lineno for it in ast.walk(tree) if isinstance(it, ast.stmt)})


def test_the_package_has_at_most_sixteen_private_entries() -> None:
    """Modules and packages with an underscore, which only we look at."""
    private = {it.stem for it in HOME.iterdir() if it.name[:2] not in {"__", "._"}}
    assert len({it for it in private if it.startswith("_")}) <= 16


@pytest.mark.parametrize("package", PACKAGES)
def test_a_face_of_the_core_has_few_files(package: str) -> None:
    """As many as it has ideas."""
    assert len(list((HOME / package).glob("*.py"))) <= PACKAGES[package]


@pytest.mark.parametrize("package", PACKAGES)
def test_no_file_is_too_small_for_an_idea(package: str) -> None:
    """What is small stands beside what it serves."""
    files = [it for it in (HOME / package).glob("*.py") if it.stem != "__init__"]
    assert [it.name for it in files if _lines_of_code(it) < 40] == []

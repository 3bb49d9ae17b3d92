"""The tables of models in the documentation, made from the catalogue."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from kling_async import models

DOCS = Path(__file__).parents[2] / "docs"
MASTER = "klingai/v2-master-image-to-video"


@pytest.fixture(scope="module", name="extension")
def load_extension() -> ModuleType:
    """Load the Sphinx extension without Sphinx."""
    spec = importlib.util.spec_from_file_location(
        "model_tables", DOCS / "_ext/model_tables.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module", name="sections")
def make_sections(extension: ModuleType) -> dict[str, list[list[str]]]:
    """Give the rows of the tables by section, each cell for itself."""
    sections: dict[str, list[list[str]]] = {}
    rows: list[list[str]] = []
    for line in "\n".join(extension.tables()).splitlines():
        if line.startswith("## "):
            rows = sections.setdefault(line[3:], [])
        elif line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return sections


def fields_in(field: models.Field, name: str) -> Iterator[str]:
    """Name a field and all that is inside it."""
    yield name
    if field.items and field.items.type == "object":
        field, name = field.items, f"{name}[]"
    for inner, it in field.properties.items():
        yield from fields_in(it, f"{name}.{inner}")


def test_every_model_has_a_row(sections: dict[str, list[list[str]]]) -> None:
    """In the section of its class, with the length of its videos and of its work."""
    rows = {row[1]: row for rows in sections.values() for row in rows if len(row) == 4}
    assert {f"`{model.id}`" for model in models.list()} <= set(rows)
    assert rows[f"`{MASTER}`"] == [
        "9",
        f"`{MASTER}`",
        "5, 10 s",
        "5.5 min for 5 s, 12.5 min for 10 s",
    ]


def test_every_field_has_a_row(sections: dict[str, list[list[str]]]) -> None:
    """With its limits, and with what is inside it."""
    shown = {
        match[1]
        for rows in sections.values()
        for row in rows
        if (match := re.match("`([^`]+)`", row[0]))
    }
    assert shown == {
        inner
        for model in models.list()
        for name, field in model.fields.items()
        for inner in fields_in(field, name)
    }


def test_a_field_that_differs_has_a_row_for_each_variant(
    sections: dict[str, list[list[str]]],
) -> None:
    """Each with the numbers of its models."""
    rows = [row for row in sections["ImageToVideo"] if row[0] == "`duration`"]
    assert rows == [
        ["`duration`", "5, 10", "`5`", "1 to 13"],
        ["`duration`", "3 to 15", "`5`", "14 to 19"],
    ]
    (scene,) = (row for row in sections["Effects"] if "effect_scene" in row[0])
    assert scene[0] == "`effect_scene`, required"
    assert scene[1].count("`, `") == 79
    assert scene[3] == "all"


def test_the_tables_are_put_where_a_page_asks_for_them(extension: ModuleType) -> None:
    """Once, and in no other page."""
    page = (DOCS / "reference/models.md").read_text("utf-8")
    source, other = [page], ["# Another page"]
    extension._fill(None, "reference/models", source)
    extension._fill(None, "another", other)
    assert page.count(extension.MARK) == 1
    assert extension.MARK not in source[0]
    assert "## Avatar" in source[0]
    assert "exactly one of prompt and multi_prompt (14 to 19)" in source[0]
    assert other == ["# Another page"]

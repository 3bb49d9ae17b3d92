"""A Sphinx extension: the picture of the packages, drawn at each build.

The floors are those that import-linter holds in `pyproject.toml`, the words are the
first lines of the modules, so that the picture cannot be out of date.
"""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MARK = "<!-- the picture of the packages -->"
ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "kling_async"
WIDTH, HEIGHT, GAP, LINE = 960, 78, 10, 15


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx when to call."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _fill(_app: Sphinx, _page: str, source: list[str]) -> None:
    if MARK in source[0]:
        picture = f"```{{raw}} html\n{svg(floors())}\n```"
        source[0] = source[0].replace(MARK, picture)


def floors() -> Sequence[Sequence[str]]:
    """Give the packages of each floor, the top one first."""
    options = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    contracts = cast(
        "list[Mapping[str, object]]", options["tool"]["importlinter"]["contracts"]
    )
    layers = next(it["layers"] for it in contracts if it["type"] == "layers")
    return [[it.strip() for it in row.split("|")] for row in cast("list[str]", layers)]


def idea_of(name: str) -> str:
    """Give the one idea of a package or module: the first line of its docstring."""
    path = PACKAGE / name
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    text = ast.get_docstring(ast.parse(path.read_text("utf-8"))) or ""
    return text.partition("\n")[0].replace("`", "")


def svg(rows: Sequence[Sequence[str]]) -> str:
    """Draw a box for each package, a row for each floor."""
    height = len(rows) * (HEIGHT + GAP)
    lines = [
        (
            f'<svg viewBox="0 0 {WIDTH} {height}" role="img" class="package-map" '
            'aria-label="The packages, floor above floor" font-family="sans-serif">'
        )
    ]
    for number, names in enumerate(rows):
        lines += _row(names, number * (HEIGHT + GAP))
    return "\n".join([*lines, "</svg>"])


def _row(names: Sequence[str], top: int) -> Iterator[str]:
    width = (WIDTH - GAP * (len(names) - 1)) / len(names)
    for column, name in enumerate(names):
        left = column * (width + GAP)
        title = f"{name}/" if (PACKAGE / name).is_dir() else name
        yield (
            f'<rect x="{left:.0f}" y="{top}" width="{width:.0f}" height="{HEIGHT}" '
            'rx="8" fill="none" stroke="currentColor" stroke-opacity=".4"/>'
        )
        yield _text(left + 12, top + 24, title, 'font-weight="bold"')
        for line, words in enumerate(wrap(idea_of(name), int(width / 7))[:3]):
            yield _text(left + 12, top + 44 + line * LINE, words, 'font-size="12"')


def _text(x: float, y: float, words: str, style: str) -> str:
    return f'<text x="{x:.0f}" y="{y:.0f}" fill="currentColor" {style}>{escape(words)}</text>'  # noqa: E501

"""A Sphinx extension: the reference of the command, made from the command itself.

Where a page says ``<!-- the commands -->`` it is put, at each build.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import typer.main

from kling_async.cli._app import app as command

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MARK = "<!-- the commands -->"


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx when to call."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _fill(_app: Sphinx, _page: str, source: list[str]) -> None:
    if MARK in source[0]:
        source[0] = source[0].replace(MARK, "\n".join(sections()))


def sections() -> Iterator[str]:
    """Give a section for each command, with all that it takes."""
    group: Any = typer.main.get_command(command)  # of a library without public types
    yield from _section("kling-async", group, group.params)
    for name, each in sorted(group.commands.items()):
        yield from _section(f"kling-async {name}", each, each.params)
        for sub_name, sub in sorted(getattr(each, "commands", {}).items()):
            yield from _section(f"kling-async {name} {sub_name}", sub, sub.params)


def _section(title: str, each: Any, params: list[Any]) -> Iterator[str]:  # noqa: ANN401
    yield f"\n## `{title}`\n"
    yield _plain(each.help)
    shown = [it for it in params if not getattr(it, "hidden", False)]
    if shown:
        yield "\n| Takes | What for | Default |\n| --- | --- | --- |"
    for it in shown:
        names = ", ".join(f"`{name}`" for name in it.opts + it.secondary_opts)
        if it.param_type_name == "argument":
            names = f"`{it.metavar or it.name.upper()}`"
        is_plain = isinstance(it.default, str | int | float) and it.default is not False
        default = f"`{it.default}`" if is_plain else ""
        yield f"| {names} | {_plain(it.help)} | {default} |"


def _plain(text: str | None) -> str:
    """Give a help text on one line, for a cell of a table."""
    return re.sub(r"\s+", " ", text or "").replace("|", "\\|").replace("<", "&lt;")

"""A Sphinx extension: the tables of models, made from the catalogue at each build.

Where a page says ``<!-- the tables of models -->`` they are put. Nothing that is made
is kept in the repository, so the tables cannot be out of date.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from kling_async import models
from kling_async._requests.kinds import CLASSES

if TYPE_CHECKING:
    from sphinx.application import Sphinx

MARK = "<!-- the tables of models -->"
Row = tuple[str, ...]


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx when to call."""
    app.connect("source-read", _fill)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _fill(_app: Sphinx, _page: str, source: list[str]) -> None:
    if MARK in source[0]:
        source[0] = source[0].replace(MARK, "\n".join(tables()))


def tables() -> Iterator[str]:
    """Give the lines of all tables, in Markdown, a section for each request class."""
    for cls in CLASSES:
        listed = [it for it in models.list() if it.kind in cls.kinds]
        yield f"\n## {cls.__name__}\n"
        models_ = (_model_row(*it) for it in enumerate(listed, start=1))
        yield from _table(("No.", "Model", "Length", "Work"), models_)
        yield from _table(("Field", "Takes", "Default", "Models"), _field_rows(listed))
        yield from _remarks(listed)


def _table(head: Row, rows: Iterable[Row]) -> Iterator[str]:
    yield ""
    for row in (head, ("---",) * len(head), *rows):
        yield f"| {' | '.join(row)} |"


def _model_row(number: int, model: models.Model) -> Row:
    duration = model.fields.get("duration")
    length = f"{_choices(duration)} s" if duration else ""
    work = ", ".join(
        f"{seconds / 60:.1f} min for {video} s"
        for video, seconds in model.durations.items()
    )
    return (str(number), f"`{model.id}`", length, work)


def _field_rows(listed: Sequence[models.Model]) -> Iterator[Row]:
    """Give a row for each field, or several if it differs from model to model."""
    names = dict.fromkeys(name for model in listed for name in model.fields)
    for name in names:
        takers = [model for model in listed if name in model.fields]
        variants: dict[tuple[Row, ...], list[models.Model]] = {}
        for model in takers:
            rows = tuple(_rows(name, model.fields[name], name in model.required))
            variants.setdefault(rows, []).append(model)
        for rows, alike in variants.items():
            (first, *inner) = rows
            yield (*first, _named(alike, listed))
            yield from ((*row, "") for row in inner)


def _rows(name: str, field: models.Field, required: bool) -> Iterator[Row]:
    mark = ", required" if required else ""
    old = (
        ", deprecated" if field.deprecated else ", older schema" if field.legacy else ""
    )
    default = "" if field.default is None else f"`{field.default}`"
    yield (f"`{name}`{mark}{old}", _takes(field), default)
    if field.items and field.items.type == "object":
        name, field = f"{name}[]", field.items
    for inner, it in field.properties.items():
        yield from _rows(f"{name}.{inner}", it, inner in field.required)


def _takes(field: models.Field) -> str:
    if field.max_bytes:
        size = f"{field.max_bytes / 1e6:g} MB"
        return f"{field.allowed}; a local file of up to {size}"
    return _choices(field) if field.choices else field.allowed


def _choices(field: models.Field) -> str:
    first, last = field.choices[0], field.choices[-1]
    if len(field.choices) > 2 and isinstance(first, int):  # noqa: PLR2004 (a range)
        return f"{first} to {last}"
    code = "" if isinstance(first, int) else "`"
    words = ", ".join(f"{code}{choice}{code}" for choice in field.choices)
    return f"{words}, in any case" if field.any_case else words


def _named(alike: Sequence[models.Model], listed: Sequence[models.Model]) -> str:
    """Name models by their numbers in the table, as ranges; or all of them."""
    if len(alike) == len(listed):
        return "all"
    numbers = [listed.index(model) + 1 for model in alike]
    ranges = itertools.groupby(enumerate(numbers), lambda it: it[1] - it[0])
    return ", ".join(_range([number for _, number in run]) for _, run in ranges)


def _range(run: Sequence[int]) -> str:
    short = len(run) < 3  # noqa: PLR2004 (two are no range)
    return ", ".join(map(str, run)) if short else f"{run[0]} to {run[-1]}"


def _remarks(listed: Sequence[models.Model]) -> Iterator[str]:
    """Give the rules between fields, and what cannot be checked."""
    remarks: dict[str, list[models.Model]] = {}
    for model in listed:
        for text in (*(rule.text for rule in model.rules), *model.notes):
            remarks.setdefault(text, []).append(model)
    yield ""
    for text, concerned in remarks.items():
        which = _named(concerned, listed)
        yield f"- {text} ({which})"

"""Texts for people: foreign text made safe, values made short.

Prints nothing, and knows no markup: a page or a table does its own escaping.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

_SHOWN_CHARACTERS = 60

# Spreadsheets read a cell that begins so as a formula, unless it is a number.
_FORMULAS = ("=", "+", "-", "@")

_NUMBER = re.compile(r"[+-]?[0-9][0-9.,]*%?")

# Harmless, though Unicode calls them controls: they join the letters of Persian and
# the parts of an emoji.
_JOINERS = frozenset("\u200c\u200d")


def safe_line(text: object, limit: int | None = None) -> str:
    r"""Make foreign text safe for a terminal, a log or a page: one plain line.

    Text from a server, a manifest or a database goes through here before it is shown.
    Runs of white space become one blank; control characters, escape sequences,
    bidirectional overrides and lone surrogates are spelt out, as in ``\x1b``.

    Args:
        text: The text; of any other value, what ``str`` returns.
        limit: The most characters to keep; None for all.
    """
    line = " ".join(str(text).split())
    if limit is not None and len(line) > limit:
        line = f"{line[: max(limit - 1, 0)]}…"
    return spell_out(line)


def spell_out(text: str) -> str:
    """Do as `safe_line` does, but keep white space, as a path needs."""
    if text.isprintable():
        return text
    return "".join(
        it if it.isprintable() or it in _JOINERS else ascii(it)[1:-1] for it in text
    )


def safe_cell(text: object) -> str:
    """Make foreign text safe for a cell of a table that a spreadsheet may open."""
    cell = safe_line(text)
    is_formula = cell[:1] in _FORMULAS and not _NUMBER.fullmatch(cell)
    return f"'{cell}" if is_formula else cell


def short_repr(value: object, limit: int = _SHOWN_CHARACTERS) -> str:
    """Return a short text that shows which value was given."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, str):
        more = len(value) - limit
        return repr(value) if more <= 0 else f"{value[:limit]!r}… ({more} more)"
    if isinstance(value, Mapping):
        inner = (f"{name!r}: {short_repr(it, limit)}" for name, it in value.items())
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(short_repr(item, limit) for item in value)}]"
    return repr(value)


def pluralize(count: int, noun: str) -> str:
    """Return the count with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def closest_match(name: object, names: Collection[str]) -> str | None:
    """Return the closest of some lower-case names, if one is close."""
    if not isinstance(name, str):
        return None
    import difflib

    return next(iter(difflib.get_close_matches(name.lower(), names, n=1)), None)


def did_you_mean(name: object, names: Collection[str]) -> str | None:
    """Ask for the closest of the names, if one is close."""
    meant = closest_match(name, names)
    return f"Did you mean {meant!r}?" if meant else None

"""Foreign text on its way to a terminal, a log or a page."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given, strategies as st

from kling_async._text import pluralize, safe_line

HARMFUL = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
JOINERS = "\u200c\u200d"


@given(st.text(st.characters(), max_size=200), st.none() | st.integers(1, 50))
def test_no_text_steers_a_terminal_or_begins_a_line(
    text: str, limit: int | None
) -> None:
    """No control character, escape, line end, override or half a character is left."""
    line = safe_line(text, limit)
    assert not [
        it for it in line if it not in JOINERS and unicodedata.category(it) in HARMFUL
    ]
    assert line.encode() or not line


@pytest.mark.parametrize(
    "text, line",
    [
        ("two\nlines\r\n", "two lines"),
        ("\x1b[2J\x1b]0;title\x07", "\\x1b[2J\\x1b]0;title\\x07"),
        ("\u202egnp.exe", "\\u202egnp.exe"),
        ("\x9b31m", "\\x9b31m"),
        ("\ud800", "\\ud800"),
        ("a\u2028next", "a next"),
        ("👩\u200d🎨 Kunst", "👩\u200d🎨 Kunst"),
        (None, "None"),
    ],
    ids=ascii,
)
def test_what_cannot_be_shown_is_spelt_out(text: object, line: str) -> None:
    """What is harmless stays as it is."""
    assert safe_line(text) == line


def test_a_long_text_is_cut_before_it_is_spelt_out() -> None:
    """The limit counts the characters that were given."""
    assert safe_line("abcdef", 4) == "abc…"
    assert safe_line("abcd", 4) == "abcd"


def test_a_count_has_its_noun() -> None:
    """One is singular, none is plural."""
    assert [pluralize(it, "row") for it in (0, 1, 2)] == ["0 rows", "1 row", "2 rows"]

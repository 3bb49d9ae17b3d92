"""What fits a field and what does not, value by value, and how it is said."""

from __future__ import annotations

import base64
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from attrs import evolve

from kling_async._requests.fields import validate_value, with_numbers
from kling_async._text import closest_match, short_repr
from kling_async.models import Field

WHOLE = Field(type="integer")
LENGTH = Field(type="integer", choices=(5, 10), default=5)
SCALE = Field(type="number", minimum=0, maximum=1)
AT_LEAST = Field(type="number", minimum=2)
AT_MOST = Field(type="number", maximum=2)
TEXT = Field(type="string")
WORDS = Field(type="string", blank=False, max_length=5)
RATIO = Field(type="string", choices=("16:9", "9:16"))
PROVIDER = Field(type="string", choices=("auto", "kling"), any_case=True)
YES = Field(type="boolean")
IMAGE = Field(type="media", medium="image")
AUDIO = Field(type="media", medium="audio")
VIDEO = Field(type="media", medium="video")
IMAGES = Field(type="array", items=IMAGE, min_items=1, max_items=2)
FREE = Field(type="array")
ONE_OR_MORE = evolve(IMAGE, or_list=True)
POINT = Field(
    type="object", properties={"x": WHOLE, "y": WHOLE, "note": TEXT}, required=("x",)
)
SHOTS = Field(type="array", items=POINT, nullable=True)

URL = "https://example.com/a.png"
PNG = "data:image/png;base64,iVBORw0KGgo="
LONG_BASE64 = base64.b64encode(bytes(range(256)) * 4).decode()
LONE_SURROGATE = "\ud800"

FITTING: Sequence[tuple[Field, Sequence[object]]] = [
    (WHOLE, [0, -3, 10**20, 5.0, "5", "-5", "0"]),
    (LENGTH, [5, 10, "5", "10", 5.0]),
    (SCALE, [0, 1, 0.5, "0.5", "1", "1.0", -0.0]),
    (AT_LEAST, [2, 1e308]),
    (AT_MOST, [2, -1e308]),
    (TEXT, ["", " ", "a" * 100_000, "日本語", LONE_SURROGATE]),
    (WORDS, ["a", " a ", "12345"]),
    (RATIO, ["16:9"]),
    (PROVIDER, ["auto", "AUTO", "Kling"]),
    (YES, [True, False]),
    (IMAGE, [URL, "HTTP://EXAMPLE.com", "https://e.org/?a=b%20c", PNG]),
    (IMAGE, ["data:image/jpeg;charset=x;base64,AAAA", "DATA:IMAGE/PNG;BASE64,AAAA"]),
    (IMAGE, [f"data:image/png;base64,{LONG_BASE64}", "data:image/png;base64,QQ"]),
    (AUDIO, [URL, "data:audio/mpeg;base64,AAAA"]),
    (VIDEO, [URL, "data:video/mp4;base64,AAAA"]),
    (IMAGES, [[URL], (URL, PNG)]),
    (FREE, [[], [1, None], ()]),
    (ONE_OR_MORE, [URL, [URL], [URL] * 99]),
    (POINT, [{"x": 1}, {"x": "1", "y": 2, "note": ""}, OrderedDict(x=3)]),
    (SHOTS, [None, [], [{"x": 1}]]),
]
UNFITTING: Sequence[tuple[Field, Sequence[object]]] = [
    (
        WHOLE,
        [None, True, 5.5, "5.0", "05", " 5", "5 ", "+5", "", "five", "\u0665", [5]],
    ),
    (WHOLE, [math.inf, -math.inf, math.nan, b"5", 5j, "1" * 17, "1_0"]),
    (LENGTH, [7, "7", 5.5, None, "", True]),
    (SCALE, [-0.01, 1.01, math.nan, math.inf, "nan", "1e0", ".5", "", True, None]),
    (AT_LEAST, [1.99]),
    (AT_MOST, [2.01]),
    (TEXT, [None, 3, b"text", ["text"]]),
    (WORDS, ["", " ", "\n\t", "123456", None]),
    (RATIO, ["16:10", "16x9", 16, "", None]),
    (PROVIDER, ["fall", "", 3]),
    (YES, [None, 0, 1, "true", "True"]),
    (IMAGE, ["https://e.org/a b", " https://e.org", "https:///a", "e.org/a.png"]),
    (IMAGE, ["", "cat.png", "ftp://e.org/a", "file:///a.png", "http://", 3, None]),
    (IMAGE, ["data:,", "data:image/png,AAAA", "data:image/png;base64,", "data:"]),
    (IMAGE, ["data:audio/mp3;base64,AAAA", "data:;base64,AAAA", LONG_BASE64]),
    (IMAGE, ["data:image/png;base64,AAAAA", "data:image/png;base64,A A="]),
    (IMAGE, [f"data:image/png;base64,{'é' * 400}", [URL], {"url": URL}]),
    (IMAGE, [f"data:image/png;base64,{LONG_BASE64[:-4]}!!!!"]),
    (AUDIO, [PNG, "song.mp3"]),
    (VIDEO, [PNG, "film.mp4"]),
    (IMAGES, [[], [URL] * 3, URL, None, {URL}, {"0": URL}, "ab"]),
    (ONE_OR_MORE, [None, 3, "cat.png"]),
    (POINT, [None, [], "x", [["x", 1]]]),
]


def fields(problems: object) -> list[str]:
    """Name where the problems are."""
    return [problem.field for problem in problems]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "rule, value", [(rule, value) for rule, values in FITTING for value in values]
)
def test_what_fits(rule: Field, value: object) -> None:
    """Numbers may be text, as in the vendor's examples; media are addresses."""
    assert fields(validate_value("it", value, rule)) == []


@pytest.mark.parametrize(
    "rule, value", [(rule, value) for rule, values in UNFITTING for value in values]
)
def test_what_does_not_fit(rule: Field, value: object) -> None:
    """One problem, that says what was given and what is allowed."""
    (problem,) = validate_value("it", value, rule)
    assert problem.field == "it"
    assert problem.given
    assert problem.allowed == rule.allowed


@pytest.mark.parametrize("value", [Path("cat.png"), b"\x89PNG", bytearray(b"x")])
def test_local_media_fit_before_they_are_read(value: object) -> None:
    """A path and bytes stand for a data URI, in a request but not on the wire."""
    assert fields(validate_value("it", value, IMAGE, local_media=True)) == []
    assert fields(validate_value("it", [value], IMAGES, local_media=True)) == []
    assert fields(validate_value("it", value, ONE_OR_MORE, local_media=True)) == []
    assert fields(validate_value("it", value, IMAGE)) == ["it"]
    assert fields(validate_value("it", value, TEXT, local_media=True)) == ["it"]


def test_a_local_video_is_no_image() -> None:
    """It is refused with what to do."""
    (problem,) = validate_value("it", Path("film.mp4"), VIDEO, local_media=True)
    assert "uploaded" in str(problem.hint)


NESTED: Sequence[tuple[Field, object, list[str]]] = [
    (IMAGES, [URL, "cat.png"], ["it[1]"]),
    (IMAGES, ["a", "b", "c"], ["it", "it[0]", "it[1]", "it[2]"]),
    (ONE_OR_MORE, [URL, "cat.png"], ["it[1]"]),
    (ONE_OR_MORE, [], ["it"]),
    (POINT, {}, ["it.x"]),
    (POINT, {"x": 1.5, "z": 3, "y": "?"}, ["it.x", "it.z", "it.y"]),
    (POINT, {"x": None}, ["it.x"]),
    (POINT, {"x": 1, 5: 3}, ["it.5"]),
    (SHOTS, [{"x": 1}, 3, {"y": "a"}], ["it[1]", "it[2].x", "it[2].y"]),
    (Field(type="array", items=IMAGES), [[URL], []], ["it[1]"]),
]


def test_a_wrong_number_of_items_is_counted() -> None:
    """The items themselves are not shown."""
    two = evolve(IMAGES, min_items=2)
    for given, told in (([], "0 items"), ([URL], "1 item"), ([URL] * 3, "3 items")):
        (problem,) = validate_value("it", given, two)
        assert problem.given == told


@pytest.mark.parametrize("rule, value, places", NESTED)
def test_every_problem_inside_is_told_with_its_place(
    rule: Field, value: object, places: list[str]
) -> None:
    """However deep, and all of them."""
    assert fields(validate_value("it", value, rule)) == places


HINTS: Sequence[tuple[Field, object, str | None]] = [
    (RATIO, "16:10", "Did you mean '16:9'?"),
    (PROVIDER, "AUTOM", "Did you mean 'auto'?"),
    (RATIO, "wide", None),
    (WORDS, " ", "It is empty."),
    (WORDS, "123456", "It has 6 characters."),
    (IMAGES, URL, "Put it in a list."),
    (IMAGES, Path("cat.png"), "Put it in a list."),
    (IMAGE, "cat.png", "For a local file give pathlib.Path('cat.png')."),
    (IMAGE, "cat", "For a local file give pathlib.Path('cat')."),
    (IMAGE, f"!{LONG_BASE64}", "For a local file give pathlib.Path("),
    (IMAGE, "ftp://e.org/a.png", "The server fetches http and https addresses only."),
    (IMAGE, LONG_BASE64, "Bare base64? Put 'data:image/…;base64,' before it."),
    (IMAGE, "data:image/png,AAAA", "A data URI begins with its media type and"),
    (IMAGE, "data:;base64,AAAA", "Its media type is left out, not image/…."),
    (AUDIO, PNG, "Its media type is image/png, not audio/…."),
    (IMAGE, "data:image/png;base64,A", "What follows ';base64,' is not base64."),
    (VIDEO, "film.mp4", "A local video must be uploaded somewhere first"),
    (WHOLE, "five", None),
]


@pytest.mark.parametrize("rule, value, hint", HINTS)
def test_a_problem_says_what_to_do_where_there_is_more_to_say(
    rule: Field, value: object, hint: str | None
) -> None:
    """The nearest spelling, or what was probably overlooked."""
    (problem,) = validate_value("it", value, rule)
    assert problem.hint is hint or str(problem.hint).startswith(str(hint))


def test_a_misspelt_name_inside_is_told_with_the_nearest() -> None:
    """As at the top level."""
    (problem,) = validate_value("it", {"x": 1, "noet": ""}, POINT)
    assert (problem.allowed, problem.hint) == (
        "only x, y, note",
        "Did you mean 'note'?",
    )


WORDED: Sequence[tuple[Field, str]] = [
    (WHOLE, "a whole number"),
    (Field(type="integer", minimum=-10, maximum=10), "a whole number from -10 to 10"),
    (LENGTH, "5, 10"),
    (SCALE, "a number from 0 to 1"),
    (AT_LEAST, "a number, at least 2"),
    (AT_MOST, "a number, at most 2"),
    (TEXT, "a text"),
    (WORDS, "a text that is not blank, at most 5 characters"),
    (RATIO, "'16:9', '9:16'"),
    (
        Field(type="string", choices=tuple(map(str, range(20)))),
        ", ".join(repr(str(number)) for number in range(16)) + " and 4 others",
    ),
    (Field(type="integer", choices=tuple(range(16))), ", ".join(map(str, range(16)))),
    (YES, "True or False"),
    (VIDEO, "an http(s) address or a base64 data URI of a video"),
    (FREE, "a list, each item anything"),
    (IMAGES, f"a list of 1 to 2 items, each {IMAGE.allowed}"),
    (Field(type="array", max_items=4), "a list of at most 4 items, each anything"),
    (Field(type="array", min_items=1), "a list of at least 1 item, each anything"),
    (ONE_OR_MORE, f"{IMAGE.allowed}, or a list of such"),
    (POINT, "a mapping of x, y, note"),
]


@pytest.mark.parametrize("rule, words", WORDED)
def test_what_is_allowed_is_said_in_words(rule: Field, words: str) -> None:
    """As an error shows it."""
    assert rule.allowed == words


SHOWN: Sequence[tuple[object, str]] = [
    ("cat", "'cat'"),
    ("a" * 60, repr("a" * 60)),
    ("a" * 61, f"'{'a' * 60}'… (1 more)"),
    (b"1234", "<4 bytes>"),
    (bytearray(5), "<5 bytes>"),
    (memoryview(b"123456"), "<6 bytes>"),
    ([b"12", {"x": (1, None)}], "[<2 bytes>, {'x': [1, None]}]"),
    (3.5, "3.5"),
]


@pytest.mark.parametrize("value, text", SHOWN)
def test_a_value_is_shown_in_short(value: object, text: str) -> None:
    """An error about a picture does not contain the picture."""
    assert short_repr(value) == text


def test_a_problem_with_megabytes_is_short() -> None:
    """Whether they are bytes, a data URI, or many items."""
    for value in (b"x" * 10**7, "data:;base64," + "A" * 10**7, [URL] * 10**4):
        for rule in (TEXT if isinstance(value, bytes) else IMAGE, WHOLE):
            (problem,) = validate_value("it", value, rule)
            assert len(str(problem)) < 500
            assert short_repr(value).startswith(problem.given.rstrip("…"))
    (exact,) = validate_value("it", ["x" * 60] * 3 + [0] * 3, WHOLE)
    assert exact.given == short_repr(["x" * 60] * 3 + [0] * 3)[:180] + "…"


NUMBERS: Sequence[tuple[Field, object, object]] = [
    (LENGTH, "5", 5),
    (LENGTH, 5.0, 5),
    (LENGTH, 5, 5),
    (WHOLE, "0", 0),
    (SCALE, "0.5", 0.5),
    (SCALE, 1, 1),
    (SCALE, "junk", "junk"),
    (TEXT, "5", "5"),
    (POINT, {"x": "1", "y": 2.0, "?": "3"}, {"x": 1, "y": 2, "?": "3"}),
    (SHOTS, ({"x": "1", "note": "2"},), [{"x": 1, "note": "2"}]),
    (SHOTS, None, None),
    (IMAGES, [URL, b"5"], [URL, b"5"]),
    (FREE, ["5"], ["5"]),
    (ONE_OR_MORE, [URL], [URL]),
]


@pytest.mark.parametrize("rule, value, expected", NUMBERS)
def test_numbers_given_as_text_become_numbers(
    rule: Field, value: object, expected: object
) -> None:
    """Deep down, too; what is no number, or no text of one, stays as it is."""
    found = with_numbers(value, rule)
    assert found == expected
    assert repr(found) == repr(expected)


def test_the_callers_value_is_left_alone() -> None:
    """A new one is returned."""
    given: Mapping[str, object] = {"x": "1"}
    with_numbers([given], SHOTS)
    assert given == {"x": "1"}


@pytest.mark.parametrize(
    "name, found",
    [
        ("promt", "prompt"),
        ("PROMPT", "prompt"),
        ("picture", None),
        ("", None),
        (3, None),
        (None, None),
    ],
)
def test_the_nearest_name(name: object, found: str | None) -> None:
    """Only what is likely to be meant."""
    assert closest_match(name, ["prompt", "duration"]) == found


def test_a_field_of_any_size_keeps_its_types_alone() -> None:
    """For a newer model, whose limits may be wider."""
    wide = SHOTS.of_any_size()
    assert fields(validate_value("it", [{"y": 1}] * 99, wide)) == []
    assert fields(validate_value("it", [{"y": "?"}, 3], wide)) == ["it[0].y", "it[1]"]
    assert fields(validate_value("it", "", WORDS.of_any_size())) == []
    assert fields(validate_value("it", 7, LENGTH.of_any_size())) == []
    assert fields(validate_value("it", [], ONE_OR_MORE.of_any_size())) == ["it"]

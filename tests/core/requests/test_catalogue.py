"""The catalogue against the facts: every model, field, limit, rule and duration.

`catalogue_facts.txt` was written by hand from the vendor's files, the catalogue is made
from them: a slip in either is a difference here. Models that came later need no facts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatch
from pathlib import Path

import pytest
from attrs import evolve, frozen

from kling_async import Problem
from kling_async._requests.catalogue import MODELS
from kling_async.models import KINDS, Field

FACTS = Path(__file__).with_name("catalogue_facts.txt")
MEGABYTE = 1_000_000
NAMES: Mapping[str, str] = {"string": "text", "integer": "int", "number": "num"}
MASTER = "klingai/v2-master-image-to-video"
V3_TEXT = "klingai/video-v3-pro-text-to-video"
OMNI = "klingai/video-v3-omni-1080p-image-to-video"


@frozen
class Section:
    """A part of the facts: what stands at the margin, each with what belongs to it."""

    title: str
    entries: Mapping[str, Sequence[str]]


def sections() -> Iterator[Section]:
    """Read the facts: an entry begins at the margin, what is indented goes on."""
    for part in FACTS.read_text("utf-8").split("\n== ")[1:]:
        title, _, text = part.strip("\n").partition("\n")
        entries: dict[str, list[str]] = {}
        for entry in text.replace("\n ", " ").splitlines():
            name, *words = entry.split("    ") if title == "rules" else entry.split()
            entries[name.strip()] = " ".join(words).split()
        yield Section(title, entries)


SECTIONS = {section.title: section.entries for section in sections()}
FIELDS = {name: " ".join(words) for name, words in SECTIONS["fields"].items()}
TAKEN = {
    model: (kind, words)
    for kind, entries in SECTIONS.items()
    if kind in KINDS
    for model, words in entries.items()
}


def durations(title: str) -> dict[str, dict[int, int]]:
    """Read ``5=330`` as 330 seconds of work for 5 of video, for each model."""
    (entries,) = (it for name, it in SECTIONS.items() if name.startswith(title))
    return {
        model: {int(length): int(work) for length, _, work in parted}
        for model, words in entries.items()
        for parted in [[word.partition("=") for word in words]]
    }


SAID, SHOWN = durations("how long a page says"), durations("how long a run took")


def told(field: Field) -> str:
    """Write what a field takes as the facts do."""
    words = [_type(field), *_limits(field)]
    if field.nullable:
        words.append("null")
    if field.any_case:
        words.append("any-case")
    if field.legacy:
        words.append("old")
    if field.deprecated:
        words.append("deprecated")
    if field.default is not None:
        words.append(f"= {field.default}".lower())
    return " ".join(words)


def _type(field: Field) -> str:
    if field.or_list:
        one = told(evolve(field, or_list=False))
        return f"{one} or [1.. {one}]"
    if field.type == "object":
        inner = (
            f"{name}{'!' * (name in field.required)} {told(it)}"
            for name, it in field.properties.items()
        )
        return f"{{{', '.join(inner)}}}"
    if field.type == "array":
        assert field.items is not None
        least = "" if field.min_items is None else field.min_items
        most = "" if field.max_items is None else field.max_items
        return f"[{least}..{most} {told(field.items)}]"
    if field.type == "media":
        return str(field.medium)
    if not field.blank:
        return "words"
    return NAMES.get(field.type, "bool")


def _limits(field: Field) -> Iterator[str]:
    if field.max_bytes is not None and not field.or_list:
        assert field.max_bytes % MEGABYTE == 0
        yield f"{field.max_bytes // MEGABYTE}MB"
    if len(field.choices) > 2 and isinstance(field.choices[0], int):
        first, last = field.choices[0], int(field.choices[-1])
        assert field.choices == tuple(range(first, last + 1))
        yield f"{first}-{last}"
    else:
        yield from map(str, field.choices)
    if field.minimum is not None or field.maximum is not None:
        yield f"{field.minimum:g}..{field.maximum:g}"
    if field.max_length is not None:
        yield f"..{field.max_length}"


each_model = pytest.mark.parametrize("model", TAKEN)


def test_every_model_of_the_facts_is_there() -> None:
    """Letter by letter; a model that is newer than the facts is no slip."""
    assert TAKEN.keys() <= set(MODELS)
    assert all(model.id == name for name, model in MODELS.items())


@each_model
def test_a_model_is_of_its_kind(model: str) -> None:
    """Nineteen image-to-video, fifteen text-to-video, and the rest."""
    assert MODELS[model].kind == TAKEN[model][0]


@each_model
def test_a_model_takes_its_fields_within_their_limits(model: str) -> None:
    """Names, types, values, ranges, lengths, counts, defaults: all as in the schema."""
    expected = {
        word.partition(":")[0]: FIELDS[word]
        for word in (word.removesuffix("!") for word in TAKEN[model][1])
    }
    found = {name: told(field) for name, field in MODELS[model].fields.items()}
    assert found == expected


@each_model
def test_a_model_asks_for_what_is_required(model: str) -> None:
    """No more, no less."""
    marked = {w[:-1].partition(":")[0] for w in TAKEN[model][1] if w.endswith("!")}
    assert set(MODELS[model].required) == marked
    assert len(MODELS[model].required) == len(marked)


@each_model
def test_a_model_has_its_rules(model: str) -> None:
    """What holds between fields, in words that an error can show."""
    expected = {
        text
        for text, patterns in SECTIONS["rules"].items()
        if any(fnmatch(model, pattern) for pattern in patterns)
    }
    assert {rule.text for rule in MODELS[model].rules} == expected


@each_model
def test_a_models_work_takes_as_long_as_the_vendor_tells(model: str) -> None:
    """Said on a page, or shown as one run; nothing is invented for the others."""
    found = MODELS[model]
    by = "page" if model in SAID else "run" if model in SHOWN else None
    assert found.durations == SAID.get(model, SHOWN.get(model, {}))
    assert found.durations_by == by
    assert found.price is None


def test_every_fact_is_about_something() -> None:
    """No field, rule or duration of the facts is of no model."""
    used = {word.removesuffix("!") for _, words in TAKEN.values() for word in words}
    assert set(FIELDS) == used
    assert SAID.keys() | SHOWN.keys() <= TAKEN.keys()
    assert not SAID.keys() & SHOWN.keys()
    for patterns in SECTIONS["rules"].values():
        for pattern in patterns:
            assert any(fnmatch(model, pattern) for model in TAKEN)


def test_other_spellings_are_noted() -> None:
    """What two of the values have in common can be looked up."""
    noted = {
        (name.partition(":")[0], words[0], words[2])
        for name, words in SECTIONS["other spellings"].items()
    }
    found = {
        (name, spelling, proper)
        for model in TAKEN
        for name, field in MODELS[model].fields.items()
        for spelling, proper in field.aliases.items()
    }
    assert found == noted


@pytest.mark.parametrize(
    "model, deprecated",
    [
        ("kling-video/v1/pro/text-to-video", {"ratio": "aspect_ratio"}),
        (
            "kling-video/v1/pro/image-to-video",
            {"ratio": None, "aspect_ratio": None},
        ),
        ("kling-video/v1.5/pro/text-to-video", {}),
    ],
)
def test_a_deprecated_field_names_its_heir(
    model: str, deprecated: Mapping[str, str | None]
) -> None:
    """A first image gives its own shape to the video, so there both are of no use."""
    assert MODELS[model].deprecated == deprecated


def test_what_only_older_schemas_name_is_marked() -> None:
    """It is taken, and a reader can tell."""
    model = MODELS["kling-video/v1.6/standard/image-to-video"]
    assert set(model.legacy_fields) == {"tail_image_url", "ratio", "aspect_ratio"}
    assert MODELS[MASTER].legacy_fields == ()


@pytest.mark.parametrize(
    "model, length, expected",
    [
        (MASTER, None, 330),
        (MASTER, 5, 330),
        (MASTER, 10, 750),
        (MASTER, 7, 462),
        (MASTER, 8, 600),
        (V3_TEXT, None, 381 * 5 / 8),
        (V3_TEXT, 15, 381 * 15 / 8),
        ("klingai/avatar-pro", None, 530),
        ("klingai/avatar-pro", 10, 1060),
        ("kling-video/v1/pro/text-to-video", None, 78),
        ("klingai/video-v3-motion-control", 5, None),
    ],
)
def test_how_long_it_takes_for_another_length(
    model: str, length: float | None, expected: float | None
) -> None:
    """In proportion to the nearest length that is documented; none if none is."""
    assert MODELS[model].typical_seconds(length) == expected


def test_what_the_vendor_asks_and_nobody_can_check_is_noted() -> None:
    """The length of a reference video, for one."""
    (note,) = MODELS["klingai/video-v3-motion-control"].notes
    assert "10 s" in note
    assert "30 s" in note


def test_every_field_has_words_for_what_it_takes() -> None:
    """An error that shows them makes sense for each of them."""
    for model in MODELS.values():
        for field in model.fields.values():
            assert field.allowed.startswith(("a", "True", "'", "3", "5"))


def problem_fields(problems: Sequence[Problem]) -> list[str]:
    """Name where the problems are."""
    return [problem.field for problem in problems]


SHOTS = [{"prompt": "one"}, {"prompt": "two", "duration": 15}]
TURBO = "klingai/video-v3-turbo-pro-text-to-video"
IMAGE = "https://example.com/1.png"
VIDEO_ELEMENT = {"reference_image_urls": [IMAGE], "video_url": IMAGE}
EITHER_OR: Sequence[tuple[str, Mapping[str, object], list[str]]] = [
    (V3_TEXT, {"prompt": "a"}, []),
    (V3_TEXT, {"multi_prompt": ["a", "b"]}, []),
    (V3_TEXT, {"prompt": "a", "multi_prompt": ["b"]}, ["multi_prompt"]),
    (V3_TEXT, {}, ["prompt"]),
    (V3_TEXT, {"prompt": 3, "multi_prompt": ["b"]}, ["prompt", "multi_prompt"]),
    (V3_TEXT, {"prompt": " ", "multi_prompt": 3}, ["prompt", "multi_prompt"]),
    (TURBO, {"multi_prompt": SHOTS}, []),
    (TURBO, {"prompt": "a", "multi_prompt": None}, []),
    (TURBO, {"multi_prompt": None}, ["prompt"]),
    (TURBO, {"prompt": "a", "multi_prompt": SHOTS}, ["multi_prompt"]),
    (OMNI, {"image_url": IMAGE, "prompt": "a", "generate_audio": True}, []),
    (
        OMNI,
        {"image_url": IMAGE, "prompt": "a", "tail_image_url": IMAGE},
        ["generate_audio"],
    ),
    (
        OMNI,
        {
            "image_url": IMAGE,
            "prompt": "a",
            "tail_image_url": IMAGE,
            "generate_audio": True,
        },
        ["generate_audio"],
    ),
    (
        OMNI,
        {
            "image_url": IMAGE,
            "prompt": "a",
            "tail_image_url": IMAGE,
            "generate_audio": False,
        },
        [],
    ),
    (OMNI, {"image_url": IMAGE, "prompt": "a", "elements": [VIDEO_ELEMENT]}, []),
    (
        OMNI,
        {"image_url": IMAGE, "prompt": "a", "elements": [VIDEO_ELEMENT] * 2},
        ["elements"],
    ),
    (
        "klingai/video-v3-pro-image-to-video",
        {"image_url": IMAGE, "prompt": "a", "tail_image_url": IMAGE},
        [],
    ),
    (
        "klingai/video-o1-reference-to-video",
        {"prompt": "a", "elements": [VIDEO_ELEMENT]},
        ["elements[0].frontal_image_url", "elements[0].video_url"],
    ),
]


@pytest.mark.parametrize("model, body, fields", EITHER_OR)
def test_the_rules_between_fields(
    model: str, body: Mapping[str, object], fields: list[str]
) -> None:
    """Each is told at the field that a user would change, once."""
    assert problem_fields(MODELS.problems_in(model, body)) == fields


def test_a_field_of_other_models_is_named_with_them() -> None:
    """Those of the same kind, the newest, come to mind first."""
    image = {"image_url": IMAGE}
    (wrong,) = MODELS.problems_in(MASTER, {**image, "tail_image_url": IMAGE})
    takers = [it.id for it in MODELS.values() if "tail_image_url" in it.fields]
    newest = [it for it in takers if not MODELS[it].fields["tail_image_url"].legacy]
    assert wrong.hint == (
        f"'tail_image_url' is taken by {len(takers)} other models, such as "
        f"{', '.join(newest[-2:])}."
    )
    (rare,) = MODELS.problems_in(MASTER, {**image, "last_image_url": IMAGE})
    assert rare.hint == "'last_image_url' is taken by klingai/video-o1-image-to-video."
    (unknown,) = MODELS.problems_in(MASTER, {**image, "colour": "red"})
    assert unknown.hint is None
    (slip,) = MODELS.problems_in(MASTER, {**image, "duratoin": 5})
    assert slip.hint == "Did you mean 'duration'?"


def test_models_of_the_same_kind_come_to_mind_first() -> None:
    """Even if others are more, or newer, or an older schema alone names the field."""
    old = "kling-video/v1/pro/image-to-video"
    (wrong,) = MODELS.problems_in(old, {"image_url": IMAGE, "provider": "auto"})
    assert str(wrong.hint).endswith(
        "klingai/video-v3-omni-720p-image-to-video, "
        "klingai/video-v3-omni-1080p-image-to-video."
    )
    (shape,) = MODELS.problems_in(MASTER, {"image_url": IMAGE, "aspect_ratio": "16:9"})
    assert str(shape.hint).endswith(
        "kling-video/v1.6/standard/image-to-video, kling-video/v1.6/pro/image-to-video."
    )


def test_a_broken_rule_says_what_was_given_and_what_is_allowed() -> None:
    """In words, for no one field is wrong in itself."""
    body = {"image_url": IMAGE, "prompt": "a", "tail_image_url": IMAGE}
    (silent,) = MODELS.problems_in(OMNI, body)
    (loud,) = MODELS.problems_in(OMNI, {**body, "generate_audio": True})
    (many,) = MODELS.problems_in(
        OMNI, {"image_url": IMAGE, "prompt": "a", "elements": [VIDEO_ELEMENT] * 3}
    )
    (both,) = MODELS.problems_in(V3_TEXT, {"prompt": "a", "multi_prompt": ["a"]})
    (neither,) = MODELS.problems_in(V3_TEXT, {})
    allowed = "False, since tail_image_url is given"
    assert (silent.given, silent.allowed) == ("nothing, which means True", allowed)
    assert (loud.given, loud.allowed) == ("True", allowed)
    assert (many.given, many.allowed) == (
        "3 of them",
        "at most one element with a video_url",
    )
    assert both.given == "both prompt and multi_prompt"
    assert neither.given == "neither prompt nor multi_prompt"
    assert both.allowed == neither.allowed == "exactly one of prompt and multi_prompt"


def test_the_nearest_spelling_is_one_that_was_not_given() -> None:
    """The vendor's own example names the last frame wrongly; who does is helped."""
    body = {"image_url": IMAGE, "prompt": "a", "last_image_url": IMAGE}
    (wrong,) = MODELS.problems_in("klingai/video-v3-pro-image-to-video", body)
    assert wrong.hint == (
        "Did you mean 'tail_image_url'? "
        "'last_image_url' is taken by klingai/video-o1-image-to-video."
    )
    (twice,) = MODELS.problems_in(
        OMNI, {**body, "tail_image_url": IMAGE, "generate_audio": False}
    )
    assert str(twice.hint).startswith("'last_image_url' is taken by")


def test_a_model_that_is_unknown_has_no_problems() -> None:
    """Nothing is known of it; what is known of a field's type still holds."""
    assert MODELS.problems_in("klingai/v9", {"prompt": 3}) == []
    assert problem_fields(MODELS.problems_in_types({"prompt": 3, "duration": 7})) == [
        "prompt"
    ]
    wider: Mapping[str, object] = {
        "duration": 60,
        "aspect_ratio": "21:9",
        "cfg_scale": 3,
        "multi_prompt": [{"prompt": "a", "duration": 40}] * 20,
        "image_url": [IMAGE],
        "camera_control": "spin",
        "brand_new": object(),
    }
    assert MODELS.problems_in_types(wider) == []

"""Whether one value fits its field: everything that is wrong with it.

Knows no model and opens no file.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from attrs import evolve, field, frozen

from kling_async._checks import is_bucket_url
from kling_async._errors import Problem
from kling_async._text import did_you_mean, pluralize, short_repr

FieldType = Literal[
    "string", "integer", "number", "boolean", "media", "array", "object"
]

Medium = Literal["image", "audio", "video"]

_SHOWN_CHOICES = 16


@frozen(kw_only=True)
class Field:
    """Which values one field of a model takes.

    Attributes:
        type: Its type. ``media`` is sent as a text: a web address or a
            base64 data URI.
        choices: The only values allowed, if they are listed.
        aliases: Choices that are another spelling of one: spelling to choice.
        any_case: Whether upper and lower case are the same.
        minimum: The smallest number allowed.
        maximum: The largest number allowed.
        max_length: The most characters allowed.
        blank: Whether a text of spaces, or of nothing, is allowed.
        min_items: The fewest items allowed.
        max_items: The most items allowed.
        items: The field of each item of an array.
        properties: The fields of an object.
        required: The properties that must be given.
        medium: What a ``media`` field carries.
        max_bytes: The most bytes that a local file for it may have.
        or_list: Whether a list of such values is also allowed.
        default: What the server uses if the field is left out.
        nullable: Whether JSON's null is allowed.
        legacy: Whether only the vendor's older schema names it.
        deprecated: Whether the vendor advises against it.
    """

    type: FieldType
    choices: tuple[int | str, ...] = ()
    aliases: Mapping[str, str] = field(factory=dict[str, str])
    any_case: bool = False
    minimum: float | None = None
    maximum: float | None = None
    max_length: int | None = None
    blank: bool = True
    min_items: int | None = None
    max_items: int | None = None
    items: Field | None = None
    properties: Mapping[str, Field] = field(factory=dict[str, "Field"])
    required: tuple[str, ...] = ()
    medium: Medium | None = None
    max_bytes: int | None = None
    or_list: bool = False
    default: int | str | bool | None = None
    nullable: bool = False
    legacy: bool = False
    deprecated: bool = False

    @property
    def allowed(self) -> str:
        """What is allowed, in words."""
        words = _choices_in_words(self.choices) or _TYPE_IN_WORDS[self.type](self)
        return f"{words}, or a list of such" if self.or_list else words

    def of_any_size(self) -> Field:
        """Return this field without the limits that a newer model may widen."""
        items = self.items and self.items.of_any_size()
        properties = {name: it.of_any_size() for name, it in self.properties.items()}
        return Field(
            type=self.type,
            items=items,
            properties=properties,
            medium=self.medium,
            or_list=self.or_list,
            nullable=self.nullable,
        )


def _choices_in_words(choices: Sequence[int | str]) -> str:
    words = ", ".join(map(repr, choices[:_SHOWN_CHOICES]))
    more = len(choices) - _SHOWN_CHOICES
    return words and f"{words} and {more} others" if more > 0 else words


def _range_in_words(noun: str, low: float | None, high: float | None) -> str:
    match low, high:
        case None, None:
            return noun
        case None, _:
            return f"{noun}, at most {high:g}"
        case _, None:
            return f"{noun}, at least {low:g}"
        case _:
            return f"{noun} from {low:g} to {high:g}"


def _text_in_words(rule: Field) -> str:
    text = "a text" if rule.blank else "a text that is not blank"
    return f"{text}, at most {rule.max_length} characters" if rule.max_length else text


def _list_in_words(rule: Field) -> str:
    each = rule.items.allowed if rule.items else "anything"
    if rule.min_items is None and rule.max_items is None:
        return f"a list, each item {each}"
    count = _range_in_words("", rule.min_items, rule.max_items).strip(", ")
    items = "item" if (rule.max_items or rule.min_items) == 1 else "items"
    return f"a list of {count.removeprefix('from ')} {items}, each {each}"


_MEDIUM_IN_WORDS: Mapping[Medium, str] = {
    "image": "an http(s) address or a base64 data URI of an image",
    "audio": "an http(s) address or a base64 data URI of an audio file",
    "video": "an http(s) address or a base64 data URI of a video",
}

_TYPE_IN_WORDS: Mapping[FieldType, Callable[[Field], str]] = {
    "string": _text_in_words,
    "integer": lambda it: _range_in_words("a whole number", it.minimum, it.maximum),
    "number": lambda it: _range_in_words("a number", it.minimum, it.maximum),
    "boolean": lambda _: "True or False",
    "media": lambda it: _MEDIUM_IN_WORDS[it.medium or "image"],
    "array": _list_in_words,
    "object": lambda it: f"a mapping of {', '.join(it.properties)}",
}

_GIVEN_CHARACTERS = 180

_INTEGER_TEXT = re.compile(r"-?(0|[1-9][0-9]{0,15})")

_NUMBER_TEXT = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,16})?")

_WEB_ADDRESS = re.compile(r"https?://[^\s/?#]+\S*", re.IGNORECASE)

_DATA_HEAD = re.compile(r"data:([^;,\s]*)((?:;[^;,\s]+)*),", re.IGNORECASE)

_BASE64 = re.compile(r"[A-Za-z0-9+/]+")

_BASE64_END = re.compile(r"[A-Za-z0-9+/]*={0,2}")

_PROBED = 256

_LOCAL_VIDEO = "A local video must be uploaded somewhere first, or be encoded."


def validate_value(
    where: str, value: object, rule: Field, *, local_media: bool = False
) -> Iterator[Problem]:
    """Yield everything that is wrong with one value.

    Args:
        where: The value's place in the body, such as ``elements[0].video_url``.
        value: What was given.
        rule: The field.
        local_media: Whether paths and bytes are allowed for media.
    """
    if value is None and rule.nullable:
        return
    if rule.or_list and isinstance(value, (list, tuple)):
        one = evolve(rule, or_list=False)
        rule = Field(type="array", items=one, min_items=1)
    match rule.type:
        case "array":
            yield from _problems_of_array(where, value, rule, local_media=local_media)
        case "object":
            yield from _problems_of_object(where, value, rule, local_media=local_media)
        case "media":
            yield from _problems_of_media(where, value, rule, local_media=local_media)
        case "string":
            yield from _problems_of_text(where, value, rule)
        case "integer" | "number":
            yield from _problems_of_number(where, value, rule)
        case "boolean":
            if not isinstance(value, bool):
                yield _problem(where, value, rule)


def is_local(value: object) -> bool:
    """Whether a value is a file of this machine: its path, or its bytes."""
    return isinstance(value, (bytes, bytearray, memoryview, os.PathLike))


def with_numbers(value: object, rule: Field) -> object:
    """Return a value that fits its field, with texts such as ``"5"`` as numbers.

    The vendor's schemas ask for numbers, its examples send ``"5"``: a number is
    right for both.
    """
    match rule.type:
        case "integer" | "number":
            whole = rule.type == "integer"
            number = _as_number(value, whole=whole)
            return value if number is None else int(number) if whole else number
        case "array" if rule.items and isinstance(value, (list, tuple)):
            return [with_numbers(item, rule.items) for item in value]
        case "object" if isinstance(value, Mapping):
            known = rule.properties
            return {
                name: with_numbers(inner, known[name]) if name in known else inner
                for name, inner in value.items()
            }
        case _:
            return value


def _problem(
    where: str, value: object, rule: Field, hint: str | None = None
) -> Problem:
    given = short_repr(value)
    if len(given) > _GIVEN_CHARACTERS:
        given = f"{given[:_GIVEN_CHARACTERS]}…"
    return Problem(where, given, rule.allowed, hint)


def _problems_of_text(where: str, value: object, rule: Field) -> Iterator[Problem]:
    if not isinstance(value, str):
        yield _problem(where, value, rule)
    elif rule.choices:
        spelling = value.lower() if rule.any_case else value
        if spelling not in rule.choices:
            words = [choice for choice in rule.choices if isinstance(choice, str)]
            yield _problem(where, value, rule, did_you_mean(spelling, words))
    elif not rule.blank and not value.strip():
        yield _problem(where, value, rule, "It is empty.")
    elif rule.max_length is not None and len(value) > rule.max_length:
        yield _problem(where, value, rule, f"It has {len(value)} characters.")


def _problems_of_number(where: str, value: object, rule: Field) -> Iterator[Problem]:
    number = _as_number(value, whole=rule.type == "integer")
    low = -math.inf if rule.minimum is None else rule.minimum
    high = math.inf if rule.maximum is None else rule.maximum
    is_choice = not rule.choices or number in rule.choices
    if number is None or not is_choice or not low <= number <= high:
        yield _problem(where, value, rule)


def _as_number(value: object, *, whole: bool) -> float | None:
    """Return the number that the server would read; it reads text too."""
    if isinstance(value, str):
        pattern = _INTEGER_TEXT if whole else _NUMBER_TEXT
        return float(value) if pattern.fullmatch(value) else None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if not whole or value == int(value) else None


def _problems_of_array(
    where: str, value: object, rule: Field, *, local_media: bool
) -> Iterator[Problem]:
    if not isinstance(value, (list, tuple)):
        hint = "Put it in a list." if isinstance(value, (str, os.PathLike)) else None
        yield _problem(where, value, rule, hint)
        return
    items: Sequence[object] = value
    least, most = rule.min_items or 0, rule.max_items or math.inf
    if not least <= len(items) <= most:
        yield Problem(where, pluralize(len(items), "item"), rule.allowed)
    if rule.items is None:
        return
    for index, item in enumerate(items):
        place = f"{where}[{index}]"
        yield from validate_value(place, item, rule.items, local_media=local_media)


def _problems_of_object(
    where: str, value: object, rule: Field, *, local_media: bool
) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        yield _problem(where, value, rule)
        return
    for name in rule.required:
        if name not in value:
            yield missing(f"{where}.{name}", rule.properties[name].allowed)
    for name, inner in value.items():
        place = f"{where}.{name}"
        known = rule.properties.get(name)
        if known is None:
            names = ", ".join(rule.properties)
            hint = did_you_mean(name, rule.properties)
            yield Problem(place, short_repr(inner), f"only {names}", hint)
        else:
            yield from validate_value(place, inner, known, local_media=local_media)


def missing(where: str, allowed: str) -> Problem:
    """Return the problem that a required field is not given."""
    return Problem(where, "nothing", allowed, "It is required.")


def _problems_of_media(
    where: str, value: object, rule: Field, *, local_media: bool
) -> Iterator[Problem]:
    if is_local(value):
        if rule.medium == "video":
            yield _problem(where, value, rule, _LOCAL_VIDEO)
        elif not local_media:
            yield _problem(where, value, rule)
    elif not isinstance(value, str):
        yield _problem(where, value, rule)
    elif local_media and is_bucket_url(value):
        pass  # signed or read before it is sent
    elif value[:5].lower() == "data:":
        wrong = _wrong_with_data_uri(value, rule.medium or "image")
        if wrong:
            yield _problem(where, value, rule, wrong)
    elif not _WEB_ADDRESS.fullmatch(value):
        yield _problem(where, value, rule, _what_to_give_instead(value, rule))


def _wrong_with_data_uri(uri: str, medium: Medium) -> str | None:
    """Return what is wrong, without decoding megabytes on the event loop."""
    head = _DATA_HEAD.match(uri)
    if head is None or not head[2].lower().endswith(";base64"):
        return "A data URI begins with its media type and ';base64,'."
    if not head[1].lower().startswith(f"{medium}/"):
        return f"Its media type is {head[1] or 'left out'}, not {medium}/…."
    size = len(uri) - head.end()
    first, last = uri[head.end() :][:_PROBED], uri[max(head.end(), size) :][-_PROBED:]
    padded = uri.endswith("=")
    if (
        not size
        or (size % 4 == 1 or (padded and size % 4))
        or (size > _PROBED and not _BASE64.fullmatch(first))
        or not _BASE64_END.fullmatch(last)
    ):
        return "What follows ';base64,' is not base64."
    return None


def _what_to_give_instead(value: str, rule: Field) -> str:
    if "://" in value:
        return "The server fetches http and https addresses only."
    if len(value) > _PROBED and _BASE64.fullmatch(value[:_PROBED]):
        return f"Bare base64? Put 'data:{rule.medium}/…;base64,' before it."
    if rule.medium == "video":
        return _LOCAL_VIDEO
    return f"For a local file give pathlib.Path({short_repr(value)})."

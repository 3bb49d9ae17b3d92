"""What one field of a model takes, and how that is said to a reader.

Knows no model; whether a value fits is decided in `_checking`.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Literal

from attrs import field, frozen

FieldType = Literal[
    "string", "integer", "number", "boolean", "media", "array", "object"
]
Medium = Literal["image", "audio", "video"]

_SHOWN_CHARACTERS = 60
_SHOWN_CHOICES = 16


@frozen(kw_only=True)
class Field:
    """What one field of a model takes.

    Attributes:
        type: Its type. ``media`` is a text on the wire: a web address or a
            base64 data URI.
        choices: The only values allowed, where they are listed.
        aliases: Those of the choices that are another spelling of one.
        any_case: Whether upper and lower case are the same.
        minimum: The least number allowed.
        maximum: The greatest number allowed.
        max_length: The most characters allowed.
        blank: Whether a text of spaces, or of nothing, is allowed.
        min_items: The fewest items allowed.
        max_items: The most items allowed.
        items: What each item of an array takes.
        properties: What an object holds.
        required: Those of the properties that must be there.
        medium: What a ``media`` field carries.
        max_bytes: The most bytes that a local file may have there.
        or_list: Whether a list of such values is taken in place of one.
        default: What the server takes where the field is left out.
        nullable: Whether JSON's null is allowed.
        legacy: Whether only the older of the vendor's schemas names it.
        deprecated: Whether the vendor says not to use it any more.
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
        """Return this field without what a newer model may widen."""
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


def shown(value: object, limit: int = _SHOWN_CHARACTERS) -> str:
    """Return a short text that tells a reader which value was given."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return f"<{len(value)} bytes>"
    if isinstance(value, str):
        more = len(value) - limit
        return repr(value) if more <= 0 else f"{value[:limit]!r}… ({more} more)"
    if isinstance(value, Mapping):
        inner = (f"{name!r}: {shown(it, limit)}" for name, it in value.items())
        return f"{{{', '.join(inner)}}}"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(shown(item, limit) for item in value)}]"
    return repr(value)


def nearest(name: object, names: Collection[str]) -> str | None:
    """Return the one of the names, all of them in lower case, that was meant."""
    if not isinstance(name, str):
        return None
    return next(iter(difflib.get_close_matches(name.lower(), names, n=1)), None)


def did_you_mean(name: object, names: Collection[str]) -> str | None:
    """Return the nearest of the names as a question, if one is near."""
    meant = nearest(name, names)
    return f"Did you mean {meant!r}?" if meant else None


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


def counted(count: int, noun: str) -> str:
    """Return the count with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


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

"""Whether one value fits its field: everything that is wrong with it.

Knows no model and opens no file; what a field takes is said in `_fields`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence

from attrs import evolve

from kling_async._errors import Problem
from kling_async._fields import Field, Medium, counted, did_you_mean, shown

_GIVEN_CHARACTERS = 180
_INTEGER_TEXT = re.compile(r"-?(0|[1-9][0-9]{0,15})")
_NUMBER_TEXT = re.compile(r"-?[0-9]{1,16}(\.[0-9]{1,16})?")
_WEB_ADDRESS = re.compile(r"https?://[^\s/?#]+\S*", re.IGNORECASE)
_DATA_HEAD = re.compile(r"data:([^;,\s]*)((?:;[^;,\s]+)*),", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/]+")
_BASE64_END = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_PROBED = 256
_LOCAL_VIDEO = "A local video must be uploaded somewhere first, or be encoded."


def problems_with(
    where: str, value: object, rule: Field, *, local_media: bool = False
) -> Iterator[Problem]:
    """Yield everything that is wrong with one value.

    Args:
        where: The value's place in the body, such as ``elements[0].video_url``.
        value: What was given.
        rule: What its field takes.
        local_media: Whether paths and bytes may stand where media is taken.
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
                yield _refused(where, value, rule)


def with_numbers(value: object, rule: Field) -> object:
    """Return a value that fits its field, with numbers where text says them.

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


def _refused(
    where: str, value: object, rule: Field, hint: str | None = None
) -> Problem:
    given = shown(value)
    if len(given) > _GIVEN_CHARACTERS:
        given = f"{given[:_GIVEN_CHARACTERS]}…"
    return Problem(where, given, rule.allowed, hint)


def _problems_of_text(where: str, value: object, rule: Field) -> Iterator[Problem]:
    if not isinstance(value, str):
        yield _refused(where, value, rule)
    elif rule.choices:
        spelling = value.lower() if rule.any_case else value
        if spelling not in rule.choices:
            words = [choice for choice in rule.choices if isinstance(choice, str)]
            yield _refused(where, value, rule, did_you_mean(spelling, words))
    elif not rule.blank and not value.strip():
        yield _refused(where, value, rule, "It is empty.")
    elif rule.max_length is not None and len(value) > rule.max_length:
        yield _refused(where, value, rule, f"It has {len(value)} characters.")


def _problems_of_number(where: str, value: object, rule: Field) -> Iterator[Problem]:
    number = _as_number(value, whole=rule.type == "integer")
    low = -math.inf if rule.minimum is None else rule.minimum
    high = math.inf if rule.maximum is None else rule.maximum
    is_choice = not rule.choices or number in rule.choices
    if number is None or not is_choice or not low <= number <= high:
        yield _refused(where, value, rule)


def _as_number(value: object, *, whole: bool) -> float | None:
    """Return the number that the server reads there; it reads text too."""
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
        yield _refused(where, value, rule, hint)
        return
    items: Sequence[object] = value
    least, most = rule.min_items or 0, rule.max_items or math.inf
    if not least <= len(items) <= most:
        yield Problem(where, counted(len(items), "item"), rule.allowed)
    if rule.items is None:
        return
    for index, item in enumerate(items):
        place = f"{where}[{index}]"
        yield from problems_with(place, item, rule.items, local_media=local_media)


def _problems_of_object(
    where: str, value: object, rule: Field, *, local_media: bool
) -> Iterator[Problem]:
    if not isinstance(value, Mapping):
        yield _refused(where, value, rule)
        return
    for name in rule.required:
        if name not in value:
            allowed = rule.properties[name].allowed
            yield Problem(f"{where}.{name}", "nothing", allowed, "It is required.")
    for name, inner in value.items():
        place = f"{where}.{name}"
        known = rule.properties.get(name)
        if known is None:
            names = ", ".join(rule.properties)
            hint = did_you_mean(name, rule.properties)
            yield Problem(place, shown(inner), f"only {names}", hint)
        else:
            yield from problems_with(place, inner, known, local_media=local_media)


def _problems_of_media(
    where: str, value: object, rule: Field, *, local_media: bool
) -> Iterator[Problem]:
    if isinstance(value, (os.PathLike, bytes, bytearray, memoryview)):
        if rule.medium == "video":
            yield _refused(where, value, rule, _LOCAL_VIDEO)
        elif not local_media:
            yield _refused(where, value, rule)
    elif not isinstance(value, str):
        yield _refused(where, value, rule)
    elif value[:5].lower() == "data:":
        wrong = _wrong_with_data_uri(value, rule.medium or "image")
        if wrong:
            yield _refused(where, value, rule, wrong)
    elif not _WEB_ADDRESS.fullmatch(value):
        yield _refused(where, value, rule, _what_to_give_instead(value, rule))


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
    return f"For a local file give pathlib.Path({shown(value)})."

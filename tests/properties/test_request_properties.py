"""Random requests for every model: what fits arrives, what does not is refused twice.

What fits goes through the real client to the emulator, in process. What does not is
refused by the client before it is sent, and by the emulator when it comes all the same,
for the same fields.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Callable, Mapping

import httpx
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from kling_async import AsyncKling, InvalidRequestError, models
from kling_async._requests.classes import build_request
from kling_async.emulator import Emulator
from kling_async.models import Field, Model

Body = dict[str, object]
Values = st.SearchStrategy[object]

PATH = "/v2/video/generations"
URL = "https://example.com/media"
ITEMS = 3  # as many more than the fewest, so that 77 points are not drawn each time
FEW = settings(
    max_examples=4, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)

each_model = pytest.mark.parametrize("model", models.list(), ids=lambda it: it.id)


def png(side: int = 300) -> bytes:
    """Make a grey picture that is just large enough."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data)
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * (side + 1)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        [chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    )


PICTURE, SOUND = png(), b"ID3\x04\x00\x00\x00\x00\x00\x00"
MEDIA: Mapping[str | None, Values] = {
    "image": st.sampled_from(
        [URL, "data:image/png;base64," + base64.b64encode(PICTURE).decode()]
    ),
    "audio": st.sampled_from([URL, "data:audio/mpeg;base64,SUQz"]),
    "video": st.sampled_from([URL, "data:video/mp4;base64,AAAA"]),
}
LOCAL: Mapping[str | None, Values] = {
    "image": st.just(PICTURE),
    "audio": st.just(SOUND),
    "video": st.nothing(),
}


# What fits


def fitting(field: Field, *, local: bool = False) -> Values:
    """Draw values that fit a field, as JSON or, for the client, as local media."""
    if field.or_list:
        one = fitting(_single(field), local=local)
        return one | st.lists(one, min_size=1, max_size=ITEMS)
    values = _fitting(field, local=local)
    return values | st.none() if field.nullable else values


def _single(field: Field) -> Field:
    return Field(type=field.type, medium=field.medium, max_bytes=field.max_bytes)


def _fitting(field: Field, *, local: bool) -> Values:
    match field.type:
        case "media":
            media = MEDIA[field.medium]
            return media | LOCAL[field.medium] if local else media
        case "array":
            assert field.items is not None
            least = field.min_items or 0
            most = min(field.max_items or 99, least + ITEMS)
            inner = fitting(field.items, local=local)
            return st.lists(inner, min_size=least, max_size=most).map(list)
        case "object":
            return _objects(field, local=local).map(dict)
        case _:
            return _choices(field) if field.choices else _scalars(field)


def _objects(field: Field, *, local: bool = False) -> st.SearchStrategy[Body]:
    drawn = {name: fitting(it, local=local) for name, it in field.properties.items()}
    required = {name: drawn.pop(name) for name in field.required}
    return st.fixed_dictionaries(required, optional=drawn)


def _choices(field: Field) -> Values:
    texts = st.sampled_from([str(it) for it in field.choices])
    if field.any_case:
        return texts | texts.map(str.upper)
    return texts | st.sampled_from(field.choices)


def _scalars(field: Field) -> Values:
    low = -(10**6) if field.minimum is None else field.minimum
    high = 10**6 if field.maximum is None else field.maximum
    match field.type:
        case "boolean":
            return st.booleans()
        case "integer":
            numbers = st.integers(int(low), int(high))
            return numbers | numbers.map(str)
        case "number":
            return st.floats(low, high)
        case _:
            return _texts(field)


def _texts(field: Field) -> Values:
    """Draw short texts, and the longest that is allowed."""
    texts = st.text(min_size=0 if field.blank else 1, max_size=20)
    words = texts if field.blank else texts.filter(str.strip)
    return words | st.just("x" * (field.max_length or 5000))


@st.composite
def bodies(draw: st.DrawFn, model: Model, *, local: bool = False) -> Body:
    """Draw a body that fits a model: what is required, and some of the rest."""
    drawn = {name: fitting(it, local=local) for name, it in model.fields.items()}
    required = {name: drawn.pop(name) for name in model.required}
    body: Body = draw(st.fixed_dictionaries(required, optional=drawn))
    for rule in model.rules:
        SETTLED[rule.text](draw, model, body)
    return {"model": model.id, **body}


def _settle_prompt(draw: st.DrawFn, model: Model, body: Body) -> None:
    kept = draw(st.sampled_from(["prompt", "multi_prompt"]))
    for name in ("prompt", "multi_prompt"):
        body.pop(name, None)
    body[kept] = draw(fitting(model.fields[kept]).filter(lambda it: it is not None))


def _settle_sound(draw: st.DrawFn, model: Model, body: Body) -> None:
    del draw, model
    if "tail_image_url" in body:
        body["generate_audio"] = False


def _settle_elements(draw: st.DrawFn, model: Model, body: Body) -> None:
    del draw, model
    elements = body.get("elements", [])
    assert isinstance(elements, list)
    for element in elements[1:]:
        element.pop("video_url", None)


SETTLED: Mapping[str, Callable[[st.DrawFn, Model, Body], None]] = {
    "exactly one of prompt and multi_prompt": _settle_prompt,
    "tail_image_url only with generate_audio false": _settle_sound,
    "at most one of the elements with a video_url": _settle_elements,
}


# What does not fit


def unfitting(field: Field) -> Values:
    """Draw JSON values that do not fit a field: of another type, or out of bounds."""
    if field.or_list:
        one = unfitting(_single(field)).filter(lambda it: not isinstance(it, list))
        return one | st.just([]) | st.lists(one, min_size=1, max_size=2)
    others = st.sampled_from(OTHER_TYPES[field.type])
    return others | OUT_OF_BOUNDS[field.type](field)


def _no_text(field: Field) -> Values:
    if field.choices:
        return st.text(max_size=9).filter(lambda it: it.lower() not in field.choices)
    texts: list[str] = [] if field.blank else ["", " \n"]
    if field.max_length:
        texts.append("x" * (field.max_length + 1))
    return st.sampled_from(texts) if texts else st.nothing()


def _no_media(field: Field) -> Values:
    del field
    wrong = ["", "cat.png", "ftp://e.org/a", "data:text/plain;base64,AAAA"]
    return st.sampled_from([*wrong, "data:image/png;base64,A"])


def _no_number(field: Field) -> Values:
    wrong: Values = st.nothing()
    if field.choices:
        wrong |= st.integers(-9, 99).filter(lambda it: it not in field.choices)
    if field.minimum is not None:
        wrong |= st.floats(max_value=field.minimum - 0.01, allow_infinity=False)
    if field.maximum is not None:
        wrong |= st.floats(min_value=field.maximum + 0.01, allow_infinity=False)
    return wrong | st.just(5.5) if field.type == "integer" else wrong


def _no_list(field: Field) -> Values:
    assert field.items is not None
    one, wrong = fitting(field.items), unfitting(field.items)
    found = st.tuples(st.lists(one, max_size=1), wrong).map(lambda it: [*it[0], it[1]])
    if field.max_items is not None:
        many = field.max_items + 1
        found |= st.lists(one, min_size=many, max_size=many)
    return found | st.just([]) if field.min_items else found


def _no_object(field: Field) -> Values:
    whole = _objects(field)
    wrong: Values = whole.map(lambda it: {**it, "colour": "red"})
    for name, inner in field.properties.items():
        wrong |= st.tuples(whole, st.just(name), unfitting(inner)).map(_with)
    for name in field.required:
        wrong |= st.tuples(whole, st.just(name)).map(_without)
    return wrong


def _with(drawn: tuple[Body, str, object]) -> Body:
    body, name, value = drawn
    return {**body, name: value}


def _without(drawn: tuple[Body, str]) -> Body:
    body, name = drawn
    return {other: value for other, value in body.items() if other != name}


OTHER_TYPES: Mapping[str, list[object]] = {
    "string": [3, 0.5, True, [], {}, ["a"]],
    "integer": ["", "five", " 5", "0x5", True, [], {}],
    "number": ["", "half", " 0.5", "1e0", True, [], {}],
    "boolean": [0, 1, "true", "", []],
    "media": [3, True, [], {}],
    "array": ["", 3, {}, True],
    "object": ["", 3, [], True],
}
OUT_OF_BOUNDS: Mapping[str, Callable[[Field], Values]] = {
    "string": _no_text,
    "integer": _no_number,
    "number": _no_number,
    "boolean": lambda _: st.nothing(),
    "media": _no_media,
    "array": _no_list,
    "object": _no_object,
}


@st.composite
def wrong_bodies(draw: st.DrawFn, model: Model) -> tuple[Body, str]:
    """Draw a body with one thing wrong, and the field that this thing is about."""
    body = draw(bodies(model))
    required = st.sampled_from(model.required).map(lambda it: ("missing", it))
    fields = st.sampled_from(sorted(model.fields)).map(lambda it: ("unfitting", it))
    strange = st.from_regex(r"[a-z_]{3,12}", fullmatch=True).filter(
        lambda it: it not in {"model", "extra", *model.fields}
    )
    kinds = fields | strange.map(lambda it: ("strange", it))
    kind, name = draw(kinds | required if model.required else kinds)
    match kind:
        case "missing":
            del body[name]
        case "strange":
            body[name] = draw(st.integers() | st.text(max_size=5))
        case _:
            body[name] = draw(unfitting(model.fields[name]))
    return body, name


# Both sides


class Wire(httpx.ASGITransport):
    """The emulator in process, and the last body that was sent to it."""

    def __init__(self, emulator: Emulator) -> None:
        super().__init__(app=emulator.app)
        self.sent: object = None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Note the body, and pass it on."""
        self.sent = json.loads(request.content)
        return await super().handle_async_request(request)


def as_sent(value: object) -> object:
    """Write a value as it is to arrive: local media as data URIs."""
    match value:
        case bytes():
            kind = "image/png" if value == PICTURE else "audio/mpeg"
            return f"data:{kind};base64,{base64.b64encode(value).decode()}"
        case list():
            return [as_sent(item) for item in value]
        case dict():
            return {name: as_sent(inner) for name, inner in value.items()}
        case _:
            return value


def loosely(value: object) -> object:
    """Write numbers as text, for both are taken."""
    match value:
        case list():
            return [loosely(item) for item in value]
        case dict():
            return {name: loosely(inner) for name, inner in value.items()}
        case bool():
            return value
        case int() | float():
            return str(value)
        case _:
            return value


@each_model
@given(data=st.data())
@FEW
async def test_what_fits_a_model_is_sent_and_accepted(
    model: Model, data: st.DataObject
) -> None:
    """As given: nothing is lost, nothing added; local media as data URIs."""
    body = data.draw(bodies(model, local=True))
    emulator = Emulator(size=64)
    wire = Wire(emulator)
    async with (
        httpx.AsyncClient(transport=wire) as client,
        AsyncKling("key", base_url="https://kling.test", http_client=client) as kling,
    ):
        generation = await kling.create(build_request(body))
    (record,) = emulator.creates
    given_ = {name: value for name, value in body.items() if value is not None}
    assert (record.generation_id, record.model) == (generation.id, model.id)
    assert loosely(wire.sent) == loosely(as_sent(given_))


@each_model
@given(data=st.data())
@FEW
async def test_what_does_not_fit_is_refused_by_both_sides_for_the_same_fields(
    model: Model, data: st.DataObject
) -> None:
    """The client before it is sent; the emulator as the vendor does, with a 400."""
    body, name = data.draw(wrong_bodies(model))
    emulator = Emulator(size=64, strict=True)
    with pytest.raises(InvalidRequestError) as caught:
        build_request(body)
    async with httpx.AsyncClient(transport=Wire(emulator)) as client:
        answer = await client.post(
            f"https://kling.test{PATH}",
            json=body,
            headers={"Authorization": "Bearer key"},
        )
    heading, *lines = answer.json()["message"].split("\n")
    told = [line.partition(": Expected ")[0] for line in lines]
    assert (answer.status_code, heading) == (400, "Body validation error")
    assert told == [problem.field for problem in caught.value.problems]
    assert name in {field.partition(".")[0].partition("[")[0] for field in told}
    assert emulator.creates == []

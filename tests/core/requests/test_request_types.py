"""What editors and type checkers are told of requests is what the catalogue says.

Both are made by one command; these tests look at them as a type checker does.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal, get_args, get_origin

import attrs
import pytest

import kling_async
from kling_async import (
    Avatar,
    Effects,
    ImageToVideo,
    MotionControl,
    MultiImageToVideo,
    ReferenceToVideo,
    Request,
    TextToVideo,
    VideoToVideo,
    models,
)
from kling_async._requests.kinds import CLASSES
from kling_async.types import (
    AdvancedCameraControl,
    CameraAxes,
    CameraControl,
    DynamicMask,
    Element,
    GenerationParams,
    Point,
    Shot,
)

OWN_NAMES = {"model", "extra"}
EIGHT: Sequence[type[Request]] = (
    ImageToVideo,
    TextToVideo,
    MultiImageToVideo,
    ReferenceToVideo,
    VideoToVideo,
    MotionControl,
    Effects,
    Avatar,
)
each_class = pytest.mark.parametrize("cls", EIGHT, ids=lambda cls: cls.__name__)


def choices_of(annotation: object) -> Iterator[object]:
    """Give the fixed values in an annotation, through unions and aliases."""
    if get_origin(annotation) is Literal:
        yield from get_args(annotation)
    elif get_origin(annotation) in (typing.Union, types.UnionType):
        for part in get_args(annotation):
            yield from choices_of(part)


def hints_of(cls: type) -> Mapping[str, object]:
    """Give what a class is told to take, by field."""
    return typing.get_type_hints(cls)


def as_typed(field: models.Field) -> set[object]:
    """Give the values of a field as they may be typed: numbers as text, too."""
    numbers = [choice for choice in field.choices if isinstance(choice, int)]
    return {*field.choices, *map(str, numbers)}


@each_class
def test_a_class_has_the_fields_of_its_models(cls: type[Request]) -> None:
    """Of all of them together, and no other; those that all require have no default."""
    of_kind = [model for model in models.list() if model.kind in cls.kinds]
    taken = {name for model in of_kind for name in model.fields}
    required = set.intersection(*(set(model.required) for model in of_kind))
    names = {it.name for it in attrs.fields(cls)} - OWN_NAMES
    without_default = {
        it.name for it in attrs.fields(cls) if it.default is attrs.NOTHING
    }
    assert names == taken
    assert without_default == required


@each_class
def test_a_class_names_the_models_of_its_kinds(cls: type[Request]) -> None:
    """So an editor completes them."""
    of_kind = {model.id for model in models.list() if model.kind in cls.kinds}
    assert set(choices_of(hints_of(cls)["model"])) == of_kind


@each_class
def test_a_class_names_the_values_that_its_models_take(cls: type[Request]) -> None:
    """Where they are fixed: no more than some model takes, and no fewer."""
    of_kind = [model for model in models.list() if model.kind in cls.kinds]
    for name, hint in hints_of(cls).items():
        if name in OWN_NAMES | {"kinds"}:
            continue
        rules = [model.fields[name] for model in of_kind if name in model.fields]
        taken = {value for rule in rules for value in as_typed(rule)}
        assert set(choices_of(hint)) == taken, name


def test_the_keywords_are_those_of_all_classes() -> None:
    """`create(model=...)` completes each field of each class, with its values."""
    keywords = hints_of(GenerationParams)
    names = {it.name for cls in CLASSES for it in attrs.fields(cls)}
    assert set(keywords) == names
    for name in names:
        named = {
            value for cls in CLASSES for value in choices_of(hints_of(cls).get(name))
        }
        assert set(choices_of(keywords[name])) == named, name


NESTED: Sequence[tuple[type, str, Callable[[models.Field], models.Field | None]]] = [
    (CameraControl, "camera_control", lambda it: it),
    (CameraAxes, "camera_control", lambda it: it.properties.get("config")),
    (AdvancedCameraControl, "advanced_camera_control", lambda it: it),
    (DynamicMask, "dynamic_masks", lambda it: it.items),
    (
        Point,
        "dynamic_masks",
        lambda it: it.items and it.items.properties["trajectories"].items,
    ),
    (Shot, "multi_prompt", lambda it: it.items),
    (Element, "elements", lambda it: it.items),
]


@pytest.mark.parametrize(
    "cls, name, inner", NESTED, ids=lambda it: getattr(it, "__name__", it)
)
def test_a_nested_type_has_what_the_catalogue_nests(
    cls: type, name: str, inner: Callable[[models.Field], models.Field | None]
) -> None:
    """Its names, those that are required, and the values that are fixed."""
    found = [inner(model.fields[name]) for model in models.list(field=name)]
    rules = [rule for rule in found if rule and rule.type == "object"]
    names = {key for rule in rules for key in rule.properties}
    required = set.intersection(*(set(rule.required) for rule in rules))
    hints = hints_of(cls)
    assert set(hints) == names
    assert cls.__required_keys__ == required  # type: ignore[attr-defined]
    for key, hint in hints.items():
        fixed = {
            value
            for rule in rules
            if (it := rule.properties.get(key))
            for value in as_typed(it)
        }
        assert set(choices_of(hint)) == fixed, key


@each_class
def test_a_class_keeps_its_signature(cls: type[Request]) -> None:
    """For `help()`, notebooks and editors: keyword only, each with its default."""
    parameters = inspect.signature(cls).parameters
    assert set(parameters) == {it.name for it in attrs.fields(cls)}
    assert {it.kind for it in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert parameters["model"].default
    assert cls.__init__.__qualname__ == f"{cls.__name__}.__init__"
    assert cls.__init__.__annotations__["return"] is None


@each_class
def test_a_class_explains_each_of_its_fields(cls: type[Request]) -> None:
    """Units and limits are in its docstring, which editors show."""
    explained = inspect.getdoc(cls) or ""
    fields = {it.name for it in attrs.fields(cls)} - OWN_NAMES
    assert {name for name in fields if f"\n    {name}: " not in explained} == set()


def test_all_eight_classes_are_public() -> None:
    """And every kind has one."""
    assert CLASSES == EIGHT
    assert {kind for cls in CLASSES for kind in cls.kinds} == set(models.KINDS)
    assert all(getattr(kling_async, cls.__name__) is cls for cls in CLASSES)

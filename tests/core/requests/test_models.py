"""`kling_async.models`: the catalogue to look things up in."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from kling_async import InvalidRequestError, models
from kling_async.models import Kind

COUNTS: Mapping[Kind, int] = {
    "image-to-video": 19,
    "text-to-video": 15,
    "multi-image-to-video": 1,
    "reference-to-video": 1,
    "video-to-video-edit": 1,
    "video-to-video-reference": 1,
    "motion-control": 2,
    "effects": 2,
    "avatar": 2,
}


def test_all_models_are_listed() -> None:
    """Each once, those of a kind together."""
    listed = models.list()
    kinds = [model.kind for model in listed]
    assert len({model.id for model in listed}) == len(listed) == 44
    assert kinds == sorted(kinds, key=models.KINDS.index)


def test_every_kind_can_be_asked_for() -> None:
    """As many of each as the vendor has; together they are all."""
    assert tuple(COUNTS) == models.KINDS
    assert {kind: len(models.list(kind)) for kind in models.KINDS} == COUNTS


def test_models_are_listed_by_field() -> None:
    """Which of them take a last frame, which of those of a kind take sound."""
    ends = models.list(field="tail_image_url")
    loud = models.list("text-to-video", field="generate_audio")
    assert len(ends) == 11
    assert {model.kind for model in ends} == {"image-to-video"}
    assert {model.kind for model in loud} == {"text-to-video"}
    assert len(loud) == 5
    assert models.list(field="no_such_field") == []


def test_a_list_is_the_readers_own() -> None:
    """What is done to it changes nothing."""
    models.list().clear()
    assert len(models.list()) == 44


def test_a_model_is_looked_up_by_its_id() -> None:
    """With what it takes, what it requires, and how long it takes."""
    model = models.get("klingai/v2-master-image-to-video")
    assert model.kind == "image-to-video"
    assert model.required == ("image_url",)
    assert model.fields["duration"].choices == (5, 10)
    assert model.fields["duration"].allowed == "5, 10"
    assert model.typical_seconds(10) == 750


@pytest.mark.parametrize(
    "asked, hint",
    [
        ("klingai/v2-master-image-to-vide", "'klingai/v2-master-image-to-video'?"),
        ("klingai/video-v2-6-pro-motion-control", "v2-6-motion-control'?"),
        ("KlingAI/Avatar-Pro", "Did you mean 'klingai/avatar-pro'?"),
        ("", "`kling-async models` lists them."),
        (None, "`kling-async models` lists them."),
    ],
)
def test_an_id_that_is_none_is_told_with_the_nearest(asked: str, hint: str) -> None:
    """Or with where to look."""
    with pytest.raises(InvalidRequestError) as caught:
        models.get(asked)
    (problem,) = caught.value.problems
    assert problem.field == "model"
    assert problem.given == repr(asked)
    assert str(problem.hint).endswith(hint)


def test_a_kind_that_is_none_is_told_with_the_nearest() -> None:
    """Not an empty list, which would look like an answer."""
    with pytest.raises(InvalidRequestError, match="Did you mean 'image-to-video'") as e:
        models.list("image-to-vidoe")  # type: ignore[arg-type]
    assert e.value.problems[0].allowed == ", ".join(models.KINDS)


def test_a_model_cannot_be_changed() -> None:
    """One slip in a program does not change what the whole process checks."""
    model = models.get("klingai/avatar-pro")
    with pytest.raises(AttributeError):
        model.required = ()  # type: ignore[misc]
    with pytest.raises(TypeError):
        model.fields["prompt"] = model.fields["provider"]  # type: ignore[index]
    with pytest.raises(TypeError):
        model.durations[5] = 1  # type: ignore[index]


def test_the_module_names_what_it_offers() -> None:
    """Its classes say where they are imported from."""
    assert models.__all__ == ["KINDS", "Field", "Kind", "Model", "get", "list"]
    assert models.Model.__module__ == models.Field.__module__ == "kling_async.models"

"""`kling_async.models`: the catalogue to look things up in."""

from __future__ import annotations

import pytest

from kling_async import InvalidRequestError, models


def test_all_models_are_listed() -> None:
    """Each once, those of a kind together."""
    listed = models.list()
    kinds = [model.kind for model in listed]
    assert len({model.id for model in listed}) == len(listed) > 0
    assert kinds == sorted(kinds, key=models.KINDS.index)


def test_every_kind_can_be_asked_for() -> None:
    """None is empty; together they are all."""
    by_kind = [models.list(kind) for kind in models.KINDS]
    assert all(by_kind)
    assert [model for some in by_kind for model in some] == models.list()


def test_models_are_listed_by_field() -> None:
    """Which of them take a last frame, which of those of a kind take sound."""
    ends = models.list(field="tail_image_url")
    loud = models.list("text-to-video", field="generate_audio")
    assert ends
    assert all("tail_image_url" in model.fields for model in ends)
    assert {model.kind for model in loud} == {"text-to-video"}
    assert all("generate_audio" in model.fields for model in loud)
    assert models.list(field="no_such_field") == []


def test_a_list_is_the_readers_own() -> None:
    """What is done to it changes nothing."""
    before = models.list()
    models.list().clear()
    assert models.list() == before


def test_a_model_is_looked_up_by_its_id() -> None:
    """With what it takes, what it requires, and how long it takes."""
    model = models.get("klingai/v2-master-image-to-video")
    assert model.kind == "image-to-video"
    assert model.required == ("image_url",)
    assert model.fields["duration"].choices == (5, 10)
    assert model.fields["duration"].allowed == "5, 10"
    assert model.typical_seconds(10) == 750


@pytest.mark.parametrize(
    "alias, model_id",
    [
        ("klingai/video-v2-6-pro-motion-control", "klingai/video-v2-6-motion-control"),
        ("avatar-pro", "klingai/avatar-pro"),
        ("v1/pro/text-to-video", "kling-video/v1/pro/text-to-video"),
    ],
)
def test_an_alias_finds_its_model(alias: str, model_id: str) -> None:
    """The vendor takes it as well; listed is the model once."""
    assert models.get(alias) is models.get(model_id)
    assert alias in models.get(model_id).aliases
    assert alias not in [model.id for model in models.list()]


def test_no_name_is_that_of_two_models() -> None:
    """Else an alias would hide a model, or its own twin."""
    names = [name for it in models.list() for name in (it.id, *it.aliases)]
    assert len(names) == len(set(names))


def test_models_on_their_way_out_are_marked() -> None:
    """The vendor's documents no longer name those of v1.5."""
    leaving = {it.id for it in models.list() if it.standing != "current"}
    assert "kling-video/v1.5/pro/text-to-video" in leaving
    assert models.get("klingai/avatar-pro").standing == "current"


@pytest.mark.parametrize(
    "asked, hint",
    [
        ("klingai/v2-master-image-to-vide", "'klingai/v2-master-image-to-video'?"),
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

"""The request classes: what they take, what they refuse, and what they become."""

from __future__ import annotations

import logging
import pickle
import typing
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import pytest

from kling_async import (
    Avatar,
    Effects,
    ImageToVideo,
    InvalidRequestError,
    MotionControl,
    MultiImageToVideo,
    Problem,
    ReferenceToVideo,
    Request,
    TextToVideo,
    VideoToVideo,
    models,
)
from kling_async._requests import classes
from kling_async._requests.classes import build_request, class_for
from kling_async.types import (
    CameraControl,
    Media,
    Point,
)

MASTER = "klingai/v2-master-image-to-video"
TURBO = "klingai/video-v3-turbo-pro-text-to-video"
URL = "https://example.com/mona.jpg"
TAKEN_BY_OMNI = (
    f"'tail_image_url' is taken by {len(models.list(field='tail_image_url'))} other "
    "models, such as klingai/video-v3-omni-720p-image-to-video, "
    "klingai/video-v3-omni-1080p-image-to-video."
)
MOVES = "simple down_back forward_up right_turn_forward left_turn_forward".split()
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


def refused(make: Callable[[], object]) -> tuple[Problem, ...]:
    """Return the problems that a request is refused with."""
    with pytest.raises(InvalidRequestError) as caught:
        make()
    return caught.value.problems


def only(make: Callable[[], object]) -> Problem:
    """Return the one problem that a request is refused with."""
    (problem,) = refused(make)
    return problem


@pytest.fixture(autouse=True)
def nothing_warned_of() -> None:
    """Let each test hear of unknown models anew."""
    classes.warn_once.cache_clear()


# What a request becomes


def test_a_request_becomes_the_wires_body() -> None:
    """By the wire's names; what was not given is not sent, nor is None."""
    request = ImageToVideo(
        model=MASTER, image_url=URL, prompt="A cat", duration=5, cfg_scale=None
    )
    assert request.to_body() == {
        "model": MASTER,
        "image_url": URL,
        "prompt": "A cat",
        "duration": 5,
    }


@each_class
def test_a_class_is_for_a_model_by_default(cls: type[Request]) -> None:
    """One that exists, of its own kind."""
    default = next(it.default for it in attrs.fields(cls) if it.name == "model")
    assert models.get(default).kind in cls.kinds


def test_numbers_given_as_text_are_sent_as_numbers() -> None:
    """The vendor's examples say "5", its schemas say 5."""
    request = build_request(
        {"model": MASTER, "image_url": URL, "duration": "10", "cfg_scale": "0.5"}
    )
    shots = TextToVideo(model=TURBO, multi_prompt=[{"prompt": "a", "duration": "3"}])
    assert request.to_body()["duration"] == 10
    assert request.to_body()["cfg_scale"] == 0.5
    assert shots.to_body()["multi_prompt"] == [{"prompt": "a", "duration": 3}]
    assert isinstance(request, ImageToVideo)
    assert request.duration == "10"


def test_media_of_every_form_are_taken_everywhere() -> None:
    """Address, data URI, path and bytes; in lists and mappings, too."""
    data_uri = "data:image/png;base64,iVBORw0KGgo="
    forms: list[Media] = [URL, data_uri, Path("cat.png"), b"\x89PNG"]
    for form in forms:
        request = ImageToVideo(
            image_url=form,
            prompt="a",
            tail_image_url=form,
            elements=[
                {"reference_image_urls": [form, form], "frontal_image_url": form}
            ],
        )
        masks = ImageToVideo(
            model=MASTER,
            image_url=form,
            static_mask=form,
            dynamic_masks=[
                {"mask": form, "trajectories": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}
            ],
        )
        assert request.to_body()["image_url"] == form
        assert masks.to_body()["static_mask"] == form
        assert MultiImageToVideo(image_list=[form, form]).to_body()["image_list"]
        assert Effects(image_url=[form], effect_scene="kiss").to_body()["image_url"]
        assert Effects(image_url=form, effect_scene="kiss").to_body()["image_url"]


def test_a_field_that_a_class_lacks_is_not_sent_as_nothing() -> None:
    """None is left out, whoever knows the field."""
    request = build_request(
        {"model": MASTER, "image_url": URL, "prompt": "A cat", "colour": None}
    )
    assert "colour" not in request.to_body()


def test_what_was_checked_is_what_is_sent() -> None:
    """Changing what a request was made of does not change the request."""
    camera: CameraControl = {"type": "simple", "config": {"zoom": 3}}
    points: list[Point] = [{"x": 1, "y": 2}, {"x": 3, "y": 4}]
    mask = bytearray(b"\x89PNG")
    extra: dict[str, object] = {"seed": [1]}
    request = ImageToVideo(
        model=MASTER,
        image_url=URL,
        camera_control=camera,
        dynamic_masks=({"mask": mask, "trajectories": points},),  # type: ignore[typeddict-item]
        extra=extra,
    )
    before = request.to_body()
    camera["config"]["zoom"] = 99
    points.clear()
    mask.clear()
    extra["prompt"] = 3
    typing.cast("list[int]", extra["seed"]).append(2)
    assert request.to_body() == before
    assert before["camera_control"] == {"type": "simple", "config": {"zoom": 3}}
    assert before["seed"] == [1]


def test_a_body_is_the_readers_own() -> None:
    """What is done to it does not change the request."""
    request = TextToVideo(prompt="a", extra={"seed": 1})
    request.to_body().clear()
    assert request.to_body()["prompt"] == "a"


def test_a_request_is_compared_by_what_it_asks_for() -> None:
    """Two that ask for the same are equal; none can be changed."""
    request = TextToVideo(prompt="a")
    assert request == TextToVideo(prompt="a")
    assert request != TextToVideo(prompt="b")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        request.prompt = "b"  # type: ignore[misc]


def test_a_changed_copy_is_checked_anew() -> None:
    """`attrs.evolve` makes a request like any other."""
    request = TextToVideo(prompt="a", duration=5)
    assert attrs.evolve(request, prompt="b").to_body()["prompt"] == "b"
    assert attrs.evolve(request, duration=None).duration is None
    problem = only(lambda: attrs.evolve(request, duration=99))  # type: ignore[arg-type]
    assert problem.field == "duration"
    other = only(lambda: attrs.evolve(request, model="klingai/avatar-pro"))
    assert other.field == "model"


REQUESTS: Sequence[Request] = [
    ImageToVideo(image_url=Path("cat.png"), prompt="a", extra={"seed": 1}),
    TextToVideo(model=TURBO, multi_prompt=[{"prompt": "a", "duration": 3}]),
    MultiImageToVideo(image_list=[b"\x89PNG", URL]),
    ReferenceToVideo(prompt="a"),
    VideoToVideo(video_url=URL, prompt="a"),
    MotionControl(image_url=URL, video_url=URL),
    Effects(image_url=[URL], effect_scene="let's_ride"),
    Avatar(image_url=URL, audio_url=URL),
    Request(model="klingai/v9", extra={"prompt": "a"}),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda it: type(it).__name__)
def test_a_request_survives_a_pickle(request_: Request) -> None:
    """And is sent as the same by the process that reads it."""
    again = pickle.loads(pickle.dumps(request_))
    assert again == request_
    assert again.to_body() == request_.to_body()


def test_a_request_is_shown_in_short() -> None:
    """What was given, without megabytes of a picture, without what is None."""
    request = ImageToVideo(
        image_url=b"x" * 10**6,
        tail_image_url="data:image/png;base64," + "A" * 10**6,
        prompt="A cat",
        elements=[{"reference_image_urls": [b"y" * 10**6]}],
        generate_audio=False,
    )
    assert repr(request) == (
        "ImageToVideo(model='klingai/video-v3-pro-image-to-video', "
        "image_url=<1000000 bytes>, prompt='A cat', "
        "tail_image_url='data:image/png;base64,AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA'"
        "… (999962 more), "
        "elements=[{'reference_image_urls': [<1000000 bytes>]}], generate_audio=False)"
    )
    assert repr(TextToVideo(prompt="a", extra={"b": 1})).endswith(", extra={'b': 1})")


# What is refused


def test_everything_that_is_wrong_is_told_at_once() -> None:
    """Each with its field, what was given, what is allowed, and what to do."""
    problems = refused(
        lambda: build_request(
            {
                "model": MASTER,
                "prompt": " ",
                "duration": 7,
                "cfg_scale": 1.5,
                "camera_control": {"type": "simpel", "config": {"zoom": 11}},
                "dynamic_masks": [{"mask": URL}],
                "provider": "kiling",
                "duratoin": 5,
                "tail_image_url": URL,
                "colour": "red",
            }
        )
    )
    told = {it.field: (it.given, it.allowed, it.hint) for it in problems}
    assert told == {
        "image_url": (
            "nothing",
            "an http(s) address or a base64 data URI of an image",
            "It is required.",
        ),
        "prompt": ("' '", "a text that is not blank", "It is empty."),
        "duration": ("7", "5, 10", None),
        "cfg_scale": ("1.5", "a number from 0 to 1", None),
        "camera_control.type": (
            "'simpel'",
            ", ".join(map(repr, MOVES)),
            "Did you mean 'simple'?",
        ),
        "camera_control.config.zoom": ("11", "a number from -10 to 10", None),
        "dynamic_masks[0].trajectories": (
            "nothing",
            "a list of 2 to 77 items, each a mapping of x, y",
            "It is required.",
        ),
        "provider": (
            "'kiling'",
            "'auto', 'kling', 'klingai', 'fal'",
            "Did you mean 'kling'?",
        ),
        "duratoin": ("5", told["colour"][1], None),
        "tail_image_url": (
            repr(URL),
            told["colour"][1],
            f"Did you mean 'image_url'? {TAKEN_BY_OMNI}",
        ),
        "colour": (
            "'red'",
            f"only {', '.join(models.get(MASTER).fields)}",
            None,
        ),
    }


def test_an_error_reads_well() -> None:
    """It says for which model, how many, and that nothing was sent."""
    with pytest.raises(InvalidRequestError) as caught:
        ImageToVideo(model=MASTER, image_url=URL, duration=7)
    assert str(caught.value) == (
        "invalid request for klingai/v2-master-image-to-video, 1 problem, nothing was "
        "sent:\n  - duration: given 7; allowed 5, 10"
    )
    assert caught.value.model == MASTER


@each_class
def test_what_is_required_is_missed(cls: type[Request]) -> None:
    """By its name on the wire, not by Python's own error; None is nothing."""
    default = next(it.default for it in attrs.fields(cls) if it.name == "model")
    required = set(models.get(default).required)
    bare = {it.field for it in refused(lambda: cls(model=default))}
    empty = {it.field for it in refused(lambda: build_request({"model": default}))}
    assert bare == empty
    assert required <= bare <= required | {"prompt"}


@each_class
def test_a_model_of_another_kind_is_told_with_its_class(cls: type[Request]) -> None:
    """Nothing else is told then: the fields are those of another class."""
    for model in models.list():
        if model.kind in cls.kinds:
            continue
        problem = only(lambda model=model: cls(model=model.id))  # type: ignore[misc]
        assert problem.field == "model"
        assert problem.allowed == f"a model for {' or '.join(cls.kinds)}"
        assert problem.hint == f"It is one for {class_for(model.id).__name__}."


@pytest.mark.parametrize("model", [None, "", " ", 3, b"klingai/avatar-pro"])
def test_a_model_that_is_no_id_is_refused(model: str) -> None:
    """With where to find one."""
    problem = only(lambda: TextToVideo(model=model, prompt="a"))
    assert problem.field == "model"
    assert problem.hint == "`kling-async models` lists them."


def test_a_request_without_a_model_is_refused() -> None:
    """As keywords, and as the general class."""
    keywords = only(lambda: build_request({"prompt": "a"}))
    general = only(lambda: Request(extra={"prompt": "a"}))  # type: ignore[call-arg]
    assert keywords == general
    assert (general.field, general.given) == ("model", "nothing")


def test_positional_arguments_are_pythons_to_refuse() -> None:
    """The error names the class, not what is wrapped around it."""
    with pytest.raises(TypeError, match=r"ImageToVideo\.__init__\(\) takes 1 pos"):
        ImageToVideo(URL)  # type: ignore[call-arg, arg-type]
    params = {"model": MASTER, "image_url": URL, "self": 1}
    assert only(lambda: build_request(params)).field == "self"


def test_an_error_survives_a_pickle() -> None:
    """With all its problems, for it may be raised in another process."""
    with pytest.raises(InvalidRequestError) as caught:
        TextToVideo()
    again = pickle.loads(pickle.dumps(caught.value))
    assert again.problems == caught.value.problems
    assert str(again) == str(caught.value)


# What passes unchecked


def test_extra_fields_pass_through() -> None:
    """Whatever they are; beside a field of the same name they are a slip."""
    request = ImageToVideo(
        model=MASTER, image_url=URL, extra={"seed": 7, "duration": 60}
    )
    assert request.to_body() == {
        "model": MASTER,
        "image_url": URL,
        "seed": 7,
        "duration": 60,
    }
    problems = refused(
        lambda: ImageToVideo(
            model=MASTER, image_url=URL, extra={"model": "x", "image_url": "y"}
        )
    )
    assert [it.field for it in problems] == ["extra.image_url", "extra.model"]
    assert problems[0].allowed == "only what is not given beside it"


def test_what_is_required_may_come_by_way_of_extra() -> None:
    """A form that this version would refuse can be sent all the same."""
    request = build_request({"model": MASTER, "extra": {"image_url": {"file": 1}}})
    assert request.to_body() == {"model": MASTER, "image_url": {"file": 1}}


@pytest.mark.parametrize("extra", [None, 3, ["seed"], {1: 2}])
def test_extra_fields_are_given_by_name(extra: Mapping[str, object]) -> None:
    """Else it is told what is expected."""
    problem = only(lambda: TextToVideo(prompt="a", extra=extra))
    assert (problem.field, problem.allowed) == ("extra", "a mapping of field to value")


def test_an_unknown_model_passes_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A new model works on the day it appears; the log says what was meant, maybe."""
    with caplog.at_level(logging.WARNING, "kling_async"):
        made = [
            ImageToVideo(
                model="klingai/v9-master-image-to-video",
                image_url=URL,
                duration=60,  # type: ignore[arg-type]
            )
            for _ in range(3)
        ]
    assert [it.to_body()["duration"] for it in made] == [60, 60, 60]
    (record,) = caplog.records
    assert record.getMessage() == (
        "model 'klingai/v9-master-image-to-video' is not known to this version, so its "
        "fields are not checked; did you mean 'klingai/v2-master-image-to-video'?"
    )


def test_a_known_model_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    """Nor is one that is given to the general class."""
    with caplog.at_level(logging.WARNING, "kling_async"):
        TextToVideo(prompt="a")
        Request(model=MASTER, extra={"image_url": URL})
    assert caplog.records == []


def test_what_no_model_would_take_is_refused_of_an_unknown_one_too() -> None:
    """A wrong type, a field that its class has no place for, what it cannot lack."""
    problems = refused(
        lambda: ImageToVideo(
            model="klingai/v9",
            prompt=3,  # type: ignore[arg-type]
            colour="red",  # type: ignore[call-arg]
        )
    )
    assert [it.field for it in problems] == ["image_url", "colour", "prompt"]
    keywords = refused(lambda: build_request({"model": "klingai/v9", "prompt": 3}))
    assert [it.field for it in keywords] == ["prompt"]
    general = only(lambda: Request(model="klingai/v9", prompt="a"))  # type: ignore[call-arg]
    assert str(general).endswith("Others can be given in extra={...}.")


def test_keywords_for_an_unknown_model_become_a_general_request() -> None:
    """They all pass through, media too."""
    request = build_request(
        {
            "model": "klingai/v9",
            "image_url": b"x",
            "brand_new": 1,
            "prompt": None,
            "extra": {"seed": 2},
        }
    )
    assert type(request) is Request
    assert request.to_body() == {
        "model": "klingai/v9",
        "image_url": b"x",
        "brand_new": 1,
        "seed": 2,
    }
    twice = only(
        lambda: build_request({"model": "klingai/v9", "a": 1, "extra": {"a": 2}})
    )
    assert twice.field == "extra.a"


def test_keywords_for_a_known_model_become_its_class() -> None:
    """As if the class had been called."""
    for model in models.list():
        assert model.kind in class_for(model.id).kinds
    assert build_request({"model": TURBO, "prompt": "a"}) == TextToVideo(
        model=TURBO, prompt="a"
    )

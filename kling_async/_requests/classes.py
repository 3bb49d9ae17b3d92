"""What a user asks for: one class for each kind of generation.

Each is checked against the catalogue when it is made, so what exists can be
sent. Opens no file; `_media` turns local images into what the wire takes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import ClassVar, Literal, Self, TypeVar, get_type_hints

from attrs import NOTHING, field, fields, frozen

from kling_async._errors import InvalidRequestError, Problem
from kling_async._hooks import logger
from kling_async._requests.catalogue import (
    MODELS,
    Kind,
    nearest_model,
    problems_in,
    problems_in_types,
)
from kling_async._requests.fields import with_numbers
from kling_async._requests.params import (
    AdvancedCameraControl,
    AvatarModel,
    CameraControl,
    CameraMove,
    DynamicMask,
    EffectScene,
    EffectsModel,
    Element,
    FiveOrTen,
    ImageToVideoModel,
    Media,
    MotionControlModel,
    MultiImageToVideoModel,
    Provider,
    Ratio,
    ReferenceToVideoModel,
    Seconds,
    Shot,
    ShotType,
    TextToVideoModel,
    VideoToVideoModel,
)
from kling_async._text import short_repr


@frozen(kw_only=True)
class Given:
    """What was given for one request.

    Attributes:
        model: The model's id.
        body: The fields that have a value, by name.
        extra: The fields that are sent along unchecked.
    """

    model: str
    body: Mapping[str, object]
    extra: Mapping[str, object]

    @classmethod
    def of(cls, params: Mapping[str, object]) -> Self:
        """Take apart what was given by name.

        Raises:
            InvalidRequestError: It names no model, or ``extra`` is no mapping.
        """
        model, extra = params.get("model", NOTHING), params.get("extra", {})
        problems: list[Problem] = []
        if not isinstance(model, str) or not model.strip():
            told = "nothing" if model is NOTHING else short_repr(model)
            allowed = "the id of a model, such as klingai/v2-master-image-to-video"
            hint = "`kling-async models` lists them."
            problems.append(Problem("model", told, allowed, hint))
        if not _is_by_name(extra):
            allowed = "a mapping of field to value"
            problems.append(Problem("extra", short_repr(extra), allowed))
        if problems:
            raise InvalidRequestError(problems)
        apart = {"model", "extra"}
        body = {k: v for k, v in params.items() if k not in apart and v is not None}
        return cls(model=str(model), body=body, extra=dict(extra))  # type: ignore[call-overload]

    @property
    def given_twice(self) -> list[Problem]:
        """The problems with fields that stand in ``extra`` and beside it."""
        twice = sorted(self.extra.keys() & {"model", *self.body})
        allowed = "only what is not given beside it"
        return [
            Problem(f"extra.{it}", short_repr(self.extra[it]), allowed) for it in twice
        ]

    def problems_for_model(self) -> list[Problem]:
        """Return what the model does not take as it is given."""
        everything = {**self.body, **self.extra}
        return problems_in(
            self.model, everything, local_media=True, unchecked=self.extra
        )

    def problems_for_any_model(
        self, class_name: str, names: Collection[str], needed: Collection[str]
    ) -> list[Problem]:
        """Return what no model would take, or its class has no place for.

        Args:
            class_name: The request class.
            names: The fields that it has.
            needed: Those of them that it cannot do without.
        """
        missing = [it for it in needed if it not in {*self.body, *self.extra}]
        fitting = {k: v for k, v in self.body.items() if k in names}
        allowed = f"only the fields of {class_name}"
        return [
            *(Problem(it, "nothing", "a value", "It is required.") for it in missing),
            *(
                Problem(name, short_repr(value), allowed, advice="pass_unknown_fields")
                for name, value in self.body.items()
                if name not in names
            ),
            *problems_in_types(fitting, local_media=True),
        ]


def _is_by_name(extra: object) -> bool:
    if not isinstance(extra, Mapping):
        return False
    return all(isinstance(name, str) for name in extra)


def copied(value: object) -> object:
    """Copy what can be changed, so that what was checked is what is sent."""
    if isinstance(value, Mapping):
        return {name: copied(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [copied(item) for item in value]
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else value


@functools.lru_cache(maxsize=1000)
def warn_of_unknown(model: str) -> None:
    """Tell once of a model that is not known, not for each of its requests."""
    if model in MODELS:
        return
    near = nearest_model(model)
    meant = f"; did you mean {near!r}?" if near else ""
    logger.warning(
        "model %r is not known to this version, so its fields are not checked%s",
        model,
        meant,
    )


RequestT = TypeVar("RequestT", bound="Request")


def _tells_all_problems(cls: type[RequestT]) -> type[RequestT]:
    """Check what a class is given before Python does, which names one slip a time."""
    bare: Callable[..., None] = cls.__init__
    defaults = {it.name: it.default for it in fields(cls) if it.name == "model"}
    # What must be given may be given in extra, too; Python is not to miss it.
    empty = {it.name: None for it in fields(cls) if it.default is NOTHING}
    # Looked up here, for these names do not exist where the class says it is from.
    hints = get_type_hints(cls)
    cls.__annotations__ = {name: hints[name] for name in cls.__annotations__}

    @functools.wraps(bare)
    def checked(self: RequestT, /, **given: object) -> None:
        own = {name: copied(value) for name, value in given.items()}
        _require_valid(Given.of(defaults | own), cls)
        bare(self, **(empty | own))

    setattr(cls, "__init__", checked)  # noqa: B010 (type checkers know attrs' own)
    return cls


@_tells_all_problems
@frozen(kw_only=True, repr=False)
class Request:
    """A generation to ask for, of whatever kind.

    Made directly only for a model that this version does not know: all that
    it takes then stands in ``extra``, unchecked.

    Attributes:
        model: The model's id, as in the vendor's docs.
        extra: Fields to send along that this version does not know; they are
            not checked.

    Raises:
        InvalidRequestError: Something given cannot be right; all of it is told.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ()

    model: str
    extra: Mapping[str, object] = field(factory=dict[str, object])

    def to_body(self) -> dict[str, object]:
        """Give what is sent, by the wire's names; what is None is left out."""
        known = MODELS.get(self.model)
        rules = known.fields if known else {}
        body = {
            name: with_numbers(value, rules[name]) if name in rules else value
            for name, value in self._given()
        }
        return body | dict(self.extra)

    def _given(self) -> Iterator[tuple[str, object]]:
        for name in (it.name for it in fields(type(self)) if it.name != "extra"):
            value: object = getattr(self, name)
            if value is not None:
                yield name, value

    def __repr__(self) -> str:
        """Show what was given, long texts and bytes in short."""
        given = dict(self._given()) | ({"extra": self.extra} if self.extra else {})
        told = ", ".join(f"{name}={short_repr(value)}" for name, value in given.items())
        return f"{type(self).__name__}({told})"


def _require_valid(given: Given, cls: type[Request]) -> None:
    problems = [*given.given_twice, *_problems_of_kind(given.model, cls)]
    if not problems and given.model in MODELS and cls.kinds:
        problems = given.problems_for_model()
    elif not problems:
        warn_of_unknown(given.model)
        names = {it.name: it.default for it in fields(cls) if it.name != "model"}
        needed = [name for name, default in names.items() if default is NOTHING]
        problems = given.problems_for_any_model(cls.__name__, names, needed)
    if problems:
        raise InvalidRequestError(problems, model=given.model)


def _problems_of_kind(model: str, cls: type[Request]) -> list[Problem]:
    if model not in MODELS or not cls.kinds or MODELS[model].kind in cls.kinds:
        return []
    right = class_for(model).__name__
    allowed = f"a model for {' or '.join(cls.kinds)}"
    return [Problem("model", repr(model), allowed, f"It is one for {right}.")]


@_tells_all_problems
@frozen(kw_only=True, repr=False)
class ImageToVideo(Request):
    """A video that begins with an image.

    Which model takes which field and which value, the catalogue says
    (`kling_async.models`, from the vendor's OpenAPI files of August 2026).

    Attributes:
        image_url: The first frame: a URL, a base64 data URI, a path, or bytes.
            Kling documents JPEG or PNG, up to 10 MB, each side 300 px or more,
            aspect ratio 2:5 to 5:2.
        prompt: What happens. Up to 2,500 characters (o1, v2.6), 3,072 (v3 turbo).
        multi_prompt: In place of ``prompt``, v3 only: what happens shot by
            shot; for the turbo models 1 to 6 shots of 1 to 15 s each.
        tail_image_url: The last frame, likewise.
        last_image_url: The last frame, as the o1 model calls it.
        duration: The video's length in seconds: 5 or 10; 3 to 15 for v3.
        negative_prompt: What to avoid.
        cfg_scale: How closely to keep to the prompt, 0 to 1.
        static_mask: An image that marks what does not move.
        dynamic_masks: Up to 6 parts of the picture, each with its trajectory.
        camera_control: How the camera moves.
        elements: Up to 4 persons or things to keep, v3 only.
        shot_type: Who cuts the shots of ``multi_prompt``, v3 only.
        generate_audio: Whether the video has sound; the server's default is True.
        provider: Who renders it: ``auto`` (Kling, then a mirror), ``kling``, ``fal``.
        aspect_ratio: Only in the older schema of some models.
        ratio: An older spelling of ``aspect_ratio``.
        type: Only in the older schema of two models.
        external_task_id: Your own id; only in the older schema of two models.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("image-to-video",)

    model: ImageToVideoModel | str = "klingai/video-v3-pro-image-to-video"
    image_url: Media
    prompt: str | None = None
    multi_prompt: Sequence[Shot | str] | None = None
    tail_image_url: Media | None = None
    last_image_url: Media | None = None
    duration: Seconds | None = None
    negative_prompt: str | None = None
    cfg_scale: float | None = None
    static_mask: Media | None = None
    dynamic_masks: Sequence[DynamicMask] | None = None
    camera_control: CameraControl | None = None
    elements: Sequence[Element] | None = None
    shot_type: ShotType | None = None
    generate_audio: bool | None = None
    provider: Provider | None = None
    aspect_ratio: Ratio | None = None
    ratio: Ratio | None = None
    type: Literal["image-to-video"] | None = None
    external_task_id: str | None = None


@_tells_all_problems
@frozen(kw_only=True, repr=False)
class TextToVideo(Request):
    """A video from words alone.

    Attributes:
        prompt: What it shows. Up to 2,500 characters (v2.6), 3,072 (v3 turbo).
        multi_prompt: In place of ``prompt``, v3 only: what it shows shot by
            shot; for the turbo models 1 to 6 shots of 1 to 15 s each.
        aspect_ratio: The shape of the picture; the server's default is 16:9.
        duration: The video's length in seconds: 5 or 10; 3 to 15 for v3.
        negative_prompt: What to avoid.
        cfg_scale: How closely to keep to the prompt, 0 to 1.
        camera_control: A ready-made camera movement.
        advanced_camera_control: A camera movement along one axis.
        shot_type: Who cuts the shots of ``multi_prompt``, v3 only.
        generate_audio: Whether the video has sound; the server's default is True.
        provider: Who renders it: ``auto`` (Kling, then a mirror), ``kling``, ``fal``.
        ratio: An older spelling of ``aspect_ratio``.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("text-to-video",)

    model: TextToVideoModel | str = "klingai/video-v3-pro-text-to-video"
    prompt: str | None = None
    multi_prompt: Sequence[Shot | str] | None = None
    aspect_ratio: Ratio | None = None
    duration: Seconds | None = None
    negative_prompt: str | None = None
    cfg_scale: float | None = None
    camera_control: CameraMove | None = None
    advanced_camera_control: AdvancedCameraControl | None = None
    shot_type: ShotType | None = None
    generate_audio: bool | None = None
    provider: Provider | None = None
    ratio: Ratio | None = None


@_tells_all_problems
@frozen(kw_only=True, repr=False)
class MultiImageToVideo(Request):
    """A video from 2 to 4 images together.

    Attributes:
        image_list: The images: URLs, base64 data URIs, paths, or bytes.
        prompt: What happens.
        aspect_ratio: The shape of the picture; the server's default is 16:9.
        duration: The video's length in seconds, 5 or 10.
        negative_prompt: What to avoid.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("multi-image-to-video",)

    model: MultiImageToVideoModel | str = (
        "kling-video/v1.6/standard/multi-image-to-video"
    )
    image_list: Sequence[Media]
    prompt: str | None = None
    aspect_ratio: Ratio | None = None
    duration: FiveOrTen | None = None
    negative_prompt: str | None = None


@_tells_all_problems
@frozen(kw_only=True, repr=False)
class ReferenceToVideo(Request):
    """A video that keeps the persons, things and styles of reference images.

    Attributes:
        prompt: What happens, up to 2,500 characters; images and elements are
            named in it as ``@Image1``, ``@Element1``.
        image_list: 1 to 7 images: URLs, base64 data URIs, paths, or bytes.
        elements: Up to 4 persons or things to keep.
        aspect_ratio: The shape of the picture; the server's default is 16:9.
        duration: The video's length in seconds, 5 or 10.
        provider: Who renders it: ``auto`` (Kling, then a mirror), ``kling``, ``fal``.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("reference-to-video",)

    model: ReferenceToVideoModel | str = "klingai/video-o1-reference-to-video"
    prompt: str
    image_list: Sequence[Media] | None = None
    elements: Sequence[Element] | None = None
    aspect_ratio: Ratio | None = None
    duration: FiveOrTen | None = None
    provider: Provider | None = None


@_tells_all_problems
@frozen(kw_only=True, repr=False)
class VideoToVideo(Request):
    """A video edited, or a new one after a reference video.

    Attributes:
        video_url: The web address of the video.
        prompt: What to change, or what the new video shows, up to 2,500
            characters.
        image_list: Images for it: up to 7 when editing, 4 with a reference.
        elements: Up to 4 persons or things to keep.
        keep_audio: Whether the sound of the video is kept; by default not.
        aspect_ratio: The shape of the picture, with a reference only.
        duration: The new video's length in seconds, 5 or 10, with a reference only.
        provider: Who renders it: ``auto`` (Kling, then a mirror), ``kling``, ``fal``.
    """

    kinds: ClassVar[tuple[Kind, ...]] = (
        "video-to-video-edit",
        "video-to-video-reference",
    )

    model: VideoToVideoModel | str = "klingai/video-o1-video-to-video-edit"
    video_url: str
    prompt: str
    image_list: Sequence[Media] | None = None
    elements: Sequence[Element] | None = None
    keep_audio: bool | None = None
    aspect_ratio: Ratio | None = None
    duration: FiveOrTen | None = None
    provider: Provider | None = None


@_tells_all_problems
@frozen(kw_only=True, repr=False)
class MotionControl(Request):
    """A figure from an image that moves as somebody in a video does.

    Attributes:
        image_url: The figure: a URL, a base64 data URI, a path, or bytes.
        video_url: The web address of the video with the movement: at most 10 s
            with ``character_orientation`` image, 30 s with video.
        prompt: What happens around it.
        character_orientation: Whether the figure faces as in the image or as
            in the video; the server's default is video.
        keep_audio: Whether the sound of the video is kept; by default it is.
        mode: ``std`` is cheaper, ``pro`` is better; the server's default is std.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("motion-control",)

    model: MotionControlModel | str = "klingai/video-v3-motion-control"
    image_url: Media
    video_url: str
    prompt: str | None = None
    character_orientation: Literal["image", "video"] | None = None
    keep_audio: bool | None = None
    mode: Literal["std", "pro"] | None = None


@_tells_all_problems
@frozen(kw_only=True, repr=False)
class Effects(Request):
    """A ready-made effect with the figures of one or more images.

    Attributes:
        image_url: One image or a list: URLs, base64 data URIs, paths, or bytes.
        effect_scene: The effect.
        duration: The video's length in seconds, 5 or 10.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("effects",)

    model: EffectsModel | str = "klingai/kling-video-v1.6-pro-effects"
    image_url: Media | Sequence[Media]
    effect_scene: EffectScene
    duration: FiveOrTen | None = None


@_tells_all_problems
@frozen(kw_only=True, repr=False)
class Avatar(Request):
    """A person in an image who speaks or sings a sound file.

    Attributes:
        image_url: The person: a URL, a base64 data URI, a path, or bytes.
        audio_url: The sound, likewise: MP3, WAV, M4A or AAC, up to 5 MB.
        prompt: How they move, up to 2,500 characters.
        provider: Who renders it: ``auto`` (Kling, then a mirror), ``kling``, ``fal``.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ("avatar",)

    model: AvatarModel | str = "klingai/avatar-pro"
    image_url: Media
    audio_url: Media
    prompt: str | None = None
    provider: Provider | None = None


CLASSES: tuple[type[Request], ...] = (
    ImageToVideo,
    TextToVideo,
    MultiImageToVideo,
    ReferenceToVideo,
    VideoToVideo,
    MotionControl,
    Effects,
    Avatar,
)

_BY_KIND: Mapping[Kind, type[Request]] = {
    kind: cls for cls in CLASSES for kind in cls.kinds
}


def class_for(model: str) -> type[Request]:
    """Give the class of the requests to a model; `Request` for an unknown one."""
    known = MODELS.get(model)
    return _BY_KIND[known.kind] if known else Request


def build_request(params: Mapping[str, object]) -> Request:
    """Make the request that a model and fields by name describe.

    Raises:
        InvalidRequestError: It cannot be right.
    """
    given = Given.of(params)
    cls = class_for(given.model)
    if cls is not Request:
        return cls(**params)  # type: ignore[arg-type]
    names = given.body.keys()
    problems = [
        *given.given_twice,
        *given.problems_for_any_model(cls.__name__, names, needed=()),
    ]
    if problems:
        raise InvalidRequestError(problems, model=given.model)
    return Request(model=given.model, extra={**given.body, **given.extra})


def request_from(request: Request | None, params: Mapping[str, object]) -> Request:
    """Take a request object, or make one of keywords; not both.

    Raises:
        InvalidRequestError: There are both, or it cannot be right.
    """
    if request is None:
        return build_request(params)
    if params:
        given = ", ".join(params)
        problem = Problem(
            given,
            "beside a request object",
            "one of the two: a request object, or keywords",
            "Use attrs.evolve(request, ...) to change a request",
        )
        raise InvalidRequestError([problem], model=request.model)
    return request


def request_of_many(given: object) -> Request:
    """Take one of many requests: an object, or a mapping to make one of.

    Raises:
        InvalidRequestError: It is neither, or it cannot be right.
    """
    if isinstance(given, Request):
        return given
    if isinstance(given, Mapping) and all(isinstance(name, str) for name in given):
        return build_request(given)
    allowed = "a request object, or a mapping of field names to values"
    raise InvalidRequestError([Problem("request", short_repr(given), allowed)])

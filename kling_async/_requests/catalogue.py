"""Which Kling models there are and what each takes, as data.

One table, from the vendor's OpenAPI files of August 2026; a new model is one
more line in it. Sends nothing and opens no file.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Literal, get_args

from attrs import evolve, field, frozen

from kling_async._errors import Problem
from kling_async._requests.fields import Field, problems_with
from kling_async._text import closest_match, did_you_mean, short_repr

_MEGABYTE = 1_000_000

_RATIOS = ("16:9", "9:16", "1:1")

_MOVES = ("down_back", "forward_up", "right_turn_forward", "left_turn_forward")

_AXES = ("horizontal", "vertical", "pan", "tilt", "roll", "zoom")

_SCENES = tuple(
    """
    magic_fireball pet_moto_rider media_interview pet_lion pet_delivery pet_chef
    santa_gifts santa_hug girlfriend boyfriend heart_gesture_1 pet_wizard smoke_smoke
    thumbs_up instant_kid dollar_rain cry_cry building_collapse gun_shot mushroom
    double_gun pet_warrior lightning_power jesus_hug shark_alert long_hair lie_flat
    polar_bear_hug brown_bear_hug jazz_jazz office_escape_plow fly_fly watermelon_bomb
    pet_dance boss_coming wool_curly iron_warrior pet_bee marry_me swing_swing
    day_to_night piggy_morph wig_out car_explosion ski_ski tiger_hug siblings
    construction_worker let's_ride snatched magic_broom felt_felt jumpdrop celebration
    splashsplash hula surfsurf fairy_wing angel_wing dark_wing skateskate plushcut
    jelly_press jelly_slice jelly_squish jelly_jiggle pixelpixel yearbook instant_film
    anime_figure rocketrocket bloombloom dizzydizzy fuzzyfuzzy squish expansion hug
    kiss heart_gesture fight
    """.split()
)

_TEXT = Field(type="string")

_PROMPT = Field(type="string", blank=False)

_PROMPT_2500 = evolve(_PROMPT, max_length=2500)

_PROMPT_3072 = evolve(_PROMPT, max_length=3072)

_IMAGE = Field(type="media", medium="image", max_bytes=10 * _MEGABYTE)

_IMAGE_50_MB = evolve(_IMAGE, max_bytes=50 * _MEGABYTE)

_VIDEO = Field(type="media", medium="video")

_UNIT = Field(type="number", minimum=0, maximum=1)

_TILT = Field(type="number", minimum=-10, maximum=10)

_WHOLE = Field(type="integer")

_YES = Field(type="boolean", default=True)

_NO = Field(type="boolean", default=False)


def _one_of(*choices: str, default: str | None = None) -> Field:
    return Field(type="string", choices=choices, default=default)


def _seconds(first: int, last: int, step: int = 1, default: int | None = 5) -> Field:
    choices = tuple(range(first, last + 1, step))
    return Field(type="integer", choices=choices, default=default)


def _list_of(item: Field, least: int | None = None, most: int | None = None) -> Field:
    return Field(type="array", items=item, min_items=least, max_items=most)


def _object(required: str = "", **properties: Field) -> Field:
    return Field(type="object", properties=properties, required=tuple(required.split()))


_AXES_OF_TILT = _object("", **dict.fromkeys(_AXES, _TILT))

_POINT = _object("x y", x=_WHOLE, y=_WHOLE)

_SHOT = _object("prompt", prompt=_PROMPT_3072, duration=_seconds(1, 15))

_SHOTS = evolve(_list_of(_SHOT, 1, 6), nullable=True)

_ELEMENT = _object(
    "reference_image_urls frontal_image_url",
    reference_image_urls=_list_of(_IMAGE, 1, 4),
    frontal_image_url=_IMAGE,
)

_ELEMENT_OR_VIDEO = _object(
    "reference_image_urls", **_ELEMENT.properties, video_url=_VIDEO
)

# What a field takes unless the model says otherwise.
_FIELDS: Mapping[str, Field] = {
    "prompt": _PROMPT,
    "multi_prompt": _list_of(_PROMPT),
    "negative_prompt": _TEXT,
    "image_url": _IMAGE,
    "tail_image_url": _IMAGE,
    "last_image_url": _IMAGE,
    "image_list": _list_of(_IMAGE, 1, 7),
    "video_url": _VIDEO,
    "audio_url": Field(type="media", medium="audio", max_bytes=5 * _MEGABYTE),
    "elements": _list_of(_ELEMENT, None, 4),
    "duration": _seconds(5, 10, step=5),
    "aspect_ratio": _one_of(*_RATIOS, default="16:9"),
    "cfg_scale": _UNIT,
    "static_mask": _IMAGE,
    "dynamic_masks": _list_of(
        _object("mask trajectories", mask=_IMAGE, trajectories=_list_of(_POINT, 2, 77)),
        None,
        6,
    ),
    "camera_control": _object(
        type=_one_of("simple", *_MOVES),
        config=_AXES_OF_TILT,
    ),
    "advanced_camera_control": _object(
        "movement_type movement_value",
        movement_type=_one_of(*_AXES),
        movement_value=evolve(_WHOLE, minimum=-10, maximum=10),
    ),
    "generate_audio": _YES,
    "keep_audio": _NO,
    "shot_type": _one_of("customize", "intelligent", default="customize"),
    "character_orientation": _one_of("image", "video", default="video"),
    "mode": _one_of("std", "pro", default="std"),
    "effect_scene": _one_of(*_SCENES),
    "provider": Field(
        type="string",
        choices=("auto", "kling", "klingai", "fal"),
        aliases={"klingai": "kling"},
        any_case=True,
        default="auto",
    ),
}

# What only the older schemas name, for some of the models.
LEGACY_FIELDS: Mapping[str, Field] = {
    "ratio": evolve(_one_of(*_RATIOS), legacy=True, deprecated=True),
    "aspect_ratio": evolve(_one_of(*_RATIOS), legacy=True, deprecated=True),
    "tail_image_url": evolve(_IMAGE, legacy=True),
    "type": evolve(_one_of("image-to-video"), legacy=True),
    "external_task_id": evolve(_TEXT, legacy=True),
}


@frozen(kw_only=True)
class Rule:
    """What holds between several fields of one request.

    Attributes:
        text: The rule in words.
        check: Returns the problem, if a body breaks the rule.
    """

    text: str
    check: Callable[[Mapping[str, object]], Problem | None] = field(repr=False)


def _prompt_or_shots(body: Mapping[str, object]) -> Problem | None:
    has_shots = body.get("multi_prompt") is not None
    if ("prompt" in body) is not has_shots:
        return None
    allowed = "exactly one of prompt and multi_prompt"
    if has_shots:
        return Problem("multi_prompt", "both prompt and multi_prompt", allowed)
    return Problem("prompt", "neither prompt nor multi_prompt", allowed)


def _tail_without_audio(body: Mapping[str, object]) -> Problem | None:
    if "tail_image_url" not in body or body.get("generate_audio", True) is not True:
        return None
    given = "True" if "generate_audio" in body else "nothing, which means True"
    hint = "This model takes no last frame where it makes sound."
    allowed = "False, since tail_image_url is given"
    return Problem("generate_audio", given, allowed, hint)


def _one_video_element(body: Mapping[str, object]) -> Problem | None:
    elements = body.get("elements")
    if not isinstance(elements, (list, tuple)):
        return None
    videos = sum(isinstance(it, Mapping) and "video_url" in it for it in elements)
    allowed = "at most one element with a video_url"
    return Problem("elements", f"{videos} of them", allowed) if videos > 1 else None


PROMPT_OR_SHOTS = Rule(
    text="exactly one of prompt and multi_prompt", check=_prompt_or_shots
)

TAIL_WITHOUT_AUDIO = Rule(
    text="tail_image_url only with generate_audio false", check=_tail_without_audio
)

ONE_VIDEO_ELEMENT = Rule(
    text="at most one of the elements with a video_url", check=_one_video_element
)


@frozen
class Family:
    """A set of fields that several models share.

    Attributes:
        names: The names of the fields; ``!`` marks those that are required.
        special: Those of the fields that take something else than usual.
        rules: What holds between several fields.
        notes: What the vendor asks that cannot be checked here.
    """

    names: str
    special: Mapping[str, Field] = field(factory=dict[str, Field])
    rules: tuple[Rule, ...] = ()
    notes: tuple[str, ...] = ()

    def plus(self, names: str) -> Family:
        """Return the family with more fields."""
        return evolve(self, names=f"{self.names} {names}")

    @property
    def fields(self) -> dict[str, Field]:
        """What each field takes."""
        special = {**_FIELDS, **self.special}
        return {name: special[name] for name in self.names.replace("!", "").split()}

    @property
    def required(self) -> tuple[str, ...]:
        """The fields that must be given."""
        return tuple(name[:-1] for name in self.names.split() if name.endswith("!"))


_MASKS = "duration negative_prompt cfg_scale static_mask dynamic_masks camera_control"

_UP_TO_15 = {"duration": _seconds(3, 15)}

_V3_RULES = (PROMPT_OR_SHOTS, ONE_VIDEO_ELEMENT)

_V3_FIELDS = {**_UP_TO_15, "elements": _list_of(_ELEMENT_OR_VIDEO, None, 4)}

_OMNI_FIELDS = {
    **_V3_FIELDS,
    "shot_type": Field(
        type="string",
        choices=("customize", "intelligent", "intelligence"),
        aliases={"intelligence": "intelligent"},
        default="customize",
    ),
}

_O1_FIELDS = {"prompt": _PROMPT_2500}

_TURBO_FIELDS = {
    **_UP_TO_15,
    "prompt": _PROMPT_3072,
    "multi_prompt": _SHOTS,
    "image_url": _IMAGE_50_MB,
}

_NO_RATIO = {"aspect_ratio": _one_of(*_RATIOS)}

_PROMPT_NOTE = "the older schemas of some of these models require a prompt"

_CAMERA_NOTE = (
    "Kling's own API takes one of these only: a last frame, masks, camera_control"
)

_MOTION_NOTE = (
    "the reference video lasts at most 10 s with character_orientation image, "
    "30 s with video"
)

IMAGE_1 = Family(
    f"image_url! prompt tail_image_url {_MASKS}", notes=(_PROMPT_NOTE, _CAMERA_NOTE)
)

IMAGE_2 = Family(f"image_url! prompt {_MASKS}", notes=(_PROMPT_NOTE, _CAMERA_NOTE))

IMAGE_PLAIN = Family("image_url! prompt! duration negative_prompt cfg_scale provider")

IMAGE_3 = Family(
    "image_url! prompt multi_prompt tail_image_url duration elements shot_type "
    "generate_audio negative_prompt cfg_scale provider",
    _V3_FIELDS,
    _V3_RULES,
)

IMAGE_OMNI = evolve(
    IMAGE_3, special=_OMNI_FIELDS, rules=(*_V3_RULES, TAIL_WITHOUT_AUDIO)
)

IMAGE_TURBO = Family(
    "image_url! prompt multi_prompt duration", _TURBO_FIELDS, (PROMPT_OR_SHOTS,)
)

TEXT_1 = Family(
    "prompt! aspect_ratio duration negative_prompt cfg_scale camera_control "
    "advanced_camera_control",
    {"camera_control": _one_of(*_MOVES), "duration": _seconds(5, 10, 5, default=None)},
)

TEXT_PLAIN = Family(
    "prompt! aspect_ratio duration negative_prompt cfg_scale provider", _NO_RATIO
)

TEXT_3 = Family(
    "prompt multi_prompt aspect_ratio duration shot_type generate_audio "
    "negative_prompt cfg_scale provider",
    _UP_TO_15,
    (PROMPT_OR_SHOTS,),
)

TEXT_OMNI = evolve(TEXT_3, special=_OMNI_FIELDS)

TEXT_TURBO = Family(
    "prompt multi_prompt aspect_ratio duration", _TURBO_FIELDS, (PROMPT_OR_SHOTS,)
)

IMAGE_26 = Family(
    "image_url! prompt! duration negative_prompt generate_audio provider", _O1_FIELDS
)

TEXT_26 = Family(
    "prompt! aspect_ratio duration negative_prompt cfg_scale generate_audio provider",
    {**_O1_FIELDS, **_NO_RATIO},
)

SEVERAL_IMAGES = Family(
    "image_list! prompt aspect_ratio duration negative_prompt",
    {"image_list": _list_of(_IMAGE, 2, 4)},
)

O1_IMAGE = Family("image_url! prompt! last_image_url duration provider", _O1_FIELDS)

O1_REFERENCE = Family(
    "prompt! image_list elements aspect_ratio duration provider", _O1_FIELDS
)

O1_EDIT = Family(
    "video_url! prompt! image_list elements keep_audio provider", _O1_FIELDS
)

O1_VIDEO = Family(
    "video_url! prompt! image_list elements aspect_ratio duration keep_audio provider",
    {**_O1_FIELDS, "image_list": _list_of(_IMAGE, 1, 4)},
)

MOTION = Family(
    "image_url! video_url! prompt character_orientation keep_audio mode",
    {"keep_audio": _YES},
    notes=(_MOTION_NOTE,),
)

EFFECTS = Family(
    "image_url! effect_scene! duration", {"image_url": evolve(_IMAGE, or_list=True)}
)

AVATAR = Family("image_url! audio_url! prompt provider", _O1_FIELDS)

Kind = Literal[
    "image-to-video",
    "text-to-video",
    "multi-image-to-video",
    "reference-to-video",
    "video-to-video-edit",
    "video-to-video-reference",
    "motion-control",
    "effects",
    "avatar",
]

Source = Literal["page", "run"]

KINDS: tuple[Kind, ...] = get_args(Kind)

_USUAL_LENGTH = 5


@frozen(kw_only=True)
class Model:
    """One Kling model: what it is for and what it takes.

    Attributes:
        id: The id that a request names.
        kind: What it makes of what.
        fields: What each field takes, legacy ones too.
        required: The fields that must be given.
        rules: What holds between several fields.
        notes: What the vendor asks that cannot be checked here.
        durations: How long the work takes, in seconds, by the length of the
            video in seconds; empty where nobody says.
        durations_by: How that is known: ``page``, the vendor's page says so;
            ``run``, it shows one run that took as long.
        price: What a video costs, in USD; None, since the vendor's documents
            name no price. `AsyncKling.price` asks the server.
    """

    id: str
    kind: Kind
    fields: Mapping[str, Field]
    required: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    notes: tuple[str, ...] = ()
    durations: Mapping[int, float] = field(factory=dict[int, float])
    durations_by: Source | None = None
    price: float | None = None

    @property
    def legacy_fields(self) -> tuple[str, ...]:
        """The fields that only the older of the vendor's schemas names."""
        return tuple(name for name, it in self.fields.items() if it.legacy)

    @property
    def deprecated(self) -> Mapping[str, str | None]:
        """Deprecated fields, each with the one to use instead; None if there is none.

        Where a video begins with an image, its shape is that of the image.
        """
        old = [name for name, it in self.fields.items() if it.deprecated]
        instead = None if "aspect_ratio" in old else "aspect_ratio"
        return {name: instead if name == "ratio" else None for name in old}

    def typical_seconds(
        self, video_length_seconds: float | None = None
    ) -> float | None:
        """Return how long a generation takes, or None where nobody says.

        Args:
            video_length_seconds: The length of the video; the server's default
                if left out. A length that nobody speaks of is taken in
                proportion to the nearest one.
        """
        if not self.durations:
            return None
        duration = self.fields.get("duration")
        default = duration.default if duration else None
        length = video_length_seconds or float(default or _USUAL_LENGTH)
        known = min(self.durations, key=lambda seconds: abs(seconds - length))
        return self.durations[known] * length / known


_I: Kind = "image-to-video"

_T: Kind = "text-to-video"

_OLD_IMAGE, _OLD_TASK = "ratio aspect_ratio", "type external_task_id"

# id, kind, fields, and what only the older of its schemas names
_TABLE: tuple[tuple[str, Kind, Family, str], ...] = (
    ("kling-video/v1/standard/image-to-video", _I, IMAGE_1, _OLD_IMAGE),
    ("kling-video/v1/pro/image-to-video", _I, IMAGE_1, _OLD_IMAGE),
    ("kling-video/v1.5/standard/image-to-video", _I, IMAGE_1, _OLD_TASK),
    ("kling-video/v1.5/pro/image-to-video", _I, IMAGE_1, ""),
    (
        "kling-video/v1.6/standard/image-to-video",
        _I,
        IMAGE_PLAIN,
        f"tail_image_url {_OLD_IMAGE}",
    ),
    ("kling-video/v1.6/pro/image-to-video", _I, IMAGE_1, _OLD_IMAGE),
    ("kling-video/v2.1/standard/image-to-video", _I, IMAGE_2, _OLD_TASK),
    ("kling-video/v2.1/pro/image-to-video", _I, IMAGE_2, ""),
    ("klingai/v2-master-image-to-video", _I, IMAGE_2.plus("provider"), ""),
    ("klingai/v2.1-master-image-to-video", _I, IMAGE_2.plus("provider"), ""),
    ("klingai/v2.5-turbo/pro/image-to-video", _I, IMAGE_PLAIN, ""),
    ("klingai/video-v2-6-pro-image-to-video", _I, IMAGE_26, "tail_image_url"),
    ("klingai/video-o1-image-to-video", _I, O1_IMAGE, ""),
    ("klingai/video-v3-standard-image-to-video", _I, IMAGE_3, ""),
    ("klingai/video-v3-pro-image-to-video", _I, IMAGE_3, ""),
    ("klingai/video-v3-standard-turbo-image-to-video", _I, IMAGE_TURBO, ""),
    ("klingai/video-v3-turbo-pro-image-to-video", _I, IMAGE_TURBO, ""),
    ("klingai/video-v3-omni-720p-image-to-video", _I, IMAGE_OMNI, ""),
    ("klingai/video-v3-omni-1080p-image-to-video", _I, IMAGE_OMNI, ""),
    ("kling-video/v1/standard/text-to-video", _T, TEXT_1, "ratio"),
    ("kling-video/v1/pro/text-to-video", _T, TEXT_1, "ratio"),
    ("kling-video/v1.5/pro/text-to-video", _T, TEXT_1, ""),
    ("kling-video/v1.6/standard/text-to-video", _T, TEXT_PLAIN, "ratio"),
    ("kling-video/v1.6/pro/text-to-video", _T, TEXT_1, ""),
    ("klingai/v2-master-text-to-video", _T, TEXT_1.plus("provider"), ""),
    ("klingai/v2.1-master-text-to-video", _T, TEXT_1.plus("provider"), ""),
    ("klingai/v2.5-turbo/pro/text-to-video", _T, TEXT_PLAIN, ""),
    ("klingai/video-v2-6-pro-text-to-video", _T, TEXT_26, ""),
    ("klingai/video-v3-standard-text-to-video", _T, TEXT_3, ""),
    ("klingai/video-v3-pro-text-to-video", _T, TEXT_3, ""),
    ("klingai/video-v3-standard-turbo-text-to-video", _T, TEXT_TURBO, ""),
    ("klingai/video-v3-turbo-pro-text-to-video", _T, TEXT_TURBO, ""),
    ("klingai/video-v3-omni-720p-text-to-video", _T, TEXT_OMNI, ""),
    ("klingai/video-v3-omni-1080p-text-to-video", _T, TEXT_OMNI, ""),
    (
        "kling-video/v1.6/standard/multi-image-to-video",
        "multi-image-to-video",
        SEVERAL_IMAGES,
        "",
    ),
    (
        "klingai/video-o1-reference-to-video",
        "reference-to-video",
        O1_REFERENCE,
        "",
    ),
    ("klingai/video-o1-video-to-video-edit", "video-to-video-edit", O1_EDIT, ""),
    (
        "klingai/video-o1-video-to-video-reference",
        "video-to-video-reference",
        O1_VIDEO,
        "",
    ),
    ("klingai/video-v2-6-motion-control", "motion-control", MOTION, ""),
    ("klingai/video-v3-motion-control", "motion-control", MOTION, ""),
    ("klingai/kling-video-v1.6-standard-effects", "effects", EFFECTS, ""),
    ("klingai/kling-video-v1.6-pro-effects", "effects", EFFECTS, ""),
    ("klingai/avatar-standard", "avatar", AVATAR, ""),
    ("klingai/avatar-pro", "avatar", AVATAR, ""),
)

# Seconds of work by seconds of video, from the vendor's pages of August 2026: the
# middle of what a page says, or what the run took that it shows. Where the length
# hangs on a sound or a video that was given, it is taken for 5 s.
_MASTER = {5: 330.0, 10: 750.0}

_PLAIN_2_1 = {5: 210.0, 10: 420.0}

_SAID: Mapping[str, Mapping[int, float]] = {
    "klingai/v2-master-image-to-video": _MASTER,
    "klingai/v2-master-text-to-video": _MASTER,
    "klingai/v2.1-master-image-to-video": _MASTER,
    "klingai/v2.1-master-text-to-video": _MASTER,
    "kling-video/v2.1/standard/image-to-video": _PLAIN_2_1,
    "kling-video/v2.1/pro/image-to-video": _PLAIN_2_1,
}

_SHOWN: Mapping[str, Mapping[int, float]] = {
    "kling-video/v1/standard/image-to-video": {5: 249},
    "kling-video/v1/pro/image-to-video": {5: 204},
    "kling-video/v1.6/standard/image-to-video": {5: 122},
    "kling-video/v1.6/pro/image-to-video": {5: 186},
    "klingai/v2.5-turbo/pro/image-to-video": {5: 130},
    "klingai/video-v2-6-pro-image-to-video": {5: 110},
    "klingai/video-o1-image-to-video": {5: 79},
    "klingai/video-v3-standard-image-to-video": {10: 235},
    "klingai/video-v3-pro-image-to-video": {10: 401},
    "kling-video/v1/standard/text-to-video": {5: 322},
    "kling-video/v1/pro/text-to-video": {5: 78},
    "kling-video/v1.6/standard/text-to-video": {5: 186},
    "kling-video/v1.6/pro/text-to-video": {5: 186},
    "klingai/v2.5-turbo/pro/text-to-video": {5: 160},
    "klingai/video-v2-6-pro-text-to-video": {5: 152},
    "klingai/video-v3-standard-text-to-video": {8: 431},
    "klingai/video-v3-pro-text-to-video": {8: 381},
    "kling-video/v1.6/standard/multi-image-to-video": {5: 127},
    "klingai/video-o1-reference-to-video": {5: 126},
    "klingai/video-o1-video-to-video-edit": {5: 235},
    "klingai/video-o1-video-to-video-reference": {5: 203},
    "klingai/video-v2-6-motion-control": {5: 356},
    "klingai/kling-video-v1.6-standard-effects": {5: 100},
    "klingai/kling-video-v1.6-pro-effects": {5: 120},
    "klingai/avatar-standard": {5: 240},
    "klingai/avatar-pro": {5: 530},
}


def _model(model_id: str, kind: Kind, family: Family, legacy: str) -> Model:
    said, shown_run = _SAID.get(model_id, {}), _SHOWN.get(model_id, {})
    return Model(
        id=model_id,
        kind=kind,
        fields=MappingProxyType(
            family.fields | {name: LEGACY_FIELDS[name] for name in legacy.split()}
        ),
        required=family.required,
        rules=family.rules,
        notes=family.notes,
        durations=MappingProxyType(dict(said or shown_run)),
        durations_by="page" if said else "run" if shown_run else None,
    )


MODELS: Mapping[str, Model] = MappingProxyType(
    {line[0]: _model(*line) for line in _TABLE}
)
"""Every Kling video model that the vendor documents, by its id."""

_SHOWN_MODELS = 2


def problems_in(
    model: str,
    body: Mapping[str, object],
    *,
    local_media: bool = False,
    unchecked: Collection[str] = (),
) -> list[Problem]:
    """Return everything that is wrong with a body for a model.

    Args:
        model: The model's id. Of an unknown one nothing is known to be wrong.
        body: The request as on the wire, with or without ``model``.
        local_media: Whether paths and bytes may stand where media is taken.
        unchecked: Fields that are taken as they are.
    """
    known = MODELS.get(model)
    if known is None:
        return []
    given = {name: value for name, value in body.items() if name != "model"}
    problems = list(_missing(known, given))
    for name, value in given.items():
        rule = known.fields.get(name)
        if name in unchecked:
            continue
        if rule is None:
            problems.append(_not_taken(known, name, given))
        else:
            problems += problems_with(name, value, rule, local_media=local_media)
    wrong = {problem.field for problem in problems} | set(unchecked)
    broken = (rule.check(given) for rule in known.rules)
    return problems + [it for it in broken if it and it.field not in wrong]


def problems_in_types(
    body: Mapping[str, object], *, local_media: bool = False
) -> list[Problem]:
    """Return what no Kling model would take, for a model that is unknown."""
    problems: list[Problem] = []
    for name, value in body.items():
        tries = [
            list(
                problems_with(name, value, rule.of_any_size(), local_media=local_media)
            )
            for rule in {id(it): it for it in _every_field(name)}.values()
        ]
        if tries and all(tries):
            problems += tries[0]
    return problems


def _every_field(name: str) -> Iterator[Field]:
    for model in MODELS.values():
        if name in model.fields:
            yield model.fields[name]


def _missing(model: Model, given: Mapping[str, object]) -> Iterator[Problem]:
    for name in model.required:
        if name not in given:
            allowed = model.fields[name].allowed
            yield Problem(name, "nothing", allowed, "It is required.")


def _not_taken(model: Model, name: str, given: Mapping[str, object]) -> Problem:
    meant = did_you_mean(name, [it for it in model.fields if it not in given])
    hints = [hint for hint in (meant, _taken_by(name, model.kind)) if hint]
    return Problem(
        field=name,
        given=short_repr(given[name]),
        allowed=f"only {', '.join(model.fields)}",
        hint=" ".join(hints) or None,
    )


def _taken_by(name: str, kind: Kind) -> str | None:
    """Return which models take a field, the newest of the same kind named."""
    takers = [model for model in MODELS.values() if name in model.fields]
    if not takers:
        return None
    takers.sort(key=lambda model: (model.kind == kind, not model.fields[name].legacy))
    names = ", ".join(model.id for model in takers[-_SHOWN_MODELS:])
    if len(takers) <= _SHOWN_MODELS:
        return f"It is taken by {names}."
    return f"It is taken by {len(takers)} other models, such as {names}."


def nearest_model(model_id: object) -> str | None:
    """Return the known model id that was probably meant."""
    return closest_match(model_id, MODELS)

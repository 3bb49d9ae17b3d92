"""What the fields of Kling models take, and the sets of them that models share.

Data, from the vendor's OpenAPI files of August 2026 and the descriptions in
them. Which model belongs to which family is said in `_catalogue`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from attrs import evolve, field, frozen

from kling_async._errors import Problem
from kling_async._fields import Field

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

"""The types of what request fields take, for editors and type checkers.

Made by `nox -s catalogue`, never edited: see docs/contributing.md.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Literal, Required, TypeAlias, TypedDict

Media: TypeAlias = str | bytes | os.PathLike[str]
"""A web address, a base64 data URI, the path of a local file, or its bytes."""


# fmt: off
Seconds = Literal[
    3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, "3", "4", "5", "6", "7", "8", "9",
    "10", "11", "12", "13", "14", "15",
]
# fmt: on

# fmt: off
CameraMove = Literal[
    "down_back", "forward_up", "right_turn_forward", "left_turn_forward",
]
# fmt: on

Ratio = Literal["16:9", "9:16", "1:1"]

Provider = Literal["auto", "kling", "klingai", "fal"]

# fmt: off
ShotSeconds = Literal[
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, "1", "2", "3", "4", "5", "6",
    "7", "8", "9", "10", "11", "12", "13", "14", "15",
]
# fmt: on

ShotType = Literal["customize", "intelligent", "intelligence"]

CameraAxis = Literal["horizontal", "vertical", "pan", "tilt", "roll", "zoom"]

# fmt: off
EffectScene = Literal[
    "magic_fireball", "pet_moto_rider", "media_interview", "pet_lion",
    "pet_delivery", "pet_chef", "santa_gifts", "santa_hug", "girlfriend",
    "boyfriend", "heart_gesture_1", "pet_wizard", "smoke_smoke", "thumbs_up",
    "instant_kid", "dollar_rain", "cry_cry", "building_collapse", "gun_shot",
    "mushroom", "double_gun", "pet_warrior", "lightning_power", "jesus_hug",
    "shark_alert", "long_hair", "lie_flat", "polar_bear_hug", "brown_bear_hug",
    "jazz_jazz", "office_escape_plow", "fly_fly", "watermelon_bomb", "pet_dance",
    "boss_coming", "wool_curly", "iron_warrior", "pet_bee", "marry_me",
    "swing_swing", "day_to_night", "piggy_morph", "wig_out", "car_explosion",
    "ski_ski", "tiger_hug", "siblings", "construction_worker", "let's_ride",
    "snatched", "magic_broom", "felt_felt", "jumpdrop", "celebration",
    "splashsplash", "hula", "surfsurf", "fairy_wing", "angel_wing", "dark_wing",
    "skateskate", "plushcut", "jelly_press", "jelly_slice", "jelly_squish",
    "jelly_jiggle", "pixelpixel", "yearbook", "instant_film", "anime_figure",
    "rocketrocket", "bloombloom", "dizzydizzy", "fuzzyfuzzy", "squish", "expansion",
    "hug", "kiss", "heart_gesture", "fight",
]
# fmt: on


class Point(TypedDict):
    """A point of a trajectory, in pixels."""

    x: int
    y: int


class DynamicMask(TypedDict):
    """A part of the picture, and the 2 to 77 points along which it moves."""

    mask: Media
    trajectories: Sequence[Point]


class CameraAxes(TypedDict, total=False):
    """How the camera moves along each axis: -10 to 10 each, 0 for not at all."""

    horizontal: float
    vertical: float
    pan: float
    tilt: float
    roll: float
    zoom: float


class CameraControl(TypedDict, total=False):
    """A camera movement: one of the ready-made ones, or ``simple`` with axes."""

    type: Literal[
        "simple", "down_back", "forward_up", "right_turn_forward", "left_turn_forward"
    ]
    config: CameraAxes


class Shot(TypedDict, total=False):
    """One shot of several: what it shows, and how many seconds, 1 to 15."""

    prompt: Required[str]
    duration: ShotSeconds


class Element(TypedDict, total=False):
    """A person or thing to keep: 1 to 4 images of it, a frontal one, or a video."""

    reference_image_urls: Required[Sequence[Media]]
    frontal_image_url: Media
    video_url: str


class AdvancedCameraControl(TypedDict):
    """A camera movement along one axis: a whole number from -10 to 10."""

    movement_type: CameraAxis
    movement_value: int


# fmt: off
ImageToVideoModel = Literal[
    "kling-video/v1/standard/image-to-video", "kling-video/v1/pro/image-to-video",
    "kling-video/v1.5/standard/image-to-video",
    "kling-video/v1.5/pro/image-to-video",
    "kling-video/v1.6/standard/image-to-video",
    "kling-video/v1.6/pro/image-to-video",
    "kling-video/v2.1/standard/image-to-video",
    "kling-video/v2.1/pro/image-to-video", "klingai/v2-master-image-to-video",
    "klingai/v2.1-master-image-to-video", "klingai/v2.5-turbo/pro/image-to-video",
    "klingai/video-v2-6-pro-image-to-video", "klingai/video-o1-image-to-video",
    "klingai/video-v3-standard-image-to-video",
    "klingai/video-v3-pro-image-to-video",
    "klingai/video-v3-standard-turbo-image-to-video",
    "klingai/video-v3-turbo-pro-image-to-video",
    "klingai/video-v3-omni-720p-image-to-video",
    "klingai/video-v3-omni-1080p-image-to-video",
]
# fmt: on

# fmt: off
TextToVideoModel = Literal[
    "kling-video/v1/standard/text-to-video", "kling-video/v1/pro/text-to-video",
    "kling-video/v1.5/pro/text-to-video", "kling-video/v1.6/standard/text-to-video",
    "kling-video/v1.6/pro/text-to-video", "klingai/v2-master-text-to-video",
    "klingai/v2.1-master-text-to-video", "klingai/v2.5-turbo/pro/text-to-video",
    "klingai/video-v2-6-pro-text-to-video",
    "klingai/video-v3-standard-text-to-video", "klingai/video-v3-pro-text-to-video",
    "klingai/video-v3-standard-turbo-text-to-video",
    "klingai/video-v3-turbo-pro-text-to-video",
    "klingai/video-v3-omni-720p-text-to-video",
    "klingai/video-v3-omni-1080p-text-to-video",
]
# fmt: on

MultiImageToVideoModel = Literal["kling-video/v1.6/standard/multi-image-to-video"]

ReferenceToVideoModel = Literal["klingai/video-o1-reference-to-video"]

# fmt: off
VideoToVideoModel = Literal[
    "klingai/video-o1-video-to-video-edit",
    "klingai/video-o1-video-to-video-reference",
]
# fmt: on

# fmt: off
MotionControlModel = Literal[
    "klingai/video-v2-6-motion-control", "klingai/video-v3-motion-control",
]
# fmt: on

# fmt: off
EffectsModel = Literal[
    "klingai/kling-video-v1.6-standard-effects",
    "klingai/kling-video-v1.6-pro-effects",
]
# fmt: on

AvatarModel = Literal["klingai/avatar-standard", "klingai/avatar-pro"]

AnyModel = (
    ImageToVideoModel
    | TextToVideoModel
    | MultiImageToVideoModel
    | ReferenceToVideoModel
    | VideoToVideoModel
    | MotionControlModel
    | EffectsModel
    | AvatarModel
)


class GenerationParams(TypedDict, total=False):
    """What `AsyncKling.create` takes by name: a model, and its fields."""

    model: AnyModel | str
    image_url: Media | Sequence[Media] | None
    prompt: str | None
    tail_image_url: Media | None
    duration: Seconds | None
    negative_prompt: str | None
    cfg_scale: float | None
    static_mask: Media | None
    dynamic_masks: Sequence[DynamicMask] | None
    camera_control: CameraControl | CameraMove | None
    ratio: Ratio | None
    aspect_ratio: Ratio | None
    type: Literal["image-to-video"] | None
    external_task_id: str | None
    provider: Provider | None
    generate_audio: bool | None
    last_image_url: Media | None
    multi_prompt: Sequence[str | Shot] | None
    elements: Sequence[Element] | None
    shot_type: ShotType | None
    advanced_camera_control: AdvancedCameraControl | None
    image_list: Sequence[Media] | None
    video_url: str | None
    keep_audio: bool | None
    character_orientation: Literal["image", "video"] | None
    mode: Literal["std", "pro"] | None
    effect_scene: EffectScene | None
    audio_url: Media | None
    extra: Mapping[str, object]

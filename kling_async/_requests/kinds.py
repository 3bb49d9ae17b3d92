"""The request classes: one for each kind of generation.

Made by `nox -s catalogue`, never edited: see docs/contributing.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from attrs import frozen

from kling_async._requests.catalogue import Kind
from kling_async._requests.classes import Request, check_keywords
from kling_async._requests.params import (
    AdvancedCameraControl,
    AvatarModel,
    CameraControl,
    CameraMove,
    DynamicMask,
    EffectScene,
    EffectsModel,
    Element,
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


@check_keywords
@frozen(kw_only=True, repr=False)
class ImageToVideo(Request):
    """A video that begins with an image.

    `kling_async.models` lists the fields and values of each model.

    Attributes:
        image_url: The first frame: a URL, a base64 data URI, a path, or bytes. Kling
            documents JPEG or PNG, up to 10 MB, each side 300 px or more, aspect ratio
            2:5 to 5:2.
        prompt: What happens. Up to 2,500 characters (o1, v2.6), 3,072 (v3 turbo).
        multi_prompt: In place of ``prompt``, v3 only: what happens shot by shot; for
            the turbo models 1 to 6 shots of 1 to 15 s each.
        tail_image_url: The last frame, given like ``image_url``.
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
    multi_prompt: Sequence[str | Shot] | None = None
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


@check_keywords
@frozen(kw_only=True, repr=False)
class TextToVideo(Request):
    """A video from words alone.

    Attributes:
        prompt: What it shows. Up to 2,500 characters (v2.6), 3,072 (v3 turbo).
        multi_prompt: In place of ``prompt``, v3 only: what it shows shot by shot; for
            the turbo models 1 to 6 shots of 1 to 15 s each.
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
    multi_prompt: Sequence[str | Shot] | None = None
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


@check_keywords
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
    duration: Literal[5, 10, "5", "10"] | None = None
    negative_prompt: str | None = None


@check_keywords
@frozen(kw_only=True, repr=False)
class ReferenceToVideo(Request):
    """A video that keeps the persons, things and styles of reference images.

    Attributes:
        prompt: What happens, up to 2,500 characters; images and elements are named in
            it as ``@Image1``, ``@Element1``.
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
    duration: Literal[5, 10, "5", "10"] | None = None
    provider: Provider | None = None


@check_keywords
@frozen(kw_only=True, repr=False)
class VideoToVideo(Request):
    """A video edited, or a new one after a reference video.

    Attributes:
        video_url: The web address of the video.
        prompt: What to change, or what the new video shows, up to 2,500 characters.
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
    duration: Literal[5, 10, "5", "10"] | None = None
    provider: Provider | None = None


@check_keywords
@frozen(kw_only=True, repr=False)
class MotionControl(Request):
    """A figure from an image that moves as somebody in a video does.

    Attributes:
        image_url: The figure: a URL, a base64 data URI, a path, or bytes.
        video_url: The web address of the video with the movement: at most 10 s with
            ``character_orientation`` image, 30 s with video.
        prompt: What happens around it.
        character_orientation: Whether the figure faces as in the image or as in the
            video; the server's default is video.
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


@check_keywords
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
    duration: Literal[5, 10, "5", "10"] | None = None


@check_keywords
@frozen(kw_only=True, repr=False)
class Avatar(Request):
    """A person in an image who speaks or sings a sound file.

    Attributes:
        image_url: The person: a URL, a base64 data URI, a path, or bytes.
        audio_url: The sound, given like ``image_url``: MP3, WAV, M4A or AAC, up to 5
            MB.
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

"""Right and wrong uses of requests, for type checkers alone: never run.

Each wrong line has a comment that makes mypy and pyright pass over the error there. If
a type loosens, the comment is unnecessary, which either of them reports as an error.
"""
# pyright: reportUnnecessaryTypeIgnoreComment=true

from __future__ import annotations

from pathlib import Path
from typing import assert_type

import attrs

from kling_async import (
    AsyncKling,
    Avatar,
    Effects,
    Generation,
    ImageToVideo,
    MotionControl,
    MultiImageToVideo,
    ReferenceToVideo,
    Request,
    TextToVideo,
    VideoToVideo,
    models,
)
from kling_async.types import CameraControl, DynamicMask, Element, Media, Seconds, Shot

URL = "https://example.com/a.png"


def right_requests(media: Media, anywhere: Path, some_id: str) -> list[Request]:
    """Show what every checker has to accept."""
    shots: list[Shot] = [{"prompt": "a"}, {"prompt": "b", "duration": 3}]
    elements: list[Element] = [
        {"reference_image_urls": [URL, anywhere, b"x"], "frontal_image_url": media},
        {"reference_image_urls": [URL], "video_url": URL},
    ]
    masks: list[DynamicMask] = [
        {"mask": anywhere, "trajectories": [{"x": 1, "y": 2}, {"x": 3, "y": 4}]}
    ]
    camera: CameraControl = {"type": "simple", "config": {"zoom": 3, "pan": -1.5}}
    return [
        ImageToVideo(image_url=URL),
        ImageToVideo(image_url=media, prompt=None, duration="10"),
        ImageToVideo(
            model="klingai/v2-master-image-to-video",
            image_url=b"x",
            camera_control=camera,
            dynamic_masks=masks,
        ),
        ImageToVideo(model=some_id, image_url=URL, elements=elements, extra={"a": 1}),
        ImageToVideo(image_url=URL, camera_control={"type": "down_back"}),
        TextToVideo(prompt="a", aspect_ratio="9:16", duration=15, generate_audio=False),
        TextToVideo(multi_prompt=shots, shot_type="intelligent"),
        TextToVideo(multi_prompt=["a", "b"]),
        TextToVideo(multi_prompt=[{"prompt": "a", "duration": 3}]),
        TextToVideo(prompt="a", camera_control="down_back"),
        TextToVideo(
            prompt="a",
            advanced_camera_control={"movement_type": "pan", "movement_value": 3},
        ),
        MultiImageToVideo(image_list=[URL, anywhere]),
        ReferenceToVideo(prompt="a", image_list=(URL, b"x")),
        VideoToVideo(video_url=URL, prompt="a", keep_audio=True),
        MotionControl(image_url=URL, video_url=URL, mode="pro"),
        Effects(image_url=[URL, anywhere], effect_scene="let's_ride"),
        Effects(image_url=anywhere, effect_scene="kiss"),
        Avatar(image_url=anywhere, audio_url=anywhere, provider="kling"),
        Request(model="klingai/v9", extra={"prompt": "a"}),
        attrs.evolve(TextToVideo(prompt="a"), prompt="b"),
    ]


async def right_calls(kling: AsyncKling, request: Request, some_id: str) -> None:
    """Show the two ways to call, and what comes back."""
    assert_type(await kling.create(request), Generation)
    assert_type(await kling.create(model=some_id, prompt="a"), Generation)
    assert_type(
        await kling.generate(
            model="klingai/v2-master-image-to-video",
            image_url=Path("mona.jpg"),
            prompt="Mona Lisa puts on glasses with her hands.",
            duration=5,
            timeout=60,
        ),
        Generation,
    )
    await kling.create(model=some_id, multi_prompt=[{"prompt": "a"}], extra={"b": 1})
    await kling.create(request, client_request_id="scene-12")


def right_look_ups() -> None:
    """Show what can be asked of the catalogue."""
    assert_type(models.list("avatar"), list[models.Model])
    assert_type(models.get("x").required, tuple[str, ...])
    assert_type(models.get("x").typical_seconds(5), float | None)
    assert_type(TextToVideo(prompt="a").duration, Seconds | None)
    assert_type(TextToVideo(prompt="a"), TextToVideo)


def wrong_requests() -> None:
    """Show what every checker has to refuse, one thing wrong in each line."""
    ImageToVideo()  # type: ignore[call-arg]
    ImageToVideo(URL)  # type: ignore[arg-type, call-arg]
    ImageToVideo(image_url=3)  # type: ignore[arg-type]
    ImageToVideo(image_url=None)  # type: ignore[arg-type]
    ImageToVideo(image_url=URL, colour="red")  # type: ignore[call-arg]
    ImageToVideo(image_url=URL, duratoin=5)  # type: ignore[call-arg]
    ImageToVideo(image_url=URL, duration=16)  # type: ignore[arg-type]
    ImageToVideo(image_url=URL, duration="2")  # type: ignore[arg-type]
    ImageToVideo(image_url=URL, cfg_scale="a")  # type: ignore[arg-type]
    ImageToVideo(image_url=URL, camera_control="down_back")  # type: ignore[arg-type]
    ImageToVideo(image_url=URL, camera_control={"type": "spin"})  # type: ignore[arg-type]
    ImageToVideo(image_url=URL, camera_control={"config": {"zom": 1}})  # type: ignore[arg-type]
    ImageToVideo(image_url=URL, dynamic_masks=[{"mask": URL}])  # type: ignore[typeddict-item]
    ImageToVideo(image_url=URL, elements=[{"frontal_image_url": URL}])  # type: ignore[typeddict-item]
    ImageToVideo(image_url=URL, multi_prompt=[{"duration": 3}])  # type: ignore[list-item]
    ImageToVideo(image_url=URL, shot_type="clever")  # type: ignore[arg-type]
    ImageToVideo(image_url=URL, provider="aws")  # type: ignore[arg-type]
    ImageToVideo(image_url=URL, type="text-to-video")  # type: ignore[arg-type]
    TextToVideo(prompt=3)  # type: ignore[arg-type]
    TextToVideo(prompt="a", image_url=URL)  # type: ignore[call-arg]
    TextToVideo(prompt="a", aspect_ratio="4:3")  # type: ignore[arg-type]
    TextToVideo(prompt="a", camera_control={"type": "simple"})  # type: ignore[arg-type]
    TextToVideo(prompt="a", advanced_camera_control={"movement_type": "pan"})  # type: ignore[arg-type]
    TextToVideo(prompt="a", generate_audio="yes")  # type: ignore[arg-type]
    TextToVideo(prompt="a", model=3)  # type: ignore[arg-type]
    TextToVideo(prompt="a", extra=[1])  # type: ignore[arg-type]
    MultiImageToVideo(image_list=3)  # type: ignore[arg-type]
    MultiImageToVideo(image_list=[3])  # type: ignore[list-item]
    MultiImageToVideo(image_list=[URL], duration=7)  # type: ignore[arg-type]
    ReferenceToVideo(image_list=[URL])  # type: ignore[call-arg]
    VideoToVideo(video_url=Path("film.mp4"), prompt="a")  # type: ignore[arg-type]
    MotionControl(image_url=URL, video_url=URL, mode="best")  # type: ignore[arg-type]
    MotionControl(image_url=URL, video_url=URL, character_orientation="up")  # type: ignore[arg-type]
    Effects(image_url=URL, effect_scene="hugg")  # type: ignore[arg-type]
    Effects(image_url=URL)  # type: ignore[call-arg]
    Avatar(image_url=URL, audio_url=3)  # type: ignore[arg-type]
    TextToVideo(prompt="a").prompt = "b"  # type: ignore[misc]


async def wrong_calls(kling: AsyncKling, request: Request) -> None:
    """Likewise."""
    await kling.create(request, promt="a")  # type: ignore[call-arg]
    await kling.create(model="x", colour="red")  # type: ignore[call-arg]
    await kling.create(model=3)  # type: ignore[arg-type]
    await kling.create(model="x", duration=99)  # type: ignore[arg-type]
    await kling.create(model="x", aspect_ratio="4:3")  # type: ignore[arg-type]
    await kling.create(model="x", effect_scene="hugg")  # type: ignore[arg-type]
    await kling.create(model="x", image_url=3)  # type: ignore[arg-type]
    await kling.generate(model="x", provider="aws")  # type: ignore[arg-type]
    models.list("image")  # type: ignore[arg-type]

"""The types of what request fields take, to annotate your own code with.

`shots: list[Shot] = [{"prompt": "A cat wakes", "duration": 3}]` is then checked where
it is written. Names and shapes are the wire's.
"""

from __future__ import annotations

from kling_async._requests.params import (
    AdvancedCameraControl,
    CameraAxes,
    CameraAxis,
    CameraControl,
    CameraMove,
    DynamicMask,
    EffectScene,
    Element,
    GenerationParams,
    Media,
    Point,
    Provider,
    Ratio,
    Seconds,
    Shot,
    ShotType,
)

__all__ = [
    "AdvancedCameraControl",
    "CameraAxes",
    "CameraAxis",
    "CameraControl",
    "CameraMove",
    "DynamicMask",
    "EffectScene",
    "Element",
    "GenerationParams",
    "Media",
    "Point",
    "Provider",
    "Ratio",
    "Seconds",
    "Shot",
    "ShotType",
]

for _public in (
    AdvancedCameraControl,
    CameraAxes,
    CameraControl,
    DynamicMask,
    Element,
    GenerationParams,
    Point,
    Shot,
):
    # Tracebacks and the docs are to show the names that users import.
    _public.__module__ = __name__
del _public

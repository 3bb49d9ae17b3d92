"""The types of what request fields take, to annotate your own code with.

`shots: list[Shot] = [{"prompt": "A cat wakes", "duration": 3}]` is then checked where
it is written. Names and shapes are the wire's.
"""

from __future__ import annotations

from kling_async._requests.params import (
    AdvancedCameraControl as AdvancedCameraControl,
    CameraAxes as CameraAxes,
    CameraAxis as CameraAxis,
    CameraControl as CameraControl,
    CameraMove as CameraMove,
    DynamicMask as DynamicMask,
    EffectScene as EffectScene,
    Element as Element,
    GenerationParams as GenerationParams,
    Media as Media,
    Point as Point,
    Provider as Provider,
    Ratio as Ratio,
    Seconds as Seconds,
    Shot as Shot,
    ShotType as ShotType,
)

# Tracebacks and the docs are to show the names that users import.
for _value in list(globals().values()):
    if getattr(_value, "__module__", "") == "kling_async._requests.params":
        _value.__module__ = __name__

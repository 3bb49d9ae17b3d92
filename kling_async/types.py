"""The types of request fields, for annotations in your own code.

A type checker then checks `shots: list[Shot] = [{"prompt": "A cat wakes", "duration":
3}]` where you write it. Names and shapes are those of the API.
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

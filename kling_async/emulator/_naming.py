"""The ids of generations, in the vendor's two forms, and what they are good for.

A model of the older line gets a UUID with a route, a newer one a short token.
"""

from __future__ import annotations

import random
import re
import string
import uuid

_TOKEN_LENGTH = 21
_TOKEN_ALPHABET = string.ascii_letters + string.digits + "_-"
_WELL_FORMED = re.compile(
    r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}(?::[A-Za-z0-9._/-]{1,200})?"
    rf"|[A-Za-z0-9_-]{{{_TOKEN_LENGTH}}}"
)
_NEWER = re.compile(r"klingai/(video|avatar)-")
_TIER = re.compile(r"-(standard|pro|master)-")


def new_id(model: str, chance: random.Random) -> str:
    """Make the id of a generation by a model."""
    if _NEWER.match(model):
        return new_token(chance)
    return f"{new_uuid(chance)}:{_route_of(model)}"


def new_token(chance: random.Random) -> str:
    """Make a random id of the short form that a seed can repeat."""
    return "".join(chance.choices(_TOKEN_ALPHABET, k=_TOKEN_LENGTH))


def new_uuid(chance: random.Random) -> str:
    """Make a random UUID that a seed can repeat."""
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def is_well_formed(generation_id: str) -> bool:
    """Whether a text could be the id of a generation."""
    return _WELL_FORMED.fullmatch(generation_id) is not None


def file_name_of(generation_id: str) -> str:
    """Return the name of a generation's file: the unique part of its id."""
    return f"{generation_id.partition(':')[0]}.mp4"


def _route_of(model: str) -> str:
    """Return ``kling-video/v2/master/image-to-video``, however the model says it."""
    name = re.sub(r"^(klingai/)?(kling-video[/-])?", "", model)
    tiered = _TIER.sub(r"/\1/", name)
    return f"kling-video/{tiered}"

"""What will become of a generation, decided when it is created.

Pure: chance and time come in from outside, and nothing runs in between.
"""

from __future__ import annotations

import math
import random

from attrs import frozen

from kling_async._catalogue import MODELS
from kling_async._generation import GenerationError, Status

_SPREAD = 0.12  # as the standard deviation of the logarithm: about 12 %
_QUEUED = (3.0, 30.0)
_V3_SECONDS = 135.0
_USUAL_SECONDS = {5: 330.0, 10: 750.0}
_FAILURES = (
    GenerationError(
        name="ContentPolicyViolation",
        message="The content was flagged by the provider's safety system",
    ),
    GenerationError(
        name="GenerationTimeout",
        message="The provider did not finish the generation in time",
    ),
    GenerationError(
        name="ProviderError",
        message="Something went wrong at the provider. Please try again later",
    ),
)


@frozen(kw_only=True)
class Plan:
    """The life of one generation, in seconds since its create.

    Attributes:
        starts_after: When it leaves the queue.
        ends_after: When it is completed, or fails.
        error: Why it fails; None if it does not.
    """

    starts_after: float
    ends_after: float
    error: GenerationError | None = None

    def status_at(self, elapsed: float) -> Status:
        """Return the status after so many seconds."""
        if elapsed < self.starts_after:
            return Status.QUEUED
        if elapsed < self.ends_after:
            return Status.GENERATING
        return Status.COMPLETED if self.error is None else Status.ERROR


def plan_for(
    model: str,
    length: int,
    *,
    chance: random.Random,
    speed: float,
    failure_rate: float,
) -> Plan:
    """Draw the life of a generation.

    Args:
        model: The model's id.
        length: The video's length in seconds.
        chance: Where chance comes from; the same seed gives the same life.
        speed: How many times faster than the vendor.
        failure_rate: The share of generations that fail, 0 to 1.
    """
    queued = chance.uniform(*_QUEUED)
    work = typical_seconds(model, length) * math.exp(chance.gauss(0, _SPREAD))
    fails = chance.random() < failure_rate
    error, share_done = chance.choice(_FAILURES), chance.uniform(0.05, 1)
    return Plan(
        starts_after=queued / speed,
        ends_after=(queued + work * (share_done if fails else 1)) / speed,
        error=error if fails else None,
    )


def typical_seconds(model: str, length: int) -> float:
    """Return the median time that a model works on a video of so many seconds.

    As documented where it is; else as its nearest relative, in proportion.
    """
    known = MODELS[model].typical_seconds(length)
    if known is not None:
        return known
    if "-v3-" in model:
        return _V3_SECONDS * length / 5
    nearest = min(_USUAL_SECONDS, key=lambda seconds: abs(seconds - length))
    return _USUAL_SECONDS[nearest] * length / nearest

"""The accepted generations: their ids, their plans, their statuses.

The outcome of a generation is decided when it is created.
"""

from __future__ import annotations

import heapq
import math
import random
import re
import string
import uuid
from collections.abc import Mapping
from http import HTTPStatus

from attrs import define, field, frozen
from starlette.responses import JSONResponse

from kling_async._billing.money import usd_of
from kling_async._generation import GenerationError, Status
from kling_async._requests.catalogue import catalogue_in_use
from kling_async.emulator._ledger import Ledger
from kling_async.emulator._protocol import Refusal
from kling_async.emulator._video import Scene

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
    """Make a random id of the short form, repeatable by a seed."""
    return "".join(chance.choices(_TOKEN_ALPHABET, k=_TOKEN_LENGTH))


def new_uuid(chance: random.Random) -> str:
    """Make a random UUID, repeatable by a seed."""
    return str(uuid.UUID(int=chance.getrandbits(128), version=4))


def is_well_formed(generation_id: str) -> bool:
    """Whether a text could be the id of a generation."""
    return _WELL_FORMED.fullmatch(generation_id) is not None


def file_name_of(generation_id: str) -> str:
    """Return the name of a generation's file: the unique part of its id."""
    return f"{generation_id.partition(':')[0]}.mp4"


def _route_of(model: str) -> str:
    """Return a model's route, such as ``kling-video/v2/master/image-to-video``."""
    name = re.sub(r"^(klingai/)?(kling-video[/-])?", "", model)
    tiered = _TIER.sub(r"/\1/", name)
    return f"kling-video/{tiered}"


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
    """Choose the life of a generation at random.

    Args:
        model: The model's id.
        length: The video's length in seconds.
        chance: The random generator; the same seed gives the same life.
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
    """Return the median seconds that a model works on a video of some length.

    It is the documented time, else that of the most similar model, in proportion.
    """
    known = catalogue_in_use()[model].typical_seconds(length)
    if known is not None:
        return known
    if "-v3-" in model:
        return _V3_SECONDS * length / 5
    nearest = min(_USUAL_SECONDS, key=lambda seconds: abs(seconds - length))
    return _USUAL_SECONDS[nearest] * length / nearest


@frozen(kw_only=True)
class CreateRecord:
    """A create that was accepted: a generation that a real account would pay for.

    Attributes:
        generation_id: The id that it was given.
        model: The model's id.
        client_request_id: The ``X-Client-Request-Id`` it came with, if it had one
            that the vendor would keep.
    """

    generation_id: str
    model: str
    client_request_id: str | None


@frozen(kw_only=True)
class ChargeRecord:
    """A generation that was completed and paid for.

    Attributes:
        generation_id: Its id.
        model: The model's id.
        client_request_id: The ``X-Client-Request-Id`` of its create, if any.
        credits: What it cost.
        usd: The same in USD.
    """

    generation_id: str
    model: str
    client_request_id: str | None
    credits: int
    usd: float


@frozen(kw_only=True)
class StoredGeneration:
    """One accepted generation.

    Attributes:
        record: Its ids and model.
        request: The create's body, with long texts shortened.
        scene: What its video shows.
        plan: Its outcome, and when.
        price: What it costs if it succeeds, in credits.
        created_at: When it was accepted, in seconds since 1970.
    """

    record: CreateRecord
    request: Mapping[str, object]
    scene: Scene
    plan: Plan
    price: int
    created_at: float

    @property
    def id(self) -> str:
        """The generation's id."""
        return self.record.generation_id

    @property
    def file_name(self) -> str:
        """The name of its video's file."""
        return file_name_of(self.id)

    @property
    def ends_at(self) -> float:
        """When it is completed, or fails."""
        return self.created_at + self.plan.ends_after

    def status_at(self, now: float) -> Status:
        """Return its status at a time."""
        return self.plan.status_at(now - self.created_at)

    def credits_used_at(self, now: float) -> int:
        """Return its cost so far: nothing until it is completed."""
        return self.price if self.status_at(now) == Status.COMPLETED else 0


@define(kw_only=True, eq=False)
class GenerationStore:
    """All generations of one emulator.

    Attributes:
        seed: The seed; the same creates have the same lives.
        speed: How many times faster than the vendor.
        failure_rate: The share of generations that fail.
        account: The account that pays.
        max_running: How many may be unfinished at once; None for any number.
        nulls: Whether answers contain absent values as null.
        ended: The generations that have ended and are settled, in that order.
    """

    seed: int
    speed: float
    failure_rate: float
    account: Ledger
    max_running: int | None = None
    nulls: bool = False
    ended: list[StoredGeneration] = field(factory=list[StoredGeneration], init=False)
    _scenes: dict[str, Scene] = field(factory=dict[str, Scene], init=False)
    _jobs: dict[str, StoredGeneration] = field(
        factory=dict[str, StoredGeneration], init=False
    )
    _ids_by_file: dict[str, str] = field(factory=dict[str, str], init=False)
    _unsettled: list[tuple[float, str]] = field(
        factory=list[tuple[float, str]], init=False
    )

    @property
    def jobs(self) -> list[StoredGeneration]:
        """All generations, in order."""
        return [*self._jobs.values()]

    @property
    def creates(self) -> list[CreateRecord]:
        """The accepted creates, in order."""
        return [job.record for job in self._jobs.values()]

    @property
    def charges(self) -> list[ChargeRecord]:
        """The charges so far, in order."""
        return [
            ChargeRecord(
                generation_id=job.id,
                model=job.record.model,
                client_request_id=job.record.client_request_id,
                credits=job.price,
                usd=usd_of(job.price),
            )
            for job in self.ended
            if job.plan.error is None
        ]

    def accept(
        self,
        request: Mapping[str, object],
        scene: Scene,
        *,
        price: int,
        now: float,
        client_request_id: str | None,
    ) -> StoredGeneration:
        """Accept a valid create.

        Raises:
            Refusal: Too many are unfinished, or there are not enough credits.
        """
        self.settle(now)
        self._require_room(now)
        if not self.account.covers(price):
            raise Refusal(
                HTTPStatus.FORBIDDEN,
                "You've run out of credits. Please top up your balance to continue",
            )
        # Equal scenes are kept once.
        scene = self._scenes.setdefault(scene.key, scene)
        job = self._draw(request, scene, price, now, client_request_id)
        self.take_on(job)
        return job

    def take_on(self, job: StoredGeneration) -> None:
        """Add a generation, and reserve its price."""
        self.account.hold(job.price)
        self._jobs[job.id] = job
        self._ids_by_file[job.file_name] = job.id
        heapq.heappush(self._unsettled, (job.ends_at, job.id))

    def _require_room(self, now: float) -> None:
        most = self.max_running
        if most is not None and len(self._unsettled) >= most:
            raise Refusal.too_many(
                f"Too many generations at once: at most {most} may be unfinished",
                self._unsettled[0][0] - now,
            )

    def _draw(
        self,
        request: Mapping[str, object],
        scene: Scene,
        price: int,
        now: float,
        client_request_id: str | None,
    ) -> StoredGeneration:
        # By its number, so that it depends neither on other lives nor on timing.
        chance = random.Random(f"{self.seed}/{len(self._jobs)}")  # noqa: S311 (no secret)
        model = catalogue_in_use()[str(request["model"])].id
        plan = plan_for(
            model,
            scene.length,
            chance=chance,
            speed=self.speed,
            failure_rate=self.failure_rate,
        )
        generation_id = new_id(model, chance)
        while generation_id in self._jobs:
            generation_id = new_id(model, chance)
        record = CreateRecord(
            generation_id=generation_id,
            model=model,
            client_request_id=client_request_id,
        )
        return StoredGeneration(
            record=record,
            request=request,
            scene=scene,
            plan=plan,
            price=price,
            created_at=now,
        )

    def settle(self, now: float) -> None:
        """Charge the generations that have completed, and release those that failed."""
        while self._unsettled and self._unsettled[0][0] <= now:
            job = self._jobs[heapq.heappop(self._unsettled)[1]]
            self.ended.append(job)
            if job.plan.error is not None:
                self.account.release(job.price)
                continue
            self.account.charge(
                job.price, at=job.ends_at, model=job.record.model, reference_id=job.id
            )

    def find(self, generation_id: str) -> StoredGeneration | None:
        """Return the generation with an id."""
        return self._jobs.get(generation_id)

    def find_file(self, name: str) -> StoredGeneration | None:
        """Return the generation whose video's file has a name."""
        return self._jobs.get(self._ids_by_file.get(name, ""))


def generation_response(
    job: StoredGeneration,
    now: float,
    *,
    http_status: int = HTTPStatus.OK,
    video: Mapping[str, object] | None = None,
    nulls: bool = False,
) -> JSONResponse:
    """Return the answer for a generation at a time, with the tracing headers.

    Args:
        job: The generation.
        now: The time, in seconds since 1970.
        http_status: The HTTP status.
        video: Its video, if it is completed.
        nulls: Whether absent values are sent as null, or left out.
    """
    status, spent = job.status_at(now), job.credits_used_at(now)
    error = job.plan.error if status == Status.ERROR else None
    usage = {"credits_used": spent, "usd_spent": usd_of(spent)}
    body = {
        "id": job.id,
        "status": status,
        "video": video,
        "error": {"name": error.name, "message": error.message} if error else None,
        "meta": {"usage": usage} if video or error else None,
    }
    if not nulls:
        body = {name: value for name, value in body.items() if value is not None}
    headers = {
        "x-inference-id": job.id,
        "x-aimlapi-credits-used": str(spent),
        "x-aimlapi-usd-spent": f"{usd_of(spent):.9f}",
    }
    return JSONResponse(body, http_status, headers)

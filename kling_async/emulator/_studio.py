"""The generations that were accepted, and how far each of them is.

A status is worked out when someone asks, from the time that has passed: nothing
runs in between. Knows nothing of HTTP.
"""

from __future__ import annotations

import heapq
import random
from collections.abc import Mapping
from http import HTTPStatus

from attrs import define, field, frozen

from kling_async._generation import Status
from kling_async.emulator._ledger import Account
from kling_async.emulator._naming import file_name_of, new_id
from kling_async.emulator._plan import Plan, plan_for
from kling_async.emulator._pricing import usd
from kling_async.emulator._refusals import Refusal
from kling_async.emulator._scene import Scene


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
class Job:
    """One accepted generation.

    Attributes:
        record: Which one it is.
        request: The create's body, its long texts cut.
        scene: What its video shows.
        plan: What becomes of it, and when.
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
        """The name that its video is served under."""
        return file_name_of(self.id)

    @property
    def ends_at(self) -> float:
        """When it is completed, or fails."""
        return self.created_at + self.plan.ends_after

    def status_at(self, now: float) -> Status:
        """Return its status at a time."""
        return self.plan.status_at(now - self.created_at)

    def credits_used_at(self, now: float) -> int:
        """Return what it has cost so far: all of it when completed, else nothing."""
        return self.price if self.status_at(now) == Status.COMPLETED else 0


@define(kw_only=True, eq=False)
class Studio:
    """All generations of one emulator.

    Attributes:
        seed: What chance starts from; the same creates have the same lives.
        speed: How many times faster than the vendor.
        failure_rate: The share of generations that fail.
        account: Who pays.
        max_running: How many may be unfinished at once; None for any number.
        ended: The generations that are over and settled, in the order they ended.
    """

    seed: int
    speed: float
    failure_rate: float
    account: Account
    max_running: int | None = None
    ended: list[Job] = field(factory=list[Job], init=False)
    _scenes: dict[str, Scene] = field(factory=dict[str, Scene], init=False)
    _jobs: dict[str, Job] = field(factory=dict[str, Job], init=False)
    _ids_by_file: dict[str, str] = field(factory=dict[str, str], init=False)
    _unsettled: list[tuple[float, str]] = field(
        factory=list[tuple[float, str]], init=False
    )

    @property
    def jobs(self) -> list[Job]:
        """All generations, in order."""
        return [*self._jobs.values()]

    @property
    def creates(self) -> list[CreateRecord]:
        """What was accepted, in order."""
        return [job.record for job in self._jobs.values()]

    @property
    def charges(self) -> list[ChargeRecord]:
        """What was completed and paid for so far, in order."""
        return [
            ChargeRecord(
                generation_id=job.id,
                model=job.record.model,
                client_request_id=job.record.client_request_id,
                credits=job.price,
                usd=usd(job.price),
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
    ) -> Job:
        """Take a valid create on.

        Raises:
            Refusal: Too many are unfinished, or the credits do not suffice.
        """
        self.settle(now)
        self._require_room(now)
        if not self.account.covers(price):
            raise Refusal(
                HTTPStatus.FORBIDDEN,
                "You've run out of credits. Please top up your balance to continue",
            )
        # What looks the same is kept once.
        scene = self._scenes.setdefault(scene.key, scene)
        job = self._draw(request, scene, price, now, client_request_id)
        self.take_on(job)
        return job

    def take_on(self, job: Job) -> None:
        """Add a generation, and set aside what it will cost."""
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
    ) -> Job:
        # By its number, so that a life hangs neither on others' nor on the timing.
        chance = random.Random(f"{self.seed}/{len(self._jobs)}")  # noqa: S311 (no secret)
        model = str(request["model"])
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
        return Job(
            record=record,
            request=request,
            scene=scene,
            plan=plan,
            price=price,
            created_at=now,
        )

    def settle(self, now: float) -> None:
        """Charge what has been completed since, and free what has failed."""
        while self._unsettled and self._unsettled[0][0] <= now:
            job = self._jobs[heapq.heappop(self._unsettled)[1]]
            self.ended.append(job)
            if job.plan.error is not None:
                self.account.release(job.price)
                continue
            self.account.charge(
                job.price, at=job.ends_at, model=job.record.model, reference_id=job.id
            )

    def find(self, generation_id: str) -> Job | None:
        """Return the generation of an id."""
        return self._jobs.get(generation_id)

    def find_file(self, name: str) -> Job | None:
        """Return the generation whose video is served under a name."""
        return self._jobs.get(self._ids_by_file.get(name, ""))

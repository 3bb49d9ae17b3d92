"""What is kept of a job: how far it is, what is to be done, what became of it.

Values, and each as JSON and back. Asks no database.
"""

from __future__ import annotations

import datetime as dt
import enum
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

from attrs import evolve, frozen

from kling_async._errors import (
    ConfigurationError,
    DecodeError,
    GenerationFailedError,
    JobError,
    SubmissionUncertainError,
)
from kling_async._generation import Generation
from kling_async._http.wire import Response, decode_polled

JSON: TypeAlias = Mapping[str, object]

# What comes of an entry that somebody else has written, or written over.
MALFORMED = (
    AttributeError,
    DecodeError,
    LookupError,
    OSError,
    OverflowError,
    TypeError,
    ValueError,
)


class JobState(enum.StrEnum):
    """How far a job is."""

    QUEUED = "queued"
    """Nothing has been sent yet."""
    RUNNING = "running"
    """A worker has it: it is being created, waited for, or downloaded."""
    DONE = "done"
    """The video is there, and written if the job has an output."""
    FAILED = "failed"
    """It ended without a video; `DurableKling.resubmit` would pay for a new one."""
    UNCERTAIN = "uncertain"
    """A create was sent, its answer was lost, and the vendor's log shows no outcome."""
    HELD = "held"
    """Something has to be fixed first (budget, key, disk); nothing is lost or sent."""
    CANCELLED = "cancelled"
    """It was cancelled. A created generation goes on at the server, and is billed."""

    @property
    def is_final(self) -> bool:
        """Whether it stays so until somebody decides otherwise."""
        return self not in (JobState.QUEUED, JobState.RUNNING)


@frozen(kw_only=True)
class Intent:
    """The decision to send one create, written down before it is sent.

    Attributes:
        client_request_id: What the create is sent with.
        at: When it was decided (UTC).
    """

    client_request_id: str
    at: dt.datetime

    def to_json(self) -> dict[str, object]:
        """Give it as JSON."""
        return {
            "client_request_id": self.client_request_id,
            "at": self.at.isoformat(),
        }

    @classmethod
    def from_json(cls, value: JSON) -> Intent:
        """Read what `to_json` gave."""
        return cls(
            client_request_id=str(value["client_request_id"]),
            at=dt.datetime.fromisoformat(str(value["at"])),
        )


@frozen(kw_only=True)
class JobInput:
    """One attempt at a job: what a worker is to do.

    Attributes:
        workflow_id: Which, in the engine.
        batch: The batch it belongs to, and whose budget it is paid from.
        request: The request as `_stored` keeps it.
        output: The file to write the video to.
        adopt: The id of a generation that is there already: none is created.
        resolve: A create whose answer was lost: the vendor's log is asked for it,
            and nothing is sent.
        instead_of: The attempt whose generation this one goes on with, and whose
            place it takes in the batch's account.
    """

    workflow_id: str
    batch: str
    request: JSON
    output: str | None = None
    adopt: str | None = None
    resolve: Intent | None = None
    instead_of: str | None = None

    def to_json(self) -> dict[str, object]:
        """Give it as JSON."""
        return {
            "workflow_id": self.workflow_id,
            "batch": self.batch,
            "request": self.request,
            "output": self.output,
            "adopt": self.adopt,
            "settle": self.resolve.to_json() if self.resolve else None,
            "instead_of": self.instead_of,
        }

    @classmethod
    def from_json(cls, value: JSON) -> JobInput:
        """Read what `to_json` gave."""
        return cls(
            workflow_id=str(value["workflow_id"]),
            batch=str(value["batch"]),
            request=_as_mapping(value.get("request")) or {},
            output=_text(value.get("output")),
            adopt=_text(value.get("adopt")),
            resolve=_intent(value.get("settle")),
            instead_of=_text(value.get("instead_of")),
        )


@frozen(kw_only=True)
class AttemptResult:
    """What became of an attempt.

    Attributes:
        state: How it ended.
        error: Why there is no video, in words.
        kind: The name of the error's class.
        generation_id: The generation, where one is known to exist.
        generation: The generation as last seen.
        intent: The create that it hangs on, where its answer was lost.
        unsent: Whether a create certainly did not reach the server, so that it
            may be sent again.
        is_delivered: Whether its video is in its place.
    """

    state: JobState
    error: str | None = None
    kind: str | None = None
    generation_id: str | None = None
    generation: Generation | None = None
    intent: Intent | None = None
    unsent: bool = False
    is_delivered: bool = False

    def to_json(self) -> dict[str, object]:
        """Give it as JSON."""
        seen = self.generation
        return {
            "state": self.state.value,
            "error": self.error,
            "kind": self.kind,
            "generation_id": self.generation_id,
            "generation": dict(seen.raw) if seen else None,
            "client_request_id": seen.client_request_id if seen else None,
            "intent": self.intent.to_json() if self.intent else None,
            "unsent": self.unsent,
            "delivered": self.is_delivered,
        }

    @classmethod
    def from_json(cls, value: JSON) -> AttemptResult:
        """Read what `to_json` gave."""
        return cls(
            state=JobState(str(value["state"])),
            error=_text(value.get("error")),
            kind=_text(value.get("kind")),
            generation_id=_text(value.get("generation_id")),
            generation=_generation(value),
            intent=_intent(value.get("intent")),
            unsent=value.get("unsent") is True,
            is_delivered=value.get("delivered") is True,
        )


def _generation(value: JSON) -> Generation | None:
    """Read the server's answer again, as it came."""
    generation_id = _text(value.get("generation_id"))
    raw = _as_mapping(value.get("generation"))
    if generation_id is None or not raw:
        return None
    answer = Response(status_code=200, headers={}, content=json.dumps(raw).encode())
    seen = decode_polled(answer, generation_id)
    return evolve(seen, client_request_id=_text(value.get("client_request_id")))


def _intent(value: object) -> Intent | None:
    given = _as_mapping(value)
    return Intent.from_json(given) if given else None


def _as_mapping(value: object) -> Mapping[str, object] | None:
    return value if isinstance(value, Mapping) else None


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


@frozen(kw_only=True)
class JobStatus:
    """A job as it is now.

    Attributes:
        key: Its name within the batch.
        batch: The batch it belongs to.
        state: How far it is.
        attempt: The number of the attempt that this tells of, from 1.
        model: The model asked for.
        output: The file, or the URL of the object, that its video is written to.
        generation_id: The generation, as soon as one is known to exist.
        generation: The generation as last seen, once the job has ended.
        intent: For an uncertain job: the create that it hangs on.
        error: Why there is no video, in words.
        kind: The name of the error's class.
        worker: The worker that has it, or had it last.
        created_at: When it was submitted (UTC).
        started_at: When a worker last took it from the queue (UTC).
        ended_at: When it ended (UTC).
    """

    key: str
    batch: str
    state: JobState
    attempt: int
    model: str | None = None
    output: Path | str | None = None
    generation_id: str | None = None
    generation: Generation | None = None
    intent: Intent | None = None
    error: str | None = None
    kind: str | None = None
    worker: str | None = None
    created_at: dt.datetime | None = None
    started_at: dt.datetime | None = None
    ended_at: dt.datetime | None = None

    @property
    def credits_used(self) -> float | None:
        """What it cost, in credits (2,000,000 are 1 USD), once that is known."""
        return self.generation.credits_used if self.generation else None


@frozen(kw_only=True)
class QueueItem:
    """A job to be enqueued.

    Attributes:
        job_input: What is to be done.
        fingerprint: What an equal request shares with it.
        model: The model asked for.
    """

    job_input: JobInput
    fingerprint: str
    model: str


def result_of(status: JobStatus) -> Generation:
    """Give the generation of a job that has ended.

    Raises:
        KlingError: It has none, for the reason that the job has.
    """
    generation, intent = status.generation, status.intent
    if status.state is JobState.DONE and generation is not None:
        return generation
    if status.state is JobState.UNCERTAIN and intent is not None:
        raise SubmissionUncertainError(
            client_request_id=intent.client_request_id, since=intent.at
        )
    if generation is not None and generation.failed:
        raise GenerationFailedError(generation)
    reason = status.error or "no reason was noted"
    error = JobError(
        f"job {status.key!r} is {status.state}: {reason}",
        key=status.key,
        state=status.state,
    )
    if status.generation_id is not None:
        error.concerning(status.generation_id, generation)
    raise error


def state_from(given: JobState | str) -> JobState:
    """Read the name of a state.

    Raises:
        ConfigurationError: There is none of that name.
    """
    try:
        return JobState(given)
    except ValueError:
        raise ConfigurationError(
            f"state: given {given!r}; allowed: {', '.join(JobState)}"
        ) from None

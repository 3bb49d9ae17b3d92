"""The quick way of a poll, since most requests by far ask for work under way.

Answers only what is plain. All else, and whatever is to be refused, takes the
ordinary way, which gives the very same answers.
"""

from __future__ import annotations

from urllib.parse import unquote_plus

from attrs import define
from starlette.responses import Response
from starlette.types import Scope

from kling_async._generation import Status
from kling_async.emulator._clock import Clock
from kling_async.emulator._door import Door
from kling_async.emulator._places import GENERATIONS
from kling_async.emulator._refusals import Refusal
from kling_async.emulator._studio import Job, Studio
from kling_async.emulator._telling import answer_of

_QUERY = b"generation_id="


@define(eq=False)
class Polls:
    """Answers polls of unfinished generations.

    Attributes:
        studio: The generations.
        clock: What time it is.
        door: Who may ask.
    """

    studio: Studio
    clock: Clock
    door: Door

    def answer(self, scope: Scope, authorization: str) -> tuple[Job, Response] | None:
        """Return the generation and the answer, if the request is a plain poll."""
        query: bytes = scope["query_string"]
        if (
            scope["method"] != "GET"
            or scope["path"] not in GENERATIONS
            or not query.startswith(_QUERY)
        ):
            return None
        job = self.studio.find(unquote_plus(query[len(_QUERY) :].decode("latin-1")))
        if job is None:
            return None
        now = self.clock.now()
        status = job.status_at(now)
        if status in {Status.COMPLETED, Status.ERROR}:
            return None
        try:
            self.door.let_in(authorization)
        except Refusal:
            return None
        return job, answer_of(job, now)

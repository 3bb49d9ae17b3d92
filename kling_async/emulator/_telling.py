"""How a generation is told on the wire: the one shape of creates and polls.

Pure; decides nothing about generations.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

from starlette.responses import JSONResponse

from kling_async._generation import Status
from kling_async.emulator._pricing import usd
from kling_async.emulator._studio import Job


def answer_of(
    job: Job,
    now: float,
    *,
    http_status: int = HTTPStatus.OK,
    video: Mapping[str, object] | None = None,
) -> JSONResponse:
    """Return the answer about a generation at a time, with the tracing headers.

    Args:
        job: The generation.
        now: What time it is.
        http_status: The HTTP status.
        video: Its video, if it is completed.
    """
    status, spent = job.status_at(now), job.credits_used_at(now)
    error = job.plan.error if status == Status.ERROR else None
    usage = {"credits_used": spent, "usd_spent": usd(spent)}
    body = {
        "id": job.id,
        "status": status,
        "video": video,
        "error": {"name": error.name, "message": error.message} if error else None,
        "meta": {"usage": usage} if video or error else None,
    }
    headers = {
        "x-inference-id": job.id,
        "x-aimlapi-credits-used": str(spent),
        "x-aimlapi-usd-spent": f"{usd(spent):.9f}",
    }
    return JSONResponse(body, http_status, headers)

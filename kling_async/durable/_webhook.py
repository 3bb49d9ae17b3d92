"""News of a job's end, to a URL of the user's: signed, at least once, for a day.

By the Standard Webhooks specification: an id that stays the same however often a
message comes, a timestamp, a signature. What is due is a workflow of the engine's, so
neither a crash nor a receiver that is down loses any. Knows no order.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import json
from collections.abc import Mapping
from typing import cast
from urllib.parse import urlsplit

import anyio
import httpx
from anyio.from_thread import BlockingPortal
from attrs import define, field, frozen
from dbos import DBOS, DBOSClient, StepOptions

from kling_async._checks import AddressPolicy, needs_extra
from kling_async._config import __version__
from kling_async._errors import ConfigurationError, KlingError
from kling_async._files.fetch import build_request, send
from kling_async._hooks import logger
from kling_async._text import safe_line
from kling_async.durable._database import APPLICATION
from kling_async.durable._records import JSON, AttemptResult, JobInput, JobState
from kling_async.durable._store import EVENT, event_id

EVENTS = "kling-events"

# How long one delivery may take, the pauses between, in seconds, and for how long.
_LIMIT = 15.0

_FIRST_PAUSE, _LONGEST_PAUSE = 5.0, 60 * 60.0

_DAY = 24 * 60 * 60.0

_ACCEPTED = range(200, 300)

_SHOWN = 200


@frozen(kw_only=True)
class Webhook:
    """Where to send news of jobs that end.

    Attributes:
        url: Takes a POST for each; https, unless private addresses are allowed.
        secret: What the messages are signed with: ``whsec_`` and base64, as the
            receiver has it. It is kept in no database.
        allow_private: Whether the URL may lead to an address that is not public.
    """

    url: str
    secret: str = field(repr=False)
    allow_private: bool = False

    def __attrs_post_init__(self) -> None:
        parts = urlsplit(self.url)
        schemes = ("https", "http") if self.allow_private else ("https",)
        if parts.scheme not in schemes or not parts.hostname or parts.username:
            raise ConfigurationError(
                f"webhook: given {safe_line(self.url, _SHOWN)!r}; allowed: an https "
                "URL without a user's name, or an http one with allow_private=True"
            )
        self.sign("check", dt.datetime.now(dt.UTC), "")

    def sign(self, message_id: str, at: dt.datetime, body: str) -> str:
        """Sign a message.

        Raises:
            ConfigurationError: The secret is none.
        """
        with needs_extra("webhooks", "standardwebhooks"):
            from standardwebhooks.webhooks import (
                Webhook as Signer,
            )
        try:
            signature: str = Signer(self.secret).sign(message_id, at, body)
        except (ValueError, RuntimeError, Exception) as error:  # noqa: BLE001
            raise ConfigurationError(
                f"the webhook's secret is invalid ({type(error).__name__}); allowed: "
                "whsec_ and base64, as `openssl rand -base64 32` makes it"
            ) from None
        return signature


@define(eq=False)
class Messenger:
    """What deliveries of this process run with.

    Attributes:
        webhook: Where they go.
        portal: The way to the client's event loop.
    """

    webhook: Webhook
    portal: BlockingPortal

    async def post(self, message_id: str, body: str) -> str:
        """Deliver once; give what is wrong, or nothing."""
        future = self.portal.start_task_soon(self._post, message_id, body)
        return await asyncio.wrap_future(future)

    async def _post(self, message_id: str, body: str) -> str:
        try:
            with anyio.fail_after(_LIMIT):
                return await _post(self.webhook, message_id, body)
        except TimeoutError:
            return f"no answer within {_LIMIT:g} s"
        except (KlingError, httpx.HTTPError, OSError) as error:
            what = error.reason if isinstance(error, KlingError) else str(error)
            return safe_line(f"{type(error).__name__}: {what}", _SHOWN)


async def _post(webhook: Webhook, message_id: str, body: str) -> str:
    now = dt.datetime.now(dt.UTC)
    headers = {
        "content-type": "application/json",
        "user-agent": f"kling_async/{__version__}",
        "webhook-id": message_id,
        "webhook-timestamp": str(int(now.timestamp())),
        "webhook-signature": webhook.sign(message_id, now, body),
    }
    reach = AddressPolicy("", webhook.allow_private)
    async with httpx.AsyncClient() as http:
        request = build_request(
            http, "POST", webhook.url, headers, _LIMIT, content=body.encode()
        )
        # Only the status counts: a redirect is none, and no body is read.
        response = await send(http, request, reach)
        await response.aclose()
    code = response.status_code
    return "" if code in _ACCEPTED else f"it answered {code}"


MESSENGERS: list[Messenger] = []


def message_of(job_input: JobInput, result: AttemptResult) -> JSON:
    """Tell what became of a job: no key, no request, no prompt."""
    _, batch, rest = job_input.workflow_id.split(":", 2)
    key, _, attempt = rest.rpartition(":")
    generation = result.generation
    video = generation.video if generation else None
    return {
        "type": f"job.{result.state}",
        "timestamp": dt.datetime.now(dt.UTC).isoformat(),
        "data": {
            "batch": batch,
            "key": key,
            "attempt": int(attempt),
            "state": str(result.state),
            "generation_id": result.generation_id,
            "output": job_input.output if result.state is JobState.DONE else None,
            "video_url": video.url if video else None,
            "credits_used": generation.credits_used if generation else None,
            "error": result.error and safe_line(result.error),
        },
    }


async def enqueue(
    client: DBOSClient, workflow_id: str, message: JSON, round_: int = 1
) -> None:
    """Have a message delivered; the same one again is the same delivery."""
    await client.enqueue_async(
        {
            "workflow_name": EVENT,
            "queue_name": EVENTS,
            "workflow_id": event_id(workflow_id, round_),
            "application_name": APPLICATION,
        },
        {"id": workflow_id, "message": message},
    )


@DBOS.workflow(name=EVENT, max_recovery_attempts=None)
async def deliver_event(given: dict[str, object]) -> dict[str, object]:
    """Deliver one message, again and again for a day."""
    if not MESSENGERS:
        raise asyncio.CancelledError
    messenger = MESSENGERS[0]
    body = json.dumps(given["message"], separators=(",", ":"))
    waited, pause = 0.0, _FIRST_PAUSE

    async def post() -> str:
        return await messenger.post(str(given["id"]), body)

    options: StepOptions = {"name": "post", "preemptible": True}
    while True:
        wrong = await DBOS.run_step_async(options, post)
        if not wrong:
            return {"delivered": True}
        if waited >= _DAY:
            logger.error("could not deliver the end of %s: %s", given["id"], wrong)
            return {"delivered": False, "error": wrong}
        await DBOS.sleep_async(pause)
        waited, pause = waited + pause, min(2 * pause, _LONGEST_PAUSE)


@frozen(kw_only=True)
class Undelivered:
    """News of a job's end that has not arrived.

    Attributes:
        key: The job.
        is_given_up: Whether nobody tries any more: `DurableKling.redeliver` does.
        error: What was wrong at last, where it is given up.
    """

    key: str
    is_given_up: bool
    error: str | None = None


async def undelivered(client: DBOSClient, batch: str) -> list[Undelivered]:
    """List the messages of a batch that have not arrived, one for each job."""
    rows = await client.list_workflows_async(name=EVENT, load_input=False)
    last: dict[str, tuple[int, Undelivered | None]] = {}
    for row in rows:
        found = row.workflow_id.split(":", 3)
        if len(found) != 4 or not found[3].startswith(f"{batch}:"):  # noqa: PLR2004 (its parts)
            continue
        key = found[3].removeprefix(f"{batch}:").rpartition(":")[0]
        output = row.output if isinstance(row.output, Mapping) else {}
        about: Undelivered | None = None
        if output.get("delivered") is not True:
            error = output.get("error")
            about = Undelivered(
                key=key,
                is_given_up=row.status not in ("ENQUEUED", "PENDING"),
                error=str(error) if error else None,
            )
        if int(found[1]) >= last.get(key, (0, None))[0]:
            last[key] = (int(found[1]), about)
    return [about for _, about in last.values() if about is not None]


async def redeliver(client: DBOSClient, batch: str, key: str) -> bool:
    """Begin a delivery anew; tell whether there was one to begin."""
    rows = await client.list_workflows_async(name=EVENT)
    best: tuple[tuple[int, int], str, JSON] | None = None
    for row in rows:
        found = row.workflow_id.split(":", 2)
        target, _, attempt = found[-1].rpartition(":")
        if target != f"kling:{batch}:{key}":
            continue
        given = cast("Mapping[str, list[dict[str, JSON]]]", row.input)["args"][0]
        order = (int(attempt), int(found[1]))
        if best is None or order > best[0]:
            best = (order, found[-1], given["message"])
    if best is None:
        return False
    await enqueue(client, best[1], best[2], best[0][1] + 1)
    return True

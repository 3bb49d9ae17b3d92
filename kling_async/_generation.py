"""A generation as the server describes it: its status, its video, its error.

Values only. Only this module decides which answer is final; `_http.wire` reads the
JSON.
"""

from __future__ import annotations

import datetime as dt
import html
from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import parse_qsl, urlsplit

from attrs import field, frozen

from kling_async._text import safe_line


class Status(str):
    """A generation's status: a string.

    The constants are the statuses in the vendor's schema and its example. The server
    may invent others: any text is a status.
    """

    __slots__ = ()

    QUEUED: ClassVar[Status]
    WAITING: ClassVar[Status]
    ACTIVE: ClassVar[Status]
    GENERATING: ClassVar[Status]
    COMPLETED: ClassVar[Status]
    ERROR: ClassVar[Status]
    UNKNOWN: ClassVar[Status]
    """Used if the server sent no status."""

    @property
    def is_known(self) -> bool:
        """Whether the vendor documents this status."""
        return self in KNOWN_STATUSES

    def __repr__(self) -> str:
        return f"Status({str(self)!r})"


Status.QUEUED = Status("queued")

Status.WAITING = Status("waiting")

Status.ACTIVE = Status("active")

Status.GENERATING = Status("generating")

Status.COMPLETED = Status("completed")

Status.ERROR = Status("error")

Status.UNKNOWN = Status("unknown")

_PENDING = frozenset(
    {Status.QUEUED, Status.WAITING, Status.ACTIVE, Status.GENERATING},
)

# The one object of each, by its text.
KNOWN_STATUSES: Mapping[str, Status] = {
    it: it for it in _PENDING | {Status.COMPLETED, Status.ERROR}
}


# Prefixes of links signed with a date and a lifetime: S3 and its like, Google, Aliyun.
_SIGNERS = ("x-amz", "x-goog", "x-oss")


@frozen(kw_only=True)
class Video:
    """A finished video.

    Attributes:
        url: Its link. Links expire: download soon, or `get` the generation again for a
            fresh one.
        content_type: Its media type, such as ``video/mp4``.
        file_name: The name the server gave it.
        file_size: Its size in bytes.
        extra: Everything else that the server sent about it, unchanged.
    """

    url: str
    content_type: str | None = None
    file_name: str | None = None
    file_size: int | None = None
    extra: Mapping[str, object] = field(factory=dict[str, object], eq=False)

    @property
    def is_on_the_web(self) -> bool:
        """Whether its link is HTTP, so that a page may use it."""
        return self.url.lower().startswith(("http://", "https://"))

    @property
    def expires_at(self) -> dt.datetime | None:
        """When the link expires, if it is signed and says so; else None."""
        try:
            query = dict(parse_qsl(urlsplit(self.url.lower()).query))
            for signer in _SIGNERS:
                if lives := query.get(f"{signer}-expires"):
                    signed = dt.datetime.strptime(
                        f"{query[f'{signer}-date']}+0000", "%Y%m%dt%H%M%Sz%z"
                    )
                    return signed + dt.timedelta(seconds=int(lives))
            if "expires" in query:
                return dt.datetime.fromtimestamp(int(query["expires"]), dt.UTC)
            expiry = dt.datetime.fromisoformat(query["se"].upper())
            return expiry if expiry.tzinfo else expiry.replace(tzinfo=dt.UTC)
        except (KeyError, ValueError, OverflowError, OSError):
            return None


@frozen(kw_only=True)
class GenerationError:
    """Why a generation failed, in the server's words (a value, not an exception).

    Attributes:
        name: The kind of failure.
        message: What went wrong.
    """

    name: str | None = None
    message: str | None = None

    def __str__(self) -> str:
        return safe_line(": ".join(it for it in (self.name, self.message) if it))


@frozen(kw_only=True)
class Generation:
    """One generation, as the server last described it.

    Attributes:
        id: Store it: it identifies the paid work.
        status: How far it has got.
        video: The result, once there is one.
        error: Why it failed, if it did.
        credits_used: What it has cost so far, in credits (2,000,000 are 1 USD); a
            video is charged once it is completed.
        usd_spent: The same, in USD.
        inference_id: The id under which the vendor's request log and ledger list
            it; the same as ``id``.
        client_request_id: The id that the create was sent with. The vendor's
            request log lists it beside the generation's id.
        model: The model that makes it, if the server names it.
        raw: The whole answer, for fields that this class lacks.
    """

    id: str
    status: Status
    video: Video | None = None
    error: GenerationError | None = None
    credits_used: float | None = None
    usd_spent: float | None = None
    inference_id: str | None = None
    client_request_id: str | None = None
    model: str | None = None
    raw: Mapping[str, object] = field(
        factory=dict[str, object],
        repr=False,
        eq=False,
    )

    @property
    def succeeded(self) -> bool:
        """Whether the video is there and final."""
        return self.video is not None and self.status not in _PENDING | {Status.ERROR}

    @property
    def failed(self) -> bool:
        """Whether it ended without a video."""
        if self.status in _PENDING or self.succeeded:
            return False
        return self.status == Status.ERROR or self.error is not None

    @property
    def is_terminal(self) -> bool:
        """Whether no later answer will change it.

        A documented pending status is never final, ``error`` always is. For
        ``completed`` and undocumented statuses the content decides: a video means
        success, an error means failure, neither means that it goes on.
        """
        return self.succeeded or self.failed

    @classmethod
    def __get_pydantic_core_schema__(cls, *_: object) -> object:
        """Let FastAPI answer with it, as `kling_async.web.describe` does."""
        from pydantic_core import core_schema

        as_json = core_schema.plain_serializer_function_ser_schema(
            describe, return_schema=core_schema.dict_schema()
        )
        return core_schema.is_instance_schema(cls, serialization=as_json)

    def _repr_mimebundle_(self, **_: object) -> dict[str, str]:
        """Show the video in a notebook, and a line elsewhere."""
        return {"text/plain": repr(self), "text/html": self._as_html()}

    def _as_html(self) -> str:
        if self.video is None or not self.video.is_on_the_web:
            return show_caption(self)
        expiry = self.video.expires_at
        note = "this link expires: download the video to keep it"
        if expiry:
            note = f"link expires {expiry:%Y-%m-%d %H:%M %Z}"
        return show_player(self, self.video.url, note)


def show_caption(generation: Generation) -> str:
    """Return a generation's caption, for a page."""
    caption = html.escape(safe_line(f"{generation.id} · {generation.status}"))
    return f"<code>{caption}</code>"


def show_player(generation: Generation, url: str, note: str) -> str:
    """Return a player of a generation's video, with a note on its source."""
    source = html.escape(url, quote=True)
    player = f'<video src="{source}" controls loop width="400"></video>'
    caption = f"{show_caption(generation)} · {html.escape(safe_line(note))}"
    return f"<figure>{player}<figcaption>{caption}</figcaption></figure>"


def describe(generation: Generation) -> dict[str, object]:
    """Return what a browser needs of a generation, for JSON.

    That is ``id``, ``status``, ``is_terminal``, ``succeeded``, ``error`` as a text or
    None, and ``video``: None, or its ``url``, ``content_type`` and ``file_size`` in
    bytes.
    """
    video = generation.video
    if video is not None and not video.is_on_the_web:
        video = None  # a page would run `javascript:`
    return {
        "id": generation.id,
        "status": safe_line(generation.status),
        "is_terminal": generation.is_terminal,
        "succeeded": generation.succeeded,
        "error": str(generation.error) if generation.error else None,
        "video": video
        and {
            "url": video.url,
            "content_type": video.content_type,
            "file_size": video.file_size,
        },
    }

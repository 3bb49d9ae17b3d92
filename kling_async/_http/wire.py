"""The only reader and writer of raw JSON: requests out, answers in.

Tolerant where the vendor's documents disagree, strict where a generation could be lost
or mixed up. Knows no HTTP client: it takes bytes and headers.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence

from attrs import define, field

from kling_async._checks import number_from
from kling_async._errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    DecodeError,
    InvalidRequestError,
    KlingError,
    NotFoundError,
    OutOfCreditsError,
    PermissionDeniedError,
    Problem,
    RateLimitError,
    ServerError,
)
from kling_async._failures import date_from, retry_after_from
from kling_async._generation import Generation, GenerationError, Status, Video

_SHOWN = 500

_BULKY = 64 * 1024

_SEARCHED = 64 * 1024

# Valid answers nest less deeply; comparing or pickling deeper ones overflows the stack.
DEEPEST = 100

_VIDEO_FIELDS = {"url", "content_type", "file_name", "file_size"}

# Where other services put a finished video, as this one may do one day.
_VIDEO_ELSEWHERE = ("videos", "video_url", "output", "result")

# The fields of an answer without a video.
_NO_VIDEO = frozenset("id status error meta model created created_at".split())

_ERRORS_BY_STATUS: Mapping[int, type[APIStatusError]] = {
    400: BadRequestError,
    401: AuthenticationError,
    403: PermissionDeniedError,
    404: NotFoundError,
    429: RateLimitError,
}

_OUT_OF_CREDITS = re.compile(r"credit|balance|top.?up|insufficient fund", re.IGNORECASE)


# JSON's escapes for any character, and for those that need none.
_ESCAPED = re.compile(r"\\(?:u([0-9A-Fa-f]{4})|([/\"\\]))")


def _unescape(found: re.Match[str]) -> str:
    return chr(int(found[1], 16)) if found[1] else found[2]


@define(eq=False, kw_only=True, repr=False)
class Response:
    """An HTTP answer, independent of the HTTP client.

    Attributes:
        status_code: The HTTP status.
        headers: By lower-case name.
        content: The body, decompressed, as far as it came.
        cut_off: What ended the body before its end, if anything did.
        redact: Removes the key from a text.
        redacts_values: Whether to remove it from every value too, such as an id: not if
            the key is so short that it may occur there by chance.
    """

    status_code: int
    headers: Mapping[str, str] = field(repr=False)
    content: bytes = field(repr=False)
    cut_off: KlingError | None = None
    redact: Callable[[str], str] = field(default=str, repr=False)
    redacts_values: bool = True

    @property
    def is_success(self) -> bool:
        """Whether the status is 2xx."""
        return 200 <= self.status_code < 300  # noqa: PLR2004 (RFC 9110, section 15.3)

    @property
    def inference_id(self) -> str | None:
        """The generation's id in the tracing header."""
        return self.header("x-inference-id") or None

    def header(self, name: str) -> str | None:
        """Return a header's value, without the key that it may echo."""
        told = self.headers.get(name)
        return self.redact(told) if told and self.redacts_values else told

    @property
    def date(self) -> dt.datetime | None:
        """What time it was by the server's clock, to the second below."""
        return date_from(self.headers.get("date", ""))

    @property
    def text(self) -> str:
        """The beginning of the body, for messages."""
        return self.beginning[:_SHOWN]

    @property
    def beginning(self) -> str:
        """The part of the body that is read if it is not JSON."""
        encoding = json.detect_encoding(self.content)
        text = self.content[:_SEARCHED].decode(encoding, errors="replace")
        plain = _ESCAPED.sub(_unescape, text)
        # Unescaped, if an escape could hide the key.
        return self.redact(plain if self.redact(plain) != plain else text)


def is_bulky(value: object) -> bool:
    """Whether encoding a body would block the event loop for too long."""
    if isinstance(value, str):
        return len(value) > _BULKY
    if isinstance(value, Mapping):
        return any(map(is_bulky, value.values()))
    return isinstance(value, list | tuple) and any(map(is_bulky, value))


def encode_request(body: Mapping[str, object]) -> bytes:
    """Write a create's body.

    Raises:
        InvalidRequestError: Something in it has no form in JSON.
    """
    try:
        text = json.dumps(body, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        problem = Problem("extra", str(error), "a value of JSON (RFC 8259)")
        raise InvalidRequestError([problem]) from error
    return text.encode()


def decode_created(answer: Response, client_request_id: str) -> Generation:
    """Read the answer to a create; the id may come from the tracing header.

    Raises:
        KlingError: Neither the body nor the headers have an id.
    """
    try:
        body = parse_object(answer)
    except KlingError:
        body = {}
        if answer.inference_id is None:
            raise
    generation_id = as_text(body.get("id")) or answer.inference_id
    if generation_id is None:
        raise make_decode_error(answer, "a create was answered without an id")
    return _generation(answer, generation_id, body, client_request_id)


def decode_polled(answer: Response, generation_id: str) -> Generation:
    """Read the answer to a poll of one generation.

    Raises:
        DecodeError: It is not about a generation, or about another one.
        KlingError: The error that cut it off.
    """
    body = parse_object(answer)
    told = as_text(body.get("id"))
    if told is not None and not same_generation(told, generation_id):
        raise make_decode_error(
            answer, f"asked for {generation_id}, answered for {told}"
        )
    generation = _generation(answer, generation_id, body, None)
    says_nothing = generation.status == Status.UNKNOWN and generation.error is None
    if says_nothing and told is None and generation.video is None:
        raise make_decode_error(answer, "the answer is not about a generation")
    return generation


def decode_error(answer: Response) -> APIStatusError:
    """Turn an answer that is not a success into an error."""
    try:
        body = parse_object(answer)
    except KlingError:
        body = {}
    code = answer.status_code
    message = _message_in(body) or _plain(answer) or "no explanation was given"
    if "location" in answer.headers and 300 <= code < 400:  # noqa: PLR2004 (RFC 9110)
        to = answer.redact(answer.headers["location"])[:_SHOWN]
        message = f"a redirect to {to}, not followed: the key stays with base_url"
    cls = _ERRORS_BY_STATUS.get(code, APIStatusError)
    if code >= 500:  # noqa: PLR2004 (RFC 9110, section 15.6)
        cls = ServerError
    from_vendor = _is_vendors(body)
    if cls is PermissionDeniedError and from_vendor and _OUT_OF_CREDITS.search(message):
        cls = OutOfCreditsError
    request_id = as_text(body.get("requestId")) or answer.header("x-request-id")
    return cls(
        answer.redact(message)[: 4 * _SHOWN],
        status_code=code,
        request_id=request_id and answer.redact(request_id),
        body=answer.text,
        retry_after=retry_after_from(answer.headers),
        from_vendor=from_vendor,
    )


def _is_vendors(body: Mapping[str, object]) -> bool:
    """Whether an error has the vendor's form; a gateway's page has not."""
    message = body.get("message") or dig(body, "error", "message")
    return isinstance(message, str | list)


def parse_object(answer: Response) -> Mapping[str, object]:
    """Read a body; one that was cut off only after its last brace is whole."""
    value: object = None
    wrong: Exception | None = None
    try:
        value = _parse(answer)
    except (ValueError, RecursionError) as error:
        wrong = ValueError(str(error))  # its own frames and attributes hold the body
    if wrong and answer.cut_off is not None:
        raise answer.cut_off
    if wrong:
        raise make_decode_error(answer, "the answer is not JSON") from wrong
    if not isinstance(value, dict):
        raise make_decode_error(answer, "the answer is not a JSON object")
    return value


def _parse(answer: Response) -> object:
    """Parse a body, and remove the key from every value."""
    value: object = json.loads(answer.content)
    many = answer.content.count(b"[") + answer.content.count(b"{") > DEEPEST
    if many and is_deep(value):
        del value  # a traceback may show it
        raise make_decode_error(
            answer, f"the answer is nested deeper than {DEEPEST} levels"
        )
    return value if _is_harmless(answer) else _redact(value, answer)


def _is_harmless(answer: Response) -> bool:
    """Whether no value can contain the key, plain, escaped or in another encoding."""
    content = answer.content
    if not answer.redacts_values:
        return True
    if b"\\" in content or b"\0" in content:
        return False
    text = content.decode(errors="replace")
    return answer.redact(text) == text


def _redact(value: object, answer: Response) -> object:
    if isinstance(value, str):
        return answer.redact(value)
    if isinstance(value, dict):
        return {answer.redact(it): _redact(of, answer) for it, of in value.items()}
    return [_redact(it, answer) for it in value] if isinstance(value, list) else value


def is_deep(value: object) -> bool:
    """Whether lists and objects are nested deeper than `DEEPEST`."""
    level = [value]
    for _ in range(DEEPEST + 1):
        level = [
            part for it in level if isinstance(it, dict | list) for part in _parts(it)
        ]
    return bool(level)


def _parts(value: dict[str, object] | list[object]) -> Iterable[object]:
    return value.values() if isinstance(value, dict) else value


def make_decode_error(answer: Response, message: str) -> DecodeError:
    return DecodeError(message, status_code=answer.status_code, body=answer.text)


def same_generation(told: str, asked: str) -> bool:
    """Whether two ids are the same, with or without a route: ``UUID:route``."""
    return told == asked or told.startswith(asked + ":") or asked.startswith(told + ":")


def _generation(
    answer: Response,
    generation_id: str,
    body: Mapping[str, object],
    client_request_id: str | None,
) -> Generation:
    status = as_text(body.get("status"))
    video = _video(body.get("video"))
    lacks = None
    if video is None and (status or "").lower() == Status.COMPLETED:
        video = next(
            filter(None, (_video(body.get(it)) for it in _VIDEO_ELSEWHERE)), None
        )
        lacks = None if video else _unreadable_video(answer, body)
    return Generation(
        id=generation_id,
        status=Status(status.lower()) if status else Status.UNKNOWN,
        video=video,
        error=_failure(body.get("error")) or lacks,
        credits_used=_spent(answer, body, _CREDITS, "x-aimlapi-credits-used"),
        usd_spent=_spent(answer, body, ("usd_spent",), "x-aimlapi-usd-spent"),
        inference_id=answer.inference_id,
        client_request_id=client_request_id,
        model=as_text(body.get("model")),
        raw=body,
    )


# The second is an older name, still used for the creates of both avatars.
_CREDITS = ("credits_used", "tokens_used")


def _spent(
    answer: Response, body: Mapping[str, object], names: Sequence[str], header: str
) -> float | None:
    """The cost in the body, else in the headers."""
    if isinstance(usage := dig(body, "meta", "usage"), dict):
        for name in names:
            if (told := number_from(usage.get(name))) is not None:
                return told
    return number_from(answer.headers.get(header))


def _video(value: object) -> Video | None:
    if isinstance(value, list):
        return next(filter(None, map(_video, value)), None)
    if isinstance(value, str):
        value = {"url": value}
    if not isinstance(value, dict):
        return None
    url = value.get("url") or value.get("video_url")
    if isinstance(url, list):
        url = next(filter(as_text, url), None)
    address = as_text(url)
    if address is None:
        return None
    size = number_from(value.get("file_size"))
    return Video(
        url=address,
        content_type=as_text(value.get("content_type")),
        file_name=as_text(value.get("file_name")),
        file_size=None if size is None else int(size),
        extra={k: v for k, v in value.items() if k not in _VIDEO_FIELDS},
    )


def _unreadable_video(
    answer: Response, body: Mapping[str, object]
) -> GenerationError | None:
    """Return the error of a completed generation whose video cannot be read.

    If it has only the fields of every answer, the video may still come.
    """
    if not any(value for name, value in body.items() if name not in _NO_VIDEO):
        return None
    told = f"completed, but no video can be read in the answer: {answer.text}"
    return GenerationError(name="UnreadableVideo", message=told)


def _failure(value: object) -> GenerationError | None:
    if not value:
        return None
    if isinstance(value, dict):
        return GenerationError(
            name=as_text(value.get("name")),
            message=as_text(value.get("message")),
        )
    return GenerationError(message=as_text(value) or repr(value)[:_SHOWN])


def _message_in(body: Mapping[str, object]) -> str | None:
    for value in (
        body.get("message"),
        dig(body, "error", "message"),
        body.get("error"),
    ):
        if isinstance(value, list):
            return "\n".join(as_text(line) or str(line) for line in value)
        if text := as_text(value):
            return text
    return None


def _plain(answer: Response) -> str:
    """The words of a body that is not JSON: of a web page only its title."""
    page = answer.beginning
    title = re.search(r"<title[^>]*>(.*?)</title", page, re.DOTALL | re.IGNORECASE)
    return " ".join((title[1] if title else answer.text).split())


def dig(value: object, *keys: str) -> object:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def as_text(value: object) -> str | None:
    """Take text, and a number where text is promised (an id, say)."""
    if isinstance(value, bool):
        return None
    if isinstance(value, int):
        return str(value)
    return _writable(value).strip() or None if isinstance(value, str) else None


def _writable(text: str) -> str:
    """Replace lone surrogates: JSON can contain them, UTF-8 cannot."""
    return text if text.isascii() else text.encode(errors="replace").decode()

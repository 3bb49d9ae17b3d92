"""Raw JSON in and out: tolerant of every form seen, strict about whose it is."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable, Mapping

import pytest
from hypothesis import given, settings, strategies as st

from kling_async import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    DecodeError,
    Generation,
    GenerationError,
    InvalidRequestError,
    NotFoundError,
    OutOfCreditsError,
    PermissionDeniedError,
    RateLimitError,
    ServerError,
    Status,
    Video,
)
from kling_async._http.wire import (
    Response,
    decode_created,
    decode_error,
    decode_polled,
    encode_request,
)

UUID = "88a64d31-cce4-41e8-b9d8-5392e8c2a6d4"
ROUTED = f"{UUID}:kling-video/v2/master/image-to-video"
TOKEN = "V1StGXR8Z5jdHi6BmyT8k"

FINISHED: Mapping[str, object] = {
    "id": ROUTED,
    "status": "completed",
    "video": {
        "url": "https://cdn.aimlapi.com/output.mp4",
        "content_type": "video/mp4",
        "file_name": "output.mp4",
        "file_size": 5150376,
    },
    "error": None,
    "meta": {"usage": {"credits_used": 2100000, "usd_spent": 1.05}},
}


def raw(
    content: bytes, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Make an answer of bytes."""
    return Response(status_code=status_code, headers=headers or {}, content=content)


def said(
    value: object, status_code: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """Make an answer of a JSON value."""
    return raw(json.dumps(value).encode(), status_code, headers)


def polled(**body: object) -> Generation:
    """Read a poll of `UUID` that was answered with this body."""
    return decode_polled(said({"id": UUID, **body}), UUID)


# --- answers that mean a generation


@pytest.mark.parametrize("status_code", [200, 201])
@pytest.mark.parametrize("generation_id", [UUID, ROUTED, TOKEN])
def test_a_create_is_read_as_documented(generation_id: str, status_code: int) -> None:
    """200 and 201, and each documented form of id, give the queued generation."""
    body = {"id": generation_id, "status": "queued", "video": None, "error": None}
    generation = decode_created(said(body, status_code), "request-1")
    assert generation == Generation(
        id=generation_id,
        status=Status.QUEUED,
        client_request_id="request-1",
    )
    assert generation.raw == body


def test_a_finished_generation_is_read_as_documented() -> None:
    """Every field of the vendor's own example finds its place."""
    generation = decode_polled(said(FINISHED), ROUTED)
    assert generation == Generation(
        id=ROUTED,
        status=Status.COMPLETED,
        video=Video(
            url="https://cdn.aimlapi.com/output.mp4",
            content_type="video/mp4",
            file_name="output.mp4",
            file_size=5150376,
        ),
        credits_used=2100000,
        usd_spent=1.05,
    )
    assert generation.raw == FINISHED


TRACED: Mapping[str, str] = {
    "x-inference-id": UUID,
    "x-aimlapi-credits-used": "2400000",
    "x-aimlapi-usd-spent": "1.200000000",
}


def test_the_headers_tell_what_the_body_does_not() -> None:
    """The id that the log and the ledger list it under, and what it has cost."""
    for generation in (
        decode_created(said({"id": UUID}, headers=TRACED), "request-1"),
        decode_polled(said({"id": UUID, "status": "queued"}, headers=TRACED), UUID),
    ):
        assert generation.inference_id == UUID
        assert (generation.credits_used, generation.usd_spent) == (2400000, 1.2)


def test_the_body_counts_where_both_tell_of_money() -> None:
    """Also when it says that it cost nothing."""
    usage = {"credits_used": 0, "usd_spent": 0}
    body = {"id": UUID, "status": "error", "meta": {"usage": usage}}
    generation = decode_polled(said(body, headers=TRACED), UUID)
    assert (generation.credits_used, generation.usd_spent) == (0, 0)


@pytest.mark.parametrize("told", ["", "a lot", "nan", "-"])
def test_money_that_is_no_number_is_not_told(told: str) -> None:
    """A header of any content breaks no poll."""
    headers = dict.fromkeys(TRACED, told)
    generation = decode_polled(said({"id": UUID}, headers=headers), UUID)
    assert (generation.credits_used, generation.usd_spent) == (None, None)


@pytest.mark.parametrize(
    "value, expected",
    [
        (None, None),
        ("https://x/v.mp4", Video(url="https://x/v.mp4")),
        ({"url": " https://x/v.mp4 "}, Video(url="https://x/v.mp4")),
        ({}, None),
        ({"url": None}, None),
        ({"url": ""}, None),
        ({"url": ["https://x"]}, Video(url="https://x")),
        ({"url": True}, None),
        ({"file_size": 3}, None),
        ([], None),
        (["https://x/v.mp4"], Video(url="https://x/v.mp4")),
        ("", None),
        (7, None),
        (False, None),
    ],
    ids=repr,
)
def test_a_video_is_one_only_with_a_url(value: object, expected: Video | None) -> None:
    """What has no URL in text is no video, and breaks nothing."""
    assert polled(status="completed", video=value).video == expected


@pytest.mark.parametrize(
    "size, expected",
    [
        (5150376, 5150376),
        ("5150376", 5150376),
        (5150376.0, 5150376),
        ("large", None),
        ("1e999", None),
        (True, None),
        (None, None),
        ([1], None),
        (10**400, None),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_a_file_size_is_read_where_it_is_a_number(
    size: object, expected: int | None
) -> None:
    """The size may come as text; what is no number is left out."""
    video = polled(video={"url": "https://x", "file_size": size}).video
    assert video is not None
    assert video.file_size == expected


def test_what_else_the_server_says_about_a_video_is_kept() -> None:
    """Unnamed fields of a video are in `extra`, as they came."""
    video = polled(video={"url": "https://x", "duration": 5, "fps": [24]}).video
    assert video is not None
    assert video.extra == {"duration": 5, "fps": [24]}


@pytest.mark.parametrize(
    "value, expected",
    [
        (None, None),
        ({}, None),
        ("", None),
        ([], None),
        (False, None),
        ("it broke", GenerationError(message="it broke")),
        ({"name": "A", "message": "b"}, GenerationError(name="A", message="b")),
        ({"message": "b"}, GenerationError(message="b")),
        ({"name": None, "message": 7}, GenerationError(message="7")),
        ({"code": 5}, GenerationError()),
        (["a", "b"], GenerationError(message="['a', 'b']")),
        (True, GenerationError(message="True")),
        (1.5, GenerationError(message="1.5")),
    ],
    ids=repr,
)
def test_a_failure_is_read_in_every_form(
    value: object, expected: GenerationError | None
) -> None:
    """Objects, text and lists are failures; what is empty is none."""
    assert polled(status="error", error=value).error == expected


def test_an_endless_failure_is_shortened() -> None:
    """What is not the promised form is shown only in its beginning."""
    error = polled(status="error", error=["x" * 10_000]).error
    assert error is not None
    assert len(str(error)) == 500


@pytest.mark.parametrize(
    "value, expected",
    [
        ("queued", "queued"),
        ("COMPLETED", "completed"),
        ("  Generating\n", "generating"),
        ("complete", "complete"),
        (7, "7"),
        (None, "unknown"),
        ("", "unknown"),
        ("  ", "unknown"),
        (True, "unknown"),
        (1.5, "unknown"),
        (["queued"], "unknown"),
        ({"name": "queued"}, "unknown"),
    ],
    ids=repr,
)
def test_a_status_is_read_without_its_dress(value: object, expected: str) -> None:
    """Case and blanks mean nothing; what is no text is `unknown`, not a crash."""
    status = polled(status=value).status
    assert (type(status), str(status)) == (Status, expected)


def test_a_missing_status_is_unknown() -> None:
    """A body with an id and nothing else is a generation that still goes on."""
    generation = polled()
    assert generation.status is Status.UNKNOWN
    assert not generation.is_terminal


@pytest.mark.parametrize(
    "meta, expected",
    [
        ({"usage": {"credits_used": 5}}, 5.0),
        ({"usage": {"tokens_used": 1207500}}, 1207500.0),
        ({"usage": {"tokens_used": 7, "credits_used": 5}}, 5.0),
        ({"usage": {"credits_used": "5.5"}}, 5.5),
        ({"usage": {"credits_used": None}}, None),
        ({"usage": {"credits_used": True}}, None),
        ({"usage": {"credits_used": {}}}, None),
        ({"usage": {"credits_used": "free"}}, None),
        ({"usage": {"credits_used": "nan"}}, None),
        ({"usage": {}}, None),
        ({"usage": None}, None),
        ({"usage": [1]}, None),
        ({"usage": "5"}, None),
        ({}, None),
        (None, None),
        ("x", None),
        ([{"usage": 1}], None),
    ],
    ids=repr,
)
def test_credits_are_read_where_they_are_a_number(
    meta: object, expected: float | None
) -> None:
    """Whatever `meta` holds, credits are a finite number or None."""
    assert polled(meta=meta).credits_used == expected


@pytest.mark.parametrize(
    "number", ["1e400", "-1e400", "1e308", "NaN", "Infinity", "1" * 400]
)
def test_credits_beyond_all_numbers_are_none(number: str) -> None:
    """JSON's endless numbers become None, not an overflow."""
    body = f'{{"id": "{UUID}", "meta": {{"usage": {{"credits_used": {number}}}}}}}'
    assert decode_polled(raw(body.encode()), UUID).credits_used is None


def test_a_byte_order_mark_and_utf_16_are_read() -> None:
    """JSON in any of its encodings is JSON."""
    body = json.dumps({"id": UUID, "status": "queued"})
    for encoding in ("utf-8-sig", "utf-16", "utf-32"):
        assert decode_polled(raw(body.encode(encoding)), UUID).id == UUID


# --- whose answer it is


@pytest.mark.parametrize(
    "value, expected", [(42, "42"), (f" {TOKEN} ", TOKEN), (ROUTED, ROUTED)], ids=repr
)
def test_an_id_may_be_a_number_and_padded(value: object, expected: str) -> None:
    """An id is text in the end, with its `:` and `/` as they came."""
    assert decode_created(said({"id": value}), "c").id == expected


NO_ID: list[object] = [None, "", "  ", True, 1.5, [], {}, ["x"]]


@pytest.mark.parametrize("value", NO_ID, ids=repr)
def test_a_create_without_an_id_takes_it_from_the_tracing_header(value: object) -> None:
    """`x-inference-id` is the generation's id where the body has none."""
    answer = said({"id": value, "status": "queued"}, 201, {"x-inference-id": TOKEN})
    generation = decode_created(answer, "c")
    assert (generation.id, generation.status) == (TOKEN, Status.QUEUED)
    assert generation.client_request_id == "c"


@pytest.mark.parametrize("value", NO_ID, ids=repr)
def test_a_create_without_any_id_is_no_answer(value: object) -> None:
    """No id in body or header is an error, never a generation without an id."""
    with pytest.raises(DecodeError, match="without an id"):
        decode_created(said({"id": value}, 201, {"x-inference-id": ""}), "c")


def test_the_body_names_the_generation_before_the_header_does() -> None:
    """Where both tell an id, the documented one counts."""
    answer = said({"id": ROUTED}, 200, {"x-inference-id": UUID})
    assert decode_created(answer, "c").id == ROUTED


UNREADABLE: Mapping[str, bytes] = {
    "empty": b"",
    "list": b"[1]",
    "number": b"1",
    "string": b'"x"',
    "null": b"null",
    "truncated": b'{"id": "88a6',
    "html": b"<!doctype html><title>Welcome</title>",
    "invalid-utf-8": b'{"id": "\xff\xfe"}',
    "deep-lists": b"[" * 100_000,
    "deep-objects": b'{"a":' * 100_000,
    "endless-integer": b'{"id": ' + b"1" * 5_000 + b"}",
    "nul-bytes": b"\x00" * 16,
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
def test_a_create_that_cannot_be_read_is_not_lost_where_the_header_has_its_id(
    content: bytes,
) -> None:
    """A 2xx with an unreadable body still started the generation in its header."""
    generation = decode_created(raw(content, 201, {"x-inference-id": UUID}), "c")
    assert (generation.id, generation.client_request_id) == (UUID, "c")
    assert not generation.is_terminal


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize(
    "decode",
    [decode_created, decode_polled],
    ids=["create", "poll"],
)
def test_what_is_no_json_object_is_told_with_its_beginning(
    decode: Callable[[Response, str], Generation], content: bytes
) -> None:
    """The error carries the status and the first 500 characters of the body."""
    with pytest.raises(DecodeError) as caught:
        decode(raw(content, 200), UUID)
    assert caught.value.status_code == 200
    encoding = json.detect_encoding(content)
    assert caught.value.body == content.decode(encoding, errors="replace")[:500]


def cut_off(content: bytes, headers: Mapping[str, str] | None = None) -> Response:
    """Make an answer whose end never came."""
    reset = ConnectionFailedError("reset", request_sent=True)
    return Response(
        status_code=200, headers=headers or {}, content=content, cut_off=reset
    )


@pytest.mark.parametrize("content", [b"", b'{"id": "88a6', b"<html>"])
def test_what_was_cut_off_is_told_by_what_cut_it_off(content: bytes) -> None:
    """Half a body is no wrong JSON: the network failed, and says so."""
    answer = cut_off(content)
    for decode in (decode_created, decode_polled):
        with pytest.raises(ConnectionFailedError, match="reset") as caught:
            decode(answer, UUID)
        assert caught.value is answer.cut_off


def test_a_create_that_was_cut_off_is_not_lost_where_the_header_has_its_id() -> None:
    """The headers came before the reset did."""
    answer = cut_off(b'{"id": "88a6', {"x-inference-id": UUID})
    assert decode_created(answer, "c").id == UUID


def test_what_was_cut_off_after_its_end_is_whole() -> None:
    """A JSON object that closes has lost nothing but the end of the transfer."""
    answer = cut_off(b'{"id": "%s", "status": "queued"}' % UUID.encode())
    assert decode_created(answer, "c").id == UUID
    assert decode_polled(answer, UUID).status == "queued"


def test_a_refusal_that_was_cut_off_is_still_one() -> None:
    """The status is what counts; of the words as many as came are shown."""
    reset = ConnectionFailedError("reset", request_sent=True)
    answer = Response(status_code=401, headers={}, content=b"bad k", cut_off=reset)
    assert str(decode_error(answer)).startswith("the API answered 401: bad k")


@pytest.mark.parametrize(
    "told, asked",
    [
        (UUID, UUID),
        (ROUTED, ROUTED),
        (UUID, ROUTED),
        (ROUTED, UUID),
        (None, ROUTED),
    ],
)
def test_a_poll_keeps_the_id_that_was_asked_for(told: str | None, asked: str) -> None:
    """With its route, without it or not repeated at all: it is the same one."""
    generation = decode_polled(said({"id": told, "status": "queued"}), asked)
    assert generation.id == asked


@pytest.mark.parametrize(
    "told",
    [TOKEN, UUID[:-1], UUID + "0", UUID + "/x", UUID.upper(), 7],
)
def test_a_poll_answered_for_another_generation_is_refused(told: object) -> None:
    """Another's video must never be taken for this one's."""
    with pytest.raises(DecodeError, match=UUID) as caught:
        decode_polled(said({"id": told, "status": "completed"}), UUID)
    assert str(told) in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [{}, {"message": "ok"}, {"id": None, "status": None}, {"status": 1.5}],
    ids=repr,
)
def test_a_poll_that_says_nothing_of_a_generation_is_refused(body: object) -> None:
    """Some other JSON with a 200 is not an observation."""
    with pytest.raises(DecodeError, match="not about a generation"):
        decode_polled(said(body), UUID)


@pytest.mark.parametrize(
    "body",
    [{"status": "queued"}, {"video": "https://x"}, {"error": "it broke"}],
    ids=repr,
)
def test_a_poll_may_leave_the_id_out(body: object) -> None:
    """A status, a video or an error each tell of the generation asked for."""
    assert decode_polled(said(body), UUID).id == UUID


# --- nothing else is ever raised

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)
answers = st.fixed_dictionaries(
    {},
    optional={
        "id": json_values,
        "status": json_values,
        "video": json_values | st.fixed_dictionaries({"url": json_values}),
        "error": json_values | st.fixed_dictionaries({"message": json_values}),
        "meta": json_values | st.fixed_dictionaries({"usage": json_values}),
        "message": json_values,
        "requestId": json_values,
    },
)
bodies = st.binary() | (json_values | answers).map(lambda v: json.dumps(v).encode())


@given(content=bodies, header=st.none() | st.text())
@settings(derandomize=True, deadline=None, max_examples=200)
def test_no_body_raises_anything_but_a_decode_error(
    content: bytes, header: str | None
) -> None:
    """Whatever comes, it is a generation with an id, or a `DecodeError`."""
    headers = {} if header is None else {"x-inference-id": header}
    for decode in (decode_created, decode_polled):
        try:
            generation = decode(raw(content, 200, headers), UUID)
        except DecodeError:
            continue
        assert generation.id
        assert repr(generation)


@given(content=bodies, status_code=st.integers(300, 599))
@settings(derandomize=True, deadline=None, max_examples=200)
def test_no_refusal_is_unreadable(content: bytes, status_code: int) -> None:
    """Every answer that is no success becomes an error with something to say."""
    error = decode_error(raw(content, status_code))
    assert error.status_code == status_code
    assert error.message
    assert len(error.body) <= 500


@pytest.mark.parametrize("depth", range(900, 1000, 3))
def test_nesting_near_the_interpreters_limit_is_survived(depth: int) -> None:
    """It is told as what nobody can read, in a poll as in a refusal."""
    content = b'{"status": "error", "error": %b%b}' % (b"[" * depth, b"]" * depth)
    with pytest.raises(DecodeError):
        decode_polled(raw(content), UUID)
    assert decode_error(raw(content, 500)).message


def test_a_hundred_levels_are_read_and_more_are_not() -> None:
    """More could be read, but neither compared nor pickled. Brackets in a text may."""

    def failed(depth: int) -> Generation:
        content = b'{"id": "%b", "error": %b1%b}'
        brackets = b"[" * depth, b"]" * depth
        return decode_polled(raw(content % (UUID.encode(), *brackets)), UUID)

    assert pickle.loads(pickle.dumps(failed(98))).failed
    with pytest.raises(DecodeError, match="deeper than 100"):
        failed(101)
    assert polled(prompt="[{" * 500).id == UUID


# --- answers that say no


@pytest.mark.parametrize(
    "status_code, cls",
    [
        (400, BadRequestError),
        (401, AuthenticationError),
        (403, PermissionDeniedError),
        (404, NotFoundError),
        (429, RateLimitError),
        *((code, ServerError) for code in (500, 502, 503, 504, 529, 599)),
        *((code, APIStatusError) for code in (301, 304, 402, 408, 409, 418, 451)),
    ],
)
def test_the_status_decides_the_class(
    status_code: int, cls: type[APIStatusError]
) -> None:
    """Each documented status has its class, any other the general one."""
    error = decode_error(said({"message": "no"}, status_code))
    assert type(error) is cls
    assert error.status_code == status_code


VENDOR_ERROR: Mapping[str, object] = {
    "message": "Too many requests",
    "path": "/v2/video/generations",
    "requestId": "60ac7c34-3224-4b14-8e7d-0aa0db708325",
    "statusCode": "429",
    "timestamp": "2025-03-11T07:13:27.813Z",
}


@pytest.mark.parametrize("code", [429, "429", None])
def test_the_vendors_error_body_is_read(code: object) -> None:
    """Message and request id are taken; the status is HTTP's own."""
    error = decode_error(said({**VENDOR_ERROR, "statusCode": code}, 429))
    assert error.message == "Too many requests"
    assert error.request_id == VENDOR_ERROR["requestId"]
    assert str(VENDOR_ERROR["requestId"]) in str(error)
    assert json.loads(error.body)["path"] == "/v2/video/generations"


@pytest.mark.parametrize(
    "content, message",
    [
        (b'{"message": " no "}', "no"),
        (b'{"error": {"message": "no"}}', "no"),
        (b'{"error": "no"}', "no"),
        (b'{"message": "", "error": {"message": "no"}}', "no"),
        (b'{"message": null, "error": "no"}', "no"),
        (b'{"message": ["duration", "Expected 5"]}', "duration\nExpected 5"),
        (b'{"error": {"message": ["a", "b"]}}', "a\nb"),
        (b'{"message": 17}', "17"),
        (b"Service  Unavailable\r\n", "Service Unavailable"),
        (b"", "no explanation was given"),
        (b"  \n", "no explanation was given"),
        (b'{"detail": "no"}', '{"detail": "no"}'),
        (b"[1, 2]", "[1, 2]"),
        (b"\xff\xff", "\ufffd\ufffd"),
    ],
)
def test_the_message_is_found_in_every_form(content: bytes, message: str) -> None:
    """The server's own words are read from wherever a text of the vendor has them."""
    assert decode_error(raw(content, 400)).message == message


def test_an_endless_message_is_shortened() -> None:
    """An error is for a person: 2,000 characters of message, 500 of body."""
    for message in ("x" * 50_000, ["x" * 50_000]):
        error = decode_error(said({"message": message}, 400))
        assert (len(error.message), len(error.body)) == (2000, 500)


@pytest.mark.parametrize("before", [0, 490, 1_990])
def test_what_must_not_be_shown_is_taken_out_before_anything_is_shortened(
    before: int,
) -> None:
    """A server that sends the key back gets it into no error, whole or in part."""

    def redact(text: str) -> str:
        return text.replace("sk-secret-key", "***")

    told = "." * before + "sk-secret-key"
    location, trace = {"location": f"http://x/{told}"}, {"x-request-id": told}
    for code, content, headers in (
        (401, json.dumps({"message": told}).encode(), trace),
        (502, told.encode(), {}),
        (302, b"", location),
        (200, f"<html>{told}".encode(), {}),
    ):
        answer = Response(
            status_code=code, headers=headers, content=content, redact=redact
        )
        error: DecodeError | APIStatusError = decode_error(answer)
        if code == 200:
            with pytest.raises(DecodeError) as caught:
                decode_polled(answer, UUID)
            error = caught.value
        assert "sk-" not in f"{error} {error!r} {vars(error)}"


CLOUDFLARE = """<!DOCTYPE html>
<!--[if lt IE 7]> <html class="no-js ie6 oldie" lang="en-US"> <![endif]-->
<!--[if IE 7]>    <html class="no-js ie7 oldie" lang="en-US"> <![endif]-->
<!--[if IE 8]>    <html class="no-js ie8 oldie" lang="en-US"> <![endif]-->
<!--[if gt IE 8]><!--> <html class="no-js" lang="en-US"> <!--<![endif]-->
<head>


<title>api.aimlapi.com | 502: Bad gateway</title>
<meta charset="UTF-8" /></head><body>Ray ID</body></html>"""


@pytest.mark.parametrize(
    "page, message",
    [
        ("<html><title>502 Bad Gateway</title><h1>x</h1>", "502 Bad Gateway"),
        ("<HTML><TITLE lang=en>\n Bad\n Gateway </TITLE>", "Bad Gateway"),
        ("<html><title></title><h1>x</h1></html>", "no explanation was given"),
        (CLOUDFLARE, "api.aimlapi.com | 502: Bad gateway"),
        (
            f"<html><style>{'a{} ' * 300}</style><title>Bad Gateway</title>",
            "Bad Gateway",
        ),
    ],
    ids=["nginx", "upper-case", "empty", "cloudflare", "late"],
)
def test_of_a_web_page_only_the_title_is_shown(page: str, message: str) -> None:
    """A gateway's page is told by its title, not by its markup."""
    assert decode_error(raw(page.encode(), 502)).message == message


@pytest.mark.parametrize(
    "message",
    [
        "You've run out of credits. Please top up your balance",
        "Insufficient funds",
        "TOP-UP required",
        "not enough Credits",
    ],
)
def test_a_403_about_money_is_out_of_credits(message: str) -> None:
    """A 403 that speaks of credits is told apart from one that forbids."""
    assert type(decode_error(said({"message": message}, 403))) is OutOfCreditsError


def test_another_403_is_a_refusal_and_another_status_is_never_out_of_credits() -> None:
    """Only a 403, and only with such words, means that the account is empty."""
    forbidden = said({"message": "Access to this model is not allowed"}, 403)
    assert type(decode_error(forbidden)) is PermissionDeniedError
    assert type(decode_error(said({"message": "credits"}, 400))) is BadRequestError


@pytest.mark.parametrize(
    "body, headers, expected",
    [
        ({"requestId": "a"}, {"x-request-id": "b"}, "a"),
        ({"requestId": 7}, {}, "7"),
        ({"requestId": ""}, {"x-request-id": "b"}, "b"),
        ({}, {"x-request-id": "b"}, "b"),
        ({}, {}, None),
    ],
)
def test_the_request_id_is_the_bodys_else_the_headers(
    body: object, headers: Mapping[str, str], expected: str | None
) -> None:
    """What to quote to the vendor's support is found in both places."""
    assert decode_error(said(body, 500, headers)).request_id == expected


@pytest.mark.parametrize("status_code", [301, 302, 303, 307, 308])
def test_a_redirect_is_named_and_its_reason_told(status_code: int) -> None:
    """Where it points is shown: a wrong base_url is what it most often means."""
    headers = {"location": "https://elsewhere.example/v2"}
    error = decode_error(raw(b"<title>Moved</title>", status_code, headers))
    assert type(error) is APIStatusError
    assert "https://elsewhere.example/v2" in error.message
    assert "not followed" in error.message


def test_a_location_without_a_redirect_hides_no_message() -> None:
    """RFC 9110, section 10.2.2: Location means a redirect only with a 3xx."""
    answer = said({"message": "bad key"}, 401, {"location": "https://x/login"})
    assert decode_error(answer).message == "bad key"


NOW = "Wed, 01 Jan 2025 00:00:00 GMT"


@pytest.mark.parametrize(
    "value, expected",
    [
        ("0", 0.0),
        ("7", 7.0),
        (" 7 ", 7.0),
        ("1.5", 1.5),
        ("-3", 0.0),
        ("Wed, 01 Jan 2025 00:00:30 GMT", 30.0),
        ("Wednesday, 01-Jan-25 00:00:30 GMT", 30.0),
        ("Wed Jan  1 00:00:30 2025", 30.0),
        ("Wed, 01 Jan 2025 01:00:30 +0100", 30.0),
        ("Tue, 31 Dec 2024 23:59:00 GMT", 0.0),
        ("soon", None),
        ("", None),
        ("  ", None),
        ("inf", None),
        ("-inf", None),
        ("nan", None),
        ("1e999", None),
        ("Wed, 99 Jan 2025 00:00:30 GMT", None),
        ("Wed, 01 Jan 99999999999999999999 00:00:00 GMT", None),
        ("Wed, 01 Jan 2025 00:00:00 +99999999999999999999", None),
        ("5 seconds", None),
    ],
)
def test_retry_after_is_read_in_both_its_forms(
    value: str, expected: float | None
) -> None:
    """Seconds, or a date by the server's own clock; never negative, never endless."""
    headers = {"retry-after": value, "date": NOW}
    assert decode_error(raw(b"", 429, headers)).retry_after == expected


@pytest.mark.parametrize(
    "date",
    [None, "", "yesterday", "Wed, 01 Jan 99999999999999999999 00:00:00 GMT"],
)
def test_a_retry_after_date_without_a_server_clock_is_held_against_ours(
    date: str | None,
) -> None:
    """A past date is now, a far one is far, also where `Date` is of no use."""
    clock = {} if date is None else {"date": date}
    past = {"retry-after": "Wed, 01 Jan 2020 00:00:00 GMT", **clock}
    assert decode_error(raw(b"", 429, past)).retry_after == 0.0
    far = {"retry-after": "Tue, 01 Jan 2999 00:00:00 GMT", **clock}
    assert (decode_error(raw(b"", 503, far)).retry_after or 0.0) > 1e9


def test_no_retry_after_is_none() -> None:
    """The vendor documents none: back-off decides then."""
    assert decode_error(raw(b"", 429)).retry_after is None


@given(value=st.text(), date=st.text())
@settings(derandomize=True, deadline=None)
def test_no_retry_after_breaks_the_reading(value: str, date: str) -> None:
    """Whatever the header holds, it is a finite span of time or None."""
    headers = {"retry-after": value, "date": date}
    seconds = decode_error(raw(b"", 429, headers)).retry_after
    assert seconds is None or (seconds >= 0 and math.isfinite(seconds))


# --- an answer's own properties


@pytest.mark.parametrize(
    "status_code, expected", [(199, False), (200, True), (299, True), (300, False)]
)
def test_success_is_2xx(status_code: int, expected: bool) -> None:
    """RFC 9110, section 15.3."""
    assert raw(b"", status_code).is_success is expected


# --- requests out

json_safe = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=12,
)


@given(body=st.dictionaries(st.text(), json_safe))
@settings(derandomize=True, deadline=None)
def test_a_request_is_written_as_the_json_it_is(body: dict[str, object]) -> None:
    """What goes out reads back as what was given, in ASCII."""
    content = encode_request(body)
    assert content.isascii()
    assert json.loads(content) == body


def circular() -> dict[str, object]:
    """Make a value that holds itself."""
    body: dict[str, object] = {}
    body["again"] = body
    return body


def nested(depth: int) -> list[object]:
    """Make a list of so many lists in each other."""
    value: list[object] = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    "value",
    [
        math.nan,
        math.inf,
        {1, 2},
        b"bytes",
        object(),
        1j,
        circular(),
        nested(100_000),
        10**5000,
        {(1, 2): 3},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_json_cannot_say_is_refused_before_sending(value: object) -> None:
    """It is an `InvalidRequestError` with its cause, not an error of json's."""
    with pytest.raises(InvalidRequestError, match="nothing was sent") as caught:
        encode_request({"prompt": "x", "odd": value})
    assert "JSON" in caught.value.problems[0].allowed
    assert caught.value.__cause__ is not None

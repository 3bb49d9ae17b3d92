"""One create: never billed twice, never lost, whatever happens on the way."""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeVar

import httpx
import pytest
import respx
from clients import (
    BASE_URL,
    ID,
    IMAGE,
    KEY,
    MODEL,
    PATH,
    PROMPT,
    QUEUED,
    client,
    create,
    over,
)

from kling_async import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    ConnectionFailedError,
    CreatedEvent,
    DecodeError,
    Hooks,
    InvalidRequestError,
    KlingError,
    NotFoundError,
    PermissionDeniedError,
    RateLimitError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
    SubmissionUncertainError,
)

T = TypeVar("T")

AT_OWN_RISK = RetryPolicy(initial=0, uncertain="retry")


@pytest.fixture
def api() -> Iterator[respx.Route]:
    """Stand in for the endpoint that starts generations."""
    with respx.mock(base_url=BASE_URL, assert_all_called=False) as router:
        yield router.post(PATH)


def request_ids(api: respx.Route) -> list[str]:
    """Give the client request id that each request came with."""
    return [request.headers["x-client-request-id"] for request, _ in api.calls]


# --- what is sent


async def test_a_create_is_sent_as_documented(api: respx.Route) -> None:
    """One POST of JSON by the wire's names, with the key and an id to trace it by."""
    api.respond(200, json=QUEUED)
    async with client() as kling:
        generation = await create(kling)
    ((request, _),) = api.calls
    assert json.loads(request.content) == {
        "model": MODEL,
        "image_url": IMAGE,
        "prompt": PROMPT,
    }
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert (generation.id, generation.status) == (ID, "queued")
    assert [generation.client_request_id] == request_ids(api)


async def test_every_create_has_its_own_traceable_id(api: respx.Route) -> None:
    """Within the alphabet that the vendor keeps, and never the same twice."""
    api.respond(200, json=QUEUED)
    async with client() as kling:
        for _ in range(20):
            await create(kling)
    ids = request_ids(api)
    assert len(set(ids)) == 20
    assert all(re.fullmatch(r"[A-Za-z0-9._:-]{1,128}", it) for it in ids)


async def test_the_callers_own_id_is_sent_as_it_is(api: respx.Route) -> None:
    """For those who keep books themselves."""
    api.respond(200, json=QUEUED)
    async with client() as kling:
        generation = await create(kling, "scene-12:take_3.b")
    assert request_ids(api) == ["scene-12:take_3.b"]
    assert generation.client_request_id == "scene-12:take_3.b"


@pytest.mark.parametrize("given", ["", "with space", "ä", "x" * 129, "a\r\nb", "a/b"])
async def test_an_id_that_the_vendor_would_drop_is_refused(
    api: respx.Route, given: str
) -> None:
    """Before a byte is sent: the create could not be traced."""
    async with client() as kling:
        with pytest.raises(InvalidRequestError, match="client_request_id"):
            await create(kling, given)
    assert api.call_count == 0


# --- what is sent again, and what is not

UNSENT = (
    httpx.ConnectError("refused"),
    httpx.ConnectTimeout("no answer"),
    httpx.PoolTimeout("full"),
    httpx.ProxyError("502 Bad Gateway"),
    httpx.Response(429),
    httpx.Response(429, headers={"retry-after": "0"}),
)
LOST: Sequence[tuple[Exception | httpx.Response, type[KlingError]]] = (
    (httpx.ReadError("reset"), ConnectionFailedError),
    (httpx.WriteError("broken pipe"), ConnectionFailedError),
    (httpx.CloseError("closed"), ConnectionFailedError),
    (httpx.RemoteProtocolError("hung up"), ConnectionFailedError),
    (httpx.LocalProtocolError("h11"), ConnectionFailedError),
    (ValueError("from a hook"), ConnectionFailedError),
    (httpx.ReadTimeout("slow"), RequestTimeoutError),
    (httpx.WriteTimeout("slow"), RequestTimeoutError),
    (httpx.Response(408), APIStatusError),
    (httpx.Response(303, headers={"location": "/done"}), APIStatusError),
    (httpx.Response(500, json={"message": "Internal server error"}), ServerError),
    (httpx.Response(502, html="<title>Bad gateway</title>"), ServerError),
    (httpx.Response(503), ServerError),
    (httpx.Response(504, json={"message": "Generation timeout"}), ServerError),
    (httpx.Response(200, html="<title>Just a moment...</title>"), DecodeError),
    (httpx.Response(201, content=b'{"id": "88a64d31-cc'), DecodeError),
    (httpx.Response(200, content=b""), DecodeError),
    (httpx.Response(204), DecodeError),
    (httpx.Response(200, content=b"null"), DecodeError),
    (httpx.Response(200, json=[QUEUED]), DecodeError),
    (httpx.Response(200, json=ID), DecodeError),
    (httpx.Response(200, json={}), DecodeError),
    (httpx.Response(200, json={"status": "queued"}), DecodeError),
    (httpx.Response(200, json={"id": None, "status": "queued"}), DecodeError),
    (httpx.Response(200, json={"id": {"id": ID}}), DecodeError),
)
REFUSED: Mapping[int, type[APIStatusError]] = {
    302: APIStatusError,
    307: APIStatusError,
    400: BadRequestError,
    401: AuthenticationError,
    402: APIStatusError,
    403: PermissionDeniedError,
    404: NotFoundError,
    409: APIStatusError,
    422: APIStatusError,
}


@pytest.mark.parametrize("first", UNSENT, ids=repr)
async def test_a_create_that_never_reached_the_queue_is_sent_again(
    api: respx.Route, first: Exception | httpx.Response
) -> None:
    """No connection, no place in the pool, a proxy, 429: nothing can be billed."""
    api.side_effect = [first, httpx.Response(201, json=QUEUED)]
    async with client() as kling:
        assert (await create(kling)).id == ID
    assert api.call_count == 2
    assert len(set(request_ids(api))) == 1


@pytest.mark.parametrize("lost, cause", LOST, ids=repr)
async def test_a_create_whose_answer_was_lost_is_sent_once(
    api: respx.Route, lost: Exception | httpx.Response, cause: type[KlingError]
) -> None:
    """It may be running: that is told, with what to look for, and the reason why."""
    api.side_effect = [lost, httpx.Response(200, json=QUEUED)]
    before = dt.datetime.now(dt.UTC)
    async with client() as kling:
        with pytest.raises(SubmissionUncertainError) as caught:
            await create(kling)
    assert api.call_count == 1
    error = caught.value
    assert [error.client_request_id] == request_ids(api)
    assert before <= error.since <= dt.datetime.now(dt.UTC)
    assert f"client request id {error.client_request_id} since" in str(error)
    assert error.__cause__ is not None
    assert type(error.__cause__) is cause
    if isinstance(lost, Exception):
        assert error.__cause__.__cause__ is lost


@pytest.mark.parametrize("code, expected", REFUSED.items())
async def test_a_refused_create_is_sent_once_and_told_as_refused(
    api: respx.Route, code: int, expected: type[APIStatusError]
) -> None:
    """4xx and redirects are answers: nothing was started, nothing is uncertain."""
    api.respond(code, json={"message": "no"}, headers={"location": "http://x/"})
    async with client() as kling:
        with pytest.raises(expected) as caught:
            await create(kling)
    assert type(caught.value) is expected
    assert caught.value.status_code == code
    assert api.call_count == 1


@pytest.mark.parametrize(
    "first, expected",
    [
        (httpx.ConnectError("refused"), ConnectionFailedError),
        (httpx.Response(429), RateLimitError),
    ],
    ids=repr,
)
@pytest.mark.parametrize("attempts", [1, 3])
async def test_what_never_reached_the_queue_to_the_end_is_no_uncertainty(
    api: respx.Route,
    first: Exception | httpx.Response,
    expected: type[KlingError],
    attempts: int,
) -> None:
    """As many attempts as the policy has, then the last error itself."""
    api.side_effect = [first] * attempts
    async with client(
        retry=RetryPolicy(attempts=attempts, initial=0, uncertain="raise")
    ) as kling:
        with pytest.raises(expected) as caught:
            await create(kling)
    assert type(caught.value) is expected
    assert api.call_count == attempts


async def test_an_answer_that_is_lost_after_a_refused_connection_is_told(
    api: respx.Route,
) -> None:
    """The time to look from is that of the first attempt."""
    refused = [httpx.ConnectError("refused")] * 2
    api.side_effect = [*refused, httpx.ReadError("reset")]
    async with client() as kling:
        with pytest.raises(SubmissionUncertainError):
            await create(kling)
    assert api.call_count == 3


# --- at one's own risk


@pytest.mark.parametrize("lost, _", LOST, ids=repr)
async def test_at_ones_own_risk_a_lost_answer_is_asked_for_again(
    api: respx.Route,
    lost: Exception | httpx.Response,
    _: type[KlingError],
) -> None:
    """``uncertain="retry"``: with the same client request id, so both can be found."""
    api.side_effect = [lost, httpx.Response(200, json=QUEUED)]
    async with client(retry=AT_OWN_RISK) as kling:
        assert (await create(kling)).id == ID
    assert api.call_count == 2
    assert len(set(request_ids(api))) == 1


@pytest.mark.parametrize(
    "later",
    [
        httpx.ReadError("reset"),
        httpx.ConnectError("refused"),
        httpx.Response(400, json={"message": "Body validation error"}),
        httpx.Response(403, json={"message": "You've run out of credits"}),
        httpx.Response(429),
    ],
    ids=repr,
)
async def test_at_ones_own_risk_an_uncertainty_is_not_forgotten(
    api: respx.Route, later: Exception | httpx.Response
) -> None:
    """However later attempts end: the first may be running, and that is told."""
    api.side_effect = [httpx.ReadError("first"), *[later] * 4]
    async with client(retry=AT_OWN_RISK) as kling:
        with pytest.raises(SubmissionUncertainError) as caught:
            await create(kling)
    assert [caught.value.client_request_id] == list(set(request_ids(api)))
    assert isinstance(caught.value.__cause__, ConnectionFailedError)


async def test_at_ones_own_risk_a_refusal_is_still_final(api: respx.Route) -> None:
    """Only what was lost is sent again."""
    api.respond(400)
    async with client(retry=AT_OWN_RISK) as kling:
        with pytest.raises(BadRequestError):
            await create(kling)
    assert api.call_count == 1


# --- an id that came by another way

TRACED = {"x-inference-id": ID}


@pytest.mark.parametrize(
    "body",
    [b"", b'{"id": "88a64d31-cc', b"<title>oops</title>", b"[]", b"{}", b"null"],
)
async def test_an_unreadable_answer_with_a_trace_gives_the_generation(
    api: respx.Route, body: bytes
) -> None:
    """``x-inference-id`` is the generation's id: nothing lost, nothing sent again."""
    api.respond(200, content=body, headers=TRACED)
    told = list[CreatedEvent]()
    async with client(hooks=Hooks(on_created=told.append)) as kling:
        generation = await create(kling)
    assert (generation.id, generation.is_terminal) == (ID, False)
    assert [event.generation for event in told] == [generation]
    assert api.call_count == 1


async def test_a_server_error_with_a_trace_tells_the_generation(
    api: respx.Route,
) -> None:
    """It may or may not be running: uncertain, and the id is there to ask with."""
    api.respond(504, json={"message": "Generation timeout"}, headers=TRACED)
    async with client() as kling:
        with pytest.raises(SubmissionUncertainError) as caught:
            await create(kling)
    assert caught.value.generation_id == ID
    assert api.call_count == 1


async def test_a_refusal_with_a_trace_is_about_no_generation(api: respx.Route) -> None:
    """Failed requests have a trace too, and start nothing."""
    api.respond(400, json={"message": "no"}, headers=TRACED)
    async with client() as kling:
        with pytest.raises(BadRequestError) as caught:
            await create(kling)
    assert caught.value.generation_id is None


OTHER = "11111111-1111-4111-8111-111111111111"


@pytest.mark.parametrize("known", [ID, OTHER])
async def test_of_two_ids_the_one_that_the_server_knows_is_taken(known: str) -> None:
    """The header's first: the log lists that. The create is told and sent once."""
    posts: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "POST":
            posts.append(request)
            body = {"id": OTHER, "status": "queued"}
            return httpx.Response(200, json=body, headers=TRACED)
        if request.url.params["generation_id"] != known:
            return httpx.Response(404)
        return httpx.Response(200, json={"id": known, "status": "generating"})

    told = list[CreatedEvent]()
    async with over(answer) as http:
        kling = client(http_client=http, hooks=Hooks(on_created=told.append))
        generation = await create(kling, "scene-1")
    assert (generation.id, generation.client_request_id) == (known, "scene-1")
    assert [event.generation.id for event in told] == [known]
    assert len(posts) == 1


@pytest.mark.parametrize("status_code", [408, 429, 500, 503])
async def test_of_two_ids_the_headers_is_taken_when_nobody_can_tell(
    status_code: int,
) -> None:
    """A poll that fails is no word against it, and the log lists it."""

    def answer(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(status_code)
        body = {"id": OTHER, "status": "queued"}
        return httpx.Response(200, json=body, headers=TRACED)

    async with over(answer) as http:
        generation = await create(client(http_client=http), "scene-1")
    assert (generation.id, generation.raw["id"]) == (ID, OTHER)
    assert generation.status == "queued"


async def test_an_id_with_its_route_is_no_second_id(api: respx.Route) -> None:
    """The header may leave it out: nothing is asked."""
    uuid = ID.partition(":")[0]
    api.respond(200, json=QUEUED, headers={"x-inference-id": uuid})
    async with client() as kling:
        assert (await create(kling)).id == ID
    assert api.call_count == 1

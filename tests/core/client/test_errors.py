"""The tree of errors, what each tells, and that each survives a pickle."""

from __future__ import annotations

import copy
import datetime as dt
import pickle
import re
import socket
import traceback
from collections.abc import Iterator, Mapping
from typing import Literal

import httpx
import pytest
from clients import KEY

from kling_async import (
    APIStatusError,
    AsyncKling,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    DownloadError,
    Generation,
    GenerationError,
    GenerationFailedError,
    InvalidRequestError,
    JobConflictError,
    JobError,
    KlingError,
    NotFoundError,
    OutOfCreditsError,
    PermissionDeniedError,
    Problem,
    RateLimitError,
    RequestTimeoutError,
    RetryPolicy,
    ServerError,
    Status,
    SubmissionUncertainError,
    TransportError,
    Video,
    WaitTimeoutError,
    _errors,
)
from kling_async._errors import causes_of
from kling_async._files.part import is_out_of_files

RUNNING = Generation(
    id="g-1",
    status=Status.GENERATING,
    client_request_id="request-1",
    raw={"id": "g-1"},
)
FAILED = Generation(
    id="g-1",
    status=Status.ERROR,
    error=GenerationError(name="ModerationError", message="refused"),
)
FINISHED = Generation(
    id="g-1",
    status=Status.COMPLETED,
    video=Video(url="https://example.com/v.mp4"),
)
SINCE = dt.datetime(2026, 8, 1, 12, 30, 15, 999, tzinfo=dt.UTC)

SAMPLES: tuple[KlingError, ...] = (
    KlingError("something"),
    ConfigurationError("no API key"),
    ClientClosedError("the client is closed"),
    InvalidRequestError(
        [Problem("duration", "7", "5 or 10", "Try 5"), Problem("prompt", "''", "text")],
        model="klingai/v2-master-image-to-video",
    ),
    *(
        cls(
            "the server's words",
            status_code=code,
            request_id="r-1",
            body="{}",
            retry_after=2.5,
        )
        for cls, code in (
            (APIStatusError, 418),
            (BadRequestError, 400),
            (AuthenticationError, 401),
            (PermissionDeniedError, 403),
            (OutOfCreditsError, 403),
            (NotFoundError, 404),
            (RateLimitError, 429),
            (ServerError, 503),
        )
    ),
    *(
        cls("GET api.example.com: reset", request_sent=True)
        for cls in (TransportError, RequestTimeoutError, ConnectionFailedError)
    ),
    DecodeError("the answer is not JSON", status_code=200, body="<html>"),
    BudgetExceededError(budget=4e6, spent=2e6, in_flight=1e6, needed=1.5e6),
    SubmissionUncertainError(client_request_id="request-1", since=SINCE),
    GenerationFailedError(FAILED),
    WaitTimeoutError("g-1", timeout=1800.0, generation=RUNNING),
    DownloadError("the disk is full"),
    JobError("job 'a' is held: the disk is full", key="a", state="held"),
    JobConflictError("job 'a' is done", key="a", state="done"),
)


def class_name(value: object) -> str:
    """Name a parametrised error in the test's id."""
    return type(value).__name__


def tree_below(cls: type[KlingError]) -> Iterator[type[KlingError]]:
    """Give the library's public subclasses, this class first."""
    is_ours = cls.__module__.startswith("kling_async")
    if is_ours and not cls.__name__.startswith("_"):
        yield cls
    for subclass in cls.__subclasses__():
        yield from tree_below(subclass)


def drawn_tree(text: str) -> Mapping[str, str]:
    """Read a drawn tree: each name and its parent's."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for edge, name in re.findall(r"^ {4}([ │├└─]*)(\w*Error)\b", text, re.MULTILINE):
        depth = len(edge) // 4
        path[depth:] = [name]
        if depth:
            parents[name] = path[depth - 1]
    return parents


def test_the_samples_here_are_of_every_class() -> None:
    """No error of the library goes untested by this file."""
    assert {type(error) for error in SAMPLES} == set(tree_below(KlingError))


def test_the_tree_is_as_drawn() -> None:
    """The tree in the module's docstring is the tree of the classes."""
    real = {
        cls.__name__: base.__name__
        for cls in tree_below(KlingError)
        for base in cls.__bases__
        if cls is not KlingError
    }
    assert drawn_tree(_errors.__doc__ or "") == real
    assert KlingError.__bases__ == (Exception,)


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", SAMPLES, ids=class_name)
def test_every_error_pickles(error: KlingError, protocol: int) -> None:
    """Class, message and every attribute cross a process boundary."""
    sent = copy.copy(error).concerning("g-1", FAILED)
    restored: object = pickle.loads(pickle.dumps(sent, protocol))
    assert isinstance(restored, KlingError)
    assert type(restored) is type(error)
    assert str(restored) == str(sent)
    assert restored.args == sent.args
    assert vars(restored) == vars(sent)
    assert restored.generation == FAILED


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("error", SAMPLES, ids=class_name)
def test_every_error_can_be_copied(error: KlingError, duplicate: object) -> None:
    """A copy is another error of the same class that says and holds the same."""
    assert callable(duplicate)
    other = duplicate(error)
    assert other is not error
    assert type(other) is type(error)
    assert (str(other), vars(other)) == (str(error), vars(error))


def test_a_note_survives_a_pickle() -> None:
    """What a user adds to an error goes along with it."""
    error = KlingError("something")
    error.add_note("in scene 12")
    restored: object = pickle.loads(pickle.dumps(error))
    assert getattr(restored, "__notes__", None) == ["in scene 12"]


@pytest.mark.parametrize("error", SAMPLES, ids=class_name)
def test_an_error_about_running_work_says_how_to_go_on(error: KlingError) -> None:
    """What happened, with which generation, and what to do next are one message."""
    told = str(copy.copy(error).concerning("g-1", RUNNING))
    what, about = told.rsplit(" [", 1)
    assert what.startswith(error.reason)
    assert (what == error.reason) is (error.hint is None)
    assert about.startswith("generation g-1, last seen generating; ")
    assert "may still be running and billed" in about
    assert "wait(error.generation_id)" in about


@pytest.mark.parametrize("generation", [FINISHED, FAILED], ids=["finished", "failed"])
def test_an_error_about_ended_work_does_not_say_that_it_runs(
    generation: Generation,
) -> None:
    """A settled generation is named with its last status, and nothing is promised."""
    error = DownloadError("the disk is full").concerning("g-1", generation)
    assert error.is_settled
    assert str(error) == (
        f"the disk is full [generation g-1, last seen {generation.status}]"
    )


def test_an_error_about_an_unseen_generation_names_its_id() -> None:
    """An id without an answer yet is told, and that the work may be running."""
    error = KlingError("something").concerning("g-1")
    assert not error.is_settled
    assert error.generation is None
    assert str(error).startswith("something [generation g-1; it may still be running")


def test_an_error_about_no_generation_says_only_what_happened() -> None:
    """Nothing is appended where no generation is concerned."""
    error = KlingError("something")
    assert str(error) == "something"
    assert (error.generation, error.generation_id) == (None, None)
    assert error.client_request_id is None
    assert not error.is_settled


def test_concerning_gives_the_error_itself_with_all_that_is_known() -> None:
    """It is noted in place, for ``raise error.concerning(...)`` and a bare raise."""
    error = KlingError("something")
    assert error.concerning("g-1", RUNNING) is error
    assert error.generation_id == "g-1"
    assert error.generation == RUNNING
    assert error.client_request_id == "request-1"


def test_concerning_forgets_nothing_that_was_known() -> None:
    """Less knowledge does not overwrite more: neither generation nor request id."""
    error = KlingError("something").concerning("g-1", RUNNING).concerning("g-1")
    assert error.generation == RUNNING
    lost = SubmissionUncertainError(client_request_id="request-1", since=SINCE)
    assert lost.concerning("g-1", FAILED).client_request_id == "request-1"


def test_one_errors_generation_is_not_anothers() -> None:
    """What is noted on an error stays on that one error."""
    KlingError("one").concerning("g-1", RUNNING)
    assert KlingError("other").generation_id is None
    assert KlingError.generation is None


def test_a_problem_says_where_what_and_what_instead() -> None:
    """Given, allowed and the hint are one line; without a hint it ends there."""
    assert str(Problem("duration", "7", "5 or 10", "Try 5")) == (
        "duration: given 7; allowed 5 or 10. Try 5"
    )
    assert str(Problem("duration", "7", "5 or 10")) == (
        "duration: given 7; allowed 5 or 10"
    )


def test_an_invalid_request_tells_every_problem_and_that_nothing_was_sent() -> None:
    """All problems at once, a line each, counted, with the model."""
    problems = [Problem("duration", "7", "5 or 10"), Problem("prompt", "''", "text")]
    error = InvalidRequestError(problems, model="klingai/v2")
    assert error.problems == tuple(problems)
    assert str(error).splitlines() == [
        "invalid request for klingai/v2, 2 problems, nothing was sent:",
        "  - duration: given 7; allowed 5 or 10",
        "  - prompt: given ''; allowed text",
    ]
    assert "invalid request, 1 problem, nothing" in str(
        InvalidRequestError(problems[:1])
    )


@pytest.mark.parametrize(
    "cls, advice",
    [
        (BadRequestError, ""),
        (AuthenticationError, "; check the API key (argument api_key, or AIMLAPI_KEY)"),
        (PermissionDeniedError, ""),
        (
            OutOfCreditsError,
            "; top up the account, then ask again: nothing was billed",
        ),
        (ServerError, ""),
    ],
)
def test_a_refusal_tells_status_words_request_id_and_advice(
    cls: type[APIStatusError], advice: str
) -> None:
    """The message holds what support will ask for, and what to do where it helps."""
    traced = cls("no", status_code=499, request_id="r-1")
    assert str(traced) == f"the API answered 499: no (request id r-1){advice}"
    assert str(cls("no", status_code=499)) == f"the API answered 499: no{advice}"


def test_a_decode_error_shows_the_beginning_of_the_body() -> None:
    """120 characters tell a login page from a cut-off answer; all 500 are kept."""
    error = DecodeError("the answer is not JSON", status_code=200, body="x" * 500)
    assert str(error) == (
        f"the answer is not JSON (HTTP 200); the body begins {'x' * 120!r}"
    )
    assert error.body == "x" * 500
    assert str(DecodeError("empty", status_code=204)) == "empty (HTTP 204)"


def test_an_uncertain_submission_tells_what_to_look_for() -> None:
    """The request id, when it was sent, and to look before sending again."""
    error = SubmissionUncertainError(client_request_id="request-1", since=SINCE)
    assert "client request id request-1 since 2026-08-01T12:30:15+00:00" in str(error)
    assert "may be running and billed" in str(error)
    assert "Before you send it again, look" in str(error)
    assert (error.client_request_id, error.since) == ("request-1", SINCE)


def test_a_budget_that_would_be_passed_is_told_in_figures() -> None:
    """What there was, what is spent, what is in flight, what it would cost."""
    error = BudgetExceededError(budget=4e6, spent=2e6, in_flight=1e6, needed=1.5e6)
    assert str(error) == (
        "not created: it would exceed the budget of 4,000,000 credits: "
        "2,000,000 are spent, 1,000,000 in flight, and it costs 1,500,000"
    )
    unknown = BudgetExceededError(budget=1, spent=1, in_flight=0, needed=None)
    assert str(unknown).endswith("and its price is not known")


def test_a_failed_generation_tells_the_servers_reason() -> None:
    """Name and message of the failure, and the generation itself."""
    error = GenerationFailedError(FAILED)
    assert str(error) == (
        "the generation failed: ModerationError: refused"
        " [generation g-1, last seen error]"
    )
    assert error.generation == FAILED


@pytest.mark.parametrize("reason", [None, GenerationError()])
def test_a_failure_without_a_reason_says_so(reason: GenerationError | None) -> None:
    """An empty reason is not an empty sentence."""
    generation = Generation(id="g-1", status=Status.ERROR, error=reason)
    assert "the server gave no reason" in str(GenerationFailedError(generation))


def test_a_wait_that_timed_out_tells_how_long_and_that_it_goes_on() -> None:
    """The time in seconds, the generation as last seen, and how to resume."""
    error = WaitTimeoutError("g-1", timeout=1800.0, generation=RUNNING)
    assert str(error).startswith("not finished after 1800 s [generation g-1, last seen")
    assert "wait(error.generation_id)" in str(error)
    assert (error.timeout, error.generation) == (1800.0, RUNNING)
    assert WaitTimeoutError("g-1", timeout=0.5).generation_id == "g-1"


@pytest.mark.parametrize("library", ["httpx", "aiohttp"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
async def test_a_server_that_is_not_there_is_named_with_its_port(
    host: str, library: Literal["httpx", "aiohttp"]
) -> None:
    """With a question about the emulator where the address is this machine's own."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    once = RetryPolicy(attempts=1)
    url = f"http://{host}:{port}"
    async with AsyncKling(KEY, base_url=url, retry=once, transport=library) as kling:
        with pytest.raises(ConnectionFailedError) as caught:
            await kling.get("some-id")
    assert f"GET {host}:{port}/v2/" in str(caught.value)
    assert "is the emulator running?" in str(caught.value)
    for it in causes_of(caught.value):  # none of them led to itself
        for cause in filter(None, (it.__cause__, it.__context__)):
            assert all(it is not other for other in causes_of(cause))


def test_the_causes_of_an_error_are_walked_once_each_in_a_ring_too() -> None:
    """Some libraries raise one error within the handling of another of its own."""
    first, second = ValueError("first"), OSError(24, "too many open files")
    first.__cause__, second.__context__ = second, first
    group = ExceptionGroup("both", [first, ExceptionGroup("again", [second])])
    assert [it for it in causes_of(group) if it in (first, second)] == [second, first]
    assert list(causes_of(first)) == [first, second]
    assert is_out_of_files(first)


async def test_a_traceback_shows_no_frame_of_the_retries() -> None:
    """What a newcomer sees first fits on a screen."""

    def refuse(_: httpx.Request) -> httpx.Response:
        return httpx.Response(401, json={"message": "no"})

    http_client = httpx.AsyncClient(transport=httpx.MockTransport(refuse))
    async with AsyncKling("k", http_client=http_client) as kling:
        with pytest.raises(AuthenticationError) as caught:
            await kling.create(model="klingai/v2-master-text-to-video", prompt="a")
    shown = traceback.format_exception(caught.value)
    assert "site-packages/tenacity" not in "".join(shown)
    assert len("".join(shown).splitlines()) < 25

"""Which answer is final, and how a generation shows itself."""

from __future__ import annotations

import pickle
from typing import Literal

import pytest
from attrs import evolve
from attrs.exceptions import FrozenInstanceError
from hypothesis import given, settings, strategies as st

from kling_async import Generation, GenerationError, Status, Video

VIDEO = Video(url="https://cdn.example.com/output.mp4")
ERROR = GenerationError(name="ModerationError", message="refused")

PENDING = ("queued", "waiting", "active", "generating")
OPEN_ENDED = ("completed", "complete", "cancelled", "unknown", "Queued", "")

Outcome = Literal["pending", "succeeded", "failed"]


def outcome(generation: Generation) -> Outcome:
    """Tell what its three properties agree on."""
    told = (generation.succeeded, generation.failed, generation.is_terminal)
    by_properties: dict[tuple[bool, bool, bool], Outcome] = {
        (False, False, False): "pending",
        (True, False, True): "succeeded",
        (False, True, True): "failed",
    }
    return by_properties[told]


@pytest.mark.parametrize("error", [None, ERROR], ids=["no-error", "error"])
@pytest.mark.parametrize("video", [None, VIDEO], ids=["no-video", "video"])
@pytest.mark.parametrize("status", PENDING)
def test_a_documented_pending_status_is_never_final(
    status: str, video: Video | None, error: GenerationError | None
) -> None:
    """While the server says that it works, nothing beside the status ends a watch."""
    generation = Generation(id="g", status=Status(status), video=video, error=error)
    assert outcome(generation) == "pending"


@pytest.mark.parametrize("error", [None, ERROR], ids=["no-error", "error"])
@pytest.mark.parametrize("video", [None, VIDEO], ids=["no-video", "video"])
def test_the_status_error_always_means_failure(
    video: Video | None, error: GenerationError | None
) -> None:
    """`error` is final and a failure, whatever else is in the answer."""
    generation = Generation(id="g", status=Status.ERROR, video=video, error=error)
    assert outcome(generation) == "failed"


@pytest.mark.parametrize(
    "video, error, expected",
    [
        (VIDEO, None, "succeeded"),
        (VIDEO, ERROR, "succeeded"),
        (None, ERROR, "failed"),
        (None, None, "pending"),
    ],
    ids=["video", "video-and-error", "error", "neither"],
)
@pytest.mark.parametrize("status", OPEN_ENDED)
def test_completed_and_undocumented_statuses_are_decided_by_what_is_there(
    status: str,
    video: Video | None,
    error: GenerationError | None,
    expected: Outcome,
) -> None:
    """A video means success, else an error means failure, else it goes on."""
    generation = Generation(id="g", status=Status(status), video=video, error=error)
    assert outcome(generation) == expected


@given(
    status=st.sampled_from([*PENDING, "error", *OPEN_ENDED]) | st.text(),
    video=st.sampled_from([None, VIDEO]),
    error=st.sampled_from([None, ERROR, GenerationError()]),
)
@settings(derandomize=True, deadline=None)
def test_no_generation_both_succeeds_and_fails(
    status: str, video: Video | None, error: GenerationError | None
) -> None:
    """Whatever the server invents, exactly one of the three outcomes holds."""
    generation = Generation(id="g", status=Status(status), video=video, error=error)
    assert outcome(generation) in {"pending", "succeeded", "failed"}
    assert not (generation.succeeded and generation.video is None)


@pytest.mark.parametrize(
    "status, is_known",
    [
        *((name, True) for name in (*PENDING, "completed", "error")),
        *((name, False) for name in ("unknown", "complete", "QUEUED", "")),
    ],
)
def test_only_documented_statuses_are_known(status: str, is_known: bool) -> None:
    """Six statuses are documented; any other text is a status too."""
    assert Status(status).is_known is is_known


def test_a_status_is_a_plain_string() -> None:
    """It compares, hashes, formats and pickles as text, and its repr names it."""
    status = Status("queued")
    assert status == "queued"
    assert hash(status) == hash("queued")
    assert f"{status}" == "queued"
    assert repr(status) == "Status('queued')"
    restored = pickle.loads(pickle.dumps(status))
    assert (type(restored), restored) == (Status, status)


@pytest.mark.parametrize(
    "error, text",
    [
        (GenerationError(name="A", message="b"), "A: b"),
        (GenerationError(name="A"), "A"),
        (GenerationError(message="b"), "b"),
        (GenerationError(), ""),
    ],
)
def test_a_failure_reads_as_its_parts(error: GenerationError, text: str) -> None:
    """The text of a `GenerationError` has a colon only between two parts."""
    assert str(error) == text


def test_values_are_frozen_hashable_and_pickle() -> None:
    """A generation is a value: it cannot change, keys a dict, crosses processes."""
    generation = Generation(
        id="g",
        status=Status.COMPLETED,
        video=evolve(VIDEO, extra={"duration": [5]}),
        raw={"id": "g", "list": [1]},
    )
    with pytest.raises(FrozenInstanceError):
        generation.id = "other"  # type: ignore[misc]  # what must not be possible
    assert {generation: 1}[evolve(generation)] == 1
    restored: object = pickle.loads(pickle.dumps(generation))
    assert restored == generation
    assert isinstance(restored, Generation)
    assert restored.raw == generation.raw
    assert isinstance(restored.status, Status)


def test_what_a_generation_is_compared_and_shown_by_leaves_the_raw_answer_out() -> None:
    """Two answers that mean the same are equal; a repr does not repeat the answer."""
    one = Generation(id="g", status=Status.QUEUED, raw={"trace": "one"})
    other = Generation(id="g", status=Status.QUEUED, raw={"trace": "other"})
    assert one == other
    assert "trace" not in repr(one)


def shown(generation: Generation) -> str:
    """What a notebook shows of it."""
    bundle = generation._repr_mimebundle_()  # pyright: ignore[reportPrivateUsage]
    assert bundle["text/plain"] == repr(generation)
    return bundle["text/html"]


def test_a_notebook_shows_the_video_in_a_player() -> None:
    """A finished generation shows a player with its URL, its id and its status."""
    page = shown(Generation(id="g1", status=Status.COMPLETED, video=VIDEO))
    assert f'<video src="{VIDEO.url}" controls' in page
    assert "g1 · completed" in page


@pytest.mark.parametrize(
    "video",
    [None, Video(url="javascript:alert(1)"), Video(url="data:text/html,x")],
    ids=["none", "javascript", "data"],
)
def test_a_notebook_gets_no_player_without_a_web_address(video: Video | None) -> None:
    """Only http and https URLs are put into a page."""
    page = shown(Generation(id="g1", status=Status.COMPLETED, video=video))
    assert page == "<code>g1 · completed</code>"


@given(text=st.text(alphabet="<>&\"'ab"))
@settings(derandomize=True, deadline=None)
def test_what_the_server_sends_is_escaped_in_a_notebook(text: str) -> None:
    """No text of the server's breaks out of its place in the page."""
    generation = Generation(
        id=text,
        status=Status(text),
        video=Video(url=f"https://example.com/{text}"),
    )
    page = shown(generation)
    assert page.count("<") == len(("figure", "video", "/video", "figcaption")) + 4
    assert page.count('"') == len(("src", "width")) * 2

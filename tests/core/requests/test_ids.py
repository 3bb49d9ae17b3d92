"""What is taken for an id, and what is refused before it is sent."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings, strategies as st

from kling_async import InvalidRequestError
from kling_async._checks import client_request_id_from, require_generation_id

ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._:-"

# Take what a caller may give, whatever the annotations say.
TAKE_REQUEST_ID: Callable[..., str] = client_request_id_from


@pytest.mark.parametrize(
    "given_id",
    [
        "60ac7c34-3224-4b14-8e7d-0aa0db708325",
        "88a64d31-cce4-41e8-b9d8-5392e8c2a6d4:kling-video/v2/master/image-to-video",
        "V1StGXR8Z5jdHi6BmyT8k",
        "x",
        "x" * 1024,
    ],
)
def test_each_documented_form_of_generation_id_is_taken(given_id: str) -> None:
    """As it is; blanks around it, as a file or a shell leaves them, are cut off."""
    assert require_generation_id(given_id) == given_id
    assert require_generation_id(f"  {given_id}\n") == given_id


@pytest.mark.parametrize(
    "given_id",
    [
        "",
        "  ",
        "\n",
        None,
        7,
        b"x",
        ["x"],
        object,
        "a\nb",
        "a\ud800b",
        "x" * 10_000 + "\ud800",
        "x" * 1025,
    ],
    ids=lambda value: ascii(value)[:12],
)
def test_what_cannot_be_a_generation_id_is_refused(given_id: object) -> None:
    """An `InvalidRequestError` that shows what was given, shortened."""
    with pytest.raises(InvalidRequestError, match="generation_id") as caught:
        require_generation_id(given_id)
    (problem,) = caught.value.problems
    assert problem.field == "generation_id"
    assert problem.given == repr(given_id)[:80]
    assert "create()" in problem.allowed


def test_a_request_id_is_made_where_none_is_given() -> None:
    """Each create has its own, in the vendor's alphabet, and told as ours."""
    made = {client_request_id_from(None) for _ in range(1000)}
    assert len(made) == 1000
    assert all(re.fullmatch(r"kling-[0-9a-f]{32}", one) for one in made)


@given(given_id=st.text(ALPHABET, min_size=1, max_size=128))
@settings(derandomize=True, deadline=None)
def test_a_request_id_in_the_vendors_alphabet_is_taken(given_id: str) -> None:
    """1 to 128 of the documented characters pass unchanged."""
    assert client_request_id_from(given_id) == given_id


@given(
    before=st.text(ALPHABET, max_size=5),
    odd=st.characters(exclude_characters=ALPHABET),
    after=st.text(ALPHABET, max_size=5),
)
@settings(derandomize=True, deadline=None)
def test_one_character_outside_the_alphabet_is_refused(
    before: str, odd: str, after: str
) -> None:
    """The vendor drops such an id silently: the create could not be traced."""
    with pytest.raises(InvalidRequestError, match="client_request_id"):
        client_request_id_from(before + odd + after)


@pytest.mark.parametrize(
    "given_id",
    ["", "x" * 129, "x\n", "\nx", "scene 12", "ä", "a/b", "a,b", 7, b"x", ["x"]],
    ids=lambda value: ascii(value)[:12],
)
def test_another_request_id_is_refused_with_the_reason(given_id: object) -> None:
    """The problem tells the alphabet and what would happen otherwise."""
    with pytest.raises(InvalidRequestError, match="nothing was sent") as caught:
        TAKE_REQUEST_ID(given_id)
    (problem,) = caught.value.problems
    assert problem.field == "client_request_id"
    assert problem.given == repr(given_id)[:80]
    assert problem.allowed == "1 to 128 of A-Z a-z 0-9 . _ : -"
    assert "silently drops" in (problem.hint or "")

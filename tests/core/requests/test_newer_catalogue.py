"""A program brings a catalogue that is newer than the one in the package."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import pytest

from kling_async import (
    AsyncKling,
    Catalogue,
    ConfigurationError,
    ImageToVideo,
    InvalidRequestError,
    Request,
    TextToVideo,
    load_catalogue,
    models,
)
from kling_async._requests import classes

NEW = "klingai/video-v9-pro-text-to-video"
OLD = "kling-video/v1.5/pro/text-to-video"
REFUSED = "kling-video/v1.5/standard/text-to-video"
URL = "https://example.com/a.png"


def own_data() -> dict[str, Any]:
    """Read the package's own catalogue."""
    file = resources.files("kling_async._requests").joinpath("catalogue.json")
    data: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return data


@pytest.fixture(name="file")
def write_newer(tmp_path: Path) -> Path:
    """Write a catalogue with one more model, which has one more field."""
    data = own_data()
    data["fields"]["mood"] = {"type": "string", "choices": ["gay", "grim"]}
    data["models"][NEW] = {
        "kind": "text-to-video",
        "required": ["prompt"],
        "fields": ["prompt", "mood"],
        "aliases": ["v9"],
    }
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps(data))
    return path


@pytest.fixture(name="newer")
def load_newer(file: Path) -> Catalogue:
    """Load that catalogue."""
    return load_catalogue(file)


@pytest.fixture(autouse=True)
def nothing_warned_of() -> None:
    """Let each test be warned anew."""
    classes.warn_once.cache_clear()


@pytest.fixture(name="sent")
def record_sent() -> list[dict[str, Any]]:
    """Keep the bodies that are sent."""
    return []


@pytest.fixture(name="kling")
async def make_client(
    newer: Catalogue, sent: list[dict[str, Any]]
) -> AsyncIterator[AsyncKling]:
    """Make a client that has the newer catalogue, and a server that takes all."""

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json={"id": "1", "status": "queued"})

    http = httpx.AsyncClient(transport=httpx.MockTransport(answer))
    async with http, AsyncKling("k", http_client=http, catalogue=newer) as kling:
        yield kling


@pytest.mark.parametrize("name", [NEW, "v9"])
async def test_a_newer_model_is_sent_with_its_new_field(
    kling: AsyncKling, sent: list[dict[str, Any]], name: str
) -> None:
    """Under its id or an alias, as the caller wrote it."""
    await kling.create(model=name, prompt="a", mood="grim")  # type: ignore[call-arg]
    assert sent == [{"model": name, "prompt": "a", "mood": "grim"}]


async def test_a_newer_model_is_checked_before_it_is_sent(
    kling: AsyncKling, sent: list[dict[str, Any]]
) -> None:
    """Keywords and objects that were made before, mappings of many as well."""
    with pytest.raises(InvalidRequestError) as caught:
        await kling.create(model=NEW, prompt="a", mood="gray")  # type: ignore[call-arg]
    assert [it.field for it in caught.value.problems] == ["mood"]
    early = TextToVideo(model=NEW, prompt="a", aspect_ratio="1:1")
    with pytest.raises(InvalidRequestError) as caught:
        await kling.create(early)
    assert [it.field for it in caught.value.problems] == ["aspect_ratio"]
    given: list[Request | Mapping[str, object]] = [early, {"model": NEW, "prompt": 3}]
    outcomes = [it async for it in kling.generate_many(given)]
    assert [type(it.error) for it in outcomes] == [InvalidRequestError] * 2
    assert sent == []


async def test_another_client_of_the_process_does_not_know_it(
    kling: AsyncKling, newer: Catalogue, caplog: pytest.LogCaptureFixture
) -> None:
    """A catalogue is a client's own."""
    assert NEW in newer
    await kling.create(model=NEW, prompt="a")
    assert caplog.messages == []
    assert NEW not in [it.id for it in models.list()]
    TextToVideo(model=NEW, prompt="a")
    assert "is not known to this version" in caplog.text


def test_a_model_on_its_way_out_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """Not for each of its requests."""
    with caplog.at_level(logging.WARNING, "kling_async"):
        for _ in range(3):
            TextToVideo(model=OLD, prompt="a")
    assert caplog.messages == [f"model {OLD!r} is withdrawn by the vendor"]


def test_a_model_that_is_refused_is_told_with_what_the_vendor_says(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Rather than with the nearest name, which may be another thing."""
    TextToVideo(model=REFUSED, prompt="a")
    assert "the vendor lists it as deprecated" in caplog.text
    assert "did you mean" not in caplog.text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"version": 2, "fields": {}, "models": {}, "retired": {}}',
        '{"version": 1, "fields": {"a": {"type": "matrix"}}, "models": {}}',
        '{"version": 1, "fields": {"a": {"typ": "string"}}, "models": {}}',
        '{"version": 1, "fields": {}, "models": {"a": {"kind": "x"}}}',
        '{"version": 1, "fields": {}, "models": {"a": {"fields": ["b"]}}}',
        '{"version": 1, "fields": {}, "models": {"a": 3}}',
        "[" * 100_000,
    ],
)
def test_a_file_that_is_none_is_told(tmp_path: Path, text: str) -> None:
    """By its name, and as what it is."""
    path = tmp_path / "odd.json"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"odd\.json is not one that this"):
        load_catalogue(path)


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    """With the system's reason."""
    with pytest.raises(ConfigurationError, match="No such file"):
        load_catalogue(tmp_path / "none.json")


def test_the_built_in_catalogue_stays_what_it_is(newer: Catalogue) -> None:
    """Models that both know are equal."""
    same = [it for it in models.list() if newer[it.id] == it]
    assert same == models.list()
    assert ImageToVideo(image_url=URL, prompt="a").model in newer

"""What was learned, kept in a file: whole, tolerant, and open to several writers."""

from __future__ import annotations

import json
import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kling_async import (
    Completion,
    ConfigurationError,
    Learned,
    PollState,
    load_learned,
    save_learned,
)
from kling_async._polling.learned import KEPT, KINDS_KEPT

MODEL = "klingai/v2-master-image-to-video"
WORK = MODEL, 5.0


def see(learned: Learned, *durations: float, model: str = MODEL) -> None:
    """Let a schedule see generations that took so many seconds."""
    for seconds in durations:
        learned.observe(
            Completion(model=model, video_length=5.0, after=seconds - 1, by=seconds)
        )


def seen(learned: Learned) -> list[float]:
    """Give when they were seen finished, the newest last."""
    return [by for _, by in learned.durations().get(WORK, ())]


def test_what_was_saved_is_known_to_the_next_process(tmp_path: Path) -> None:
    """The same durations, and so the same polls."""
    learned, path = Learned(), tmp_path / "durations.json"
    see(learned, *(300 + number for number in range(60)))
    save_learned(learned, path)
    again = load_learned(path)
    assert again.durations() == learned.durations()
    for age in (0.0, 100.0, 330.0, 500.0):
        state = PollState(polls=9, elapsed=age, age=age, model=MODEL, video_length=5.0)
        assert again.delay(state) == learned.delay(state)


def test_a_model_without_a_length_is_kept_as_well(tmp_path: Path) -> None:
    """Effects and avatars have no length to choose."""
    learned, path = Learned(), tmp_path / "durations.json"
    completion = Completion(
        model="klingai/avatar-pro", video_length=None, after=8, by=9
    )
    learned.observe(completion)
    save_learned(learned, path)
    assert load_learned(path).durations() == {("klingai/avatar-pro", None): ((8, 9),)}


def test_options_stay_with_the_schedule_that_is_loaded_into(tmp_path: Path) -> None:
    """The file holds durations only; what was seen since comes after them."""
    first, path = Learned(), tmp_path / "durations.json"
    see(first, 300, 310)
    save_learned(first, path)
    second = Learned(polls=12)
    see(second, 400)
    assert load_learned(path, second) is second
    assert second.polls == 12
    assert seen(second) == [300, 310, 400]


def test_saving_twice_adds_nothing(tmp_path: Path) -> None:
    """Only what is new goes in."""
    learned, path = Learned(), tmp_path / "durations.json"
    see(learned, 300, 310)
    save_learned(learned, path)
    save_learned(learned, path)
    see(learned, 320)
    save_learned(learned, path)
    assert seen(load_learned(path)) == [300, 310, 320]


def test_two_that_save_in_turn_both_have_their_say(tmp_path: Path) -> None:
    """Neither writes over what the other saw."""
    path = tmp_path / "durations.json"
    first, second = load_learned(path), load_learned(path)
    see(first, 300, 310)
    see(second, 400)
    save_learned(first, path)
    save_learned(second, path)
    see(first, 320)
    save_learned(first, path)
    assert seen(load_learned(path)) == [300, 310, 400, 320]


def save_often(path: Path, base: int) -> None:
    """See a generation and save, again and again."""
    learned = load_learned(path)
    for number in range(50):
        see(learned, base + number)
        save_learned(learned, path)


def test_many_that_save_at_once_leave_a_whole_file(tmp_path: Path) -> None:
    """Writers race; whoever reads meanwhile sees one whole file or another."""
    path = tmp_path / "durations.json"
    save_learned(Learned(), path)
    with ThreadPoolExecutor(4) as workers:
        jobs = [workers.submit(save_often, path, 1000 * n) for n in (1, 2, 3, 4)]
        while not all(job.done() for job in jobs):
            json.loads(path.read_bytes())
        for job in jobs:
            job.result()
    last = {1000 * n + 49 for n in (1, 2, 3, 4)}
    assert last & set(seen(load_learned(path)))
    assert [it.name for it in tmp_path.iterdir()] == ["durations.json"]


def test_the_file_is_bounded(tmp_path: Path) -> None:
    """The oldest durations and kinds of work make room."""
    path = tmp_path / "durations.json"
    for base in (1000, 2000):
        learned = Learned()
        see(learned, *range(base, base + 100))
        save_learned(learned, path)
    assert seen(load_learned(path))[0] == 1000 + 2 * 100 - KEPT
    for number in range(KINDS_KEPT):
        learned = Learned()
        see(learned, 60, model=f"model-{number}")
        save_learned(learned, path)
    rows = json.loads(path.read_bytes())["durations"]
    assert len(rows) == KINDS_KEPT
    assert rows[0]["model"] == "model-0"


def test_a_file_that_is_not_there_is_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It is the first time, then."""
    assert load_learned(tmp_path / "none.json").durations() == {}
    assert caplog.records == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b"[]",
        b"{}",
        b'{"version": 2, "durations": []}',
    ],
    ids=["empty", "cut off", "no text", "too deep", "a list", "no version", "later"],
)
def test_a_broken_file_is_passed_over_and_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    """One line in the log, no error; the next save makes it whole."""
    path = tmp_path / "durations.json"
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "kling_async"):
        learned = load_learned(path)
    assert learned.durations() == {}
    assert len(caplog.records) == 1
    assert str(path) in caplog.text
    see(learned, 300)
    save_learned(learned, path)
    assert seen(load_learned(path)) == [300]


@pytest.mark.parametrize(
    "row",
    [
        None,
        {"model": 5, "video_length": 5, "seconds": [[1, 2]]},
        {"model": MODEL, "video_length": "5", "seconds": [[1, 2]]},
        {"model": MODEL, "video_length": 7, "seconds": 9},
        {"model": MODEL, "seconds": [[1, 2]]},
    ],
    ids=repr,
)
def test_a_broken_row_costs_only_itself(tmp_path: Path, row: object) -> None:
    """What is as it should be is taken."""
    path = tmp_path / "durations.json"
    good = {
        "model": MODEL,
        "video_length": 5,
        "seconds": [[3, 4], "x", [1], [9, 8], [1, "2"], [0, 1e999], [5, 6]],
    }
    path.write_text(json.dumps({"version": 1, "durations": [row, good]}))
    assert load_learned(path).durations() == {WORK: ((3, 4), (5, 6))}


def test_durations_that_are_no_list_are_none(tmp_path: Path) -> None:
    """Of the right version, and nothing in it."""
    path = tmp_path / "durations.json"
    path.write_text('{"version": 1, "durations": {"a": 1}}')
    assert load_learned(path).durations() == {}


def test_a_path_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """And what was learned is not lost: it can be saved elsewhere."""
    learned = Learned()
    see(learned, 300)
    with pytest.raises(ConfigurationError, match=r"path: given .*nowhere"):
        save_learned(learned, tmp_path / "nowhere" / "durations.json")
    save_learned(learned, tmp_path / "durations.json")
    assert seen(load_learned(tmp_path / "durations.json")) == [300]

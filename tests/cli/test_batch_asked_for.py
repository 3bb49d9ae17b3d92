"""A batch does what its manifest asks for now, and nothing that it does not."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
from shell import errors_in, invoke, serving

from kling_async import TextToVideo
from kling_async.durable import DurableKling, JobStatus, NewJob
from kling_async.emulator import Emulator, Fault

MODEL = "kling-video/v1/standard/text-to-video"
OTHER = "kling-video/v1/pro/text-to-video"


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Run an emulator that is done at once."""
    with serving() as running:
        yield running


def manifest(folder: Path, **rows: str) -> Path:
    """Write a manifest: a prompt for each key, or prompt and output."""
    folder.mkdir(exist_ok=True)
    lines = [
        f"{key},{MODEL},5,{it}{'' if ',' in it else ','}" for key, it in rows.items()
    ]
    path = folder / "scenes.csv"
    path.write_text("\n".join(["key,model,duration,prompt,output", *lines]), "utf-8")
    return path


def left_queued(path: Path, model: str = MODEL, **prompts: str) -> None:
    """Leave what a run that was cut off before it sent anything leaves."""

    async def submit() -> None:
        folder = path.with_suffix("")
        folder.mkdir(exist_ok=True)
        async with DurableKling(
            folder / "jobs.db", batch="scenes", output_dir=folder
        ) as jobs:
            await jobs.submit_many(
                NewJob(
                    request=TextToVideo(prompt=prompt, model=model, duration=5),
                    key=key,
                    output=f"{key}.mp4",
                )
                for key, prompt in prompts.items()
            )

    anyio.run(submit)


def states(path: Path) -> dict[str, str]:
    """Read how each job of the batch is."""

    async def read() -> list[JobStatus]:
        async with DurableKling(
            path.with_suffix("") / "jobs.db", batch="scenes"
        ) as jobs:
            return await jobs.list()

    return {it.key: str(it.state) for it in anyio.run(read)}


def test_a_row_that_was_taken_out_is_not_sent(
    emulator: Emulator, tmp_path: Path
) -> None:
    """It is told, held, called off by `--prune`, and made when it is back."""
    path = manifest(tmp_path, fox="one", boat="two")
    left_queued(path, fox="one", boat="two")
    path = manifest(tmp_path, fox="one")
    first = invoke(emulator, "batch", path)
    assert first.exit_code == 0
    assert "1 row: 0 new, 1 unchanged, 0 changed, 1 no longer there" in first.stderr
    assert "'boat': held, never sent" in first.stderr
    assert len(emulator.creates) == 1
    assert states(path) == {"fox": "done", "boat": "held"}
    assert invoke(emulator, "batch", path, "--prune").exit_code == 0
    assert states(path) == {"fox": "done", "boat": "cancelled"}
    assert len(emulator.creates) == 1


def test_a_held_row_that_is_back_is_made(emulator: Emulator, tmp_path: Path) -> None:
    """Once."""
    path = manifest(tmp_path, fox="one")
    left_queued(path, fox="one", boat="two")
    assert invoke(emulator, "batch", path).exit_code == 0
    path = manifest(tmp_path, fox="one", boat="two")
    assert invoke(emulator, "batch", path).exit_code == 0
    assert len(emulator.creates) == 2
    assert states(path) == {"fox": "done", "boat": "done"}


def test_a_row_that_was_corrected_in_time_is_sent_as_it_is_now(
    emulator: Emulator, tmp_path: Path
) -> None:
    """What was queued before is not sent; there is one bill."""
    path = manifest(tmp_path, fox="a dog barks")
    left_queued(path, model=OTHER, fox="a dog barks")
    result = invoke(emulator, "batch", path)
    assert result.exit_code == 0
    assert "0 new, 0 unchanged, 1 changed" in result.stderr
    assert [it.model for it in emulator.creates] == [MODEL]


def test_a_dry_run_is_the_difference_with_its_price(
    emulator: Emulator, tmp_path: Path
) -> None:
    """What is done costs nothing more; the budget is counted in."""
    path = manifest(tmp_path, fox="one")
    assert invoke(emulator, "batch", path).exit_code == 0
    path = manifest(tmp_path, fox="one", boat="two", tower="three")
    result = invoke(emulator, "batch", path, "--dry-run", "--budget", "0.5usd")
    assert result.exit_code == 0
    assert "2 new, 1 unchanged, 0 changed, 0 no longer there" in result.stderr
    assert "2 jobs" in result.stdout
    assert "exceeds the budget of 1,000,000 credits (0.50 USD)" in result.stdout
    assert len(emulator.creates) == 1


def test_prices_that_cannot_be_had_are_asked_for_once(tmp_path: Path) -> None:
    """For each model, not for each row."""
    path = manifest(tmp_path, **{f"k{n}": f"{n}" for n in range(9)})
    with serving() as emulator:
        emulator.faults.add(Fault("status", path="models", status=404))
        result = invoke(emulator, "batch", path, "--dry-run")
        asked = len(emulator.requests)
    assert "9 without a quoted price" in result.stdout
    assert asked <= 5


def test_a_folder_can_be_moved(emulator: Emulator, tmp_path: Path) -> None:
    """Nothing is fetched again, nothing is written to the old place."""
    path = manifest(tmp_path / "one", fox="one")
    assert invoke(emulator, "batch", path).exit_code == 0
    requests = len(emulator.requests)
    (tmp_path / "one").rename(tmp_path / "two")
    path = tmp_path / "two" / "scenes.csv"
    assert invoke(emulator, "batch", path).exit_code == 0
    folder = path.with_suffix("")
    (line,) = (folder / "results.jsonl").read_text("utf-8").splitlines()
    assert json.loads(line)["file"] == "fox.mp4"
    assert 'href="./fox.mp4"' in (folder / "report.html").read_text("utf-8")
    assert not (tmp_path / "one").exists()
    assert len(emulator.requests) == requests


def test_a_changed_output_is_followed(emulator: Emulator, tmp_path: Path) -> None:
    """Also in a ring; nothing is fetched or paid again."""
    path = manifest(tmp_path, fox="one,a.mp4", boat="two,b.mp4")
    assert invoke(emulator, "batch", path).exit_code == 0
    folder, requests = path.with_suffix(""), len(emulator.requests)
    videos = [(folder / name).read_bytes() for name in ("a.mp4", "b.mp4")]
    path = manifest(tmp_path, fox="one,b.mp4", boat="two,sub/a.mp4")
    assert invoke(emulator, "batch", path).exit_code == 0
    assert [(folder / name).read_bytes() for name in ("b.mp4", "sub/a.mp4")] == videos
    assert sorted(it.name for it in folder.rglob("*.mp4")) == ["a.mp4", "b.mp4"]
    assert len(emulator.requests) == requests


def test_a_file_in_the_way_is_not_overwritten(
    emulator: Emulator, tmp_path: Path
) -> None:
    """The job keeps its file; exit code 1."""
    path = manifest(tmp_path, fox="one,a.mp4")
    assert invoke(emulator, "batch", path).exit_code == 0
    other = path.with_suffix("") / "mine.mp4"
    other.write_bytes(b"mine")
    result = invoke(emulator, "batch", manifest(tmp_path, fox="one,mine.mp4"))
    assert result.exit_code == 1
    assert "mine.mp4 already exists" in errors_in(result)[0]
    assert other.read_bytes() == b"mine"
    assert (other.parent / "a.mp4").exists()


def test_a_video_that_cannot_be_fetched_is_told(
    emulator: Emulator, tmp_path: Path
) -> None:
    """Exit code 1, and no word of Python."""
    path = manifest(tmp_path, fox="one")
    assert invoke(emulator, "batch", path).exit_code == 0
    (path.with_suffix("") / "fox.mp4").unlink()
    emulator.faults.add(Fault("status", path="files", status=410))
    result = invoke(emulator, "batch", path)
    assert result.exit_code == 1
    assert errors_in(result)[0].startswith("fox: fox.mp4 is missing:")
    assert "await" not in result.stderr


def test_two_batches_of_one_name_in_one_database_are_told_apart(
    emulator: Emulator, tmp_path: Path
) -> None:
    """The second is refused, with what to do; a name of its own is enough."""
    database = f"sqlite:///{tmp_path / 'all.db'}"
    one = manifest(tmp_path / "one", fox="one")
    two = manifest(tmp_path / "two", fox="one")
    first = invoke(emulator, "batch", one, "--database", database)
    second = invoke(emulator, "batch", two, "--database", database)
    third = invoke(emulator, "batch", two, "--database", database, "--name", "two")
    assert (first.exit_code, second.exit_code, third.exit_code) == (0, 2, 0)
    assert "give this batch another name" in errors_in(second)[0]
    assert (two.with_suffix("") / "fox.mp4").exists()


def test_no_part_of_a_download_outlives_its_batch(
    emulator: Emulator, tmp_path: Path
) -> None:
    """Whoever left it."""
    path = manifest(tmp_path, fox="one,sub/a.mp4")
    left = path.with_suffix("") / "sub" / ".kling-0badcafe.part"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert invoke(emulator, "batch", path).exit_code == 0
    assert [it.name for it in left.parent.iterdir()] == ["a.mp4"]


def test_results_that_are_open_elsewhere_are_kept_beside(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Windows; the exit code is the jobs'."""
    path, replace = manifest(tmp_path, fox="one"), Path.replace

    def refuse(self: Path, target: Path) -> Path:
        if target.name == "results.jsonl":
            raise PermissionError(13, "in use", str(target))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)
    result = invoke(emulator, "batch", path)
    folder = path.with_suffix("")
    assert result.exit_code == 0
    assert "results-new.jsonl" in result.stdout
    assert "done" in (folder / "results-new.jsonl").read_text("utf-8")
    assert (folder / "report.html").exists()


def test_a_folder_is_no_manifest(tmp_path: Path) -> None:
    """Said in one line."""
    result = invoke(None, "batch", tmp_path)
    assert result.exit_code == 2
    assert "is a directory" in errors_in(result)[0]


def test_a_batch_that_was_renamed_is_not_paid_for_again(
    emulator: Emulator, tmp_path: Path
) -> None:
    """With its folder: the jobs in it are what the manifest asks for."""
    path = manifest(tmp_path, fox="one", boat="two")
    assert invoke(emulator, "batch", path).exit_code == 0
    path.with_suffix("").rename(tmp_path / "films")
    films = path.rename(tmp_path / "films.csv")
    quoted = invoke(emulator, "batch", films, "--dry-run")
    assert "0 new, 2 unchanged" in quoted.stderr
    again = invoke(emulator, "batch", films)
    assert again.exit_code == 0
    assert "holds batch 'scenes'" in again.stderr
    assert len(emulator.creates) == 2


def test_another_batch_does_not_write_over_the_files_of_a_folder(
    emulator: Emulator, tmp_path: Path
) -> None:
    """Neither by a manifest's name nor by one that is given; nothing is sent."""
    folder = tmp_path / "out"
    path = manifest(tmp_path, fox="one")
    assert invoke(emulator, "batch", path, "--output-dir", folder).exit_code == 0
    before = {it.name: it.read_bytes() for it in folder.iterdir() if it.suffix != ".db"}
    path = manifest(tmp_path, fox="two").rename(tmp_path / "others.csv")
    for options in ((), ("--name", "mine"), ("--dry-run",)):
        result = invoke(emulator, "batch", path, "--output-dir", folder, *options)
        assert result.exit_code == 2
        assert "has the files of 'scenes'" in result.stderr
    after = {it.name: it.read_bytes() for it in folder.iterdir() if it.suffix != ".db"}
    assert after == before
    assert len(emulator.creates) == 1


def test_a_batch_in_a_shared_database_keeps_its_folder_to_itself(
    emulator: Emulator, tmp_path: Path, database: str
) -> None:
    """As one with a database of its own does; elsewhere others may go on."""
    folder, shared = tmp_path / "out", ("--database", database)
    here = (*shared, "--output-dir", folder)
    path = manifest(tmp_path, fox="one")
    assert invoke(emulator, "batch", path, *here).exit_code == 0
    video = (folder / "fox.mp4").read_bytes()
    path = manifest(tmp_path, fox="two").rename(tmp_path / "others.csv")
    roundabout = tmp_path / "else" / ".." / "out"
    for written in (folder, roundabout):
        result = invoke(emulator, "batch", path, *shared, "--output-dir", written)
        assert result.exit_code == 2
        assert "has the files of 'scenes'" in result.stderr
    assert (folder / "fox.mp4").read_bytes() == video
    assert len(emulator.creates) == 1
    assert invoke(emulator, "batch", path, *shared).exit_code == 0
    assert len(emulator.creates) == 2


def test_a_job_that_is_held_is_called_off_for_good(
    emulator: Emulator, tmp_path: Path
) -> None:
    """Whatever held it, a budget here: the next run does not send it."""
    path = manifest(tmp_path, fox="one")
    assert invoke(emulator, "batch", path, "--budget", "0").exit_code == 1
    assert states(path) == {"fox": "held"}
    assert "fox: cancelled" in invoke(emulator, "jobs", path, "cancel", "fox").stderr
    assert invoke(emulator, "batch", path, "--budget", "none").exit_code == 1
    assert states(path) == {"fox": "cancelled"}
    assert not emulator.creates


def test_what_purged_jobs_have_cost_is_still_told(
    emulator: Emulator, tmp_path: Path
) -> None:
    """Also where no job of the batch is left."""
    path = manifest(tmp_path, fox="one")
    assert invoke(emulator, "batch", path).exit_code == 0
    before = invoke(emulator, "jobs", path, "summary").stdout
    purged = invoke(emulator, "jobs", path, "purge", "--older-than", "0h")
    assert "1 deleted" in purged.stderr
    after = invoke(emulator, "jobs", path, "summary").stdout
    assert before.replace("1 done", "none") == after


def test_a_manifest_that_cannot_be_read_is_wrong_usage(tmp_path: Path) -> None:
    """Nothing was sent, and nothing is made."""
    result = invoke(None, "batch", tmp_path / "nosuch.csv")
    assert result.exit_code == 2
    assert "No such file" in errors_in(result)[0]
    assert not list(tmp_path.iterdir())

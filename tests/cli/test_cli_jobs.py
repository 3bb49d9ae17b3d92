"""`kling-async jobs`: found by folder or manifest, listed, decided on."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from shell import errors_in, invoke, serving
from typer.testing import Result

from kling_async import TextToVideo
from kling_async.durable import DurableKling, NewJob

MODEL = "kling-video/v1/standard/text-to-video"


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Leave a manifest beside the folder of its batch: two queued, one cancelled."""
    path = tmp_path_factory.mktemp("batch") / "scenes.csv"
    path.write_text("key,prompt\nfox,x\n", "utf-8")
    folder = path.with_suffix("")
    folder.mkdir()

    async def submit() -> None:
        async with DurableKling(folder / "jobs.db", batch="scenes") as jobs:
            request = TextToVideo(prompt="x" * 200, model=MODEL)
            await jobs.submit_many(
                NewJob(request=request, key=key, output=f"{'long' * 30}/{key}.mp4")
                for key in ("fox", "boat", "tower")
            )
            await jobs.cancel("tower")

    anyio.run(submit)
    return path


def ask(*words: str | Path) -> Result:
    """Run `kling-async jobs`."""
    return invoke(None, "jobs", *words)


def keys(result: Result) -> list[str]:
    """Read which jobs are listed, a line each."""
    assert result.exit_code == 0, result.output
    return [line.split("\t")[0] for line in result.stdout.splitlines()]


def test_a_batch_is_found_by_its_folder_manifest_or_database(scenes: Path) -> None:
    """In front, or as the option, before or after the subcommand."""
    folder, everything = scenes.with_suffix(""), ["fox", "boat", "tower"]
    database = folder / "jobs.db"
    for place in (scenes, folder, database, f"sqlite:///{database}"):
        assert keys(ask(place)) == everything
        assert keys(ask("--database", place)) == everything
    for words in (("summary", "--database", folder), (folder, "summary")):
        result = ask(*words)
        assert "2 queued, 1 cancelled" in result.stdout


@pytest.mark.parametrize("words", [[], ["summary"], ["cancel", "fox"]])
@pytest.mark.parametrize("name", ["nosuch", "nosuch.csv", "nosuch.db"])
def test_a_slip_in_a_path_makes_no_database(
    tmp_path: Path, name: str, words: list[str]
) -> None:
    """Exit code 2, and nothing is left behind."""
    for place in ([tmp_path / name], ["--database", f"sqlite:///{tmp_path}/n.db"]):
        result = ask(*place, *words)
        assert result.exit_code == 2
        assert "there is no" in errors_in(result)[0]
    assert not list(tmp_path.iterdir())


def test_lines_for_a_pipe_are_whole(scenes: Path) -> None:
    """Each job is one line, however long, parted by tabs."""
    first, *_ = ask(scenes).stdout.splitlines()
    key, state, _, output = first.split("\t")
    assert (key, state) == ("fox", "queued")
    assert output.endswith("fox.mp4")


def test_jobs_are_listed_page_by_page(scenes: Path) -> None:
    """In the order in which they were submitted."""
    assert keys(ask(scenes, "--limit", "2")) == ["fox", "boat"]
    assert keys(ask(scenes, "--limit", "2", "--offset", "2")) == ["tower"]
    assert keys(ask("--state", "cancelled", scenes)) == ["tower"]


def test_a_batch_that_is_not_there_is_told(scenes: Path) -> None:
    """With those that are."""
    result = ask(scenes, "--batch", "sences")
    assert result.exit_code == 2
    assert "there is: scenes" in errors_in(result)[0]


def test_a_decision_is_taken_by_state(scenes: Path) -> None:
    """For all that are in it; without key and state for none."""
    result = ask(scenes, "resubmit", "--state", "cancelled")
    assert result.exit_code == 0
    assert "tower: queued" in result.stderr
    assert keys(ask(scenes, "--state", "queued")) == ["fox", "boat", "tower"]
    assert ask(scenes, "cancel", "tower").exit_code == 0
    assert ask(scenes, "resubmit").exit_code == 2


def test_a_budget_is_set_raised_and_lifted(scenes: Path) -> None:
    """In credits or dollars."""
    assert "budget of 1,000,000 credits" in ask(scenes, "budget", "0.5usd").stderr
    assert "budget of 3,000,000 credits" in ask(scenes, "budget", "3000000").stderr
    assert "budget" not in ask(scenes, "budget", "none").stderr
    assert ask(scenes, "budget", "much").exit_code == 2


def test_only_what_is_settled_and_old_is_purged(scenes: Path) -> None:
    """What ended a moment ago stays, and so does what is queued."""
    assert "0 deleted" in ask(scenes, "purge", "--older-than", "30d").stderr
    assert ask(scenes, "purge", "--older-than", "old").exit_code == 2
    assert keys(ask(scenes)) == ["fox", "boat", "tower"]


@pytest.mark.parametrize("name", ["-KX-uzGr3i1bmDCgCZ_hM", "-oX-uzGr3i1bmDCgCZ_hM"])
@pytest.mark.parametrize("command", ["get", "watch", "wait", "download"])
def test_an_id_that_begins_with_a_hyphen_is_an_id(command: str, name: str) -> None:
    """One of 64 does; the server, which refuses the key at once, is asked for it."""
    with serving(api_keys=["another-key"]) as emulator:
        result = invoke(emulator, command, name)
        asked = [it.path for it in emulator.requests]
    assert result.exit_code == 1
    assert "No such option" not in result.output
    assert asked


def test_a_job_adopts_an_id_that_begins_with_a_hyphen(scenes: Path) -> None:
    """A job that has ended, that is."""
    result = ask(scenes, "adopt", "tower", "-KX-uzGr3i1bmDCgCZ_hM")
    assert result.exit_code == 0
    assert "tower: queued" in result.stderr
    assert ask(scenes, "cancel", "tower").exit_code == 0


def test_a_key_that_begins_with_a_hyphen_is_a_key(tmp_path: Path) -> None:
    """After each decision, with the options of `jobs` before and after it."""

    async def submit() -> None:
        async with DurableKling(tmp_path / "jobs.db") as jobs:
            for key in ("-a", "-state"):
                request = TextToVideo(prompt="x", model=MODEL)
                await jobs.submit(request, key=key)

    anyio.run(submit)
    assert "-a: cancelled" in ask(tmp_path, "cancel", "-a", "--batch", "default").stderr
    assert "-a: queued" in ask("--batch", "default", tmp_path, "resubmit", "-a").stderr
    assert "-state: cancelled" in ask(tmp_path, "cancel", "--", "-state").stderr
    adopted = ask(tmp_path, "adopt", "-state", "-KX-uzGr3i1bmDCgCZ_hM")
    assert "-state: queued" in adopted.stderr
    assert ask(tmp_path, "cancel", "--al", "-a").exit_code == 2

"""`kling-async batch`, `jobs` and `worker`: many at once, from a file to videos."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from shell import NEVER, environment, errors_in, invoke, serving, started, wait_for
from typer.testing import CliRunner, Result

from kling_async.cli._app import app
from kling_async.cli._report import render_page
from kling_async.emulator import Emulator, Fault

MODEL = "kling-video/v1/standard/text-to-video"
HEADER = "key,model,prompt"
NAMES = ("fox", "boat", "tower")
ROWS = [f"{name},{MODEL},A {name} in the rain" for name in NAMES]


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Run an emulator that is done at once."""
    with serving() as running:
        yield running


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Write a manifest of three rows."""
    return manifest(tmp_path, HEADER, *ROWS)


def manifest(folder: Path, *lines: str, name: str = "scenes.csv") -> Path:
    """Write a manifest."""
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8")
    return path


def results_of(path: Path) -> dict[str, dict[str, object]]:
    """Read what a batch has left behind, by key."""
    lines = (path.with_suffix("") / "results.jsonl").read_text("utf-8").splitlines()
    return {it["key"]: it for it in map(json.loads, lines)}


def test_a_batch_makes_each_row_once(emulator: Emulator, scenes: Path) -> None:
    """Videos, a file to work with, a page to look at; run again, nothing is made."""
    first = invoke(emulator, "batch", scenes)
    again = invoke(emulator, "batch", scenes)
    folder = scenes.with_suffix("")
    found = results_of(scenes)
    assert (first.exit_code, again.exit_code) == (0, 0)
    assert first.stdout.splitlines() == [
        f"{folder / 'results.jsonl'}",
        f"{folder / 'report.html'}",
    ]
    assert "3 done" in first.stderr
    assert len(emulator.creates) == 3
    assert [it["state"] for it in found.values()] == ["done"] * 3
    assert {it["generation_id"] for it in found.values()} == {
        it.generation_id for it in emulator.creates
    }
    assert {it["client_request_id"] for it in found.values()} == {
        it.client_request_id for it in emulator.creates
    }
    for key in found:
        assert (folder / f"{key}.mp4").read_bytes()[4:8] == b"ftyp"


def test_the_page_shows_each_job_and_plays_its_video(
    emulator: Emulator, tmp_path: Path
) -> None:
    """Self-contained but for the videos, and no place for somebody's script."""
    path = manifest(
        tmp_path, f"{HEADER},output", f'a,{MODEL},<script>alert(1)</script>,"x y/ä.mp4"'
    )
    invoke(emulator, "batch", path)
    page = (path.with_suffix("") / "report.html").read_text("utf-8")
    assert 'data-src="./x%20y/%C3%A4.mp4#t=0.1"' in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert page.count("<script>") == 1
    assert "http:" not in page.replace("http-equiv", "")
    assert "https:" not in page


def test_a_page_of_nothing_is_a_page(tmp_path: Path) -> None:
    """An interrupted batch may have no job yet."""
    assert "<h1>scenes</h1>" in render_page("scenes", [], tmp_path)


def test_json_lines_come_from_standard_input_too(
    emulator: Emulator, tmp_path: Path
) -> None:
    """Values have their own types there, and nests are nests."""
    rows = [
        {"key": 7, "model": MODEL, "prompt": "A", "duration": 5},
        {
            "model": MODEL,
            "prompt": "B",
            "cfg_scale": 0.5,
            "output": "b.mp4",
        },
    ]
    result = CliRunner().invoke(
        app,
        ["batch", "-", "--output-dir", str(tmp_path / "out")],
        input="\n\n".join(map(json.dumps, rows)),
        env=environment(emulator),
        catch_exceptions=False,
    )
    assert result.exit_code == 0
    assert (tmp_path / "out" / "7.mp4").exists()
    assert (tmp_path / "out" / "b.mp4").exists()


def test_rows_without_a_key_are_known_by_what_they_ask_for(
    emulator: Emulator, tmp_path: Path
) -> None:
    """Equal rows are as many jobs, and another order changes nothing."""
    same = [f"{MODEL},A fox"] * 2
    path = manifest(tmp_path, "model,prompt", *same, f"{MODEL},A boat")
    assert invoke(emulator, "batch", path).exit_code == 0
    manifest(tmp_path, "model,prompt", f"{MODEL},A boat", *same)
    assert invoke(emulator, "batch", path).exit_code == 0
    assert len(emulator.creates) == 3


def test_images_are_found_beside_the_manifest(
    emulator: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever the command is run."""
    from PIL import Image

    Image.new("RGB", (320, 320)).save(tmp_path / "mona.png")
    path = manifest(tmp_path, "key,image_url,prompt", "a,mona.png,She smiles")
    monkeypatch.chdir("/")
    assert invoke(emulator, "batch", path).exit_code == 0
    assert "image-to-video" in emulator.creates[0].model


@pytest.mark.parametrize(
    "lines, told",
    [
        (["key,promt", "a,x"], ["line 1: header: given 'promt'", "mean 'prompt'"]),
        (["key,key", "a,b"], ["line 1: header: given 'key' twice"]),
        (
            [
                HEADER + ",duration",
                f"a,{MODEL},x,7",
                f'b,{MODEL},"x\ny",5',
                f"c,{MODEL},,5",
            ],
            ["line 2: duration: given", "line 5: prompt"],
        ),
        (
            [HEADER, f"a,{MODEL},one", f"b,{MODEL},x", f"a,{MODEL},two"],
            ["line 4: key: given 'a', as in line 2"],
        ),
        (
            [HEADER + ",output", f"a,{MODEL},x,v.mp4", f"b,{MODEL},y,v.mp4"],
            ["line 3: output: given v.mp4, as in line 2"],
        ),
        (
            [HEADER + ",duration", f"a,{MODEL},x,99", f"a,{MODEL},y,98"],
            ["line 2: duration", "line 3: duration", "line 3: key: given 'a', as in"],
        ),
        (
            [
                HEADER + ",output",
                f"a,{MODEL},x,../v.mp4",
                f"b,{MODEL},y,/v.mp4",
                f"c,{MODEL},z,Jobs.db",
            ],
            [
                "line 2: output: given '../v.mp4'",
                "line 3: output: given '/v.mp4'",
                "line 4: output: given 'Jobs.db'",
            ],
        ),
        ([HEADER, f"{'k' * 201},{MODEL},x"], ["line 2: key: given 201 characters"]),
        (["key,image_url,prompt", "a,no.png,x"], ["line 2: image_url", "missing"]),
        ([HEADER], ["line 1: rows: given none"]),
        ([], ["line 1: rows: given none"]),
        ([HEADER, "a,b,c,d"], ["line 2: row: given 4 cells"]),
        ([HEADER, 'a,"b'], ["line 2: row: given"]),
        ([f"{HEADER},camera_control", f"a,{MODEL},x,{{}}"], ["line 2: camera_control"]),
    ],
)
def test_all_that_is_wrong_is_told_before_anything_is_sent(
    emulator: Emulator, tmp_path: Path, lines: list[str], told: list[str]
) -> None:
    """With line numbers, all at once; code 2, and no database is made."""
    result = invoke(emulator, "batch", manifest(tmp_path, *lines))
    assert result.exit_code == 2
    assert all(any(it in line for line in errors_in(result)) for it in told)
    assert not emulator.creates
    assert [it.name for it in tmp_path.iterdir()] == ["scenes.csv"]


@pytest.mark.parametrize(
    "content, told",
    [
        (b'{"model": 1}\n[]\n', ["line 1: model: given 1", "line 2: row: given []"]),
        (b'{"prompt": "x"\n', ["line 1: row: given"]),
        (b'{"promt": "x"}\n', ["line 1: promt"]),
        (b'{"key": ["a"], "prompt": "x"}\n', ["line 1: key: given"]),
        (b'{"prompt": "x"}\n{"prompt": "\xfc"}\n', ["line 2: given a byte 0xfc"]),
    ],
)
def test_bad_json_lines_are_told_likewise(
    emulator: Emulator, tmp_path: Path, content: bytes, told: list[str]
) -> None:
    """Not UTF-8, no JSON, no object, an unknown field."""
    path = tmp_path / "scenes.jsonl"
    path.write_bytes(content)
    result = invoke(emulator, "batch", path)
    assert result.exit_code == 2
    assert all(any(it in line for line in errors_in(result)) for it in told)
    assert not emulator.creates


def test_a_manifest_that_is_not_there_is_told(tmp_path: Path) -> None:
    """In one line."""
    result = invoke(None, "batch", tmp_path / "no.csv")
    (line,) = errors_in(result)
    assert line.endswith(f"{tmp_path / 'no.csv'}: No such file or directory")
    assert result.exit_code == 2


def test_a_key_with_another_request_is_told(emulator: Emulator, scenes: Path) -> None:
    """A row that was edited after it was made is no silent second bill."""
    assert invoke(emulator, "batch", scenes).exit_code == 0
    others = [row + " in snow" for row in ROWS[:2]]
    manifest(scenes.parent, HEADER, *others, ROWS[2])
    folder = scenes.with_suffix("")
    before = (folder / "results.jsonl").read_text("utf-8")
    for words in ((), ("--dry-run",)):
        result = invoke(emulator, "batch", scenes, *words)
        assert result.exit_code == 2
        for line, error in enumerate(errors_in(result), 2):
            assert error.startswith(f"line {line}: key: '{NAMES[line - 2]}'")
            assert "differ in: prompt" in error
        assert len(errors_in(result)) == 2
    assert len(emulator.creates) == 3
    assert (folder / "results.jsonl").read_text("utf-8") == before


def test_a_dry_run_tells_the_cost_and_sends_nothing(
    emulator: Emulator, scenes: Path
) -> None:
    """As the vendor quotes it; no key is needed."""
    keyless = {"AIMLAPI_KEY": None}
    manifest(scenes.parent, f"{HEADER},duration", *(f"{row},5" for row in ROWS))
    result = invoke(emulator, "batch", scenes, "--dry-run", env=keyless)
    assert result.exit_code == 0
    assert "3 jobs, 1,500,000 credits (0.75 USD); nothing was sent" in result.stdout
    assert not emulator.creates
    assert [it.name for it in scenes.parent.iterdir()] == ["scenes.csv"]


def test_a_spent_budget_holds_the_rest_until_there_is_more(
    emulator: Emulator, scenes: Path
) -> None:
    """What fits is made; a larger budget goes on with the rest."""
    manifest(scenes.parent, f"{HEADER},duration", *(f"{row},5" for row in ROWS))
    first = invoke(emulator, "batch", scenes, "--budget", "1000000")
    made = len(emulator.creates)
    held = {key: it["error"] for key, it in results_of(scenes).items() if it["error"]}
    again = invoke(emulator, "batch", scenes, "--budget", "2000000")
    assert (first.exit_code, made) == (1, 2)
    assert "held: fix the problems above" in first.stderr
    assert all("the budget of batch 'scenes'" in str(it) for it in held.values())
    assert len(held) == 1
    assert (again.exit_code, len(emulator.creates)) == (0, 3)


def test_failed_jobs_are_made_anew_only_when_asked(scenes: Path) -> None:
    """A second try may cost, so it is somebody's decision."""
    with serving(failure_rate=1) as emulator:
        first = invoke(emulator, "batch", scenes)
        second = invoke(emulator, "batch", scenes)
        before = len(emulator.creates)
        invoke(emulator, "batch", scenes, "--retry-failed")
    assert (first.exit_code, second.exit_code) == (1, 1)
    assert (before, len(emulator.creates)) == (3, 6)
    assert "0 credits" in second.stderr


def test_a_video_that_is_gone_is_fetched_again(
    emulator: Emulator, scenes: Path
) -> None:
    """It may lie on another machine, or be deleted; it is paid for already."""
    assert invoke(emulator, "batch", scenes).exit_code == 0
    video = scenes.with_suffix("") / "fox.mp4"
    video.unlink()
    assert invoke(emulator, "batch", scenes).exit_code == 0
    assert video.exists()
    assert len(emulator.creates) == 3


def test_a_killed_batch_goes_on_where_it_was(scenes: Path) -> None:
    """Kill -9, and the same command again."""
    with serving(speed=100) as emulator:
        with started(emulator, "batch", str(scenes)) as process:
            wait_for(lambda: len(emulator.creates) == 3)
            process.send_signal(signal.SIGKILL)
        result = invoke(emulator, "batch", scenes)
    assert result.exit_code in (0, 3)
    found = results_of(scenes).values()
    assert {it["generation_id"] for it in found if it["generation_id"]} <= {
        it.generation_id for it in emulator.creates
    }
    assert len(emulator.creates) == 3


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_batch_leaves_results_and_the_way_back(
    scenes: Path, number: signal.Signals, code: int
) -> None:
    """In order: creates have their ids, waits are left, and it can go on."""
    with serving(speed=NEVER) as emulator:
        with started(emulator, "batch", str(scenes)) as process:
            wait_for(lambda: len(emulator.creates) == 3)
            process.send_signal(number)
            _, errors = process.communicate()
        listed = listing(emulator, scenes)
    assert process.returncode == code
    assert "the same command goes on with it" in errors
    assert {it["state"] for it in listed} == {"running"}
    assert {it["generation_id"] for it in listed} == {
        it.generation_id for it in emulator.creates
    }
    assert set(results_of(scenes)) == {"fox", "boat", "tower"}


def test_an_outage_is_a_line_and_a_count(emulator: Emulator, tmp_path: Path) -> None:
    """Not a line for each job and attempt; all are done when it is over."""
    rows = [f"k{number},{MODEL},Scene {number}" for number in range(12)]
    emulator.faults.add(
        Fault("status", method="GET", path="generations", status=503, times=60)
    )
    result = invoke(emulator, "batch", manifest(tmp_path, HEADER, *rows))
    told = [it for it in result.stderr.splitlines() if "503" in it]
    counts = [re.search(r"warning: (\d+) more like it", it) for it in told]
    assert result.exit_code == 0
    assert len(told) <= 4
    assert sum(int(it[1]) for it in counts if it) >= 50


def test_a_worker_does_the_jobs_until_it_is_told_to_stop(scenes: Path) -> None:
    """A fleet of one; SIGTERM is how it is meant to end."""
    with serving(speed=NEVER) as emulator:
        with started(emulator, "batch", str(scenes)) as process:
            wait_for(lambda: len(emulator.creates) == 3)
            process.send_signal(signal.SIGTERM)
            process.communicate()
        polls = len(emulator.requests)
        database = f"sqlite:///{scenes.with_suffix('') / 'jobs.db'}"
        with started(emulator, "worker", "--database", database) as process:
            wait_for(lambda: len(emulator.requests) >= polls + 3)
            process.send_signal(signal.SIGTERM)
            _, errors = process.communicate()
    assert process.returncode == 0
    assert "working on sqlite:///" in errors
    assert len(emulator.creates) == 3


def test_jobs_are_listed_and_decided_on(emulator: Emulator, scenes: Path) -> None:
    """Decisions are carried out by the next run."""
    with (
        serving(speed=NEVER) as busy,
        started(busy, "batch", str(scenes)) as process,
    ):
        wait_for(lambda: len(busy.creates) == 3)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert ask(emulator, scenes, "cancel", "fox", "boat").exit_code == 0
    states = {it["key"]: it["state"] for it in listing(emulator, scenes)}
    wrong = ask(emulator, scenes, "give-up", "fox", "no-such-job")
    made = invoke(emulator, "generate", "-p", "x", "--no-wait").stdout.strip()
    adopted = ask(emulator, scenes, "adopt", "fox", made)
    queued = listing(emulator, scenes, "--state", "queued")
    assert states == {"fox": "cancelled", "boat": "cancelled", "tower": "running"}
    assert wrong.exit_code == 1
    assert len(errors_in(wrong)) == 2
    assert adopted.exit_code == 0
    assert [it["key"] for it in queued] == ["fox"]
    table = invoke(emulator, "jobs", "--database", url_of(scenes))
    assert "fox" in table.stdout
    assert "spent or set aside" in table.stderr


def test_a_state_that_there_is_not_is_told(emulator: Emulator, scenes: Path) -> None:
    """With those that there are."""
    assert invoke(emulator, "batch", scenes).exit_code == 0
    result = invoke(
        emulator, "jobs", "--database", url_of(scenes), "--state", "sleeping"
    )
    assert result.exit_code == 2
    assert "queued, running, done" in errors_in(result)[0]


@pytest.mark.parametrize("command", [["worker"], ["jobs"], ["jobs", "cancel", "a"]])
def test_a_database_that_cannot_be_reached_is_told(
    emulator: Emulator, command: list[str]
) -> None:
    """In one line, code 2, whatever the command."""
    url = "postgresql://me:s3cret@127.0.0.1:1/jobs"
    words = [command[0], "--database", url, *command[1:]]
    result = invoke(emulator, *words)
    assert result.exit_code == 2
    assert "127.0.0.1:1" in errors_in(result)[0]
    assert "s3cret" not in result.output


def url_of(scenes: Path) -> str:
    """Name the database of a batch."""
    return f"sqlite:///{scenes.with_suffix('') / 'jobs.db'}"


def ask(emulator: Emulator, scenes: Path, *words: str) -> Result:
    """Decide on jobs of a batch."""
    return invoke(emulator, "jobs", "--database", url_of(scenes), *words)


def listing(emulator: Emulator, scenes: Path, *words: str) -> list[dict[str, object]]:
    """List the jobs of a batch."""
    result = ask(emulator, scenes, "--json", *words)
    assert result.exit_code == 0
    return [json.loads(line) for line in result.stdout.splitlines()]

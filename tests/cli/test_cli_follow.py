"""`kling-async get`, `watch` and `wait`: back to what was created before."""

from __future__ import annotations

import io
import json
import re
import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import pytest
from rich.console import Console
from shell import NEVER, errors_in, invoke, serving, signalled

from kling_async import (
    Generation,
    GenerationError,
    NotFoundError,
    ServerError,
    Status,
    Video,
)
from kling_async._text import safe_line
from kling_async.cli._output import Exit, worst
from kling_async.cli._progress import Progress
from kling_async.cli._running import SeenGenerations
from kling_async.emulator import Emulator


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sit down in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def create(emulator: Emulator, count: int = 1) -> list[str]:
    """Start generations, and return their ids."""
    for number in range(count):
        invoke(emulator, "generate", "--no-wait", "-p", f"Scene {number}")
    return [it.generation_id for it in emulator.creates]


@contextmanager
def answering(body: object) -> Generator[str]:
    """Run a server that says the same to everybody, and give its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            content = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_get_tells_how_it_is_now() -> None:
    """With the video's address and the cost, once they are there."""
    with serving() as emulator:
        (generation_id,) = create(emulator)
        result = invoke(emulator, "get", generation_id)
        lines = result.stdout.splitlines()
        facts = dict(line.split(maxsplit=1) for line in lines[1:])
        assert lines[0] == generation_id
        assert facts["video"].startswith(emulator.base_url)
    assert result.exit_code == 0
    assert facts["status"] == "completed"
    assert facts["file"].endswith("kB, video/mp4")
    assert facts["cost"] == "1,700,000 credits (0.85 USD)"


def test_get_tells_of_several_and_of_one_that_is_unknown() -> None:
    """In the order that was asked for; what is unknown is an error beside them."""
    with serving(speed=NEVER) as emulator:
        first, second = create(emulator, 2)
        result = invoke(emulator, "get", second, "unknown", first, "--json")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    assert [it["id"] for it in told] == [second, first]
    assert [it["status"] for it in told] == ["queued", "queued"]
    assert result.exit_code == 1
    assert errors_in(result)[0].startswith("the API answered 404")
    assert "billed" not in result.stderr


def test_get_ends_well_for_a_generation_that_did_not() -> None:
    """It was asked how it is, and that it has told."""
    with serving(failure_rate=1) as emulator:
        (generation_id,) = create(emulator)
        result = invoke(emulator, "get", generation_id)
    assert result.exit_code == 0
    assert "\n  error   " in result.stdout


@pytest.mark.parametrize("command", ["get", "watch", "wait"])
def test_what_is_no_id_is_refused(command: str) -> None:
    """Before anything is asked."""
    with serving() as emulator:
        result = invoke(emulator, command, " ")
        assert list(emulator.requests) == []
    assert result.exit_code == 2
    assert errors_in(result)[0].startswith("ID: given ''; allowed the id of a gene")


@pytest.mark.parametrize("command", ["get", "watch", "wait"])
def test_an_id_is_asked_for(command: str) -> None:
    """In one line, as everything that is wrong."""
    result = invoke(None, command)
    assert (result.exit_code, result.stdout) == (2, "")
    assert errors_in(result) == ["Missing argument 'ID...'."]


def test_watch_prints_each_change_on_stdout() -> None:
    """As lines where nothing can move, and how to write the video on stderr."""
    with serving(speed=3000) as emulator:
        (generation_id,) = create(emulator)
        result = invoke(emulator, "watch", generation_id)
    statuses = [line.split()[-1] for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert statuses[-1] == "completed"
    assert len(statuses) == len(set(statuses))
    assert result.stderr == f"write the video with: kling-async wait {generation_id}\n"


def test_watch_names_each_of_several() -> None:
    """So that it is clear which one changed."""
    with serving() as emulator:
        ids = create(emulator, 2)
        result = invoke(emulator, "watch", *ids, ids[0])
    lines = sorted(line.split(maxsplit=1)[1] for line in result.stdout.splitlines())
    assert lines == sorted(f"{it[:8]} completed" for it in ids)


def test_watch_prints_an_object_a_line_for_a_script() -> None:
    """From the first sight to the last, and nothing else on stdout."""
    with serving(speed=3000) as emulator:
        ids = create(emulator, 2)
        result = invoke(emulator, "watch", *ids, "--json")
    told = [json.loads(line) for line in result.stdout.splitlines()]
    last = {it["id"]: it["status"] for it in told}
    assert last == dict.fromkeys(ids, "completed")
    assert result.stderr == ""


def test_watch_ends_with_1_if_one_failed() -> None:
    """And says why."""
    with serving(failure_rate=1) as emulator:
        (generation_id,) = create(emulator)
        result = invoke(emulator, "watch", generation_id)
    assert result.exit_code == 1
    assert result.stdout.endswith("error\n")
    assert errors_in(result)[0].startswith("the generation failed: ")
    assert "write the video" not in result.stderr


def test_watch_ends_with_3_when_the_time_is_up() -> None:
    """And tells the way back."""
    with serving(speed=NEVER) as emulator:
        (generation_id,) = create(emulator)
        result = invoke(emulator, "watch", generation_id, "--timeout", "0.05")
    assert result.exit_code == 3
    assert f"resume with: kling-async wait {generation_id}\n" in result.stderr


def test_wait_writes_all_videos_at_once(desk: Path) -> None:
    """Each into a file named after its id; the paths are what is printed."""
    (desk / "films").mkdir()
    with serving() as emulator:
        ids = create(emulator, 3)
        result = invoke(emulator, "wait", *ids, "--output-dir", "films")
    paths = [Path(line) for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert sorted(paths) == sorted(it.relative_to(desk) for it in desk.glob("*/*.mp4"))
    assert len(paths) == 3
    for path in paths:
        with av.open(path) as container:
            assert container.streams.video[0].width > 0


def test_wait_may_write_nothing() -> None:
    """Then the video's address is the result, as text or as JSON."""
    with serving() as emulator:
        (generation_id,) = create(emulator)
        as_text = invoke(emulator, "wait", generation_id, "--no-download")
        as_json = invoke(emulator, "wait", generation_id, "--no-download", "--json")
        told = json.loads(as_json.stdout)
        assert as_text.stdout.startswith(f"{emulator.base_url}/files/")
    assert as_text.stdout.strip() == told["video"]["url"]
    assert told["file"] is None
    assert list(Path().iterdir()) == []


def test_one_that_fails_does_not_stop_the_others() -> None:
    """Files for those that have a video, and the code for the worst."""
    with serving() as emulator:
        first, second = create(emulator, 2)
        result = invoke(emulator, "wait", first, "no\x7fid", second)
    assert len(result.stdout.splitlines()) == 2
    assert result.exit_code == 2
    assert len(errors_in(result)) == 1


def test_of_several_the_worst_code_counts() -> None:
    """A failure is final, and comes before what may still end well."""
    assert worst([Exit.DONE, Exit.UNSETTLED, Exit.FAILED, Exit.UNSETTLED]) == 1
    assert worst([Exit.DONE, Exit.USAGE, Exit.UNSETTLED]) == 2
    assert worst([Exit.UNSETTLED, Exit.DONE]) == 3
    assert worst([]) == 0


def test_there_is_no_way_back_to_what_nobody_knows() -> None:
    """What was asked for and is unknown is not said to be billed."""
    ledger = SeenGenerations()
    ledger.follow(["some-id"])
    unknown = NotFoundError("no", status_code=404).concerning("some-id")
    outage = ServerError("no", status_code=500).concerning("some-id")
    assert not ledger.goes_on_after(unknown)
    assert ledger.goes_on_after(outage)


def test_one_file_is_not_enough_for_two_videos() -> None:
    """It says which option to use in its place."""
    result = invoke(None, "wait", "one", "two", "--output", "film.mp4")
    assert result.exit_code == 2
    assert errors_in(result)[0].endswith("use --output-dir")


def test_a_folder_that_is_missing_is_refused() -> None:
    """Before anything is waited for."""
    result = invoke(None, "wait", "one", "--output-dir", "films")
    assert result.exit_code == 2
    assert "--output-dir: there is no directory films" in errors_in(result)[0]


@pytest.mark.parametrize("command", ["wait", "watch"])
def test_ctrl_c_tells_all_ids_and_one_command(command: str) -> None:
    """What was given is told again, ready to be pasted."""
    extra = ["--no-download"] if command == "wait" else []
    with serving(speed=NEVER) as emulator:
        ids = create(emulator, 2)
        with signalled(emulator, signal.SIGINT):
            result = invoke(emulator, command, *ids, *extra)
    resume = " ".join(["kling-async wait", *ids, *extra])
    told = result.stderr.splitlines()
    assert result.exit_code == 130
    assert [it.split(" (")[0] for it in told[-3:-1]] == ids
    assert told[-1] == f"resume with: {resume}"


HOSTILE = "\x1b]0;title\x07[bold red]red[/] \u202eevil\nnext line\r"


@pytest.mark.parametrize("extra", [[], ["--json"]])
def test_a_servers_text_is_only_text(extra: list[str]) -> None:
    """No markup, no control characters, no line of its own."""
    body = {
        "id": "some-id",
        "status": f"{HOSTILE}!",
        "error": {"name": "E", "message": HOSTILE},
    }
    with answering(body) as url:
        result = invoke(url, "get", "some-id", *extra)
        watched = invoke(url, "watch", "some-id", *extra)
    assert result.exit_code == 0
    assert watched.exit_code == 1
    told = result.stdout + result.stderr + watched.stdout + watched.stderr
    assert all(it.isprintable() or it == "\n" for it in told)
    assert "[bold red]red[/]" in told
    assert "\\x1b]0;title" in told or "\\u001b]0;title" in told


@pytest.mark.parametrize(
    "text, shown",
    [
        ("one\n  two\t three\r\n", "one two three"),
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\u202eb\ud800c\U000e0001", "a\\u202eb\\ud800c\\U000e0001"),
        ("Ünïcode → 🎬", "Ünïcode → 🎬"),
    ],
)
def test_a_line_is_one_line(text: str, shown: str) -> None:
    """What a terminal would obey is spelt out."""
    assert safe_line(text) == shown


def generation(key: str, status: Status) -> Generation:
    """Give a generation in some state."""
    done, failed = status == Status.COMPLETED, status == Status.ERROR
    return Generation(
        id=key,
        status=status,
        video=Video(url="https://a.b/c.mp4") if done else None,
        error=GenerationError(name="Bad", message="luck") if failed else None,
    )


def shown_by(progress: Progress, file: io.StringIO) -> list[str]:
    """Give the lines that are on the screen when nothing moves any more."""
    progress.stop()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", file.getvalue())
    return plain.rstrip().splitlines()


def test_on_a_terminal_each_generation_is_a_line_that_stays() -> None:
    """Marked by what became of it, with how long it took."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=90, color_system=None)
    with Progress(console) as progress:
        for name, typical in (("one", 100.0), ("two", None), ("three", 1e-9)):
            progress.add(name, label=name, typical=typical)
        progress.add("four", label="four", typical=60)
        progress.add("five", label="five")
        progress.show(generation("one", Status.COMPLETED))
        progress.show(generation("two", Status.ERROR))
        progress.show(generation("three", Status.GENERATING))
        progress.show(generation("four", Status.QUEUED))
        moving = file.getvalue()
        progress.drop("five")
    *_, one, two, three, four = shown_by(progress, file)
    assert "0:00 of about 1:00" in moving
    assert "0:00, longer than usual" in moving
    assert one.startswith("✓ one   completed")
    assert two.startswith("✗ two   error")
    assert three.startswith("… three generating")
    assert four.startswith("… four  queued")


def test_one_generation_needs_no_name() -> None:
    """Nor a column for it."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=90, color_system=None)
    with Progress(console) as progress:
        progress.add("one")
        progress.show(generation("one", Status.COMPLETED))
    assert shown_by(progress, file)[-1].startswith("✓ completed")

"""The command as a process: servers, signals, pipes, terminals, and the demo."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import anyio
import av
import httpx
import pytest
from shell import NEVER, errors_in, invoke, serving, started

from kling_async.cli._emulator import demo
from kling_async.emulator import Emulator

PROMPT = ("-p", "A paper boat crosses a puddle.")


@pytest.fixture
def busy() -> Iterator[Emulator]:
    """Run an emulator that never comes to an end of its work."""
    with serving(speed=NEVER) as running:
        yield running


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """Read stderr up to a line that holds a text."""
    assert process.stderr is not None
    for line in process.stderr:
        if text in line:
            return line
    raise AssertionError(f"it ended without saying {text!r}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_emulator_serves_until_a_signal(number: signal.Signals) -> None:
    """What it prints can be sourced, and leads to an API that answers; code 0."""
    with started(None, "emulator", "--port", "0", "--seed", "7") as process:
        assert process.stdout is not None
        ready, url, key = (process.stdout.readline() for _ in range(3))
        base_url = url.removeprefix("export AIMLAPI_BASE_URL=").strip()
        api_key = key.removeprefix("export AIMLAPI_KEY=").strip()
        answer = httpx.get(
            f"{base_url}/v2/video/generations",
            params={"generation_id": "x"},
            headers={"authorization": f"Bearer {api_key}"},
            trust_env=False,
        )
        process.send_signal(number)
        _, errors = process.communicate()
    assert ready.startswith(f"# The emulator is ready at {base_url}")
    assert answer.status_code == 404
    assert (process.returncode, errors) == (0, "")


def test_an_emulator_of_one_key_refuses_another() -> None:
    """A wrong key shows what it would with the vendor, and the right one is printed."""
    with started(None, "emulator", "--port", "0", "--key", "right one") as process:
        assert process.stdout is not None
        _, url, key = (process.stdout.readline() for _ in range(3))
        address = url.removeprefix("export AIMLAPI_BASE_URL=").strip()
        statuses = [
            httpx.get(
                f"{address}/v2/video/generations",
                params={"generation_id": "x"},
                headers={"authorization": f"Bearer {given}"},
                trust_env=False,
            ).status_code
            for given in ("wrong", "right one")
        ]
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert key == "export AIMLAPI_KEY='right one'\n"
    assert statuses == [401, 404]


@pytest.fixture
def in_the_background() -> Iterator[None]:
    """Start processes as a script does with `&`: without Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("in_the_background")
def test_a_job_in_the_background_can_be_terminated(busy: Emulator) -> None:
    """SIGTERM ends it as well where the shell had Ctrl-C ignored; no id is lost."""
    with started(None, "emulator", "--port", "0") as server:
        assert server.stdout is not None
        server.stdout.readline()
        server.send_signal(signal.SIGTERM)
        _, errors = server.communicate()
    with started(busy, "generate", *PROMPT) as process:
        line_with(process, "queued")
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate()
    generation_id = busy.creates[0].generation_id
    assert (server.returncode, errors) == (0, "")
    assert process.returncode == 143
    assert told.splitlines()[-1] == f"resume with: kling-async wait {generation_id}"


def test_the_emulator_takes_its_options(tmp_path: Path) -> None:
    """The environment as JSON; no credits are none."""
    args = ("emulator", "--port", "0", "--credits", "0", "--speed", "1e6", "--json")
    with started(None, *args) as process:
        assert process.stdout is not None
        env = json.loads(process.stdout.readline())
        result = invoke(None, "generate", *PROMPT, "-o", tmp_path / "x.mp4", env=env)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert result.exit_code == 1
    assert "credits" in errors_in(result)[0]


def test_the_emulator_fails_by_the_rules_of_a_file_and_keeps_its_state(
    tmp_path: Path,
) -> None:
    """The first answer is lost by rule; what was accepted is known after a restart."""
    rules, state = tmp_path / "faults.json", tmp_path / "state.json"
    rules.write_text('{"effect": "status", "status": 418, "nth": 1}', "utf-8")
    args = ("emulator", "--port", "0", "--state", str(state), "--json")
    with started(None, *args, "--faults", str(rules)) as process:
        assert process.stdout is not None
        env = json.loads(process.stdout.readline())
        refused = invoke(None, "generate", "--no-wait", *PROMPT, env=env)
        created = invoke(None, "generate", "--no-wait", "--json", *PROMPT, env=env)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    generation_id = json.loads(created.stdout)["id"]
    with started(None, *args) as process:
        assert process.stdout is not None
        env = json.loads(process.stdout.readline())
        found = invoke(None, "get", generation_id, "--json", env=env)
        process.send_signal(signal.SIGTERM)
        process.communicate()
    assert (refused.exit_code, "418" in errors_in(refused)[0]) == (1, True)
    assert json.loads(found.stdout)["id"] == generation_id


@pytest.mark.parametrize(
    "content, told",
    [(None, "cannot read"), ("{", "not JSON"), ('{"effect": "rain"}', "effect")],
)
def test_rules_that_cannot_be_read_are_told(
    content: str | None, told: str, tmp_path: Path
) -> None:
    """Code 2 and a line, before anything listens."""
    rules = tmp_path / "faults.json"
    if content is not None:
        rules.write_text(content, "utf-8")
    result = invoke(None, "emulator", "--port", "0", "--faults", rules)
    assert result.exit_code == 2
    assert told in errors_in(result)[0]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_emulator_is_a_success(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal is how a server is meant to end."""
    sleep_forever = anyio.sleep_forever

    async def stop() -> None:
        signal.raise_signal(number)
        await sleep_forever()

    monkeypatch.setattr(anyio, "sleep_forever", stop)
    result = invoke(None, "emulator", "--port", "0")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.count("\n") == 3


def test_the_emulator_says_why_it_cannot_listen() -> None:
    """A port that is taken, a speed that is none: code 2 and a line."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        results = [
            invoke(None, "emulator", "--port", port),
            invoke(None, "emulator", "--port", "0", "--speed", "0"),
        ]
    assert [it.exit_code for it in results] == [2, 2]
    assert f"cannot listen on 127.0.0.1 port {port}" in errors_in(results[0])[0]
    assert "speed: given 0.0" in errors_in(results[1])[0]


def test_without_its_extra_the_emulator_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And so does the demo, which runs one."""
    for name in [it for it in sys.modules if it.startswith("kling_async.emulator")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "av", None)
    for command in (["emulator"], ["demo", "--output-dir", str(tmp_path)]):
        result = invoke(None, *command)
        assert result.exit_code == 2
        assert errors_in(result)[0].endswith('pip install "kling_async[emulator]"')


def test_ctrl_c_ends_with_130_and_the_way_back(busy: Emulator) -> None:
    """The id was told before, and is told again with the command that resumes."""
    with started(busy, "generate", *PROMPT, "-o", "film.mp4") as process:
        line_with(process, "queued")
        process.send_signal(signal.SIGINT)
        out, errors = process.communicate()
    generation_id = busy.creates[0].generation_id
    resume = f"resume with: kling-async wait {generation_id} --output film.mp4"
    assert process.returncode == 130
    assert errors.splitlines()[-2:] == [f"{generation_id} (queued)", resume]
    assert out == ""


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("module", ["typer", "dbos"])
def test_a_signal_is_heard_while_the_command_is_still_loaded(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    module: str,
    number: signal.Signals,
    code: int,
) -> None:
    """It ends at once, as later on, and without a traceback."""
    # Found before the real one, it is where the command is when the signal comes.
    program = f"import os, time\nos.kill(os.getpid(), {number:d})\ntime.sleep(999)\n"
    (tmp_path / f"{module}.py").write_text(program, "utf-8")
    (tmp_path / "scenes.csv").write_text("key,prompt\nfox,A fox\n", "utf-8")
    monkeypatch.chdir(tmp_path)
    with started(None, "batch", "scenes.csv") as process:
        out, errors = process.communicate()
    assert process.returncode == code
    assert "Traceback" not in errors
    assert "unexpected" not in errors
    assert out == ""


def test_ctrl_c_before_the_answer_leaves_a_trace() -> None:
    """The first waits for the id, the second leaves with what the log lists."""
    with (
        socket.create_server(("127.0.0.1", 0)) as deaf,
        started(f"http://127.0.0.1:{deaf.getsockname()[1]}", "generate", *PROMPT) as it,
    ):
        connection, _ = deaf.accept()
        with connection:
            request = connection.recv(65536).decode()
            it.send_signal(signal.SIGINT)
            line_with(it, "waiting for the answer to a create")
            it.send_signal(signal.SIGINT)
            _, errors = it.communicate()
    sent = re.search(r"x-client-request-id: (\S+)", request, re.IGNORECASE)
    assert sent is not None
    assert it.returncode == 130
    assert f"under client request id {sent[1]}\n" in errors
    assert "Traceback" not in errors


def test_a_reader_who_leaves_early_is_no_error() -> None:
    """As of `kling-async models | head -1`."""
    reading, writing = os.pipe()
    os.close(reading)
    with serving() as emulator:
        invoke(emulator, "generate", "--no-wait", *PROMPT)
        generation_id = emulator.creates[0].generation_id
        for args in (["models"], ["watch", generation_id, "--json"]):
            with started(emulator, *args, stdout=writing) as process:
                _, errors = process.communicate()
            assert (process.returncode, errors) == (1, "")
    os.close(writing)


def test_without_a_reader_of_its_news_it_still_brings_the_video(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has been paid: what is not told does not stop it."""
    monkeypatch.chdir(tmp_path)
    reading, writing = os.pipe()
    os.close(reading)
    with (
        serving() as emulator,
        started(emulator, "generate", *PROMPT, stderr=writing) as process,
    ):
        path, _ = process.communicate()
    os.close(writing)
    assert process.returncode == 0
    assert Path(path.strip()).stat().st_size > 0


def test_a_terminal_without_unicode_gets_letters_instead(
    busy: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be shown is spelt out, and nothing breaks."""
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    with started(busy, "models", "klingai/video-o1-→") as process:
        _, errors = process.communicate()
    assert process.returncode == 2
    assert "\\u2192" in errors


def test_help_is_quick_since_it_imports_no_emulator() -> None:
    """What draws, films and serves is imported by the commands that need it."""
    program = (
        "import sys; from kling_async.cli import main; sys.argv[1:] = ['--help']\n"
        "try: main()\n"
        "finally: print(*sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    heavy = {"PIL", "av", "starlette", "uvicorn", "kling_async.emulator"}
    assert heavy & set(done.stderr.split()) == set()


def read_all(terminal: int) -> str:
    """Read what is written to a terminal until nobody holds it any more."""
    chunks: list[bytes] = []
    while select.select([terminal], [], [])[0]:
        try:
            chunk = os.read(terminal, 65536)
        except OSError:  # Linux's way to say that the other end is closed
            break
        if not chunk:
            break
        chunks.append(chunk)
    return b"".join(chunks).decode()


def test_on_a_terminal_it_moves_and_a_pipe_stays_clean(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Progress is drawn on stderr; stdout is the path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TERM", "xterm-256color")
    ours, theirs = pty.openpty()
    with serving() as emulator:
        with started(emulator, "generate", *PROMPT, stderr=theirs) as process:
            os.close(theirs)
            drawn = read_all(ours)
            assert process.stdout is not None
            path = process.stdout.read()
        os.close(ours)
    assert re.fullmatch(r"kling-\w+\.mp4\n", path)
    assert "✓" in drawn
    assert "\x1b[?25l" in drawn  # the cursor is hidden,
    assert drawn.rindex("\x1b[?25h") > drawn.rindex("\x1b[?25l")  # and comes back


def test_the_demo_needs_nothing_and_leaves_three_videos(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No key, no network: whatever the environment says of either is ignored."""
    monkeypatch.chdir(tmp_path)
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with started("not an address", "demo", "--speed", "1e6") as process:
        out, _ = process.communicate()
    paths = sorted(tmp_path.glob("kling-demo/*.mp4"))
    shapes: set[float] = set()
    for path in paths:
        with av.open(path) as container:
            stream = container.streams.video[0]
            frames = sum(1 for _ in container.decode(stream))
            assert frames / float(stream.average_rate or 0) == pytest.approx(5)
            shapes.add(stream.width / stream.height)
    assert process.returncode == 0
    assert [line.split()[0] for line in sorted(out.splitlines())] == [
        str(path.relative_to(tmp_path)) for path in paths
    ]
    assert len(paths) == len(shapes) == 3


def test_the_demo_tells_what_went_wrong_and_may_be_run_again(tmp_path: Path) -> None:
    """A video that cannot be written is a line; the next run replaces the others."""
    args = ("demo", "--speed", "1e6", "--output-dir", tmp_path)
    (tmp_path / "demo-cat.mp4").mkdir()
    first = invoke(None, *args)
    before = {it: it.stat().st_mtime_ns for it in tmp_path.glob("*.mp4")}
    (tmp_path / "demo-cat.mp4").rmdir()
    second = invoke(None, *args)
    assert (first.exit_code, second.exit_code) == (1, 0)
    assert "demo-cat.mp4: it is a directory" in errors_in(first)[0]
    assert len(first.stdout.splitlines()) == 2
    assert len(second.stdout.splitlines()) == len(before) == 3
    assert {*tmp_path.iterdir()} == before.keys()
    assert all(it.stat().st_mtime_ns > at for it, at in before.items())


def test_the_demo_is_named_in_the_first_lines_of_help() -> None:
    """It is where a new user begins."""
    assert demo.__name__ in invoke(None, "--help").stdout

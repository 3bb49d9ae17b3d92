"""Any HTTP client can use the emulator: curl, and a program on plain requests."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import anyio
import av
import pytest

from kling_async.emulator import Emulator, Fault

EXAMPLE = Path(__file__).with_name("universal_example.py.txt")
# Nothing else of it is changed.
CHANGES = {
    'BASE_URL = "https://api.aimlapi.com/v2"': 'BASE_URL = "{base_url}/v2"',
    'API_KEY = "<YOUR_AIMLAPI_KEY>"': 'API_KEY = "some-key"',
    "time.sleep(10)": "time.sleep(0.05)",
}
CREATE = {"model": "klingai/v2-master-text-to-video", "prompt": "A cat"}
AT_ONCE = 1e9


async def curl(*arguments: str, fails_with: int = 0) -> bytes:
    """Run curl, and return what it prints."""
    program = shutil.which("curl")
    if program is None:
        pytest.fail("curl is not installed, and this test is about it: install curl")
    done = await anyio.run_process(
        [program, "--silent", "--show-error", "--noproxy", "*", *arguments],
        check=False,
    )
    assert done.returncode == fails_with, done.stderr.decode()
    return done.stdout


async def test_curl_gets_its_video(tmp_path: Path) -> None:
    """Create, poll, the download broken off and resumed, and the bill."""
    file = tmp_path / "video.mp4"
    key = ("-H", "Authorization: Bearer some-key")
    async with Emulator(speed=AT_ONCE, size=64) as emulator:
        url = f"{emulator.base_url}/v2/video/generations"
        body = ("-H", "Content-Type: application/json", "-d", json.dumps(CREATE))
        head, _, created = (await curl("-i", *key, *body, url)).partition(b"\r\n\r\n")
        generation_id = json.loads(created)["id"]
        query = ("-G", "--data-urlencode", f"generation_id={generation_id}")
        video = json.loads(await curl(*key, *query, url))["video"]
        await curl("-r", "0-999", "-o", str(file), video["url"])
        await curl("-C", "-", "-o", str(file), video["url"])
        balance = await curl(*key, f"{emulator.base_url}/v2/billing")
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert f"x-inference-id: {generation_id}".encode() in head
    assert json.loads(balance) == {"current_balance": 999_998.6, "currency": "USD"}
    with av.open(str(file), "r") as mp4:
        assert mp4.duration == 5 * av.time_base


@pytest.mark.parametrize(
    "effect, exit_code",
    [("reset", 56), ("close", 52), ("cut", 18), ("delay", 28), ("stall", 28)],
)
async def test_curl_sees_faults_as_they_are(effect: str, exit_code: int) -> None:
    """Reset, empty reply, partial file, time-out: each has its own exit code."""
    async with Emulator() as emulator:
        is_late = effect in {"delay", "stall"}
        seconds = 600 if is_late else 0
        fault = {"effect": effect, "path": "models", "seconds": seconds}
        admin = f"{emulator.base_url}/_emulator/faults"
        await curl("-f", "-d", json.dumps(fault), admin)
        url = f"{emulator.base_url}/v1/models"
        patience = "0.5" if is_late else "20"
        await curl("-m", patience, url, fails_with=exit_code)
        await curl("-f", "-X", "DELETE", admin)
        assert json.loads(await curl(url))["object"] == "list"


async def test_curl_finds_the_create_whose_answer_was_lost() -> None:
    """It is told among the creates, and in the vendor's log, by its own id."""
    async with Emulator(faults=[Fault("reset", accepted=True, times=1)]) as emulator:
        key = ("-H", "Authorization: Bearer some-key")
        own = ("-H", "X-Client-Request-Id: scene-12")
        url = f"{emulator.base_url}/v2/generate/video/kling/generation"
        await curl(*key, *own, "-d", json.dumps(CREATE), url, fails_with=56)
        log = await curl(*key, f"{emulator.base_url}/v2/logs?period=1h")
        creates = await curl(f"{emulator.base_url}/_emulator/creates")
    (row,), (create,) = json.loads(log)["data"], json.loads(creates)["creates"]
    assert row["client_request_id"] == create["client_request_id"] == "scene-12"
    assert row["inference_id"] == create["generation_id"]


async def run_example(folder: Path) -> str:
    """Run the example against an emulator, and return what it prints."""
    async with Emulator(speed=500, size=64) as emulator:
        text = EXAMPLE.read_text("utf-8")
        for theirs, ours in CHANGES.items():
            assert text.count(theirs) == 1
            text = text.replace(theirs, ours.format(base_url=emulator.base_url))
        finished = await anyio.run_process(
            [sys.executable, "-c", text],
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )
    return finished.stdout.decode()


async def test_the_universal_endpoint_serves_plain_requests(tmp_path: Path) -> None:
    """The example prints an id, statuses and a cost, and leaves a video."""
    output = await run_example(tmp_path)
    statuses = re.findall(r"^status: (\w+)$", output, re.MULTILINE)
    assert re.search(r"^id: [A-Za-z0-9_-]{21}$", output, re.MULTILINE)
    assert set(statuses[:-1]) <= {"queued", "generating"}
    assert statuses[-1] == "completed"
    assert "cost in USD: 0.65\n" in output
    with av.open(str(tmp_path / "video.mp4"), "r") as mp4:
        stream = mp4.streams.video[0]
        assert (stream.width, stream.height) == (36, 64)
        assert mp4.duration == 5 * av.time_base

"""The vendor's own example, as its page has it, runs against the emulator."""

from __future__ import annotations

import ast
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import anyio
import av
import httpx
from attrs import frozen

from kling_async.emulator import Emulator

EXAMPLE = Path(__file__).with_name("vendor_example.py.txt")
# Nothing else of it is changed.
CHANGES = {
    'base_url = "https://api.aimlapi.com/v2"': 'base_url = "{base_url}/v2"',
    'api_key = "<YOUR_AIMLAPI_KEY>"': 'api_key = "some-key"',
    "time.sleep(10)": "time.sleep(0.05)",
}
SPEED = 500  # six minutes become less than a second


@frozen
class Run:
    """What the example printed, and the video that it found."""

    output: str
    video: bytes


def adapt(script: Path, base_url: str) -> None:
    """Write the example with its three changes."""
    text = EXAMPLE.read_text("utf-8")
    for theirs, ours in CHANGES.items():
        assert text.count(theirs) == 1
        text = text.replace(theirs, ours.format(base_url=base_url))
    script.write_text(text, "utf-8")


async def run_example(script: Path) -> Run:
    """Run the example against an emulator, and download what it names."""
    async with Emulator(speed=SPEED, size=128) as emulator:
        adapt(script, emulator.base_url)
        finished = await anyio.run_process(
            [sys.executable, str(script)],
            stderr=subprocess.STDOUT,
            env={**os.environ, "NO_PROXY": "127.0.0.1"},
        )
        output = finished.stdout.decode()
        async with httpx.AsyncClient(trust_env=False, timeout=300) as client:
            answer = await client.get(str(video_in(output)["url"]))
            return Run(output, answer.content)


def result_in(output: str) -> dict[str, object]:
    """Read what the example prints at its end."""
    found: dict[str, object] = ast.literal_eval(
        output.partition("Processing complete:/n ")[2]
    )
    return found


def video_in(output: str) -> dict[str, object]:
    """Read the video that the example prints at its end."""
    video = result_in(output)["video"]
    assert isinstance(video, dict)
    return video


async def test_the_vendors_example_gets_its_video(tmp_path: Path) -> None:
    """It prints an id, waits through documented statuses, and ends with a video."""
    run = await run_example(tmp_path / "vendor_example.py")
    found = re.search(r"^Gen_ID:   (\S+)$", run.output, re.MULTILINE)
    statuses = re.findall(r"^Status: (\w+)$", run.output, re.MULTILINE)
    waits = run.output.count("Still waiting... Checking again in 10 seconds.")
    result, video = result_in(run.output), video_in(run.output)
    assert found is not None
    assert found[1] == result["id"]
    assert found[1].endswith(":kling-video/v2/master/image-to-video")
    assert set(statuses[:-1]) <= {"queued", "generating"}
    assert (statuses[-1], waits) == ("completed", len(statuses) - 1)
    assert video["content_type"] == "video/mp4"
    assert video["file_name"] == "output.mp4"
    assert video["file_size"] == len(run.video)
    with av.open(io.BytesIO(run.video), "r") as mp4:
        assert mp4.duration == 5 * av.time_base

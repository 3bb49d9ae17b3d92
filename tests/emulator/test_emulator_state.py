"""The emulator's state in a file: the next process goes on where the last one was."""

from __future__ import annotations

import base64
import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import anyio
import httpx
import pytest
from PIL import Image

import kling_async
from kling_async import ConfigurationError
from kling_async.emulator import Emulator

PATH = "/v2/video/generations"
MASTER = {"model": "klingai/v2-master-image-to-video"}
TEXT = {"model": "klingai/video-v3-pro-text-to-video", "prompt": "A cat", "duration": 3}
PRICE = 2_800_000
HEADERS = {"Authorization": "Bearer some-key"}


def client_of(emulator: Emulator) -> httpx.AsyncClient:
    """Give a client whose requests go to the app without a socket."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=emulator.app),
        base_url="https://kling.test",
        headers=HEADERS,
    )


def picture() -> str:
    """Draw an image, as a data URI."""
    file = io.BytesIO()
    Image.effect_noise((300, 200), 50).convert("RGB").save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def names_in(folder: Path) -> list[str]:
    """Give what lies in a folder."""
    return [path.name for path in folder.iterdir()]


async def told_by(emulator: Emulator, generation_id: str) -> dict[str, object]:
    """Ask for all that an emulator knows and is to keep."""
    async with client_of(emulator) as client:
        polled = (
            await client.get(PATH, params={"generation_id": generation_id})
        ).json()
        pages = [
            (await client.get(path)).json()
            for path in (
                "/v2/billing",
                "/v2/billing/transactions",
                "/v2/logs?period=24h",
            )
        ]
        video = (
            polled.get("video") and (await client.get(polled["video"]["url"])).content
        )
    return {"polled": polled, "pages": pages, "video": video}


@pytest.mark.looptime
@pytest.mark.parametrize("failure_rate", [0, 1])
async def test_the_next_emulator_knows_what_the_last_one_knew(
    tmp_path: Path, failure_rate: float
) -> None:
    """Generations with their videos and ends, balance, ledger and log."""
    file = tmp_path / "state.json"
    last = Emulator(credits=9 * PRICE, failure_rate=failure_rate, size=64, state=file)
    async with client_of(last) as client:
        body = {**MASTER, "image_url": picture()}
        headers = {"X-Client-Request-Id": "scene-1"}
        created = (await client.post(PATH, json=body, headers=headers)).json()
        await client.post(PATH, json={"model": "nonsense"})
        await anyio.sleep(3600)
        await client.post(PATH, json=TEXT)
    before = await told_by(last, created["id"])
    after = Emulator(credits=1, size=64, state=file)
    assert await told_by(after, created["id"]) == before
    assert after.creates == last.creates
    assert after.charges == last.charges


async def test_time_goes_on_between_two_emulators(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A generation that was running has ended when an hour has passed outside."""
    file = tmp_path / "state.json"
    async with client_of(Emulator(speed=1, size=64, state=file)) as client:
        created = (await client.post(PATH, json=TEXT)).json()
    query = {"generation_id": created["id"]}
    async with client_of(Emulator(state=file)) as client:
        assert (await client.get(PATH, params=query)).json()["status"] == "queued"
    an_hour_later = time.time() + 3600
    monkeypatch.setattr(time, "time", lambda: an_hour_later)
    async with client_of(Emulator(size=64, state=file)) as client:
        assert (await client.get(PATH, params=query)).json()["status"] == "completed"


async def test_new_ids_do_not_repeat_old_ones(tmp_path: Path) -> None:
    """The second emulator of a seed goes on in the sequence of the first."""
    file = tmp_path / "state.json"
    bodies = (TEXT, {"model": TEXT["model"]})
    rows: list[dict[str, str]] = []
    for _ in range(2):
        async with client_of(Emulator(seed=1, state=file)) as client:
            for body in bodies:
                await client.post(PATH, json=body)
            rows = (await client.get("/v2/logs?period=1h")).json()["data"]
    assert len({it["inference_id"] for it in rows}) == 4
    assert len({it["request_id"] for it in rows}) == 4


PROGRAM = """
import anyio, sys
from kling_async.emulator import Emulator

async def main():
    async with Emulator(state=sys.argv[1], speed=1) as emulator:
        print(emulator.base_url, flush=True)
        await anyio.sleep_forever()

anyio.run(main)
"""


def test_what_was_answered_survives_a_kill(tmp_path: Path) -> None:
    """When a create's answer has arrived, the file has it already."""
    file = tmp_path / "state.json"
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(file)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(kling_async.__file__).parents[1],
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        with httpx.Client(
            base_url=url, headers=HEADERS, trust_env=False, timeout=300
        ) as client:
            ids = [client.post(PATH, json=TEXT).json()["id"] for _ in range(5)]
        process.send_signal(signal.SIGKILL)
    assert [it.generation_id for it in Emulator(state=file).creates] == ids


async def test_many_creates_at_once_are_all_kept(tmp_path: Path) -> None:
    """They share the writing, and none is answered before it is kept."""
    file = tmp_path / "state.json"
    kept: list[bool] = []
    async with (
        Emulator(state=file) as emulator,
        httpx.AsyncClient(
            base_url=emulator.base_url, headers=HEADERS, trust_env=False, timeout=300
        ) as client,
        anyio.create_task_group() as tasks,
    ):

        async def create() -> None:
            answer = await client.post(PATH, json=TEXT)
            kept.append(answer.json()["id"] in file.read_text("utf-8"))

        for _ in range(50):
            tasks.start_soon(create)
    assert kept == [True] * 50
    assert len(Emulator(state=file).creates) == 50
    assert names_in(tmp_path) == ["state.json"]


def test_the_file_is_json(tmp_path: Path) -> None:
    """Also that of an emulator that has done nothing yet."""
    file = tmp_path / "state.json"
    Emulator(state=str(file), credits=7)
    assert json.loads(file.read_text("utf-8"))["credits"] == 7


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "{}", '{"version": 2}', '{"version": 1, "saved_at": null}'],
)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, text: str) -> None:
    """The error names it; it is not overwritten."""
    file = tmp_path / "state.json"
    file.write_text(text, "utf-8")
    with pytest.raises(
        ConfigurationError, match=r"state\.json is not the state of an emulator"
    ):
        Emulator(state=file)
    assert file.read_text("utf-8") == text


def test_a_folder_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    """Not only when the first create has to be kept."""
    with pytest.raises(ConfigurationError, match="cannot be kept in"):
        Emulator(state=tmp_path / "nowhere" / "state.json")

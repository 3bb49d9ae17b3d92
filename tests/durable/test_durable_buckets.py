"""A fleet that shares a database and a bucket, and no disk."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from buckets import Bucket
from durable_worker import crew
from local_media import image

from kling_async import DownloadError, ImageToVideo, InvalidRequestError
from kling_async.durable import DurableKling, JobState, NewJob
from kling_async.emulator import Emulator

MODEL = "klingai/v2-master-image-to-video"


async def test_workers_that_see_none_of_each_others_files_do_a_batch(
    bucket: Bucket, postgres: str, tmp_path: Path
) -> None:
    """PostgreSQL, an S3 server, and folders of their own: nothing else is shared."""
    folders = [tmp_path / name for name in ("submitter", "one", "two")]
    for folder in folders:
        folder.mkdir()
    first = folders[0] / "first.png"
    first.write_bytes(image(400, 400))
    new = [
        NewJob(
            request=ImageToVideo(
                model=MODEL,
                image_url=first if number % 2 else image(300, 400 + number),
                prompt=f"Scene {number}",
            ),
            key=f"scene-{number}",
            output=f"{bucket.url}/out/scene {number}.mp4",
        )
        for number in range(8)
    ]
    async with (
        Emulator(speed=1000, size=64) as emulator,
        DurableKling(postgres, inputs=f"{bucket.url}/inputs") as jobs,
        crew(postgres, emulator, 4) as workers,
    ):
        await jobs.compare(new)
        assert bucket.keys() == []  # a comparison changes nothing
        await jobs.submit_many(new)
        await jobs.submit_many(new)  # the same again is the same
        first.unlink()
        for folder in folders[1:]:
            await workers.hire(folder)
        with anyio.fail_after(300):
            async for _ in jobs.watch():
                pass
        statuses = await jobs.list()
    assert {it.state for it in statuses} == {JobState.DONE}
    assert f"{bucket.url}/out/scene 0.mp4" in {it.output for it in statuses}
    assert len(emulator.creates) == 8
    keys = bucket.keys()
    assert len([it for it in keys if it.startswith("inputs/")]) == 5
    videos = [it for it in keys if it.startswith("out/")]
    assert videos == [f"out/scene {number}.mp4" for number in range(8)]
    assert all(bucket.read(it)[4:8] == b"ftyp" for it in videos)
    assert [list(folder.iterdir()) for folder in folders] == [[], [], []]


@pytest.mark.usefixtures("bucket")
async def test_what_cannot_be_put_anywhere_is_refused_before_it_is_paid(
    tmp_path: Path,
) -> None:
    """An output that names no object, inputs of a bucket that is not there."""
    request = ImageToVideo(model=MODEL, image_url=image(400, 400), prompt="A sea.")
    async with DurableKling(tmp_path / "jobs.db") as jobs:
        with pytest.raises(DownloadError, match="no object name"):
            await jobs.submit(request, key="sea", output="s3://bucket/")
        assert await jobs.list() == []
    async with DurableKling(tmp_path / "jobs.db", inputs="s3://not-there/in") as jobs:
        with pytest.raises(InvalidRequestError, match="NoSuchBucket"):
            await jobs.submit(request, key="sea")
        assert await jobs.list() == []

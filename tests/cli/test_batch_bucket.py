"""A batch whose files lie in a bucket: `--output-dir s3://…` and `--inputs s3://…`."""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import anyio
import pytest
from buckets import Bucket
from durable_worker import crew
from local_media import image
from shell import errors_in, invoke, serving
from typer.testing import Result

from kling_async.emulator import Emulator

MODEL = "klingai/v2-master-image-to-video"


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Run an emulator that is done at once."""
    with serving() as running:
        yield running


@pytest.fixture
def scenes(tmp_path: Path) -> Path:
    """Write a manifest of three rows and two images, in a folder of their own."""
    folder = tmp_path / "submitter"
    folder.mkdir()
    for name, width in (("fox.png", 400), ("boat.png", 500)):
        (folder / name).write_bytes(image(width, 400))
    return manifest(folder / "scenes.csv", "fox.mp4")


def manifest(path: Path, first: str) -> Path:
    """Write a manifest, the first of whose videos has a name of its own."""
    rows = [
        "key,model,prompt,image_url,output",
        f"fox,{MODEL},It <runs> & jumps,fox.png,{first}",
        f"boat,{MODEL},It sails,boat.png,sea/a boat.mp4",
        f"tower,{MODEL},It falls,fox.png,tower.mp4",
    ]
    path.write_text("\n".join(rows), "utf-8")
    return path


def batch(emulator: Emulator, bucket: Bucket, scenes: Path, *more: str) -> Result:
    """Run the batch with a bucket."""
    places = ("--output-dir", f"{bucket.url}/out/", "--inputs", f"{bucket.url}/in")
    return invoke(emulator, "batch", scenes, *places, *more)


def results_in(bucket: Bucket) -> dict[str, dict[str, object]]:
    """Read what a batch has left in its bucket, by key."""
    lines = bucket.read("out/results.jsonl").decode().splitlines()
    return {it["key"]: it for it in map(json.loads, lines)}


def test_all_goes_into_the_bucket(
    emulator: Emulator, bucket: Bucket, scenes: Path
) -> None:
    """Videos, results, a page whose links work; inputs once; again, nothing is made."""
    dry = batch(emulator, bucket, scenes, "--dry-run")
    before = bucket.keys()
    first = batch(emulator, bucket, scenes)
    again = batch(emulator, bucket, scenes)
    assert (dry.exit_code, first.exit_code, again.exit_code) == (0, 0, 0)
    assert before == []
    assert first.stdout.splitlines() == [
        f"{bucket.url}/out/results.jsonl",
        f"{bucket.url}/out/report.html",
    ]
    assert len(emulator.creates) == 3
    keys = bucket.keys()
    assert len([it for it in keys if re.fullmatch("in/[0-9a-f]{64}", it)]) == 2
    assert [it for it in keys if it.startswith("out/")] == [
        "out/fox.mp4",
        "out/report.html",
        "out/results.jsonl",
        "out/sea/a boat.mp4",
        "out/tower.mp4",
    ]
    files = {it["file"] for it in results_in(bucket).values()}
    assert files == {"fox.mp4", "sea/a boat.mp4", "tower.mp4"}
    page = bucket.read("out/report.html").decode()
    links = [unescape(it) for it in re.findall('class="film" href="([^"]+)"', page)]
    assert len(links) == 3
    assert f"media-src 'self' file: {bucket.endpoint};" in page
    assert "links work until" in page
    for link in links:
        with urllib.request.urlopen(link, timeout=60) as answer:
            assert answer.read()[4:8] == b"ftyp"
    # The jobs alone are here: with a database elsewhere there is nothing.
    assert [it.name for it in scenes.with_suffix("").glob("*.*")] == ["jobs.db"]


def test_a_video_that_is_not_there_is_fetched_again(
    emulator: Emulator, bucket: Bucket, scenes: Path
) -> None:
    """Deleted, or named anew in the manifest; nothing is paid again."""
    assert batch(emulator, bucket, scenes).exit_code == 0
    bucket.delete("out/tower.mp4")
    manifest(scenes, "reynard.mp4")
    result = batch(emulator, bucket, scenes)
    assert result.exit_code == 0, result.output
    assert {"out/tower.mp4", "out/reynard.mp4"} <= set(bucket.keys())
    assert results_in(bucket)["fox"]["file"] == "reynard.mp4"
    assert len(emulator.creates) == 3


@pytest.mark.parametrize("flaw", ["bucket", "credentials", "inputs"])
def test_a_bucket_that_cannot_be_used_is_told_of_before_anything_is_paid(
    emulator: Emulator,
    bucket: Bucket,
    scenes: Path,
    monkeypatch: pytest.MonkeyPatch,
    flaw: str,
) -> None:
    """It is not there, or nobody has credentials for it; in a line."""
    places = ["--output-dir", f"{bucket.url}/out", "--inputs", f"{bucket.url}/in"]
    told = "no such bucket"
    if flaw == "credentials":
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        # Where the machine would ask whether it has a role: nobody is there.
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", "http://127.0.0.1:9")
        told = "no credentials were found"
    else:
        places[1 if flaw == "bucket" else 3] = "s3://not-there/x"
    result = invoke(emulator, "batch", scenes, *places)
    assert result.exit_code in {1, 2}
    assert told in errors_in(result)[0] or "NoSuchBucket" in errors_in(result)[0]
    assert not emulator.creates
    assert bucket.keys() == []


def test_an_image_in_a_bucket_is_named_in_a_manifest_and_an_option(
    emulator: Emulator, bucket: Bucket, tmp_path: Path
) -> None:
    """It is no path of this machine; one that is missing is told of, and not paid."""
    bucket.put("fox.png", image(400, 400))
    url = f"{bucket.url}/fox.png"
    path = tmp_path / "scenes.csv"
    path.write_text(f"key,prompt,image_url\nfox,It runs,{url}\n", "utf-8")
    made = invoke(emulator, "batch", path)
    one = ("generate", "--prompt", "x", "-o", tmp_path / "x.mp4", "--image")
    again = invoke(emulator, *one, url)
    missing = invoke(emulator, *one, f"{url}x", "--overwrite")
    assert (made.exit_code, again.exit_code) == (0, 0), made.output + again.output
    assert missing.exit_code == 2
    assert len(emulator.creates) == 2


def test_inputs_are_a_url(emulator: Emulator, scenes: Path) -> None:
    """A folder of this machine is none that others have."""
    result = invoke(emulator, "batch", scenes, "--inputs", str(scenes.parent))
    assert result.exit_code == 2
    assert "s3://bucket/inputs" in errors_in(result)[0]
    assert not emulator.creates


async def test_workers_elsewhere_do_a_batch_from_the_shell(
    bucket: Bucket, postgres: str, scenes: Path, tmp_path: Path
) -> None:
    """Two that see none of the submitter's files; it is only told of the end."""
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
    kept = set(scenes.parent.iterdir())
    async with (
        Emulator(speed=1000, size=64) as emulator,
        crew(postgres, emulator, 4) as workers,
    ):
        for folder in folders:
            await workers.hire(folder)
        more = ("--database", postgres)
        result = await anyio.to_thread.run_sync(
            lambda: batch(emulator, bucket, scenes, *more)
        )
    assert result.exit_code == 0, result.output
    assert {it["state"] for it in results_in(bucket).values()} == {"done"}
    assert len(emulator.creates) == 3
    assert [list(folder.iterdir()) for folder in folders] == [[], []]
    assert set(scenes.parent.iterdir()) == kept

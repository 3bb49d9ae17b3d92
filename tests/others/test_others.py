"""The emulator under software of others, and the client over a server of others.

Run by `nox -s contract`, which installs them. Each is a process of its own; what the
vendor promises is in `vendor.json`, made of its own files.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import anyio
import pytest

from kling_async import AsyncKling, InvalidRequestError, RetryPolicy, models
from kling_async._requests.classes import build_request
from kling_async._requests.fields import Field

HERE = Path(__file__).parent
VENDOR = HERE / "vendor.json"
TOOLS = Path(os.environ.get("KLING_CONTRACT_TOOLS", "/nowhere"))
PATH = "/v2/video/generations"
MODEL = "klingai/v2-master-text-to-video"


def said(*command: str | Path, folder: Path | None = None) -> str:
    """Run a program, and give what it prints."""
    ran = subprocess.run(
        [*map(str, command)],
        cwd=folder,
        check=False,
        capture_output=True,
        text=True,
        timeout=850,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.fixture
def emulator() -> Iterator[str]:
    """Serve the emulator from the command, as anybody does; give its URL."""
    command = ["emulator", "--port", "0", "--speed", "10000", "--size", "64"]
    with subprocess.Popen(
        [sys.executable, "-m", "kling_async", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        told = "".join(process.stdout.readline() for _ in range(2))
        found = re.search(r"http://[\d.:]+", told)
        assert found, told
        yield found[0]
        process.send_signal(signal.SIGINT)


@pytest.fixture
def prism() -> Iterator[str]:
    """Serve the vendor's promises by Stoplight Prism; it refuses what breaks them."""
    command = ["npm/node_modules/.bin/prism", "mock", "--errors", "--port", "0"]
    with subprocess.Popen(
        [str(TOOLS / command[0]), *command[1:], str(VENDOR)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        assert process.stdout is not None
        told = ""
        for line in process.stdout:
            told += line
            if found := re.search(r"listening on (http://\S+)", line):
                break
        else:
            pytest.fail(told)
        yield found[1]
        process.terminate()


def test_the_vendors_own_sdk_works_on_the_emulator(emulator: str) -> None:
    """PyPI's `aimlapi-sdk-python`: sync, async, bytes, a refusal, the models."""
    program = HERE / "vendors_sdk.py"
    told = json.loads(said(TOOLS / "sdk/bin/python", program, emulator))
    assert told["box"] == "ftyp"
    assert told["bytes"] > 1000
    assert told["async"]["status"] == "completed"
    assert told["async"]["video"]["url"].startswith(emulator)
    assert "no/model" in told["refused"]
    assert {it.id for it in models.list()} <= {*told["models"]}


def test_n8ns_node_works_on_the_emulator(emulator: str) -> None:
    """It sends a field that no schema has, and the older endpoint's names."""
    told = json.loads(said("node", HERE / "n8n_node.mjs", emulator))
    assert told["status"] == 201
    assert told["seen"][0] == "queued"
    assert told["seen"][-1] == "completed"
    assert told["bytes"] > 1000


def test_curl_works_on_the_emulator(emulator: str, tmp_path: Path) -> None:
    """As on the vendor's pages: create, ask, fetch."""
    curl = ("curl", "-sS", "--fail-with-body", "-H", "Authorization: Bearer any-key")
    body = json.dumps({"model": MODEL, "prompt": "A paper boat.", "duration": "5"})
    head = ("-H", "Content-Type: application/json")
    created = json.loads(said(*curl, *head, "-d", body, emulator + PATH))
    query = ("-G", "--data-urlencode", f"generation_id={created['id']}")
    seen = created
    for _ in range(600):
        seen = json.loads(said(*curl, *query, emulator + PATH))
        if seen["status"] == "completed":
            break
        time.sleep(0.1)
    said("curl", "-sS", "--fail", "-o", tmp_path / "v.mp4", seen["video"]["url"])
    assert (tmp_path / "v.mp4").read_bytes()[4:8] == b"ftyp"


def test_no_answer_of_the_emulator_breaks_the_vendors_promises(
    emulator: str, tmp_path: Path
) -> None:
    """Schemathesis draws requests from the vendor's schemas, right and wrong ones."""
    checks = "not_a_server_error,response_schema_conformance,content_type_conformance"
    said(
        *(TOOLS / "sdk/bin/schemathesis", "run", VENDOR, "--url", emulator),
        *("--header", "Authorization: Bearer any-key", "--checks", checks),
        *("--phases", "examples,coverage,fuzzing", "--max-examples", "20"),
        *("--seed", "7", "--suppress-health-check", "all"),
        *("--generation-database", "none", "--no-color"),
        folder=tmp_path,  # it leaves a cache where it is run
    )


def value_for(field: Field, *, full: bool) -> object:
    """Give a value that fits a field; a large one if it is to be full."""
    if field.choices:
        return field.choices[-1 if full else 0]
    match field.type:
        case "boolean" | "integer" | "number":
            least, most = field.minimum or 0, field.maximum or 1
            return (most if full else least) if field.type != "boolean" else full
        case "media":
            ending = {"audio": "mp3", "video": "mp4"}.get(field.medium or "", "png")
            return f"https://example.com/a.{ending}"
        case "array":
            assert field.items is not None
            count = (field.max_items or 2) if full else (field.min_items or 1)
            return [value_for(field.items, full=full) for _ in range(count)]
        case "object":
            names = field.properties if full else field.required
            return {it: value_for(field.properties[it], full=full) for it in names}
        case _:
            return "A paper boat." * (10 if full else 1)


def fits(body: Mapping[str, object]) -> bool:
    """Whether the client would send it."""
    try:
        build_request(dict(body))
    except InvalidRequestError:
        return False
    return True


def bodies_of(model: models.Model) -> tuple[dict[str, object], dict[str, object]]:
    """Give a model's smallest body, and one that nothing can be added to."""
    names = [name for name, field in model.fields.items() if not field.legacy]
    whole = {
        name: value_for(model.fields[name], full=True)
        for name in sorted(names, key=lambda it: it not in model.required)
    }
    largest: dict[str, object] = {"model": model.id}
    for required in (True, False):
        for name, value in whole.items():
            if (name in model.required) == required:
                more = {**largest, name: value}
                if required or fits(more) or not fits(largest):
                    largest = more
    smallest = dict(largest)
    for name in [*smallest][:0:-1]:
        less = {key: value for key, value in smallest.items() if key != name}
        if fits(less):
            smallest = less
    return smallest, largest


async def test_each_models_bodies_are_what_the_vendor_asks_for(prism: str) -> None:
    """Prism checks the smallest and the fullest one, and answers by the schema."""
    retry = RetryPolicy(attempts=1, uncertain="raise")
    async with AsyncKling("any-key", base_url=prism, retry=retry) as kling:
        sent = 0
        for model in models.list():
            smallest, largest = bodies_of(model)
            assert fits(smallest), smallest
            assert fits(largest), largest
            for body in (smallest, largest):
                with anyio.fail_after(600):
                    created = await kling.create(build_request(body))
                    assert created.id
                    sent += 1
        assert sent == 88
        seen = await kling.get("60ac7c34-3224-4b14-8e7d-0aa0db708325")
        assert (seen.status, seen.credits_used) == ("queued", 120_000)  # its examples


def test_prism_refuses_what_the_vendor_would(prism: str) -> None:
    """Else the test above would say nothing."""
    wrong: Any = {"model": MODEL, "prompt": "A boat.", "duration": 7}
    request = urllib.request.Request(
        prism + PATH,
        data=json.dumps(wrong).encode(),
        headers={
            "content-type": "application/json",
            "authorization": "Bearer any-key",
        },
    )
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(request)
    assert caught.value.code == 422
    caught.value.close()

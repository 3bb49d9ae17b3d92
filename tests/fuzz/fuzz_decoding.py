"""Coverage-guided fuzzing of all that reads an answer: a `KlingError` or a value.

The first byte of an input picks the reader, the second the status; up to the first
line feed come headers, a tab between two; the rest is the body. The corpus begins
with the emulator's real answers. Half of the inputs differ from one of it in a value
of its JSON, half in its bytes. libFuzzer's options pass through: ``-runs=1000000``.
"""

from __future__ import annotations

import copy
import json
import math
import random
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import anyio
import atheris
import httpx

with atheris.instrument_imports(  # type: ignore[attr-defined] # not in the stubs
    include=["kling_async", "email"]
):
    import email.utils

    from kling_async import KlingError
    from kling_async._billing.rows import (
        decode_balance,
        decode_log,
        decode_prices,
        decode_transactions,
    )
    from kling_async._http.wire import (
        Response,
        decode_created,
        decode_error,
        decode_polled,
    )

from kling_async.emulator import Emulator, Fault

MODEL = "klingai/v2-master-text-to-video"
ID = "88a64d31-cce4-41e8-b9d8-5392e8c2a6d4:kling-video/v2/master/text-to-video"
BODY = {"model": MODEL, "prompt": "A paper boat.", "duration": 5}
# In the order in which an input names them.
HEADERS = (
    "retry-after date x-inference-id x-aimlapi-credits-used location x-request-id"
).split()
STATUSES = (200, 201, 204, 301, 400, 401, 403, 404, 408, 429, 500, 502, 503, 504)
NAMES = """
    id status video url file_size error name message meta usage credits_used
    current_balance currency data pagination has_more next_cursor total limit offset
    created created_at model cost amount usd credits inference_id client_request_id
    direction aliases pricing kind units variants price per unit when requestId
""".split()
PATH = "/v2/video/generations"


def read_created(answer: Response) -> None:
    """Read the answer to a create."""
    created = decode_created(answer, "mine")
    assert created.id
    assert repr(created)


def read_polled(answer: Response) -> None:
    """Read the answer to a poll."""
    polled = decode_polled(answer, ID)
    assert polled.id == ID
    assert repr(polled)
    assert not (polled.succeeded and polled.failed)


def read_balance(answer: Response) -> None:
    """Read a balance, and reckon with it."""
    balance = decode_balance(answer)
    assert math.isfinite(balance.usd)
    assert isinstance(balance.credits, int)


def read_log(answer: Response) -> None:
    """Read a page of the request log."""
    assert all(math.isfinite(row.usd) for row in decode_log(answer).rows)


def read_transactions(answer: Response) -> None:
    """Read a page of the ledger."""
    assert all(math.isfinite(row.usd) for row in decode_transactions(answer).rows)


def read_prices(answer: Response) -> None:
    """Read a price list, and price a request by it."""
    price = decode_prices(answer, MODEL).price_of(BODY)
    assert price.credits is None or price.credits >= 0 or (price.usd or 0) < 0
    assert str(price)


def read_error(answer: Response) -> None:
    """Read a refusal, and how long it asks to wait."""
    error = decode_error(answer)
    assert str(error).encode()
    wait = error.retry_after
    assert wait is None or (wait >= 0 and math.isfinite(wait))


READERS: Sequence[Callable[[Response], None]] = (
    read_created,
    read_polled,
    read_balance,
    read_log,
    read_transactions,
    read_prices,
    read_error,
)


def test_one_input(data: bytes) -> None:
    """Let one reader read one answer; libFuzzer keeps what reaches new code."""
    if len(data) < 2:
        return
    head, _, content = data[2:].partition(b"\n")
    values = head.decode("latin-1").split("\t")
    answer = Response(
        status_code=STATUSES[data[1] % len(STATUSES)],
        # As httpx gives them: stripped, and None of them empty.
        headers={k: v.strip() for k, v in zip(HEADERS, values, strict=False) if v},
        content=content,
    )
    try:
        READERS[data[0] % len(READERS)](answer)
    except KlingError as error:
        assert str(error).encode()  # noqa: PT017 (no test of pytest's)


async def real_answers() -> list[httpx.Response]:
    """Ask the emulator for one answer of each kind."""
    emulator = Emulator(speed=1e6)
    transport = httpx.ASGITransport(app=emulator.app)
    async with httpx.AsyncClient(
        transport=transport,
        base_url="https://kling",
        headers={"authorization": "Bearer any-key"},
    ) as http:
        created = await http.post(PATH, json=BODY)
        query = {"generation_id": created.json()["id"]}
        emulator.faults.add(Fault("wrong_shape", nth=3, path="generations"))
        emulator.faults.add(Fault("html", nth=4, path="generations"))
        asked = [
            *[(PATH, query) for _ in range(4)],
            ("/v2/billing", {}),
            ("/v2/logs", {"period": "24h"}),
            ("/v2/billing/transactions", {}),
            ("/v1/models", {"id": MODEL, "include": "pricing"}),
            (PATH, {"generation_id": "none"}),
            (PATH, {}),
        ]
        answers = [created, *[await http.get(path, params=it) for path, it in asked]]
        answers.append(await http.post(PATH, json={"model": MODEL}))
        answers.append(await http.get(PATH, headers={"authorization": ""}))
    return answers


def seeds() -> list[bytes]:
    """Write each real answer as an input of each reader, and odd headers."""
    date = email.utils.formatdate(1_763_000_000, usegmt=True)
    lines = ["", "30\t\tgen-1\t12\t/\treq", f"{date}\t{date}", "-1", "1e400", "nan"]
    return [
        bytes([reader, STATUSES.index(answer.status_code)])
        + line.encode()
        + b"\n"
        + answer.content
        for answer in anyio.run(real_answers)
        for reader in range(len(READERS))
        for line in lines
    ]


ODD: Sequence[object] = (
    *(None, True, False, 0, -1, 5, 1e308, -1e308, 5e-324, 2**64, 10**400, "1e308"),
    *(math.inf, math.nan, "", " ", "1", "\ud800", "\x00", ID, MODEL, [], {}, [[]]),
    *("error", "completed", "fixed", "variants", "second", "video", "succeeded"),
    *("2026-11-24T18:00:00Z", "9999-12-31T23:59:59-23:59", {"usd": 1e308}),
)


def mutated(data: bytes, max_size: int, seed: int) -> bytes:
    """Change a value of the body's JSON, or some bytes."""
    chance = random.Random(seed)
    head, feed, content = data.partition(b"\n")
    if chance.random() < 0.5:
        return bytes(atheris.Mutate(data, max_size))
    try:
        value: object = json.loads(content)
    except (ValueError, RecursionError):
        return bytes(atheris.Mutate(data, max_size))
    body = [value]
    for _ in range(chance.randint(1, 3)):
        change(body, chance)
    return (head + feed + json.dumps(body[0]).encode())[:max_size]


def change(value: object, chance: random.Random) -> None:
    """Put something odd, or another part of it, somewhere in a JSON value."""
    places = list(places_in(value))
    where, key = chance.choice(places)
    other, other_key = chance.choice(places)
    part = copy.deepcopy(other[other_key])  # in itself it would be endless
    odd = copy.deepcopy(chance.choice([*ODD, part, [part] * 2]))
    what = chance.random()
    if what < 0.1 and where is not value:
        del where[key]
    elif what < 0.2 and isinstance(where, dict):
        where[chance.choice(NAMES)] = odd
    else:
        where[key] = odd


def places_in(value: object) -> Iterator[tuple[Any, Any]]:
    """Give every place in a JSON value: the list or the object, and the key."""
    left = [value]
    while left:
        value = left.pop()
        if isinstance(value, dict | list):
            keys = list(value) if isinstance(value, dict) else range(len(value))
            for key in keys:
                yield value, key
                left.append(value[key])


def main() -> None:
    """Fuzz, with libFuzzer's own options and directories of a corpus."""
    with tempfile.TemporaryDirectory() as folder:
        for number, seed in enumerate(seeds()):
            (Path(folder) / f"seed-{number}").write_bytes(seed)
        options = [sys.argv[0], "-max_len=4096", *sys.argv[1:], folder]
        atheris.Setup(options, test_one_input, custom_mutator=mutated)
        atheris.Fuzz()


if __name__ == "__main__":
    main()

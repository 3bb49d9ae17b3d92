"""The emulator's account on the wire: balance, ledger and request log.

In process, through httpx; where time passes, the clock is turned.
"""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Mapping

import anyio
import httpx
import pytest

from kling_async.emulator import Emulator

PATH = "/v2/video/generations"
MASTER = {
    "model": "klingai/v2-master-image-to-video",
    "image_url": "https://example.com/mona.jpg",
}
PRICE = 2_800_000
V3 = {"model": "klingai/video-v3-pro-text-to-video", "prompt": "A cat", "duration": 3}
AT_ONCE = 1e9


def client_of(emulator: Emulator) -> httpx.AsyncClient:
    """Give a client whose requests go to the app without a socket."""
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=emulator.app),
        base_url="https://kling.test",
        headers={"Authorization": "Bearer some-key"},
    )


async def create(
    emulator: Emulator,
    body: Mapping[str, object] = MASTER,
    client_request_id: str | None = None,
) -> httpx.Response:
    """Post a create."""
    headers = {"X-Client-Request-Id": client_request_id} if client_request_id else {}
    async with client_of(emulator) as client:
        return await client.post(PATH, json=dict(body), headers=headers)


async def ask(emulator: Emulator, path: str, **query: object) -> httpx.Response:
    """Get a page of the account."""
    given = {name: value for name, value in query.items() if value is not None}
    async with client_of(emulator) as client:
        return await client.get(path, params=given)  # type: ignore[arg-type]


async def rows_of(emulator: Emulator, **query: object) -> list[dict[str, object]]:
    """Give the rows of the request log of the last day."""
    answer = await ask(emulator, "/v2/logs", period="24h", **query)
    rows: list[dict[str, object]] = answer.json()["data"]
    return rows


async def charges_of(emulator: Emulator, **query: object) -> list[dict[str, object]]:
    """Give the entries of the ledger."""
    answer = await ask(emulator, "/v2/billing/transactions", **query)
    entries: list[dict[str, object]] = answer.json()["data"]
    return entries


@pytest.mark.looptime
async def test_a_video_is_charged_when_it_is_completed() -> None:
    """Balance, ledger, log and the emulator's own account agree, before and after."""
    emulator = Emulator(speed=1, credits=2 * PRICE, size=64)
    generation_id = (await create(emulator)).json()["id"]
    before = (await ask(emulator, "/v2/billing")).json()
    assert before == {"current_balance": 2.8, "currency": "USD"}
    assert [it["type"] for it in await charges_of(emulator)] == ["INIT"]
    assert (await rows_of(emulator))[0]["cost"] == {"usd": 0, "credits": 0}
    assert (emulator.charges, emulator.balance) == ([], 2 * PRICE)
    await anyio.sleep(3600)
    amount = {"usd": 1.4, "credits": PRICE}
    assert (await ask(emulator, "/v2/billing")).json()["current_balance"] == 1.4
    charge = (await charges_of(emulator))[0]
    assert charge == {
        "created_at": charge["created_at"],
        "direction": "CHARGE",
        "type": "MODEL_USAGE",
        "amount": amount,
        "model": MASTER["model"],
        "reference_id": generation_id,
    }
    assert (await rows_of(emulator))[0]["cost"] == amount
    assert emulator.balance == PRICE
    assert [(it.generation_id, it.credits) for it in emulator.charges] == [
        (generation_id, PRICE)
    ]


async def test_a_failed_generation_is_not_in_the_ledger() -> None:
    """The log calls it failed and free; the ledger has nothing of it."""
    emulator = Emulator(speed=AT_ONCE, failure_rate=1)
    await create(emulator)
    (row,) = await rows_of(emulator)
    assert (row["status"], row["cost"]) == ("failed", {"usd": 0, "credits": 0})
    assert [it["type"] for it in await charges_of(emulator)] == ["INIT"]
    assert emulator.charges == []


async def test_a_row_ties_the_ids_together() -> None:
    """Client request id, generation id and a request id of its own in one row."""
    emulator = Emulator()
    answer = await create(emulator, client_request_id="scene-12")
    (row,) = await rows_of(emulator)
    assert row == {
        "created": row["created"],
        "status": "succeeded",
        "origin": "api",
        "model": MASTER["model"],
        "cost": {"usd": 0, "credits": 0},
        "tokens": {"input": 0, "output": 0, "total": 0},
        "request_id": row["request_id"],
        "inference_id": answer.headers["x-inference-id"],
        "client_request_id": "scene-12",
    }
    created = dt.datetime.fromisoformat(str(row["created"]))
    assert abs(dt.datetime.now(dt.UTC) - created) < dt.timedelta(minutes=1)


async def test_a_refused_create_has_a_failed_row() -> None:
    """With an inference id that no generation has; polls and wrong keys have none."""
    emulator = Emulator(credits=0, api_keys={"some-key"})
    await create(emulator, {"model": MASTER["model"]}, "invalid")
    await create(emulator, MASTER, "poor")
    await ask(emulator, PATH, generation_id="V1StGXR8Z5jdHi6BmyT8k")
    async with client_of(emulator) as client:
        wrong = {"Authorization": "Bearer wrong"}
        await client.post(PATH, json=MASTER, headers=wrong)
    rows = await rows_of(emulator)
    assert [it["client_request_id"] for it in rows] == ["poor", "invalid"]
    assert {it["status"] for it in rows} == {"failed"}
    assert len({it["inference_id"] for it in rows}) == 2
    assert all(it["inference_id"] for it in rows)


@pytest.mark.looptime
async def test_rows_appear_after_the_delay() -> None:
    """Whoever looks at once finds nothing; some seconds later it is there."""
    emulator = Emulator(log_delay=20)
    await create(emulator)
    await anyio.sleep(19)
    assert await rows_of(emulator) == []
    await anyio.sleep(2)
    assert len(await rows_of(emulator)) == 1


@pytest.mark.looptime
async def test_rows_may_never_appear() -> None:
    """An infinite delay is a log that stays empty."""
    emulator = Emulator(log_delay=math.inf)
    await create(emulator)
    await anyio.sleep(86_000)
    assert await rows_of(emulator) == []


async def test_without_a_log_its_path_is_not_there() -> None:
    """Switched off, it is the vendor's 404."""
    answer = await ask(Emulator(request_log=False), "/v2/logs", period="24h")
    assert answer.status_code == 404
    assert answer.json()["message"] == "Cannot GET /v2/logs"


async def test_the_log_is_walked_by_offset() -> None:
    """Newest first, each row once, with the total told."""
    emulator = Emulator()
    for number in range(7):
        await create(emulator, client_request_id=str(number))
    seen: list[object] = []
    for offset in (0, 3, 6):
        answer = await ask(emulator, "/v2/logs", period="1h", limit=3, offset=offset)
        body = answer.json()
        seen += [it["client_request_id"] for it in body["data"]]
        assert body["pagination"] == {
            "limit": 3,
            "offset": offset,
            "total": 7,
            "has_more": offset < 6,
        }
    assert seen == list("6543210")


async def test_the_log_is_filtered_by_repeated_parameters() -> None:
    """Several models or statuses are one or the other; a comma is part of a name."""
    emulator = Emulator()
    for body in (MASTER, V3, {"model": V3["model"]}):
        await create(emulator, body)
    bare = str(V3["model"]).removeprefix("klingai/")
    assert len(await rows_of(emulator, model=[MASTER["model"], V3["model"]])) == 3
    assert len(await rows_of(emulator, model=bare)) == 2
    assert len(await rows_of(emulator, model=bare, status="failed")) == 1
    assert len(await rows_of(emulator, status=["failed", "succeeded"])) == 3
    assert await rows_of(emulator, model=f"{MASTER['model']},{V3['model']}") == []


@pytest.mark.looptime
async def test_the_log_is_cut_to_the_time_asked_for() -> None:
    """A period reaches back from now; a start and an end are taken as they are."""
    emulator = Emulator()
    await create(emulator, client_request_id="old")
    await anyio.sleep(7200)
    await create(emulator, client_request_id="new")
    old = dt.datetime.fromisoformat(str((await rows_of(emulator))[1]["created"]))
    hour = dt.timedelta(hours=1)
    around = {"start": (old - hour).isoformat(), "end": (old + hour).isoformat()}
    naive = {name: text.removesuffix("+00:00") for name, text in around.items()}
    for query, expected in (
        ({"period": "1h"}, ["new"]),
        ({"period": "3h"}, ["new", "old"]),
        ({"period": "1d"}, ["new", "old"]),
        (around, ["old"]),
        (naive, ["old"]),
    ):
        answer = await ask(emulator, "/v2/logs", **query)
        found = [it["client_request_id"] for it in answer.json()["data"]]
        assert found == expected


@pytest.mark.parametrize(
    "query, field",
    [
        ({}, "period"),
        ({"period": "24h", "start": "2026-08-01"}, "period"),
        ({"start": "2026-08-01"}, "period"),
        ({"period": "24"}, "period"),
        ({"period": "0h"}, "period"),
        ({"period": "93d"}, "period"),
        ({"start": "yesterday", "end": "2026-08-01"}, "start"),
        ({"start": "2026-08-02", "end": "2026-08-01"}, "end"),
        ({"start": "2026-01-01", "end": "2026-08-01"}, "end"),
        ({"period": "1h", "limit": "0"}, "limit"),
        ({"period": "1h", "limit": "101"}, "limit"),
        ({"period": "1h", "offset": "-1"}, "offset"),
        ({"period": "1h", "status": "succeeded,failed"}, "status"),
    ],
)
async def test_a_wrong_question_to_the_log(
    query: Mapping[str, object], field: str
) -> None:
    """A 400 that names the parameter, in the vendor's form."""
    answer = await ask(Emulator(), "/v2/logs", **query)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(f"Query validation error\n{field}: Exp")


@pytest.mark.looptime
async def test_the_log_can_be_asked_200_times_a_minute() -> None:
    """The next one is a 429 that says how long to wait, and then it goes on."""
    emulator = Emulator()
    for _ in range(200):
        assert (await ask(emulator, "/v2/logs", period="1h")).status_code == 200
    answer = await ask(emulator, "/v2/logs", period="1h")
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "60")
    assert (await ask(emulator, "/v2/billing")).status_code == 200
    await anyio.sleep(60)
    assert (await ask(emulator, "/v2/logs", period="1h")).status_code == 200


async def test_the_ledger_is_walked_by_cursor() -> None:
    """Each entry once, newest first, although new ones come in between the pages."""
    emulator = Emulator(speed=AT_ONCE, size=64)
    ids = [(await create(emulator)).json()["id"] for _ in range(5)]
    seen: list[object] = []
    cursor: object = None
    while True:
        answer = await ask(emulator, "/v2/billing/transactions", limit=2, cursor=cursor)
        body = answer.json()
        seen += [it["reference_id"] for it in body["data"]]
        cursor = body["pagination"]["next_cursor"]
        assert body["pagination"]["has_more"] is (cursor is not None)
        if cursor is None:
            break
        await create(emulator)
    assert seen == [*reversed(ids), None]


async def test_the_ledger_is_filtered() -> None:
    """By direction, by type and by time."""
    emulator = Emulator(speed=AT_ONCE)
    await create(emulator)
    assert len(await charges_of(emulator, direction="CHARGE")) == 1
    assert len(await charges_of(emulator, type="INIT")) == 1
    assert len(await charges_of(emulator, direction="TOPUP", type="MODEL_USAGE")) == 0
    assert await charges_of(emulator, to="2020-01-01T00:00:00Z") == []
    assert len(await charges_of(emulator, **{"from": "2020-01-01T00:00:00Z"})) == 2


@pytest.mark.parametrize(
    "query, field",
    [
        ({"offset": 1}, "offset"),
        ({"limit": 101}, "limit"),
        ({"direction": "charge"}, "direction"),
        ({"type": "GIFT"}, "type"),
        ({"from": "2026-08-02", "to": "2026-08-01"}, "to"),
        ({"cursor": "nonsense"}, "cursor"),
        ({"cursor": "eyJ2IjoxLCJuIjoxfQ=="}, "cursor"),
        ({"cursor": "eyJ2IjoxLCJuIjo5fQ"}, "cursor"),
        ({"cursor": "é"}, "cursor"),
    ],
)
async def test_a_wrong_question_to_the_ledger(
    query: Mapping[str, object], field: str
) -> None:
    """Also an unknown parameter and a cursor that was tampered with."""
    answer = await ask(Emulator(), "/v2/billing/transactions", **query)
    assert answer.status_code == 400
    assert answer.json()["message"].startswith(f"Query validation error\n{field}: Exp")


@pytest.mark.parametrize(
    "path", ["/v2/billing", "/v2/billing/transactions", "/v2/logs?period=1h"]
)
async def test_the_account_asks_for_a_key(path: str) -> None:
    """Nobody sees another's money."""
    async with client_of(Emulator(api_keys={"secret"})) as client:
        answer = await client.get(path)
    assert answer.status_code == 401


@pytest.mark.parametrize(
    "body, price",
    [
        (V3, 3 * 0.17),
        ({**V3, "generate_audio": False}, 3 * 0.12),
        ({**V3, "duration": 6}, 6 * 0.17),
    ],
)
async def test_a_price_goes_by_what_was_asked_for(
    body: Mapping[str, object], price: float
) -> None:
    """The bill is the one that the catalogue quotes."""
    emulator = Emulator(speed=AT_ONCE)
    await create(emulator, body)
    assert emulator.charges[0].usd == pytest.approx(price)
    assert emulator.charges[0].credits == round(price * 2_000_000)

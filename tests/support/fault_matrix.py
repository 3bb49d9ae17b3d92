"""Every fault of the emulator times every public method that talks to the server.

Says which they are, and observes what a method does over a real socket, on a clock
that jumps. What it has to do is a table of the documentation; run as a program this
writes it anew.
"""

from __future__ import annotations

import asyncio
import csv
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import socket_clock
from attrs import evolve, frozen

from kling_async import (
    AsyncKling,
    Fixed,
    Generation,
    KlingError,
    RetryPolicy,
    TextToVideo,
)
from kling_async._http.session import Library
from kling_async.emulator import Emulator, Fault

TABLE = Path(__file__).parents[2] / "docs/reference/faults.csv"
TIMEOUT = 2.0
# A watch gives a refusal 20 s to heal, so it is told at the fourth poll.
POLLING, PATIENCE, SHORTER = Fixed(8), 28.0, 10.0
RETRY = RetryPolicy(attempts=2, initial=0, max_retry_after=2, reconcile_timeout=8)
REQUEST = TextToVideo(model="klingai/v2-master-text-to-video", prompt="A boat.")
HOW_OFTEN: Mapping[str, int | None] = {"once": 1, "each time": None}

_STATUSES = (
    *(400, 401, 402, 403, 404, 408, 409, 422, 425, 429, 451),
    *(500, 501, 502, 503, 504),
)
_LONG = 5 * TIMEOUT
_ELSEWHERE = {"Location": "http://127.0.0.1:9/elsewhere"}


def _busy(retry_after: str) -> Fault:
    return Fault("status", status=429, headers={"Retry-After": retry_after})


FAULTS: Mapping[str, Fault] = {
    **{str(code): Fault("status", status=code) for code in _STATUSES},
    "500, accepted": Fault("status", status=500, accepted=True),
    "502, a page": Fault("html"),
    "200, a page": Fault("html", status=200, accepted=True),
    "302, elsewhere": Fault("status", status=302, headers=_ELSEWHERE),
    "429, until 1970": _busy("Thu, 01 Jan 1970 00:00:00 GMT"),
    "429, until 2999": _busy("Tue, 01 Jan 2999 00:00:00 GMT"),
    "429, for -5 s": _busy("-5"),
    "429, for 1e11 s": _busy("99999999999"),
    "429, no number": _busy("soon"),
    "late": Fault("delay", seconds=TIMEOUT / 4),
    "too late": Fault("delay", seconds=_LONG),
    "too late, accepted": Fault("delay", seconds=_LONG, accepted=True),
    "stalled": Fault("stall", seconds=_LONG),
    "trickling": Fault("trickle", seconds=0.5),
    "reset": Fault("reset"),
    "reset, accepted": Fault("reset", accepted=True),
    "closed": Fault("close"),
    "closed, accepted": Fault("close", accepted=True),
    "cut": Fault("cut"),
    "truncated": Fault("truncate"),
    "called text": Fault("wrong_type"),
    "wrong shape": Fault("wrong_shape"),
    "a list": Fault("wrong_shape", body=[]),
    "wrong id": Fault("wrong_id"),
    "bad UTF-8": Fault("bad_utf8"),
    "bad gzip": Fault("bad_gzip"),
    "1 GB packed": Fault("bomb"),
    "1 GB": Fault("huge"),
    "nested": Fault("deep"),
}


@frozen
class Known:
    """A generation that has ended well, and a folder to write to."""

    generation: Generation
    request_id: str
    folder: Path


Method = Callable[[AsyncKling, Known], Awaitable[object]]


async def _watch(kling: AsyncKling, known: Known) -> None:
    async for _ in kling.watch(known.generation.id, timeout=PATIENCE):
        pass


async def _generate_many(kling: AsyncKling, _: Known) -> None:
    async for outcome in kling.generate_many([REQUEST], timeout=SHORTER):
        if outcome.error is not None:
            raise outcome.error


async def _download(kling: AsyncKling, known: Known) -> None:
    path = known.folder / "film.mp4"
    await kling.download(known.generation, path, timeout=SHORTER, max_bytes=10**7)


async def _request_log(kling: AsyncKling, _: Known) -> None:
    async for _row in kling.request_log():
        pass


async def _transactions(kling: AsyncKling, _: Known) -> None:
    async for _row in kling.transactions():
        pass


async def _reconcile(kling: AsyncKling, known: Known) -> None:
    found = await kling.reconcile(known.request_id)
    assert found is not None
    assert found.id == known.generation.id


# Those of one column do the same in every row.
COLUMNS: Mapping[str, Sequence[Method]] = {
    "create": [lambda kling, _: kling.create(REQUEST)],
    "generate": [lambda kling, _: kling.generate(REQUEST, timeout=SHORTER)],
    "generate_many": [_generate_many],
    "get": [lambda kling, it: kling.get(it.generation.id)],
    "watch, wait": [
        _watch,
        lambda kling, it: kling.wait(it.generation.id, timeout=PATIENCE),
    ],
    "balance, request_log, transactions": [
        lambda kling, _: kling.balance(),
        _request_log,
        _transactions,
    ],
    "price": [lambda kling, _: kling.price(REQUEST)],
    "reconcile": [_reconcile],
    "download": [_download],
}
# How often these ask hangs on the time alone, and is told nowhere.
_PATIENT = frozenset({"watch, wait", "reconcile"})
# A batch is held back at 429 until its time is up, instead of failing.
_HELD_BACK = ("generate_many", "RateLimitError")


@frozen
class Stage:
    """An emulator, a client of it, and what is known already."""

    emulator: Emulator
    kling: AsyncKling
    known: Known

    async def cell(self, column: str, method: Method, fault: Fault) -> str:
        """See what a method does when a fault strikes: the text of its cell."""
        requests, creates = len(self.emulator.requests), len(self.emulator.creates)
        self.emulator.faults.add(fault)
        # Of its own account: neither prices nor polls of others are at hand.
        kling = self.kling.with_options(api_key=f"key-{requests}")
        told = "result"
        try:
            await method(kling, self.known)
        except KlingError as error:
            told = type(error).__name__
        self.emulator.faults.clear()
        await asyncio.sleep(0.2)  # the emulator sees who has gone
        asked = [
            it
            for it in self.emulator.requests[requests:]
            if it.path != "/v2/logs" or "request_log" in column
        ]
        is_patient = (
            column in _PATIENT
            or told == "WaitTimeoutError"
            or (column, told) == _HELD_BACK
        )
        sent = "" if is_patient else f" ({len(asked)})"
        is_create = column.startswith(("create", "generate"))
        billed = len(self.emulator.creates) - creates
        return told + sent + (f", billed {billed}" if is_create else "")


@asynccontextmanager
async def stage(folder: Path, transport: Library) -> AsyncGenerator[Stage]:
    """Set an emulator up, and a client that has one generation done."""
    async with (
        Emulator(speed=1e9, size=64) as emulator,
        AsyncKling(
            "key",
            base_url=emulator.base_url,
            timeout=TIMEOUT,
            retry=RETRY,
            polling=POLLING,
            transport=transport,
        ) as kling,
    ):
        created = await kling.create(REQUEST, client_request_id="known")
        done = await kling.wait(created)
        yield Stage(emulator, kling, Known(done, "known", folder))


async def observed(column: str, number: int, folder: Path) -> dict[str, str]:
    """See what a method does at each fault, once and each time.

    The first of a column goes over httpx, the others over aiohttp.
    """
    cells: dict[str, str] = {}
    method = COLUMNS[column][number]
    async with stage(folder, "aiohttp" if number else "httpx") as here:
        for name, fault in FAULTS.items():
            for often, times in HOW_OFTEN.items():
                struck = evolve(fault, times=times)
                cells[f"{name}; {often}"] = await here.cell(column, method, struck)
        # After all that the client is as good as new.
        assert (await here.kling.get(here.known.generation.id)).succeeded
    return cells


def expected(column: str) -> dict[str, str]:
    """Read what the methods of a column have to do."""
    with TABLE.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return {f"{row['fault']}; {row['strikes']}": row[column] for row in rows}


def write() -> None:
    """Write down what there is to see, for somebody to judge."""
    columns: dict[str, dict[str, str]] = {}

    async def look() -> None:
        with TemporaryDirectory() as folder:
            for column in COLUMNS:
                columns[column] = await observed(column, 0, Path(folder))

    socket_clock.run(look)
    with TABLE.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["fault", "strikes", *COLUMNS])
        for key in next(iter(columns.values())):
            row = [columns[column][key] for column in COLUMNS]
            table.writerow([*key.split("; "), *row])


if __name__ == "__main__":
    write()

"""Keeps an emulator's state in a file, so that the next one continues from it.

Balance, ledger and statuses are not kept: they follow from the generations and the
time.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import cast

import anyio
from anyio import to_thread
from attrs import asdict, define, field

from kling_async._errors import ConfigurationError
from kling_async._generation import GenerationError
from kling_async._runtime.disk import write_atomically
from kling_async.emulator._account import LoggedRequest, RequestLog
from kling_async.emulator._ledger import Ledger
from kling_async.emulator._protocol import Clock
from kling_async.emulator._store import (
    CreateRecord,
    GenerationStore,
    Plan,
    StoredGeneration,
)
from kling_async.emulator._video import Scene

_VERSION = 1

Json = Mapping[str, object]


@define(eq=False)
class StateFile:
    """The file in which one emulator at a time keeps its state.

    Attributes:
        path: Its path.
        store: The generations and the account.
        log: The request log.
        clock: The clock.
        in_threads: Whether the file is written in a worker thread.
    """

    path: Path
    store: GenerationStore
    log: RequestLog
    clock: Clock
    in_threads: bool = False
    _turn: anyio.Lock = field(factory=anyio.Lock, init=False)
    _asked: int = field(default=0, init=False)
    _written: int = field(default=0, init=False)
    # Each item is encoded only once, so that a save is quick.
    _images: dict[str, str] = field(factory=dict[str, str], init=False)
    _jobs: list[str] = field(factory=list[str], init=False)
    _rows: list[str] = field(factory=list[str], init=False)

    async def save(self) -> None:
        """Write the state; calls made meanwhile share the next write."""
        self._asked += 1
        mine = self._asked
        async with self._turn:
            if self._written >= mine:
                return
            covered, text = self._asked, self._text()
            if self.in_threads:
                with anyio.CancelScope(shield=True):
                    await to_thread.run_sync(write_atomically, self.path, text)
            else:
                write_atomically(self.path, text)
            self._written = covered

    def save_now(self) -> None:
        """Write the state, while nobody else does."""
        write_atomically(self.path, self._text())

    def load(self) -> None:
        """Read the state from the file; if there is none, create it.

        Raises:
            ConfigurationError: It cannot be read or written, or is not a state file.
        """
        try:
            if self.path.exists():
                self._take_over(json.loads(self.path.read_text("utf-8")))
            self.save_now()
        except OSError as error:
            raise ConfigurationError(
                f"the state cannot be kept in {self.path}: {error.strerror}"
            ) from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise ConfigurationError(
                f"{self.path} is not the state of an emulator ({error!r}); "
                "give another file, or move it away"
            ) from error

    def _take_over(self, data: Json) -> None:
        if data["version"] != _VERSION:
            raise ValueError(f"version {data['version']!r}")
        self.clock.go_on_from(_number(data["saved_at"]))
        images = {
            key: base64.b64decode(_text(image))
            for key, image in cast("Json", data["images"]).items()
        }
        self.store.account = Ledger.open(
            _number(data["credits"]), at=_number(data["opened_at"])
        )
        for item in _objects(data["generations"]):
            self.store.take_on(_job_in(item, images))
        for at, paid in cast("list[list[float]]", data.get("top_ups", [])):
            self.store.settle(at)  # the ledger is in order of time
            self.store.account.top_up(paid, at=at)
        for item in _objects(data["log"]):
            job = self.store.find(_text(item["inference_id"]))
            # mypy cannot follow a mapping into keywords.
            self.log.rows.append(LoggedRequest(**item, job=job))  # type: ignore[arg-type]

    def _text(self) -> str:
        for job in islice(self.store.jobs, len(self._jobs), None):
            self._jobs.append(json.dumps(self._encode(job)))
        for row in islice(self.log.rows, len(self._rows), None):
            self._rows.append(json.dumps(_encode_row(row)))
        first, *entries = self.store.account.entries
        head = {
            "version": _VERSION,
            "saved_at": self.clock.now(),
            "credits": first.credits,
            "opened_at": first.at,
            "top_ups": [[it.at, it.credits] for it in entries if it.type == "PAYMENT"],
            "images": self._images,
        }
        jobs, rows = ",\n".join(self._jobs), ",\n".join(self._rows)
        more = f',\n"generations": [\n{jobs}\n],\n"log": [\n{rows}\n]}}\n'
        return json.dumps(head)[:-1] + more

    def _encode(self, job: StoredGeneration) -> Json:
        scene = asdict(job.scene)
        scene["images"] = [self._key_of(image) for image in job.scene.images]
        return asdict(job) | {"scene": scene}

    def _key_of(self, image: bytes) -> str:
        key = hashlib.sha256(image).hexdigest()[:32]
        self._images.setdefault(key, base64.b64encode(image).decode())
        return key


def _encode_row(row: LoggedRequest) -> Json:
    known = asdict(row, recurse=False)
    del known["job"]
    return known


def _job_in(data: Json, images: Mapping[str, bytes]) -> StoredGeneration:
    record, request, scene, plan = (
        cast("dict[str, object]", data[name])
        for name in ("record", "request", "scene", "plan")
    )
    keys = cast("list[object]", scene["images"])
    width, height = cast("list[int]", scene["aspect"])
    error = cast("dict[str, str] | None", plan["error"])
    return StoredGeneration(
        record=CreateRecord(**record),  # type: ignore[arg-type] # as above
        request=request,
        scene=Scene(
            text=_text(scene["text"]),
            source=_text(scene["source"]),
            images=tuple(images[_text(key)] for key in keys),
            aspect=(width, height),
            length=int(_number(scene["length"])),
        ),
        plan=Plan(
            starts_after=_number(plan["starts_after"]),
            ends_after=_number(plan["ends_after"]),
            error=GenerationError(**error) if error else None,
        ),
        price=int(_number(data["price"])),
        created_at=_number(data["created_at"]),
    )


def _objects(data: object) -> Iterator[dict[str, object]]:
    return iter(cast("list[dict[str, object]]", data))


def _number(data: object) -> float:
    if not isinstance(data, int | float):
        raise TypeError(f"{data!r} is not a number")
    return data


def _text(data: object) -> str:
    if not isinstance(data, str):
        raise TypeError(f"{data!r} is not a text")
    return data

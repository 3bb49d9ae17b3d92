"""Creates, polls and files over HTTP.

Turns requests into calls of the store; decides nothing about generations.
"""

from __future__ import annotations

import io
import json
import logging
import math
from collections.abc import Iterable, Mapping
from http import HTTPStatus
from typing import cast

import av
import httpx
from attrs import define
from PIL import Image
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from kling_async._checks import is_loopback
from kling_async._errors import Problem
from kling_async._generation import Status
from kling_async._requests.catalogue import Model, catalogue_in_use
from kling_async._requests.fields import Field
from kling_async._text import short_repr
from kling_async.emulator._account import LoggedRequest, RequestLog
from kling_async.emulator._ledger import price_of
from kling_async.emulator._protocol import (
    GENERATIONS,
    Clock,
    Refusal,
    is_from_elsewhere,
)
from kling_async.emulator._state import StateFile
from kling_async.emulator._store import (
    GenerationStore,
    StoredGeneration,
    generation_response,
    is_well_formed,
    new_token,
)
from kling_async.emulator._traffic import ServedExchange, Traffic
from kling_async.emulator._video import (
    Picture,
    VideoCache,
    addresses_in,
    decode_image,
    require_size,
    scene_of,
)

_LONGEST_TEXT = 300

_KEPT = 60


def truncate(body: Mapping[str, object]) -> dict[str, object]:
    """Return a decoded JSON object with long texts shortened."""
    return {name: _truncate(value) for name, value in body.items()}


def _truncate(value: object) -> object:
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"{value[:_KEPT]}… ({len(value):,} characters)"
    if isinstance(value, dict):
        return {str(name): _truncate(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_truncate(item) for item in value]
    return value


_logger = logging.getLogger("kling_async.emulator")

_TIMEOUT_SECONDS = 5

_MOST_BYTES = 50_000_000


async def fetch_pictures(addresses: Iterable[str], size: int) -> dict[str, Picture]:
    """Fetch images, and the first frames of videos.

    Args:
        addresses: Their URLs; those on other machines are ignored.
        size: The longer side that they are reduced to, in pixels.
    """
    wanted = [it for it in dict.fromkeys(addresses) if _is_here(it)]
    found: dict[str, Picture] = {}
    if not wanted:
        return found
    async with httpx.AsyncClient(trust_env=False, timeout=_TIMEOUT_SECONDS) as client:
        for address in wanted:
            try:
                found[address] = _decode_picture(await _fetch(client, address), size)
            except Exception as error:  # noqa: BLE001 (decoders fail in every way)
                _logger.info("%s cannot be shown: %r", address, error)
    return found


async def _fetch(client: httpx.AsyncClient, address: str) -> bytes:
    data = bytearray()
    async with client.stream("GET", address) as answer:
        answer.raise_for_status()
        async for part in answer.aiter_bytes():
            data += part
            if len(data) > _MOST_BYTES:
                raise ValueError(f"it has more than {_MOST_BYTES} bytes")
    return bytes(data)


def _is_here(address: str) -> bool:
    try:
        url = httpx.URL(address)
    except (httpx.InvalidURL, UnicodeError):
        return False
    return is_loopback(url.host)


def _decode_picture(data: bytes, size: int) -> Picture:
    if data[4:8] != b"ftyp":
        return decode_image(data, size)
    with av.open(io.BytesIO(data), "r") as film:
        stream = film.streams.video[0]
        require_size(stream.width, stream.height)
        frame = next(film.decode(stream))
        # PyAV's stub leaves to_image without types.
        image = frame.to_image()  # type: ignore[no-untyped-call]
        return Picture.of(cast("Image.Image", image), size)


# A browser must read it as a video or not at all.
_AS_IT_SAYS = {"x-content-type-options": "nosniff"}

# The answer of a content network to an expired link.
_EXPIRED = """<?xml version="1.0" encoding="UTF-8"?>
<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>
"""


@define(kw_only=True, eq=False)
class Generations:
    """The endpoints of generations and their videos.

    Attributes:
        store: The generations.
        videos: Their videos.
        log: The request log.
        clock: The clock.
        traffic: The source of random ids.
        state: The state file, if there is one.
        expire_after: For how many seconds a finished video is served.
        is_strict: Whether a field that the model does not take is refused.
    """

    store: GenerationStore
    videos: VideoCache
    log: RequestLog
    clock: Clock
    traffic: Traffic
    state: StateFile | None = None
    expire_after: float = math.inf
    is_strict: bool = False

    async def generations(self, request: Request) -> Response:
        """Create a generation, or answer with its status."""
        if request.method == "POST":
            return await self._create(request)
        return await self._poll(request)

    async def file(self, request: Request) -> Response:
        """Serve a finished video to anyone, as a content network does."""
        job = self.store.find_file(request.path_params["name"])
        now = self.clock.now()
        if job is None or job.status_at(now) != Status.COMPLETED:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        ServedExchange.of(request).note(generation_id=job.id)
        if now >= job.ends_at + self.expire_after:
            return Response(_EXPIRED, HTTPStatus.FORBIDDEN, media_type="text/xml")
        path = await self.videos.get(job.scene)
        return FileResponse(path, media_type="video/mp4", headers=_AS_IT_SAYS)

    async def _create(self, request: Request) -> Response:
        exchange = ServedExchange.of(request)
        try:
            given = body = _parse_object(exchange.body)
            model = body.get("model")
            exchange.note(model=model if isinstance(model, str) else None)
            known = _require_model(model, body)
            if not self.is_strict:
                body = _without_unknown(known, body)
            if problems := catalogue_in_use().problems_in(known.id, body):
                raise Refusal.over(problems)
            job = await self._accept(known.id, body, given, request)
        except Refusal as refusal:
            if refusal.status != HTTPStatus.TOO_MANY_REQUESTS:
                self.note_failure(exchange)
            raise
        finally:
            if self.state is not None:
                await self.state.save()
        http_status = GENERATIONS[request.url.path]
        return await self._tell(job, request, http_status, now=job.created_at)

    async def _accept(
        self,
        model: str,
        body: Mapping[str, object],
        given: Mapping[str, object],
        request: Request,
    ) -> StoredGeneration:
        fetched: dict[str, Picture] = {}
        is_local = request.client is not None and is_loopback(request.client.host)
        if is_local and not is_from_elsewhere(request):
            fetched = await fetch_pictures(addresses_in(body), self.videos.size)
        scene = await self.videos.finish(scene_of(body, self.videos.size, fetched))
        exchange = ServedExchange.of(request)
        job = self.store.accept(
            truncate(given),
            scene,
            price=price_of(model, body, scene.length),
            now=self.clock.now(),
            client_request_id=exchange.record.client_request_id,
        )
        exchange.note(generation_id=job.id)
        self._note(exchange, job)
        return job

    def note_failure(self, exchange: ServedExchange) -> None:
        """Write a create that the server failed to the request log."""
        if exchange.record.method == "POST" and exchange.record.path in GENERATIONS:
            self._note(exchange, None)

    def _note(self, exchange: ServedExchange, job: StoredGeneration | None) -> None:
        record = exchange.record
        if record.model is None:
            return  # refused before its body was read
        row = LoggedRequest(
            at=job.created_at if job else self.clock.now(),
            model=record.model,
            request_id=exchange.request_id,
            inference_id=job.id if job else new_token(self.traffic.chance),
            client_request_id=record.client_request_id,
            job=job,
        )
        self.log.rows.append(row)

    async def _poll(self, request: Request) -> Response:
        generation_id = request.query_params.get("generation_id", "")
        if not generation_id:
            problem = Problem("generation_id", "nothing", "a generation's id")
            raise Refusal.over([problem], part="Query")
        ServedExchange.of(request).note(generation_id=generation_id)
        job = self.store.find(generation_id)
        if job is not None:
            now = self.clock.now()
            self.store.settle(now)
            return await self._tell(job, request, HTTPStatus.OK, now=now)
        traced = is_well_formed(generation_id)
        headers = {"x-inference-id": generation_id} if traced else {}
        raise Refusal(HTTPStatus.NOT_FOUND, "Generation is not found", headers)

    async def _tell(
        self,
        job: StoredGeneration,
        request: Request,
        http_status: HTTPStatus,
        *,
        now: float,
    ) -> Response:
        done = job.status_at(now) == Status.COMPLETED
        video = await self._video(job, request) if done else None
        return generation_response(
            job, now, http_status=http_status, video=video, nulls=self.store.nulls
        )

    async def _video(
        self, job: StoredGeneration, request: Request
    ) -> dict[str, object]:
        path = await self.videos.get(job.scene)
        return {
            "url": str(request.url_for("file", name=job.file_name)),
            "content_type": "video/mp4",
            "file_name": "output.mp4",
            "file_size": path.stat().st_size,
        }


def _parse_object(text: bytes) -> dict[str, object]:
    try:
        body: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        problem = Problem("body", "something else", "JSON (RFC 8259)")
        raise Refusal.over([problem]) from error
    if not isinstance(body, dict):
        raise Refusal.over([Problem("body", short_repr(body), "a JSON object")])
    return cast("dict[str, object]", body)


def _require_model(name: object, body: Mapping[str, object]) -> Model:
    catalogue = catalogue_in_use()
    if isinstance(name, str) and name in catalogue:
        return catalogue[name]
    if isinstance(name, str) and name in catalogue.retired:
        raise Refusal(HTTPStatus.NOT_FOUND, f"Model {name} is deprecated")
    given = short_repr(name) if "model" in body else "nothing"
    near = catalogue.closest(name)
    such = f"such as {near!r}" if near else "as GET /v1/models lists them"
    raise Refusal.over([Problem("model", given, f"the id of a model, {such}")])


def _without_unknown(model: Model, body: Mapping[str, object]) -> dict[str, object]:
    """Drop fields that the model does not take, as the vendor does, and log them."""
    dropped = [name for name in body if name not in {"model", *model.fields}]
    if dropped:
        _logger.warning("%s does not take %s: dropped", model.id, ", ".join(dropped))
    return {
        name: _drop_unknown(value, model.fields[name]) if name != "model" else value
        for name, value in body.items()
        if name not in dropped
    }


def _drop_unknown(value: object, rule: Field | None) -> object:
    if rule and isinstance(value, list):
        return [_drop_unknown(item, rule.items) for item in cast("list[object]", value)]
    if rule and rule.properties and isinstance(value, dict):
        inner = cast("dict[str, object]", value).items()
        known = rule.properties
        return {k: _drop_unknown(it, known[k]) for k, it in inner if k in known}
    return value

"""The model catalogue over HTTP: the models, their prices and durations.

Needs no key and knows no account.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from http import HTTPStatus

from attrs import define
from starlette.datastructures import QueryParams
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kling_async._config import PATHS
from kling_async._requests.catalogue import Model, catalogue_in_use
from kling_async.emulator._ledger import quote_of
from kling_async.emulator._protocol import Clock, Query, Refusal, timestamp
from kling_async.emulator._store import GenerationStore, StoredGeneration

_TYPE = "internal/video-generations/submit"

_TAGS = ("playground:video",)

_FILTERS = (
    "id",
    "type",
    "tags",
    "modalities",
    "input_modalities",
    "output_modalities",
    "capabilities",
)

_SECTIONS = ("pricing", "modalities", "capabilities")

_WINDOW_SECONDS = 300

_PERCENTILES = (50, 75, 90, 99)

_MOST_ALIASES = 100


@define(kw_only=True, eq=False)
class ModelPages:
    """The endpoints for models.

    Attributes:
        store: The generations, whose durations are measured.
        clock: The clock.
    """

    store: GenerationStore
    clock: Clock

    async def catalogue(self, request: Request) -> Response:
        """Answer with the models, and with the requested sections of each."""
        asked = {name: _read_filter(request.query_params, name) for name in _FILTERS}
        sections = _sections(request.query_params)
        data = [
            _model_item(model, sections)
            for model in catalogue_in_use().values()
            if all(not it or it & _facts_of(model)[name] for name, it in asked.items())
        ]
        answer = JSONResponse({"object": "list", "data": data})
        etag = f'W/"{hashlib.sha1(answer.body, usedforsecurity=False).hexdigest()}"'
        if request.headers.get("if-none-match") == etag:
            return Response(None, HTTPStatus.NOT_MODIFIED, {"etag": etag})
        answer.headers["etag"] = etag
        return answer

    async def one(self, request: Request) -> Response:
        """Answer with one model, by its id or an alias, in any case."""
        name = str(request.path_params["id"]).lower()
        for model in catalogue_in_use().values():
            if name in _facts_of(model)["id"]:
                data = _model_item(model, _sections(request.query_params))
                return JSONResponse({"object": "model", "data": data})
        raise Refusal(HTTPStatus.NOT_FOUND, "Model is not found")

    async def metrics(self, request: Request) -> Response:
        """Answer with recent durations of models that had a success."""
        query = Query(request.query_params)
        query.take_only(("aliases",))
        asked = query.params.getlist("aliases")
        if len(asked) > _MOST_ALIASES:
            query.reject("aliases", f"at most {_MOST_ALIASES} of them")
        query.check()
        now = self.clock.now()
        self.store.settle(now)
        models = [
            {
                "alias": model,
                "endpoint": PATHS["universal"],
                "metrics": {"duration_ms": _percentiles(times)},
            }
            for model, times in _recent_times(self.store.ended, now).items()
            if not asked or {model, *catalogue_in_use()[model].aliases} & set(asked)
        ]
        return JSONResponse(
            {
                "window_seconds": _WINDOW_SECONDS,
                "generated_at": timestamp(now),
                "models": models,
            }
        )


def _read_filter(params: QueryParams, name: str) -> set[str]:
    """Read a filter: separated by commas or repeated, in any case."""
    texts = ",".join(params.getlist(name)).lower().split(",")
    return {text.strip() for text in texts if text.strip()}


def _sections(params: QueryParams) -> Collection[str]:
    asked = _read_filter(params, "include")
    if "all" in asked or params.get("details") in {"true", "1"}:
        return _SECTIONS
    return asked


def _modalities_of(model: Model) -> Mapping[str, Sequence[str]]:
    fields = " ".join(model.fields)
    taken = {"text": "prompt", "image": "image", "video": "video", "audio": "audio_url"}
    return {
        "input": [name for name, part in taken.items() if part in fields],
        "output": ["video"],
    }


def _capability_of(model: Model) -> str:
    return model.kind.replace("-", "_")


def _facts_of(model: Model) -> Mapping[str, set[str]]:
    modalities = _modalities_of(model)
    return {
        "id": {name.lower() for name in (model.id, *model.aliases)},
        "type": {_TYPE},
        "tags": set(_TAGS),
        "modalities": {*modalities["input"], *modalities["output"]},
        "input_modalities": set(modalities["input"]),
        "output_modalities": set(modalities["output"]),
        "capabilities": {_capability_of(model)},
    }


def _model_item(model: Model, sections: Collection[str]) -> dict[str, object]:
    item: dict[str, object] = {
        "id": model.id,
        "aliases": list(model.aliases),
        "type": _TYPE,
        "info": {"name": model.id.rpartition("/")[2], "developer": "Kling AI"},
        "tags": list(_TAGS),
    }
    if "pricing" in sections:
        item["pricing"] = quote_of(model.id)
    if "modalities" in sections:
        item["modalities"] = _modalities_of(model)
    if "capabilities" in sections:
        item["capabilities"] = [_capability_of(model)]
    return item


def _recent_times(
    ended: Sequence[StoredGeneration], now: float
) -> dict[str, list[float]]:
    """Return, by model, how many seconds each recent success took."""
    times: dict[str, list[float]] = {}
    for job in _since(ended, now - _WINDOW_SECONDS):
        if job.plan.error is None:
            times.setdefault(job.record.model, []).append(job.plan.ends_after)
    return times


def _since(
    ended: Sequence[StoredGeneration], start: float
) -> Iterator[StoredGeneration]:
    for job in reversed(ended):
        if job.ends_at < start:
            return
        yield job


def _percentiles(seconds: Collection[float]) -> dict[str, int]:
    ordered = sorted(seconds)
    ranks = {it: math.ceil(it / 100 * len(ordered)) for it in _PERCENTILES}
    return {f"p{it}": round(1000 * ordered[rank - 1]) for it, rank in ranks.items()}

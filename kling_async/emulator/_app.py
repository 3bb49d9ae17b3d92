"""The wire contract as an ASGI app: paths, verbs, keys, bodies and headers.

Turns HTTP into calls of the studio and back; decides nothing about generations.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from http import HTTPStatus
from typing import cast

import anyio
from attrs import define
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from kling_async._catalogue import MODELS, problems_in
from kling_async._errors import Problem
from kling_async._fields import shown
from kling_async._generation import Status
from kling_async.emulator._account import usd
from kling_async.emulator._naming import is_well_formed
from kling_async.emulator._refusals import Refusal, error_body
from kling_async.emulator._scene import scene_of
from kling_async.emulator._shelf import Shelf
from kling_async.emulator._studio import Job, Studio
from kling_async.emulator._traffic import Exchange, Front, Traffic

# Each path of creates and polls, with the status that a create has there.
_GENERATIONS: Mapping[str, HTTPStatus] = {
    "/v2/video/generations": HTTPStatus.OK,
    "/v2/generate/video/kling/generation": HTTPStatus.CREATED,
}


def build_app(endpoints: Endpoints, traffic: Traffic) -> Starlette:
    """Put the endpoints behind their paths."""
    routes = [
        *(
            Route(path, endpoints.generations, methods=["GET", "POST"])
            for path in _GENERATIONS
        ),
        Route("/files/{name}", endpoints.file, name="file"),
    ]
    app = Starlette(
        routes=routes,
        middleware=[Middleware(Front, traffic=traffic)],
        exception_handlers={Refusal: _refused, HTTPException: _not_routed},
    )
    app.router.redirect_slashes = False
    return app


@define(kw_only=True, eq=False)
class Endpoints:
    """What is behind the paths.

    Attributes:
        studio: The generations.
        shelf: Their videos.
        api_keys: The keys that are taken; None for any.
    """

    studio: Studio
    shelf: Shelf
    api_keys: Collection[str] | None

    async def generations(self, request: Request) -> Response:
        """Create a generation, or tell of one."""
        self._require_key(request)
        if request.method == "POST":
            return await self._create(request)
        return await self._poll(request)

    async def file(self, request: Request) -> Response:
        """Serve a finished video to anyone, as a content network does."""
        job = self.studio.find_file(request.path_params["name"])
        if job is None or job.status_at(anyio.current_time()) != Status.COMPLETED:
            raise HTTPException(HTTPStatus.NOT_FOUND)
        Exchange.of(request).note(generation_id=job.id)
        path = await self.shelf.video_of(job.scene)
        return FileResponse(path, media_type="video/mp4")

    def _require_key(self, request: Request) -> None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip()
        allowed = self.api_keys is None or key in self.api_keys
        if scheme.lower() == "bearer" and key and allowed:
            return
        wrong = "invalid" if key else "missing"
        raise Refusal(
            HTTPStatus.UNAUTHORIZED,
            f"Unauthorized: the API key is {wrong}",
            {"www-authenticate": "Bearer"},
        )

    async def _create(self, request: Request) -> Response:
        exchange = Exchange.of(request)
        body = await _object_in(request)
        model = body.get("model")
        exchange.note(model=model if isinstance(model, str) else None)
        if problems := _problems(model, body):
            raise Refusal.over(problems)
        scene = await self.shelf.finish(scene_of(body, self.shelf.size))
        now = anyio.current_time()
        job = self.studio.accept(
            str(model),
            scene,
            now=now,
            client_request_id=exchange.record.client_request_id,
        )
        exchange.note(generation_id=job.id)
        http_status = _GENERATIONS[request.url.path]
        return await self._tell(job, request, http_status, now=now)

    async def _poll(self, request: Request) -> Response:
        generation_id = request.query_params.get("generation_id", "")
        if not generation_id:
            problem = Problem("generation_id", "nothing", "a generation's id")
            raise Refusal.over([problem], part="Query")
        Exchange.of(request).note(generation_id=generation_id)
        job = self.studio.find(generation_id)
        if job is not None:
            now = anyio.current_time()
            self.studio.settle(now)
            return await self._tell(job, request, HTTPStatus.OK, now=now)
        traced = is_well_formed(generation_id)
        headers = {"x-inference-id": generation_id} if traced else {}
        raise Refusal(HTTPStatus.NOT_FOUND, "Generation is not found", headers)

    async def _tell(
        self, job: Job, request: Request, http_status: HTTPStatus, *, now: float
    ) -> Response:
        status, spent = job.status_at(now), job.credits_used_at(now)
        done = status == Status.COMPLETED
        error = job.plan.error if status == Status.ERROR else None
        usage = {"credits_used": spent, "usd_spent": usd(spent)}
        body = {
            "id": job.id,
            "status": status,
            "video": await self._video(job, request) if done else None,
            "error": {"name": error.name, "message": error.message} if error else None,
            "meta": {"usage": usage} if done or error else None,
        }
        headers = {
            "x-inference-id": job.id,
            "x-aimlapi-credits-used": str(spent),
            "x-aimlapi-usd-spent": f"{usd(spent):g}",
        }
        return JSONResponse(body, http_status, headers)

    async def _video(self, job: Job, request: Request) -> dict[str, object]:
        path = await self.shelf.video_of(job.scene)
        return {
            "url": str(request.url_for("file", name=job.file_name)),
            "content_type": "video/mp4",
            "file_name": "output.mp4",
            "file_size": path.stat().st_size,
        }


async def _object_in(request: Request) -> dict[str, object]:
    try:
        body: object = json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        problem = Problem("body", "something else", "JSON (RFC 8259)")
        raise Refusal.over([problem]) from error
    if not isinstance(body, dict):
        raise Refusal.over([Problem("body", shown(body), "a JSON object")])
    return cast("dict[str, object]", body)


def _problems(model: object, body: Mapping[str, object]) -> list[Problem]:
    if isinstance(model, str) and model in MODELS:
        return problems_in(model, body)
    given = shown(model) if "model" in body else "nothing"
    return [Problem("model", given, " | ".join(map(repr, MODELS)))]


def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101 (Starlette's handlers take any)
    return _error(request, error.status, error.message, error.headers)


def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (likewise)
    message = f"Cannot {request.method} {request.url.path}"
    return _error(request, error.status_code, message, error.headers or {})


def _error(
    request: Request, status: int, message: str, headers: Mapping[str, str]
) -> Response:
    body = error_body(
        status=status,
        message=message,
        path=request.url.path,
        request_id=Exchange.of(request).request_id,
    )
    return JSONResponse(body, status, dict(headers))

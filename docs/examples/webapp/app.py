"""A small web app on kling_async: ask for videos, see them come, play them.

    python docs/examples/webapp/app.py

Without a key (AIMLAPI_KEY) it runs on the emulator: no network, no bill. The server
keeps nothing: the browser knows the ids of its generations, and an id is enough.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import MutableHeaders, UploadFile
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kling_async import AsyncKling, InvalidRequestError, KlingError, Problem, models
from kling_async.emulator import Emulator
from kling_async.models import Field, Model
from kling_async.web import KlingState, describe, progress_events

STATIC = Path(__file__).with_name("static")
_FILES = {
    "image": "JPEG or PNG, up to 10 MB, at least 300 pixels a side",
    "audio": "MP3, WAV, M4A or AAC, up to 5 MB",
}
LARGEST_UPLOAD = 64 * 1024 * 1024  # bytes, all files of a form together
MOST_FILES = 8  # more than any model takes
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self' data:; media-src https: http://127.0.0.1:*; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
# On every answer: a file that somebody uploaded must never run as a page.
SAFETY = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
}


class Safely:
    """Adds the headers that tell a browser what to keep its hands off."""

    def __init__(self, inner: ASGIApp) -> None:
        """Wrap an app."""
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SAFETY)
            await send(message)

        await self.inner(scope, receive, send_safely)


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[KlingState]:
    """Open one client for the app; without a key, on an emulator of its own."""
    async with AsyncExitStack() as stack:
        if os.environ.get("AIMLAPI_KEY"):
            client = AsyncKling()
        else:
            emulator = await stack.enter_async_context(Emulator(speed=60))
            client = AsyncKling("any-key", base_url=emulator.base_url)
        yield {"kling": await stack.enter_async_context(client)}


# FastAPI's own pages of the API load scripts from elsewhere, which POLICY forbids.
app = FastAPI(lifespan=lifespan, title="Kling videos", docs_url=None, redoc_url=None)
# Another name that points here is not this site (DNS rebinding): list yours here.
app.add_middleware(TrustedHostMiddleware, allowed_hosts=["127.0.0.1", "localhost"])
app.add_middleware(Safely)
app.mount("/static", StaticFiles(directory=STATIC), name="static")


@app.get("/")
async def page() -> FileResponse:
    """Give the page."""
    return FileResponse(STATIC / "index.html")


@app.get("/models")
async def catalogue() -> list[dict[str, object]]:
    """Give what the form is built from: each model, and each field that it takes."""
    return [_described(model) for model in models.list()]


@app.post("/videos", status_code=HTTPStatus.CREATED)
async def create(request: Request) -> dict[str, object]:
    """Start a generation from the fields of the form."""
    params = await _params_in(request)
    kling: AsyncKling = request.state.kling
    return describe(await kling.create(**params))


@app.get("/videos/{generation_id:path}/events")
async def events(request: Request, generation_id: str) -> Response:
    """Tell what becomes of a generation; all tabs share one loop of polls."""
    return progress_events(request, generation_id)


@app.exception_handler(InvalidRequestError)
async def show_problems(_: Request, error: InvalidRequestError) -> JSONResponse:
    """Tell every problem at its field: nothing was sent, nothing is billed."""
    problems = [
        {"field": it.field.partition(".")[0].partition("[")[0], "text": _worded(it)}
        for it in error.problems
    ]
    return JSONResponse({"problems": problems}, HTTPStatus.UNPROCESSABLE_ENTITY)


@app.exception_handler(KlingError)
async def show_failure(_: Request, error: KlingError) -> JSONResponse:
    """Tell what went wrong between this app and the vendor."""
    told = {"error": type(error).__name__, "message": str(error)}
    return JSONResponse(told, HTTPStatus.BAD_GATEWAY)


async def _params_in(request: Request) -> dict[str, Any]:
    """Read the form: texts by the catalogue's types, files as bytes."""
    length = request.headers.get("content-length", "")
    if not length.isdecimal():
        raise HTTPException(HTTPStatus.LENGTH_REQUIRED, "Say how long the form is.")
    if int(length) > LARGEST_UPLOAD:
        limit = f"Too large: at most {LARGEST_UPLOAD:,} bytes in all."
        raise HTTPException(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, limit)
    async with request.form(max_files=MOST_FILES, max_fields=100) as form:
        model = models.get(str(form.get("model", "")))
        params: dict[str, Any] = {"model": model.id}
        for name in {*form} - {"model"}:
            given = [await _value(it) for it in form.getlist(name)]
            params[name] = _as_field(model.fields.get(name), [it for it in given if it])
    return {name: value for name, value in params.items() if value is not None}


async def _value(part: UploadFile | str) -> bytes | str:
    return part.strip() if isinstance(part, str) else await part.read()


def _as_field(field: Field | None, values: list[bytes | str]) -> object:
    if not values:
        return None
    is_list_of_media = field and field.items and field.items.type == "media"
    if is_list_of_media or (field and field.or_list and len(values) > 1):
        return values
    first = values[0]
    if field is None or isinstance(first, bytes):
        return first
    if field.type in ("array", "object", "boolean"):
        try:
            return json.loads(first)
        except ValueError:
            return first  # the library tells what is wrong with it
    return first


def _described(model: Model) -> dict[str, object]:
    fields = {
        name: _described_field(name, field, model)
        for name, field in model.fields.items()
        if not field.legacy
    }
    return {
        "id": model.id,
        "kind": model.kind,
        "fields": fields,
        "typical_seconds": model.typical_seconds(),
    }


def _described_field(name: str, field: Field, model: Model) -> Mapping[str, object]:
    inner = field.items if field.type == "array" and field.items else field
    return {
        "type": field.type,
        "choices": [it for it in field.choices if it not in field.aliases],
        "minimum": field.minimum,
        "maximum": field.maximum,
        "max_length": field.max_length,
        "default": field.default,
        "medium": inner.medium if inner.type == "media" else None,
        "several": field.type == "array" or field.or_list,
        "required": name in model.required,
        "allowed": _FILES.get(inner.medium or "", field.allowed),
    }


def _worded(problem: Problem) -> str:
    """Say to a person who fills in a form what a programmer is told of a call."""
    if problem.given == "nothing":
        return "This is needed."
    told = f"{problem.given} does not do: give {problem.allowed}."
    return f"{told} {problem.hint}" if problem.hint else told


def main() -> None:
    """Serve on this machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    port = parser.parse_args().port
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning")
    print(f"Open http://127.0.0.1:{port}", flush=True)
    asyncio.run(uvicorn.Server(config).serve())


if __name__ == "__main__":
    main()

"""A small web app on kling_async: ask for videos, see them come, play them.

    python docs/examples/webapp/app.py

Without a key (AIMLAPI_KEY) it runs on the emulator: no network, no bill. The server
keeps nothing. Each browser draws an id for its request and stores it before it sends:
whatever happens to the answer, that id finds the paid video again.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import json
import os
import re
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path as File
from typing import Annotated, Any

import uvicorn
from fastapi import FastAPI, Header, HTTPException, Path, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers, MutableHeaders, UploadFile
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kling_async import (
    APIStatusError,
    AsyncKling,
    Generation,
    InvalidRequestError,
    KlingError,
    Problem,
    TransportError,
    models,
)
from kling_async.emulator import Emulator
from kling_async.models import Field, Model
from kling_async.web import KlingState, describe, progress_events, public_message

STATIC = File(__file__).with_name("static")
FILES = {
    "image": "a JPEG or PNG picture, up to 10 MB, at least 300 pixels a side",
    "audio": "an MP3, WAV, M4A or AAC file, up to 5 MB",
    "video": "the web address of a video",
}
LARGEST_UPLOAD = 64 * 1024 * 1024  # bytes, all files of a form together
MOST_FILES = 8  # more than any model takes
LOG_DELAY = 60.0  # seconds after which the vendor's log surely lists a request
LONGEST_LOOK = 20.0  # seconds: a proxy may cut an answer that takes longer
OLDEST = 91 * 24 * 3600.0  # seconds: how far the vendor's log goes back
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

RequestId = Annotated[str, Header(pattern=r"^[A-Za-z0-9._:-]{8,128}$")]


class AppState(KlingState):
    """What lasts as long as the app.

    Attributes:
        creating: The creates that this process has not finished, by the browser's id.
        log_delay: When the vendor's log is taken at its word, in seconds.
    """

    creating: dict[str, asyncio.Task[Generation]]
    log_delay: float


class Safely:
    """Refuses what other sites ask for, and tells browsers what not to do."""

    def __init__(self, inner: ASGIApp) -> None:
        """Wrap an app."""
        self.inner = inner

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on."""

        async def send_safely(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(SAFETY)
            await send(message)

        is_foreign = scope["type"] == "http" and is_from_elsewhere(scope)
        refusal = Response("Only this site's own pages may ask.", HTTPStatus.FORBIDDEN)
        await (refusal if is_foreign else self.inner)(scope, receive, send_safely)


def is_from_elsewhere(scope: Scope) -> bool:
    """Whether a browser asks for another site's page; to follow a link is fine."""
    headers = Headers(scope=scope)
    site = headers.get("sec-fetch-site", "same-origin")
    is_link = scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate"
    origin = headers.get("origin")
    is_foreign = origin is not None and origin.partition("://")[2] != headers.get(
        "host"
    )
    return is_foreign or (site not in {"same-origin", "none"} and not is_link)


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncGenerator[AppState]:
    """Open one client for the app; without a key, on an emulator of its own."""
    async with AsyncExitStack() as stack:
        if os.environ.get("AIMLAPI_KEY"):
            client = AsyncKling()
        else:
            emulator = await stack.enter_async_context(Emulator(speed=60))
            client = AsyncKling("any-key", base_url=emulator.base_url)
        kling = await stack.enter_async_context(client)
        log_delay = getattr(app.state, "log_delay", LOG_DELAY)
        yield {"kling": kling, "creating": {}, "log_delay": log_delay}


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


@app.get("/price")
async def price(request: Request) -> dict[str, float | None]:
    """Say what the request would cost, and what the account holds, in USD."""
    model = models.get(request.query_params.get("model", ""))
    asked: dict[str, object] = {"model": model.id}
    for name, value in request.query_params.items():
        if name in model.fields:
            asked[name] = _as_field(model.fields[name], [value])
    kling: AsyncKling = request.state.kling
    quoted, balance = await asyncio.gather(kling.price(asked), kling.balance())
    return {"usd": quoted.usd, "balance": balance.usd}


@app.post("/videos", status_code=HTTPStatus.CREATED)
async def create(request: Request, x_client_request_id: RequestId) -> Generation:
    """Start a generation from the fields of the form, under the browser's id.

    Asked twice at once, as by two tabs, it starts one.
    """
    params = await _params_in(request)
    creating: dict[str, asyncio.Task[Generation]] = request.state.creating
    if x_client_request_id not in creating:
        kling: AsyncKling = request.state.kling
        asked = params | {"client_request_id": x_client_request_id}
        task = asyncio.create_task(kling.create(**asked))
        creating[x_client_request_id] = task
        task.add_done_callback(lambda _: creating.pop(x_client_request_id))
    return await asyncio.shield(creating[x_client_request_id])


@app.get("/requests/{client_request_id}")
async def find(
    request: Request,
    client_request_id: Annotated[str, Path(pattern=r"^[A-Za-z0-9._:-]{8,128}$")],
    age: Annotated[float, Query(ge=0, le=OLDEST)],
) -> Response:
    """Say what became of a request whose answer the browser did not get.

    Args:
        request: The browser's question.
        client_request_id: The id that it sent its request with.
        age: How long ago that was, in seconds.
    """
    log_delay: float = request.state.log_delay
    try:
        found = await _look_up(request, client_request_id, age)
    except KlingError:
        found, age = None, 0.0  # the log could not be read: it says nothing
    if found is not None:
        return JSONResponse(describe(found))
    if age < log_delay:  # its row may come yet
        return _problem("It is not known yet whether it arrived.", "unknown")
    return _problem("It did not arrive. Nothing was charged.", "unsent")


async def _look_up(request: Request, request_id: str, age: float) -> Generation | None:
    """Wait for a create that is under way here, or ask the vendor's log."""
    creating: dict[str, asyncio.Task[Generation]] = request.state.creating
    if request_id in creating:
        return await asyncio.shield(creating[request_id])
    kling: AsyncKling = request.state.kling
    since = dt.timedelta(seconds=age + 1)
    timeout = min(request.state.log_delay, LONGEST_LOOK)
    return await kling.reconcile(request_id, since=since, timeout=timeout)


@app.get("/videos/{generation_id:path}/events")
async def events(request: Request, generation_id: str) -> Response:
    """Tell what becomes of a generation; all tabs share one loop of polls."""
    return progress_events(request, generation_id)


@app.exception_handler(InvalidRequestError)
async def show_problems(_: Request, error: InvalidRequestError) -> JSONResponse:
    """Tell every problem at its field: nothing was sent, nothing is billed."""
    model = models.get(error.model or "")
    problems = [
        {"field": _top(it), "text": _worded(it, model.fields)} for it in error.problems
    ]
    told = {"outcome": "refused", "message": "", "problems": problems}
    return JSONResponse(told, HTTPStatus.UNPROCESSABLE_ENTITY)


@app.exception_handler(KlingError)
async def show_failure(_: Request, error: KlingError) -> JSONResponse:
    """Tell what went wrong, and whether it may have been charged all the same."""
    is_refused = isinstance(error, APIStatusError | TransportError)
    return _problem(public_message(error), "refused" if is_refused else "unknown")


def _problem(message: str, outcome: str) -> JSONResponse:
    """Answer without a generation.

    Args:
        message: What a person reads.
        outcome: ``refused`` and ``unsent``: nothing was or will be charged; the
            latter may be sent again. ``unknown``: ask again before anything else.
    """
    told = {"outcome": outcome, "message": message}
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
    if field.type not in {"string", "media"}:
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
        "allowed": _allowed(field),
    }


def _allowed(field: Field) -> str:
    """Say what fits into a field to a person who fills in a form."""
    inner = field.items or field
    if inner.type == "media":
        return FILES[inner.medium or "image"]
    if field.choices:
        return "one of " + ", ".join(str(it) for it in field.choices)
    if field.type == "number":
        return f"a number from {field.minimum:g} to {field.maximum:g}"
    if field.type == "string":
        most = field.max_length
        return f"up to {most:,} characters" if most else "some words"
    return {"boolean": "yes or no", "integer": "a whole number"}.get(field.type, "JSON")


def _top(problem: Problem) -> str:
    return re.split(r"[.\[]", problem.field)[0]


def _worded(problem: Problem, fields: Mapping[str, Field]) -> str:
    """Say what is wrong without the words that are for programmers."""
    if problem.given == "nothing":
        return "This is needed."
    field = fields.get(_top(problem))
    if field is not None and problem.allowed == field.allowed:
        return f"This does not fit. Needed: {_allowed(field)}."
    names = "|".join(fields)
    allowed = re.sub(rf"\b({names})\b", lambda it: _label(it[0]), problem.allowed)
    return f"This does not fit. Needed: {allowed}."


def _label(name: str) -> str:
    """Name a field as the form does."""
    words = re.sub(r"_url(s?)$", r"\1", name).replace("_", " ")
    return f"“{words.capitalize()}”"


class Server(uvicorn.Server):
    """A server that says where it is once it serves."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to serve."""
        await super().startup(sockets)
        if self.started:
            print(f"Open http://127.0.0.1:{self.config.port}", flush=True)


def main() -> None:
    """Serve on this machine."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--log-delay", type=float, default=LOG_DELAY)
    options = parser.parse_args()
    app.state.log_delay = options.log_delay
    config = uvicorn.Config(
        app, host="127.0.0.1", port=options.port, log_level="warning"
    )
    asyncio.run(Server(config).serve())


if __name__ == "__main__":
    main()

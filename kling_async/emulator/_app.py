"""The ASGI app: its routes, the page at `/`, the emulator's own endpoints."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from importlib.resources import files

import anyio
from attrs import asdict, define
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from kling_async._billing.money import usd_of
from kling_async._checks import is_loopback
from kling_async._errors import ConfigurationError
from kling_async._generation import Status
from kling_async._requests.catalogue import Catalogue, catalogue_in_use
from kling_async.emulator._account import AccountPages
from kling_async.emulator._faults import ActiveFault, Faults, faults_in
from kling_async.emulator._generations import Generations
from kling_async.emulator._models import ModelPages
from kling_async.emulator._protocol import (
    ADMIN,
    BALANCE,
    BALANCE_DETAIL,
    FILES,
    GENERATIONS,
    KEY,
    KEYS,
    LOGS,
    METRICS,
    MODEL,
    MODELS,
    OLD_BALANCE,
    TRANSACTIONS,
    USAGE,
    USAGE_DETAIL,
    Auth,
    Clock,
    Endpoint,
    Refusal,
    error_body,
    is_from_elsewhere,
    timestamp,
)
from kling_async.emulator._store import GenerationStore, StoredGeneration
from kling_async.emulator._traffic import (
    FastPolls,
    ServedExchange,
    TraceMiddleware,
    Traffic,
)


def admin_routes(
    faults: Faults, traffic: Traffic, account: AccountPages
) -> Sequence[Route]:
    """Return the routes below ``/_emulator/``."""
    pages = AdminPages(faults, traffic, account)
    table: Sequence[tuple[str, str, Endpoint]] = (
        ("GET", "faults", pages.list_faults),
        ("POST", "faults", pages.add_faults),
        ("DELETE", "faults", pages.clear_faults),
        ("DELETE", "faults/{id:int}", pages.remove_fault),
        ("GET", "requests", pages.requests),
        ("GET", "creates", pages.creates),
        ("GET", "charges", pages.charges),
        ("POST", "credits", pages.top_up),
    )
    return [
        Route(ADMIN + path, _require_local(endpoint), methods=[method])
        for method, path, endpoint in table
    ]


@define(eq=False)
class AdminPages:
    """The endpoints by which a test in another process controls the emulator."""

    faults: Faults
    traffic: Traffic
    account: AccountPages

    async def list_faults(self, _: Request) -> Response:
        """Answer with the active faults."""
        return JSONResponse({"faults": [_rule_item(rule) for rule in self.faults]})

    async def add_faults(self, request: Request) -> Response:
        """Add one fault or a list of them."""
        try:
            faults = faults_in((await request.body()).decode("utf-8", "replace"))
        except ConfigurationError as error:
            return JSONResponse({"message": str(error)}, HTTPStatus.BAD_REQUEST)
        added = [_rule_item(self.faults.add(fault)) for fault in faults]
        return JSONResponse({"faults": added}, HTTPStatus.CREATED)

    async def clear_faults(self, _: Request) -> Response:
        """Remove all faults."""
        self.faults.clear()
        return Response(None, HTTPStatus.NO_CONTENT)

    async def remove_fault(self, request: Request) -> Response:
        """Remove one fault."""
        number: int = request.path_params["id"]
        try:
            self.faults.remove(number)
        except KeyError:
            message = {"message": f"there is no fault {number}"}
            return JSONResponse(message, HTTPStatus.NOT_FOUND)
        return Response(None, HTTPStatus.NO_CONTENT)

    async def requests(self, _: Request) -> Response:
        """Answer with every request so far."""
        return JSONResponse({"requests": list(map(asdict, self.traffic.records))})

    async def creates(self, _: Request) -> Response:
        """Answer with every accepted create."""
        creates = self.account.store.creates
        return JSONResponse({"creates": list(map(asdict, creates))})

    async def top_up(self, request: Request) -> Response:
        """Add credits to the account: ``{"credits": 2000000}``."""
        try:
            given = json.loads(await request.body())["credits"]
            self.account.top_up(given)
        except (ValueError, TypeError, KeyError, RecursionError):
            message = {"message": 'send {"credits": N} with a number above 0'}
            return JSONResponse(message, HTTPStatus.BAD_REQUEST)
        return JSONResponse({"balance": self.account.store.account.balance})

    async def charges(self, _: Request) -> Response:
        """Answer with every generation that was charged."""
        store = self.account.store
        store.settle(self.account.clock.now())
        return JSONResponse({"charges": list(map(asdict, store.charges))})


def _rule_item(rule: ActiveFault) -> dict[str, object]:
    counts = {"id": rule.id, "seen": rule.seen, "struck": rule.struck}
    return counts | rule.fault.to_json()


def _require_local(endpoint: Endpoint) -> Endpoint:
    async def check_first(request: Request) -> Response:
        host = request.client.host if request.client else ""
        if not is_loopback(host) or is_from_elsewhere(request):
            words = "only programs on the emulator's own machine may use this"
            return JSONResponse({"message": words}, HTTPStatus.FORBIDDEN)
        return await endpoint(request)

    return check_first


_FOLDER = files("kling_async.emulator") / "page"

# Read like a module, so also from a zip file; Windows' table of media types may be
# wrong.
_PAGE = {
    path: ((_FOLDER / name).read_bytes(), media_type)
    for path, name, media_type in (
        ("/", "index.html", "text/html"),
        ("/_emulator/page.css", "page.css", "text/css"),
        ("/_emulator/page.js", "page.js", "text/javascript"),
    )
}

_EVENTS = "/_emulator/events"

_EVERY = 0.5  # seconds between two checks for changes

_SHOWN = 200  # the newest generations

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; media-src 'self'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
}


@define(kw_only=True, eq=False)
class StatusPage:
    """The page and its stream of events.

    Attributes:
        store: The generations.
        clock: The clock.
    """

    store: GenerationStore
    clock: Clock

    @property
    def routes(self) -> list[Route]:
        """The routes of the page and its files."""
        parts = [Route(path, _serve(*part)) for path, part in _PAGE.items()]
        return [*parts, Route(_EVENTS, self.events)]

    async def events(self, _: Request) -> Response:
        """Stream everything once, then the changes."""
        return StreamingResponse(
            self._changes(),
            media_type="text/event-stream",
            headers=_HEADERS,
        )

    async def _changes(self) -> AsyncGenerator[str, None]:
        shown: dict[str, object] = {}
        while True:
            now = self.clock.now()
            self.store.settle(now)
            shown, before = self._state(now), shown
            news = {k: v for k, v in shown.items() if before.get(k) != v}
            # A comment keeps the connection open, and fails once the browser has left.
            yield f"data: {json.dumps(news)}\n\n" if news else ": nothing new\n\n"
            await anyio.sleep(_EVERY)

    def _state(self, now: float) -> dict[str, object]:
        """Return what the page shows, with a key for each part that changes."""
        jobs = self.store.jobs
        shown = {job.id: _card(job, now) for job in jobs[-_SHOWN:]}
        balance = usd_of(self.store.account.balance)
        return {"": {"balance_usd": balance, "count": len(jobs)}, **shown}


def _serve(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def serve(_: Request) -> Response:
        return Response(content, headers=_HEADERS, media_type=media_type)

    return serve


def _card(job: StoredGeneration, now: float) -> dict[str, object]:
    status = job.status_at(now)
    ended = status in (Status.COMPLETED, Status.ERROR)
    error = job.plan.error if status == Status.ERROR else None
    known = catalogue_in_use()[job.record.model]
    return {
        "model": job.record.model,
        "status": status,
        "created": timestamp(job.created_at),
        "seconds": round(job.ends_at - job.created_at, 1) if ended else None,
        "video": f"/files/{job.file_name}" if status == Status.COMPLETED else None,
        "aspect": list(job.scene.aspect),
        "error": str(error) if error else None,
        "usd": usd_of(job.credits_used_at(now)),
        "client_request_id": job.record.client_request_id,
        "request": job.request,
        "ignored": [it for it in job.request if it not in {"model", *known.fields}],
    }


_VERBS = {path: ["GET", "POST"] for path in GENERATIONS}

_TRACING = (
    "x-inference-id",
    "x-client-request-id",
    "x-aimlapi-credits-used",
    "x-aimlapi-usd-spent",
)


class Browsers:
    """The ASGI middleware that lets pages of any site use the API, as the vendor does.

    The emulator's own page and its ``/_emulator/`` endpoints are excluded.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.shared = CORSMiddleware(
            app,
            allow_origins=["*"],
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=_TRACING,
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a preflight, or pass a request on."""
        path: str = scope.get("path", "/")
        is_own = path == "/" or path.startswith(ADMIN)
        await (self.app if is_own else self.shared)(scope, receive, send)


def build_app(
    *,
    traffic: Traffic,
    faults: Faults,
    auth: Auth,
    generations: Generations,
    account: AccountPages,
    models: ModelPages,
    page: StatusPage,
    has_log: bool,
    catalogue: Catalogue,
) -> Starlette:
    """Build the app from its endpoints.

    Args:
        traffic: Where every request is recorded.
        faults: The faults.
        auth: Which keys are valid, and how often each may be used.
        generations: Creates, polls and files.
        account: Balance, ledger and request log.
        models: Catalogue and metrics.
        page: The status page.
        has_log: Whether there is a request log.
        catalogue: The known models.
    """
    keyed: dict[str, Endpoint] = {
        **dict.fromkeys(GENERATIONS, generations.generations),
        BALANCE: account.balance,
        TRANSACTIONS: account.transactions,
        BALANCE_DETAIL: account.balance_detail,
        OLD_BALANCE: account.old_balance,
        USAGE: account.usage,
        USAGE_DETAIL: account.usage,
        KEY: account.key,
        KEYS: account.key,
    }
    if has_log:
        keyed[LOGS] = account.logs
    polls = FastPolls(generations.store, generations.clock, auth)
    app = Starlette(
        routes=[
            *(
                Route(path, auth.require(it), methods=_VERBS.get(path))
                for path, it in keyed.items()
            ),
            *(Route(path, models.catalogue) for path in MODELS),
            Route(MODEL + "{id:path}", models.one),
            Route(METRICS, models.metrics),
            Route(FILES + "{name}", generations.file, name="file"),
            *admin_routes(faults, traffic, account),
            *page.routes,
        ],
        middleware=[
            Middleware(Browsers),
            Middleware(
                TraceMiddleware,
                traffic,
                faults,
                polls,
                generations.note_failure,
                generations.clock,
                catalogue,
            ),
        ],
        exception_handlers={Refusal: _answer_refusal, HTTPException: _not_routed},
    )
    app.router.redirect_slashes = False
    return app


# Both are coroutines: Starlette runs plain functions in a worker thread.
async def _answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101 (Starlette's handlers take any)
    return _error(request, error.status, error.message, error.headers)


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (likewise)
    message = f"Cannot {request.method} {request.url.path}"
    if request.url.path.startswith(ADMIN):  # not the vendor's API: not recorded
        return JSONResponse({"message": message}, error.status_code, error.headers)
    return _error(request, error.status_code, message, error.headers or {})


def _error(
    request: Request, status: int, message: str, headers: Mapping[str, str]
) -> Response:
    body = error_body(
        status=status,
        message=message,
        path=request.url.path,
        request_id=ServedExchange.of(request).request_id,
    )
    return JSONResponse(body, status, dict(headers))

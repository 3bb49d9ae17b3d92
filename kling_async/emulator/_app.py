"""The wire contract as an ASGI app: which path leads where, who may come in.

Routes, keys and the form of errors; what is behind a path is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kling_async.emulator._account import AccountPages
from kling_async.emulator._admin import admin_routes
from kling_async.emulator._door import Door, Endpoint
from kling_async.emulator._faults import Faults
from kling_async.emulator._generations import Generations
from kling_async.emulator._models import ModelPages
from kling_async.emulator._page import Page
from kling_async.emulator._places import (
    ADMIN,
    BALANCE,
    FILES,
    GENERATIONS,
    LOGS,
    METRICS,
    MODELS,
    TRANSACTIONS,
)
from kling_async.emulator._polls import Polls
from kling_async.emulator._refusals import Refusal, error_body
from kling_async.emulator._traffic import Exchange, Front, Traffic

_VERBS = {path: ["GET", "POST"] for path in GENERATIONS}


def build_app(
    *,
    traffic: Traffic,
    faults: Faults,
    door: Door,
    generations: Generations,
    account: AccountPages,
    models: ModelPages,
    page: Page,
    has_log: bool,
) -> Starlette:
    """Put the endpoints behind their paths.

    Args:
        traffic: Where every request is recorded.
        faults: What goes wrong.
        door: Who may come in, and how often.
        generations: Creates, polls and files.
        account: Balance, ledger and request log.
        models: Catalogue and metrics.
        page: The page to look at.
        has_log: Whether there is a request log.
    """
    keyed: dict[str, Endpoint] = {
        **dict.fromkeys(GENERATIONS, generations.generations),
        BALANCE: account.balance,
        TRANSACTIONS: account.transactions,
    }
    if has_log:
        keyed[LOGS] = account.logs
    polls = Polls(generations.studio, generations.clock, door)
    app = Starlette(
        routes=[
            *(
                Route(path, door.before(it), methods=_VERBS.get(path))
                for path, it in keyed.items()
            ),
            Route(MODELS, models.catalogue),
            Route(METRICS, models.metrics),
            Route(FILES + "{name}", generations.file, name="file"),
            *admin_routes(faults, traffic, account),
            *page.routes,
        ],
        middleware=[
            Middleware(Front, traffic, faults, polls, generations.note_failure)
        ],
        exception_handlers={Refusal: _refused, HTTPException: _not_routed},
    )
    app.router.redirect_slashes = False
    return app


# Coroutines, both: Starlette would do a plain function in a worker thread.
async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)  # noqa: S101 (Starlette's handlers take any)
    return _error(request, error.status, error.message, error.headers)


async def _not_routed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 (likewise)
    message = f"Cannot {request.method} {request.url.path}"
    if request.url.path.startswith(ADMIN):  # no part of the wire: nothing is recorded
        return JSONResponse({"message": message}, error.status_code, error.headers)
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

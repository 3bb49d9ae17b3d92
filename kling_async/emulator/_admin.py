"""The emulator's own paths: faults to set, and what happened, from any language.

Answered to this machine only; no path of the vendor's is here.
"""

from __future__ import annotations

from collections.abc import Sequence
from http import HTTPStatus
from urllib.parse import urlsplit

from attrs import asdict, define
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kling_async._errors import ConfigurationError
from kling_async.emulator._account import AccountPages
from kling_async.emulator._door import Endpoint
from kling_async.emulator._faults import ActiveFault, Faults, faults_in
from kling_async.emulator._here import is_loopback
from kling_async.emulator._places import ADMIN
from kling_async.emulator._traffic import Traffic


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
    )
    return [
        Route(ADMIN + path, _for_this_machine(endpoint), methods=[method])
        for method, path, endpoint in table
    ]


@define(eq=False)
class AdminPages:
    """The endpoints that a test in another process drives the emulator by."""

    faults: Faults
    traffic: Traffic
    account: AccountPages

    async def list_faults(self, _: Request) -> Response:
        """Tell the rules at work."""
        return JSONResponse({"faults": [_shown(rule) for rule in self.faults]})

    async def add_faults(self, request: Request) -> Response:
        """Put one rule or a list of them to work."""
        try:
            faults = faults_in((await request.body()).decode("utf-8", "replace"))
        except ConfigurationError as error:
            return JSONResponse({"message": str(error)}, HTTPStatus.BAD_REQUEST)
        added = [_shown(self.faults.add(fault)) for fault in faults]
        return JSONResponse({"faults": added}, HTTPStatus.CREATED)

    async def clear_faults(self, _: Request) -> Response:
        """Take all rules out."""
        self.faults.clear()
        return Response(None, HTTPStatus.NO_CONTENT)

    async def remove_fault(self, request: Request) -> Response:
        """Take one rule out."""
        number: int = request.path_params["id"]
        try:
            self.faults.remove(number)
        except KeyError:
            message = {"message": f"there is no fault {number}"}
            return JSONResponse(message, HTTPStatus.NOT_FOUND)
        return Response(None, HTTPStatus.NO_CONTENT)

    async def requests(self, _: Request) -> Response:
        """Tell every request that was dealt with."""
        return JSONResponse({"requests": list(map(asdict, self.traffic.records))})

    async def creates(self, _: Request) -> Response:
        """Tell every create that was accepted."""
        creates = self.account.studio.creates
        return JSONResponse({"creates": list(map(asdict, creates))})

    async def charges(self, _: Request) -> Response:
        """Tell every generation that was paid for."""
        studio = self.account.studio
        studio.settle(self.account.clock.now())
        return JSONResponse({"charges": list(map(asdict, studio.charges))})


def _shown(rule: ActiveFault) -> dict[str, object]:
    counts = {"id": rule.id, "seen": rule.seen, "struck": rule.struck}
    return counts | rule.fault.to_json()


def _for_this_machine(endpoint: Endpoint) -> Endpoint:
    async def checked(request: Request) -> Response:
        host = request.client.host if request.client else ""
        if not is_loopback(host) or _is_from_elsewhere(request):
            words = "only programs on the emulator's own machine may ask for this"
            return JSONResponse({"message": words}, HTTPStatus.FORBIDDEN)
        return await endpoint(request)

    return checked


def _is_from_elsewhere(request: Request) -> bool:
    """Whether a browser asks on behalf of somebody else's page."""
    origin = request.headers.get("origin")
    return origin is not None and urlsplit(origin).netloc != request.url.netloc

"""What every request has in common: a trace, a record, and an answer come what may.

Wraps the endpoints and knows none of them.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable, Mapping
from http import HTTPStatus

import httpx
from anyio import CancelScope
from attrs import define, evolve, field, frozen
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kling_async.emulator._effects import Call, carry_out
from kling_async.emulator._faults import Fault, Faults
from kling_async.emulator._naming import new_uuid
from kling_async.emulator._places import ADMIN
from kling_async.emulator._polls import Polls
from kling_async.emulator._refusals import error_body

CLIENT_REQUEST_ID = b"x-client-request-id"
_logger = logging.getLogger("kling_async.emulator")
_KEPT_BY_THE_VENDOR = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_IN_SCOPE = "kling_async.exchange"
# An emulator that runs for days is not to fill the memory with what was asked.
_KEPT_RECORDS = 200_000


@frozen(kw_only=True)
class RequestRecord:
    """One request, as it was dealt with.

    Attributes:
        method: Its verb.
        path: Its path, without the query.
        status: The HTTP status of the answer; 0 if none was sent, as when the
            connection was dropped or the client was gone.
        model: The model that a create named.
        generation_id: The generation that it started or asked for.
        client_request_id: Its ``X-Client-Request-Id``, if the vendor would keep it.
        fault: The name or the effect of the fault that struck it, if one did.
    """

    method: str
    path: str
    status: int
    model: str | None = None
    generation_id: str | None = None
    client_request_id: str | None = None
    fault: str | None = None


@define(kw_only=True)
class Exchange:
    """One request under way: who asks, and what the endpoint found out about it.

    Attributes:
        record: What will be recorded; the endpoint adds to it.
        authorization: The header by which it shows its key.
        body: What was sent along.
    """

    record: RequestRecord
    authorization: str
    _chance: random.Random = field(alias="chance")
    body: bytes = b""
    _request_id: str | None = field(default=None, init=False)

    @property
    def request_id(self) -> str:
        """The server's id of it, told in an error's body and in the log."""
        if self._request_id is None:
            self._request_id = new_uuid(self._chance)
        return self._request_id

    @staticmethod
    def of(connection: HTTPConnection) -> Exchange:
        """Return the exchange that a request belongs to."""
        exchange: Exchange = connection.scope[_IN_SCOPE]
        return exchange

    def note(
        self, *, model: str | None = None, generation_id: str | None = None
    ) -> None:
        """Add what the endpoint has learned."""
        self.record = evolve(
            self.record,
            model=model or self.record.model,
            generation_id=generation_id or self.record.generation_id,
        )


@define(eq=False)
class Traffic:
    """All requests of one emulator: those dealt with, and those under way."""

    chance: random.Random
    records: list[RequestRecord] = field(factory=list[RequestRecord], init=False)
    _open: set[CancelScope] = field(factory=set[CancelScope], init=False)

    def keep(self, record: RequestRecord) -> None:
        """Keep a record; of a great many, the last ones."""
        self.records.append(record)
        if len(self.records) >= 2 * _KEPT_RECORDS:
            del self.records[:_KEPT_RECORDS]

    def hang_up(self) -> None:
        """Give up every request that is under way."""
        for scope in list(self._open):
            scope.cancel()

    def begin(self, scope: Scope) -> Exchange:
        """Open the exchange of a request."""
        headers = dict(scope["headers"])
        asked = headers.get(CLIENT_REQUEST_ID, b"").decode("latin-1")
        record = RequestRecord(
            method=scope["method"],
            path=scope["path"],
            status=0,
            client_request_id=asked if _KEPT_BY_THE_VENDOR.fullmatch(asked) else None,
        )
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        exchange = Exchange(
            record=record, authorization=authorization, chance=self.chance
        )
        scope[_IN_SCOPE] = exchange
        return exchange

    async def watch(
        self, inner: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Pass one request on until it is answered or given up."""
        with CancelScope() as under_way:
            self._open.add(under_way)
            try:
                await inner(scope, receive, send)
            finally:
                self._open.discard(under_way)


@define(eq=False)
class Front:
    """The ASGI middleware in front of every endpoint.

    Attributes:
        app: What is behind it.
        traffic: Where requests are recorded.
        faults: What goes wrong.
        polls: The quick way of plain polls.
        on_refused: Told of a request that a fault has refused.
    """

    app: ASGIApp
    traffic: Traffic
    faults: Faults
    polls: Polls
    on_refused: Callable[[Exchange], None]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"].startswith(ADMIN):
            await self.app(scope, receive, send)
            return
        exchange = self.traffic.begin(scope)

        async def send_traced(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._close(exchange, message)
            await send(message)

        plain = None
        if not len(self.faults):
            plain = self.polls.answer(scope, exchange.authorization)
        if plain is None:
            await self._see_through(exchange, scope, receive, send_traced)
        else:
            job, answer = plain
            exchange.note(generation_id=job.id)
            await answer(scope, receive, send_traced)

    async def _see_through(
        self, exchange: Exchange, scope: Scope, receive: Receive, send: Send
    ) -> None:
        try:
            await self.traffic.watch(self._answer, scope, receive, send)
        except ClientDisconnect:
            return
        except httpx.TransportError:
            raise
        except Exception:
            _logger.exception("the emulator failed at %s", scope["path"])
            if exchange.record.status:
                raise
            await internal_error(exchange)(scope, receive, send)
        finally:
            if not exchange.record.status:
                self.traffic.keep(exchange.record)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange: Exchange = scope[_IN_SCOPE]
        if scope["method"] == "POST":
            exchange.body = await _body_from(receive)
        fault = self._fault_for(exchange) if len(self.faults) else None
        if fault is None:
            await self.app(scope, receive, send)
            return
        exchange.record = evolve(exchange.record, fault=fault.name or fault.effect)
        if fault.refuses:
            self.on_refused(exchange)

        def error_body_of(status: int, message: str) -> Mapping[str, object]:
            return error_body(
                status=status,
                message=message,
                path=exchange.record.path,
                request_id=exchange.request_id,
            )

        await carry_out(fault, Call(self.app, scope, receive, send), error_body_of)

    def _fault_for(self, exchange: Exchange) -> Fault | None:
        record = exchange.record
        exchange.note(model=_model_in(exchange.body))
        return self.faults.strike(record.method, record.path, exchange.record.model)

    def _close(self, exchange: Exchange, message: Message) -> None:
        record = evolve(exchange.record, status=int(message["status"]))
        exchange.record = record
        self.traffic.keep(record)
        if record.client_request_id:
            echo = (CLIENT_REQUEST_ID, record.client_request_id.encode())
            message["headers"] = [*message["headers"], echo]


async def _body_from(receive: Receive) -> bytes:
    parts: list[bytes] = []
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        more = message.get("more_body", False)
    return b"".join(parts)


def _model_in(body: bytes) -> str | None:
    try:
        data: object = json.loads(body)
    except (ValueError, RecursionError):
        return None
    model: object = data.get("model") if isinstance(data, dict) else None
    return model if isinstance(model, str) else None


def internal_error(exchange: Exchange) -> JSONResponse:
    """Answer as the vendor does when it has failed itself."""
    body = error_body(
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        message="Internal server error",
        path=exchange.record.path,
        request_id=exchange.request_id,
    )
    return JSONResponse(body, HTTPStatus.INTERNAL_SERVER_ERROR)

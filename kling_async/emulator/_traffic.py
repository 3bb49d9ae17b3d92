"""The path of every request: it is traced, recorded, and struck by faults.

Wraps the endpoints and knows none of them, except for a fast path for polls of
unfinished generations, by far the most common request.
"""

from __future__ import annotations

import email.utils
import json
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from http import HTTPStatus
from urllib.parse import unquote_plus

import anyio
import httpx
from anyio import CancelScope
from attrs import define, evolve, field, frozen
from starlette.requests import ClientDisconnect, HTTPConnection
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kling_async._checks import is_client_request_id
from kling_async._generation import Status
from kling_async._requests.catalogue import Catalogue, use_catalogue
from kling_async.emulator._faults import (
    SPOILERS,
    ErrorBody,
    Fault,
    Faults,
    RawAnswer,
    apply_to_answer,
)
from kling_async.emulator._protocol import (
    ADMIN,
    GENERATIONS,
    Auth,
    Clock,
    Refusal,
    error_body,
)
from kling_async.emulator._store import (
    GenerationStore,
    StoredGeneration,
    generation_response,
    new_uuid,
)

DROP = "kling_async.drop"  # the server's extension that drops a connection

_SLOW = frozenset({"stall", "trickle"})  # these wait within the body

_PIECE = b" " * 2**16


@frozen
class ForwardedRequest:
    """One request on its way to the endpoint."""

    inner: ASGIApp
    scope: Scope
    receive: Receive
    send: Send

    async def answer(self) -> RawAnswer:
        """Call the endpoint, and return its answer without sending it."""
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self.inner(self.scope, self.receive, keep)
        start, *parts = messages
        body = b"".join(part.get("body", b"") for part in parts)
        return RawAnswer(start["status"], list(start["headers"]), body)

    async def begin(self, answer: RawAnswer, body: bytes) -> None:
        """Send the head and the first part of the body."""
        head = {"status": answer.status, "headers": answer.headers}
        await self.send({"type": "http.response.start", **head})
        await self.go_on(body)

    async def go_on(self, body: bytes) -> None:
        """Send a further part of the body."""
        await self.send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes) -> None:
        """Send the last part of the body."""
        await self.send({"type": "http.response.body", "body": body})

    async def give(self, answer: RawAnswer) -> None:
        """Send a complete answer."""
        await self.begin(answer, answer.body)
        await self.end(b"")

    async def pause(self, seconds: float) -> None:
        """Wait while the client is connected.

        Raises:
            ClientDisconnect: It has disconnected.
        """
        await self.unless_left(lambda: anyio.sleep(seconds))

    async def unless_left(self, work: Callable[[], Awaitable[None]]) -> None:
        """Work while the client is connected.

        Raises:
            ClientDisconnect: It has disconnected.
        """
        is_gone = False

        async def watch() -> None:
            nonlocal is_gone
            await self._client_leaves()
            is_gone = True
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await work()
            tasks.cancel_scope.cancel()
        if is_gone:
            raise ClientDisconnect

    async def drop(self, *, reset: bool) -> None:
        """Drop the connection: the socket, or in the same process by httpx's error.

        Raises:
            httpx.ReadError: In process, for a reset.
            httpx.RemoteProtocolError: In process, for a close.
        """
        drop: Callable[[bool], None] | None
        drop = self.scope.get("extensions", {}).get(DROP)
        if drop is not None:
            drop(reset)
            await self._client_leaves()
        elif reset:
            raise httpx.ReadError("connection reset by the emulator")
        else:
            raise httpx.RemoteProtocolError("connection closed by the emulator")

    async def _client_leaves(self) -> None:
        while (await self.receive())["type"] != "http.disconnect":
            pass


async def apply(fault: Fault, call: ForwardedRequest, error_body: ErrorBody) -> None:
    """Answer a request as a fault says."""
    is_done = fault.accepted or fault.effect in SPOILERS
    true = await call.answer() if is_done else None
    if fault.effect not in _SLOW:
        await call.pause(fault.seconds)
    if fault.effect in {"reset", "close"}:
        await call.drop(reset=fault.effect == "reset")
    elif fault.effect in {"cut", "stall"} and true is not None:
        await _break_off(fault, call, true.with_headers(fault.headers))
    elif fault.effect in {"huge", "trickle"} and true is not None:
        answer = true.with_headers(fault.headers)
        give = _give_hugely if fault.effect == "huge" else _give_in_drops
        await call.unless_left(lambda: give(fault, call, answer))
    else:
        if fault.effect == "delay" and true is None:
            true = await call.answer()
        answer = apply_to_answer(fault, true, error_body)
        await call.give(answer.with_headers(fault.headers))


async def _break_off(fault: Fault, call: ForwardedRequest, answer: RawAnswer) -> None:
    middle = len(answer.body) // 2
    await call.begin(answer, answer.body[:middle])
    if fault.effect == "cut":
        await call.drop(reset=False)
        return
    await call.pause(fault.seconds)
    await call.end(answer.body[middle:])


async def _give_hugely(fault: Fault, call: ForwardedRequest, answer: RawAnswer) -> None:
    """Send spaces where they are harmless but for their number, without a length."""
    before, after = (b"", answer.body) if answer.is_json else (answer.body, b"")
    await call.begin(answer.without_length(), before)
    for begin in range(0, fault.size, len(_PIECE)):
        await call.go_on(_PIECE[: fault.size - begin])
        await anyio.lowlevel.checkpoint()  # uvicorn has none if nobody listens
    await call.end(after)


async def _give_in_drops(
    fault: Fault, call: ForwardedRequest, answer: RawAnswer
) -> None:
    await call.begin(answer, b"")
    for byte in answer.body:
        await anyio.sleep(fault.seconds)
        await call.go_on(bytes([byte]))
    await call.end(b"")


_QUERY = b"generation_id="


@define(eq=False)
class FastPolls:
    """Answers polls of unfinished generations.

    Attributes:
        store: The generations.
        clock: The clock.
        auth: Checks keys.
    """

    store: GenerationStore
    clock: Clock
    auth: Auth

    def answer(
        self, scope: Scope, authorization: str
    ) -> tuple[StoredGeneration, Response] | None:
        """Return the generation and the answer, if the request is a plain poll."""
        query: bytes = scope["query_string"]
        if (
            scope["method"] != "GET"
            or scope["path"] not in GENERATIONS
            or not query.startswith(_QUERY)
        ):
            return None
        job = self.store.find(unquote_plus(query[len(_QUERY) :].decode("latin-1")))
        if job is None:
            return None
        now = self.clock.now()
        status = job.status_at(now)
        if status in {Status.COMPLETED, Status.ERROR}:
            return None
        try:
            self.auth.check(authorization)
        except Refusal:
            return None
        return job, generation_response(job, now, nulls=self.store.nulls)


CLIENT_REQUEST_ID = b"x-client-request-id"

_logger = logging.getLogger("kling_async.emulator")

_IN_SCOPE = "kling_async.exchange"

# So that an emulator that runs for days does not fill the memory with records.
_KEPT_RECORDS = 50_000


@frozen(kw_only=True)
class RequestRecord:
    """One request that was answered.

    Attributes:
        method: Its HTTP method.
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
class ServedExchange:
    """One request in flight.

    Attributes:
        record: What will be recorded; the endpoint adds to it.
        authorization: Its ``Authorization`` header.
        body: Its body.
    """

    record: RequestRecord
    authorization: str
    _chance: random.Random = field(alias="chance")
    body: bytes = b""
    _request_id: str | None = field(default=None, init=False)

    @property
    def request_id(self) -> str:
        """The server's id of it, for error bodies and the log."""
        if self._request_id is None:
            self._request_id = new_uuid(self._chance)
        return self._request_id

    @staticmethod
    def of(connection: HTTPConnection) -> ServedExchange:
        """Return the exchange that a request belongs to."""
        exchange: ServedExchange = connection.scope[_IN_SCOPE]
        return exchange

    def note(
        self, *, model: str | None = None, generation_id: str | None = None
    ) -> None:
        """Add to the record."""
        self.record = evolve(
            self.record,
            model=model or self.record.model,
            generation_id=generation_id or self.record.generation_id,
        )


@define(eq=False)
class Traffic:
    """All requests of one emulator: those answered, and those in flight."""

    chance: random.Random
    records: list[RequestRecord] = field(factory=list[RequestRecord], init=False)
    _open: set[CancelScope] = field(factory=set[CancelScope], init=False)

    def keep(self, record: RequestRecord) -> None:
        """Keep a record, and drop old ones if there are very many."""
        self.records.append(record)
        if len(self.records) >= 2 * _KEPT_RECORDS:
            del self.records[:_KEPT_RECORDS]

    def hang_up(self) -> None:
        """Cancel every request in flight."""
        for scope in list(self._open):
            scope.cancel()

    def begin(self, scope: Scope) -> ServedExchange:
        """Open the exchange of a request."""
        headers = dict(scope["headers"])
        asked = headers.get(CLIENT_REQUEST_ID, b"").decode("latin-1")
        record = RequestRecord(
            method=scope["method"],
            path=scope["path"],
            status=0,
            client_request_id=asked if is_client_request_id(asked) else None,
        )
        authorization = headers.get(b"authorization", b"").decode("latin-1")
        exchange = ServedExchange(
            record=record, authorization=authorization, chance=self.chance
        )
        scope[_IN_SCOPE] = exchange
        return exchange

    async def watch(
        self, inner: ASGIApp, scope: Scope, receive: Receive, send: Send
    ) -> None:
        """Pass one request on until it is answered or cancelled."""
        with CancelScope() as under_way:
            self._open.add(under_way)
            try:
                await inner(scope, receive, send)
            finally:
                self._open.discard(under_way)


@define(eq=False)
class TraceMiddleware:
    """The ASGI middleware in front of every endpoint.

    Attributes:
        app: The app behind it.
        traffic: Where requests are recorded.
        faults: The faults.
        polls: The fast path for plain polls.
        on_refused: Called with a request that a fault refuses.
        clock: The clock, for the ``Date`` of each answer.
        catalogue: The known models.
    """

    app: ASGIApp
    traffic: Traffic
    faults: Faults
    polls: FastPolls
    on_refused: Callable[[ServedExchange], None]
    clock: Clock
    catalogue: Catalogue

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with use_catalogue(self.catalogue):
            await self._handle(scope, receive, send)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
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
            await self._dispatch(exchange, scope, receive, send_traced)
        else:
            job, answer = plain
            exchange.note(generation_id=job.id)
            await answer(scope, receive, send_traced)

    async def _dispatch(
        self, exchange: ServedExchange, scope: Scope, receive: Receive, send: Send
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
        exchange: ServedExchange = scope[_IN_SCOPE]
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

        await apply(
            fault, ForwardedRequest(self.app, scope, receive, send), error_body_of
        )

    def _fault_for(self, exchange: ServedExchange) -> Fault | None:
        record = exchange.record
        exchange.note(model=_model_in(exchange.body))
        return self.faults.strike(record.method, record.path, exchange.record.model)

    def _close(self, exchange: ServedExchange, message: Message) -> None:
        record = evolve(exchange.record, status=int(message["status"]))
        exchange.record = record
        self.traffic.keep(record)
        headers = list(message["headers"])
        if not any(name.lower() == b"date" for name, _ in headers):
            date = email.utils.formatdate(self.clock.now(), usegmt=True)
            headers.append((b"date", date.encode()))
        if record.client_request_id:
            headers.append((CLIENT_REQUEST_ID, record.client_request_id.encode()))
        message["headers"] = headers


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


def internal_error(exchange: ServedExchange) -> JSONResponse:
    """Return the vendor's answer to a failure of its own."""
    body = error_body(
        status=HTTPStatus.INTERNAL_SERVER_ERROR,
        message="Internal server error",
        path=exchange.record.path,
        request_id=exchange.request_id,
    )
    return JSONResponse(body, HTTPStatus.INTERNAL_SERVER_ERROR)

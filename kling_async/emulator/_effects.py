"""Carries a fault out on the way between server and endpoint.

Answers late, wrongly, in part or not at all; which request it strikes is decided
elsewhere.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Protocol

import anyio
import httpx
from attrs import evolve, field, frozen
from starlette.datastructures import MutableHeaders
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kling_async.emulator._faults import SPOILERS, Fault

DROP = "kling_async.drop"  # the server's extension that drops a connection
_GATEWAY_PAGE = """<html>
<head><title>{status} {phrase}</title></head>
<body><center><h1>{status} {phrase}</h1></center><hr><center>nginx</center></body>
</html>
"""


class ErrorBody(Protocol):
    """Makes the body of an error in the vendor's form."""

    def __call__(self, status: int, message: str) -> Mapping[str, object]:
        """Return the body."""
        ...


@frozen
class Answer:
    """An answer as a whole."""

    status: int
    headers: list[tuple[bytes, bytes]] = field(factory=list[tuple[bytes, bytes]])
    body: bytes = b""

    def with_headers(self, named: Mapping[str, str]) -> Answer:
        """Return it with other headers, each in place of one of its name."""
        headers = MutableHeaders(raw=list(self.headers))
        for name, value in named.items():
            headers[name] = value
        return evolve(self, headers=headers.raw)

    def with_body(self, body: bytes, content_type: str) -> Answer:
        """Return it with another body, of the length that it says."""
        named = {"content-type": content_type, "content-length": str(len(body))}
        return evolve(self, body=body).with_headers(named)

    @property
    def content_type(self) -> str:
        """What it says its body is."""
        return MutableHeaders(raw=list(self.headers)).get("content-type", "")


@frozen
class Call:
    """One request on its way to the endpoint."""

    inner: ASGIApp
    scope: Scope
    receive: Receive
    send: Send

    async def answer(self) -> Answer:
        """Do the work, and keep the answer back."""
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self.inner(self.scope, self.receive, keep)
        start, *parts = messages
        body = b"".join(part.get("body", b"") for part in parts)
        return Answer(start["status"], list(start["headers"]), body)

    async def begin(self, answer: Answer, body: bytes) -> None:
        """Send the head and the first part of the body."""
        head = {"status": answer.status, "headers": answer.headers}
        await self.send({"type": "http.response.start", **head})
        await self.send({"type": "http.response.body", "body": body, "more_body": True})

    async def end(self, body: bytes) -> None:
        """Send the last part of the body."""
        await self.send({"type": "http.response.body", "body": body})

    async def give(self, answer: Answer) -> None:
        """Send an answer as a whole."""
        await self.begin(answer, answer.body)
        await self.end(b"")

    async def pause(self, seconds: float) -> None:
        """Wait, but not for a client that is gone.

        Raises:
            ClientDisconnect: It is gone.
        """
        is_gone = False

        async def watch() -> None:
            nonlocal is_gone
            await self._client_leaves()
            is_gone = True
            tasks.cancel_scope.cancel()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await anyio.sleep(seconds)
            tasks.cancel_scope.cancel()
        if is_gone:
            raise ClientDisconnect

    async def drop(self, *, reset: bool) -> None:
        """Drop the connection: over a socket for real, in process as httpx tells it.

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


async def carry_out(fault: Fault, call: Call, error_body: ErrorBody) -> None:
    """Answer a request as a fault wants it."""
    is_done = fault.accepted or fault.effect in SPOILERS
    true = await call.answer() if is_done else None
    if fault.effect != "stall":
        await call.pause(fault.seconds)
    if fault.effect in {"reset", "close"}:
        await call.drop(reset=fault.effect == "reset")
    elif fault.effect in {"cut", "stall"} and true is not None:
        await _break_off(fault, call, true.with_headers(fault.headers))
    else:
        if fault.effect == "delay" and true is None:
            true = await call.answer()
        answer = _spoilt(fault, true, error_body)
        await call.give(answer.with_headers(fault.headers))


async def _break_off(fault: Fault, call: Call, answer: Answer) -> None:
    middle = len(answer.body) // 2
    await call.begin(answer, answer.body[:middle])
    if fault.effect == "cut":
        await call.drop(reset=False)
        return
    await call.pause(fault.seconds)
    await call.end(answer.body[middle:])


def _spoilt(fault: Fault, true: Answer | None, error_body: ErrorBody) -> Answer:
    if true is None or fault.effect in {"status", "html"}:
        return _made_up(fault, error_body)
    answer = evolve(true, status=fault.status or true.status)
    if fault.effect == "truncate":
        half = true.body[: len(true.body) // 2]
        return answer.with_body(half, true.content_type)
    if fault.effect == "wrong_type":
        return answer.with_body(true.body, "text/plain; charset=utf-8")
    if fault.effect == "wrong_shape" and fault.body is None:
        inside = b'{"data": [' + true.body + b"]}"
        return answer.with_body(inside, "application/json")
    if fault.effect == "wrong_shape":
        return answer.with_body(*_encoded(fault.body))
    return answer


def _made_up(fault: Fault, error_body: ErrorBody) -> Answer:
    is_page = fault.effect == "html"
    status = fault.status or (502 if is_page else 503)
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
    if fault.body is not None:
        body, content_type = _encoded(fault.body)
    elif is_page:
        page = _GATEWAY_PAGE.format(status=status, phrase=phrase)
        body, content_type = page.encode(), "text/html"
    else:
        body, content_type = _encoded(error_body(status, phrase))
    return Answer(status).with_body(body, "text/html" if is_page else content_type)


def _encoded(body: object) -> tuple[bytes, str]:
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    return json.dumps(body).encode(), "application/json"

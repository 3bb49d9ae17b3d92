"""Carries a fault out on the way between server and endpoint.

Answers late, wrongly, in part or not at all; which request it strikes is decided
elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import httpx
from attrs import frozen
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kling_async.emulator._faults import SPOILERS, Fault
from kling_async.emulator._spoiling import Answer, ErrorBody, spoilt

DROP = "kling_async.drop"  # the server's extension that drops a connection
_SLOW = frozenset({"stall", "trickle"})  # these wait within the body
_PIECE = b" " * 2**16


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
        await self.go_on(body)

    async def go_on(self, body: bytes) -> None:
        """Send a further part of the body."""
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
        await self.unless_left(lambda: anyio.sleep(seconds))

    async def unless_left(self, work: Callable[[], Awaitable[None]]) -> None:
        """Do something as long as the client is there.

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
            await work()
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
    if fault.effect not in _SLOW:
        await call.pause(fault.seconds)
    if fault.effect in {"reset", "close"}:
        await call.drop(reset=fault.effect == "reset")
    elif fault.effect in {"cut", "stall"} and true is not None:
        await _break_off(fault, call, true.with_headers(fault.headers))
    elif fault.effect in {"huge", "trickle"} and true is not None:
        told = true.with_headers(fault.headers)
        give = _give_hugely if fault.effect == "huge" else _give_in_drops
        await call.unless_left(lambda: give(fault, call, told))
    else:
        if fault.effect == "delay" and true is None:
            true = await call.answer()
        answer = spoilt(fault, true, error_body)
        await call.give(answer.with_headers(fault.headers))


async def _break_off(fault: Fault, call: Call, answer: Answer) -> None:
    middle = len(answer.body) // 2
    await call.begin(answer, answer.body[:middle])
    if fault.effect == "cut":
        await call.drop(reset=False)
        return
    await call.pause(fault.seconds)
    await call.end(answer.body[middle:])


async def _give_hugely(fault: Fault, call: Call, answer: Answer) -> None:
    """Put spaces where they do no harm but by their number, and tell no length."""
    before, after = (b"", answer.body) if answer.is_json else (answer.body, b"")
    await call.begin(answer.without_length(), before)
    for begin in range(0, fault.size, len(_PIECE)):
        await call.go_on(_PIECE[: fault.size - begin])
        await anyio.lowlevel.checkpoint()  # uvicorn takes none when nobody listens
    await call.end(after)


async def _give_in_drops(fault: Fault, call: Call, answer: Answer) -> None:
    await call.begin(answer, b"")
    for byte in answer.body:
        await anyio.sleep(fault.seconds)
        await call.go_on(bytes([byte]))
    await call.end(b"")

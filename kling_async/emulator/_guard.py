"""What a server on a socket takes: requests in its own name, with bodies that fit.

Else a web page could let a name of its own point here, and use the emulator in its
visitor's browser as if it were its own site (DNS rebinding). Knows no endpoint.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from http import HTTPStatus
from uuid import uuid4

from attrs import frozen
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kling_async.emulator._refusals import error_body

# Bytes: four images of the 10 MB that Kling documents, as data URIs, and some more.
LARGEST_BODY = 64 * 1024 * 1024
# Names that no public DNS answers for (RFC 6761, RFC 6762, and ICANN's of 2024).
_PRIVATE = frozenset({"internal", "local", "localhost", "test"})
_BODILESS = frozenset({"GET", "HEAD"})


@frozen(eq=False)
class Guard:
    """The ASGI middleware between a socket and everything else.

    Attributes:
        app: What is behind it.
        host: The name or address that the server was told to listen on.
        largest_body: The most bytes that a request may bring.
    """

    app: ASGIApp
    host: str
    largest_body: int = LARGEST_BODY

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        if not is_own(headers.get("host", ""), self.host):
            words = (
                "this name is not the emulator's: use its address, localhost, "
                "or the name that it was told to listen on"
            )
            await self._refuse(HTTPStatus.MISDIRECTED_REQUEST, words, scope, send)
            return
        if scope["method"] in _BODILESS:
            await self.app(scope, receive, send)
            return
        whole = await self._whole(headers.get("content-length", "0"), receive)
        if whole is None:
            words = f"Payload too large: at most {self.largest_body:,} bytes"
            await self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, words, scope, send)
            return
        await self.app(scope, _again(whole, receive), send)

    async def _whole(self, length: str, receive: Receive) -> list[Message] | None:
        """Read a request to its end, or until it is too much."""
        if length.isdecimal() and int(length) > self.largest_body:
            return None
        told = list[Message]()
        size = 0
        while True:
            message = await receive()
            told.append(message)
            size += len(message.get("body", b""))
            if size > self.largest_body:
                return None
            if not message.get("more_body", False):
                return told

    async def _refuse(
        self, status: HTTPStatus, words: str, scope: Scope, send: Send
    ) -> None:
        body = error_body(
            status=status, message=words, path=scope["path"], request_id=str(uuid4())
        )
        answer = JSONResponse(body, status, {"connection": "close"})
        await answer(scope, _silent, send)


def _again(told: list[Message], receive: Receive) -> Receive:
    """Say once more what was read, then what comes after it."""
    left = iter(told)

    async def say() -> Message:
        message = next(left, None)
        return await receive() if message is None else message

    return say


async def _silent() -> Message:
    return {"type": "http.disconnect"}


@lru_cache(maxsize=64)
def is_own(header: str, host: str) -> bool:
    """Whether a ``Host`` header names this machine, and cannot be somebody's site.

    An address is nobody's name; a name of one word, such as a container's, or below
    a private top level, is not to be had in public.
    """
    name = (
        header.rpartition(":")[0] if header.rpartition(":")[2].isdecimal() else header
    )
    name = name.strip("[]").rstrip(".").lower()
    if name == host.lower() or ("." not in name and ":" not in name):
        return True
    if name.rpartition(".")[2] in _PRIVATE:
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True

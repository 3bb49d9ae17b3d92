"""An answer, and what a fault makes of it: pure, from bytes to bytes.

Sends nothing; which answer is spoilt, and when, is decided elsewhere.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Protocol

from attrs import evolve, field, frozen
from starlette.datastructures import MutableHeaders

from kling_async.emulator._faults import Effect, Fault

_GATEWAY_PAGE = """<html>
<head><title>{status} {phrase}</title></head>
<body><center><h1>{status} {phrase}</h1></center><hr><center>nginx</center></body>
</html>
"""
_ANOTHER_ID = "00000000-0000-4000-8000-000000000000"
_DEPTH = 100_000
_BLOCK = b" " * 2**20
_GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # RFC 1952, section 2.3


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

    @property
    def is_json(self) -> bool:
        """Whether its body is JSON."""
        return self.content_type.startswith("application/json")

    def without_length(self) -> Answer:
        """Return it without a word on how long it is."""
        headers = [it for it in self.headers if it[0] != b"content-length"]
        return evolve(self, headers=headers)


def spoilt(fault: Fault, true: Answer | None, error_body: ErrorBody) -> Answer:
    """Return what a fault makes of the true answer, or in its place."""
    if true is None or fault.effect in {"status", "html"}:
        return _made_up(fault, error_body)
    answer = evolve(true, status=fault.status or true.status)
    spoil = _SPOILS.get(fault.effect)
    return spoil(fault, answer) if spoil else answer


def _truncated(_: Fault, answer: Answer) -> Answer:
    return answer.with_body(answer.body[: len(answer.body) // 2], answer.content_type)


def _of_wrong_type(_: Fault, answer: Answer) -> Answer:
    return answer.with_body(answer.body, "text/plain; charset=utf-8")


def _of_wrong_shape(fault: Fault, answer: Answer) -> Answer:
    if fault.body is not None:
        return answer.with_body(*_encoded(fault.body))
    inside = b'{"data": [' + answer.body + b"]}"
    return answer.with_body(inside, "application/json")


def _of_bad_utf8(_: Fault, answer: Answer) -> Answer:
    """Put a byte that UTF-8 never has into the first text."""
    body = answer.body.replace(b'"', b'"\xff', 1)
    return answer.with_body(body, answer.content_type)


def _of_bad_gzip(_: Fault, answer: Answer) -> Answer:
    return answer.with_headers({"content-encoding": "gzip"})


def _deep(_: Fault, answer: Answer) -> Answer:
    """Add a field with lists in lists, which costs a careless reader its stack."""
    depths = b"[" * _DEPTH + b"]" * _DEPTH
    rest = answer.body.lstrip()[1:] or b"}"
    return answer.with_body(b'{"deep": ' + depths + b", " + rest, "application/json")


def _of_wrong_id(_: Fault, answer: Answer) -> Answer:
    """Tell of another generation; the tracing header stays true."""
    body: object = json.loads(answer.body) if answer.is_json else None
    if not isinstance(body, dict) or "id" not in body:
        return answer
    return answer.with_body(*_encoded({**body, "id": _ANOTHER_ID}))


def _bomb(fault: Fault, answer: Answer) -> Answer:
    """Pack the body behind so many spaces that a thousandth of it is sent."""
    spaces, check = _packed_spaces(fault.size)
    last = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    end = last.compress(answer.body) + last.flush()
    check = zlib.crc32(answer.body, check)
    length = (fault.size + len(answer.body)) % 2**32
    foot = check.to_bytes(4, "little") + length.to_bytes(4, "little")
    packed = answer.with_body(_GZIP_HEAD + spaces + end + foot, answer.content_type)
    return packed.with_headers({"content-encoding": "gzip"})


@lru_cache(maxsize=4)
def _packed_spaces(count: int) -> tuple[bytes, int]:
    """Pack spaces as blocks that others may follow; return their check sum, too."""
    blocks, rest = divmod(count, len(_BLOCK))
    check = 0
    for _ in range(blocks):
        check = zlib.crc32(_BLOCK, check)
    packed = _block(_BLOCK) * blocks + _block(_BLOCK[:rest])
    return packed, zlib.crc32(_BLOCK[:rest], check)


def _block(data: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packing.compress(data) + packing.flush(zlib.Z_FULL_FLUSH)


_SPOILS: Mapping[Effect, Callable[[Fault, Answer], Answer]] = {
    "truncate": _truncated,
    "wrong_type": _of_wrong_type,
    "wrong_shape": _of_wrong_shape,
    "wrong_id": _of_wrong_id,
    "bad_utf8": _of_bad_utf8,
    "bad_gzip": _of_bad_gzip,
    "deep": _deep,
    "bomb": _bomb,
}


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

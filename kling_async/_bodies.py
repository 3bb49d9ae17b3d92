"""An answer's body: unpacked, and bounded in size before it is in memory.

What is small on the wire may be huge unpacked, and packed twice it may be so for every
byte. So it is unpacked here, so many bytes at a time. Knows no JSON, does no I/O.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Protocol

from attrs import define, field

# The longest that is ever due, 100 rows of the request log, takes a fortieth of it.
MAX_ANSWER = 4 * 1024 * 1024
# What is asked for; httpx would name all that it can unpack, in bounds or not.
ACCEPTED = "gzip"

_ZLIB_OR_GZIP = zlib.MAX_WBITS | 32
_PACKED = frozenset({"gzip", "x-gzip", "deflate"})


class UnreadableBodyError(Exception):
    """A body that is too large, or not packed as it says."""


class _Unpacking(Protocol):
    """What zlib unpacks with."""

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


@define(eq=False)
class Body:
    """A body as far as it has come.

    Attributes:
        content: What came, unpacked; at most `MAX_ANSWER` bytes.
    """

    content: bytearray = field(factory=bytearray, repr=False)
    _unpacking: _Unpacking | None = None

    def begin(self, headers: Mapping[str, str]) -> None:
        """Read from the headers how it is packed, and how long it is.

        Raises:
            UnreadableBodyError: It is packed unasked, or too long.
        """
        encoding = headers.get("content-encoding", "identity").strip().lower()
        if encoding in _PACKED:
            self._unpacking = zlib.decompressobj(_ZLIB_OR_GZIP)
        elif encoding not in ("", "identity"):
            raise UnreadableBodyError(f"it is packed with {encoding[:80]!r}, unasked")
        length = headers.get("content-length", "")
        if length.isdecimal() and len(length) > len(str(MAX_ANSWER)):
            raise _too_large()
        if length.isdecimal() and int(length) > MAX_ANSWER:
            raise _too_large()

    def add(self, chunk: bytes) -> None:
        """Take in what has come next.

        Raises:
            UnreadableBodyError: It is too large, or not packed as it says.
        """
        room = MAX_ANSWER - len(self.content)
        if self._unpacking is not None:
            try:
                chunk = self._unpacking.decompress(chunk, room + 1)
            except zlib.error as error:
                raise UnreadableBodyError(f"it does not unpack: {error}") from error
        self.content += chunk[:room]
        if len(chunk) > room:
            raise _too_large()


def _too_large() -> UnreadableBodyError:
    return UnreadableBodyError(f"it is larger than {MAX_ANSWER:,} bytes")

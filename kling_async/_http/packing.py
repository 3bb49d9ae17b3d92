"""What HTTP calls content coding: gzip and deflate, unpacked piece by piece.

Reads everything that servers really send: several gzip members, deflate with and
without its header, zeros after the end. Memory is bounded, whatever is packed.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TypeAlias

from attrs import define

GZIP_HEAD = b"\x1f\x8b"

DEFLATE = "deflate"

PACKED = frozenset({"gzip", "x-gzip", DEFLATE})

# Real packings that are not unpacked here (IANA's registry of content codings). Any
# other word, such as aws-chunked, binary or utf-8, is a store's mistake.
_OTHERS = frozenset("br zstd compress x-compress dcb dcz exi pack200-gzip".split())

_ZSTD_HEAD = b"\x28\xb5\x2f\xfd"

_PIECE = 1024 * 1024

_ZLIB_OR_GZIP = zlib.MAX_WBITS | 32

_ZLIB_METHOD, _ZLIB_CHECK = 8, 31


def is_packed(head: bytes, encoding: str) -> bool:
    """Whether a body that is not JSON is packed in a way that `Unpacker` reads.

    Args:
        head: Its first bytes, which count more than the headers.
        encoding: What its Content-Encoding says.

    Raises:
        UnknownPackingError: It is packed otherwise.
    """
    told = {it.strip() for it in encoding.lower().split(",")}
    if head.startswith(_ZSTD_HEAD) or told & _OTHERS:
        raise UnknownPackingError(", ".join(sorted(told & _OTHERS)) or "zstd")
    return head.startswith(GZIP_HEAD) or DEFLATE in told


class UnknownPackingError(Exception):
    """A body is packed in a way that was not requested."""


_Inflater: TypeAlias = "zlib._Decompress"  # noqa: SLF001 (a type alone)  # pyright: ignore[reportPrivateUsage]


@define(eq=False, repr=False)
class Unpacker:
    """Unpacks one body.

    Attributes:
        is_whole: Whether the packed stream is complete.
    """

    is_whole: bool = False
    _stream: _Inflater | None = None
    _rest: bytes = b""
    _count: int = 0

    def unpack(self, packed: bytes) -> Iterator[bytes]:
        """Unpack the next bytes, in pieces of up to a megabyte.

        Raises:
            zlib.error: It is not packed so.
        """
        left, is_full = self._rest + packed, False
        self._rest = b""
        while left or is_full:
            if self._stream is None or self._stream.eof:
                if len(left) < len(GZIP_HEAD):
                    self._rest = left
                    return
                if self._count and not left.startswith(GZIP_HEAD):
                    return  # padding, which gzip ignores, too
                self._stream, self._count = _make_inflater(left), self._count + 1
            piece = self._stream.decompress(left, _PIECE)
            left = self._stream.unused_data or self._stream.unconsumed_tail
            self.is_whole = self._stream.eof
            is_full = len(piece) == _PIECE and not self.is_whole
            if piece:
                yield piece


def _make_inflater(head: bytes) -> _Inflater:
    is_zlib = (
        head[0] & 0xF == _ZLIB_METHOD and int.from_bytes(head[:2]) % _ZLIB_CHECK == 0
    )
    is_packed_with_head = is_zlib or head.startswith(GZIP_HEAD)
    return zlib.decompressobj(_ZLIB_OR_GZIP if is_packed_with_head else -zlib.MAX_WBITS)

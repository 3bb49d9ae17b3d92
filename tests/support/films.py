"""MP4s small enough to write down: boxes that open, around bytes of no meaning."""

from __future__ import annotations


def box(kind: bytes, *parts: bytes) -> bytes:
    """Give a box with its head (ISO/IEC 14496-12, section 4.2)."""
    content = b"".join(parts)
    return (8 + len(content)).to_bytes(4) + kind + content


FTYP = box(b"ftyp", b"isom\0\0\2\0isomiso2avc1mp41")
MOOV = box(b"moov", box(b"mvhd", bytes(100)), box(b"trak", bytes(20)))


def film(content: bytes) -> bytes:
    """Give a file that opens, with some bytes in place of the film."""
    return FTYP + MOOV + box(b"mdat", content)

"""Bodies of answers: unpacked, and never larger in memory than they may be."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest
from clients import ID, ONCE, QUEUED, client
from raw_server import Peer, RawRequest, RawServer, answer, answering

from kling_async import DecodeError
from kling_async._http.sender import MAX_ANSWER, Body, UnreadableBodyError
from kling_async.emulator import Emulator, Fault


def read(*chunks: bytes, **headers: str) -> bytes:
    """Read a body that comes in chunks."""
    body = Body()
    body.begin({name.replace("_", "-"): value for name, value in headers.items()})
    for chunk in chunks:
        body.add(chunk)
    return bytes(body.content)


PACKED = {
    "gzip": gzip.compress(b"hello"),
    "GZIP ": gzip.compress(b"hello"),
    "x-gzip": gzip.compress(b"hello"),
    "x-GZip": gzip.compress(b"hel") + gzip.compress(b"lo") + bytes(9),
    "deflate": zlib.compress(b"hello"),
    " deflate": zlib.compress(b"hello", wbits=-zlib.MAX_WBITS),
    "identity": b"hello",
    "": b"hello",
}


@pytest.mark.parametrize("encoding, packed", PACKED.items(), ids=PACKED)
def test_a_body_is_unpacked_as_it_comes(encoding: str, packed: bytes) -> None:
    """Whole, or a byte at a time."""
    assert read(packed, content_encoding=encoding) == b"hello"
    drops = [packed[at : at + 1] for at in range(len(packed))]
    assert read(*drops, content_encoding=encoding) == b"hello"


@pytest.mark.parametrize(
    "encoding",
    ["br", "zstd", "gzip, gzip", "x" * 10_000],
    ids=["br", "zstd", "twice", "endless"],
)
def test_what_is_packed_unasked_is_refused(encoding: str) -> None:
    """Twice packed, a few bytes could be a billion."""
    with pytest.raises(UnreadableBodyError, match="unasked") as caught:
        read(content_encoding=encoding)
    assert len(str(caught.value)) < 200


def test_what_does_not_unpack_is_told() -> None:
    """It is said to be packed."""
    with pytest.raises(UnreadableBodyError, match="does not unpack"):
        read(b'{"id": 1}', content_encoding="gzip")


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
@pytest.mark.parametrize("more", [0, 1])
def test_so_many_bytes_are_kept_and_none_more(encoding: str, more: int) -> None:
    """However small they were on the wire."""
    data = b" " * (MAX_ANSWER + more)
    sent = gzip.compress(data) if encoding == "gzip" else data
    body = Body()
    body.begin({"content-encoding": encoding})
    if more:
        with pytest.raises(UnreadableBodyError, match="larger than 4,194,304 bytes"):
            body.add(sent)
    else:
        body.add(sent)
    assert len(body.content) == MAX_ANSWER


@pytest.mark.parametrize(
    "length",
    [str(MAX_ANSWER + 1), "1000000000", "9" * 5000],
    ids=["a byte", "much", "no number"],
)
def test_a_length_that_is_too_large_is_enough(length: str) -> None:
    """Nothing need be read."""
    with pytest.raises(UnreadableBodyError, match="larger"):
        read(content_length=length)
    read(content_length=str(MAX_ANSWER))


@pytest.mark.parametrize("effect", ["huge", "bomb"])
async def test_a_gigabyte_costs_a_few_megabytes(effect: str) -> None:
    """Sent as it is, or packed a thousandfold: over a socket, measured."""
    async with (
        Emulator(faults=[Fault(effect)]) as emulator,  # type: ignore[arg-type]  # one of its words
        client(emulator.base_url, retry=ONCE) as kling,
    ):
        with pytest.raises(DecodeError, match="larger than 4,194,304 bytes"):
            await kling.balance()  # once before: the emulator packs its spaces
        tracemalloc.start()
        try:
            with pytest.raises(DecodeError, match="larger than 4,194,304 bytes"):
                await kling.balance()
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < 40_000_000


async def test_a_body_whose_length_is_too_large_is_not_read() -> None:
    """Also where its bytes would never come; the status is told all the same."""

    async def promise(_: RawRequest, peer: Peer) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-length: 1000000000\r\n\r\n"
        await peer.send(head)
        await peer.gone()

    async with (
        RawServer(promise) as server,
        client(server.base_url, retry=ONCE, timeout=30) as kling,
    ):
        with pytest.raises(DecodeError, match="larger than 4,194,304 bytes"):
            await kling.get(ID)


async def test_only_what_is_unpacked_in_bounds_is_asked_for() -> None:
    """Whatever httpx could unpack here."""
    async with (
        RawServer(answering(answer(QUEUED))) as server,
        client(server.base_url) as kling,
    ):
        await kling.get(ID)
    assert server.requests[0].headers["accept-encoding"] == "gzip"

"""Coverage-guided fuzzing of what docs/security.md promises: no leak, no steering.

The first byte of an input picks the promise, the rest is what a stranger says. The
corpus begins with the hostile texts and URLs of the tests. libFuzzer's options pass
through: ``-runs=1000000``.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import unquote, urljoin

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from hostile import ADDRESSES, PIECES, SECRET, V4, disguises, is_plain

with atheris.instrument_imports(  # type: ignore[attr-defined] # not in the stubs
    include=[
        "kling_async._text",
        "kling_async._errors",
        "kling_async._checks",
        "kling_async._config",
        "kling_async._http.wire",
        "kling_async.cli._report",
        "kling_async.durable._database",
        "kling_async.emulator._server",
    ]
):
    from kling_async import (
        APIStatusError,
        ConfigurationError,
        GenerationError,
        GenerationFailedError,
        InvalidRequestError,
        KlingError,
        Problem,
        Status,
        WaitTimeoutError,
    )
    from kling_async._checks import is_loopback, is_public
    from kling_async._config import Secret, find_base_url
    from kling_async._generation import Generation
    from kling_async._http.wire import Response, decode_error, decode_polled
    from kling_async._text import safe_cell, safe_line
    from kling_async.cli._report import _link  # pyright: ignore[reportPrivateUsage]
    from kling_async.durable._database import Database
    from kling_async.emulator._server import is_own

KEY = "sk-throw-away-0123456789"
FOLDER = Path("/batch")
PAGE = "https://page.example/batch/report.html"


def names_secret(said: str) -> bool:
    """Whether the stranger says the secret, however written: then it is no leak."""
    while (plain := unquote(said)) != said:
        said = plain
    letters = unicodedata.normalize("NFKC", said)
    return SECRET in "".join(filter(str.isalnum, letters))


def show(said: str) -> None:
    """Show it on a line, and in a cell."""
    assert is_plain(safe_line(said))
    cell = safe_cell(said)
    assert is_plain(cell)
    assert cell[:1] not in "=@" or not cell


def raise_it(said: str) -> None:
    """Put it into errors."""
    seen = Generation(
        id=said, status=Status(said), error=GenerationError(name=said, message=said)
    )
    for error in (
        APIStatusError(said, status_code=500, request_id=said, body=said),
        ConfigurationError(said),
        GenerationFailedError(seen),
        WaitTimeoutError(said, timeout=1, generation=seen),
    ):
        assert is_plain(str(error))
        assert is_plain(repr(error))
    lines = str(InvalidRequestError([Problem(said, said, said)], model=said))
    assert len(lines.split("\n")) == 2
    assert all(map(is_plain, lines.split("\n")))


def echo(said: str) -> None:
    """Answer with it, the key in its middle."""
    half = len(said) // 2
    body = f"{said[:half]}{KEY}{said[half:]}"
    for content in (body, f'{{"id": "g", "status": "{body}", "message": "{body}"}}'):
        for encoding in ("utf-8", "utf-16"):
            raw = content.encode(encoding, errors="replace")
            answer = Response(
                status_code=400,
                headers={"x-request-id": KEY, "location": body},
                content=raw,
                redact=Secret(KEY).redact,
            )
            error = decode_error(answer)
            assert KEY not in f"{error} {error!r} {vars(error)}"
            try:
                seen = decode_polled(answer, "g")
            except KlingError as refused:
                assert KEY not in f"{refused} {refused!r} {vars(refused)}"  # noqa: PT017
            else:
                assert KEY not in f"{seen} {seen.raw}"


def address_api(said: str) -> None:
    """Give it as a base URL, with a secret where a user stands."""
    for url in (f"https://{said}:{SECRET}@{said}", f"https://{said}?{SECRET}", said):
        try:
            find_base_url(url)
        except ConfigurationError as error:
            assert SECRET not in str(error) or names_secret(said)  # noqa: PT017


def address_database(said: str) -> None:
    """Give it as a database, with a password in every place for one."""
    if names_secret(said):
        return
    for url in (
        f"postgresql://{said}:{SECRET}@{said}",
        f"postgresql://u:{said}{SECRET}@h/d",
        f"postgresql://u:{SECRET}{said}@h/d",
        f"postgresql://u@h/d?{said}&password={SECRET}",
        f"mysql://{said}:{SECRET}@h/d",
    ):
        try:
            found = Database.at(url)
        except ConfigurationError as error:
            assert SECRET not in str(error), url  # noqa: PT017
        else:
            assert SECRET not in f"{found} {found!r}", url


def link(said: str) -> None:
    """Call a video so."""
    try:
        os.fsencode(said)
    except UnicodeEncodeError:
        return
    where = _link(FOLDER, FOLDER / said.replace("\0", ""))
    assert where is None or urljoin(PAGE, where).startswith(
        "https://page.example/batch/"
    )


def connect(said: str) -> None:
    """Name a host so, and hide an address in others."""
    if is_public(said):
        assert not is_loopback(said)
        ipaddress.ip_address(said.strip("[]"))  # or it raises
    inner = V4(int.from_bytes(said.encode(errors="replace")[:4], "big"))
    if not is_public(str(inner)):
        assert not any(map(is_public, disguises(inner)))


def ask_emulator(said: str) -> None:
    """Name the emulator so, with a port or without."""
    if is_own(said, frozenset({"127.0.0.1"})):
        name = re.sub(r":\d+$", "", said).strip("[]").rstrip(".").lower()
        assert name == "localhost" or is_loopback(name)


PROMISES: Sequence[Callable[[str], None]] = (
    show,
    raise_it,
    echo,
    address_api,
    address_database,
    link,
    connect,
    ask_emulator,
)


def test_one_input(data: bytes) -> None:
    """Hold one promise against one text."""
    if data:
        said = data[1:].decode("utf-8", errors="surrogateescape")
        PROMISES[data[0] % len(PROMISES)](said)


def main() -> None:
    """Fuzz, with libFuzzer's own options and directories of a corpus."""
    hosts = ("127.0.0.1", "::1", "64:ff9b::7f00:1", "2002:7f00:1::", "a.localhost")
    texts = [*PIECES, "".join(PIECES), *ADDRESSES, *hosts]
    with tempfile.TemporaryDirectory() as folder:
        for number, text in enumerate(texts):
            for promise in range(len(PROMISES)):
                seed = bytes([promise]) + text.encode(errors="replace")
                (Path(folder) / f"seed-{number}-{promise}").write_bytes(seed)
        atheris.Setup(
            [sys.argv[0], "-max_len=512", *sys.argv[1:], folder], test_one_input
        )
        atheris.Fuzz()


if __name__ == "__main__":
    main()

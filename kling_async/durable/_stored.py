"""A request as JSON, and back: what the database keeps of what was asked for.

A local file is kept as its path and its SHA-256, or, when asked, as its bytes.
Bytes that were given as such have no path, so they are kept. Nothing is sent.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import cast

from anyio import to_thread
from attrs import fields

from kling_async._errors import InvalidRequestError, Problem
from kling_async._media import inline_media
from kling_async._requests import Request, build_request
from kling_async.durable._records import JSON

_FILE = "$file"
_BYTES = "$bytes"
_DIGEST = "$sha256"


class MissingFileError(Exception):
    """A local file that a job needs is not on this machine."""


async def to_stored(request: Request, *, inline: bool, check: bool) -> JSON:
    """Give a request as JSON.

    Args:
        request: Which.
        inline: Whether files are kept as bytes, for workers on other machines,
            instead of as paths.
        check: Whether the documented limits are held against the files.

    Raises:
        InvalidRequestError: A file is missing, or is not what the model takes.
    """
    if _has_local_media(request.to_body()):
        await inline_media(request.to_body(), check=check)
    return await to_thread.run_sync(_stored, request, inline)


async def from_stored(stored: JSON) -> Request:
    """Give the request again, its files read.

    Raises:
        MissingFileError: A file is not there.
        InvalidRequestError: A file has changed since.
    """
    return await to_thread.run_sync(_request, stored)


def fingerprint(stored: JSON) -> str:
    """Give what two equal requests share: files by content, wherever they lie."""
    alike = _walked(stored, _is_kept, lambda kept: {_DIGEST: _entry(kept)[_DIGEST]})
    text = json.dumps(alike, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def differing(one: JSON, other: JSON) -> list[str]:
    """Name the fields in which two stored requests differ."""
    first, second = _by_field(one), _by_field(other)
    return sorted(
        name
        for name in first.keys() | second.keys()
        if first.get(name) != second.get(name)
    )


def _by_field(stored: JSON) -> dict[str, str]:
    extra = cast("JSON", stored.get("extra", {}))
    flat = {name: it for name, it in stored.items() if name != "extra"} | dict(extra)
    return {name: fingerprint({name: it}) for name, it in flat.items()}


def _stored(request: Request, inline: bool) -> JSON:  # noqa: FBT001 (run in a thread)
    values = {it.name: getattr(request, it.name) for it in fields(type(request))}
    given = {name: value for name, value in values.items() if value is not None}
    kept = _walked(given, _is_local, lambda it: _kept(it, inline=inline))
    return cast("JSON", kept)


def _request(stored: JSON) -> Request:
    params = _walked(stored, _is_kept, _content)
    return build_request(cast("Mapping[str, object]", params))


def _kept(value: object, *, inline: bool) -> object:
    if isinstance(value, os.PathLike):
        path = Path(cast("os.PathLike[str]", value)).absolute()
        content = path.read_bytes()
        where = {} if inline else {_FILE: str(path)}
    else:
        content, where = bytes(cast("bytes", value)), {}
    kept = where or {_BYTES: base64.b64encode(content).decode("ascii")}
    return kept | {_DIGEST: hashlib.sha256(content).hexdigest()}


def _content(value: object) -> object:
    kept = _entry(value)
    if _FILE not in kept:
        return base64.b64decode(kept[_BYTES])
    path = Path(kept[_FILE])
    try:
        content = path.read_bytes()
    except OSError as error:
        raise MissingFileError(f"{path}: {error.strerror or error}") from error
    if hashlib.sha256(content).hexdigest() != kept[_DIGEST]:
        hint = "Submit it under another key to send the file as it is now."
        allowed = "the file as it was when the job was submitted"
        problem = Problem("file", f"{path}, which has changed", allowed, hint)
        raise InvalidRequestError([problem])
    return content


def _entry(value: object) -> Mapping[str, str]:
    return cast("Mapping[str, str]", value)


def _is_kept(value: object) -> bool:
    return isinstance(value, Mapping) and _DIGEST in value


def _is_local(value: object) -> bool:
    return isinstance(value, (bytes, bytearray, memoryview, os.PathLike))


def _has_local_media(body: object) -> bool:
    found: list[object] = []
    _walked(body, _is_local, found.append)
    return bool(found)


def _walked(
    value: object,
    is_meant: Callable[[object], bool],
    changed: Callable[[object], object],
) -> object:
    """Copy a nest of mappings and lists, with some of its values changed."""
    if is_meant(value):
        return changed(value)
    if isinstance(value, Mapping):
        return {str(name): _walked(it, is_meant, changed) for name, it in value.items()}
    if isinstance(value, list | tuple):
        return [_walked(it, is_meant, changed) for it in value]
    return value

"""The two ids of a generation: the server's, and the one its create was sent with.

Checks what a caller gives, and makes what a caller leaves out.
"""

from __future__ import annotations

import re
import uuid

from kling_async._errors import InvalidRequestError, Problem

_CLIENT_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
# Far above every documented form, and far below what no URL takes any more.
_LONGEST = 1024


def require_generation_id(given: object) -> str:
    """Refuse what cannot be the id of a generation."""
    if isinstance(given, str):
        found = given.strip()
        if 0 < len(found) <= _LONGEST and found.isprintable():
            return found
    problem = Problem(
        "generation_id",
        repr(given)[:80],
        "the id of a generation, as create() returned it",
    )
    raise InvalidRequestError([problem])


def client_request_id_from(given: object) -> str:
    """Take the caller's own id if it fits the vendor's alphabet, or make one."""
    if given is None:
        return f"kling-{uuid.uuid4().hex}"
    if isinstance(given, str) and _CLIENT_REQUEST_ID.fullmatch(given):
        return given
    problem = Problem(
        "client_request_id",
        repr(given)[:80],
        "1 to 128 of A-Z a-z 0-9 . _ : -",
        "The vendor silently drops any other, and the create could not be traced",
    )
    raise InvalidRequestError([problem])

"""A plugin for pytest: in the tests of the core, nothing blocks the event loop."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import kling_async

if TYPE_CHECKING:
    from blockbuster import BlockBuster


class EveryFunction(set[str]):
    """The names of all functions."""

    def __contains__(self, _: object) -> bool:
        return True


# An extra is read from disk when it is first used.
IMPORTS = ("<frozen importlib._bootstrap>", {"_find_and_load"})
# The emulator runs on the same loop in some tests; it is no part of the core.
EMULATOR = [
    (f"emulator/{it.name}", EveryFunction())
    for it in (Path(kling_async.__file__).parent / "emulator").glob("*.py")
]
# Whether the certificates have changed is asked once for each client.
CERTIFICATES = ("_http/environment.py", {"create_ssl_context"})
# What it forgot is removed whenever the garbage collector comes by.
CLEANING = ("weakref.py", EveryFunction())


@cache
def _guard() -> BlockBuster:
    """Make what watches over the core: once, for that takes longer than many a test."""
    from blockbuster import BlockBuster

    guard = BlockBuster("kling_async")
    for function in guard.functions.values():
        for place in (IMPORTS, CERTIFICATES, CLEANING, *EMULATOR):
            function.can_block_in(*place)
    return guard


@pytest.fixture(autouse=True)
def no_blocking_call(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let each call that blocks fail where the core makes it on the event loop."""
    if "core" not in request.path.parts:
        yield
        return
    guard = _guard()
    guard.activate()
    try:
        yield
    finally:
        guard.deactivate()

"""All that an error tells, to anyone who looks: words, causes, locals, pickles."""

from __future__ import annotations

import contextlib
import pickle
import traceback
from collections.abc import Collection, Iterator

from rich.pretty import pretty_repr


def everything_told(error: BaseException, *, but: Collection[str] = ()) -> str:
    """Give it as one text.

    Args:
        error: What was raised.
        but: Names of the test's own variables, which hold what is to be kept.
    """
    told: list[str] = []
    for it in _chain(error):
        told += [str(it), repr(it), repr(it.args), repr(vars(it))]
        try:
            told.append(repr(pickle.dumps(it)))
        except Exception as problem:  # noqa: BLE001 (that is no matter of this text)
            told.append(repr(problem))
    told += _with_locals(error, but)
    return "\n".join(told)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    left: list[BaseException | None] = [error]
    while left:
        it = left.pop()
        if it is None or id(it) in seen:
            continue
        seen.add(id(it))
        yield it
        left += [it.__cause__, it.__context__]
        if isinstance(it, BaseExceptionGroup):
            left += it.exceptions


def _with_locals(error: BaseException, but: Collection[str]) -> Iterator[str]:
    """Show what every frame of every error holds as the standard library and rich do.

    Once each: most frames hold the same client, which holds the whole catalogue.
    """
    shown: dict[int, object] = {}  # kept, that no other takes the place of one
    for it in _chain(error):
        for frame, _ in traceback.walk_tb(it.__traceback__):
            for name, value in frame.f_locals.items():
                if name in but or id(value) in shown:
                    continue
                shown[id(value)] = value
                with contextlib.suppress(AttributeError):  # it was not made wholly
                    yield repr(value)
                yield pretty_repr(value, max_width=500, max_length=20, max_depth=4)

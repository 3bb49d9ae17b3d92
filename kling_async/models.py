"""Which Kling models there are, and the fields of each.

`models.get("klingai/v2-master-image-to-video").required` lists the fields that a model
needs; `models.list(field="tail_image_url")` lists the models that take a last frame.
"""

from __future__ import annotations

import builtins

from kling_async._errors import InvalidRequestError, Problem
from kling_async._requests.catalogue import KINDS, Kind, Model, catalogue_in_use
from kling_async._requests.fields import Field
from kling_async._text import did_you_mean, short_repr

__all__ = ["KINDS", "Field", "Kind", "Model", "get", "list"]


def list(  # noqa: A001 (reads as `models.list`)
    kind: Kind | None = None, *, field: str | None = None
) -> builtins.list[Model]:
    """Return the models, all of them or those that fit.

    Args:
        kind: Only models of this kind, one of `KINDS`.
        field: Only models that take this field.

    Raises:
        InvalidRequestError: There is no such kind.
    """
    if kind is not None and kind not in KINDS:
        allowed = ", ".join(KINDS)
        hint = did_you_mean(kind, KINDS)
        raise InvalidRequestError([Problem("kind", short_repr(kind), allowed, hint)])
    return [
        model
        for model in catalogue_in_use().values()
        if kind in (None, model.kind) and (field is None or field in model.fields)
    ]


def get(model_id: str) -> Model:
    """Return a model by its id, or by an alias.

    Raises:
        InvalidRequestError: This version knows no such model; the message names the
            closest id.
    """
    catalogue = catalogue_in_use()
    if model_id in catalogue:
        return catalogue[model_id]
    near = catalogue.closest(model_id)
    hint = f"Did you mean {near!r}?" if near else "`kling-async models` lists them."
    problem = Problem("model", short_repr(model_id), "the id of a known model", hint)
    raise InvalidRequestError([problem])


for _public in (Field, Model):
    # Tracebacks and the docs are to show the names that users import.
    _public.__module__ = __name__
del _public

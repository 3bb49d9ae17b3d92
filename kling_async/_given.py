"""What a request is made of: taken apart, copied, and checked as a whole.

Knows no request class; what the fields of a model take is said in `_catalogue`.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from typing import Self

from attrs import NOTHING, frozen

from kling_async._catalogue import (
    MODELS,
    nearest_model,
    problems_in,
    problems_in_types,
)
from kling_async._errors import InvalidRequestError, Problem
from kling_async._fields import shown
from kling_async._hooks import logger


@frozen(kw_only=True)
class Given:
    """What was given for one request.

    Attributes:
        model: The model's id.
        body: The fields that have a value, by name.
        extra: The fields that are sent along unchecked.
    """

    model: str
    body: Mapping[str, object]
    extra: Mapping[str, object]

    @classmethod
    def of(cls, params: Mapping[str, object]) -> Self:
        """Take apart what was given by name.

        Raises:
            InvalidRequestError: It names no model, or ``extra`` is no mapping.
        """
        model, extra = params.get("model", NOTHING), params.get("extra", {})
        problems: list[Problem] = []
        if not isinstance(model, str) or not model.strip():
            told = "nothing" if model is NOTHING else shown(model)
            allowed = "the id of a model, such as klingai/v2-master-image-to-video"
            hint = "`kling-async models` lists them."
            problems.append(Problem("model", told, allowed, hint))
        if not _is_by_name(extra):
            allowed = "a mapping of field to value"
            problems.append(Problem("extra", shown(extra), allowed))
        if problems:
            raise InvalidRequestError(problems)
        apart = {"model", "extra"}
        body = {k: v for k, v in params.items() if k not in apart and v is not None}
        return cls(model=str(model), body=body, extra=dict(extra))  # type: ignore[call-overload]

    @property
    def given_twice(self) -> list[Problem]:
        """The problems with fields that stand in ``extra`` and beside it."""
        twice = sorted(self.extra.keys() & {"model", *self.body})
        allowed = "only what is not given beside it"
        return [Problem(f"extra.{it}", shown(self.extra[it]), allowed) for it in twice]

    def problems_for_model(self) -> list[Problem]:
        """Return what the model does not take as it is given."""
        everything = {**self.body, **self.extra}
        return problems_in(
            self.model, everything, local_media=True, unchecked=self.extra
        )

    def problems_for_any_model(
        self, class_name: str, names: Collection[str], needed: Collection[str]
    ) -> list[Problem]:
        """Return what no model would take, or its class has no place for.

        Args:
            class_name: The request class.
            names: The fields that it has.
            needed: Those of them that it cannot do without.
        """
        missing = [it for it in needed if it not in {*self.body, *self.extra}]
        fitting = {k: v for k, v in self.body.items() if k in names}
        allowed = f"only the fields of {class_name}"
        hint = "Others can be given in extra={...}."
        return [
            *(Problem(it, "nothing", "a value", "It is required.") for it in missing),
            *(
                Problem(name, shown(value), allowed, hint)
                for name, value in self.body.items()
                if name not in names
            ),
            *problems_in_types(fitting, local_media=True),
        ]


def _is_by_name(extra: object) -> bool:
    if not isinstance(extra, Mapping):
        return False
    return all(isinstance(name, str) for name in extra)


def copied(value: object) -> object:
    """Copy what can be changed, so that what was checked is what is sent."""
    if isinstance(value, Mapping):
        return {name: copied(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [copied(item) for item in value]
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else value


@functools.lru_cache(maxsize=1000)
def warn_of_unknown(model: str) -> None:
    """Tell once of a model that is not known, not for each of its requests."""
    if model in MODELS:
        return
    near = nearest_model(model)
    meant = f"; did you mean {near!r}?" if near else ""
    logger.warning(
        "model %r is not known to this version, so its fields are not checked%s",
        model,
        meant,
    )

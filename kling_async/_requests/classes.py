"""Requests, checked against the catalogue when they are made.

So every request that exists can be sent. The class of each kind is in `kinds`, which is
generated. Opens no file; `media` encodes local images.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import ClassVar, TypeVar, cast, get_type_hints

from attrs import NOTHING, asdict, field, fields, frozen

from kling_async._errors import InvalidRequestError, Problem
from kling_async._hooks import logger
from kling_async._requests.catalogue import MODELS, Kind, catalogue_in_use
from kling_async._requests.fields import missing, with_numbers
from kling_async._text import short_repr

RequestT = TypeVar("RequestT", bound="Request")


def check_keywords(cls: type[RequestT]) -> type[RequestT]:
    """Check a class's keywords before Python does, which names only one mistake."""
    bare: Callable[..., None] = cls.__init__
    names = {it.name: it.default for it in fields(cls)}
    # Required fields may be given in extra; then Python must not ask for them.
    empty = {name: None for name, default in names.items() if default is NOTHING}
    # Resolved here: the public module that the class claims lacks these names.
    hints = get_type_hints(cls)
    cls.__annotations__ = {name: hints[name] for name in cls.__annotations__}

    @functools.wraps(bare)
    def check_and_init(self: RequestT, /, **given: object) -> None:
        own = {
            name: _copy(value)
            for name, value in given.items()
            if name in names or value is not None
        }
        _require_valid({"model": names["model"]} | own, cls)
        # A catalogue that is newer than the class may know fields that it lacks.
        newer = {name: own.pop(name) for name in own.keys() - names.keys()}
        if newer:
            own["extra"] = {**newer, **own.get("extra", {})}  # type: ignore[dict-item]
        bare(self, **(empty | own))

    setattr(cls, "__init__", check_and_init)  # noqa: B010 (type checkers know attrs' own)
    _CLASSES.update(dict.fromkeys(cls.kinds, cls))
    return cls


def _copy(value: object) -> object:
    """Copy mutable values, so that nobody changes them after the check."""
    if isinstance(value, Mapping):
        return {name: _copy(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_copy(item) for item in value]
    return bytes(value) if isinstance(value, (bytearray, memoryview)) else value


_CLASSES: dict[Kind, type[Request]] = {}


@check_keywords
@frozen(kw_only=True, repr=False)
class Request:
    """A request of any kind.

    Use it directly only for a model that this version does not know, with all
    fields in ``extra``, unchecked.

    Attributes:
        model: The model's id, as in the vendor's docs.
        extra: Fields that this version does not know; they are sent unchecked.

    Raises:
        InvalidRequestError: The request does not fit the model; the error lists all
            problems.
    """

    kinds: ClassVar[tuple[Kind, ...]] = ()

    model: str
    extra: Mapping[str, object] = field(factory=dict[str, object])

    def to_body(self) -> dict[str, object]:
        """Return the body to send, by the API's names, without None values."""
        known = catalogue_in_use().get(self.model)
        rules = known.fields if known else {}
        body = {
            name: with_numbers(value, rules[name]) if name in rules else value
            for name, value in self._values()
        }
        return body | dict(self.extra)

    def _values(self) -> Iterator[tuple[str, object]]:
        for name in (it.name for it in fields(type(self)) if it.name != "extra"):
            value: object = getattr(self, name)
            if value is not None:
                yield name, value

    def __repr__(self) -> str:
        """Show what was given, with long texts and bytes shortened."""
        given = dict(self._values()) | ({"extra": self.extra} if self.extra else {})
        inner = ", ".join(
            f"{name}={short_repr(value)}" for name, value in given.items()
        )
        return f"{type(self).__name__}({inner})"


def _require_valid(params: Mapping[str, object], cls: type[Request]) -> None:
    """Refuse a request that does not fit its model.

    Raises:
        InvalidRequestError: It does not fit; the error lists all problems.
    """
    name, own, more = _split(params)
    known = catalogue_in_use().get(name)
    problems = [*_find_given_twice(own, more), *_problems_of_kind(name, cls)]
    if not problems and known and cls.kinds:
        problems = catalogue_in_use().problems_in(
            name, {**own, **more}, local_media=True, unchecked=more
        )
    elif not problems:
        problems = _problems_for_any_model(cls, own, more)
    if problems:
        raise InvalidRequestError(problems, model=name)
    _warn_of_model(name)


_APART = {"model", "extra"}


def _split(
    params: Mapping[str, object],
) -> tuple[str, dict[str, object], Mapping[str, object]]:
    """Return the model, the fields that were given, and those of extra.

    Raises:
        InvalidRequestError: No model is named, or extra is not a mapping.
    """
    model, extra = params.get("model", NOTHING), params.get("extra", {})
    problems: list[Problem] = []
    if not isinstance(model, str) or not model.strip():
        given = "nothing" if model is NOTHING else short_repr(model)
        allowed = "the id of a model, such as klingai/v2-master-image-to-video"
        hint = "`kling-async models` lists them."
        problems.append(Problem("model", given, allowed, hint))
    if not isinstance(extra, Mapping) or not all(isinstance(it, str) for it in extra):
        allowed = "a mapping of field to value"
        problems.append(Problem("extra", short_repr(extra), allowed))
    if problems:
        raise InvalidRequestError(problems)
    own = {k: v for k, v in params.items() if k not in _APART and v is not None}
    return str(model), own, cast("Mapping[str, object]", extra)


def _find_given_twice(
    own: Mapping[str, object], extra: Mapping[str, object]
) -> Iterator[Problem]:
    allowed = "only what is not given beside it"
    for name in sorted(extra.keys() & {"model", *own}):
        yield Problem(f"extra.{name}", short_repr(extra[name]), allowed)


def _problems_of_kind(model: str, cls: type[Request]) -> Iterator[Problem]:
    right = class_for(model)
    if cls.kinds and right is not Request and right is not cls:
        allowed = f"a model for {' or '.join(cls.kinds)}"
        hint = f"It is one for {right.__name__}."
        yield Problem("model", repr(model), allowed, hint)


def _problems_for_any_model(
    cls: type[Request], own: Mapping[str, object], extra: Collection[str]
) -> list[Problem]:
    """Return the values that no model takes, or that the class has no field for."""
    names = {it.name: it.default for it in fields(cls) if it.name not in _APART}
    allowed = f"only the fields of {cls.__name__}"
    return [
        *(
            missing(name, "a value")
            for name, default in names.items()
            if default is NOTHING and name not in {*own, *extra}
        ),
        *(
            Problem(name, short_repr(value), allowed, advice="pass_unknown_fields")
            for name, value in own.items()
            if name not in names
        ),
        *catalogue_in_use().problems_in_types(
            {name: value for name, value in own.items() if name in names}
        ),
    ]


@functools.lru_cache(maxsize=1000)
def warn_once(words: str, model: str, more: str) -> None:
    logger.warning(words, model, more)


def _warn_of_model(model: str) -> None:
    """Warn once for each model that is unknown, deprecated or withdrawn."""
    catalogue = catalogue_in_use()
    known = catalogue.get(model)
    if known is not None:
        if known.standing != "current":
            warn_once("model %r is %s by the vendor", model, known.standing)
        return
    near, retired = catalogue.closest(model), catalogue.retired.get(model)
    meant = f"; did you mean {near!r}?" if near else ""
    words = "model %r is not known to this version, so its fields are not checked%s"
    warn_once(words, model, f": {retired}" if retired else meant)


def class_for(model: str) -> type[Request]:
    """Return the class of the requests to a model; `Request` for an unknown one."""
    known = catalogue_in_use().get(model)
    return _CLASSES.get(known.kind, Request) if known else Request


def build_request(params: Mapping[str, object]) -> Request:
    """Make a request from a model and fields by name.

    Raises:
        InvalidRequestError: It does not fit the model.
    """
    model, own, extra = _split(params)
    cls = class_for(model)
    if cls is not Request:
        return cls(**params)  # type: ignore[arg-type]
    types = catalogue_in_use().problems_in_types(own)
    if problems := [*_find_given_twice(own, extra), *types]:
        raise InvalidRequestError(problems, model=model)
    return Request(model=model, extra={**own, **extra})


def request_from(request: Request | None, params: Mapping[str, object]) -> Request:
    """Return a request object, or make one from keywords; not both.

    Raises:
        InvalidRequestError: Both are given, or the request does not fit.
    """
    if request is None:
        return build_request(params)
    if params:
        given = ", ".join(params)
        problem = Problem(
            given,
            "beside a request object",
            "one of the two: a request object, or keywords",
            "Use attrs.evolve(request, ...) to change a request",
        )
        raise InvalidRequestError([problem], model=request.model)
    return _check_again(request)


def _check_again(request: Request) -> Request:
    """Check a request that was made before its model was known."""
    if request.model in catalogue_in_use() and request.model not in MODELS:
        _require_valid(asdict(request, recurse=False), type(request))
    return request


def request_of_many(given: object) -> Request:
    """Return one of many requests, given as an object or a mapping.

    Raises:
        InvalidRequestError: It is neither, or it does not fit the model.
    """
    if isinstance(given, Request):
        return _check_again(given)
    if isinstance(given, Mapping) and all(isinstance(name, str) for name in given):
        return build_request(given)
    allowed = "a request object, or a mapping of field names to values"
    raise InvalidRequestError([Problem("request", short_repr(given), allowed)])

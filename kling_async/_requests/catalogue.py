"""Which Kling models there are, and the fields of each: `catalogue.json`, read.

The file is made by ``nox -s catalogue -- FOLDER`` from the vendor's OpenAPI files.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from pkgutil import get_data
from types import MappingProxyType
from typing import Any, Literal, cast, get_args

from attrs import field, frozen

from kling_async._checks import number_from
from kling_async._errors import ConfigurationError, Problem
from kling_async._requests.fields import Field, FieldType, missing, validate_value
from kling_async._text import closest_match, did_you_mean, short_repr


@frozen(kw_only=True)
class Rule:
    """A rule between several fields of one request.

    Attributes:
        text: The rule in words.
        check: Returns the problem, if a body breaks the rule.
    """

    text: str
    check: Callable[[Mapping[str, object]], Problem | None] = field(repr=False)


def _prompt_or_shots(body: Mapping[str, object]) -> Problem | None:
    has_shots = body.get("multi_prompt") is not None
    if ("prompt" in body) is not has_shots:
        return None
    allowed = "exactly one of prompt and multi_prompt"
    if has_shots:
        return Problem("multi_prompt", "both prompt and multi_prompt", allowed)
    return Problem("prompt", "neither prompt nor multi_prompt", allowed)


def _tail_without_audio(body: Mapping[str, object]) -> Problem | None:
    if "tail_image_url" not in body or body.get("generate_audio", True) is not True:
        return None
    given = "True" if "generate_audio" in body else "nothing, which means True"
    hint = "With sound, this model takes no last frame."
    allowed = "False, since tail_image_url is given"
    return Problem("generate_audio", given, allowed, hint)


def _one_video_element(body: Mapping[str, object]) -> Problem | None:
    elements = body.get("elements")
    if not isinstance(elements, (list, tuple)):
        return None
    videos = sum(isinstance(it, Mapping) and "video_url" in it for it in elements)
    allowed = "at most one element with a video_url"
    return Problem("elements", f"{videos} of them", allowed) if videos > 1 else None


RULES: Mapping[str, Rule] = {
    "prompt_or_shots": Rule(
        text="exactly one of prompt and multi_prompt", check=_prompt_or_shots
    ),
    "one_video_element": Rule(
        text="at most one of the elements with a video_url", check=_one_video_element
    ),
    "tail_without_audio": Rule(
        text="tail_image_url only with generate_audio false", check=_tail_without_audio
    ),
}

Kind = Literal[
    "image-to-video",
    "text-to-video",
    "multi-image-to-video",
    "reference-to-video",
    "video-to-video-edit",
    "video-to-video-reference",
    "motion-control",
    "effects",
    "avatar",
]

Source = Literal["page", "run"]

Standing = Literal["current", "deprecated", "withdrawn"]

KINDS: tuple[Kind, ...] = get_args(Kind)

_USUAL_LENGTH = 5


@frozen(kw_only=True)
class Model:
    """One Kling model: its purpose and its fields.

    Attributes:
        id: The id that a request names.
        kind: What it makes, from what.
        fields: Its fields, legacy ones too.
        required: The fields that must be given.
        rules: Rules between several fields.
        notes: Requirements of the vendor that cannot be checked here.
        durations: How long the work takes, in seconds, by the length of the
            video in seconds; empty if unknown.
        durations_by: How that is known: ``page``, the vendor's page says so;
            ``run``, the page shows one run that took so long.
        price: What a video costs, in USD; None, since the vendor's documents
            name no price. `AsyncKling.price` asks the server.
        aliases: Other names that the vendor accepts for it.
        standing: ``deprecated`` if the vendor advises against it, ``withdrawn`` if
            its documents no longer name it.
    """

    id: str
    kind: Kind
    fields: Mapping[str, Field]
    required: tuple[str, ...] = ()
    rules: tuple[Rule, ...] = ()
    notes: tuple[str, ...] = ()
    durations: Mapping[int, float] = field(factory=dict[int, float])
    durations_by: Source | None = None
    price: float | None = None
    aliases: tuple[str, ...] = ()
    standing: Standing = "current"

    @property
    def legacy_fields(self) -> tuple[str, ...]:
        """The fields that only the vendor's older schema names."""
        return tuple(name for name, it in self.fields.items() if it.legacy)

    @property
    def deprecated(self) -> Mapping[str, str | None]:
        """Deprecated fields, each with the one to use instead; None if there is none.

        If a video begins with an image, it has the image's shape.
        """
        old = [name for name, it in self.fields.items() if it.deprecated]
        instead = None if "aspect_ratio" in old else "aspect_ratio"
        return {name: instead if name == "ratio" else None for name in old}

    def typical_seconds(
        self, video_length_seconds: float | None = None
    ) -> float | None:
        """Return how many seconds a generation takes, or None if unknown.

        Args:
            video_length_seconds: The length of the video; the server's default
                if left out. For a length that is not documented the time is
                scaled from the closest one.
        """
        if not self.durations:
            return None
        duration = self.fields.get("duration")
        default = duration.default if duration else None
        length = video_length_seconds or float(default or _USUAL_LENGTH)
        known = min(self.durations, key=lambda seconds: abs(seconds - length))
        return self.durations[known] * length / known


_SHOWN_MODELS = 2


@frozen(eq=False, repr=False)
class Catalogue(Mapping[str, Model]):
    """Models by id. An alias finds its model, too, and is not listed.

    Attributes:
        retired: Ids that the vendor refuses, with its explanation.
    """

    _models: Mapping[str, Model]
    retired: Mapping[str, str] = field(factory=dict[str, str])
    _aliases: Mapping[str, str] = field(init=False)

    def __attrs_post_init__(self) -> None:
        ids = {alias: it.id for it in self._models.values() for alias in it.aliases}
        object.__setattr__(self, "_aliases", ids)

    def __getitem__(self, name: str) -> Model:
        return self._models[self._aliases.get(name, name)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._models)

    def __len__(self) -> int:
        return len(self._models)

    def closest(self, name: object) -> str | None:
        """Return the known model id that was probably meant."""
        return closest_match(name, self._models)

    def problems_in(
        self,
        model: str,
        body: Mapping[str, object],
        *,
        local_media: bool = False,
        unchecked: Collection[str] = (),
    ) -> list[Problem]:
        """Return everything that is wrong with a body for a model.

        Args:
            model: The model's id. For an unknown one no problem is found.
            body: The request's fields, with or without ``model``.
            local_media: Whether paths and bytes are allowed for media.
            unchecked: Fields that are not checked.
        """
        known = self.get(model)
        if known is None:
            return []
        given = {name: value for name, value in body.items() if name != "model"}
        absent = [name for name in known.required if name not in given]
        problems = [missing(name, known.fields[name].allowed) for name in absent]
        for name, value in given.items():
            rule = known.fields.get(name)
            if name in unchecked:
                continue
            if rule is None:
                problems.append(self._unknown_field(known, name, given))
            else:
                problems += validate_value(name, value, rule, local_media=local_media)
        wrong = {problem.field for problem in problems} | set(unchecked)
        broken = (rule.check(given) for rule in known.rules)
        return problems + [it for it in broken if it and it.field not in wrong]

    def problems_in_types(self, body: Mapping[str, object]) -> list[Problem]:
        """Return the values that no known model takes, for a model that is unknown."""
        problems: list[Problem] = []
        for name, value in body.items():
            taken = (it.fields[name] for it in self.values() if name in it.fields)
            rules = [it.of_any_size() for it in {id(it): it for it in taken}.values()]
            tries = [
                list(validate_value(name, value, rule, local_media=True))
                for rule in rules
            ]
            if tries and all(tries):
                problems += tries[0]
        return problems

    def _unknown_field(
        self, model: Model, name: str, given: Mapping[str, object]
    ) -> Problem:
        meant = did_you_mean(name, [it for it in model.fields if it not in given])
        hints = [hint for hint in (meant, self._takers_of(name, model.kind)) if hint]
        return Problem(
            field=name,
            given=short_repr(given[name]),
            allowed=f"only {', '.join(model.fields)}",
            hint=" ".join(hints) or None,
        )

    def _takers_of(self, name: str, kind: Kind) -> str | None:
        """Say which models take a field, naming the newest of the same kind."""
        takers = [model for model in self.values() if name in model.fields]
        if not takers:
            return None
        takers.sort(key=lambda it: (it.kind == kind, not it.fields[name].legacy))
        names = ", ".join(model.id for model in takers[-_SHOWN_MODELS:])
        if len(takers) > _SHOWN_MODELS:
            names = f"{len(takers)} other models, such as {names}"
        return f"{name!r} is taken by {names}."


def read_catalogue(text: str) -> Catalogue:
    """Read a catalogue from the text of its file.

    Raises:
        ValueError: It is not a catalogue; this may also be a KeyError, TypeError or
            AttributeError.
    """
    data = json.loads(text)
    if data["version"] != _VERSION:
        raise ValueError(f"its version is {data['version']!r}, not {_VERSION}")
    named = {name: _read_field(it) for name, it in data["fields"].items()}
    models = {id_: _read_model(id_, it, named) for id_, it in data["models"].items()}
    return Catalogue(MappingProxyType(models), MappingProxyType(data["retired"]))


_VERSION = 1


def _read_field(data: dict[str, object]) -> Field:
    inner = cast("dict[str, dict[str, object]]", data.get("properties", {}))
    items = cast("dict[str, object] | None", data.get("items"))
    read = _with_tuples(data) | {
        "items": _read_field(items) if items else None,
        "properties": {name: _read_field(it) for name, it in inner.items()},
    }
    if data["type"] not in get_args(FieldType):
        raise ValueError(f"a field is of type {data['type']!r}")
    return Field(**read)  # type: ignore[arg-type] # what does not fit is a TypeError


def _read_model(
    model_id: str, data: dict[str, Any], named: Mapping[str, Field]
) -> Model:
    fields = {name.partition("#")[0]: named[name] for name in data["fields"]}
    durations = {int(k): v for k, v in data.get("durations", {}).items()}
    read = _with_tuples(data) | {
        "fields": MappingProxyType(fields),
        "rules": tuple(RULES[name] for name in data.get("rules", ())),
        "durations": MappingProxyType(durations),
    }
    return Model(id=model_id, **read)  # type: ignore[arg-type] # as for a field


def _with_tuples(data: dict[str, object]) -> dict[str, object]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}


def load_catalogue(path: str | os.PathLike[str]) -> Catalogue:
    """Read a catalogue that is newer than the one in the package.

    Args:
        path: A file as ``nox -s catalogue`` makes it: the package's own is
            ``kling_async/_requests/catalogue.json``.

    Raises:
        ConfigurationError: It cannot be read, or is not a catalogue.
    """
    try:
        return read_catalogue(Path(path).read_text("utf-8"))
    except OSError as error:
        why = error.strerror or str(error)
        raise ConfigurationError(f"catalogue: cannot read {path}: {why}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ConfigurationError(
            f"catalogue: {path} is not one that this version can read ({error!r})"
        ) from error


# In a zip file too. importlib.resources does so as well, and takes ten times as long.
MODELS = read_catalogue((get_data(__name__, "catalogue.json") or b"").decode())
"""Every Kling video model that the vendor documents."""

_IN_USE: ContextVar[Catalogue] = ContextVar("catalogue", default=MODELS)


def catalogue_in_use() -> Catalogue:
    """Return the catalogue that requests are checked against."""
    return _IN_USE.get()


@contextmanager
def use_catalogue(catalogue: Catalogue) -> Generator[None]:
    """Check requests against another catalogue, until the block ends."""
    token = _IN_USE.set(catalogue)
    try:
        yield
    finally:
        _IN_USE.reset(token)


def video_length(body: Mapping[str, object]) -> float | None:
    """Return the length of the video that a request asks for, in seconds.

    That of the whole, else of its shots together, else the server's default; None if
    nobody can know it, as where a video is sent along.

    Args:
        body: The request by the wire's names, with its ``model``; it need not be valid.
    """
    given = body.get("duration")
    if given is not None:
        return _seconds(given)
    shots = body.get("multi_prompt")
    if isinstance(shots, Sequence) and not isinstance(shots, str):
        lengths = [
            _seconds(it.get("duration")) for it in shots if isinstance(it, Mapping)
        ]
        if lengths and None not in lengths:
            return math.fsum(filter(None, lengths))
    known = catalogue_in_use().get(str(body["model"]))
    duration = known.fields.get("duration") if known else None
    return _seconds(duration.default) if duration else None


def _seconds(value: object) -> float | None:
    number = number_from(value)
    return None if number is None or number < 0 else number

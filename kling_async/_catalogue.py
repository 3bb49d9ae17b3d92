"""Which Kling models there are and what each takes, as data.

One table, from the vendor's OpenAPI files of August 2026; a new model is one
more line in it. Sends nothing and opens no file.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from types import MappingProxyType
from typing import Literal, get_args

from attrs import field, frozen

from kling_async import _families as of
from kling_async._checking import problems_with
from kling_async._errors import Problem
from kling_async._families import LEGACY_FIELDS, Family, Rule
from kling_async._fields import Field, did_you_mean, nearest, shown

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
Source = Literal["vendor", "reseller"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@frozen(kw_only=True)
class Model:
    """One Kling model: what it is for and what it takes.

    Attributes:
        id: The id that a request names.
        kind: What it makes of what.
        fields: What each field takes, legacy ones too.
        required: The fields that must be given.
        rules: What holds between several fields.
        notes: What the vendor asks that cannot be checked here.
        durations: How long the work takes, in seconds, by the length of the
            video in seconds; empty where nobody says.
        durations_by: Who says so: the vendor, or a reseller of the same model.
        price: What a video costs, in USD; None, since the vendor's documents
            name no price. `AsyncKling.price` asks the server.
    """

    id: str
    kind: Kind
    fields: Mapping[str, Field]
    required: tuple[str, ...]
    rules: tuple[Rule, ...] = ()
    notes: tuple[str, ...] = ()
    durations: Mapping[int, float] = field(factory=dict[int, float])
    durations_by: Source | None = None
    price: float | None = None

    @property
    def legacy_fields(self) -> tuple[str, ...]:
        """The fields that only the older of the vendor's schemas names."""
        return tuple(name for name, it in self.fields.items() if it.legacy)

    @property
    def deprecated(self) -> Mapping[str, str]:
        """Deprecated field names, each with the name to use in its place."""
        both = "ratio" in self.fields and "aspect_ratio" in self.fields
        return {"ratio": "aspect_ratio"} if both else {}

    def typical_seconds(
        self, video_length_seconds: float | None = None
    ) -> float | None:
        """Return how long a generation takes, or None where nobody says.

        Args:
            video_length_seconds: The length of the video; the server's default
                if left out. A length that nobody speaks of is taken in
                proportion to the nearest one.
        """
        if not self.durations:
            return None
        default = self.fields["duration"].default
        length = video_length_seconds or float(default or 5)
        known = min(self.durations, key=lambda seconds: abs(seconds - length))
        return self.durations[known] * length / known


_I: Kind = "image-to-video"
_T: Kind = "text-to-video"
_OLD_IMAGE, _OLD_TASK = "ratio aspect_ratio", "type external_task_id"

# id, kind, fields, and what only the older of its schemas names
_TABLE: tuple[tuple[str, Kind, Family, str], ...] = (
    ("kling-video/v1/standard/image-to-video", _I, of.IMAGE_1, _OLD_IMAGE),
    ("kling-video/v1/pro/image-to-video", _I, of.IMAGE_1, _OLD_IMAGE),
    ("kling-video/v1.5/standard/image-to-video", _I, of.IMAGE_1, _OLD_TASK),
    ("kling-video/v1.5/pro/image-to-video", _I, of.IMAGE_1, ""),
    (
        "kling-video/v1.6/standard/image-to-video",
        _I,
        of.IMAGE_PLAIN,
        f"tail_image_url {_OLD_IMAGE}",
    ),
    ("kling-video/v1.6/pro/image-to-video", _I, of.IMAGE_1, _OLD_IMAGE),
    ("kling-video/v2.1/standard/image-to-video", _I, of.IMAGE_2, _OLD_TASK),
    ("kling-video/v2.1/pro/image-to-video", _I, of.IMAGE_2, ""),
    ("klingai/v2-master-image-to-video", _I, of.IMAGE_2.plus("provider"), ""),
    ("klingai/v2.1-master-image-to-video", _I, of.IMAGE_2.plus("provider"), ""),
    ("klingai/v2.5-turbo/pro/image-to-video", _I, of.IMAGE_PLAIN, ""),
    ("klingai/video-v2-6-pro-image-to-video", _I, of.IMAGE_26, "tail_image_url"),
    ("klingai/video-o1-image-to-video", _I, of.O1_IMAGE, ""),
    ("klingai/video-v3-standard-image-to-video", _I, of.IMAGE_3, ""),
    ("klingai/video-v3-pro-image-to-video", _I, of.IMAGE_3, ""),
    ("klingai/video-v3-standard-turbo-image-to-video", _I, of.IMAGE_TURBO, ""),
    ("klingai/video-v3-turbo-pro-image-to-video", _I, of.IMAGE_TURBO, ""),
    ("klingai/video-v3-omni-720p-image-to-video", _I, of.IMAGE_OMNI, ""),
    ("klingai/video-v3-omni-1080p-image-to-video", _I, of.IMAGE_OMNI, ""),
    ("kling-video/v1/standard/text-to-video", _T, of.TEXT_1, "ratio"),
    ("kling-video/v1/pro/text-to-video", _T, of.TEXT_1, "ratio"),
    ("kling-video/v1.5/pro/text-to-video", _T, of.TEXT_1, ""),
    ("kling-video/v1.6/standard/text-to-video", _T, of.TEXT_PLAIN, "ratio"),
    ("kling-video/v1.6/pro/text-to-video", _T, of.TEXT_1, ""),
    ("klingai/v2-master-text-to-video", _T, of.TEXT_1.plus("provider"), ""),
    ("klingai/v2.1-master-text-to-video", _T, of.TEXT_1.plus("provider"), ""),
    ("klingai/v2.5-turbo/pro/text-to-video", _T, of.TEXT_PLAIN, ""),
    ("klingai/video-v2-6-pro-text-to-video", _T, of.TEXT_26, ""),
    ("klingai/video-v3-standard-text-to-video", _T, of.TEXT_3, ""),
    ("klingai/video-v3-pro-text-to-video", _T, of.TEXT_3, ""),
    ("klingai/video-v3-standard-turbo-text-to-video", _T, of.TEXT_TURBO, ""),
    ("klingai/video-v3-turbo-pro-text-to-video", _T, of.TEXT_TURBO, ""),
    ("klingai/video-v3-omni-720p-text-to-video", _T, of.TEXT_OMNI, ""),
    ("klingai/video-v3-omni-1080p-text-to-video", _T, of.TEXT_OMNI, ""),
    (
        "kling-video/v1.6/standard/multi-image-to-video",
        "multi-image-to-video",
        of.SEVERAL_IMAGES,
        "",
    ),
    (
        "klingai/video-o1-reference-to-video",
        "reference-to-video",
        of.O1_REFERENCE,
        "",
    ),
    ("klingai/video-o1-video-to-video-edit", "video-to-video-edit", of.O1_EDIT, ""),
    (
        "klingai/video-o1-video-to-video-reference",
        "video-to-video-reference",
        of.O1_VIDEO,
        "",
    ),
    ("klingai/video-v2-6-motion-control", "motion-control", of.MOTION, ""),
    ("klingai/video-v3-motion-control", "motion-control", of.MOTION, ""),
    ("klingai/kling-video-v1.6-standard-effects", "effects", of.EFFECTS, ""),
    ("klingai/kling-video-v1.6-pro-effects", "effects", of.EFFECTS, ""),
    ("klingai/avatar-standard", "avatar", of.AVATAR, ""),
    ("klingai/avatar-pro", "avatar", of.AVATAR, ""),
)

# Seconds of work by seconds of video: the middle of what is documented, and who
# documents it. Nothing is said of the other models.
_MASTER: tuple[Mapping[int, float], Source] = ({5: 330.0, 10: 750.0}, "vendor")
_DURATIONS: Mapping[str, tuple[Mapping[int, float], Source]] = {
    "klingai/v2-master-image-to-video": _MASTER,
    "klingai/v2-master-text-to-video": _MASTER,
    "klingai/v2.1-master-image-to-video": _MASTER,
    "klingai/v2.1-master-text-to-video": _MASTER,
    "kling-video/v2.1/pro/image-to-video": ({5: 210.0, 10: 420.0}, "vendor"),
    "klingai/video-v3-standard-image-to-video": ({5: 135.0}, "reseller"),
    "klingai/video-v3-standard-text-to-video": ({5: 135.0}, "reseller"),
    "klingai/video-v3-pro-image-to-video": ({5: 135.0}, "reseller"),
    "klingai/video-v3-pro-text-to-video": ({5: 135.0}, "reseller"),
}


def _model(model_id: str, kind: Kind, family: Family, legacy: str) -> Model:
    durations, durations_by = _DURATIONS.get(model_id, ({}, None))
    return Model(
        id=model_id,
        kind=kind,
        fields=MappingProxyType(
            family.fields | {name: LEGACY_FIELDS[name] for name in legacy.split()}
        ),
        required=family.required,
        rules=family.rules,
        notes=family.notes,
        durations=durations,
        durations_by=durations_by,
    )


MODELS: Mapping[str, Model] = MappingProxyType(
    {line[0]: _model(*line) for line in _TABLE}
)
"""Every Kling video model that the vendor documents, by its id."""

_SHOWN_MODELS = 2


def problems_in(
    model: str,
    body: Mapping[str, object],
    *,
    local_media: bool = False,
    unchecked: Collection[str] = (),
) -> list[Problem]:
    """Return everything that is wrong with a body for a model.

    Args:
        model: The model's id. Of an unknown one nothing is known to be wrong.
        body: The request as on the wire, with or without ``model``.
        local_media: Whether paths and bytes may stand where media is taken.
        unchecked: Fields that are taken as they are.
    """
    known = MODELS.get(model)
    if known is None:
        return []
    given = {name: value for name, value in body.items() if name != "model"}
    problems = list(_missing(known, given))
    for name, value in given.items():
        rule = known.fields.get(name)
        if name in unchecked:
            continue
        if rule is None:
            problems.append(_not_taken(known, name, value))
        else:
            problems += problems_with(name, value, rule, local_media=local_media)
    wrong = {problem.field for problem in problems} | set(unchecked)
    broken = (rule.check(given) for rule in known.rules)
    return problems + [it for it in broken if it and it.field not in wrong]


def problems_in_types(
    body: Mapping[str, object], *, local_media: bool = False
) -> list[Problem]:
    """Return what no Kling model would take, for a model that is unknown."""
    problems: list[Problem] = []
    for name, value in body.items():
        tries = [
            list(
                problems_with(name, value, rule.of_any_size(), local_media=local_media)
            )
            for rule in {id(it): it for it in _every_field(name)}.values()
        ]
        if tries and all(tries):
            problems += tries[0]
    return problems


def _every_field(name: str) -> Iterator[Field]:
    for model in MODELS.values():
        if name in model.fields:
            yield model.fields[name]


def _missing(model: Model, given: Mapping[str, object]) -> Iterator[Problem]:
    for name in model.required:
        if name not in given:
            allowed = model.fields[name].allowed
            yield Problem(name, "nothing", allowed, "It is required.")


def _not_taken(model: Model, name: str, value: object) -> Problem:
    meant = did_you_mean(name, model.fields)
    hints = [hint for hint in (meant, _taken_by(name)) if hint]
    return Problem(
        field=name,
        given=shown(value),
        allowed=f"only {', '.join(model.fields)}",
        hint=" ".join(hints) or None,
    )


def _taken_by(name: str) -> str | None:
    takers = [model.id for model in MODELS.values() if name in model.fields]
    if not takers:
        return None
    names = ", ".join(takers[-_SHOWN_MODELS:])
    if len(takers) <= _SHOWN_MODELS:
        return f"It is taken by {names}."
    return f"It is taken by {len(takers)} other models, such as {names}."


def nearest_model(model_id: object) -> str | None:
    """Return the known model id that was probably meant."""
    return nearest(model_id, MODELS)

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
Source = Literal["page", "run"]
KINDS: tuple[Kind, ...] = get_args(Kind)
_USUAL_LENGTH = 5


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
        durations_by: How that is known: ``page``, the vendor's page says so;
            ``run``, it shows one run that took as long.
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
    def deprecated(self) -> Mapping[str, str | None]:
        """Deprecated fields, each with the one to use instead; None if there is none.

        Where a video begins with an image, its shape is that of the image.
        """
        old = [name for name, it in self.fields.items() if it.deprecated]
        instead = None if "aspect_ratio" in old else "aspect_ratio"
        return {name: instead if name == "ratio" else None for name in old}

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
        duration = self.fields.get("duration")
        default = duration.default if duration else None
        length = video_length_seconds or float(default or _USUAL_LENGTH)
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

# Seconds of work by seconds of video, from the vendor's pages of August 2026: the
# middle of what a page says, or what the run took that it shows. Where the length
# hangs on a sound or a video that was given, it is taken for 5 s.
_MASTER = {5: 330.0, 10: 750.0}
_PLAIN_2_1 = {5: 210.0, 10: 420.0}
_SAID: Mapping[str, Mapping[int, float]] = {
    "klingai/v2-master-image-to-video": _MASTER,
    "klingai/v2-master-text-to-video": _MASTER,
    "klingai/v2.1-master-image-to-video": _MASTER,
    "klingai/v2.1-master-text-to-video": _MASTER,
    "kling-video/v2.1/standard/image-to-video": _PLAIN_2_1,
    "kling-video/v2.1/pro/image-to-video": _PLAIN_2_1,
}
_SHOWN: Mapping[str, Mapping[int, float]] = {
    "kling-video/v1/standard/image-to-video": {5: 249},
    "kling-video/v1/pro/image-to-video": {5: 204},
    "kling-video/v1.6/standard/image-to-video": {5: 122},
    "kling-video/v1.6/pro/image-to-video": {5: 186},
    "klingai/v2.5-turbo/pro/image-to-video": {5: 130},
    "klingai/video-v2-6-pro-image-to-video": {5: 110},
    "klingai/video-o1-image-to-video": {5: 79},
    "klingai/video-v3-standard-image-to-video": {10: 235},
    "klingai/video-v3-pro-image-to-video": {10: 401},
    "kling-video/v1/standard/text-to-video": {5: 322},
    "kling-video/v1/pro/text-to-video": {5: 78},
    "kling-video/v1.6/standard/text-to-video": {5: 186},
    "kling-video/v1.6/pro/text-to-video": {5: 186},
    "klingai/v2.5-turbo/pro/text-to-video": {5: 160},
    "klingai/video-v2-6-pro-text-to-video": {5: 152},
    "klingai/video-v3-standard-text-to-video": {8: 431},
    "klingai/video-v3-pro-text-to-video": {8: 381},
    "kling-video/v1.6/standard/multi-image-to-video": {5: 127},
    "klingai/video-o1-reference-to-video": {5: 126},
    "klingai/video-o1-video-to-video-edit": {5: 235},
    "klingai/video-o1-video-to-video-reference": {5: 203},
    "klingai/video-v2-6-motion-control": {5: 356},
    "klingai/kling-video-v1.6-standard-effects": {5: 100},
    "klingai/kling-video-v1.6-pro-effects": {5: 120},
    "klingai/avatar-standard": {5: 240},
    "klingai/avatar-pro": {5: 530},
}


def _model(model_id: str, kind: Kind, family: Family, legacy: str) -> Model:
    said, shown_run = _SAID.get(model_id, {}), _SHOWN.get(model_id, {})
    return Model(
        id=model_id,
        kind=kind,
        fields=MappingProxyType(
            family.fields | {name: LEGACY_FIELDS[name] for name in legacy.split()}
        ),
        required=family.required,
        rules=family.rules,
        notes=family.notes,
        durations=MappingProxyType(dict(said or shown_run)),
        durations_by="page" if said else "run" if shown_run else None,
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
            problems.append(_not_taken(known, name, given))
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


def _not_taken(model: Model, name: str, given: Mapping[str, object]) -> Problem:
    meant = did_you_mean(name, [it for it in model.fields if it not in given])
    hints = [hint for hint in (meant, _taken_by(name, model.kind)) if hint]
    return Problem(
        field=name,
        given=shown(given[name]),
        allowed=f"only {', '.join(model.fields)}",
        hint=" ".join(hints) or None,
    )


def _taken_by(name: str, kind: Kind) -> str | None:
    """Return which models take a field, the newest of the same kind named."""
    takers = [model for model in MODELS.values() if name in model.fields]
    if not takers:
        return None
    takers.sort(key=lambda model: (model.kind == kind, not model.fields[name].legacy))
    names = ", ".join(model.id for model in takers[-_SHOWN_MODELS:])
    if len(takers) <= _SHOWN_MODELS:
        return f"It is taken by {names}."
    return f"It is taken by {len(takers)} other models, such as {names}."


def nearest_model(model_id: object) -> str | None:
    """Return the known model id that was probably meant."""
    return nearest(model_id, MODELS)

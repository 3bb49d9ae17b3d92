"""Make the catalogue of models from a folder of the vendor's OpenAPI files.

    nox -s catalogue -- FOLDER

writes `kling_async/_requests/catalogue.json`, and from it the request classes and the
types of their fields; then it says, model by model, what has changed. What the files do
not say stands in `catalogue.toml` beside this file. Files that contradict each other,
and changes that break programs, are told, and nothing is written.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeAlias, get_args

from attrs import asdict, define, evolve, field, fields, frozen
from make_requests import generated

from kling_async._requests.catalogue import (
    RULES,
    Catalogue,
    Model,
    Source,
    read_catalogue,
)
from kling_async._requests.fields import Field, FieldType

ROOT = Path(__file__).parents[2]
HOME = ROOT / "kling_async" / "_requests"
OWN = Path(__file__).with_name("catalogue.toml")

Json: TypeAlias = Any
"""What a JSON or TOML file holds: looked at piece by piece, as it is read."""


class Refused(Exception):  # noqa: N818 (what was found, not a fault of the program)
    """Nothing is written, since something is wrong; each line says what."""


def matching(patterns: Sequence[str], text: str) -> bool:
    """Whether a text fits one of the patterns, in which a star stands for anything."""
    return any(fnmatchcase(text, pattern) for pattern in patterns)


@define(eq=False)
class Reading:
    """What a folder of OpenAPI files says of each model, and what is wrong there.

    Attributes:
        own: What the files do not say: the content of `catalogue.toml`.
        newer: The schema of each model, and the file that it is from.
        older: Those of its older schemas.
        problems: What is wrong, a line each.
    """

    own: Json
    newer: dict[str, tuple[str, Json]] = field(factory=dict)
    older: dict[str, list[Json]] = field(factory=dict)
    problems: list[str] = field(factory=list)

    def read(self, folder: Path) -> None:
        """Read every file of a folder, and of those in it."""
        files = sorted(folder.rglob("*.json"))
        if not files:
            self.problems.append(f"{folder}: there is no JSON file in it")
        for path in files:
            try:
                self._read_file(path.name, json.loads(path.read_text("utf-8")))
            except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
                self.problems.append(f"{path.name}: no OpenAPI file ({error!r})")

    def _read_file(self, name: str, data: Json) -> None:
        if "openapi" not in data:
            raise ValueError("it has no key 'openapi'")
        for path, verbs in data["paths"].items():
            if "post" not in verbs or not path.endswith(tuple(self.own["paths"])):
                continue
            content = verbs["post"]["requestBody"]["content"]
            schema = content["application/json"]["schema"]
            is_older = path != self.own["paths"][0] or matching(self.own["older"], name)
            for model in schema["properties"]["model"]["enum"]:
                if not re.match(self.own["models"], model):
                    continue
                if is_older:
                    self.older.setdefault(model, []).append(schema)
                else:
                    self._add(model, name, schema)

    def _add(self, model: str, name: str, schema: Json) -> None:
        first, known = self.newer.setdefault(model, (name, schema))
        if known["properties"].keys() != schema["properties"].keys() or any(
            known["properties"][it] != schema["properties"][it]
            for it in known["properties"]
            if it != "model"
        ):
            self.problems.append(
                f"{model}: {first} and {name} give it different fields; name the "
                "older of the files under `older` in catalogue.toml"
            )

    def models(self) -> Iterator[Model]:
        """Make each model, as far as the files and our own words allow."""
        for model in self.newer.keys() | self.older.keys():
            kinds = [it for start, it in self.own["kinds"] if fnmatchcase(model, start)]
            if not kinds:
                self.problems.append(
                    f"{model}: no pattern under `kinds` in catalogue.toml fits it"
                )
                continue
            try:
                yield self._model(model, kinds[0])
            except (ValueError, KeyError, TypeError) as error:
                self.problems.append(f"{model}: its schema cannot be read ({error!r})")

    def _model(self, model: str, kind: Json) -> Model:
        older = self.older.get(model, [])
        schema = self.newer[model][1] if model in self.newer else older[0]
        taken = self._fields(model, schema)
        for one in older:
            for name, it in self._fields(model, one).items():
                if name not in taken:
                    taken[name] = evolve(it, legacy=True)
        own = self.own
        durations: dict[int, float] = {}
        by: Source | None = None
        sources: tuple[Source, ...] = ("run", "page")
        for source in sources:
            if said := own["durations"][source].get(model):
                durations, by = {int(k): float(v) for k, v in said.items()}, source
        short = model.partition("/")[2]
        return Model(
            id=model,
            kind=kind,
            fields=taken,
            required=tuple(it for it in schema["required"] if it != "model"),
            rules=tuple(
                RULES[it] for it, ms in own["rules_of"].items() if matching(ms, model)
            ),
            notes=tuple(it["text"] for it in own["notes"] if it["field"] in taken),
            durations=durations,
            durations_by=by,
            aliases=(short, *own["aliases"].get(model, ())),
            standing=own["standing"].get(model, "current"),
        )

    def _fields(self, model: str, schema: Json) -> dict[str, Field]:
        return {
            name: self._field(model, name, it)
            for name, it in schema["properties"].items()
            if name != "model"
        }

    def _field(self, model: str, path: str, schema: Json) -> Field:
        """Read the schema of one field; ``[]`` in its path stands for an item."""
        own = self.own
        if "anyOf" in schema:  # one, or a list of such
            one, many = schema["anyOf"]
            if many.get("items") != one:
                raise ValueError(f"{path}: {schema['anyOf']} is not one, or many of it")
            return evolve(self._field(model, path, one), or_list=True)
        last = re.split(r"[.\[]", path.removesuffix("[]"))[-1]
        is_text = schema["type"] == "string"
        medium = own["media"].get(last) if is_text else None
        kind = "media" if medium else schema["type"]
        if kind not in get_args(FieldType):
            raise ValueError(f"{path} is of type {kind!r}")
        default = schema.get("default")
        given: dict[str, Json] = {
            "type": kind,
            "choices": tuple(schema.get("enum", ())),
            "minimum": schema.get("minimum"),
            "maximum": schema.get("maximum"),
            "max_length": schema.get("maxLength"),
            "min_items": schema.get("minItems"),
            "max_items": schema.get("maxItems"),
            "nullable": schema.get("nullable", False),
            "deprecated": schema.get("deprecated", False),
            "default": int(default) if kind == "integer" and default else default,
            "medium": medium,
            "max_bytes": own["max_bytes"].get(medium),
        }
        if "items" in schema:
            given["items"] = self._field(model, f"{path}[]", schema["items"])
        if "properties" in schema:
            inner = schema["properties"].items()
            given["properties"] = {
                name: self._field(model, f"{path}.{name}", it) for name, it in inner
            }
            given["required"] = tuple(schema.get("required", ()))
        for special in own["special"]:
            models = special.get("models", ["*"])
            if (
                path in special["fields"]
                and schema["type"] == special.get("type", schema["type"])
                and matching(models, model)
            ):
                given |= special["takes"]
        spelt = {k: v for k, v in own["spellings"].items() if k in given["choices"]}
        return Field(**given, aliases=spelt)


def order(catalogue: Sequence[Model], own: Json, before: Catalogue) -> list[Model]:
    """Sort models: by kind, then as before, new ones at the end of their kind."""
    kinds = [kind for it in own["classes"].values() for kind in it["kinds"]]
    known = {model: number for number, model in enumerate(before)}

    def key(model: Model) -> tuple[int, int, list[object]]:
        parts = [int(it) if it.isdigit() else -1 for it in re.findall(r"\d+", model.id)]
        return (
            kinds.index(model.kind),
            known.get(model.id, len(known)),
            [parts, model.id],
        )

    return sorted(catalogue, key=key)


# --- what has changed, in words


@frozen
class Change:
    """One difference between two catalogues.

    Attributes:
        text: What it is.
        breaks: Whether a program that worked may be refused now.
    """

    text: str
    breaks: bool = False


def changes(before: Catalogue, after: Catalogue) -> Iterator[Change]:
    """Say what is new, other or gone, model by model."""
    for name, model in after.items():
        if name not in list(before):
            yield Change(f"{name}: new, {model.kind}; takes {', '.join(model.fields)}")
            continue
        old = before[name]
        for text in _difference(old, model):
            yield Change(f"{name}: {text}")
        for path in model.fields.keys() - old.fields.keys():
            yield Change(f"{name}: takes {path} now: {model.fields[path].allowed}")
        for path, it in old.fields.items():
            if path not in model.fields:
                yield Change(f"{name}: {path} is gone", breaks=True)
                continue
            for change in _field_changes(path, it, model.fields[path]):
                yield evolve(change, text=f"{name}: {change.text}")
    for name in before:
        if name not in list(after):
            yield Change(f"{name}: gone", breaks=True)


def _difference(old: Model, new: Model) -> Iterator[str]:
    for name in ("kind", "durations", "aliases", "standing", "notes"):
        was, now = getattr(old, name), getattr(new, name)
        if was != now:
            yield f"{name} was {was}, is {now}"
    if {it.text for it in old.rules} != {it.text for it in new.rules}:
        yield f"rules are {[it.text for it in new.rules]}"
    for name in set(new.required) - set(old.required):
        yield f"{name} is required now"
    for name in set(old.required) - set(new.required):
        yield f"{name} is no longer required"


def _field_changes(path: str, old: Field, new: Field) -> Iterator[Change]:
    if old.type != new.type:
        yield Change(f"{path}: its type was {old.type}, is {new.type}", breaks=True)
        return
    if lost := [it for it in old.choices if it not in new.choices and new.choices]:
        words = ", ".join(map(str, lost))
        yield Change(f"{path}: no longer takes {words}", breaks=True)
    if more := [it for it in new.choices if it not in old.choices]:
        yield Change(f"{path}: takes {', '.join(map(str, more))} now")
    for it in fields(Field):
        was, now = getattr(old, it.name), getattr(new, it.name)
        if it.name not in {"type", "choices", "items", "properties"} and was != now:
            yield Change(f"{path}: {it.name} was {was}, is {now}")
    if old.items and new.items:
        yield from _field_changes(f"{path}[]", old.items, new.items)
    for name in {**old.properties, **new.properties}:
        inner = f"{path}.{name}"
        if name not in new.properties:
            yield Change(f"{inner} is gone", breaks=True)
        elif name not in old.properties:
            yield Change(f"{inner}: new: {new.properties[name].allowed}")
        else:
            yield from _field_changes(inner, old.properties[name], new.properties[name])


# --- the data


def as_data(models: Sequence[Model], own: Json) -> Json:
    """Return the catalogue as JSON: each distinct field once, by name."""
    named: dict[str, Json] = {}
    data: dict[str, Json] = {}
    for model in models:
        names = []
        for name, it in model.fields.items():
            shape, number = field_data(it), 1
            while named.setdefault(label := _label(name, number), shape) != shape:
                number += 1
            names.append(label)
        said = {
            "kind": model.kind,
            "required": list(model.required),
            "fields": names,
            "rules": [it for it, rule in RULES.items() if rule in model.rules],
            "notes": list(model.notes),
            "durations": {str(k): v for k, v in model.durations.items()},
            "durations_by": model.durations_by,
            "aliases": list(model.aliases),
            "standing": model.standing,
        }
        data[model.id] = {k: v for k, v in said.items() if v and v != "current"}
    return {
        "version": 1,
        "source": own["source"],
        "fields": named,
        "models": data,
        "retired": own["retired"],
    }


def _label(name: str, number: int) -> str:
    return name if number == 1 else f"{name}#{number}"


def field_data(it: Field) -> Json:
    """Return a field as JSON, without what it leaves at its default."""

    def is_said(attribute: Any, value: object) -> bool:
        return (
            value not in (None, attribute.default, {}, ()) or attribute.name == "type"
        )

    return json.loads(json.dumps(asdict(it, filter=is_said)))


def written(data: Json) -> str:
    """Write JSON a line for each field and a few for each model, to be read."""
    lines = ["{"]
    for key, value in data.items():
        end = "" if key == list(data)[-1] else ","
        if not isinstance(value, dict):
            lines.append(f" {json.dumps(key)}: {json.dumps(value)}{end}")
            continue
        lines.append(f" {json.dumps(key)}: {{")
        for name, it in value.items():
            rest = "" if name == list(value)[-1] else ","
            if key == "models":
                inner = ",\n".join(
                    f"   {json.dumps(k)}: {json.dumps(v)}" for k, v in it.items()
                )
                lines.append(f"  {json.dumps(name)}: {{\n{inner}\n  }}{rest}")
            else:
                lines.append(f"  {json.dumps(name)}: {json.dumps(it)}{rest}")
        lines.append(f" }}{end}")
    return "\n".join([*lines, "}"]) + "\n"


def own_words(path: Path = OWN) -> Json:
    """Read what the vendor's files do not say."""
    return tomllib.loads(path.read_text("utf-8"))


def make(folder: Path, own: Json, before: Catalogue) -> tuple[str, list[Change]]:
    """Return the new catalogue as text, and what has changed.

    Raises:
        Refused: The files are wrong, or contradict each other.
    """
    reading = Reading(own)
    reading.read(folder)
    models = order(list(reading.models()), own, before)
    if reading.problems:
        raise Refused("\n".join(reading.problems))
    text = written(as_data(models, own))
    return text, list(changes(before, read_catalogue(text)))


def main(arguments: Sequence[str]) -> int:
    """Run the command; 1 if nothing was written."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the vendor's OpenAPI files")
    parser.add_argument(
        "--accept", action="store_true", help="write also what breaks programs"
    )
    given = parser.parse_args(arguments)
    data = HOME / "catalogue.json"
    before = read_catalogue(data.read_text("utf-8"))
    own = own_words()
    try:
        text, found = make(given.folder, own, before)
    except Refused as refused:
        print(f"{refused}\nNothing is written.", file=sys.stderr)
        return 1
    for change in found:
        print(("BREAKS  " if change.breaks else "        ") + change.text)
    if any(it.breaks for it in found) and not given.accept:
        print("Nothing is written; --accept takes it over all the same.")
        return 1
    data.write_text(text, "utf-8")
    for name, code in generated(read_catalogue(text), own).items():
        (HOME / name).write_text(code, "utf-8")
    print(f"{len(found)} changes." if found else "Nothing has changed.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

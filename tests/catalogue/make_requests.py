"""Write the request classes, and the types of their fields, from the catalogue.

The words are those of `catalogue.toml`; everything else is in the catalogue once.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from kling_async._requests.catalogue import Catalogue, Model
from kling_async._requests.fields import Field

Json: TypeAlias = Any

ROOT = Path(__file__).parents[2]

_HEAD = '''"""{title}

Made by `nox -s catalogue`, never edited: see docs/contributing.md.
"""

{imports}
'''

_INLINE = 4  # so many choices are written where they are used; more have a name

_MEDIA = '''Media: TypeAlias = str | bytes | os.PathLike[str]
"""A web address, a base64 data URI, the path of a local file, or its bytes."""
'''


def _camel(path: str) -> str:
    return "".join(it.capitalize() for it in re.split(r"[^a-zA-Z0-9]+", path))


class Types:
    """The Python types of fields, and the definitions that they need.

    Attributes:
        own: The content of `catalogue.toml`.
        literals: The choices behind each name.
        objects: The code of each typed dictionary, inner ones first.
    """

    def __init__(self, own: Json) -> None:
        self.own = own
        self.literals: dict[str, list[int | str]] = {}
        self.objects: dict[str, str] = {}

    def of(self, path: str, variants: Sequence[Field]) -> str:
        """Return the type that takes what any of the variants of a field takes."""
        by_type: dict[str, list[Field]] = {}
        for it in variants:
            by_type.setdefault(it.type, []).append(it)
        parts = [self._one(path, kind, alike) for kind, alike in by_type.items()]
        if any(it.or_list for it in variants):
            parts += [f"Sequence[{part}]" for part in parts]
        return " | ".join(dict.fromkeys(parts))

    def _one(self, path: str, kind: str, alike: Sequence[Field]) -> str:
        choices = list(dict.fromkeys(it for one in alike for it in one.choices))
        if kind == "integer" and choices:  # the vendor's examples write "5"
            choices = sorted(choices) + [str(it) for it in sorted(choices)]
        if choices and all(it.choices for it in alike):
            return self._literal(path, choices)
        if kind == "media":
            return "str" if alike[0].medium == "video" else "Media"
        if kind == "array":
            items = [it.items for it in alike if it.items]
            return f"Sequence[{self.of(f'{path}[]', items)}]"
        if kind == "object":
            return self._object(path, alike)
        names = {"string": "str", "integer": "int", "number": "float"}
        return names.get(kind, "bool")

    def _literal(self, path: str, choices: list[int | str]) -> str:
        name: str | None = self.own["literals"].get(path)
        if name is None or (len(choices) <= _INLINE and isinstance(choices[0], int)):
            return f"Literal[{', '.join(map(repr, choices))}]"
        known = self.literals.setdefault(name, [])
        known += [it for it in choices if it not in known]
        return name

    def _object(self, path: str, alike: Sequence[Field]) -> str:
        name: str = self.own["objects"].get(path) or _camel(path)
        inner: dict[str, list[Field]] = {}
        for one in alike:
            for key, it in one.properties.items():
                inner.setdefault(key, []).append(it)
        needed = [key for key in inner if all(key in one.required for one in alike)]
        total = "" if len(needed) == len(inner) else ", total=False"
        prose = self.own["object_prose"].get(name, f"One `{name}`.")
        lines = [f"class {name}(TypedDict{total}):", f'    """{prose}"""', ""]
        for key, variants in inner.items():
            kind = self.of(f"{path}.{key}", variants)
            must = total and key in needed
            lines.append(f"    {key}: {f'Required[{kind}]' if must else kind}")
        # The first time is for all models at once: no class takes more.
        self.objects.setdefault(name, "\n".join(lines))
        return name


def union(models: Sequence[Model]) -> dict[str, list[Field]]:
    """Return the variants of every field that one of the models takes."""
    found: dict[str, list[Field]] = {}
    for model in models:
        for name, it in model.fields.items():
            found.setdefault(name, []).append(it)
    return found


def of_class(catalogue: Catalogue, kinds: Sequence[str]) -> list[Model]:
    """Return the models whose requests are of one class."""
    return [it for it in catalogue.values() if it.kind in kinds]


def generated(
    catalogue: Catalogue, own: Json, *, tidy: Callable[[str], str] | None = None
) -> dict[str, str]:
    """Return the code of each generated file, by its name.

    Args:
        catalogue: The models.
        own: The content of `catalogue.toml`.
        tidy: Formats the code; ruff, if left out.
    """
    types = Types(own)
    everything = list(catalogue.values())
    params = [
        f"    {name}: {types.of(name, variants)} | None"
        for name, variants in union(everything).items()
    ]
    classes = [
        code
        for name, said in own["classes"].items()
        for code in _class(name, said, of_class(catalogue, said["kinds"]), types)
    ]
    texts = {
        "params.py": _params(types, catalogue, own, params),
        "kinds.py": _kinds(types, own, classes),
    }
    tidy = tidy or _formatted
    return {name: tidy(text) for name, text in texts.items()}


def _params(
    types: Types, catalogue: Catalogue, own: Json, params: Sequence[str]
) -> str:
    head = _HEAD.format(
        title="The types of what request fields take, for editors and type checkers.",
        imports="import os\nfrom collections.abc import Mapping, Sequence\n"
        "from typing import Literal, Required, TypeAlias, TypedDict\n",
    )
    literals = [_literal(name, choices) for name, choices in types.literals.items()]
    models = [
        _literal(f"{name}Model", [it.id for it in of_class(catalogue, said["kinds"])])
        for name, said in own["classes"].items()
    ]
    any_model = " | ".join(f"{name}Model" for name in own["classes"])
    keywords = [
        "class GenerationParams(TypedDict, total=False):",
        '    """What `AsyncKling.create` takes by name: a model, and its fields."""',
        "",
        "    model: AnyModel | str",
        *params,
        "    extra: Mapping[str, object]",
    ]
    return "\n\n".join(
        [
            head,
            _MEDIA,
            *literals,
            *types.objects.values(),
            *models,
            f"AnyModel = ({any_model})",
            "\n".join(keywords),
        ]
    )


def _literal(name: str, choices: Sequence[object]) -> str:
    listed = ", ".join(map(json.dumps, choices))
    lines = textwrap.wrap(listed, 80, break_long_words=False, break_on_hyphens=False)
    inner = "\n".join(f"    {line}" for line in lines)
    short = f"{name} = Literal[{listed}]"
    if len(short) <= 88:
        return short
    return f"# fmt: off\n{name} = Literal[\n{inner},\n]\n# fmt: on"


def _kinds(types: Types, own: Json, classes: Sequence[str]) -> str:
    code = "\n\n\n".join(classes)
    used = [*types.literals, *types.objects, *(f"{it}Model" for it in own["classes"])]
    names = ["Media", *(it for it in used if re.search(rf"\b{it}\b", code))]
    imports = f"""from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

from attrs import frozen

from kling_async._requests.catalogue import Kind
from kling_async._requests.classes import Request, check_keywords
from kling_async._requests.params import ({", ".join(sorted(names))},)
"""
    title = "The request classes: one for each kind of generation."
    listed = "\n".join(f"    {name}," for name in own["classes"])
    end = f"CLASSES: tuple[type[Request], ...] = (\n{listed}\n)"
    return "\n\n\n".join([_HEAD.format(title=title, imports=imports), code, end]) + "\n"


def _class(
    name: str, said: Json, models: Sequence[Model], types: Types
) -> Iterator[str]:
    found, words = union(models), said["fields"]
    order = [name for name in {**words, **found} if name in found]
    kinds = ", ".join(map(repr, said["kinds"]))
    told = {it: words.get(it) or _takers(it, models) for it in order}
    lines = [
        "@check_keywords",
        "@frozen(kw_only=True, repr=False)",
        f"class {name}(Request):",
        *_docstring(said["prose"], told),
        "",
        f"    kinds: ClassVar[tuple[Kind, ...]] = ({kinds},)",
        "",
        f"    model: {name}Model | str = {said['model']!r}",
    ]
    for it in order:
        needed = all(it in model.required for model in models)
        kind = types.of(it, found[it])
        lines.append(f"    {it}: {kind}" + ("" if needed else " | None = None"))
    yield "\n".join(lines)


def _takers(name: str, models: Sequence[Model]) -> str:
    """Say something of a field that nobody has found words for."""
    (first, *_) = takers = [it for it in models if name in it.fields]
    which = ", ".join(it.id for it in takers)
    return f"{first.fields[name].allowed.capitalize()}; taken by {which}."


def _docstring(prose: str, words: Mapping[str, str]) -> Iterator[str]:
    first, *rest = prose.splitlines()
    yield f'    """{first}'
    yield from (f"    {line}".rstrip() for line in rest)
    yield ""
    yield "    Attributes:"
    for name, text in words.items():
        yield from textwrap.wrap(
            f"{name}: {text}",
            88,
            initial_indent=" " * 8,
            subsequent_indent=" " * 12,
            break_long_words=False,
            break_on_hyphens=False,
        )
    yield '    """'


def _formatted(code: str) -> str:
    command = [sys.executable, "-m", "ruff"]
    name = "--stdin-filename=kling_async/_requests/kinds.py"
    for step in (["check", "--select=I", "--fix", "-q"], ["format", "-q"]):
        options = [*command, *step, name, "-"]
        code = subprocess.run(
            options, input=code, capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout
    return code

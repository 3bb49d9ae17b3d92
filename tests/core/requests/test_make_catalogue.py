"""`nox -s catalogue -- FOLDER`: what it makes, what it tells, and what it refuses."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import make_catalogue
import pytest
from make_requests import generated

from kling_async import Catalogue
from kling_async._requests.catalogue import MODELS, read_catalogue
from kling_async.models import Field, Model

HOME = Path(make_catalogue.HOME)
OWN = make_catalogue.own_words()
PATH = "/v2/video/generations"
LEGACY = "/v2/generate/video/kling/generation"
MODEL = "klingai/v2-master-image-to-video"
NEW = "klingai/video-v9-pro-image-to-video"


def schema_of(field: Field) -> dict[str, Any]:
    """Write a field as the vendor's files do."""
    if field.or_list:
        one = {"type": "string", "format": "uri"}
        return {"anyOf": [one, {"type": "array", "items": one}]}
    said: dict[str, Any] = {
        "type": "string" if field.type == "media" else field.type,
        "enum": list(field.choices),
        "minimum": field.minimum,
        "maximum": field.maximum,
        "maxLength": field.max_length,
        "minItems": field.min_items,
        "maxItems": field.max_items,
        "nullable": field.nullable,
        "deprecated": field.deprecated,
        "default": str(field.default) if field.type == "integer" else field.default,
        "items": schema_of(field.items) if field.items else None,
        "properties": {k: schema_of(it) for k, it in field.properties.items()},
        "required": list(field.required),
    }
    left_out = {k for k, v in said.items() if v is None or v in ("None", [], {})}
    left_out |= {k for k in ("nullable", "deprecated") if not said[k]}
    return {k: v for k, v in said.items() if k not in left_out}


def document(model: Model, *, older: bool = False) -> dict[str, Any]:
    """Write an OpenAPI file that says of a model what the catalogue does."""
    fields = {k: it for k, it in model.fields.items() if older or not it.legacy}
    properties = {name: schema_of(it) for name, it in fields.items()}
    schema = {
        "type": "object",
        "required": ["model", *model.required],
        "properties": {"model": {"enum": [model.id]}, **properties},
    }
    body = {"content": {"application/json": {"schema": schema}}}
    path = LEGACY if older else PATH
    return {"openapi": "3.0.0", "paths": {path: {"post": {"requestBody": body}}}}


def fields_of(data: dict[str, Any]) -> dict[str, Any]:
    """Give what a file says of each field, to be changed."""
    (verbs,) = data["paths"].values()
    schema = verbs["post"]["requestBody"]["content"]["application/json"]["schema"]
    found: dict[str, Any] = schema["properties"]
    return found


@pytest.fixture(scope="module", name="vendor")
def write_all(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with a file for every model, and one for what is older."""
    folder = tmp_path_factory.mktemp("openapi")
    for number, model in enumerate(MODELS.values()):
        (folder / f"{number}.json").write_text(json.dumps(document(model)))
        if model.legacy_fields:
            older = json.dumps(document(model, older=True))
            (folder / f"{number}-older.json").write_text(older)
    return folder


def change(
    folder: Path, into: Path, edit: Callable[[dict[str, Any]], None], model: str = MODEL
) -> Path:
    """Copy a folder, with one model's file edited."""
    for path in folder.iterdir():
        data = json.loads(path.read_text())
        if fields_of(data)["model"]["enum"] == [model] and "older" not in path.name:
            edit(fields_of(data))
        (into / path.name).write_text(json.dumps(data))
    return into


def words(changes: Sequence[make_catalogue.Change]) -> str:
    """Give all that is told."""
    return "\n".join(it.text for it in changes)


def test_the_catalogue_is_what_its_files_say(vendor: Path) -> None:
    """Made again from files that say the same, it is the same, letter by letter."""
    text, changes = make_catalogue.make(vendor, OWN, MODELS)
    assert changes == []
    assert json.loads(text) == json.loads((HOME / "catalogue.json").read_text())


@pytest.mark.parametrize("name", ["kinds.py", "params.py"])
def test_the_classes_and_types_are_made_from_the_catalogue(name: str) -> None:
    """What is committed is what the command would write."""
    code = (HOME / name).read_text("utf-8")
    made = generated(MODELS, OWN, tidy=lambda text: text)[name]
    assert ast.dump(ast.parse(sorted_imports(made))) == ast.dump(
        ast.parse(sorted_imports(code))
    )


def sorted_imports(code: str) -> str:
    """Order imports, which the formatter would."""
    tree = ast.parse(code)
    imports = [it for it in tree.body if isinstance(it, (ast.Import, ast.ImportFrom))]
    for it in imports:
        it.names.sort(key=lambda alias: alias.name)
    rest = [it for it in tree.body if it not in imports]
    return "\n".join([*sorted(map(ast.unparse, imports)), *map(ast.unparse, rest)])


def test_a_new_model_with_a_new_field_needs_no_line_by_hand(
    vendor: Path, tmp_path: Path
) -> None:
    """It is in the data, in its class and in its types, and told in words."""
    change(vendor, tmp_path, lambda _: None)
    data = document(MODELS[MODEL])
    fields = fields_of(data)
    fields["model"]["enum"] = [NEW]
    fields["motion_blur"] = {"type": "string", "enum": ["none", "soft"]}
    (tmp_path / "new.json").write_text(json.dumps(data))
    text, changes = make_catalogue.make(tmp_path, OWN, MODELS)
    after = read_catalogue(text)
    assert words(changes).startswith(f"{NEW}: new, image-to-video; takes image_url")
    assert not any(it.breaks for it in changes)
    assert len(changes) == 1
    assert after[NEW].fields["motion_blur"].choices == ("none", "soft")
    assert list(after)[-1] == list(MODELS)[-1], "the kinds stay together"
    code = generated(after, OWN, tidy=lambda text: text)
    assert "motion_blur: Literal['none', 'soft'] | None = None" in code["kinds.py"]
    assert "motion_blur: Literal['none', 'soft'] | None" in code["params.py"]
    assert f"taken by {NEW}" in code["kinds.py"]
    assert NEW in code["params.py"]


SMALL_CHANGES: Sequence[tuple[Callable[[dict[str, Any]], None], str]] = [
    (
        lambda it: it["prompt"].update(maxLength=99),
        "prompt: max_length was None, is 99",
    ),
    (lambda it: it.update(sound={"type": "boolean"}), "takes sound now: True or False"),
    (
        lambda it: it["duration"]["enum"].append(15),
        "duration: takes 15 now",
    ),
]


@pytest.mark.parametrize("edit, told", SMALL_CHANGES)
def test_a_change_is_told_model_by_model(
    vendor: Path,
    tmp_path: Path,
    edit: Callable[[dict[str, Any]], None],
    told: str,
) -> None:
    """What harms no program is taken over."""
    change(vendor, tmp_path, edit)
    _, changes = make_catalogue.make(tmp_path, OWN, MODELS)
    assert words(changes) == f"{MODEL}: {told}"
    assert not changes[0].breaks


BREAKING: Sequence[tuple[Callable[[dict[str, Any]], None], str]] = [
    (lambda it: it["duration"]["enum"].remove(10), "duration: no longer takes 10"),
    (
        lambda it: it["duration"].update(type="string", enum=["5"], default="5"),
        "duration: its type was integer, is string",
    ),
    (
        lambda it: it["camera_control"]["properties"]["type"]["enum"].remove("simple"),
        "camera_control.type: no longer takes simple",
    ),
    (lambda it: it.pop("cfg_scale") and None, "cfg_scale is gone"),
]


@pytest.fixture(name="home")
def copy_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the command write into a copy of the package's own files."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("catalogue.json", "kinds.py", "params.py"):
        (home / name).write_bytes((HOME / name).read_bytes())
    monkeypatch.setattr(make_catalogue, "HOME", home)
    return home


def content(folder: Path) -> dict[str, bytes]:
    """Give what is in a folder's files."""
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("edit, told", BREAKING)
def test_what_breaks_programs_is_told_and_not_written(
    vendor: Path,
    tmp_path: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    edit: Callable[[dict[str, Any]], None],
    told: str,
) -> None:
    """An enum that shrank, a type that changed, a field that is gone."""
    folder = tmp_path / "openapi"
    folder.mkdir()
    change(vendor, folder, edit)
    before = content(home)
    assert make_catalogue.main([str(folder)]) == 1
    said = capsys.readouterr().out
    assert f"BREAKS  {MODEL}: {told}" in said
    assert "Nothing is written" in said
    assert content(home) == before


def test_a_model_that_is_gone_is_told_and_not_written(
    vendor: Path, tmp_path: Path
) -> None:
    """It may be a file that was forgotten."""
    for path in vendor.iterdir():
        if fields_of(json.loads(path.read_text()))["model"]["enum"] != [MODEL]:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    _, (gone,) = make_catalogue.make(tmp_path, OWN, MODELS)
    assert gone == make_catalogue.Change(f"{MODEL}: gone", breaks=True)


def bad_folders(vendor: Path, folder: Path) -> dict[str, str]:
    """Put what is wrong with it into a folder; say what will be told, by case."""
    change(vendor, folder, lambda _: None)
    own = f"{list(MODELS).index(MODEL)}.json"
    other = document(MODELS[MODEL])
    fields_of(other)["sound"] = {"type": "boolean"}
    odd = document(MODELS[MODEL])
    fields_of(odd)["model"]["enum"] = ["klingai/dream-machine"]
    matrix = document(MODELS[MODEL])
    fields_of(matrix)["model"]["enum"] = [NEW]
    fields_of(matrix)["prompt"] = {"type": "matrix"}
    written: dict[str, tuple[object, str]] = {
        "no-json": ("{", "no-json.json: no OpenAPI file"),
        "a-list": ([1], "a-list.json: no OpenAPI file"),
        "no-openapi": ({"paths": {}}, "no-openapi.json: no OpenAPI file"),
        "no-schema": (
            {"openapi": "3", "paths": {PATH: {"post": {}}}},
            "no-schema.json: no OpenAPI file",
        ),
        "twice": (other, f"{MODEL}: {own} and twice.json give it different fields"),
        "odd": (odd, "klingai/dream-machine: no pattern under `kinds`"),
        "matrix": (matrix, f"{NEW}: its schema cannot be read"),
    }
    for name, (data, _) in written.items():
        text = data if isinstance(data, str) else json.dumps(data)
        (folder / f"{name}.json").write_text(text)
    return {name: told for name, (_, told) in written.items()}


def test_all_that_is_wrong_with_a_folder_is_told_at_once(
    vendor: Path, tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And nothing is written."""
    folder = tmp_path / "openapi"
    folder.mkdir()
    told, before = bad_folders(vendor, folder), content(home)
    assert make_catalogue.main([str(folder)]) == 1
    said = capsys.readouterr().err
    assert [name for name, text in told.items() if text not in said] == []
    assert len(said.splitlines()) == len(told) + 1
    assert content(home) == before


def test_an_empty_folder_is_told(tmp_path: Path) -> None:
    """Rather than that all models are gone."""
    with pytest.raises(make_catalogue.Refused, match="there is no JSON file in it"):
        make_catalogue.make(tmp_path, OWN, Catalogue({}))

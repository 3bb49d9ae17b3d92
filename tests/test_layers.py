"""The order of the rooms: each module imports only from those below it."""

from __future__ import annotations

import ast
import graphlib
import sys
from collections.abc import Iterator, Mapping
from importlib.util import find_spec, resolve_name
from pathlib import Path

import pytest

PACKAGE = "kling_async"

# Ground floor first. A name stands for a module and all that is inside it.
ROOMS = (
    "_version",
    "_generation",
    "_errors",
    "_hooks",
    "_ids",
    "_fields",
    "_checking",
    "_families",
    "_catalogue",
    "_given",
    "_params",
    "types",
    "_requests",
    "models",
    "_wire",
    "_polling",
    "_money",
    "_pricing",
    "_wire_account",
    "_pacing",
    "_learning",
    "_learned_file",
    "_retrying",
    "_scope",
    "_timetable",
    "_origins",
    "_addresses",
    "_settings",
    "_bodies",
    "_pools",
    "_sending",
    "_aiohttp",
    "_connections",
    "_transport",
    "_tracing",
    "_account",
    "_reconciling",
    "_accounting",
    "_submission",
    "_poll_loop",
    "_watching",
    "_media",
    "_mp4",
    "_fetching",
    "_download",
    "_downloading",
    "_budget",
    "_batch",
    "_client",
    "__init__",
    "durable",
    "emulator",
    "web",
    "notebook",
    "pytest_plugin",
    "cli",
    "__main__",
)
CORE = ROOMS[: ROOMS.index("__init__") + 1]

# Who may import what is not of the standard library; None means every room.
THIRD_PARTIES: Mapping[str, tuple[str, ...] | None] = {
    "attrs": None,
    "anyio": None,
    "httpx": (
        "_pools",
        "_sending",
        "_aiohttp",
        "_connections",
        "_transport",
        "_fetching",
        "_download",
        "_client",
    ),
    "aiohttp": ("_aiohttp",),
    "yarl": ("_aiohttp",),
    "tenacity": ("_retrying",),
    "trio": ("_scope",),
}
STANDARD = {
    "json": ("_wire", "_learned_file"),
    "logging": ("_hooks",),
    "asyncio": ("_scope", "_connections"),
    "ssl": ("_connections", "_aiohttp"),
}


def package_folder() -> Path:
    """Find the package without importing it."""
    spec = find_spec(PACKAGE)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent


FILES: Mapping[str, Path] = {
    ".".join(path.relative_to(package_folder()).with_suffix("").parts).removesuffix(
        ".__init__"
    ): path
    for path in sorted(package_folder().rglob("*.py"))
}


def imports_of(module: str) -> Iterator[str]:
    """Give every module that one imports, wherever in its text, by full name."""
    package = ".".join((PACKAGE, *module.split(".")[:-1]))
    for node in ast.walk(ast.parse(FILES[module].read_text("utf-8"))):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=origin, names=names, level=level):
                base = resolve_name("." * level + (origin or ""), package)
                inner = base.removeprefix(PACKAGE).lstrip(".")
                for alias in names:
                    name = f"{inner}.{alias.name}".lstrip(".")
                    is_module = base.startswith(PACKAGE) and name in FILES
                    yield f"{base}.{alias.name}" if is_module else base
            case _:
                pass


def own_imports_of(module: str) -> set[str]:
    """Give the modules of this package that one imports, named as in `FILES`."""
    own = (
        name.removeprefix(PACKAGE).lstrip(".") or "__init__"
        for name in imports_of(module)
        if name.split(".")[0] == PACKAGE
    )
    return {name for name in own if name != module}


def room_of(module: str) -> str:
    """Give the room that a module lies in."""
    return module.partition(".")[0]


def third_parties_of(module: str) -> set[str]:
    """Give what one imports from outside package and standard library."""
    roots = {name.split(".")[0] for name in imports_of(module)}
    return roots - {PACKAGE} - sys.stdlib_module_names


each_module = pytest.mark.parametrize("module", FILES)
core = pytest.mark.parametrize("module", [m for m in FILES if room_of(m) in CORE])


@each_module
def test_every_module_has_its_room(module: str) -> None:
    """A new module is put into the order, or it fails here."""
    assert room_of(module) in ROOMS


@each_module
def test_a_module_imports_only_from_below(module: str) -> None:
    """Reading a room needs no room above it; inside one, no module needs itself."""
    floor = ROOMS.index(room_of(module))
    too_high = {
        name
        for name in own_imports_of(module)
        if ROOMS.index(room_of(name)) > floor - (room_of(name) != room_of(module))
    }
    assert too_high == set()


def test_no_modules_need_each_other() -> None:
    """Also inside a room of several modules there is an order to read them in."""
    graph = {module: own_imports_of(module) for module in FILES}
    order = tuple(graphlib.TopologicalSorter(graph).static_order())
    assert set(order) >= set(FILES)


@core
def test_the_core_needs_four_packages_each_in_its_place(module: str) -> None:
    """Attrs and anyio anywhere, httpx where HTTP is, tenacity where retries are."""
    misplaced = {
        name
        for name in third_parties_of(module)
        if (rooms := THIRD_PARTIES.get(name, ())) is not None and module not in rooms
    }
    assert misplaced == set()


@core
def test_one_room_has_to_do_with_each_format_and_mechanism(module: str) -> None:
    """JSON is read in `_wire` alone, the logger is that of `_hooks`, and so on."""
    roots = {name.split(".")[0] for name in imports_of(module)}
    assert {n for n in roots & STANDARD.keys() if module not in STANDARD[n]} == set()


@pytest.mark.parametrize(
    "name, rooms",
    [
        *((name, rooms) for name, rooms in THIRD_PARTIES.items() if rooms),
        ("json", STANDARD["json"]),
    ],
)
def test_the_table_lists_no_room_that_has_moved_out(
    name: str, rooms: tuple[str, ...]
) -> None:
    """Whoever is allowed to import a package does import it."""
    users = {
        module
        for module in FILES
        if room_of(module) in CORE
        and name in {imported.split(".")[0] for imported in imports_of(module)}
    }
    assert users == set(rooms)


@each_module
def test_every_module_says_its_one_idea(module: str) -> None:
    """It opens with a docstring."""
    assert ast.get_docstring(ast.parse(FILES[module].read_text("utf-8")))

"""Changes the library a little, one place at a time, and looks whether a test notices.

    python tests/mutants/mutants.py --sample 200 --seed 1

A change is one of cosmic-ray's: another operator, a number that is one off, a `not`, a
loop that never runs, a decorator less. No file is changed: each mutant is a process in
which its module is imported so, and which runs the tests that go through the changed
line, the most special first. It is killed by a test that fails, or by never ending.
What is known already is kept in a folder: broken off, it goes on where it was, until
the library or its tests change.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import json
import os
import random
import resource
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from hashlib import sha256
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_file_location
from itertools import accumulate, islice, takewhile, zip_longest
from pathlib import Path
from types import CodeType, ModuleType

import coverage
import pytest
from attrs import asdict, define, evolve, field, frozen
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names

PARTS: Mapping[str, Sequence[Path]] = {
    "billing": sorted(Path("kling_async/_billing").glob("*.py")),
    "failures": [Path("kling_async/_failures.py")],
    "runtime": sorted(Path("kling_async/_runtime").glob("*.py")),
    "polling": sorted(Path("kling_async/_polling").glob("*.py")),
}
# Those that are meant for these parts, and take no minute.
TESTS = [
    str(path)
    for pattern in (
        "billing/*",
        "runtime/*",
        "polling/*",
        "http/test_[stw]*",
        "client/test_ba*",
        "client/test_[hr]*",
        "client/test_web_f*",
    )
    for path in sorted(Path("tests/core").glob(f"{pattern}.py"))
    if path.stem != "test_polling_simulation"
]
ALONE = ("-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:xdist")
FIRST, SECONDS = 60, 20.0  # so many tests are run first, then what takes so long

# What a mutant may take, beside what its tests took without it.
CPU_SECONDS, CPU_TIMES = 20, 5
PATIENCE = 600.0


@frozen
class Mutant:
    """One change of one line."""

    part: str
    file: str
    operator: str
    occurrence: int
    line: int
    source: str

    @property
    def path(self) -> Path:
        """Say where its module is."""
        return Path(self.file)

    @property
    def key(self) -> str:
        """Tell it from all others, also of another day."""
        return sha256(f"{self.file}{self.source}".encode()).hexdigest()[:16]

    @property
    def module(self) -> str:
        """Name what it takes the place of."""
        return ".".join(self.path.with_suffix("").parts)

    def diff(self) -> str:
        """Show the change."""
        before, after = self.path.read_text("utf-8"), self.source
        lines = difflib.unified_diff(before.split("\n"), after.split("\n"), n=0)
        return "\n".join(line for line in lines if line[:2] not in ("--", "++", "@@"))


def draw_mutants(count: int, seed: int) -> list[Mutant]:
    """Draw as many of each part, in turn: the place, then what becomes of it."""
    parts: list[list[Mutant]] = []
    for index, (part, paths) in enumerate(PARTS.items()):
        rng = random.Random(f"{seed} {part}")
        places = [place for path in paths for place in _list_places(path)]
        rng.shuffle(places)
        wanted = count // len(PARTS) + (index < count % len(PARTS))
        drawn = (_mutate(part, *rng.choice(place)) for place in places)
        parts.append(list(islice((it for it in drawn if it), wanted)))
    return [it for turn in zip_longest(*parts) for it in turn if it]


def _list_places(path: Path) -> Iterator[list[tuple[Path, str, int, int]]]:
    """List the places that can be changed, and for each the ways to do it."""
    tree = get_ast(path.read_text("utf-8"))
    ways: defaultdict[object, list[tuple[Path, str, int, int]]] = defaultdict(list)
    for name in operator_names():
        kind = get_operator(name)
        if kind.arguments():
            continue
        operator = kind()
        places = (
            start
            for node in ast_nodes(tree)
            for start, _ in operator.mutation_positions(node)
        )
        for occurrence, start in enumerate(places):
            ways[start].append((path, name, occurrence, start[0]))
    yield from ways.values()


def _mutate(
    part: str, path: Path, name: str, occurrence: int, line: int
) -> Mutant | None:
    """Make one, unless it is the same program, or none."""
    before = path.read_text("utf-8")
    after = mutate_code(before, get_operator(name)(), occurrence)
    try:
        if after is None or _essence(after) == _essence(before):
            return None
    except SyntaxError:
        return None
    return Mutant(part, str(path), name, occurrence, line, after)


def _essence(source: str) -> str:
    """Leave out what is never run: annotations."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.arg | ast.AnnAssign):
            node.annotation = ast.Constant(value=None)
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            node.returns = None
    return ast.dump(tree)


class _Loader(SourceFileLoader):
    """Gives a module the source of a mutant."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(mutant.module, str(mutant.path.resolve()))
        self.mutant = mutant

    def get_code(self, fullname: str) -> CodeType:  # noqa: ARG002 (importlib's own)
        return compile(self.mutant.source, self.mutant.path, "exec", dont_inherit=True)


@frozen
class _Finder(MetaPathFinder):
    """Finds a mutant in the place of its module."""

    mutant: Mutant

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,  # noqa: ARG002 (importlib's own)
        target: ModuleType | None = None,  # noqa: ARG002 (likewise)
    ) -> ModuleSpec | None:
        if fullname != self.mutant.module:
            return None
        loader = _Loader(self.mutant)
        return spec_from_file_location(fullname, loader.path, loader=loader)


@frozen
class Seen:
    """A test: what it takes in seconds, and how many lines it runs in all."""

    cost: float
    lines: int


@define
class Sight:
    """Which tests see which line.

    Attributes:
        tests: All there are, by their ids.
        by_line: Those that run a line, by its file and number.
    """

    tests: dict[str, Seen]
    by_line: dict[str, dict[int, list[str]]]

    @classmethod
    def load(cls, paths: Iterable[Path]) -> Sight:
        """Read what `learn` wrote, of each part of the tests."""
        sight = cls({}, defaultdict(lambda: defaultdict(list)))
        for path in paths:
            told = json.loads(path.read_text("utf-8"))
            sight.tests |= {name: Seen(*it) for name, it in told["tests"].items()}
            for file, lines in told["by_line"].items():
                for number, tests in lines.items():
                    sight.by_line[file][int(number)] += tests
        return sight

    def of(self, mutant: Mutant) -> list[str]:
        """Give the tests that see a mutant, the most special first.

        What is run as a module is imported is seen by all that use the module.
        """
        lines = self.by_line.get(mutant.file, {})
        before = (lines[it] for it in range(mutant.line, 0, -1) if it in lines)
        seen = next(before, []) or [it for tests in lines.values() for it in tests]
        return sorted(set(seen), key=lambda it: (self.tests[it].lines, it))


@define
class _Watcher:
    """Tells coverage which test runs, and takes its time."""

    measured: coverage.Coverage
    costs: dict[str, float] = field(factory=dict[str, float])

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.measured.switch_context(item.nodeid)
        began = time.process_time()
        result = yield
        self.costs[item.nodeid] = time.process_time() - began
        return result


def import_others(told: Path) -> None:
    """Import once what is neither the library's nor a test's, not in each mutant."""
    if not told.exists() and _has_failed(partial(_list_others, told)):
        sys.exit("the tests cannot be collected")
    for name in json.loads(told.read_text("utf-8")):
        with suppress(Exception):
            import_module(name)


def _list_others(told: Path) -> int:
    code = pytest.main([*ALONE, "--collect-only", *TESTS])
    ours = [str(Path(it).resolve()) for it in ("kling_async", "tests")]
    files = {name: getattr(it, "__file__", None) for name, it in sys.modules.items()}
    others = [name for name, it in files.items() if it and not it.startswith((*ours,))]
    told.write_text(json.dumps(others), "utf-8")
    return int(code)


def _fork(work: Callable[[], int]) -> int:
    """Do work in a process of its own, and give its id."""
    if (pid := os.fork()) == 0:
        code = 1
        try:
            code = work()
        finally:
            os._exit(code)
    return pid


def _has_failed(work: Callable[[], int]) -> bool:
    """Do work in a process of its own, and tell how it went."""
    return os.waitstatus_to_exitcode(os.waitpid(_fork(work), 0)[1]) != 0


def learn(folder: Path) -> Sight:
    """Run all tests once, and write down which see which line."""
    paths = {folder / f"sight-{Path(it).stem}.json": it for it in TESTS}
    for path, tests in paths.items():
        if not path.exists() and _has_failed(partial(_learn, path, tests)):
            sys.exit(f"{tests} fails without a mutant")
    return Sight.load(paths)


def _learn(path: Path, tests: str) -> int:
    files = [str(it.resolve()) for paths in PARTS.values() for it in paths]
    data = path.with_suffix(".coverage")
    measured = coverage.Coverage(str(data), config_file=False, include=files)
    measured.start()
    watcher = _Watcher(measured)
    code = pytest.main([*ALONE, tests], plugins=[watcher])
    measured.stop()
    found = measured.get_data()
    counts = Counter[str]()
    by_line: dict[str, Mapping[int, Sequence[str]]] = {}
    for file in found.measured_files():
        lines = found.contexts_by_lineno(file)
        named = {number: [it for it in names if it] for number, names in lines.items()}
        by_line[os.path.relpath(file)] = named
        counts.update(it for names in named.values() for it in names)
    costs = {it: (cost, counts[it]) for it, cost in watcher.costs.items()}
    if code == 0:
        path.write_text(json.dumps({"tests": costs, "by_line": by_line}), "utf-8")
    return int(code)


@frozen
class _Chosen:
    """Runs some tests alone, in their order."""

    tests: Sequence[str]

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        by_id = {it.nodeid: it for it in items}
        items[:] = [by_id[it] for it in self.tests if it in by_id]


def is_killed(mutant: Mutant, tests: Sequence[str], sight: Sight, log: Path) -> bool:
    """Run tests on a mutant, and tell whether one of them fails."""
    usual = sum(sight.tests[it].cost for it in tests)
    most = int(CPU_SECONDS + CPU_TIMES * usual)
    until = time.monotonic() + PATIENCE
    pid = _fork(partial(_try, mutant, tests, most, log))
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status) != 0
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return True
        time.sleep(0.02)


def _try(mutant: Mutant, tests: Sequence[str], seconds: int, log: Path) -> int:
    resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    with log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.meta_path.insert(0, _Finder(mutant))
    files = sorted({it.partition("::")[0] for it in tests})
    return pytest.main([*ALONE, "-x", *files], plugins=[_Chosen(tests)])


def judge(mutant: Mutant, sight: Sight, log: Path) -> str:
    """Tell what becomes of a mutant."""
    tests = sight.of(mutant)
    if not tests:
        return "unseen"
    first, rest = tests[:FIRST], tests[FIRST:]
    costs = accumulate(sight.tests[it].cost for it in rest)
    few = sum(1 for _ in takewhile(lambda it: it < SECONDS, costs))
    rounds = (first, rest[:few])
    killed = any(is_killed(mutant, it, sight, log) for it in rounds if it)
    return "killed" if killed else "survived"


def _drawn(folder: Path, count: int, seed: int) -> list[Mutant]:
    """Give the sample, drawn once: that takes a minute."""
    told = folder / f"sample-{count}-{seed}.json"
    if not told.exists():
        drawn = draw_mutants(count, seed)
        told.write_text(json.dumps([asdict(it) for it in drawn]), "utf-8")
    return [Mutant(**row) for row in json.loads(told.read_text("utf-8"))]


def _digest() -> str:
    """Tell the library and its tests of today from those of another day."""
    paths = [*Path("kling_async").rglob("*.py"), *Path("tests").rglob("*.py")]
    return sha256(b"".join(it.read_bytes() for it in sorted(paths))).hexdigest()[:16]


def main() -> int:
    """Judge a sample, and name what survived."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sample", type=int, default=200, metavar="N")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--folder", type=Path, default=Path(".mutants"))
    given = parser.parse_args()
    folder = given.folder / _digest()
    folder.mkdir(parents=True, exist_ok=True)
    import_others(folder / "others.json")
    known, seen = folder / "known.json", learn(folder)
    verdicts = json.loads(known.read_text("utf-8")) if known.exists() else {}
    counts = defaultdict[str, Counter[str]](Counter)
    for mutant in _drawn(folder, given.sample, given.seed):
        if not counts[mutant.part]:  # whatever kills this one as well says nothing
            unchanged = evolve(mutant, source=mutant.path.read_text("utf-8"))
            if judge(unchanged, seen, folder / "unchanged.log") == "killed":
                sys.exit("the tests fail without a mutant")
        if mutant.key not in verdicts:
            verdict = judge(mutant, seen, folder / f"{mutant.key}.log")
            verdicts[mutant.key] = verdict
            known.write_text(json.dumps(verdicts), "utf-8")
        verdict = verdicts[mutant.key]
        counts[mutant.part][verdict] += 1
        if verdict != "killed":
            told = f"{verdict} {mutant.key}: {mutant.file}:{mutant.line}"
            print(f"{told}\n{mutant.diff()}", flush=True)
    for part, count in counts.items():
        killed, total = count["killed"], count.total()
        print(f"{part}: {killed} of {total} killed, {killed / total:.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""All checks of the project, each in an environment of its own.

`nox` alone runs what has to pass, with the versions that `tests/requirements` locks.
`nox -l` lists everything; `nox -s lock` moves the locks to the newest versions.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from hashlib import sha256
from operator import itemgetter
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree as ET

import nox

nox.needs_version = ">=2026.8.10"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.download_python = "never"
nox.options.error_on_external_run = True
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["check"]

# Tests start a hundred commands: each starts faster from what the first one compiled.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

DIST = Path("dist").resolve()
TOOLS = ("lint", "build", "audit", "contract")  # groups that do without the package
# Some tests wait for a server or a process: one more at once than there are cores. Each
# worker reads all tests, which takes ten seconds.
SPREAD = ("-n", str((os.cpu_count() or 1) + 1), "--dist", "worksteal")

PYPROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = nox.project.python_versions(PYPROJECT)
THIS = f"{sys.version_info.major}.{sys.version_info.minor}"
FULLY = THIS if THIS in PYTHONS else PYTHONS[0]
# Where another Python can make a difference: its event loop, processes, SQLite. What
# holds for any text or number is tried on one.
ELSEWHERE = (
    *("-m", "not hypothesis"),
    "tests/core/runtime",
    "tests/core/http",
    "tests/cli/test_cli_process.py",
    "tests/durable/test_durable.py",
)
EXTRAS = ("none", "cli", "emulator", "durable", "web", "pytest")
# What goes on beside all tests, one after the other: together it takes as long.
BESIDE = (
    *("lint", "types", "extras", "demo", "browser", "simulate", "docs"),
    *(f"tests-{it}" for it in PYTHONS if it != FULLY),
)


def install(session: nox.Session, lock: str, *, package: bool = True) -> None:
    """Install what a lock holds, and the package itself, to be edited."""
    session.install("--require-hashes", "-r", f"tests/requirements/{lock}.txt")
    if package:
        session.install("--no-deps", "-e", ".")


def together(session: nox.Session, *commands: tuple[str, ...]) -> None:
    """Run commands at once; each has to succeed."""
    with ThreadPoolExecutor() as pool:
        for done in [pool.submit(session.run, *command) for command in commands]:
            done.result()


@nox.session(venv_backend="none")
def check(session: nox.Session) -> None:
    """Run all that has to pass: the tests, and beside them the rest, shown at its end.

    Each of the two waits much, for a server, a browser, a process.
    """
    sessions = (sys.executable, "-m", "nox", "-s")
    with ThreadPoolExecutor() as pool:
        beside = pool.submit(session.run, *sessions, *BESIDE, silent=True)
        try:
            session.run(*sessions, f"tests-{FULLY}")
        finally:
            session.log(beside.result())


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, that the formatter has nothing to do, and the layers of imports."""
    install(session, "lint", package=False)
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("lint-imports", "--no-cache")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types as mypy and pyright see them; all public ones are known."""
    install(session, "types")
    pyright = ("basedpyright", "--pythonpath", str(Path(session.bin) / "python"))
    public = ("basedpyright", "--verifytypes", "kling_async", "--ignoreexternal")
    together(session, ("mypy",), pyright, public)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run all tests, and hold the coverage of the library to its bound.

    On another Python than nox's own, if it is there: the parts where it can make a
    difference; ``-- tests`` for all.
    """
    install(session, "test")
    is_elsewhere = session.python != FULLY
    what = session.posargs or (ELSEWHERE if is_elsewhere else ())
    if not session.posargs:  # else each worker compiles all that is imported
        session.run("pytest", "--collect-only", "--quiet", *what, silent=True)
    if is_elsewhere:
        session.run("pytest", *SPREAD, *what)
        return
    found = Path(session.create_tmp()) / "tests.xml"
    slowest = ("--durations=30", f"--junit-xml={found}")
    session.run("coverage", "erase")
    session.run("pytest", "-p", "measured", *SPREAD, *slowest, *what)
    log_seconds(session, found)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", *(["--fail-under=0"] if session.posargs else []))


def log_seconds(session: nox.Session, found: Path) -> None:
    """Tell which files the time of the tests went to."""
    seconds = dict[str, float]()
    for case in ET.parse(found).iter("testcase"):  # noqa: S314 (written just now)
        name = case.attrib["classname"]
        seconds[name] = seconds.get(name, 0) + float(case.attrib["time"])
    session.log(f"{sum(seconds.values()):.0f} s in all tests together, most of it in:")
    for name, spent in sorted(seconds.items(), key=itemgetter(1))[:-16:-1]:
        session.log(f"{spent:6.0f} s  {name}")


@nox.session
def stress(session: nox.Session) -> None:
    """Run all tests three times beside eight processes that never rest."""
    install(session, "test")
    with busy_processes(8):
        for _ in range(3):
            session.run("pytest", *SPREAD, *session.posargs)


@contextmanager
def busy_processes(count: int) -> Generator[None]:
    """Keep the machine busy until the end of the block."""
    spin = [sys.executable, "-c", "while True: pass"]
    running = [subprocess.Popen(spin) for _ in range(count)]  # noqa: S603 (our own)
    try:
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()


@nox.session
def aiohttp(session: nox.Session) -> None:
    """Run the tests of the core again, over aiohttp in place of httpx."""
    install(session, "test")
    run = ("pytest", *SPREAD, "-p", "over_aiohttp")
    session.run(*run, *(session.posargs or ["tests/core"]))


@nox.session
def trio(session: nox.Session) -> None:
    """Run the tests of the core again, on trio in place of asyncio."""
    install(session, "test")
    modes = ("-o", "asyncio_mode=strict", "-o", "anyio_mode=auto")
    run = ("pytest", *SPREAD, "-p", "on_trio", *modes)
    session.run(*run, *(session.posargs or ["tests/core"]))


@nox.session
def lowest(session: nox.Session) -> None:
    """Run the tests with the lowest version of each dependency that is allowed."""
    install(session, "test")
    session.install("uv")
    folder = Path(session.create_tmp())
    versions, beside = folder / "lowest.txt", folder / "beside.in"
    beside.write_text("fastapi>=0.115.12\n")  # one that goes with such a Starlette
    session.run(
        *("uv", "pip", "compile", "--quiet", "--resolution", "lowest-direct"),
        *("--extra", "all", "--output-file", str(versions)),
        *("pyproject.toml", str(beside)),
    )
    session.install("-r", str(versions))
    session.install("--no-deps", "-e", ".")
    session.run("pytest", *SPREAD, *session.posargs)


@nox.session
def build(session: nox.Session) -> None:
    """Build twice, from the tree and from its own archive: the same bytes."""
    install(session, "build", package=False)
    command = ("python", "-m", "build", "--no-isolation")
    shutil.rmtree(DIST, ignore_errors=True)
    again = Path(session.create_tmp())
    env = {"SOURCE_DATE_EPOCH": "1767225600"}
    session.run(*command, "--outdir", str(DIST), env=env, silent=True)
    both = ("--sdist", "--wheel")
    session.run(*command, *both, "--outdir", str(again), env=env, silent=True)
    for built in sorted(DIST.iterdir()):
        digest = sha256(built.read_bytes()).hexdigest()
        session.log(f"{digest}  {built.name}")
        if sha256((again / built.name).read_bytes()).hexdigest() != digest:
            session.error(f"two builds of {built.name} differ")
    check_contents(session)


def check_contents(session: nox.Session) -> None:
    """Hold what is in the packages against what has to be, and must not be, there."""
    (wheel,), (sdist,) = DIST.glob("*.whl"), DIST.glob("*.tar.gz")
    inside = set(zipfile.ZipFile(wheel).namelist())
    with tarfile.open(sdist) as archive:
        source = {it.partition("/")[2] for it in archive.getnames()}
    sources = {
        str(it) for it in Path("kling_async").rglob("*.*") if it.suffix != ".pyc"
    }
    info = next(it for it in inside if it.endswith("/METADATA")).partition("/")[0]
    missing = {
        *sources,
        f"{info}/licenses/LICENSE",
        f"{info}/entry_points.txt",
    } - inside
    missing |= {*sources, "LICENSE", "README.md", "pyproject.toml"} - source
    foreign = {it for it in inside if not it.startswith(("kling_async/", info))}
    foreign |= {it for it in source if "__pycache__" in it or "/_build/" in it}
    if missing or foreign:
        session.error(f"missing: {sorted(missing)}; not to be there: {sorted(foreign)}")


@nox.session(requires=["build"])
def demo(session: nox.Session) -> None:
    """Run the demo as a new user does: the package alone, no key, no network."""
    (wheel,) = DIST.glob("*.whl")
    session.install("--reinstall-package=kling_async", f"{wheel}[all]")
    folder = Path(session.create_tmp()).resolve()
    session.chdir(folder)  # where no source is imported by accident
    session.run("kling-async", "demo", "--output-dir", str(folder))
    videos = list(folder.glob("*.mp4"))
    if len(videos) != 3:  # noqa: PLR2004 (as the demo promises)
        session.error(f"the demo left {len(videos)} videos, not 3")


@nox.session(requires=["build"], reuse_venv=False)
@nox.parametrize("extra", EXTRAS, ids=EXTRAS)
def extras(session: nox.Session, extra: str) -> None:
    """Use each extra where no other is installed; those that are missing are named."""
    (wheel,) = DIST.glob("*.whl")
    wanted = wheel if extra == "none" else f"{wheel}[{extra}]"
    program = Path("tests/support/use_extra.py").resolve()
    session.install(str(wanted))
    session.chdir(session.create_tmp())  # where no source is imported by accident
    session.run("python", str(program), extra)


@nox.session(requires=["build"])
def tutorial(session: nox.Session) -> None:
    """Follow the tutorial from an empty folder, with the wheel, word for word."""
    (wheel,) = DIST.glob("*.whl")
    session.run("python", "tests/support/follow_tutorial.py", str(wheel))


@nox.session
def browser(session: nox.Session) -> None:
    """Use the example app and the emulator's page in a real browser."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        if not (shutil.which("apt-get") and os.geteuid() == 0):
            session.skip("needs chromium and chromium-driver, and root to install them")
        packages = ("chromium", "chromium-driver")
        session.run("apt-get", "update", "-qq", external=True)
        session.run("apt-get", "install", "-y", "-qq", *packages, external=True)
    install(session, "browser")
    # Much of the time is waiting for videos.
    session.run("pytest", "tests/browser", "-n", "3", *session.posargs)


@nox.session
def pictures(session: nox.Session) -> None:
    """Make the pictures of the README anew, from what is really printed and served."""
    install(session, "browser")
    session.run("python", "tests/browser/pictures.py")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install(session, "docs")
    options = ("-W", "--keep-going", "-q", "-j", "auto")
    session.run("sphinx-build", *options, "docs", "docs/_build/html")


@nox.session
def catalogue(session: nox.Session) -> None:
    """Make the catalogue of models anew from a folder of the vendor's OpenAPI files."""
    install(session, "lint")
    session.run("python", "tests/catalogue/make_catalogue.py", *session.posargs)
    session.run("python", "tests/catalogue/make_contract.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Measure: figures for the documentation, never a check."""
    install(session, "bench")
    page = "docs/benchmarks.md"
    session.run("python", "tests/bench/bench_client.py", "--write", page)
    session.run("python", "tests/bench/reconcile.py")
    session.run("python", "tests/bench/bench_durable.py")


@nox.session
def soak(session: nox.Session) -> None:
    """Run for long what the tests run in short: crashes, storms, cancellations."""
    install(session, "test")
    crash = ("tests/soak", "tests/durable/test_durable_crash.py")
    session.run("pytest", "-s", *crash, env={"KLING_CRASH_JOBS": "200"})
    cut_short = (
        "tests/properties/test_storm.py",
        "tests/core/client/test_cancellation.py",
    )
    session.run("pytest", *cut_short, env={"KLING_SOAK": "1"})
    any_order = "tests/properties/test_any_order.py"
    session.run("pytest", "--timeout=0", "--hypothesis-profile=soak", any_order)
    chaos = ("python", "tests/bench/chaos.py", "--write=docs/explanation/chaos.md")
    session.run(*chaos)
    session.run(*chaos, "--real", "--speed=3")


@nox.session
def simulate(session: nox.Session) -> None:
    """Play the whole core against a vendor in memory, each seed another order.

    For a minute of one core; ``-- --runs N`` for more, ``-- --seed N`` for one.
    """
    install(session, "simulate")
    env = {"PYTHONHASHSEED": "0"}  # the order of a set is part of what a seed gives
    session.run("pytest", "--confcutdir=tests/simulation", "tests/simulation", env=env)
    program = "tests/simulation/simulate.py"
    path = {"PYTHONPATH": os.pathsep.join(("tests/support", "tests/simulation"))}
    what = session.posargs or ["--runs=400"]  # more than a minute had on a busy machine
    session.run("python", program, *what, env=env | path)


@nox.session
def mutants(session: nox.Session) -> None:
    """Change the library in one place after another: does a test notice?

    ``-- --sample N --seed S`` for others; broken off, it goes on where it was.
    """
    install(session, "mutants")
    folder = ("--folder", str(Path(session.create_tmp()) / "mutants"))
    session.run("python", "tests/mutants/mutants.py", *folder, *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Let coverage guide a million odd answers, and a million of strangers' texts."""
    install(session, "fuzz")
    programs = [
        Path(f"tests/fuzz/fuzz_{it}.py").resolve() for it in ("decoding", "strangers")
    ]
    session.chdir(session.create_tmp())  # what breaks a promise is kept there
    for program in programs:
        session.run("python", str(program), *(session.posargs or ["-runs=1000000"]))


@nox.session
def contract(session: nox.Session) -> None:
    """Let software of others use the emulator, and the client a server of others."""
    for program in ("node", "npm", "curl"):
        if shutil.which(program) is None:
            session.error(f"needs {program}")
    install(session, "test")
    tools = Path(session.create_tmp()).resolve()
    sdk, npm = tools / "sdk", tools / "npm"
    session.install("uv")
    session.run("uv", "venv", "--quiet", "--clear", str(sdk))
    locked = ("--require-hashes", "-r", "tests/requirements/contract.txt")
    session.run("uv", "pip", "install", "--quiet", "--python", str(sdk), *locked)
    npm.mkdir(exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(Path("tests/others") / name, npm)
    quietly = ("--ignore-scripts", "--no-audit", "--no-fund")
    session.run("npm", "ci", *quietly, "--prefix", str(npm), external=True)
    env = {"KLING_CONTRACT_TOOLS": str(tools)}
    session.run("pytest", "--durations=10", "tests/others", *session.posargs, env=env)


@nox.session
def audit(session: nox.Session) -> None:
    """Ask a public database whether a locked version has a known weakness."""
    install(session, "audit", package=False)
    found = Path(session.create_tmp()) / "audit.json"
    found.unlink(missing_ok=True)
    options = ("--disable-pip", "--progress-spinner=off", "--format=json")
    what = ("--require-hashes", "-r", "tests/requirements/test.txt", "-o", str(found))
    said = session.run("pip-audit", *options, *what, success_codes=[0, 1], silent=True)
    if not found.exists():
        session.skip(f"nobody could be asked: {str(said).strip().splitlines()[-1:]}")
    rows = json.loads(found.read_text("utf-8"))["dependencies"]
    if weak := [row for row in rows if row.get("vulns")]:
        session.error(json.dumps(weak, indent=2))
    if unknown := [row["name"] for row in rows if "skip_reason" in row]:
        session.skip(f"{len(unknown)} of {len(rows)} packages could not be asked about")
    session.log(f"{len(rows)} packages, none with a known weakness")


@nox.session
def lock(session: nox.Session) -> None:
    """Write down anew the newest versions that fit, with their hashes."""
    session.install("uv")
    command = ("uv", "pip", "compile", "--quiet", "--upgrade", "--universal")
    options = (
        "--python-version=3.11",
        "--generate-hashes",
        "--no-header",
        "--no-annotate",
        "--no-emit-index-url",
        "--no-emit-find-links",
    )
    for group in session.posargs or PYPROJECT["dependency-groups"]:
        extra = () if group in TOOLS else ("--extra=all",)
        wanted = ("pyproject.toml", f"--group={group}", *extra)
        written = ("--output-file", f"tests/requirements/{group}.txt")
        session.run(*command, *options, *wanted, *written)
    found = Path(session.create_tmp()) / "pylock.toml"
    wanted = ("--python-version=3.11", "pyproject.toml", "--extra=all", "--group=test")
    session.run(*command, *wanted, f"--output-file={found}")
    write_wheels(found)


def write_wheels(lock: Path) -> None:
    """Write down for which machines the locked packages are built, if not for all."""
    tags = dict[str, set[str]]()
    for package in tomllib.loads(lock.read_text("utf-8"))["packages"]:
        for wheel in package.get("wheels", ()):
            file = unquote(wheel["url"]).rpartition("/")[2].removesuffix(".whl")
            tags.setdefault(package["name"], set()).add(file.split("-", 2)[2])
    some = {
        name: sorted(built)
        for name, built in tags.items()
        if not any(tag.endswith("-none-any") for tag in built)
    }
    text = json.dumps(some, indent=1) + "\n"
    Path("tests/requirements/wheels.json").write_text(text, "utf-8")

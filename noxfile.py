"""All checks of the project, each in an environment of its own.

`nox` alone runs what has to pass: lint, types, tests, demo, docs.
`nox -l` lists everything.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_external_run = True
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "tests", "demo", "browser", "docs"]

PYPROJECT = nox.project.load_toml("pyproject.toml")


def install(session: nox.Session, *groups: str, extra: str | None = None) -> None:
    """Install dependency groups and, if an extra is named, the package with it."""
    wanted = [
        requirement
        for group in groups
        for requirement in nox.project.dependency_groups(PYPROJECT, group)
    ]
    package = ["-e", f".[{extra}]"] if extra else []
    session.install(*wanted, *package)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and common slips, and that the formatter has nothing to do."""
    install(session, "lint")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types twice, as mypy and as pyright see them."""
    install(session, "types", extra="all")
    session.run("mypy")
    python = Path(session.bin) / "python"
    session.run("basedpyright", "--pythonpath", str(python))


@nox.session
def tests(session: nox.Session) -> None:
    """Run all tests, and hold the coverage of the library to its bound."""
    install(session, "test", extra="all")
    session.run("coverage", "erase")
    session.run("coverage", "run", "-m", "pytest", *session.posargs)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report", *(["--fail-under=0"] if session.posargs else []))


@nox.session
def demo(session: nox.Session) -> None:
    """Run the demo as a new user does: the package alone, no key, no network."""
    session.install(".[all]")
    folder = Path(session.create_tmp())
    session.run("kling-async", "demo", "--output-dir", str(folder))
    videos = list(folder.glob("*.mp4"))
    if len(videos) != 3:  # noqa: PLR2004 (as the demo promises)
        session.error(f"the demo left {len(videos)} videos, not 3")


@nox.session
def browser(session: nox.Session) -> None:
    """Use the example app and the emulator's page in a real browser."""
    if shutil.which("chromium") is None or shutil.which("chromedriver") is None:
        if not (shutil.which("apt-get") and os.geteuid() == 0):
            session.skip("needs chromium and chromium-driver, and root to install them")
        packages = ("chromium", "chromium-driver")
        session.run("apt-get", "update", "-qq", external=True)
        session.run("apt-get", "install", "-y", "-qq", *packages, external=True)
    install(session, "browser", extra="all")
    session.run("pytest", "tests/browser", "-p", "no:cacheprovider", *session.posargs)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    install(session, "docs", extra="all")
    session.run("sphinx-build", "-W", "--keep-going", "-q", "docs", "docs/_build/html")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure: figures for the documentation, never a check."""
    install(session, "bench", extra="all")
    page = "docs/benchmarks.md"
    session.run("python", "tests/bench/bench_client.py", "--write", page)
    session.run("python", "tests/bench/bench_emulator.py")
    session.run("python", "tests/bench/reconcile.py")
    session.run("python", "tests/bench/bench_durable.py")


@nox.session
def soak(session: nox.Session) -> None:
    """Kill workers again and again over 200 jobs, on each kind of database."""
    install(session, "test", extra="all")
    crash = "tests/test_durable_crash.py"
    session.run("pytest", "-s", crash, env={"KLING_CRASH_JOBS": "200"})


@nox.session
def fuzz(session: nox.Session) -> None:
    """Let coverage guide a million odd answers to their readers."""
    install(session, "fuzz", extra="emulator")
    program = Path("tests/fuzz/fuzz_decoding.py").resolve()
    session.chdir(session.create_tmp())  # what breaks a reader is kept there
    session.run("python", str(program), *(session.posargs or ["-runs=1000000"]))

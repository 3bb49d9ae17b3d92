"""Which machines an extra can be installed on without a compiler."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.tags import Tag, cpython_tags, mac_platforms, parse_tag
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]
# Of each package that is built for some machines only: for which; see `nox -s lock`.
WHEELS = json.loads((ROOT / "tests/requirements/wheels.json").read_text("utf-8"))
PYTHONS = [(3, 11), (3, 12), (3, 13)]
LINUX = ("linux", "Linux", "posix")
MAC = ("darwin", "Darwin", "posix")
WINDOWS = ("win32", "Windows", "nt")
GLIBC = [f"manylinux_2_{minor}" for minor in range(37, 16, -1)]
MUSL = ["musllinux_1_2", "musllinux_1_1"]
# By name: the system, the machine, and what a wheel for it may be called.
MACHINES = {
    "Linux, x86-64": (LINUX, "x86_64", [f"{it}_x86_64" for it in GLIBC]),
    "Linux, ARM": (LINUX, "aarch64", [f"{it}_aarch64" for it in GLIBC]),
    "Alpine, x86-64": (LINUX, "x86_64", [f"{it}_x86_64" for it in MUSL]),
    "Alpine, ARM": (LINUX, "aarch64", [f"{it}_aarch64" for it in MUSL]),
    "macOS, ARM": (MAC, "arm64", [*mac_platforms((14, 0), "arm64")]),
    "macOS, Intel": (MAC, "x86_64", [*mac_platforms((14, 0), "x86_64")]),
    "Windows, x86-64": (WINDOWS, "AMD64", ["win_amd64"]),
    "Windows, ARM": (WINDOWS, "ARM64", ["win_arm64"]),
    "Windows, 32 bit": (WINDOWS, "x86", ["win32"]),
}
# What nobody has built: the documentation says so.
DURABLE_ON_ARM = {"psycopg-binary", "pyyaml"}
DURABLE_ON_32_BIT = {"greenlet", "psycopg-binary"}
GAPS = {
    ("durable", "Windows, ARM"): DURABLE_ON_ARM,
    ("durable", "Windows, 32 bit"): DURABLE_ON_32_BIT,
    ("emulator", "Windows, 32 bit"): {"av"},
    ("pytest", "Windows, 32 bit"): {"av"},
    ("storage", "Windows, 32 bit"): {"obstore"},
    ("all", "Windows, ARM"): DURABLE_ON_ARM,
    ("all", "Windows, 32 bit"): {*DURABLE_ON_32_BIT, "av", "obstore"},
}


@cache
def required_by(name: str) -> list[Requirement]:
    """Read what a package wants; nothing, where it is not installed."""
    try:
        return [*map(Requirement, requires(name) or [])]
    except PackageNotFoundError:  # of another system
        return []


def brought_by(extra: str, machine: str, python: tuple[int, int]) -> set[str]:
    """Name all that an extra installs on a machine, as far as it is installed here."""
    (sys_platform, platform_system, os_name), platform_machine, _ = MACHINES[machine]
    environment = {
        "sys_platform": sys_platform,
        "platform_system": platform_system,
        "os_name": os_name,
        "platform_machine": platform_machine,
        "python_version": f"{python[0]}.{python[1]}",
        "python_full_version": f"{python[0]}.{python[1]}.0",
    }

    def wanted(requirement: Requirement) -> Iterator[Requirement]:
        for each in required_by(requirement.name):
            for it in requirement.extras or {""}:
                if not each.marker or each.marker.evaluate(
                    {**environment, "extra": it}
                ):
                    yield each

    names, left = set[str](), [Requirement(f"kling_async[{extra}]")]
    seen = set[str]()
    while left:
        requirement = left.pop()
        if str(requirement) not in seen:
            seen.add(str(requirement))
            names.add(canonicalize_name(requirement.name))
            left += wanted(requirement)
    return names


def not_built_for(machine: str, python: tuple[int, int]) -> set[str]:
    """Name the packages that have no wheel for a machine."""
    _, _, platforms = MACHINES[machine]
    abi = f"cp{python[0]}{python[1]}"
    fitting = {Tag(abi, abi, it) for it in platforms} | {
        *cpython_tags(python, abis=[abi], platforms=platforms),
        *(Tag("py3", "none", it) for it in platforms),
    }
    return {
        name
        for name, built in WHEELS.items()
        if not any(fitting & parse_tag(tag) for tag in built)
    }


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_is_installed_without_a_compiler(extra: str, machine: str) -> None:
    """On each machine but those where the documentation says what is missing."""
    missing = {
        name
        for python in PYTHONS
        for name in brought_by(extra, machine, python) & not_built_for(machine, python)
    }
    assert missing == GAPS.get((extra, machine), set())

"""What `from kling_async import ...` offers: all of it, named, and explained."""

from __future__ import annotations

import inspect
import pickle
import subprocess
import sys
from collections.abc import Iterator
from types import FunctionType, ModuleType

import pytest

import kling_async
from kling_async import KlingError, _errors, _failures as _retrying, _generation, _hooks
from kling_async._billing import money as _money
from kling_async._polling import schedules as _polling

CONTRACT = {
    "client": {
        "AsyncKling",
        "Check",
        "Diagnosis",
        "Exponential",
        "Fixed",
        "Hooks",
        "Learned",
        "Outcome",
        "RetryPolicy",
    },
    "answers": {"Generation", "GenerationError", "Status", "Video"},
    "money": {"Balance", "Budget", "LogRow", "Price", "Transaction"},
    "requests": {
        "Avatar",
        "Effects",
        "ImageToVideo",
        "MotionControl",
        "MultiImageToVideo",
        "ReferenceToVideo",
        "TextToVideo",
        "VideoToVideo",
    },
    "errors": {
        "APIStatusError",
        "AuthenticationError",
        "BadRequestError",
        "BudgetExceededError",
        "ClientClosedError",
        "ConfigurationError",
        "ConnectionFailedError",
        "DecodeError",
        "DownloadError",
        "GenerationFailedError",
        "InvalidRequestError",
        "KlingError",
        "NotFoundError",
        "OutOfCreditsError",
        "PermissionDeniedError",
        "RateLimitError",
        "RequestTimeoutError",
        "ServerError",
        "SubmissionUncertainError",
        "TransportError",
        "WaitTimeoutError",
    },
}

# What a module defines, and users meet, although it is not theirs to name.
NOT_FOR_USERS = {"Fate", "Healing", "Meaning", "PriceList", "Rate", "Reporter"}


def public(name: str) -> object:
    """Give what is exported under a name."""
    found: object = getattr(kling_async, name)
    return found


def classes_in(module: ModuleType) -> set[str]:
    """Name the public classes that a module defines itself."""
    code = inspect.getsource(module)
    return {
        name
        for name, _ in inspect.getmembers(module, inspect.isclass)
        if not name.startswith("_") and f"\nclass {name}" in code
    }


def tree_below(cls: type[KlingError]) -> Iterator[type[KlingError]]:
    """Give the library's public subclasses, this class first."""
    is_ours = cls.__module__.startswith("kling_async")
    if is_ours and not cls.__name__.startswith("_"):
        yield cls
    for subclass in cls.__subclasses__():
        yield from tree_below(subclass)


def members_of(cls: type) -> Iterator[tuple[str, object]]:
    """Give the public methods and properties that a class itself defines."""
    for name, member in vars(cls).items():
        is_code = isinstance(member, FunctionType | property | classmethod)
        if is_code and not name.startswith("_"):
            yield name, member


CLASSES = [name for name in kling_async.__all__ if inspect.isclass(public(name))]


def test_the_names_are_sorted_and_there_is_none_twice() -> None:
    """`__all__` reads like an index."""
    assert kling_async.__all__ == sorted(set(kling_async.__all__))


@pytest.mark.parametrize("group", CONTRACT)
def test_every_promised_name_is_there(group: str) -> None:
    """The public names are a contract."""
    assert CONTRACT[group] - set(kling_async.__all__) == set()


@pytest.mark.parametrize("name", kling_async.__all__)
def test_every_exported_name_exists(name: str) -> None:
    """`from kling_async import *` works."""
    assert hasattr(kling_async, name)


def test_nothing_else_lies_about_in_the_package() -> None:
    """What the package namespace holds beside `__all__` is modules and dunders."""
    loose = {
        name
        for name, value in vars(kling_async).items()
        if name not in kling_async.__all__
        and not name.startswith("_")
        and not isinstance(value, ModuleType)
    }
    assert loose == {"annotations"}


def test_every_error_is_exported() -> None:
    """Nobody has to catch what cannot be named."""
    raised = {cls.__name__ for cls in tree_below(KlingError)}
    assert raised - set(kling_async.__all__) == set()


@pytest.mark.parametrize(
    "module",
    [_errors, _generation, _hooks, _money, _polling, _retrying],
    ids=lambda module: module.__name__,
)
def test_every_class_that_users_meet_is_exported(module: ModuleType) -> None:
    """Values, events, schedules and policies are all at the top level."""
    hidden = classes_in(module) - set(kling_async.__all__)
    assert hidden <= NOT_FOR_USERS


@pytest.mark.parametrize("name", kling_async.__all__)
def test_nothing_shows_where_it_is_kept(name: str) -> None:
    """Tracebacks and docs say `kling_async.X`, as users import it."""
    shown = getattr(public(name), "__module__", "") or ""
    assert not shown.startswith("kling_async._")


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_is_found_again_by_a_pickle(name: str) -> None:
    """The place that a class names as its own is where it can be imported from."""
    cls = public(name)
    assert pickle.loads(pickle.dumps(cls)) is cls


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_explained(name: str) -> None:
    """A docstring of its own: of the class, and of each public method and property."""
    cls = public(name)
    assert isinstance(cls, type)
    assert cls.__dict__.get("__doc__")
    unexplained = {
        member
        for member, code in members_of(cls)
        if not inspect.getdoc(code) and "overload" not in member
    }
    assert unexplained == set()


def test_the_version_is_a_release() -> None:
    """Three numbers, the same that the package was built with."""
    assert kling_async.__version__.count(".") == 2
    assert all(part.isdigit() for part in kling_async.__version__.split("."))


def test_the_package_alone_loads_nothing_until_a_name_is_asked_for() -> None:
    """To ask for its version, or for a module of it, does not cost all of it."""
    code = (
        "import sys, kling_async; early = set(sys.modules); "
        "from kling_async import AsyncKling; "
        "print(*(it in early for it in ('httpx', 'attrs', 'anyio', 'tenacity')))"
    )
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert told.stdout.split() == ["False"] * 4


def test_a_name_that_is_not_there_is_told_as_of_any_module() -> None:
    """`hasattr` works, and so does `dir`."""
    assert not hasattr(kling_async, "nothing_like_it")
    assert set(kling_async.__all__) <= set(dir(kling_async))

"""A plugin for pytest: measure which lines of the library the tests run.

Measuring doubles the time of all code that runs meanwhile, also that of others. So it
rests while tests are collected, and in those that run for long what others run as well.
What runs on import is measured once, before the workers begin.
"""

from __future__ import annotations

import os
import pkgutil
from importlib import import_module

import pytest
from coverage import Coverage

# The same lines again and again: the bound is kept without them.
RESTS = (
    "tests/contract/",
    "tests/core/client/test_backoff.py",
    "tests/core/client/test_batch.py::test_the_emulators_generations_all_come",
    "tests/core/client/test_batch.py::test_two_thousand_generations_work",
    "tests/core/client/test_cancellation.py",
    "tests/core/client/test_secrets_everywhere.py",
    "tests/core/polling/test_learning_client.py",
    "tests/core/polling/test_polling_simulation.py",
    "tests/properties/",
)


class Measured:
    """Measures the tests that it is meant for."""

    def __init__(self) -> None:
        self._coverage = Coverage(data_suffix=True)
        self._is_on = False

    def turn(self, *, on: bool) -> None:
        """Begin to measure, or rest."""
        if on != self._is_on:
            (self._coverage.start if on else self._coverage.stop)()
            self._is_on = on

    def import_all(self) -> None:
        """Run what each module runs on import."""
        self.turn(on=True)
        package = import_module("kling_async")
        for module in pkgutil.walk_packages(package.__path__, "kling_async."):
            if not module.name.endswith("__main__"):
                import_module(module.name)
        self.turn(on=False)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        """Go on or rest, from here on."""
        is_property = item.get_closest_marker("hypothesis") is not None
        self.turn(on=not is_property and not item.nodeid.startswith(RESTS))

    def pytest_unconfigure(self) -> None:
        """Write down what was seen."""
        self.turn(on=False)
        self._coverage.save()


measured = Measured()
if "PYTEST_XDIST_WORKER" not in os.environ:
    measured.import_all()


def pytest_configure(config: pytest.Config) -> None:
    """Take part in this run."""
    config.pluginmanager.register(measured)

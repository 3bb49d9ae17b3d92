"""The chaos run, small and on a clock that jumps: nothing lost, paid twice or left.

`tests/bench/chaos.py` is the run; `nox -s soak` makes it with 5,000 generations, on
this clock and in real time against another process.
"""

from __future__ import annotations

import logging

import pytest
from chaos import KINDS, Storm, run_turned


def test_no_generation_is_lost_or_paid_twice_in_a_storm(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A fifth of all answers faulty, a limit on requests, two minutes of outage."""
    caplog.set_level(logging.CRITICAL, "kling_async")
    figures = run_turned(Storm(generations=150))
    assert figures.is_sound, figures
    assert figures.faulty > 100
    assert all(figures.faults.values()), "a kind of fault never struck"
    assert len(figures.faults) == len(KINDS) + 2  # those of the outage
    assert figures.rate_limited
    assert figures.reconciled
    assert figures.uncertain
    assert figures.turned_seconds > 345

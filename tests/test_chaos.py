"""The chaos run on a clock that jumps: nothing lost, paid twice or left.

`tests/bench/chaos.py` is the run; `nox -s soak` makes it in real time too, against
another process.
"""

from __future__ import annotations

import logging
import subprocess
import sys

import chaos
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


@pytest.mark.timeout(900)
def test_five_thousand_at_once_come_through_it() -> None:
    """In a process of their own; the program's exit code is what the books say."""
    program = subprocess.run(
        [sys.executable, str(chaos.__file__)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert program.returncode == 0, program.stdout + program.stderr
    for fact in ("videos | 5,000", "billed | 5,000", "lost | 0", "billed twice | 0"):
        assert f"| {fact} |" in program.stdout
    for leaked in ("tasks", "sockets", "files"):
        assert f"| leaked {leaked} | 0 |" in program.stdout

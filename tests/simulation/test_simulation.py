"""The simulation itself: it repeats what a seed gave, and finds what is known."""

from __future__ import annotations

from collections.abc import Iterator

import detangle
import pytest
from faults import FAULTS, Fault
from simulate import Stage, on_stage, play

# Cut off at a step where anyio had not begun what it had made.
pytestmark = pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")

SCHEDULES = 600

Fingerprint = tuple[int, float, list[tuple[float, str, str]], list[str]]


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    """Set the stage once: reading the certificates takes longer than a run."""
    with on_stage() as made:
        yield made


def fingerprint(stage: Stage, seed: int) -> Fingerprint:
    """Play a seed, and give what tells one run from another."""
    stats = play(stage, seed)
    run = stage.last
    assert run is not None
    log = [line for process in run.processes for line in process.log]
    return stats.total_steps, stats.max_virtual_time, run.vendor.trace, log


@pytest.mark.parametrize("seed", [2, 7, 1018, 1386])
def test_the_same_seed_gives_the_same_run(stage: Stage, seed: int) -> None:
    """Each step, each request, each line of the log comes again; other seeds differ."""
    first = fingerprint(stage, seed)
    assert fingerprint(stage, seed) == first
    assert fingerprint(stage, seed + 1) != first


def test_a_run_meets_what_it_is_for(stage: Stage) -> None:
    """In fifty runs there are deaths, closes, pauses, lost answers, cancellations."""
    met: set[str] = set()
    for seed in range(50):
        play(stage, seed)
        run = stage.last
        assert run is not None
        met |= {"death"} if any(it.is_dead for it in run.processes) else set()
        met |= {"pause"} if run.stood_still else set()
        met |= {fault for _, _, fault in run.vendor.trace}
        met |= {type(it.outcome).__name__ for it in run.acts}
    wanted = {"death", "pause", "reset", "silence", "429", "Generation", "str"}
    assert wanted <= met
    assert {"ClientClosedError", "SubmissionUncertainError"} <= met


def test_a_broken_promise_is_told_with_the_way_there(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An invariant that no run keeps ends the first with its words and a token."""

    def never(_: object) -> None:
        raise AssertionError("it rains")

    monkeypatch.setattr("simulate.check", never)
    with pytest.raises(detangle.BugFound, match="it rains"):
        play(stage, 0)


def breaks_a_promise(stage: Stage, seed: int) -> bool:
    """Play a seed, and tell whether it does."""
    try:
        play(stage, seed)
    except detangle.BugFound:
        return True
    return False


@pytest.mark.parametrize("fault", FAULTS, ids=lambda it: it.name)
def test_a_known_fault_is_found_when_it_is_put_back(stage: Stage, fault: Fault) -> None:
    """Within as many schedules as a minute has; without it the seed breaks nothing.

    First is tried the seed that found it before.
    """
    seeds = (fault.seed, *range(SCHEDULES))
    with fault.put_back():
        found = next(it for it in seeds if breaks_a_promise(stage, it))
    play(stage, found)

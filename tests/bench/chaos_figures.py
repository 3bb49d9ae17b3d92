"""What a chaos run has come to: figures, as tables, and in a page.

Counts nothing itself but the open files of this process.
"""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Sequence
from pathlib import Path

from attrs import asdict, define, field


@define(kw_only=True)
class Figures:
    """What came of it."""

    generations: int = 0
    created: int = 0
    billed: int = 0
    videos: int = 0
    lost: int = 0
    billed_twice: int = 0
    requests: int = 0
    polls: int = 0
    log_reads: int = 0
    rate_limited: int = 0
    retries: int = 0
    errors_to_callers: int = 0
    answers_to_creates_lost: int = 0
    reconciled: int = 0
    uncertain: int = 0
    found_by_hand: int = 0
    leaked_tasks: int = 0
    leaked_sockets: int = 0
    leaked_files: int = 0
    turned_seconds: float = 0.0
    wall_seconds: float = 0.0
    faults: dict[str, int] = field(factory=dict[str, int])

    @property
    def faulty(self) -> int:
        """How many answers were faulty, the outage's not counted."""
        return sum(n for name, n in self.faults.items() if "outage" not in name)

    @property
    def is_sound(self) -> bool:
        """Whether nothing was lost, nothing billed twice, and nothing leaked."""
        bad = self.lost, self.billed_twice, self.leaked_tasks
        served = {self.created, self.billed, self.videos} == {self.generations}
        return served and not any((*bad, self.leaked_sockets, self.leaked_files))

    def lines(self) -> list[str]:
        """Write a table of them, and one of the faults by kind."""
        told = {k: v for k, v in asdict(self).items() if k != "faults"}
        rows = [
            f"| {name.replace('_', ' ')} | {it:,.0f} |" for name, it in told.items()
        ]
        faults = [f"| {name} | {count:,} |" for name, count in self.faults.items()]
        head = ["| | |", "| --- | --- |"]
        calm = self.requests - sum(self.faults.values()) + self.faulty
        share = f"{100 * self.faulty / max(1, calm):.1f} %"
        kinds = ["| fault | struck |", "| --- | --- |", *faults]
        return [*head, *rows, "", f"Faulty beside the outage: {share}.", "", *kinds]


def open_files() -> collections.Counter[str]:
    """Count the open file descriptors of this process by what they are."""
    found: collections.Counter[str] = collections.Counter()
    for number in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # the list's own is gone by now
            what = str(number.readlink())
            found["socket" if what.startswith("socket:") else what] += 1
    return found


def write(page: Path, name: str, lines: Sequence[str]) -> None:
    """Put figures into a page, between the two comments that bear their name."""
    begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->\n"
    before, _, rest = page.read_text("utf-8").partition(begin)
    _, _, after = rest.partition(end)
    text = "\n".join([*lines, ""])
    page.write_text(f"{before}{begin}{text}{end}{after}", "utf-8")

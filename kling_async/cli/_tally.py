"""How a batch stands, as a line that moves on a terminal and as lines elsewhere.

Counts what it is told; asks nobody.
"""

from __future__ import annotations

import time
from collections import Counter
from types import TracebackType
from typing import Self

from attrs import define, field
from rich.console import Console, Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from kling_async.cli._moving import Moving
from kling_async.cli._words import clock, cost_in_words, in_words, one_line
from kling_async.durable import JobState, JobStatus

_REFRESHES_PER_SECOND = 4
_CELLS = 40
STYLES = {
    JobState.DONE: "green",
    JobState.RUNNING: "cyan",
    JobState.QUEUED: "dim",
    JobState.HELD: "yellow",
    JobState.UNCERTAIN: "yellow",
    JobState.FAILED: "red",
    JobState.CANCELLED: "dim",
}


@define(eq=False)
class Tally:
    """The jobs of one batch, shown while the block lasts.

    Attributes:
        console: Where.
        total: How many there are.
    """

    console: Console
    total: int
    statuses: dict[str, JobStatus] = field(factory=dict[str, JobStatus], init=False)
    _began: float = field(factory=time.monotonic, init=False)
    _ended_before: int | None = field(default=None, init=False)
    _moving: Moving = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._moving = Moving(self.console, self._picture, _REFRESHES_PER_SECOND)

    def __enter__(self) -> Self:
        self._moving.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._moving.stop()

    def begin(self) -> None:
        """Count what has ended by now as done by earlier runs."""
        self._ended_before = self.ended

    def see(self, status: JobStatus) -> None:
        """Take in how a job is."""
        before = self.statuses.get(status.key)
        self.statuses[status.key] = status
        is_news = before is not None and before.state is not status.state
        if is_news and status.state.is_final:
            self._tell(status)

    @property
    def ended(self) -> int:
        """How many have ended."""
        return sum(it.state.is_final for it in self.statuses.values())

    @property
    def counts(self) -> Counter[JobState]:
        """How many are in each state."""
        return Counter(it.state for it in self.statuses.values())

    @property
    def credits_used(self) -> float:
        """What all of them have cost, in credits."""
        return sum(it.credits_used or 0 for it in self.statuses.values())

    @property
    def seconds_left(self) -> float | None:
        """How long it will take at the pace of this run, once one has ended in it."""
        if self._ended_before is None or self.ended <= self._ended_before:
            return None
        pace = (time.monotonic() - self._began) / (self.ended - self._ended_before)
        return pace * (self.total - self.ended)

    def in_words(self) -> str:
        """Return the counts and the cost as one line."""
        counts = self.counts
        told = [f"{counts[state]} {state}" for state in STYLES if counts[state]]
        return ", ".join([*told, cost_in_words(self.credits_used)])

    def _tell(self, status: JobStatus) -> None:
        what = f": {status.error}" if status.error else ""
        if status.state is JobState.DONE and status.output is not None:
            what = f": {status.output}"
        text = Text.assemble(
            (f"{self.ended}/{self.total} ", "dim"),
            (f"{one_line(status.key)} {status.state}", STYLES[status.state]),
            one_line(what),
        )
        self.console.print(text, soft_wrap=True)

    def _picture(self) -> RenderableType:
        bar = ProgressBar(
            total=max(1, self.total),
            completed=self.ended,
            width=_CELLS,
            complete_style="green",
            finished_style="green",
        )
        left = self.seconds_left
        ahead = "" if left is None else f", about {in_words(left)} left"
        passed = clock(time.monotonic() - self._began)
        line = Table.grid(padding=(0, 1))
        line.add_row(bar, Text(f"{self.ended}/{self.total}", "bold"))
        return Group(line, Text(f"{self.in_words()}; {passed}{ahead}", "dim"))

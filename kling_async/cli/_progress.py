"""Progress on a terminal: a moving table or line; plain lines elsewhere.

Shows what it is given; asks nobody, and decides nothing.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Literal, Self

from attrs import define, field
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from kling_async import Generation
from kling_async._hooks import logger
from kling_async._text import safe_line
from kling_async.cli._output import clock, cost_in_words, in_words

if TYPE_CHECKING:
    from kling_async.durable import JobState, JobStatus


@define(eq=False)
class LiveDisplay:
    """Draws a picture again and again.

    Attributes:
        console: Where.
        picture: Gives it as it is now; called from another thread.
        per_second: How often it is drawn.
    """

    console: Console
    picture: Callable[[], RenderableType]
    per_second: int
    _live: Live | None = field(default=None, init=False)

    @property
    def is_on(self) -> bool:
        """Whether it is drawn."""
        return self._live is not None

    def start(self) -> None:
        """Begin to draw, if this is a terminal that can."""
        if self.console.is_terminal and not self.console.is_dumb_terminal:
            self._live = Live(
                console=self.console,
                get_renderable=self.picture,
                refresh_per_second=self.per_second,
            )
            self._live.start()

    def refresh(self) -> None:
        """Draw it at once."""
        if self._live is not None:
            self._live.refresh()

    def stop(self) -> None:
        """Leave it as it is now."""
        if self._live is not None:
            self._live.stop()


_REFRESHES_PER_SECOND = 10

_BAR_CELLS = 24

_LONG = 1.25

_NOT_YET = 0.98  # what is overdue is never shown as done

State = Literal["pending", "done", "failed", "left"]

_MARKS: dict[State, tuple[str, str]] = {
    "done": ("✓", "green"),
    "failed": ("✗", "red"),
    "left": ("…", "yellow"),
}


@define(eq=False, kw_only=True)
class GenerationRow:
    """One generation as it is shown.

    Attributes:
        label: What it is called, if there are several.
        typical: How long it usually takes, in seconds, where that is known.
        status: What it is doing.
        state: Whether it is doing it still.
        seconds: How long it took, once it has ended.
    """

    label: str = ""
    typical: float | None = None
    status: str = "sending"
    state: State = "pending"
    seconds: float | None = None
    _began: float = field(factory=time.monotonic, init=False)
    _spinner: Spinner = field(factory=lambda: Spinner("dots", style="cyan"), init=False)

    @property
    def elapsed(self) -> float:
        """How long it has been going on, or took, in seconds."""
        if self.seconds is not None:
            return self.seconds
        return time.monotonic() - self._began

    def end(self, state: State) -> None:
        """Stop its clock."""
        self.seconds, self.state = self.elapsed, state

    def cells(self, *, labelled: bool) -> list[Spinner | Text | ProgressBar]:
        """Return it as a line of the table."""
        style = "cyan"
        mark: Spinner | Text = self._spinner
        if self.state != "pending":
            mark_text, style = _MARKS[self.state]
            mark = Text(mark_text, style)
        return [
            mark,
            *([Text(self.label, "bold")] if labelled else []),
            Text(self.status, style),
            self._bar(style),
            Text(self._time(), "dim"),
        ]

    def _bar(self, style: str) -> ProgressBar:
        total = self.typical
        done = self.state == "done"
        if total is None and not done:
            pulses = self.state == "pending"
            return ProgressBar(width=_BAR_CELLS, completed=0, pulse=pulses)
        share = 1.0 if done else min(self.elapsed / (total or 1), _NOT_YET)
        return ProgressBar(
            total=1,
            completed=share,
            width=_BAR_CELLS,
            complete_style=style,
            finished_style=style,
        )

    def _time(self) -> str:
        if self.typical is None or self.state != "pending":
            return clock(self.elapsed)
        if self.elapsed > _LONG * self.typical:
            return f"{clock(self.elapsed)}, longer than usual"
        return f"{clock(self.elapsed)} of about {clock(self.typical)}"


@define(eq=False)
class Progress:
    """The generations of one command, shown while the block lasts.

    Attributes:
        console: Where.
    """

    console: Console
    _rows: dict[str, GenerationRow] = field(
        factory=dict[str, GenerationRow], init=False
    )
    _display: LiveDisplay = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._display = LiveDisplay(self.console, self._table, _REFRESHES_PER_SECOND)

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Leave the last state on the screen, and let nothing move any more."""
        for row in self._rows.values():
            if row.state == "pending":
                row.end("left")
        self._display.stop()

    def add(self, key: str, *, label: str = "", typical: float | None = None) -> None:
        """Begin to show a generation.

        Args:
            key: Its id, or the client request id of its create.
            label: What to call it, if there are several.
            typical: How long it usually takes, in seconds, where that is known.
        """
        self._rows[key] = GenerationRow(label=safe_line(label), typical=typical)

    def drop(self, key: str) -> None:
        """Show no more of a generation."""
        del self._rows[key]

    def show(self, generation: Generation) -> None:
        """Show what the server said of a generation."""
        row, status = self._row_of(generation), safe_line(generation.status)
        if generation.is_terminal:
            row.end("failed" if generation.failed else "done")
        self._tell(row, status)

    def say(self, generation: Generation, status: str) -> None:
        """Show what is done about a generation."""
        self._tell(self._row_of(generation), status)

    def _row_of(self, generation: Generation) -> GenerationRow:
        by_create = self._rows.get(generation.client_request_id or "")
        return by_create or self._rows[generation.id]

    def _tell(self, row: GenerationRow, status: str) -> None:
        is_news, row.status = status != row.status, status
        if self._display.is_on:
            self._display.refresh()
        elif is_news:
            label = f"{row.label} " if row.label else ""
            line = f"{clock(row.elapsed)} {label}{row.status}"
            self.console.print(Text(line), soft_wrap=True)

    def _table(self) -> Table:
        rows = list(self._rows.values())  # a copy: this is another thread
        labelled = any(row.label for row in rows)
        table = Table.grid(padding=(0, 1))
        for _ in range(4 + labelled):
            table.add_column(no_wrap=True)
        for row in rows:
            table.add_row(*row.cells(labelled=labelled))
        return table


def usually(seconds: float | None) -> str:
    """Return how long something usually takes as a clause to append."""
    return "" if seconds is None else f", usually {in_words(seconds)}"


_SUMMARIES_PER_SECOND = 4

_CELLS = 40

# By the state of a job, whose class needs the extra `durable`.
STYLES = {
    "done": "green",
    "running": "cyan",
    "queued": "dim",
    "held": "yellow",
    "uncertain": "yellow",
    "failed": "red",
    "cancelled": "dim",
}


# For this long, in seconds, warnings of one kind are counted instead of shown.
_GATHERED = 60.0


class WarningCounter(logging.Filter):
    """Lets one warning of a kind through, and counts the others: an outage is many."""

    def __init__(self, show: Callable[[str], object]) -> None:
        super().__init__()
        self._show = show
        self._lock = threading.Lock()
        self._counts: dict[object, tuple[float, int, str]] = {}

    def __enter__(self) -> Self:
        logger.addFilter(self)
        return self

    def __exit__(self, *exc: object) -> None:
        logger.removeFilter(self)
        for _, count, text in self._counts.values():
            self._tell(count, text)

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a record is shown."""
        if record.levelno != logging.WARNING or record.exc_info:
            return True
        with self._lock:
            began, count, text = self._counts.get(record.msg, (-math.inf, 0, ""))
            is_first = record.created - began > _GATHERED
            if not is_first:
                self._counts[record.msg] = (began, count + 1, text)
                return False
            self._counts[record.msg] = (record.created, 0, record.getMessage())
        self._tell(count, text)
        return True

    def _tell(self, count: int, text: str) -> None:
        if count:
            self._show(f"warning: {count} more like it: {text}")


@define(eq=False)
class BatchProgress:
    """The jobs of one batch, shown while the block lasts.

    Attributes:
        console: Where.
        keys: Which they are.
        statuses: How each of them is, as far as that is known.
        others: How the other jobs of the batch are.
        counts: How many of them are in each state.
    """

    console: Console
    keys: Collection[str]
    statuses: dict[str, JobStatus] = field(factory=dict[str, "JobStatus"], init=False)
    others: dict[str, JobStatus] = field(factory=dict[str, "JobStatus"], init=False)
    counts: Counter[JobState] = field(factory=Counter["JobState"], init=False)
    _began: float = field(factory=time.monotonic, init=False)
    _pace_began: float = field(default=math.inf, init=False)
    _ended_before: int = field(default=0, init=False)
    _display: LiveDisplay = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._display = LiveDisplay(self.console, self._picture, _SUMMARIES_PER_SECOND)

    def __enter__(self) -> Self:
        self._display.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._display.stop()

    def start_pace(self) -> None:
        """Count what has ended by now as done by earlier runs."""
        self._pace_began, self._ended_before = time.monotonic(), self.ended

    def update(self, status: JobStatus) -> None:
        """Take in how a job is."""
        if status.key not in self.keys:
            self.others[status.key] = status
            return
        before = self.statuses.get(status.key)
        self.statuses[status.key] = status
        self.counts[status.state] += 1
        if before is not None:
            self.counts[before.state] -= 1
        is_news = before is not None and before.state is not status.state
        if is_news and status.state.is_final:
            self._tell(status)

    @property
    def total(self) -> int:
        """How many there are."""
        return len(self.keys)

    @property
    def is_whole(self) -> bool:
        """Whether it is known of each how it is."""
        return len(self.statuses) == self.total

    @property
    def ended(self) -> int:
        """How many have ended."""
        return sum(count for it, count in self._counted() if it.is_final)

    def _counted(self) -> list[tuple[JobState, int]]:
        return list(self.counts.items())  # a copy: this may be another thread

    @property
    def credits_used(self) -> float:
        """What all of them have cost, in credits."""
        return sum(it.credits_used or 0 for it in self.statuses.values())

    @property
    def seconds_left(self) -> float | None:
        """How long it will take at the pace of this run, once one has ended in it."""
        ended = self.ended - self._ended_before
        if math.isinf(self._pace_began) or ended <= 0:
            return None
        pace = (time.monotonic() - self._pace_began) / ended
        return pace * (self.total - self.ended)

    def in_words(self) -> str:
        """Return the counts and the cost as one line."""
        counts = {str(it): count for it, count in self._counted()}
        told = [f"{counts[it]} {it}" for it in STYLES if counts.get(it)]
        return ", ".join([*told, cost_in_words(self.credits_used)])

    def _tell(self, status: JobStatus) -> None:
        what = f": {status.error}" if status.error else ""
        if status.state == "done" and status.output is not None:
            what = f": {status.output}"
        text = Text.assemble(
            (f"{self.ended}/{self.total} ", "dim"),
            (f"{safe_line(status.key)} {status.state}", STYLES[status.state]),
            safe_line(what),
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

"""How many polls news costs, and how late it is: schedules in several worlds.

Nothing is awaited and nothing asked; all is drawn from seeded numbers. The table is
printed; `--write docs/explanation/polling.md` puts it between the marks in that page
of the documentation, `--plot docs/_static/polling_frontier.svg` draws its picture.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import fmean

import matplotlib as mpl
from attrs import frozen
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from polling_optimum import Law, least_lateness, optimum
from polling_worlds import WORLDS, Figures, World, simulate

from kling_async import Exponential, Fixed, Learned, Polling, PollState

COUNT = 3000  # generations a turn
TURNS = 3
WORST_GAP = 30.0
MARKS = "<!-- simulation begins -->", "<!-- simulation ends -->"
DRAWN = WORLDS[0], WORLDS[1], WORLDS[3], WORLDS[7]


@frozen
class Unlearning:
    """What `Learned` does for the first generation of a process.

    Attributes:
        learned: A schedule that is told nothing.
    """

    learned: Learned

    def delay(self, state: PollState, /) -> float:
        """Tell how many seconds to wait before the next poll."""
        return self.learned.delay(state)


SCHEDULES: dict[str, Callable[[], Polling]] = {
    "fixed 10 s": lambda: Fixed(10),
    "fixed 5 s": lambda: Fixed(5),
    "exponential": Exponential,
    "`Learned`, new": lambda: Unlearning(Learned()),
    "`Learned`": Learned,
}


def laws_of(world: World) -> list[Law]:
    """Give the laws of durations that hold in a world, one after another."""
    return [Law.of(durations) for durations in world.laws()]


def figures(world: World, make: Callable[[], Polling]) -> Figures:
    """Let a schedule wait in a world, several times from the beginning."""
    turns = [simulate(world, make(), COUNT, seed=turn) for turn in range(TURNS)]
    return Figures(
        fmean(it.polls for it in turns),
        fmean(it.lateness for it in turns),
        fmean(it.worst for it in turns),
    )


def shown(it: Figures) -> str:
    """Write figures as a cell of the table."""
    return f"{it.polls:.1f}, {it.lateness:.1f}, {it.worst:.1f}"


def row(world: World) -> str:
    """Write a world's line of the table."""
    found = {name: figures(world, make) for name, make in SCHEDULES.items()}
    learned = found["`Learned`"]
    least = least_lateness(laws_of(world), learned.polls, WORST_GAP)
    cells = [world.name, *map(shown, found.values())]
    cells += [f"{least:.1f}", f"{learned.lateness / least:.2f}"]
    return f"| {' | '.join(cells)} |"


def table() -> str:
    """Write the table of all worlds and schedules."""
    heads = ["durations", *SCHEDULES, "least possible", "times that"]
    rule = "|".join(" --- " for _ in heads)
    return "\n".join([f"| {' | '.join(heads)} |", f"|{rule}|", *map(row, WORLDS)])


def wide_rows() -> str:
    """Write what a longer worst gap brings, where durations vary by 12 %."""
    world = WORLDS[0]
    laws = laws_of(world)
    fixed = figures(world, Fixed)
    heads = "| schedule | polls | of fixed 10 s | mean lateness, s | least possible |"
    rows = [heads, "| --- | --- | --- | --- | --- |"]
    for gap, polls in ((30.0, 15.5), (60.0, 12.5), (120.0, 10.8), (300.0, 10.3)):
        it = figures(world, partial(Learned, 1.0, polls, worst_gap=gap))
        least = least_lateness(laws, it.polls, gap)
        rows.append(
            f"| `Learned(1, {polls:g}, worst_gap={gap:g})` | {it.polls:.1f} "
            f"| {it.polls / fixed.polls:.2f} | {it.lateness:.2f} | {least:.2f} |"
        )
    rows.append(f"| `Fixed(10)` | {fixed.polls:.1f} | 1 | {fixed.lateness:.2f} | |")
    return "\n".join(rows)


def points(world: World, schedules: Sequence[Polling]) -> Sequence[Sequence[float]]:
    """Give polls and lateness of schedules, to be drawn."""
    found = [simulate(world, polling, COUNT) for polling in schedules]
    return [it.polls for it in found], [it.lateness for it in found]


def draw(axes: Axes, world: World) -> None:
    """Draw what schedules come to in a world, and the frontier that none passes."""
    prices = [0.05 * 1.25**step for step in range(22)]
    laws = laws_of(world)
    best = [optimum(laws, price, WORST_GAP) for price in prices]
    axes.plot(
        [it.polls for it in best],
        [it.lateness for it in best],
        color="0.4",
        label="least possible",
    )
    budgets = (12, 14, 16, 20, 25, 32, 40)
    learned = [Learned(0.5, polls) for polls in budgets]
    gaps = (4, 5, 7, 10, 14, 20, 28)
    fixed = [Fixed(gap) for gap in gaps]
    backed_off = [Exponential(1, 1.5, gap) for gap in gaps]
    axes.plot(*points(world, learned), "o-", label="Learned(polls=…)")
    axes.plot(*points(world, fixed), "s-", label="Fixed")
    axes.plot(*points(world, backed_off), "^-", label="Exponential(maximum=…)")
    axes.plot(*points(world, [Learned()]), "k*", markersize=12, label="Learned()")
    axes.set(title=world.name, xlim=(8, 75), ylim=(0, 16))
    axes.set(xlabel="polls per generation", ylabel="mean lateness, s")
    axes.grid(alpha=0.3)


def plot(path: Path) -> None:
    """Draw the picture of the documentation; the same each time."""
    mpl.rcParams |= {"svg.hashsalt": "polling", "svg.fonttype": "none"}
    figure = Figure(figsize=(9, 7), layout="constrained")
    grid = [axes for row in figure.subplots(2, 2, squeeze=False) for axes in row]
    for axes, world in zip(grid, DRAWN, strict=True):
        draw(axes, world)
    grid[0].legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main() -> None:
    """Simulate, print, and write and draw where told."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE")
    parser.add_argument("--plot", type=Path, metavar="FILE")
    options = parser.parse_args()
    tables = f"{table()}\n\n{wide_rows()}"
    print(tables)
    if options.write:
        begins, ends = MARKS
        page = options.write.read_text("utf-8")
        new = f"{begins}\n\n{tables}\n\n{ends}"
        pattern = f"{begins}.*{ends}"
        page = re.sub(pattern, lambda _: new, page, flags=re.DOTALL)
        options.write.write_text(page, "utf-8")
    if options.plot:
        plot(options.plot)


if __name__ == "__main__":
    main()

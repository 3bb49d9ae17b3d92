"""One run of `kling-async batch`: submit the rows, follow the jobs, fetch the files.

The durable jobs decide what happens to a job, and when.
"""

from __future__ import annotations

import contextlib
import math
import os
import secrets
import time
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import anyio
from anyio import to_thread
from attrs import define, field
from rich.table import Table

from kling_async import AsyncKling, ConfigurationError, KlingError, Price
from kling_async._config import WhenUncertain
from kling_async._files.storage import StorageError, is_url
from kling_async._text import pluralize, safe_line
from kling_async.cli._manifest import JOBS, OWN_FILES, Manifest, RowPlan
from kling_async.cli._output import Exit, Screen, cost_in_words
from kling_async.cli._progress import BatchProgress, WarningCounter
from kling_async.cli._report import LocalPlace, Place, has_video, write_results
from kling_async.durable import Comparison, DurableKling, JobState, JobStatus, Webhook

_DOWNLOADS = 8

# The most jobs named in a line.
_NAMED = 5


async def plan(manifest: str, folder: Path, *, check_media: bool) -> list[RowPlan]:
    """Read a manifest, and check each row.

    Raises:
        InvalidRequestError: Everything that is wrong with it, line by line.
        OSError: It cannot be read.
    """
    return await Manifest(manifest, folder, check_media).plan()


def webhook_from(url: str | None) -> Webhook | None:
    """Take a webhook from its option and the environment.

    Raises:
        ConfigurationError: One of them is missing, or none.
    """
    if url is None:
        return None
    return Webhook(url=url, secret=os.environ.get("KLING_WEBHOOK_SECRET", ""))


# A part of a download of a run that was killed.
_PART = ".kling-*.part"

_STALE = 60 * 60.0


@define(eq=False, kw_only=True)
class BatchRun:
    """One run of a batch.

    Attributes:
        screen: Where it is told.
        name: What the batch is called.
        is_named: Whether somebody chose that, or the folder: else both come from the
            name of the manifest.
        folder: Where the jobs are kept, and where results go by default.
        place: Where videos and results go.
        inputs: As for `DurableKling`.
        database: Where the jobs are; None for a file in the folder.
        max_in_flight: As for `DurableKling`.
        creates_per_minute: Likewise.
        budget: What the batch may cost, in credits, infinite to lift it; None to
            leave it as it is.
        on_uncertain: As for `DurableKling`.
        retry_failed: Whether failed jobs of earlier runs are tried once more.
        prune: Whether jobs that are no longer in the manifest are called off.
        check_media: As for `DurableKling`.
        webhook: Likewise.
        check_mp4: Likewise.
    """

    screen: Screen
    name: str
    is_named: bool
    folder: Path
    place: Place
    inputs: str | None
    database: str | None
    max_in_flight: int
    creates_per_minute: int | None
    budget: float | None
    on_uncertain: WhenUncertain
    retry_failed: bool
    prune: bool
    check_media: bool
    webhook: Webhook | None = None
    check_mp4: bool = True
    _troubles: int = field(default=0, init=False)
    _missing: set[str] = field(factory=set[str], init=False)

    async def work_off(self, rows: Sequence[RowPlan]) -> Exit:
        """Run it as far as possible, and write the results."""
        await self._find_name()
        if self.database is None:
            await anyio.Path(self.folder).mkdir(parents=True, exist_ok=True)
        await self.place.prepare()
        await to_thread.run_sync(_remove_parts, self.folder, rows, _STALE)
        progress = BatchProgress(self.screen.err, {it.key for it in rows})
        async with AsyncKling(check_media=self.check_media) as kling:
            try:
                with WarningCounter(self.screen.note), progress:
                    if not await self._submit(rows, progress):
                        return Exit.USAGE
                    await self._follow(kling, progress)
                    await self._fetch_missing(kling, progress)
                await to_thread.run_sync(_remove_parts, self.folder, rows, 0)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._write(rows, progress)
        self._explain_decisions(progress)
        return self._code(progress)

    async def _find_name(self) -> None:
        """Go on with the batch of a folder that was renamed: it is paid for.

        Raises:
            ConfigurationError: The folder holds another one.
        """
        if not await to_thread.run_sync(self._has_database):
            return
        is_local = isinstance(self.place, LocalPlace)
        if not is_local and (self.database is not None or self.is_named):
            return
        async with DurableKling(self.database or self.folder / JOBS) as jobs:
            # A database of the folder's own may have moved with it.
            own = None if self.database is None else self.folder
            there = await jobs.batches(output_dir=own)
        if not there or self.name in there:
            return
        if self.is_named or len(there) > 1:
            raise ConfigurationError(
                f"{self.folder} has the files of {', '.join(map(repr, there))}, not of "
                f"{self.name!r}: --name goes on with one of them; a new batch needs "
                "an --output-dir of its own"
            )
        self.name = there[0]
        self.screen.note(f"{self.folder} holds batch {self.name!r}: it goes on", "")

    def _jobs(self, kling: AsyncKling | None = None) -> DurableKling:
        return DurableKling(
            self.database or self.folder / JOBS,
            kling,
            batch=self.name,
            max_in_flight=self.max_in_flight,
            creates_per_minute=self.creates_per_minute,
            on_uncertain=self.on_uncertain,
            output_dir=self.folder if isinstance(self.place, LocalPlace) else None,
            inputs=self.inputs,
            check_media=self.check_media,
            webhook=self.webhook,
            check_mp4=self.check_mp4,
        )

    async def _submit(self, rows: Sequence[RowPlan], progress: BatchProgress) -> bool:
        """Let the jobs be what the manifest asks for, before any of them is sent."""
        async with self._jobs() as jobs:
            found = await jobs.compare(map(self.place.job_of, rows))
            self._tell_difference(rows, found)
            if found.conflicts:
                return False
            if self.budget is not None:
                await jobs.set_budget(None if math.isinf(self.budget) else self.budget)
            await self._leave_out(jobs, found.absent)
            await self._move(jobs, found.moved)
            changed = {it.key for it in found.changed}
            await jobs.replace_many(
                self.place.job_of(it) for it in rows if it.key in changed
            )
            new = set(found.new)
            await jobs.submit_many(
                self.place.job_of(it) for it in rows if it.key in new
            )
            await self._go_on(jobs, found.unchanged)
            for status in await jobs.list():
                progress.update(status)
        return True

    def _tell_difference(self, rows: Sequence[RowPlan], found: Comparison) -> None:
        counts = {
            "new": len(found.new),
            "unchanged": len(found.unchanged),
            "changed": len(found.changed) + len(found.conflicts),
            "no longer there": len(found.absent),
        }
        told = ", ".join(f"{count} {word}" for word, count in counts.items())
        self.screen.note(f"{pluralize(len(rows), 'row')}: {told}", "")
        for row in rows:
            if fields := found.conflicts.get(row.key):
                self.screen.error(
                    f"line {row.line}: key: {row.key!r} was begun with another request "
                    f"(they differ in: {', '.join(fields)}); give the changed row "
                    "another key, or restore it (nothing was sent)"
                )

    async def _leave_out(self, jobs: DurableKling, absent: Iterable[JobStatus]) -> None:
        """Send nothing for jobs that the manifest does not have any more."""
        held, called_off, under_way = list[str](), list[str](), list[str]()
        for it in absent:
            is_unsent = it.state in {JobState.QUEUED, JobState.HELD}
            if self.prune and is_unsent:
                await jobs.cancel(it.key)
                called_off.append(it.key)
            elif it.state is JobState.QUEUED:
                await jobs.hold(it.key, "it is no longer in the manifest")
            if it.state is JobState.RUNNING:
                under_way.append(it.key)
            elif is_unsent and not self.prune:
                held.append(it.key)
        for keys, what in (
            (held, "held, never sent; --prune cancels them"),
            (called_off, "called off"),
            (under_way, "running and billed; the command waits for them"),
        ):
            if keys:
                names = ", ".join(
                    [*map(repr, keys[:_NAMED]), *["..."][: len(keys) // (_NAMED + 1)]]
                )
                self.screen.note(
                    f"no longer in the manifest: {names}: {what}", "yellow"
                )

    async def _move(
        self, jobs: DurableKling, moved: Iterable[tuple[JobStatus, str]]
    ) -> None:
        """Follow a changed output: the video, if it is there, and the job."""
        moved = list(moved)
        pairs = [
            (status.output, self.folder / output)
            for status, output in moved
            if isinstance(status.output, Path)
            and status.state is JobState.DONE
            and not is_url(output)
        ]
        in_the_way = await to_thread.run_sync(_move_files, pairs)
        for status, output in moved:
            if self.folder / output in in_the_way:
                self._trouble(f"{status.key}: {output} already exists: not moved")
            else:
                await jobs.move(status.key, output)

    async def _go_on(self, jobs: DurableKling, statuses: Iterable[JobStatus]) -> None:
        """Try again what an earlier run left, unless that may be paid for twice."""
        again = {JobState.HELD}
        again |= {JobState.FAILED} if self.retry_failed else set[JobState]()
        for status in statuses:
            if status.state in again:
                await jobs.resubmit(status.key)
            elif status.state is JobState.UNCERTAIN:
                await jobs.recheck(status.key)

    async def _follow(self, kling: AsyncKling, progress: BatchProgress) -> None:
        known = [*progress.statuses.values(), *progress.others.values()]
        if all(it.state.is_final for it in known):
            return
        progress.start_pace()
        async with self._jobs(kling) as jobs:
            async for status in jobs.watch():
                progress.update(status)

    async def _fetch_missing(self, kling: AsyncKling, progress: BatchProgress) -> None:
        """Fetch what is not here: deleted, or written to another machine's disk."""
        limiter = anyio.CapacityLimiter(_DOWNLOADS)

        async def fetch(status: JobStatus, output: Path | str) -> None:
            try:
                async with limiter:
                    if await has_video(status):
                        return
                    self._missing.add(status.key)
                    if isinstance(output, Path):
                        folder = anyio.Path(output.parent)
                        await folder.mkdir(parents=True, exist_ok=True)
                    done = await kling.get(str(status.generation_id))
                    await kling.download(done, output, check_mp4=self.check_mp4)
                    self._missing.discard(status.key)
            except KlingError as error:
                told = safe_line(error.reason)  # the same command asks for a fresh link
                name = str(output).rpartition("/")[2]
                self._trouble(f"{status.key}: {name} is missing: {told}")
            except (OSError, StorageError) as error:
                why = getattr(error, "strerror", None) or error
                self._trouble(f"{status.key}: {output}: {why}")

        async with anyio.create_task_group() as tasks:
            for status in progress.statuses.values():
                if status.state is JobState.DONE and status.output is not None:
                    tasks.start_soon(fetch, status, status.output)

    def _trouble(self, text: str) -> None:
        self._troubles += 1
        self.screen.error(text)

    async def _write(self, rows: Sequence[RowPlan], progress: BatchProgress) -> None:
        if not progress.is_whole:
            return  # what is there already says more
        self.screen.note(progress.in_words(), "")
        written, failed = await write_results(
            self.name, self.folder, self.place, rows, progress.statuses, self._missing
        )
        for path in written:
            if Path(path).name not in OWN_FILES:
                self.screen.note(f"{path} is in place of one that is in use", "yellow")
            self.screen.result(path)
        for error in failed:
            why = getattr(error, "strerror", None) or error
            self._trouble(f"the results cannot be written: {why}")

    def _explain_decisions(self, progress: BatchProgress) -> None:
        counts = progress.counts
        if counts[JobState.UNCERTAIN]:
            self.screen.note(
                "uncertain: they may be running and billed; the same command looks "
                "for them again, `kling-async jobs --help` tells how to decide",
                "yellow",
            )
        if counts[JobState.HELD]:
            self.screen.note(
                "held: fix the problems above, then run the same command to continue",
                "yellow",
            )
        if progress.others:
            states = Counter(it.state for it in progress.others.values())
            told = ", ".join(f"{count} {state}" for state, count in states.items())
            cost = sum(it.credits_used or 0 for it in progress.others.values())
            self.screen.note(
                f"besides, no longer in the manifest: {told}, {cost_in_words(cost)}"
            )

    def _code(self, progress: BatchProgress) -> Exit:
        counts = progress.counts
        if counts[JobState.FAILED] or counts[JobState.CANCELLED] or self._troubles:
            return Exit.FAILED
        if counts[JobState.UNCERTAIN]:
            return Exit.UNSETTLED
        return Exit.FAILED if counts[JobState.HELD] else Exit.DONE

    async def estimate(self, rows: Sequence[RowPlan]) -> Exit:
        """Tell what this run would do and cost, as far as the vendor quotes it."""
        await self._find_name()
        found, account = Comparison(new=[it.key for it in rows]), None
        if await to_thread.run_sync(self._has_database):
            async with self._jobs() as jobs:
                found = await jobs.compare(map(self.place.job_of, rows))
                account = await jobs.account()
        self._tell_difference(rows, found)
        if found.conflicts:
            return Exit.USAGE
        unsent = {*found.new, *(it.key for it in found.changed)}
        unsent |= {it.key for it in found.unchanged if self._is_to_pay(it)}
        total = await self._price(rows, unsent)
        budget = account.budget if account and self.budget is None else self.budget
        if budget is not None and not math.isinf(budget):
            committed = account.committed if account else 0.0
            verdict = "fits into" if committed + total <= budget else "exceeds"
            self.screen.result(
                f"with {cost_in_words(committed)} spent or set aside, this {verdict} "
                f"the budget of {cost_in_words(budget)}"
            )
        return Exit.DONE

    def _has_database(self) -> bool:
        return self.database is not None or (self.folder / JOBS).exists()

    def _is_to_pay(self, status: JobStatus) -> bool:
        failed = status.generation is not None and status.generation.failed
        if status.state is JobState.FAILED:
            return self.retry_failed and (failed or status.generation_id is None)
        is_waiting = status.state in {JobState.QUEUED, JobState.HELD}
        return is_waiting and status.generation_id is None

    async def _price(self, rows: Sequence[RowPlan], keys: Collection[str]) -> float:
        """Tell what jobs would cost, by model, and give the sum that is known."""
        counts = Counter[str]()
        known: dict[str, float] = {}
        silent = set[str]()
        unknown = 0
        # The vendor tells prices to anybody.
        async with AsyncKling("no-key-is-needed-for-prices") as kling:
            for it in rows:
                if it.key not in keys:
                    continue
                model = it.request.model
                counts[model] += 1
                price = None if model in silent else await _quote(kling, it, silent)
                if price is None or price.credits is None:
                    unknown += 1
                else:
                    known[model] = known.get(model, 0) + price.credits
        table = Table("model", "jobs", "cost", box=None, padding=(0, 2, 0, 0))
        for model, count in counts.most_common():
            cost = cost_in_words(known[model]) if model in known else "not quoted"
            table.add_row(safe_line(model), str(count), cost)
        if counts:
            self.screen.show(table)
        total = sum(known.values())
        but = f", and {unknown} without a quoted price" if unknown else ""
        jobs = f"{pluralize(counts.total(), 'job')}, {cost_in_words(total)}{but}"
        self.screen.result(f"{jobs}; nothing was sent")
        return total


async def _quote(kling: AsyncKling, row: RowPlan, silent: set[str]) -> Price | None:
    """Ask for a price; a model whose price cannot be had is not asked for again."""
    try:
        return await kling.price(row.request)
    except KlingError:
        silent.add(row.request.model)
        return None


def _remove_parts(folder: Path, rows: Sequence[RowPlan], age: float) -> None:
    """Remove what downloads have left that were killed."""
    before = time.time() - age
    for place in {(folder / it.output).parent for it in rows}:
        for part in place.glob(_PART):
            with contextlib.suppress(OSError):
                if part.stat().st_mtime <= before:
                    part.unlink()


def _move_files(pairs: Iterable[tuple[Path, Path]]) -> set[Path]:
    """Move files, also in a ring; give the places where others are, which stay."""
    parked = list[tuple[Path, Path, Path]]()
    for old, new in pairs:
        if old.is_file():
            park = old.with_name(f".kling-{secrets.token_hex(4)}.part")
            parked.append((park, old, new))
            old.replace(park)
    in_the_way = set[Path]()
    for park, old, new in parked:
        if new.exists():
            in_the_way.add(new)
            park.replace(old)
        else:
            new.parent.mkdir(parents=True, exist_ok=True)
            park.replace(new)
    return in_the_way

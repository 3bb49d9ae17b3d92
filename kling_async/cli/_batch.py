"""One run of `kling-async batch`: submit the rows, follow the jobs, fetch the files.

The durable jobs decide what happens to a job, and when.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import anyio
from anyio import to_thread
from attrs import frozen
from rich.table import Table

from kling_async import AsyncKling, KlingError, Price
from kling_async._text import safe_line
from kling_async.cli._manifest import JOBS, Manifest, RowPlan
from kling_async.cli._options import Uncertain
from kling_async.cli._output import Exit, Screen, cost_in_words
from kling_async.cli._progress import BatchProgress
from kling_async.cli._report import write_results
from kling_async.durable import DurableKling, JobState, JobStatus, NewJob, Webhook

_DOWNLOADS = 8


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


@frozen(kw_only=True)
class BatchRun:
    """One run of a batch.

    Attributes:
        screen: Where it is told.
        name: What the batch is called.
        folder: Where results go.
        database: Where the jobs are; None for a file in the folder.
        max_in_flight: As for `DurableKling`.
        creates_per_minute: Likewise.
        budget: What the batch may cost, in credits; None to leave it as it is.
        on_uncertain: As for `DurableKling`.
        retry_failed: Whether failed jobs of earlier runs are created anew.
        check_media: As for `DurableKling`.
        webhook: Likewise.
        check_mp4: Likewise.
    """

    screen: Screen
    name: str
    folder: Path
    database: str | None
    max_in_flight: int
    creates_per_minute: int | None
    budget: float | None
    on_uncertain: Uncertain
    retry_failed: bool
    check_media: bool
    webhook: Webhook | None = None
    check_mp4: bool = True

    async def work_off(self, rows: Sequence[RowPlan]) -> Exit:
        """Work it off as far as it goes, and write what became of it."""
        await anyio.Path(self.folder).mkdir(parents=True, exist_ok=True)
        progress = BatchProgress(self.screen.err, len(rows))
        async with (
            AsyncKling(check_media=self.check_media) as kling,
            self._jobs(kling) as jobs,
        ):
            try:
                with progress:
                    await self._follow(jobs, rows, progress)
                    await self._fetch_missing(kling, progress)
            finally:
                with anyio.CancelScope(shield=True):
                    await self._write(rows, progress)
        self._explain_decisions(progress)
        return _code(progress)

    def _jobs(self, kling: AsyncKling) -> DurableKling:
        return DurableKling(
            self.database or self.folder / JOBS,
            kling,
            batch=self.name,
            max_in_flight=self.max_in_flight,
            creates_per_minute=self.creates_per_minute,
            on_uncertain=self.on_uncertain,
            check_media=self.check_media,
            webhook=self.webhook,
            check_mp4=self.check_mp4,
        )

    async def _follow(
        self, jobs: DurableKling, rows: Sequence[RowPlan], progress: BatchProgress
    ) -> None:
        if self.budget is not None:
            await jobs.set_budget(self.budget)
        keys = {it.key for it in rows}
        await jobs.submit_many(
            NewJob(request=it.request, key=it.key, output=self.folder / it.output)
            for it in rows
        )
        await self._go_on(jobs, keys)
        for status in await jobs.list():
            if status.key in keys:
                progress.update(status)
        progress.start_pace()
        async for status in jobs.watch():
            if status.key in keys:
                progress.update(status)

    async def _go_on(self, jobs: DurableKling, keys: set[str]) -> None:
        """Try again what an earlier run left, unless that may be paid for twice."""
        again = {JobState.HELD}
        again |= {JobState.FAILED} if self.retry_failed else set[JobState]()
        for status in await jobs.list():
            if status.key not in keys:
                continue
            if status.state in again:
                await jobs.resubmit(status.key)
            elif status.state is JobState.UNCERTAIN:
                await jobs.recheck(status.key)

    async def _fetch_missing(self, kling: AsyncKling, progress: BatchProgress) -> None:
        """Fetch what another machine's worker has written to its own disk."""
        limiter = anyio.CapacityLimiter(_DOWNLOADS)

        async def fetch(status: JobStatus, path: Path) -> None:
            async with limiter:
                try:
                    await anyio.Path(path.parent).mkdir(parents=True, exist_ok=True)
                    await kling.download(
                        await kling.get(str(status.generation_id)), path
                    )
                except KlingError as error:
                    self.screen.error(f"{status.key}: {error}")

        async with anyio.create_task_group() as tasks:
            for status in progress.statuses.values():
                path = status.output
                if status.state is not JobState.DONE or not isinstance(path, Path):
                    continue
                if not await anyio.Path(path).exists():
                    tasks.start_soon(fetch, status, path)

    async def _write(self, rows: Sequence[RowPlan], progress: BatchProgress) -> None:
        self.screen.note(progress.in_words(), "")
        written = await to_thread.run_sync(
            write_results, self.name, self.folder, rows, progress.statuses
        )
        for path in written:
            self.screen.result(str(path))

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
                "held: mend what is told above, then the same command goes on",
                "yellow",
            )


def _code(progress: BatchProgress) -> Exit:
    counts = progress.counts
    if counts[JobState.FAILED] or counts[JobState.CANCELLED]:
        return Exit.FAILED
    if counts[JobState.UNCERTAIN]:
        return Exit.UNSETTLED
    return Exit.FAILED if counts[JobState.HELD] else Exit.DONE


async def estimate(screen: Screen, rows: Sequence[RowPlan]) -> Exit:
    """Tell what a batch would cost, as far as the vendor quotes it."""
    counts = Counter[str]()
    known: dict[str, float] = {}
    unknown = 0
    # The vendor tells prices to anybody.
    async with AsyncKling("no-key-is-needed-for-prices") as kling:
        for it in rows:
            model = it.request.model
            counts[model] += 1
            price = await _price(kling, it)
            if price is None or price.credits is None:
                unknown += 1
            else:
                known[model] = known.get(model, 0) + price.credits
    table = Table("model", "jobs", "cost", box=None, padding=(0, 2, 0, 0))
    for model, count in counts.most_common():
        cost = cost_in_words(known[model]) if model in known else "not quoted"
        table.add_row(safe_line(model), str(count), cost)
    screen.show(table)
    total = cost_in_words(sum(known.values()))
    but = f", and {unknown} whose price nobody quotes" if unknown else ""
    screen.result(f"{len(rows)} jobs, {total}{but}; nothing was sent")
    return Exit.DONE


async def _price(kling: AsyncKling, row: RowPlan) -> Price | None:
    try:
        return await kling.price(row.request)
    except KlingError:
        return None

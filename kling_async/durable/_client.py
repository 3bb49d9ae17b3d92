"""`DurableKling`: jobs that outlive the process and span machines.

Puts the rooms of this package together: what is submitted is the store's, what
is done is the work's, when and how often is the engine's.
"""

from __future__ import annotations

import builtins
import datetime as dt
import math
import os
import uuid
from collections.abc import AsyncGenerator, Iterable
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, get_args

import anyio
from anyio import to_thread
from anyio.from_thread import BlockingPortal
from attrs import field, frozen

from kling_async._checks import (
    is_number,
    require,
    require_count,
    require_generation_id,
    require_timeout,
)
from kling_async._client import AsyncKling
from kling_async._config import JOBS_DATABASE, WhenUncertain
from kling_async._errors import (
    ClientClosedError,
    ConfigurationError,
    JobConflictError,
    JobError,
)
from kling_async._files.storage import is_url
from kling_async._generation import Generation
from kling_async._requests.classes import Request
from kling_async.durable._database import Database, Outage, close, persist
from kling_async.durable._engine import Engine, FleetLimits
from kling_async.durable._records import (
    Account,
    BudgetStore,
    JobState,
    JobStatus,
    result_of,
    state_from,
)
from kling_async.durable._store import StatusCache, Store
from kling_async.durable._submit import (
    Comparison,
    NewJob,
    Submitter,
    give_up,
    require_batch,
    retry_job,
)
from kling_async.durable._webhook import (
    Undelivered,
    Webhook,
    redeliver,
    undelivered,
)
from kling_async.durable._worker import FleetRateLimiter, Worker, WorkerContext

_SETTLED = (JobState.DONE, JobState.FAILED, JobState.CANCELLED)

_LOOK = 0.25


class DurableKling:
    """Jobs in a database: submitted once, done once, whatever happens in between.

        async with DurableKling("sqlite:///kling.db", client=kling) as jobs:
            job = await jobs.submit(ImageToVideo(...), key="scene-12")
            generation = await job.result()

    While it is open, this process is one of the workers on the database, unless it has
    no client. Jobs that are not done when it closes, or is killed, continue when any
    worker runs on the same database again.

    Args:
        database: ``sqlite:///jobs.db`` or a path, for one machine, or
            ``postgresql://user@host/name``, for many.
        client: The client, which you close yourself. Without one this process runs no
            jobs: it can submit jobs, list them and decide on them.
        batch: The name of the batch: keys are unique within it, and it has a
            budget. Letters, digits, ``.``, ``_`` and ``-``, up to 64.
        max_in_flight: How many jobs may be between create and end, over all
            workers on the database. The worker that started last decides.
        creates_per_minute: How many creates may begin in any minute, over all workers;
            None for no limit.
        on_uncertain: What to do with a create whose answer was lost and whose
            outcome the vendor's log does not show: ``"ask"`` leaves it to a person,
            ``"give_up"`` lets the job fail, ``"resubmit"`` sends it again, which
            may bill twice.
        output_dir: The folder of outputs with a relative path. It is stored
            with the batch; if you move the folder, give the new one. By default
            it is the process's working directory.
        inline_files: Whether local files are stored in the database, so that a
            worker on a machine without them can send them. By default their path
            and SHA-256 are stored.
        inputs: The folder of a bucket, such as ``s3://bucket/inputs``, to which local
            files are uploaded when a job is submitted, once each, so that every
            worker has them (extra ``storage``).
        check_media: Whether local images are checked against the limits that Kling
            documents.
        wait_timeout: How long to wait for one generation, in seconds, before
            its job is held.
        reconcile_timeout: How long to search the vendor's log for a create whose
            worker died, in seconds, before its job is uncertain.
        webhook: The URL to call when a job ends (extra ``webhooks``). All workers
            on a database need the same one.
        check_mp4: Whether a video has to be an MP4 that opens.

    Raises:
        ConfigurationError: A value is not allowed.
    """

    def __init__(
        self,
        database: str | os.PathLike[str] = JOBS_DATABASE,
        client: AsyncKling | None = None,
        *,
        batch: str = "default",
        max_in_flight: int = 32,
        creates_per_minute: int | None = None,
        on_uncertain: WhenUncertain = "ask",
        output_dir: str | os.PathLike[str] | None = None,
        inline_files: bool = False,
        inputs: str | None = None,
        check_media: bool = True,
        wait_timeout: float = 24 * 60 * 60.0,
        reconcile_timeout: float = 120.0,
        webhook: Webhook | None = None,
        check_mp4: bool = True,
    ) -> None:
        try:
            self._database = Database.at(database)
        except ConfigurationError:
            del database  # it may hold a password, and a traceback shows locals
            raise
        require_batch(batch)
        fits = inputs is None or is_url(inputs)
        require("inputs", inputs, "a URL such as s3://bucket/inputs", fits=fits)
        require_count("max_in_flight", max_in_flight)
        if creates_per_minute is not None:
            require_count("creates_per_minute", creates_per_minute)
        choices = get_args(WhenUncertain)
        allowed = " or ".join(map(repr, choices))
        fits = on_uncertain in choices
        require("on_uncertain", on_uncertain, allowed, fits=fits)
        require_timeout("wait_timeout", wait_timeout)
        require_timeout("reconcile_timeout", reconcile_timeout)
        self._client = client
        self._batch = batch
        self._limits = FleetLimits(
            max_in_flight=max_in_flight, creates_per_minute=creates_per_minute
        )
        self._on_uncertain: WhenUncertain = on_uncertain
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._inline_files = inline_files
        self._check_media = check_media
        self._inputs = inputs
        self._wait_timeout = wait_timeout
        self._reconcile_timeout = reconcile_timeout
        self._webhook = webhook
        self._check_mp4 = check_mp4
        self._stack: AsyncExitStack | None = None
        self._parts: _Parts | None = None

    def __repr__(self) -> str:
        state = "closed" if self._stack is None else "open"
        return f"<DurableKling {self._database}, batch {self._batch!r}, {state}>"

    @property
    def database(self) -> str:
        """The database, without its password."""
        return str(self._database)

    async def __aenter__(self) -> Self:
        if self._stack is not None:
            raise ConfigurationError("these jobs are open already")
        stack = AsyncExitStack()
        try:
            self._parts = await self._open(stack)
        except BaseException:
            # Not told of the error, which would come out in a group.
            await stack.aclose()
            raise
        self._stack = stack
        return self

    async def _open(self, stack: AsyncExitStack) -> _Parts:
        outage = Outage()
        engine = await to_thread.run_sync(self._database.prepare, outage)
        stack.callback(close, engine)
        stack.callback(outage.close)
        budget = await to_thread.run_sync(BudgetStore, engine)
        folder = await persist(self._find_folder, budget)
        store = await to_thread.run_sync(Store.open, engine, self._batch, folder)
        parts = _Parts(
            store=store,
            budget=budget,
            cache=StatusCache(store, _LOOK),
        )
        if self._client is not None:
            await self._start(stack, parts, self._client, outage)
        return parts

    def _find_folder(self, budget: BudgetStore) -> Path:
        """Find where outputs begin; a batch of the same name elsewhere is another.

        Raises:
            ConfigurationError: It is.
        """
        known = budget.folder(self._batch)
        if self._output_dir is None:
            return known or Path()
        folder = self._output_dir.absolute()
        is_other = known is not None and known != folder and known.is_dir()
        if is_other and not (folder.exists() and folder.samefile(str(known))):
            raise ConfigurationError(
                f"batch {self._batch!r} of database {self._database} has its "
                f"files in {known}, not in {folder}: give this batch another name"
            )
        if known != folder:
            budget.set_folder(self._batch, folder)
        return folder

    async def _start(
        self,
        stack: AsyncExitStack,
        parts: _Parts,
        client: AsyncKling,
        outage: Outage,
    ) -> None:
        """Become a worker; what is pushed last is undone first."""
        store = parts.store
        is_limited = self._limits.creates_per_minute is not None
        worker = Worker(
            client=client,
            store=store,
            budget=parts.budget,
            pace=FleetRateLimiter(store.client) if is_limited else None,
            on_uncertain=self._on_uncertain,
            wait_timeout=self._wait_timeout,
            reconcile_timeout=self._reconcile_timeout,
            webhook=self._webhook,
            check_mp4=self._check_mp4,
        )
        portal = await stack.enter_async_context(BlockingPortal())
        context = WorkerContext(worker=worker, portal=portal)
        engine = Engine(
            self._database, store.engine, self._limits, store.client, outage
        )
        await engine.start(context)
        stack.push_async_callback(engine.stop, context)
        tasks = await stack.enter_async_context(anyio.create_task_group())
        stack.callback(tasks.cancel_scope.cancel)
        tasks.start_soon(engine.look_out)

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        stack, self._stack, self._parts = self._stack, None, None
        if stack is not None:
            await stack.aclose()

    async def submit(
        self,
        request: Request,
        *,
        key: str | None = None,
        output: str | os.PathLike[str] | None = None,
    ) -> Job:
        """Put a job into the queue, once.

        Args:
            request: What to generate.
            key: The job's name within the batch, up to 200 characters. The same
                key again is the same job, never a second bill. By default a new one.
            output: The file that the worker writes the video to, or the URL of an
                object in a bucket, such as ``s3://bucket/boat.mp4``.

        Returns:
            The job, whether it is new or was there.

        Raises:
            JobConflictError: The key is taken by another request.
            InvalidRequestError: A local file cannot be sent.
        """
        new = NewJob(request=request, key=key or uuid.uuid4().hex, output=output)
        (job,) = await self.submit_many([new])
        return job

    async def submit_many(self, jobs: Iterable[NewJob]) -> list[Job]:
        """Put many jobs into the queue, each as `submit` does.

        Raises:
            JobConflictError: A key is taken by another request; none is submitted.
            InvalidRequestError: A local file cannot be sent; none is submitted.
        """
        return [Job(self, key) for key in await self._submitter.submit(jobs)]

    async def compare(self, jobs: Iterable[NewJob]) -> Comparison:
        """Compare jobs to submit with those that the batch has; change nothing."""
        return await self._submitter.compare(jobs)

    async def replace_many(self, jobs: Iterable[NewJob]) -> None:
        """Put other requests in place of jobs of which nothing was sent yet.

        Raises:
            JobConflictError: One of them has begun.
        """
        await self._submitter.replace(jobs)

    async def move(self, key: str, output: str | os.PathLike[str]) -> None:
        """Change where a job's video is written; an existing file stays."""
        status = await self.status(key)
        await self._store.set_output(status, os.fspath(output))

    async def status(self, key: str) -> JobStatus:
        """Return the status of a job.

        Raises:
            JobError: There is no such job.
        """
        statuses = await self._store.statuses([key])
        if key not in statuses:
            raise JobError(f"there is no job {key!r} in batch {self._batch!r}", key=key)
        return statuses[key]

    async def list(
        self, *states: JobState | str, limit: int | None = None, offset: int = 0
    ) -> list[JobStatus]:
        """Return the status of the batch's jobs, in the order of submission.

        Args:
            *states: Only those in one of these states; by default all.
            limit: The most jobs; by default all.
            offset: How many jobs to skip first.
        """
        wanted = {state_from(it) for it in states}
        end = None if limit is None else offset + limit
        if wanted or (limit is None and not offset):
            statuses = (await self._store.statuses()).values()
            fitting = [it for it in statuses if not wanted or it.state in wanted]
            return fitting[offset:end]
        keys = await self._store.keys(limit, offset)
        found = await self._store.statuses(keys)
        return [found[key] for key in keys if key in found]

    async def batches(
        self, *, output_dir: str | os.PathLike[str] | None = None
    ) -> builtins.list[str]:
        """Name all batches of the database, also those whose jobs were purged.

        Args:
            output_dir: Name only those that were opened with this folder.
        """
        if output_dir is not None:
            return sorted(await persist(self._budget.batches_in, Path(output_dir)))
        paid = await persist(self._budget.batches)
        return sorted({*paid, *await self._store.batches()})

    async def watch(self) -> AsyncGenerator[JobStatus, None]:
        """Yield each job as it is, and again at each change, until all have ended.

        A change is a new state, a new attempt, or a generation that is now known.
        """
        reported: dict[str, tuple[object, ...]] = {}
        cache = self._cache
        while True:
            await cache.refresh()
            statuses = list(cache.statuses.values())
            for status in statuses:
                now = (status.state, status.attempt, status.generation_id)
                if reported.get(status.key) != now:
                    reported[status.key] = now
                    yield status
            if all(status.state.is_final for status in statuses):
                return

    async def result(self, key: str, *, timeout: float | None = None) -> Generation:
        """Wait for a job's video; see `Job.result`."""
        cache, status = self._cache, await self.status(key)
        with anyio.move_on_after(timeout):
            while not status.state.is_final:
                await cache.refresh()
                status = cache.statuses.get(key, status)
        if status.state.is_final:
            return result_of(status)
        raise JobError(
            f"job {key!r} had not ended after {timeout:g} s; it goes on",
            key=key,
            state=status.state,
        )

    async def cancel(self, key: str) -> None:
        """Cancel a job: send nothing new for it, and stop waiting for it.

        A created generation goes on at the server, and is billed.
        """
        await self._store.cancel(await self.status(key))

    async def hold(self, key: str, reason: str) -> None:
        """Keep a queued job from being sent, until it is submitted again.

        Args:
            key: The job.
            reason: What its status says of it.

        Raises:
            JobConflictError: It is not queued.
        """
        status = await self.status(key)
        if status.state is not JobState.QUEUED:
            raise JobConflictError(
                f"job {key!r} is {status.state}; only a queued one can be held",
                key=key,
                state=status.state,
            )
        await self._store.hold(status, reason)

    async def purge(self, older_than: dt.timedelta) -> int:
        """Delete jobs of the batch that ended long ago.

        A job whose webhook call is still due is kept. Their cost stays in the
        batch's total. A deleted job is forgotten: submitting its key again costs
        money again.

        Args:
            older_than: How long ago they ended, at least.

        Returns:
            How many were deleted.
        """
        before = dt.datetime.now(dt.UTC) - older_than
        untold = {it.key for it in await self.undelivered()}
        old = [
            it
            for it in await self.list(*_SETTLED)
            if it.key not in untold and it.ended_at and it.ended_at < before
        ]
        await self._store.delete(old)
        self._cache.forget(it.key for it in old)
        return len(old)

    async def adopt(self, key: str, generation_id: str) -> None:
        """Continue a job with a generation whose id you found.

        Args:
            key: The job: one that has ended without a video.
            generation_id: The generation's id, from the vendor's log for instance.

        Raises:
            JobConflictError: The job is under way, or done.
        """
        generation_id = require_generation_id(generation_id)
        await retry_job(self._store, await self.status(key), adopt=generation_id)

    async def resubmit(self, key: str) -> None:
        """Try a job again that has ended without a video.

        If it has a generation that has not failed, that is followed. Otherwise a new
        one is created: for an uncertain job that may mean a second bill.

        Raises:
            JobConflictError: The job is under way, or done.
        """
        await retry_job(self._store, await self.status(key))

    async def recheck(self, key: str) -> None:
        """Search the vendor's log again for an uncertain job; send nothing.

        Raises:
            JobConflictError: The job is not uncertain.
        """
        await retry_job(self._store, await self.status(key), resolve=True)

    async def give_up(self, key: str) -> None:
        """Mark an uncertain job as failed. It may still have been billed.

        Raises:
            JobConflictError: The job is not uncertain.
        """
        await give_up(self._store, await self.status(key))

    async def undelivered(self) -> builtins.list[Undelivered]:
        """List the jobs of the batch whose end the webhook has not received yet."""
        return await undelivered(self._store.client, self._batch)

    async def redeliver(self, key: str) -> None:
        """Send the webhook message of a job again, for another day.

        Raises:
            JobError: There is none: the job has not ended, or had no webhook.
        """
        if not await redeliver(self._store.client, self._batch, key):
            raise JobError(f"there is no message of a job {key!r} to deliver", key=key)

    async def set_budget(self, credits: float | None) -> None:  # noqa: A002 (the API's word)
        """Set the batch's budget, in credits; None for no limit.

        A create that would exceed it is not sent: its job is held. Running
        generations continue. Prices are the vendor's quotes; if there is none, only
        money already spent counts.

        Raises:
            ConfigurationError: It is less than 0.
        """
        fits = credits is None or is_number(credits, 0, math.inf)
        require("budget", credits, "credits, 0 or more, or None", fits=fits)
        await persist(self._budget.set_limit, self._batch, credits)

    async def account(self) -> Account:
        """Return the batch's budget, and what is spent or reserved."""
        return await persist(self._budget.account, self._batch)

    @property
    def _store(self) -> Store:
        return self._require_open.store

    @property
    def _submitter(self) -> Submitter:
        return Submitter(
            self._store,
            inline=self._inline_files,
            check=self._check_media,
            is_relative=self._output_dir is not None,
            inputs=self._inputs,
        )

    @property
    def _budget(self) -> BudgetStore:
        return self._require_open.budget

    @property
    def _cache(self) -> StatusCache:
        return self._require_open.cache

    @property
    def _require_open(self) -> _Parts:
        if self._parts is None:
            raise ClientClosedError(
                "these jobs are not open: use `async with DurableKling(...) as jobs:`"
            )
        return self._parts


@frozen(eq=False, kw_only=True)
class _Parts:
    store: Store
    budget: BudgetStore
    cache: StatusCache


@frozen(eq=False)
class Job:
    """One job of a batch.

    Attributes:
        key: Its name within the batch.
    """

    _jobs: DurableKling = field(repr=False)
    key: str

    async def status(self) -> JobStatus:
        """Tell how it is."""
        return await self._jobs.status(self.key)

    async def result(self, *, timeout: float | None = None) -> Generation:
        """Wait for its video; if the caller is cancelled, the job goes on.

        Args:
            timeout: The time limit, in seconds; by default none.

        Raises:
            GenerationFailedError: Its generation ended without a video.
            SubmissionUncertainError: It is not known whether it was created:
                `DurableKling.recheck`, `adopt`, `resubmit` or `give_up` decides.
            JobError: It failed otherwise, is held, was cancelled, or the time was up.
        """
        return await self._jobs.result(self.key, timeout=timeout)

    async def cancel(self) -> None:
        """Cancel it; see `DurableKling.cancel`."""
        await self._jobs.cancel(self.key)

"""The public client, `AsyncKling`: short methods that call the packages below."""

from __future__ import annotations

import copy
import datetime as dt
import os
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    Iterable,
    Mapping,
)
from contextlib import aclosing
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Literal, Self, TypeVar, Unpack, cast, overload

import anyio
from attrs import evolve

from kling_async._batch import Batch, Holdback, Outcome
from kling_async._billing.account import BillingClient, account_of, stamp
from kling_async._billing.budget import BudgetTracker
from kling_async._billing.doctor import Diagnosis, Doctor
from kling_async._billing.money import Balance, Budget, LogRow, Price, Transaction
from kling_async._billing.submission import Submission, find
from kling_async._checks import (
    AddressPolicy,
    DrawnId,
    client_request_id_from,
    require_generation_id,
    time_from,
    timeout_from,
    unfit,
    without_none,
)
from kling_async._config import (
    Endpoint,
    Options,
    Settings,
    apply_options,
    find_base_url,
    find_key,
    find_plain_http,
)
from kling_async._errors import (
    ClientClosedError,
    ConfigurationError,
    GenerationFailedError,
    KlingError,
)
from kling_async._failures import RetryPolicy, wait_after
from kling_async._files.download import Download, LocalFile, target_from, video_of
from kling_async._files.media import encode_local_files
from kling_async._generation import Generation, Video
from kling_async._hooks import Hooks, Reporter, notify, warn_abandoned
from kling_async._http.session import Connections, Library, Session
from kling_async._http.transport import Transport
from kling_async._http.wire import encode_request, is_bulky
from kling_async._polling.creations import CreationIndex
from kling_async._polling.learned import Learned
from kling_async._polling.schedules import Polling
from kling_async._polling.watch import PollLoops, PollSetup, Watch
from kling_async._requests.catalogue import Catalogue, catalogue_in_use, use_catalogue
from kling_async._requests.classes import Request, request_from, request_of_many
from kling_async._requests.params import GenerationParams
from kling_async._runtime.tasks import CLOSED

if TYPE_CHECKING:
    import httpx
    import httpx2

_DAY = dt.timedelta(days=1)

_CLOCK_ERROR = dt.timedelta(hours=23)


AnyRequest = TypeVar("AnyRequest", bound=Request | Mapping[str, object])


class AsyncKling:
    """A client of Kling video generation through the AI/ML API.

    One is enough for a program: it is made without I/O, may be used from many
    tasks at once, with or without ``async with``, and from several event loops.

    Args:
        api_key: The key; by default the first of the environment variables
            ``AIMLAPI_KEY``, ``AIMLAPI_API_KEY``, ``AIML_API_KEY``.
        base_url: Where the API is; by default ``AIMLAPI_BASE_URL``, else the
            vendor's ``https://api.aimlapi.com``.
        timeout: The longest one HTTP exchange may take, in seconds.
        wait_timeout: The time limit of `watch`, `wait` and `generate` without a
            ``timeout``, in seconds. The vendor documents up to 14 minutes for a
            10 s video, plus time in a queue: half an hour by default.
        retry: What is retried, how often and how soon.
        polling: When to poll: `Learned` (by default a new one), `Exponential`,
            `Fixed`, or your own.
        max_connections: The most HTTP exchanges in flight at once.
        http_client: Your own client of httpx or httpx2, for proxies, TLS or a
            test transport. It stays yours: it is not closed here.
        transport: The library that opens connections, if there is no ``http_client``:
            ``"httpx"``, ``"httpx2"`` (extra ``httpx2``), its maintained fork, or
            ``"aiohttp"`` (extra ``aiohttp``, asyncio only), which takes less
            CPU for each poll.
        hooks: Functions to call for requests, retries, creates, statuses.
        endpoint: ``"universal"`` (``/v2/video/generations``), or ``"legacy"``
            (``/v2/generate/video/kling/generation``).
        catalogue: The models and their fields, from `load_catalogue`; by default
            those that this version knows.
        check_media: Whether local images are checked against the limits that
            Kling documents (JPEG or PNG, 10 MB, 300 px, 2:5 to 5:2).
        allow_private_downloads: Whether `download` may fetch from addresses that
            are not public: loopback, private and link-local ones, a cloud's own.
            Without it only the host and port of ``base_url`` are allowed, and, if
            that is loopback, this machine.
        allow_plain_http: Whether ``base_url`` may be ``http://`` on another machine,
            so that anyone on the way can read the key. By default the
            environment variable ``AIMLAPI_ALLOW_PLAIN_HTTP`` decides (``1`` for
            yes); without it, no.

    Raises:
        ConfigurationError: There is no key, or a value is not allowed.
    """

    def __init__(
        self,
        api_key: str | None = None,
        *,
        base_url: str | None = None,
        timeout: float = 60.0,
        wait_timeout: float = 30 * 60.0,
        retry: RetryPolicy | None = None,
        polling: Polling | None = None,
        max_connections: int = 100,
        http_client: httpx.AsyncClient | httpx2.AsyncClient | None = None,
        transport: Library = "httpx",
        hooks: Hooks | None = None,
        endpoint: Endpoint = "universal",
        catalogue: Catalogue | None = None,
        check_media: bool = True,
        allow_private_downloads: bool = False,
        allow_plain_http: bool | None = None,
    ) -> None:
        try:
            self._settings = Settings(
                api_key=find_key(api_key),
                base_url=find_base_url(base_url),
                endpoint=endpoint,
                timeout=timeout,
                wait_timeout=wait_timeout,
                retry=retry or RetryPolicy(),
                polling=polling or Learned(),
                reporter=Reporter(hooks or Hooks()),
                catalogue=catalogue or catalogue_in_use(),
                check_media=check_media,
                allow_private_downloads=allow_private_downloads,
                allow_plain_http=find_plain_http(allow_plain_http),
            )
        except ConfigurationError as error:
            del api_key, base_url  # crash reports show the locals of a traceback
            raise error.with_traceback(None) from None
        lent = cast("httpx.AsyncClient | None", http_client)  # all has the same name
        self._connections = Connections(max_connections, lent, transport)
        self._creations = CreationIndex()
        self._poll_loops = PollLoops()
        self._parent: AsyncKling | None = None
        self._is_closed = False
        self._open_transport = Transport(self._settings, self._connections)

    @property
    def is_closed(self) -> bool:
        """Whether this client, or the one that it was made from, has been closed."""
        return self._is_closed or (self._parent is not None and self._parent.is_closed)

    def __repr__(self) -> str:
        state = "closed" if self.is_closed else "open"
        return f"<AsyncKling {self._settings.base_url} {state}>"

    async def __aenter__(self) -> Self:
        self._transport()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the client: wait for creates in flight, and cancel everything else.

        Generations go on at the server. It may be called again. A client
        made by `with_options` closes only itself: the connections belong to
        the client that it was made from.
        """
        self._is_closed = True
        if self._parent is None:
            await self._connections.aclose(self._settings.timeout)

    def with_options(self, **overrides: Unpack[Options]) -> AsyncKling:
        """Make a client with other options that shares the connections.

        Args:
            **overrides: Any of the constructor's options except ``max_connections``,
                ``http_client`` and ``transport``.

        Raises:
            ConfigurationError: A value makes no sense.
        """
        other = copy.copy(self)
        try:
            other._settings = apply_options(self._settings, overrides)  # noqa: SLF001 (its own)
        except ConfigurationError as error:
            del overrides  # as in the constructor
            raise error.with_traceback(None) from None
        other._open_transport = Transport(other._settings, self._connections)  # noqa: SLF001 (its own)
        other._poll_loops = PollLoops()  # noqa: SLF001 (its own)
        other._parent = self  # noqa: SLF001 (its own)
        return other

    async def create(
        self,
        request: Request | None = None,
        /,
        *,
        client_request_id: str | None = None,
        **params: Unpack[GenerationParams],
    ) -> Generation:
        """Start a generation. From here on it costs money.

        Args:
            request: What to generate, as one of the request classes.
            client_request_id: Your own id for this create, 1 to 128 of
                ``A-Z a-z 0-9 . _ : -``. The vendor's request log lists it
                beside the generation. By default a new one is made.
            **params: Instead of ``request``: ``model`` and the fields that it
                takes, named as in the API. Images may be URLs, data URIs,
                `pathlib.Path` or bytes.

        Returns:
            The generation, usually queued. Store its ``id``: it identifies the paid
            work.

        Raises:
            InvalidRequestError: The request does not fit the model; nothing was sent.
            SubmissionUncertainError: It was sent, its answer was lost, and the
                vendor's log does not show the outcome.
            APIStatusError: The server refused it.
            TransportError: It did not reach the server, or the log lists it as
                failed: nothing is billed.
        """
        request_id = client_request_id_from(client_request_id)
        transport = self._transport()
        with use_catalogue(self._settings.catalogue):
            checked = request_from(request, params)
            body = await encode_local_files(
                checked.to_body(),
                check=self._settings.check_media,
                reach=AddressPolicy(self._settings.base_url),
            )
        if is_bulky(body):
            content = await anyio.to_thread.run_sync(encode_request, body)
        else:
            content = encode_request(body)
        submission = Submission(
            account=account_of(transport),
            content=content,
            model=checked.model,
            client_request_id=str(request_id),
            is_unique=isinstance(request_id, DrawnId),
        )
        tasks = transport.session.tasks
        created = await submission.run()
        # Nothing may come between a paid answer and its return.
        note = partial(self._creations.note, created.id, body, submission.sent_at)
        notify(note, tasks)
        return created

    async def get(self, generation_id: str) -> Generation:
        """Fetch the current state of a generation.

        Raises:
            InvalidRequestError: No generation can have this id.
            NotFoundError: The server knows no such generation.
            KlingError: The request failed.
        """
        known_id = require_generation_id(generation_id)
        transport = self._transport()
        try:
            return await transport.fetch(known_id)
        except KlingError as error:
            error.concerning(known_id)
            raise

    async def watch(
        self,
        generation_or_id: Generation | str,
        *,
        polling: Polling | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Generation, None]:
        """Follow a generation: yield it first as it is, then at each new status.

        The last one is terminal, even if it failed; then the iterator ends.
        Given a `Generation`, that is the first one yielded.
        The watch survives outages shorter than the timeout.

        All watchers of one generation with this client in one event loop share
        its polls: the earliest schedule decides when the next one is, and all
        see its result.

        Args:
            generation_or_id: The generation or its id.
            polling: When to poll, instead of the client's schedule.
            timeout: The time limit, in seconds; ``math.inf`` for as long as
                it takes. By default the client's ``wait_timeout``.

        Raises:
            WaitTimeoutError: The time was up. The generation goes on.
            APIStatusError: The server refuses the poll (401, 403), or keeps refusing it
                (such as 404).
        """
        watch = await self._watch(generation_or_id, polling, timeout)
        if watch.last is not None:
            yield watch.last
        while not watch.is_over:
            if (seen := watch.look()) is not None:
                yield seen
                continue
            wakeup = watch.loop.enter(watch)
            try:
                await wakeup
            finally:
                watch.loop.leave(watch)

    async def _watch(
        self,
        generation_or_id: Generation | str,
        polling: Polling | None,
        timeout: float | None,
    ) -> Watch:
        known = generation_or_id if isinstance(generation_or_id, Generation) else None
        generation_id = known.id if known else require_generation_id(generation_or_id)
        try:
            limit = timeout_from(timeout, self._settings.wait_timeout)
            transport = self._transport()
            session = transport.session
            if (turn := session.take_turn()) is not None:
                await turn
            loop = self._poll_loops.join(
                generation_id, session.tasks, partial(self._poll_setup, session)
            )
        except KlingError as error:
            error.concerning(generation_id, known)
            raise
        return Watch(
            loop=loop,
            polling=polling or self._settings.polling,
            timeout=limit,
            last=known,
        )

    def _poll_setup(self, session: Session) -> PollSetup:
        return PollSetup(
            ask=partial(self._open_transport.poll, session),
            limiter=session.limiter,
            tasks=session.tasks,
            retry=self._settings.retry,
            reporter=self._settings.reporter,
            creations=self._creations,
        )

    async def wait(
        self,
        generation_or_id: Generation | str,
        *,
        polling: Polling | None = None,
        timeout: float | None = None,
    ) -> Generation:
        """Wait for the end of a generation, and return it completed.

        Args:
            generation_or_id: The generation or its id.
            polling: When to poll, in place of the client's schedule.
            timeout: As for `watch`.

        Raises:
            GenerationFailedError: It ended without a video.
            WaitTimeoutError: The time was up. The generation goes on:
                ``wait(error.generation_id)`` waits again.
            APIStatusError: As for `watch`.
        """
        watch = await self._watch(generation_or_id, polling, timeout)
        while (last := watch.last) is None or not last.is_terminal:
            if watch.look() is None:
                wakeup = watch.loop.enter(watch)
                try:
                    await wakeup
                finally:
                    watch.loop.leave(watch)
        if not last.succeeded:
            raise GenerationFailedError(last)
        return last

    async def generate(
        self,
        request: Request | None = None,
        /,
        *,
        timeout: float | None = None,
        **params: Unpack[GenerationParams],
    ) -> Generation:
        """Create a generation and wait for its video: `create`, then `wait`.

        If the caller is cancelled, the generation goes on at the server, and its id is
        logged.

        Args:
            request: What to generate, as one of the request classes.
            timeout: As for `watch`, counted from the create's answer.
            **params: As for `create`.

        Raises:
            KlingError: Whatever `create` and `wait` raise.
        """
        limit = timeout_from(timeout, self._settings.wait_timeout)
        with use_catalogue(self._settings.catalogue):
            checked = request_from(request, params)
        return await self._await_created(await self.create(checked), limit)

    async def _await_created(self, created: Generation, timeout: float) -> Generation:
        """Wait for the end of a created generation; log its id if cancelled."""
        try:
            return await self.wait(created, timeout=timeout)
        except anyio.get_cancelled_exc_class():
            warn_abandoned(created)
            raise

    async def generate_many(
        self,
        requests: Iterable[AnyRequest] | AsyncIterable[AnyRequest],
        *,
        max_in_flight: int = 32,
        budget: Budget | None = None,
        timeout: float | None = None,
    ) -> AsyncGenerator[Outcome[AnyRequest], None]:
        """Generate many at once; yield each outcome as it comes.

        A failure becomes an outcome with an error and does not stop the others. After
        leaving the loop early nothing more is created; the created generations go on at
        the server, and their ids are in the log. A 429 slows the batch down, and fails
        a request only if it lasts for the whole ``timeout``.

        Args:
            requests: Request objects, or mappings with ``model`` and fields;
                any iterable or async iterable, read only as slots get free.
            max_in_flight: How many may be in flight at once.
            budget: The most to spend. Requests in flight count with their `price`,
                or with the charge of a similar request if that is more.
                The first request that does not fit, and all after it, become outcomes
                with `BudgetExceededError`. If no price is known, a request runs
                alone, and may exceed the budget; its charge is then the price.
            timeout: As for `watch`, for each generation.

        Raises:
            ConfigurationError: An argument makes no sense.
            ClientClosedError: The client was closed.
            Exception: Whatever ``requests`` raises, after the outcomes of the earlier
                requests.
        """
        limit = timeout_from(timeout, self._settings.wait_timeout)
        account = self._billing()
        spending = None if budget is None else BudgetTracker(budget, account.price)
        holdback = Holdback(
            limit,
            lambda error, number: wait_after(error, number, self._settings.retry),
        )

        async def generate(request: AnyRequest) -> Generation:
            with use_catalogue(self._settings.catalogue):
                built = request_of_many(request)

            async def work() -> Generation:
                created = await holdback.create(lambda: self.create(built))
                try:
                    return await self._await_created(created, limit)
                finally:
                    holdback.note_end()

            return await (spending.run(built.to_body(), work) if spending else work())

        batch = Batch(requests, generate, warn_abandoned, max_in_flight)
        tasks = account.transport.session.tasks
        async with aclosing(batch.outcomes(tasks)) as outcomes:
            async for outcome in outcomes:
                yield outcome

    @overload
    async def download(
        self,
        generation_or_video: Generation | Video,
        path_or_url: os.PathLike[str],
        *,
        max_bytes: int = 2**30,
        timeout: float | None = None,
        check_mp4: bool = True,
    ) -> Path: ...

    @overload
    async def download(
        self,
        generation_or_video: Generation | Video,
        path_or_url: str,
        *,
        max_bytes: int = 2**30,
        timeout: float | None = None,
        check_mp4: bool = True,
    ) -> Path | str: ...

    async def download(
        self,
        generation_or_video: Generation | Video,
        path_or_url: str | os.PathLike[str],
        *,
        max_bytes: int = 2**30,
        timeout: float | None = None,
        check_mp4: bool = True,
    ) -> Path | str:
        """Download a finished video to a file, whole or not at all.

        A dropped connection is resumed where it broke. The key is not sent.
        An existing file is replaced at the end, and so is a symbolic link, but not
        its target.

        Args:
            generation_or_video: What to download.
            path_or_url: The file to write, in an existing directory, or the
                URL of an object in a bucket, such as ``s3://bucket/boat.mp4`` (extra
                ``storage``). The server cannot change it.
            max_bytes: The most bytes; by default 1 GiB.
            timeout: The time limit, in seconds; ``math.inf`` for as long
                as it takes. By default the client's ``wait_timeout``.
            check_mp4: Whether it has to be an MP4 that a player can open.

        Returns:
            The path, or the URL as it was given.

        Raises:
            DownloadError: There is no video, its link has expired or leads to an
                address that is not public, the server keeps failing, its answer is not
                an MP4 or exceeds a limit, or the file cannot be written.
        """
        given, settings = generation_or_video, self._settings
        limit = timeout_from(timeout, settings.wait_timeout)
        generation = given if isinstance(given, Generation) else None

        async def fresh_url() -> str | None:
            fresh = await self._transport().fetch(generation.id) if generation else None
            return fresh.video.url if fresh and fresh.video else None

        try:
            target = target_from(path_or_url)
            download = Download(
                url=video_of(given).url,
                target=target,
                settings=settings,
                max_bytes=max_bytes,
                timeout=limit,
                check_mp4=check_mp4,
                fresh_url=fresh_url,
            )
            session = self._transport().session
            job = session.tasks.start(lambda: download.run(session))
            try:
                await job.result()
            finally:
                download.is_abandoned = True
        except KlingError as error:
            if generation is not None:
                error.concerning(generation.id, generation)
            raise
        return target.path if isinstance(target, LocalFile) else target.url

    async def balance(self) -> Balance:
        """Fetch the account's balance.

        Raises:
            KlingError: The request failed.
        """
        return await self._billing().balance()

    async def diagnose(self) -> Diagnosis:
        """Check everything that this client relies on, without spending anything.

        Name resolution, TLS, proxies, clocks, the key, the balance, the request log,
        tracing, prices, metrics and downloads; each with what was seen and what to do.
        Nothing is retried; failures are reported, not raised.

        Raises:
            ClientClosedError: The client was closed.
        """
        account = self._billing()
        settings, connections = (
            account.transport.settings,
            account.transport.connections,
        )
        once = evolve(settings, retry=RetryPolicy(attempts=1))
        asked = BillingClient(Transport(once, connections), account.shared)
        return await Doctor(asked).diagnose()

    async def price(self, request: Request | Mapping[str, object]) -> Price:
        """Fetch the price of a request, if the vendor quotes it.

        A price list is used for a quarter of an hour.

        Args:
            request: The request, or a mapping with its ``model`` and the fields
                that the price depends on, such as ``duration``; a mapping is not
                checked.

        Returns:
            The price. If it is not known, it is false, and its ``usd`` is None.

        Raises:
            InvalidRequestError: No model is named.
            KlingError: The request failed.
        """
        body = request.to_body() if isinstance(request, Request) else dict(request)
        if not isinstance(body.get("model"), str):
            raise unfit("model", body.get("model"), "the id of a model")
        return await self._billing().price(body)

    async def request_log(
        self,
        *,
        since: dt.datetime | dt.timedelta = _DAY,
        until: dt.datetime | None = None,
        model: str | None = None,
        status: Literal["succeeded", "failed"] | None = None,
    ) -> AsyncGenerator[LogRow, None]:
        """Read the vendor's log of the key's requests, newest first.

        Pages are read during the iteration, no faster than the vendor allows: 200 pages
        of 100 rows in a minute. Rows may appear late, and the charge of a video appears
        only once it is completed.

        Args:
            since: Where to begin: a time with its zone, or how long ago. At most
                92 days before ``until``.
            until: Where to end; now by default.
            model: Only requests of this model.
            status: Only those that succeeded, or only those that failed.

        Raises:
            InvalidRequestError: A time without a zone, or too long a window.
            KlingError: The request failed.
        """
        end = time_from("until", until or dt.timedelta())
        start = time_from("since", since, before=end)
        filters = {"model": model, "status": status}
        rows = self._billing().log(start, end, without_none(filters))
        async with aclosing(rows):
            async for row in rows:
                yield row

    async def transactions(
        self,
        *,
        since: dt.datetime | dt.timedelta | None = None,
        until: dt.datetime | None = None,
        direction: Literal["TOPUP", "CHARGE"] | None = None,
        type: str | None = None,  # noqa: A002 (the API's own word)
    ) -> AsyncGenerator[Transaction, None]:
        """Read the account's ledger, newest first; pages are read during the iteration.

        A charge is entered after its generation has completed.

        Args:
            since: Where to begin: a time with its zone, or how long ago; the
                beginning of the account by default.
            until: Where to end; now by default.
            direction: Only money in (``TOPUP``), or only money out (``CHARGE``).
            type: Only entries of this type, such as ``MODEL_USAGE``.

        Raises:
            InvalidRequestError: A time without a zone.
            KlingError: The request failed.
        """
        times = {"from": since, "to": until}
        stamps = {
            name: None if given is None else stamp(time_from(name, given))
            for name, given in times.items()
        }
        filters = {**stamps, "direction": direction, "type": type}
        rows = self._billing().transactions(without_none(filters))
        async with aclosing(rows):
            async for row in rows:
                yield row

    async def reconcile(
        self,
        client_request_id: str,
        *,
        since: dt.datetime | dt.timedelta | None = None,
        timeout: float | None = None,
    ) -> Generation | None:
        """Find the generation of a create whose answer was lost.

        `create` does this itself before it raises `SubmissionUncertainError`;
        use this later, or for the id of a process that has crashed.

        Args:
            client_request_id: The id that the create was sent with.
            since: When it was sent: a time with its zone, or how long ago; at
                most 92 days. A day ago by default.
            timeout: How long to search, in seconds; a row may appear late. By
                default the retry policy's ``reconcile_timeout``.

        Returns:
            The generation as it is now. None if the vendor's log was read and lists
            none: the create failed, which costs nothing, or never arrived.

        Raises:
            InvalidRequestError: The id or the time is invalid.
            KlingError: The log could not be read.
        """
        client_request_id_from(client_request_id)
        now = dt.datetime.now(dt.UTC)
        start = time_from("since", since or _DAY)
        # Some hours ahead is a wrong clock, here or where it was sent.
        if not now <= start <= now + _CLOCK_ERROR:
            start = time_from("since", since or _DAY, before=now)
        account = self._billing()
        limit = timeout_from(timeout, self._settings.retry.reconcile_timeout)
        return await find(account, client_request_id, since=start, timeout=limit)

    def _transport(self) -> Transport:
        if self.is_closed:
            raise ClientClosedError(CLOSED)
        return self._open_transport

    def _billing(self) -> BillingClient:
        return account_of(self._transport())

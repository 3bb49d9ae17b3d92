"""One poll loop for all who watch one generation with one client."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import threading
import traceback
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial

import anyio
import httpx
import pytest
from attrs import define, field
from jumping_clock import living_tasks, on_each_loop
from told_by_time import BASE_URL, ID, ONCE, Api, Told, done

from kling_async import (
    AsyncKling,
    AuthenticationError,
    ClientClosedError,
    ConfigurationError,
    Exponential,
    Fixed,
    Generation,
    Hooks,
    KlingError,
    Polling,
    PollState,
    RequestEvent,
    RetryPolicy,
    Status,
    StatusEvent,
    WaitTimeoutError,
)
from kling_async._hooks import Reporter
from kling_async._polling.creations import CreationIndex
from kling_async._polling.watch import Ask, PollLoop, PollSetup, Watch
from kling_async._runtime.limiter import Limiter, Slot
from kling_async._runtime.loop import loop_here
from kling_async._runtime.tasks import ClientTasks

LIFE: Mapping[int, Told] = {0: "queued", 25: "generating", 95: done()}
WHOLE = ["queued", "generating", "completed"]


@define(eq=False)
class Viewer:
    """One who watches, and notes what it sees and when."""

    api: Api
    kling: AsyncKling
    polling: Polling | None = None
    timeout: float | None = None
    known: Generation | None = None
    pause: float = 0.0
    seen: list[str] = field(factory=list[str])
    times: list[float] = field(factory=list[float])
    error: KlingError | None = None
    scope: anyio.CancelScope = field(factory=anyio.CancelScope)

    async def watch(self) -> None:
        """Watch to the end, whatever it is."""
        with self.scope:
            try:
                watching = self.kling.watch(
                    self.known or ID, polling=self.polling, timeout=self.timeout
                )
                # Cancelled between two steps it is left in the middle: trio warns.
                async with contextlib.aclosing(watching):
                    async for generation in watching:
                        self.seen.append(str(generation.status))
                        self.times.append(round(self.api.now, 3))
                        await anyio.sleep(self.pause)
            except KlingError as error:
                self.error = error


async def all_watch(viewers: list[Viewer]) -> None:
    """Let them all watch at once."""
    async with anyio.create_task_group() as tasks:
        for viewer in viewers:
            tasks.start_soon(viewer.watch)


@on_each_loop
async def test_a_thousand_watchers_poll_as_often_as_one() -> None:
    """With jitter and back-off too, at the same times, and all see everything."""
    polls: list[list[float]] = []
    for count in (1, 1000):
        api = Api(LIFE, latency=0.2)
        async with api.client(polling=Exponential(jitter=0)) as kling:
            viewers = [Viewer(api, kling) for _ in range(count)]
            await all_watch(viewers)
        assert [it.seen for it in viewers] == [WHOLE] * count
        assert len({tuple(it.times) for it in viewers}) == 1
        polls.append(api.polls)
    assert polls[1] == pytest.approx(polls[0], abs=0.01)


@on_each_loop
async def test_watchers_who_come_one_by_one_poll_as_often_as_one() -> None:
    """A schedule that begins quickly does not begin anew with each of them."""
    api = Api(LIFE)
    async with api.client(polling=Exponential(jitter=0)) as kling:
        viewers = [Viewer(api, kling) for _ in range(80)]
        async with anyio.create_task_group() as tasks:
            for viewer in viewers:
                tasks.start_soon(viewer.watch)
                await anyio.sleep(1)
    alone = Api(LIFE)
    async with alone.client(polling=Exponential(jitter=0)) as kling:
        await Viewer(alone, kling).watch()
    assert api.polls == alone.polls
    assert all(it.seen == WHOLE[-len(it.seen) :] for it in viewers)


@on_each_loop
async def test_one_who_comes_late_has_the_last_observation_at_once() -> None:
    """Without a poll of its own; then it hears what all hear."""
    api = Api(LIFE)
    async with api.client() as kling:
        first, late = Viewer(api, kling), Viewer(api, kling)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(first.watch)
            await anyio.sleep(33)
            tasks.start_soon(late.watch)
            await anyio.wait_all_tasks_blocked()
            assert (late.seen, late.times) == (["generating"], [33])
    assert late.seen == ["generating", "completed"]
    assert api.polls == [10 * n for n in range(11)]


@pytest.mark.parametrize("latency", [0, 4], ids=["asleep", "asking"])
@pytest.mark.parametrize("who", [0, 1, 2])
@on_each_loop
async def test_a_watcher_that_is_cancelled_disturbs_no_other(
    who: int, latency: float
) -> None:
    """The first as little as any; nor is its poll torn or made anew."""
    api = Api(LIFE, latency=latency)
    async with api.client() as kling:
        viewers = [Viewer(api, kling) for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            for viewer in viewers:
                tasks.start_soon(viewer.watch)
            await anyio.sleep(16)
            viewers.pop(who).scope.cancel()
    assert [it.seen for it in viewers] == [WHOLE] * 2
    assert api.polls == [(10 + latency) * n for n in range(len(api.polls))]


@on_each_loop
async def test_watchers_may_be_cancelled_at_any_moment() -> None:
    """One goes at every second; the last one standing sees it all."""
    api = Api(LIFE, latency=3)
    before = await living_tasks()
    async with api.client(polling=Fixed(5)) as kling:
        *others, last = [Viewer(api, kling) for _ in range(90)]
        async with anyio.create_task_group() as tasks:
            for viewer in [*others, last]:
                tasks.start_soon(viewer.watch)
            for viewer in others:
                await anyio.sleep(1)
                viewer.scope.cancel()
        assert last.seen == WHOLE
        await anyio.wait_all_tasks_blocked()
        assert await living_tasks() == before
    assert api.polls == [8 * n for n in range(13)]


@pytest.mark.looptime
async def test_watchers_may_be_cancelled_by_asyncio() -> None:
    """`Task.cancel`, as web servers use it, before the first step and after it."""
    api = Api({0: "queued"}, latency=1)
    async with api.client() as kling:
        tasks = [asyncio.create_task(Viewer(api, kling).watch()) for _ in range(4)]
        tasks[0].cancel()
        await asyncio.sleep(0)
        tasks[1].cancel()
        await asyncio.sleep(0.1)
        tasks[2].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert [it.done() for it in tasks] == [True, True, True, False]
        tasks[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert all(it.cancelled() for it in tasks)


@on_each_loop
async def test_a_refusal_reaches_all_and_each_has_an_error_of_its_own() -> None:
    """A 401 ends them at once; no traceback grows with the number of watchers."""
    refused = httpx.Response(401, json={"message": "no such key"})
    api = Api({0: "queued", 25: refused})
    async with api.client() as kling:
        viewers = [Viewer(api, kling) for _ in range(100)]
        await all_watch(viewers)
    errors = [it.error for it in viewers]
    assert {type(it) for it in errors} == {AuthenticationError}
    assert len(set(map(id, errors))) == 100
    assert api.polls == [0, 10, 20, 30]
    for error in errors:
        assert error is not None
        assert error.generation_id == ID
        assert error.generation is not None
        assert error.generation.status == "queued"
        assert len(traceback.extract_tb(error.__traceback__)) < 6
        assert "no such key" in str(error)


@on_each_loop
async def test_a_refusal_reaches_those_who_sleep_at_once() -> None:
    """Their own next poll may be an hour away."""
    api = Api({0: "queued", 25: httpx.Response(401, json={"message": "no"})})
    async with api.client() as kling:
        calm = Viewer(api, kling, Fixed(3600), timeout=math.inf)
        await all_watch([calm, Viewer(api, kling)])
    assert isinstance(calm.error, AuthenticationError)
    assert api.now == pytest.approx(30)


@on_each_loop
async def test_a_bug_of_ours_reaches_all_and_hangs_nobody() -> None:
    """What should never come out of a poll is not asked for again at once."""
    asked: list[str] = []

    async def ask(_: Slot, generation_id: str, limit: float) -> Generation:
        asked.append(generation_id)
        await anyio.sleep(limit / 100)
        raise ValueError("a bug")

    limiter = Limiter(loop_here(), 3)
    loop = loop_of(ask, limiter)
    watches = [Watch(loop=loop, polling=Fixed(10), timeout=100) for _ in range(3)]
    errors: list[KlingError] = []

    async def watch(it: Watch) -> None:
        with pytest.raises(KlingError, match="ValueError: a bug") as caught:
            await anext(follow(it))
        errors.append(caught.value)

    async with anyio.create_task_group() as tasks:
        for it in watches:
            tasks.start_soon(watch, it)
    assert asked == [ID]
    assert [it.generation_id for it in errors] == [ID] * 3
    assert {type(it.__cause__) for it in errors} == {ValueError}
    assert limiter.flight == 0


async def follow(watch: Watch) -> AsyncGenerator[Generation]:
    """Give all that a watch sees, as a client does."""
    while not watch.is_over:
        if (seen := watch.look()) is not None:
            yield seen
            continue
        wakeup = watch.loop.enter(watch)
        try:
            await wakeup
        finally:
            watch.loop.leave(watch)


def loop_of(ask: Ask, limiter: Limiter) -> PollLoop:
    """Give a poll loop that asks in its own way."""
    setup = PollSetup(
        ask=ask,
        limiter=limiter,
        tasks=ClientTasks(),
        retry=ONCE,
        reporter=Reporter(),
        creations=CreationIndex(),
    )
    return PollLoop(generation_id=ID, setup=setup)


@on_each_loop
async def test_polls_that_nobody_waits_for_any_more_are_not_made() -> None:
    """Those whom all have left in the queue are passed over; one may come again."""
    api = Api({0: done()}, latency=10)
    seen: list[str] = []

    async with api.client(max_connections=3) as kling:

        async def watch(generation_id: str, timeout: float) -> None:
            with contextlib.suppress(WaitTimeoutError):
                seen.append((await kling.wait(generation_id, timeout=timeout)).id)

        async with anyio.create_task_group() as tasks:
            for number in range(12):
                tasks.start_soon(watch, str(number), 15 if number in (7, 8, 9) else 100)
                await anyio.wait_all_tasks_blocked()
            await anyio.sleep(17)
            tasks.start_soon(watch, "8", 100)
    rest = [str(number) for number in range(12) if number not in (7, 9)]
    assert sorted(seen) == sorted(rest)
    assert sorted(api.ids) == sorted(rest)
    under_way = [sum(at - 9.9 < it <= at for it in api.polls) for at in api.polls]
    assert max(under_way) == 3


@on_each_loop
async def test_a_poll_whose_watcher_is_cancelled_in_the_queue_is_not_made() -> None:
    """It takes no slot from others when its turn comes."""
    api = Api({0: done()}, latency=10)
    async with api.client(max_connections=1) as kling:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(kling.wait, "first")
            await anyio.wait_all_tasks_blocked()
            with anyio.move_on_after(5):
                await kling.wait("second")
        await anyio.sleep(30)
    assert list(api.ids) == ["first"]


@on_each_loop
async def test_closing_the_client_ends_all_watches_at_once() -> None:
    """Those that sleep and the one that asks; each error names the generation."""
    api = Api({0: "queued"}, latency=2)
    before = await living_tasks()
    for instant in (1, 5):
        kling = api.client(polling=Fixed(3600))
        viewers = [Viewer(api, kling, timeout=math.inf) for _ in range(3)]
        closing_at = api.now + instant
        async with anyio.create_task_group() as tasks:
            for viewer in viewers:
                tasks.start_soon(viewer.watch)
            await anyio.sleep(instant)
            await kling.aclose()
        assert api.now == pytest.approx(closing_at)
        for viewer in viewers:
            assert isinstance(viewer.error, ClientClosedError)
            assert viewer.error.generation_id == ID
    assert await living_tasks() == before


@on_each_loop
async def test_closing_ends_those_who_wait_for_their_turn_too() -> None:
    """None of them is given it while the client closes."""
    api = Api({0: done()}, latency=10)
    before = await living_tasks()
    kling = api.client(max_connections=1)

    async def watch(generation_id: str) -> None:
        with pytest.raises(ClientClosedError):
            await kling.wait(generation_id)

    async with anyio.create_task_group() as tasks:
        for number in range(4):
            tasks.start_soon(watch, str(number))
        await anyio.sleep(5)
        await kling.aclose()
        assert api.now == pytest.approx(5)
    assert len(api.ids) == 1
    assert await living_tasks() == before


def test_watchers_in_two_event_loops_do_not_share(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each loop polls for itself: neither would get past the barrier alone."""
    both_ask = threading.Barrier(2)

    async def meet(_: object, request: httpx.Request) -> httpx.Response:
        await anyio.to_thread.run_sync(both_ask.wait, 20)
        return httpx.Response(200, json={"id": ID, **done()}, request=request)

    monkeypatch.setattr(httpx.AsyncHTTPTransport, "handle_async_request", meet)
    kling = AsyncKling("some-key", base_url=BASE_URL, retry=ONCE)
    ended: list[Generation] = []

    async def watch() -> None:
        ended.append(await kling.wait(ID, timeout=60))

    threads = [threading.Thread(target=asyncio.run, args=[watch()]) for _ in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [it.status for it in ended] == ["completed"] * 2


@on_each_loop
async def test_a_client_with_other_options_polls_for_itself() -> None:
    """Its key, its base URL or its hooks may be others."""
    api = Api(LIFE)
    async with api.client() as kling:
        other = kling.with_options(api_key="another-key")
        viewers = [Viewer(api, kling), Viewer(api, other)]
        await all_watch(viewers)
    assert [it.seen for it in viewers] == [WHOLE] * 2
    assert api.polls == [10 * n for n in range(11) for _ in viewers]


@on_each_loop
async def test_each_id_has_a_loop_of_its_own() -> None:
    """Two generations are polled side by side."""
    api = Api({0: done()})
    async with api.client() as kling:
        for generation_id in ("one", "other"):
            assert (await kling.wait(generation_id)).id == generation_id
    assert api.ids == ["one", "other"]


@on_each_loop
async def test_the_soonest_wish_decides_when_to_poll() -> None:
    """While there is one in a hurry all profit; then the others' pace is back."""
    api = Api({0: "queued", 14: "waiting", 55: done()})
    async with api.client() as kling:
        calm = Viewer(api, kling, Fixed(20))
        hasty = Viewer(api, kling, Fixed(3), timeout=28)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(calm.watch)
            await anyio.sleep(10)
            tasks.start_soon(hasty.watch)
    assert api.polls == [0, *range(10, 38, 3), 38, 58]
    assert calm.times == [0, 16, 58]
    assert hasty.times == [10, 16]
    assert isinstance(hasty.error, WaitTimeoutError)


@on_each_loop
async def test_each_watcher_has_its_own_deadline() -> None:
    """Those whose time is up leave, the others go on."""
    api = Api(LIFE)
    async with api.client() as kling:
        viewers = [Viewer(api, kling, timeout=limit) for limit in (5, 31, 61, 200)]
        await all_watch(viewers)
    *early, last = viewers
    assert (last.seen, last.error) == (WHOLE, None)
    assert [it.seen for it in early] == [WHOLE[:1], WHOLE[:2], WHOLE[:2]]
    for viewer in early:
        assert isinstance(viewer.error, WaitTimeoutError)
        assert viewer.error.timeout == viewer.timeout
        assert viewer.error.generation is not None
        assert viewer.error.generation.status == viewer.seen[-1]


@on_each_loop
async def test_a_poll_may_take_as_long_as_any_watcher_has_time() -> None:
    """One in a hurry leaves, and the poll goes on for the others."""
    api = Api({0: done()}, latency=20)
    async with api.client() as kling:
        hasty, calm = Viewer(api, kling, timeout=5), Viewer(api, kling)
        await all_watch([hasty, calm])
    assert isinstance(hasty.error, WaitTimeoutError)
    assert (calm.seen, calm.times) == (["completed"], [20])
    assert api.polls == [0]


@on_each_loop
async def test_a_watcher_that_brings_what_it_knows_is_not_told_of_it_again() -> None:
    """What the loop saw before may be older than what it brings."""
    api = Api({0: "queued", 15: "generating", 45: done()})
    known = Generation(id=ID, status=Status.GENERATING)
    async with api.client() as kling:
        newer = Viewer(api, kling, known=known)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(Viewer(api, kling).watch)
            await anyio.sleep(17)
            tasks.start_soon(newer.watch)
    assert newer.seen == ["generating", "completed"]
    assert newer.times == [17, 50]


@on_each_loop
async def test_a_watcher_that_brings_old_news_has_the_new_with_the_next_poll() -> None:
    """Also when all others know it already."""
    api = Api(LIFE)
    known = Generation(id=ID, status=Status.QUEUED)
    async with api.client() as kling:
        other, viewer = Viewer(api, kling), Viewer(api, kling, known=known)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other.watch)
            await anyio.sleep(42)
            tasks.start_soon(viewer.watch)
    assert (viewer.seen, viewer.times) == (WHOLE, [42, 50, 100])
    assert other.seen == WHOLE


@on_each_loop
async def test_what_was_no_news_for_those_who_waited_is_news_for_the_next() -> None:
    """The last observation is the last, whoever knew it before."""
    api = Api({0: "queued", 5: "generating", 95: done()})
    async with api.client() as kling:
        early = Viewer(api, kling, timeout=7)
        knowing = Viewer(api, kling, known=Generation(id=ID, status=Status.GENERATING))
        late = Viewer(api, kling)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(early.watch)
            await anyio.sleep(6)
            tasks.start_soon(knowing.watch)
            await anyio.sleep(8)
            tasks.start_soon(late.watch)
    assert early.seen == ["queued", "generating"]  # the latter by its last look
    assert knowing.seen == late.seen == ["generating", "completed"]
    assert late.times == [14, 97]


@on_each_loop
async def test_a_slow_watcher_misses_no_change() -> None:
    """It is told of each at its own pace, and the terminal one last."""
    statuses = ["queued", "waiting", "active", "generating"]
    api = Api({20 * n: status for n, status in enumerate(statuses)} | {80: done()})
    async with api.client() as kling:
        quick, slow = Viewer(api, kling), Viewer(api, kling, pause=300)
        await all_watch([quick, slow])
    assert quick.seen == slow.seen == [*statuses, "completed"]
    assert slow.times == [0, 300, 600, 900, 1200]
    assert len(api.polls) == 9


class Broken:
    """A schedule that gives out after some polls."""

    def __init__(self, fail: Callable[[], float]) -> None:
        self.fail = fail

    def delay(self, state: PollState, /) -> float:
        """Fail from the third poll on."""
        return 10 if state.polls < 3 else self.fail()


@on_each_loop
async def test_thousands_that_begin_at_once_let_others_run() -> None:
    """The event loop comes round while they begin, and time does not pass."""
    api, rounds, polls = Api({0: done()}), 0, Counter[int]()

    def note(_: RequestEvent) -> None:
        polls[rounds] += 1

    async def begin(number: int) -> None:
        await kling.wait(f"{ID}:{number}")

    hooks = Hooks(on_request=note)
    async with (
        api.client(hooks=hooks, max_connections=2000) as kling,
        anyio.create_task_group() as tasks,
    ):
        for number in range(2000):
            tasks.start_soon(begin, number)
        while polls.total() < 2000:
            await anyio.lowlevel.checkpoint()
            rounds += 1
    assert max(polls.values()) < 500
    assert set(api.polls) == {0}


@on_each_loop
async def test_a_watch_that_waits_for_its_turn_may_be_cancelled() -> None:
    """Those behind it begin all the same, and so do those that come later."""
    api = Api({0: done()})
    async with api.client() as kling:
        for _ in range(2):
            viewers = [Viewer(api, kling) for _ in range(900)]
            async with anyio.create_task_group() as tasks:
                for viewer in viewers:
                    tasks.start_soon(viewer.watch)
                await anyio.lowlevel.checkpoint()
                for viewer in viewers[100:800]:
                    viewer.scope.cancel()
            assert all(it.seen == ["completed"] for it in viewers[800:])


@on_each_loop
async def test_a_broken_schedule_ends_only_the_watch_that_brought_it() -> None:
    """The others go on as if it had not been there."""
    api = Api(LIFE)
    async with api.client() as kling:
        broken = Viewer(api, kling, Broken(lambda: math.nan))
        whole = Viewer(api, kling)
        await all_watch([broken, whole])
    assert isinstance(broken.error, ConfigurationError)
    assert broken.error.generation_id == ID
    assert broken.seen == WHOLE[:1]
    assert (whole.seen, whole.error) == (WHOLE, None)
    assert api.polls == [10 * n for n in range(11)]


@on_each_loop
async def test_a_watcher_is_woken_for_news_and_not_for_each_poll() -> None:
    """A thousand watches of a generation that is under way for long rest."""
    api, woken = Api({0: "queued", 995: done()}), list[float]()

    class Counted(Watch):
        def _raise_if_ended(self) -> None:
            woken.append(api.now)

    async with api.client() as kling:
        transport = kling._transport()  # pyright: ignore[reportPrivateUsage]
        session = transport.connections.current_session()
        setup = PollSetup(
            ask=partial(transport.poll, session),
            limiter=session.limiter,
            tasks=session.tasks,
            retry=ONCE,
            reporter=Reporter(),
            creations=CreationIndex(),
        )
        loop = PollLoop(generation_id=ID, setup=setup)
        watch = Counted(loop=loop, polling=Fixed(10), timeout=2000)
        seen = [it.status async for it in follow(watch)]
    assert seen == ["queued", "completed"]
    assert len(api.polls) == 101
    assert woken == pytest.approx([0, 0])


@on_each_loop
async def test_polls_run_in_the_context_of_whoever_began_to_watch() -> None:
    """What a hook logs of one user's generation is not put down to another's."""
    user = contextvars.ContextVar("user", default="nobody")
    told: set[tuple[str, str]] = set()
    api = Api(LIFE)

    def note(event: RequestEvent) -> None:
        told.add((event.url.rpartition("=")[2], user.get()))

    async with api.client(hooks=Hooks(on_request=note), max_connections=1) as kling:

        async def watch(name: str) -> None:
            user.set(name)
            await kling.wait(name)

        async with anyio.create_task_group() as tasks:
            for name in ("ann", "bob", "eve"):
                tasks.start_soon(watch, name)
    assert told == {("ann", "ann"), ("bob", "bob"), ("eve", "eve")}


@on_each_loop
async def test_a_poll_that_waits_for_a_place_is_given_up_when_all_have_left() -> None:
    """And is not sent when the place is there."""
    api = Api({0: httpx.Response(429, headers={"retry-after": "50"}), 10: "queued"})
    async with api.client(polling=Fixed(1)) as kling:
        with anyio.move_on_after(5):
            await kling.wait(ID)
        await anyio.wait_all_tasks_blocked()
        await anyio.sleep(100)
    assert api.polls == [0]


@on_each_loop
async def test_hooks_hear_of_each_status_once_however_many_watch() -> None:
    """One event for each change that was seen, in order."""
    told: list[StatusEvent] = []
    api = Api(LIFE)
    known = Generation(id=ID, status=Status.QUEUED)
    async with api.client(hooks=Hooks(on_status=told.append)) as kling:
        knowing = [Viewer(api, kling, known=known) for _ in range(3)]
        await all_watch([*knowing, *(Viewer(api, kling) for _ in range(5))])
    assert [it.generation.status for it in told] == WHOLE


@on_each_loop
async def test_the_request_id_of_the_create_is_known_to_all() -> None:
    """Polls do not tell it; one who brings it shares it."""
    known = Generation(id=ID, status=Status.QUEUED, client_request_id="mine")
    api = Api(LIFE)
    seen: list[Generation] = []
    async with api.client() as kling:

        async def watch(it: Generation | str) -> None:
            seen.append(await kling.wait(it))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch, ID)
            tasks.start_soon(watch, known)
    assert [it.client_request_id for it in seen] == ["mine"] * 2


@on_each_loop
async def test_nothing_is_polled_while_nobody_waits() -> None:
    """A watcher that is busy or has been forgotten costs no request."""
    api = Api(LIFE)
    before = await living_tasks()
    async with api.client() as kling:
        watching = kling.watch(ID)
        await anext(watching)
        for _ in range(10):
            await anyio.sleep(60)
            assert await living_tasks() == before
        assert api.polls == [0]
        assert (await anext(watching)).status == "completed"
        assert api.polls == [0, 600]
        await watching.aclose()


@on_each_loop
async def test_when_the_last_watcher_leaves_nothing_goes_on() -> None:
    """Its poll is not made again, and no task is left."""
    api = Api({0: httpx.ConnectError("down")}, latency=1)
    before = await living_tasks()
    async with api.client(retry=RetryPolicy(initial=0, attempts=9)) as kling:
        with anyio.move_on_after(2.5):
            await kling.wait(ID)
        await anyio.sleep(1)
        assert await living_tasks() == before
    assert len(api.polls) == 3


@on_each_loop
async def test_whoever_comes_when_all_is_over_asks_anew() -> None:
    """A finished generation's link may have expired; a refusal may have been lifted."""
    lost = httpx.Response(401, json={"message": "no such key"})
    api = Api({0: "queued", 5: done(), 7: done("done again"), 9: lost})
    api.life = {**api.life, 11: done("at last")}
    async with api.client() as kling:
        slow = kling.watch(ID)
        assert (await anext(slow)).status == "queued"
        await anyio.sleep(5)
        assert (await kling.wait(ID, polling=Fixed(1))).status == "completed"
        await anyio.sleep(2)
        assert (await kling.wait(ID)).status == "done again"
        await anyio.sleep(2)
        other = kling.watch(ID)
        with pytest.raises(AuthenticationError):
            await anext(other)
        await anyio.sleep(2)
        assert (await kling.wait(ID)).status == "at last"
        assert [it.status async for it in slow] == ["completed"]
    assert api.polls == [0, 5, 7, 9, 11]


@pytest.mark.looptime
async def test_a_task_of_the_loop_that_is_killed_from_outside_is_replaced() -> None:
    """Some programs cancel every task that they find; who still waits goes on."""
    api = Api(LIFE, latency=1)
    async with api.client() as kling:
        viewer = Viewer(api, kling)
        mine = asyncio.create_task(viewer.watch())
        for steps in (1, 2, 3, 5, 9):
            for _ in range(steps):
                await asyncio.sleep(0)
            for task in asyncio.all_tasks() - {mine, asyncio.current_task()}:
                task.cancel()
        async with asyncio.timeout(1000):
            await mine
    assert viewer.seen == WHOLE

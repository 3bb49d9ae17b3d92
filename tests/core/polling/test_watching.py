"""A watch: what it yields, what it outlives, and what ends it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import math
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing

import anyio
import httpx
import pytest
from jumping_clock import living_tasks, on_each_loop
from told_by_time import ID, VIDEO, Api, Told, done

from kling_async import (
    APIStatusError,
    AsyncKling,
    AuthenticationError,
    BadRequestError,
    ClientClosedError,
    ConfigurationError,
    Exponential,
    Fixed,
    Generation,
    Hooks,
    InvalidRequestError,
    KlingError,
    NotFoundError,
    OutOfCreditsError,
    PermissionDeniedError,
    Polling,
    PollState,
    RetryEvent,
    RetryPolicy,
    Status,
    TextToVideo,
    WaitTimeoutError,
)
from kling_async._polling.watch import last_look

LIFE: Mapping[int, Told] = {0: "queued", 25: "generating", 95: done()}
WHOLE = ["queued", "generating", "completed"]
FAILED = {"status": "error", "error": {"name": "Unsafe", "message": "not this"}}
QUEUED = Generation(id=ID, status=Status.QUEUED, client_request_id="mine")


def refusal(code: int, message: str = "no") -> httpx.Response:
    """Give an answer of the vendor's that says no."""
    return httpx.Response(code, json={"message": message, "statusCode": code})


async def statuses(
    kling: AsyncKling,
    which: Generation | str = ID,
    *,
    polling: Polling | None = None,
    timeout: float | None = None,
) -> list[str]:
    """Watch to the end, and give the statuses."""
    watching = kling.watch(which, polling=polling, timeout=timeout)
    return [str(it.status) async for it in watching]


async def seen_of(life: Mapping[int, Told]) -> list[Generation]:
    """Watch a life to its end, and give all that was seen."""
    async with Api(life).client() as kling:
        return [it async for it in kling.watch(ID)]


# --- what it yields


@on_each_loop
async def test_it_yields_the_first_observation_then_each_change() -> None:
    """Twelve polls, three statuses; the terminal one is the last."""
    api = Api(LIFE)
    async with api.client() as kling:
        assert await statuses(kling) == WHOLE
    assert api.polls == [10 * n for n in range(11)]


@on_each_loop
async def test_a_failure_is_yielded_like_any_end() -> None:
    """`watch` raises nothing for it: the last generation tells why."""
    *_, last = await seen_of({0: "queued", 5: FAILED})
    assert (last.status, last.is_terminal, last.succeeded) == ("error", True, False)
    assert str(last.error) == "Unsafe: not this"


@on_each_loop
async def test_a_generation_that_is_given_comes_first() -> None:
    """As it was given, unasked; nobody knows its age, so it is polled at once."""
    api = Api(LIFE)
    async with api.client() as kling:
        watching = kling.watch(QUEUED)
        assert await anext(watching) is QUEUED
        assert api.polls == []
        rest = [it async for it in watching]
    assert [it.status for it in rest] == WHOLE[1:]
    assert [it.client_request_id for it in rest] == ["mine"] * 2
    assert api.polls == [10 * n for n in range(11)]


@on_each_loop
async def test_a_terminal_generation_that_is_given_is_all() -> None:
    """Nothing is asked: no answer can change it."""
    api = Api({0: "generating"})
    ended = Generation(id=ID, status=Status.ERROR)
    async with api.client() as kling:
        assert await statuses(kling, ended) == ["error"]
    assert api.polls == []


@on_each_loop
async def test_a_status_that_nobody_knows_is_pending_and_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """One warning for each, however often it is seen; a later answer ends it."""
    with caplog.at_level(logging.WARNING, "kling_async"):
        seen = await seen_of({0: "dreaming", 40: "waking", 60: done()})
    assert [it.status for it in seen] == ["dreaming", "waking", "completed"]
    assert [it.message for it in caplog.records] == [
        f"generation {ID}: dreaming (a status unknown to this version)",
        f"generation {ID}: waking (a status unknown to this version)",
    ]


@on_each_loop
@pytest.mark.parametrize("status", [None, "", 7, [], {}])
async def test_no_status_is_no_reason_to_stop(status: object) -> None:
    """Null, or what is no text at all: a later answer ends it."""
    seen = await seen_of({0: "queued", 5: {"status": status}, 15: done()})
    assert [it.is_terminal for it in seen] == [False, False, True]
    assert seen[-1].succeeded


@on_each_loop
async def test_completed_without_a_video_goes_on() -> None:
    """The video may come with a later answer; that one is a change, too."""
    early: Mapping[str, object] = {"status": "completed", "video": None}
    seen = await seen_of({0: "generating", 5: early, 35: done()})
    assert [it.status for it in seen] == ["generating", "completed", "completed"]
    assert [it.is_terminal for it in seen] == [False, False, True]


@on_each_loop
@pytest.mark.parametrize("status", ["rendered", None])
async def test_a_video_under_a_status_that_nobody_knows_is_success(
    status: str | None,
) -> None:
    """What was paid for is there."""
    seen = await seen_of({0: "queued", 5: {"status": status, "video": VIDEO}})
    assert [it.succeeded for it in seen] == [False, True]


@on_each_loop
async def test_an_error_under_a_status_that_nobody_knows_is_failure() -> None:
    """No video will come: to wait on would only waste time."""
    seen = await seen_of({0: "queued", 5: {**FAILED, "status": "rejected"}})
    assert [it.failed for it in seen] == [False, True]


# --- when it polls


@on_each_loop
async def test_exponential_polls_come_ever_further_apart() -> None:
    """``initial * factor ** n``, from the end of one poll to the begin of the next."""
    api = Api({0: "queued", 300: done()}, latency=0.5)
    async with api.client(polling=Exponential(1, 2, 60, jitter=0)) as kling:
        assert await statuses(kling) == ["queued", "completed"]
    delays = [2, 4, 8, 16, 32, 60, 60, 60, 60]
    ends = itertools.accumulate(0.5 + delay for delay in delays)
    assert api.polls == pytest.approx([0, *ends])


@on_each_loop
async def test_a_watch_can_have_its_own_schedule() -> None:
    """In place of the client's."""
    api = Api(LIFE)
    async with api.client() as kling:
        await statuses(kling, polling=Fixed(32))
    assert api.polls == [0, 32, 64, 96]


class Noting:
    """A schedule of a user's own, which notes what it is told."""

    def __init__(self) -> None:
        self.states: list[PollState] = []

    def delay(self, state: PollState, /) -> float:
        """Wait a second longer each time."""
        self.states.append(state)
        return 10 + state.polls


@on_each_loop
async def test_a_schedule_of_ones_own_is_told_what_is_known() -> None:
    """How many polls there were, how long it goes on, and the last status."""
    api, noting = Api({0: "queued", 15: "generating", 30: done()}), Noting()
    async with api.client(polling=noting) as kling:
        await statuses(kling)
    assert api.polls == [0, 11, 23, 36]
    told = {(it.polls, round(it.elapsed), it.status) for it in noting.states}
    assert told == {(1, 0, "queued"), (2, 11, "queued"), (3, 23, "generating")}
    chances = {it.polls: it.chance for it in noting.states}
    assert all(0 <= it < 1 for it in chances.values())
    assert len(set(chances.values())) == 3


@on_each_loop
async def test_a_schedule_may_leave_no_time_between_polls() -> None:
    """One poll after another, each when the one before is answered."""

    class Hasty:
        def delay(self, _: PollState, /) -> float:
            return 0

    api = Api({0: "queued", 7: done()}, latency=2)
    async with api.client(polling=Hasty()) as kling:
        await statuses(kling)
    assert api.polls == [0, 2, 4, 6]


@on_each_loop
async def test_a_schedule_knows_the_status_that_was_given() -> None:
    """Before the first poll of a generation that `create` returned."""
    api, noting = Api({0: done()}), Noting()
    async with api.client(polling=noting) as kling:
        await statuses(kling, await kling.create(TextToVideo(prompt="A sunset.")))
    assert (noting.states[0].polls, noting.states[0].status) == (0, "queued")


class Hair:
    """A schedule of ten seconds and a hair, finer than any clock."""

    asked = 0

    def delay(self, _: PollState, /) -> float:
        """Refuse to be asked over and over."""
        self.asked += 1
        assert self.asked < 100
        return 10 + 1e-10


@on_each_loop
async def test_a_time_finer_than_the_clock_is_no_reason_to_spin() -> None:
    """Asyncio ends a sleep a nanosecond early; the clock may stand still then."""
    api = Api({0: "queued"})
    async with api.client(polling=Hair()) as kling:
        with pytest.raises(WaitTimeoutError):
            await statuses(kling, timeout=60 + 7e-10)
    assert api.polls == [0, 10, 20, 30, 40, 50, 60]  # with the last look


class Broken:
    """A schedule that is none."""

    def __init__(self, answer: Callable[[], object]) -> None:
        self.answer = answer

    def delay(self, _: PollState, /) -> float:
        """Give whatever it is."""
        return self.answer()  # type: ignore[return-value]  # the slip

    def __repr__(self) -> str:
        return "Broken()"


@on_each_loop
@pytest.mark.parametrize(
    "answer, told",
    [
        (lambda: math.nan, "gave a delay of nan"),
        (lambda: math.inf, "gave a delay of inf"),
        (lambda: -1.0, "gave a delay of -1.0"),
        (lambda: None, "gave a delay of None"),
        (lambda: "5", "gave a delay of '5'"),
        (lambda: 1 / 0, "failed .* ZeroDivisionError"),
    ],
)
async def test_a_broken_schedule_is_told_of_and_the_id_is_kept(
    answer: Callable[[], object], told: str
) -> None:
    """Which schedule, what it gave, and what is allowed."""
    async with Api({0: "queued"}).client() as kling:
        watching = kling.watch(ID, polling=Broken(answer))
        await anext(watching)
        with pytest.raises(ConfigurationError, match=rf"Broken\(\) {told}") as caught:
            await anext(watching)
    assert caught.value.generation_id == ID
    assert caught.value.generation is not None


@on_each_loop
async def test_what_is_no_schedule_at_all_is_told_of() -> None:
    """A bare number, say."""
    async with Api({0: "queued"}).client() as kling:
        watching = kling.watch(QUEUED, polling=5)  # type: ignore[arg-type]  # the slip
        await anext(watching)
        with pytest.raises(ConfigurationError, match="polling: 5 failed") as caught:
            await anext(watching)
    assert caught.value.generation_id == ID


# --- what it outlives

OUTAGES: Mapping[str, Told] = {
    "refused": httpx.ConnectError("refused"),
    "reset": httpx.ReadError("reset"),
    "silent": httpx.ReadTimeout("too late"),
    "408": refusal(408),
    "429": refusal(429),
    "500": refusal(500),
    "503": refusal(503),
    "page": httpx.Response(200, html="<title>Just a moment...</title>"),
    "half": httpx.Response(200, content=b'{"id": "88a6'),
    "list": httpx.Response(200, json=[1]),
    "nothing": httpx.Response(200, json={}),
    "another": {"id": "another", "status": "completed", "video": VIDEO},
}


@on_each_loop
@pytest.mark.parametrize("outage", OUTAGES)
async def test_an_outage_of_an_hour_is_outlived(outage: str) -> None:
    """Every failed poll is told of, and made again when the next one is due."""
    told: list[RetryEvent] = []
    api = Api({0: "queued", 15: OUTAGES[outage], 3615: "generating", 3700: done()})
    hooks = Hooks(on_retry=told.append)
    async with api.client(hooks=hooks, polling=Fixed(60)) as kling:
        assert await statuses(kling, timeout=7200) == WHOLE
    assert api.polls == pytest.approx([60 * n for n in range(63)])
    assert [it.attempt for it in told] == list(range(2, 62))
    assert [it.delay for it in told] == pytest.approx([60] * 60)
    assert {it.error.generation_id for it in told} == {ID}


@on_each_loop
async def test_a_failed_poll_is_logged_with_its_generation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Which, why, and when the next one comes."""
    with caplog.at_level(logging.WARNING, "kling_async"):
        await seen_of({0: "queued", 5: httpx.ConnectError("refused"), 15: done()})
    (record,) = caplog.records
    assert "attempt 2 failed, next in 10.0 s" in record.message
    assert ID in record.message
    assert "refused" in record.message


@on_each_loop
async def test_an_outage_at_the_very_beginning_is_outlived() -> None:
    """Before anything was seen, polls keep to the schedule."""
    api = Api({0: httpx.ConnectError("refused"), 45: done()})
    async with api.client() as kling:
        assert await statuses(kling) == ["completed"]
    assert api.polls == [0, 10, 20, 30, 40, 50]


@on_each_loop
async def test_a_poll_is_repeated_within_its_policy_before_the_next_is_due() -> None:
    """A hiccup costs no news: the retries of a GET come first."""
    api = Api({0: httpx.Response(503, headers={"retry-after": "2"}), 3: done()})
    async with api.client(retry=RetryPolicy(), polling=Fixed(3600)) as kling:
        assert await statuses(kling) == ["completed"]
    assert 3 < api.now < 60


@on_each_loop
async def test_an_outage_is_not_made_worse_by_asking_more_often() -> None:
    """Five attempts soon, by the policy; then one each time that a poll is due."""
    told: list[RetryEvent] = []
    api = Api({0: "queued", 55: httpx.ReadError("reset"), 1200: done()})
    policy, hooks = RetryPolicy(attempts=5), Hooks(on_retry=told.append)
    async with api.client(polling=Fixed(60), retry=policy, hooks=hooks) as kling:
        assert await statuses(kling) == ["queued", "completed"]
    soon = [it for it in api.polls if 60 <= it < 90]
    assert len(soon) == 5
    assert soon[-1] - soon[0] <= 0.5 + 1 + 2 + 4
    later = [it for it in api.polls if it >= 90]
    assert later == pytest.approx([soon[-1] + 60 * n for n in range(1, len(later) + 1)])
    assert len(told) == 5 + len(later) - 1
    delays = [it.delay for it in told]
    for number, delay in enumerate(delays[:4]):
        assert delay <= 0.5 * 2**number
    assert delays[4:] == pytest.approx([60] * len(delays[4:]))


@on_each_loop
async def test_after_an_answer_a_new_failure_is_repeated_soon_again() -> None:
    """Only failures in a row are counted."""
    lost = httpx.ReadError("reset")
    api = Api({0: "queued", 55: lost, 200: "active", 350: lost, 900: done()})
    async with api.client(polling=Fixed(60), retry=RetryPolicy(attempts=3)) as kling:
        assert await statuses(kling) == ["queued", "active", "completed"]
    pairs = itertools.pairwise(api.polls)
    soon = [early for early, late in pairs if late - early < 5]
    assert [it < 200 for it in soon] == [True, True, False, False]


@on_each_loop
async def test_a_poll_that_is_refused_by_a_429_holds_the_whole_client_back() -> None:
    """As long as the server asks for; a watch of another generation waits too."""
    slow_down = httpx.Response(429, headers={"retry-after": "40"})
    api = Api({0: slow_down, 5: done()})
    async with api.client(polling=Fixed(1)) as kling, anyio.create_task_group() as all_:
        all_.start_soon(statuses, kling)
        await anyio.sleep(10)
        await kling.get("another")
    assert api.polls[:2] == [0, 40]
    # One after another: nobody starts in a herd at the end of a pause.
    assert [40 <= it <= 45 for it in api.polls[2:]] == [True]


@on_each_loop
async def test_a_429_that_names_no_time_holds_back_ever_longer() -> None:
    """By the policy's back-off, at most its maximum."""
    api = Api({0: refusal(429), 600: done()})
    policy = RetryPolicy(attempts=1, initial=2, maximum=50)
    async with api.client(polling=Fixed(0.01), retry=policy) as kling:
        assert await statuses(kling) == ["completed"]
    gaps = [late - early for early, late in itertools.pairwise(api.polls)]
    assert all(gap <= 2 * 2**number + 0.1 for number, gap in enumerate(gaps))
    assert all(gap <= 50.1 for gap in gaps)
    assert len(gaps) < 80  # and not 60,000


@on_each_loop
async def test_a_generation_unknown_just_after_its_create_is_waited_for() -> None:
    """A 404 may heal for some seconds."""
    api = Api({0: refusal(404), 15: "queued", 25: done()})
    async with api.client() as kling:
        assert await statuses(kling) == ["queued", "completed"]


@on_each_loop
@pytest.mark.parametrize("code, error", [(404, NotFoundError), (400, BadRequestError)])
async def test_a_refusal_that_stays_ends_it(
    code: int, error: type[APIStatusError]
) -> None:
    """After the grace of 20 s, and not before."""
    api = Api({0: refusal(code)})
    async with api.client(polling=Fixed(7)) as kling:
        with pytest.raises(error) as caught:
            await statuses(kling)
    assert api.polls == [0, 7, 14, 21]
    assert caught.value.generation_id == ID


@on_each_loop
async def test_the_grace_begins_anew_after_each_answer() -> None:
    """Also after an outage: nothing was refused meanwhile."""
    down = httpx.ConnectError("refused")
    api = Api(
        {
            0: refusal(404),
            15: "queued",
            25: refusal(404),
            35: down,
            45: refusal(404),
            55: done(),
        }
    )
    async with api.client() as kling:
        assert await statuses(kling) == ["queued", "completed"]


@on_each_loop
@pytest.mark.parametrize(
    "answer, error",
    [
        (refusal(401), AuthenticationError),
        (refusal(403), PermissionDeniedError),
        (refusal(403, "You've run out of credits"), OutOfCreditsError),
    ],
)
async def test_what_cannot_heal_ends_it_at_once(
    answer: httpx.Response, error: type[KlingError]
) -> None:
    """With the id and what was seen last: the work goes on all the same."""
    api = Api({0: "queued", 5: answer})
    async with api.client() as kling:
        with pytest.raises(error, match="may still be running and billed") as caught:
            await statuses(kling)
    assert api.polls == [0, 10]
    assert caught.value.generation_id == ID
    assert caught.value.generation is not None
    assert caught.value.generation.status == "queued"


# --- its deadline


@on_each_loop
async def test_the_deadline_cuts_the_sleep() -> None:
    """Not a poll later, and the error says that the work goes on."""
    api = Api({0: "queued"})
    async with api.client(polling=Fixed(3600)) as kling:
        with pytest.raises(WaitTimeoutError, match="after 45 s") as caught:
            await statuses(kling, timeout=45)
    assert api.now == pytest.approx(45)
    assert "may still be running and billed" in str(caught.value)
    assert caught.value.generation_id == ID
    assert caught.value.generation is not None
    assert caught.value.generation.status == "queued"
    assert caught.value.timeout == 45


@on_each_loop
async def test_the_deadline_cuts_a_request_that_hangs() -> None:
    """Whatever the client's own time-out is."""
    api = Api({0: "queued"}, latency=1e5)
    before = await living_tasks()
    async with api.client(timeout=600) as kling:
        with pytest.raises(WaitTimeoutError) as caught:
            await statuses(kling, timeout=45)
        # A second more: an exchange is cut only after it could not end by itself.
        assert api.now == pytest.approx(45 + last_look(45) + 1)
        assert caught.value.generation is None
        assert caught.value.generation_id == ID
        await anyio.sleep(5)
        assert await living_tasks() == before


@on_each_loop
async def test_the_deadline_cuts_the_wait_for_a_retry() -> None:
    """A server may ask for more patience than there is."""
    api = Api({0: httpx.Response(429, headers={"retry-after": "60"})})
    async with api.client(retry=RetryPolicy()) as kling:
        with pytest.raises(WaitTimeoutError):
            await statuses(kling, timeout=45)
    assert api.now == pytest.approx(45 + last_look(45))
    assert api.polls == [0]


@on_each_loop
async def test_without_a_timeout_it_goes_on_for_half_an_hour() -> None:
    """Twice what the vendor documents as the longest."""
    api = Api({0: "queued"})
    async with api.client() as kling:
        with pytest.raises(WaitTimeoutError, match="after 1800 s"):
            await statuses(kling)
    assert api.now == pytest.approx(1800)
    assert len(api.polls) == 181  # with the last look


@on_each_loop
async def test_the_clients_own_limit_is_the_default() -> None:
    """``wait_timeout`` of the constructor or of `with_options`."""
    api = Api({0: "queued"})
    async with api.client() as kling:
        with pytest.raises(WaitTimeoutError, match="after 90 s"):
            await statuses(kling.with_options(wait_timeout=90))
    assert api.now == pytest.approx(90)


@on_each_loop
async def test_without_end_means_without_end() -> None:
    """``math.inf`` waits for as long as it takes."""
    api = Api({0: "queued", 200_000: done()})
    async with api.client(polling=Fixed(3600)) as kling:
        assert await statuses(kling, timeout=math.inf) == ["queued", "completed"]


@on_each_loop
async def test_what_was_seen_in_time_is_yielded_after_the_deadline() -> None:
    """A busy consumer still has the end that another watcher's poll saw."""
    api = Api(LIFE)
    async with api.client() as kling:
        slow = kling.watch(ID, timeout=50)
        assert (await anext(slow)).status == "queued"
        assert await statuses(kling) == WHOLE
        assert [it.status async for it in slow] == WHOLE[1:]
    assert api.now == pytest.approx(100)


@on_each_loop
@pytest.mark.parametrize("timeout", [0, -1, math.nan, "soon"])
async def test_a_timeout_that_is_none_is_refused(timeout: float) -> None:
    """Before any request."""
    api = Api(LIFE)
    async with api.client() as kling:
        with pytest.raises(ConfigurationError, match="timeout: given"):
            await statuses(kling, timeout=timeout)
    assert api.polls == []


@on_each_loop
@pytest.mark.parametrize("generation_id", ["", " ", 7, None, "a\nb"])
async def test_what_can_be_no_id_is_refused(generation_id: str) -> None:
    """Before any request."""
    api = Api(LIFE)
    async with api.client() as kling:
        with pytest.raises(InvalidRequestError, match="generation_id"):
            await statuses(kling, generation_id)
    assert api.polls == []


@on_each_loop
@pytest.mark.parametrize("which", [ID, QUEUED])
async def test_a_closed_client_says_so_and_keeps_the_id(
    which: Generation | str,
) -> None:
    """Whether an id or a generation was given."""
    kling = Api(LIFE).client()
    await kling.aclose()
    with pytest.raises(ClientClosedError) as caught:
        await statuses(kling, which)
    assert caught.value.generation_id == ID


# --- how it is left


@on_each_loop
async def test_whoever_breaks_out_leaves_nothing_behind() -> None:
    """Not even without `aclose`: between two steps a watch holds nothing open."""
    api = Api(LIFE)
    before = await living_tasks()
    async with api.client() as kling:
        watching = kling.watch(ID)
        async for generation in watching:
            if generation.status == "generating":
                break
        await anyio.wait_all_tasks_blocked()
        assert await living_tasks() == before
        await anyio.sleep(3600)
        await watching.aclose()
    assert api.polls == [0, 10, 20, 30]


@on_each_loop
async def test_a_watch_can_be_closed_before_and_after_its_end() -> None:
    """With `aclosing` too; then it is over."""
    api = Api(LIFE)
    async with api.client() as kling:
        unbegun = kling.watch(ID)
        await unbegun.aclose()
        async with aclosing(kling.watch(ID)) as watching:
            await anext(watching)
        with pytest.raises(StopAsyncIteration):
            await anext(watching)
        assert await statuses(kling) == WHOLE


@pytest.mark.looptime
async def test_a_watch_that_is_garbage_leaves_nothing_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Nor does it warn."""
    api = Api(LIFE)
    before = await living_tasks()
    async with api.client() as kling:
        watching: AsyncGenerator[Generation, None] | None = kling.watch(ID)
        assert watching is not None
        await anext(watching)
        watching = None
        gc.collect()
        await asyncio.sleep(3600)
        assert await living_tasks() == before
    assert api.polls == [0]
    assert caplog.records == []


@on_each_loop
@pytest.mark.parametrize("latency, instant", [(0, 5), (0, 0), (3, 1), (3, 12), (3, 5)])
async def test_a_cancelled_watch_leaves_at_once(latency: float, instant: float) -> None:
    """Asleep or with a poll under way, whose exchange ends by itself."""
    api = Api({0: "queued"}, latency=latency)
    before = await living_tasks()
    async with api.client() as kling:
        with anyio.move_on_after(instant) as scope:
            await statuses(kling)
        assert scope.cancelled_caught
        assert api.now == pytest.approx(instant)
        await anyio.sleep(latency + 0.1)
        assert await living_tasks() == before
        polls = len(api.polls)
        await anyio.sleep(3600)
    assert len(api.polls) == polls


@on_each_loop
async def test_a_task_group_that_fails_takes_its_watch_along() -> None:
    """The watch is cancelled as any task, and the error comes through."""
    api = Api({0: "queued"})
    before = await living_tasks()

    async def fail() -> None:
        await anyio.sleep(15)
        raise ZeroDivisionError

    async def watch_and_fail() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(statuses, kling)
            tasks.start_soon(fail)

    async with api.client() as kling:
        with pytest.raises(ExceptionGroup) as caught:
            await watch_and_fail()
        assert caught.group_contains(ZeroDivisionError, depth=1)
        await anyio.wait_all_tasks_blocked()
        assert await living_tasks() == before


@pytest.mark.looptime
async def test_a_watch_under_a_timeout_of_asyncio_is_cut_by_it() -> None:
    """It raises the time-out, not an error of ours."""
    api = Api({0: "queued"})
    async with api.client() as kling:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(25):
                await statuses(kling)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(statuses(kling), 25)
    assert api.now == pytest.approx(50)


@pytest.mark.looptime
async def test_a_timeout_of_asyncio_between_two_steps_is_the_consumers() -> None:
    """What the consumer does under its own limit is none of the watch's business."""
    api = Api(LIFE)
    async with api.client() as kling:
        seen: list[str] = []
        async for generation in kling.watch(ID):
            seen.append(str(generation.status))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    await asyncio.sleep(60)
    assert seen == ["queued", "generating", "completed"]

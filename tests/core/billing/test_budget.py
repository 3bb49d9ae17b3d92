"""A budget kept: what is created, what is refused, and what is learnt on the way."""

from __future__ import annotations

import contextlib
import random
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager

import anyio
import anyio.lowlevel
import httpx
import pytest
from anyio.abc import TaskStatus
from attrs import define, evolve, field
from hypothesis import given, settings, strategies as st
from jumping_clock import run_on

from kling_async import (
    AsyncKling,
    Budget,
    BudgetExceededError,
    ConfigurationError,
    Generation,
    GenerationFailedError,
    KlingError,
    Outcome,
    OutOfCreditsError,
    Price,
    ServerError,
    Status,
    SubmissionUncertainError,
    TextToVideo,
    Video,
    WaitTimeoutError,
)
from kling_async._billing.budget import BudgetTracker
from kling_async.emulator import Emulator

pytestmark = pytest.mark.looptime

MASTER = "klingai/v2-master-text-to-video"
BODY = {"model": MASTER, "duration": 5}
DONE = Generation(
    id="g-1", status=Status.COMPLETED, video=Video(url="https://example.com/v.mp4")
)
Result = Generation | KlingError | None


@define(eq=False)
class Work:
    """Generations that take ten seconds and end as a test says.

    Attributes:
        ends: How each ends, in order of creation; those after it cost what all do.
        charge: What that is.
        created: When each was created.
        most: How many there were at once.
    """

    ends: Sequence[Generation | KlingError] = ()
    charge: float = 100.0
    created: list[float] = field(factory=list[float])
    most: int = 0
    _now: int = 0

    async def __call__(self) -> Generation:
        """Create one, and wait for its end."""
        number = len(self.created)
        self.created.append(anyio.current_time())
        self._now += 1
        self.most = max(self.most, self._now)
        await anyio.sleep(10)
        self._now -= 1
        if number >= len(self.ends):
            return evolve(DONE, credits_used=self.charge)
        end = self.ends[number]
        if isinstance(end, KlingError):
            raise end
        return end


def spending(
    limit: float, *, quoted: float | None = 100.0, error: KlingError | None = None
) -> BudgetTracker:
    """Make the spending of a call whose requests are all quoted the same."""

    async def price(body: object) -> Price:
        await anyio.lowlevel.checkpoint()
        if error is not None:
            raise error
        usd = None if quoted is None else quoted / 2e6
        return Price(model=str(body), kind="fixed", usd=usd)

    return BudgetTracker(Budget(credits=limit), price)


async def run(
    spent: BudgetTracker, work: Work, count: int, **body: object
) -> list[Result]:
    """Ask for so many at once; give what became of each, in order."""
    results: list[Result] = [None] * count

    async def one(number: int, *, task_status: TaskStatus[None]) -> None:
        task_status.started()
        try:
            results[number] = await spent.run({**BODY, **body}, work)
        except KlingError as error:
            results[number] = error

    async with anyio.create_task_group() as tasks:
        for number in range(count):
            await tasks.start(one, number)  # in this order, on trio too
    return results


def refused(results: Sequence[Result]) -> list[bool]:
    """Tell of each whether the budget refused it."""
    return [isinstance(it, BudgetExceededError) for it in results]


def ended(error: KlingError) -> KlingError:
    """Say that it is about a generation that goes on."""
    return error.concerning("g-1")


async def test_no_more_is_created_than_the_budget_pays_for() -> None:
    """What is in flight counts, and the first to ask are the first to go."""
    spent, work = spending(350), Work()
    results = await run(spent, work, 6)
    assert refused(results) == [False] * 3 + [True] * 3
    assert work.created == [work.created[0]] * 3
    assert (spent.spent, spent.in_flight) == (300, 0)


async def test_a_budget_that_is_met_exactly_is_not_passed() -> None:
    """To the last credit, rounding in USD or not."""
    assert refused(await run(spending(300), Work(), 4)) == [False] * 3 + [True]
    exact = BudgetTracker(Budget(usd=0.3), spending(0, quoted=200_000).price)
    results = await run(exact, Work(charge=200_000), 4)
    assert refused(results) == [False] * 3 + [True]


async def test_a_budget_of_nothing_creates_nothing() -> None:
    """Whether the price is known or not."""
    for quoted in (100.0, None):
        work = Work()
        assert refused(await run(spending(0, quoted=quoted), work, 3)) == [True] * 3
        assert not work.created


async def test_the_error_tells_how_it_stands() -> None:
    """In credits: the budget, what is spent, and what this one would cost."""
    *_, last = await run(spending(250), Work(), 3)
    assert isinstance(last, BudgetExceededError)
    assert (last.budget, last.spent, last.in_flight, last.needed) == (250, 200, 0, 100)


@pytest.mark.parametrize(
    "end",
    [
        GenerationFailedError(Generation(id="g-1", status=Status.ERROR)),
        GenerationFailedError(
            Generation(id="g-1", status=Status.ERROR, credits_used=0)
        ),
        OutOfCreditsError("no", status_code=403),
    ],
    ids=["failed", "failed-0", "refused"],
)
async def test_what_failed_leaves_room_for_another(end: KlingError) -> None:
    """It costs nothing: the one that waited takes its place."""
    work = Work([end])
    results = await run(spending(200), work, 3)
    assert refused(results) == [False] * 3
    assert len(work.created) == 3


async def test_a_failure_that_was_charged_counts() -> None:
    """If the server says so."""
    failed = Generation(id="g-1", status=Status.ERROR, credits_used=60)
    results = await run(spending(200), Work([GenerationFailedError(failed)]), 3)
    assert refused(results) == [False, False, True]


@pytest.mark.parametrize(
    "end",
    [
        WaitTimeoutError("g-1", timeout=1),
        ended(ServerError("no", status_code=500)),
        SubmissionUncertainError.__new__(SubmissionUncertainError),
    ],
    ids=["timeout", "lost sight", "uncertain"],
)
async def test_what_may_go_on_counts_as_spent(end: KlingError) -> None:
    """Nobody has seen it end, so it may be charged."""
    results = await run(spending(200), Work([end]), 3)
    assert refused(results) == [False, False, True]


async def test_real_charges_count_not_quotes() -> None:
    """What is spent is what was charged; what is to come counts as it is quoted."""
    work = Work(charge=50)
    results = await run(spending(400), work, 12)
    assert refused(results).count(False) == 7
    assert len([at for at in work.created if at < 5]) == 4


async def test_a_charge_above_the_quote_ends_it_sooner() -> None:
    """What was in flight by then may pass the budget; nothing more does."""
    work = Work(charge=150)
    spent = spending(400)
    results = await run(spent, work, 12)
    assert refused(results).count(False) == 4
    assert spent.spent == 600


async def test_after_the_first_that_does_not_fit_nothing_is_created() -> None:
    """Not even what would: what was asked for first is not overtaken."""
    spent = BudgetTracker(Budget(credits=250), _by_length)
    work, results = Work(charge=100), list[bool]()
    for duration in (5, 5, 10, 5):
        try:
            await spent.run({**BODY, "duration": duration}, work)
        except BudgetExceededError:
            results.append(True)
        else:
            results.append(False)
    assert results == [False, False, True, True]


async def _by_length(body: object) -> Price:
    await anyio.lowlevel.checkpoint()
    assert isinstance(body, dict)
    credits_ = 20 * float(str(body.get("duration")))
    return Price(model=MASTER, kind="fixed", usd=credits_ / 2e6)


# --- without known prices


async def test_without_a_price_the_first_goes_alone() -> None:
    """Then the others go as its charge allows."""
    work = Work(charge=100)
    results = await run(spending(350, quoted=None), work, 6)
    assert refused(results) == [False] * 3 + [True] * 3
    assert work.created[1] - work.created[0] >= 10
    assert work.created[1] == work.created[2]


async def test_a_price_that_cannot_be_asked_for_is_not_known() -> None:
    """An outage of the catalogue stops no batch."""
    error = ServerError("no", status_code=500)
    results = await run(spending(350, error=error), Work(), 6)
    assert refused(results) == [False] * 3 + [True] * 3


async def test_each_kind_of_request_is_learnt_by_itself() -> None:
    """Ten seconds are not five."""
    spent, work = spending(1000, quoted=None), Work()
    await run(spent, work, 1)
    await run(spent, work, 2, duration=10)
    assert work.most == 1
    await run(spent, work, 3)
    assert work.most == 3


@pytest.mark.parametrize("told", [DONE, evolve(DONE, credits_used=0)])
async def test_a_charge_that_is_not_told_is_the_quote(told: Generation) -> None:
    """It is entered later, perhaps; no video is free."""
    results = await run(spending(250), Work([told, told]), 4)
    assert refused(results) == [False, False, True, True]


async def test_a_charge_in_usd_counts_too() -> None:
    """Where only that is told."""
    told = evolve(DONE, usd_spent=0.0001)  # 200 credits
    results = await run(spending(350, quoted=None), Work([told]), 3)
    assert refused(results) == [False, True, True]


@pytest.mark.parametrize("end", [DONE, WaitTimeoutError("g-1", timeout=1)])
async def test_without_a_price_or_a_charge_no_more_is_created(
    end: Generation | KlingError,
) -> None:
    """Nobody can say what is left."""
    results = await run(spending(1e6, quoted=None), Work([end]), 3)
    assert refused(results) == [False, True, True]


async def test_a_bug_in_the_work_counts_as_spent() -> None:
    """Nobody knows how far it came."""
    spent = spending(150)

    async def work() -> Generation:
        await anyio.lowlevel.checkpoint()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await spent.run(BODY, work)
    assert refused(await run(spent, Work(), 1)) == [True]


async def test_a_price_list_that_is_down_is_asked_once_in_a_while() -> None:
    """Not by every request in turn: each would wait for its retries."""
    asked = list[float]()

    async def price(_: object) -> Price:
        asked.append(anyio.current_time())
        await anyio.sleep(7)
        raise ServerError("no", status_code=503)

    spent, work = BudgetTracker(Budget(credits=1e5), price), Work()
    for _ in range(10):
        await run(spent, work, 5)
    assert len(asked) == 1
    await anyio.sleep(300)
    await run(spent, work, 5)
    assert len(asked) == 2


SHOTS = "klingai/video-v3-turbo-pro-text-to-video"
AVATAR = "klingai/avatar-pro"
wishes = st.one_of(
    st.builds(
        lambda lengths: {
            "model": SHOTS,
            "multi_prompt": [{"prompt": "x", "duration": it} for it in lengths],
        },
        st.lists(st.integers(3, 15), min_size=1, max_size=3),
    ),
    st.builds(
        lambda duration, sound: {
            "model": MASTER,
            "duration": duration,
            "generate_audio": sound,
        },
        st.sampled_from([5, 10]),
        st.booleans(),
    ),
    st.builds(
        lambda minutes: {"model": AVATAR, "audio_url": f"https://x.test/{minutes}.mp3"},
        st.integers(1, 4),
    ),
)


def cost_of(body: Mapping[str, object], rates: Sequence[int]) -> float:
    """Charge by length, sound and model, each at a rate of its own."""
    if body["model"] == AVATAR:
        return rates[0] * float(str(body["audio_url"]).removesuffix(".mp3")[-1])
    shots = body.get("multi_prompt")
    if isinstance(shots, list):
        return rates[1] * sum(float(it["duration"]) for it in shots)
    sound = rates[2] if body["generate_audio"] else 0
    return (rates[1] + sound) * float(str(body["duration"]))


@pytest.mark.parametrize("quotes", ["all", "none", "some"])
@given(
    asked=st.lists(wishes, max_size=30),
    rates=st.lists(st.integers(1, 50), min_size=3, max_size=3),
    limit=st.integers(0, 3000),
    seed=st.integers(0, 1000),
)
@settings(max_examples=60, deadline=None)
def test_no_budget_is_passed_by_more_than_what_had_to_go_alone(
    quotes: str,
    asked: Sequence[Mapping[str, object]],
    rates: Sequence[int],
    limit: int,
    seed: int,
) -> None:
    """For any prices, lengths and order, quoted or not."""
    chance, charged, alone = random.Random(seed), list[float](), list[float]()

    async def price(body: Mapping[str, object]) -> Price:
        await anyio.lowlevel.checkpoint()
        is_told = quotes == "all" or (quotes == "some" and body["model"] == SHOTS)
        usd = cost_of(body, rates) / 2e6 if is_told else None
        return Price(model=str(body["model"]), kind="variable", usd=usd)

    async def main() -> None:
        spent = BudgetTracker(Budget(credits=limit), price)

        async def one(body: Mapping[str, object]) -> None:
            async def work() -> Generation:
                cost = cost_of(body, rates)
                if spent.in_flight + spent.spent >= limit and not (await price(body)):
                    alone.append(cost)
                await anyio.sleep(chance.uniform(1, 9))
                charged.append(cost)
                return evolve(DONE, credits_used=cost)

            with contextlib.suppress(BudgetExceededError):
                await spent.run(body, work)

        async with anyio.create_task_group() as tasks:
            for body in asked:
                await anyio.sleep(chance.uniform(0, 2))
                tasks.start_soon(one, body)

    run_on("asyncio", main)
    assert sum(charged) <= limit + sum(alone) + 0.5


# --- generate_many


@asynccontextmanager
async def client_of(emulator: Emulator) -> AsyncGenerator[AsyncKling, None]:
    """Open a client on an emulator in the same process."""
    transport = httpx.ASGITransport(app=emulator.app)
    async with (
        httpx.AsyncClient(transport=transport) as http,
        AsyncKling("any-key", base_url="https://kling", http_client=http) as kling,
    ):
        yield kling


def scenes(count: int) -> Iterator[TextToVideo]:
    """Make requests that cost 1.40 USD each."""
    for n in range(count):
        yield TextToVideo(model=MASTER, prompt=f"A cat, scene {n}", duration=5)


async def outcomes(
    kling: AsyncKling, count: int, budget: Budget
) -> list[Outcome[TextToVideo]]:
    """Generate many."""
    many = kling.generate_many(scenes(count), budget=budget)
    return sorted([it async for it in many], key=lambda it: it.index)


def many_of(kling: AsyncKling) -> Callable[..., AsyncIterator[object]]:
    """Give `generate_many` to a caller that annotations do not hold back."""
    return kling.generate_many


@pytest.mark.parametrize("budget", [Budget(usd=5), Budget(credits=10_000_000)])
async def test_many_stop_at_the_budget(budget: Budget) -> None:
    """Three videos of 1.40 USD for 5 USD; the rest are told why not."""
    emulator = Emulator(size=64)
    async with client_of(emulator) as kling:
        results = await outcomes(kling, 8, budget)
        spent = 1e6 - (await kling.balance()).usd
    assert [it.succeeded for it in results] == [True] * 3 + [False] * 5
    assert {type(it.error) for it in results[3:]} == {BudgetExceededError}
    assert all(it.generation is None for it in results[3:])
    assert len(emulator.creates) == 3
    assert spent == pytest.approx(4.2)


async def test_failed_generations_cost_no_budget() -> None:
    """All of it goes into videos."""
    emulator = Emulator(size=64, failure_rate=0.5, seed=3)
    async with client_of(emulator) as kling:
        results = await outcomes(kling, 30, Budget(usd=7))
    videos = [it for it in results if it.succeeded]
    failed = [it for it in results if isinstance(it.error, GenerationFailedError)]
    assert len(videos) == 5
    assert len(failed) > 0
    assert len(emulator.creates) == len(videos) + len(failed)


async def test_a_budget_is_one_calls_own() -> None:
    """The next call may spend as much again."""
    emulator = Emulator(size=64)
    async with client_of(emulator) as kling:
        for _ in range(2):
            await outcomes(kling, 4, Budget(usd=1.5))
    assert len(emulator.creates) == 2


async def test_a_budget_that_is_none_is_refused() -> None:
    """A number alone could be USD or credits."""
    async with client_of(Emulator()) as kling:
        with pytest.raises(ConfigurationError, match="Budget"):
            await anext(many_of(kling)(scenes(1), budget=5))

"""A client and its learning schedule: what it is told, on a clock that jumps."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

import anyio
import httpx
import pytest
from attrs import define, field
from clients import BASE_URL, IMAGE, KEY, MODEL, PROMPT
from jumping_clock import on_each_loop

from kling_async import (
    AsyncKling,
    Completion,
    Exponential,
    Fixed,
    GenerationFailedError,
    ImageToVideo,
    Learned,
    Polling,
    PollState,
    RetryPolicy,
)
from kling_async._polling.creations import KEPT, CreationIndex
from kling_async._runtime.tasks import ClientTasks
from kling_async.types import Seconds

VIDEO = {"url": "https://cdn.example.com/output.mp4"}
FAILURE = {"name": "Unsafe", "message": "not this"}


@define(eq=False)
class Studio:
    """Makes videos in the time that it is told, and counts who asks.

    Attributes:
        seconds: How long each video takes, one after another.
        end: What the last answer holds beside the id.
        outage: When no poll is answered, from and to, in seconds of age.
        answers_after: How long the answer to a create takes.
        polls: How old the generation was at each poll.
    """

    seconds: Iterator[float]
    end: Mapping[str, object] = field(factory=lambda: {"video": VIDEO})
    outage: tuple[float, float] = (0, 0)
    answers_after: float = 0
    polls: list[float] = field(factory=list[float])
    _made: dict[str, tuple[float, float]] = field(
        factory=dict[str, tuple[float, float]]
    )

    async def answer(self, request: httpx.Request) -> httpx.Response:
        """Create, or tell how far it is."""
        if request.method == "POST":
            made = f"generation-{len(self._made)}"
            self._made[made] = anyio.current_time(), next(self.seconds)
            await anyio.sleep(self.answers_after)
            return httpx.Response(200, json={"id": made, "status": "queued"})
        known = request.url.params["generation_id"]
        created, takes = self._made[known]
        age = anyio.current_time() - created
        self.polls.append(round(age, 3))
        if self.outage[0] <= age < self.outage[1]:
            raise httpx.ConnectError("no way through")
        status = "completed" if "video" in self.end else "error"
        body = {"status": status, **self.end} if age >= takes else {"status": "queued"}
        return httpx.Response(200, json={"id": known, **body})

    def client(self, polling: Polling | None = None) -> AsyncKling:
        """Give a client of it."""
        http_client = httpx.AsyncClient(transport=httpx.MockTransport(self.answer))
        return AsyncKling(
            KEY,
            base_url=BASE_URL,
            polling=polling,
            retry=RetryPolicy(attempts=1),
            http_client=http_client,
        )


@define(eq=False)
class Pupil:
    """Polls each ten seconds, and keeps what it is asked and told."""

    states: list[PollState] = field(factory=list[PollState])
    completions: list[Completion] = field(factory=list[Completion])

    def delay(self, state: PollState, /) -> float:
        """Tell how many seconds to wait before the next poll."""
        self.states.append(state)
        return 10.0

    def observe(self, completion: Completion, /) -> None:
        """Take note."""
        self.completions.append(completion)


def studio(*seconds: float, end: Mapping[str, object] | None = None) -> Studio:
    """Make a studio whose videos take so many seconds."""
    return Studio(iter(seconds), end={"video": VIDEO} if end is None else end)


def video(duration: Seconds | None = 5) -> ImageToVideo:
    """Describe a video."""
    return ImageToVideo(model=MODEL, image_url=IMAGE, prompt=PROMPT, duration=duration)


@on_each_loop
async def test_a_generation_that_was_found_late_is_as_old_as_its_create() -> None:
    """Its answer came a minute later, from the log or itself: a wait polls at once."""
    pupil, made = Pupil(), studio(90)
    made.answers_after = 50
    async with made.client(pupil) as kling:
        await kling.wait(await kling.create(video()))
    assert made.polls[0] == 50
    assert 90 <= pupil.completions[0].by <= 100


@on_each_loop
async def test_a_completion_is_told_between_which_polls_it_fell() -> None:
    """Seen unfinished at 90 s, finished at 100 s: it took more than 90 s."""
    pupil = Pupil()
    async with studio(95).client(pupil) as kling:
        await kling.generate(video())
    [told] = pupil.completions
    assert (told.model, told.video_length) == (MODEL, 5.0)
    assert told.after == pytest.approx(90)
    assert told.by == pytest.approx(100)


@pytest.mark.parametrize("duration, length", [(10, 10.0), ("10", 10.0), (None, 5.0)])
@on_each_loop
async def test_a_schedule_knows_what_it_waits_for(
    duration: Seconds | None, length: float
) -> None:
    """Model, length (the server's default if none was asked for), and age."""
    pupil = Pupil()
    async with studio(25).client(pupil) as kling:
        created = await kling.create(video(duration))
        await anyio.sleep(4)
        await kling.wait(created)
    assert {it.model for it in pupil.states} == {MODEL}
    assert {it.video_length for it in pupil.states} == {length}
    assert sorted({round(it.age or 0) for it in pupil.states}) == [0, 10, 20]


@on_each_loop
async def test_a_watch_by_id_in_the_same_client_knows_the_age_too() -> None:
    """What `create` returned need not be kept, only its id."""
    pupil = Pupil()
    async with studio(25).client(pupil) as kling:
        created = await kling.create(video())
        await kling.with_options(wait_timeout=99).wait(created.id)
    assert [it.age is None for it in pupil.states] == [False] * len(pupil.states)
    assert len(pupil.completions) == 1


@on_each_loop
async def test_of_a_generation_from_elsewhere_the_age_is_unknown() -> None:
    """Another process created it: it is polled, and nothing is learned from it."""
    made, pupil = studio(25), Pupil()
    async with made.client() as other, made.client(pupil) as kling:
        created = await other.create(video())
        await anyio.sleep(10)
        await kling.wait(created.id)
    assert {(it.age, it.model) for it in pupil.states} == {(None, None)}
    assert pupil.completions == []


@on_each_loop
async def test_a_failure_teaches_nothing() -> None:
    """How long a refusal takes says nothing of videos."""
    pupil = Pupil()
    async with studio(15, end={"error": FAILURE}).client(pupil) as kling:
        with pytest.raises(GenerationFailedError):
            await kling.generate(video())
    assert pupil.completions == []


@on_each_loop
async def test_a_poll_that_failed_did_not_see_it_unfinished() -> None:
    """Through an outage from 40 to 85 s: it took between 40 and 90 s."""
    made, pupil = studio(60), Pupil()
    made.outage = (35, 85)
    async with made.client(pupil) as kling:
        await kling.generate(video())
    [told] = pupil.completions
    assert told.after == pytest.approx(30)
    assert told.by == pytest.approx(90)


@on_each_loop
async def test_a_finished_generation_that_is_awaited_again_is_told_once() -> None:
    """When it is asked for later says nothing of how long it took."""
    pupil = Pupil()
    async with studio(15).client(pupil) as kling:
        done = await kling.generate(video())
        await anyio.sleep(500)
        await kling.wait(done.id)
    assert len(pupil.completions) == 1


@on_each_loop
async def test_all_who_watch_with_one_schedule_tell_it_once() -> None:
    """A hundred watchers of one generation are one generation."""
    shared, other = Pupil(), Pupil()
    async with studio(35).client(shared) as kling:
        created = await kling.create(video())
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(kling.wait, created)
            tasks.start_soon(lambda: kling.wait(created, polling=other))
    assert (len(shared.completions), len(other.completions)) == (1, 1)


@on_each_loop
async def test_a_schedule_that_raises_when_told_loses_no_generation(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It is logged and passed over, as a hook is."""

    class Forgetful(Pupil):
        def observe(self, _completion: Completion, /) -> None:
            raise RuntimeError("my disk is full")

    with caplog.at_level(logging.ERROR, "kling_async"):
        async with studio(15).client(Forgetful()) as kling:
            assert (await kling.generate(video())).succeeded
    assert "my disk is full" in caplog.text


@on_each_loop
async def test_a_client_learns_and_needs_fewer_polls_from_one_to_the_next() -> None:
    """After sixty alike, news of the next is soon there, for half the polls."""
    made = studio(*[330.0] * 61)
    async with made.client(Learned()) as kling:
        for _ in range(60):
            await kling.generate(video())
        made.polls.clear()
        await kling.generate(video())
    learned = list(made.polls)
    plain = studio(330)
    async with plain.client(Exponential()) as kling:
        await kling.generate(video())
    assert len(learned) < len(plain.polls) / 2
    assert learned[-1] < 330 + 4


@on_each_loop
async def test_a_client_that_is_told_nothing_learns() -> None:
    """`Learned` is the default, one for each client."""
    made = studio(*[100.0] * 42)
    async with made.client() as kling:
        for _ in range(40):
            await kling.generate(video())
        made.polls.clear()
        await kling.generate(video())
        learned = len(made.polls)
    async with made.client() as another:
        made.polls.clear()
        await another.generate(video())
    assert learned < 0.7 * len(made.polls)


@on_each_loop
async def test_what_one_client_learned_another_can_use() -> None:
    """They share the schedule."""
    learned = Learned()
    async with studio(*[100.0] * 20).client(learned) as kling:
        for _ in range(20):
            await kling.generate(video())
    made = studio(100)
    async with made.client(learned) as kling:
        await kling.generate(video())
    assert len([age for age in made.polls if age < 90]) < 10


@on_each_loop
async def test_plain_schedules_are_told_nothing() -> None:
    """`observe` is for those that have it."""
    async with studio(15).client(Fixed(10)) as kling:
        assert (await kling.generate(video())).succeeded


@on_each_loop
async def test_a_clock_of_another_event_loop_tells_no_age() -> None:
    """Created in one loop and awaited in another: the age is unknown."""
    origins, here, there = CreationIndex(), ClientTasks(), ClientTasks()
    origins.note("an id", {"model": MODEL}, 0.0, here)
    assert origins.of("an id", here) is not None
    assert origins.of("an id", there) is None


async def test_origins_are_bounded() -> None:
    """What is created and never awaited does not pile up."""
    origins, scope = CreationIndex(), ClientTasks()
    for number in range(KEPT + 10):
        origins.note(str(number), {"model": MODEL}, 0.0, scope)
    assert origins.of("9", scope) is None
    assert origins.of("10", scope) is not None


@pytest.mark.parametrize(
    "body, length",
    [
        ({"model": MODEL, "duration": 7}, 7.0),
        ({"model": MODEL, "duration": "long"}, None),
        ({"model": MODEL, "duration": [5]}, None),
        ({"model": MODEL, "duration": "nan"}, None),
        ({"model": "a-new-model", "duration": 5}, 5.0),
        ({"model": "a-new-model"}, None),
        ({"model": "klingai/avatar-pro"}, None),
    ],
    ids=repr,
)
@on_each_loop
async def test_a_length_is_read_as_the_server_reads_it(
    body: Mapping[str, object], length: float | None
) -> None:
    """A number or text, the default where it is left out, None where there is none."""
    origins, scope = CreationIndex(), ClientTasks()
    origins.note("an id", body, 0.0, scope)
    origin = origins.of("an id", scope)
    assert origin is not None
    assert (origin.model, origin.video_length) == (body["model"], length)

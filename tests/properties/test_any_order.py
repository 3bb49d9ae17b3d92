"""Creates, watches, cancels, outages, closes in any order: no paid id is lost.

Hypothesis thinks of what is done and of what the network loses; the emulator is the
vendor, whose books are the model. At the end each create that it bills is in
somebody's hand, and is billed once. No socket, and a clock that jumps.
"""

from __future__ import annotations

import asyncio
import logging

import anyio
import httpx
import looptime
from attrs import define, field
from hypothesis import HealthCheck, Phase, settings, strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from kling_async import (
    AsyncKling,
    CreatedEvent,
    Fixed,
    Generation,
    Hooks,
    KlingError,
    RetryPolicy,
    SubmissionUncertainError,
    TextToVideo,
    UncertainEvent,
)
from kling_async.emulator import Emulator

MODEL = "klingai/v2-master-text-to-video"
PATH = "/v2/video/generations"
REQUEST = TextToVideo(model=MODEL, prompt="A paper boat.")
# What is under way has ended by then. All in all less than an hour may pass: the log is
# asked for by the wall clock, which nobody turns.
LONG = 900.0
ORDER = ("queued", "generating", "completed", "error")

# What becomes of a create: whether it gets there, and how its answer comes.
FATES: dict[str, tuple[bool, object]] = {
    "answered": (True, None),
    "no connection": (False, httpx.ConnectError("refused")),
    "lost on its way": (False, httpx.ReadError("reset")),
    "turned away": (False, httpx.Response(429, headers={"retry-after": "3"})),
    "reset": (True, httpx.ReadError("reset")),
    "silence": (True, httpx.ReadTimeout("")),
    "502": (True, httpx.Response(502, text="<title>Bad gateway</title>")),
    "unreadable": (True, httpx.Response(200, text='{"id": "8')),
    "no id": (True, httpx.Response(200, json={"status": "queued"})),
    "only a header": (True, "x-inference-id"),
}
fates = st.lists(st.sampled_from(sorted(FATES)), max_size=3)


@define(eq=False)
class Network:
    """What lies between the client and the emulator.

    Attributes:
        emulator: The vendor.
        fates: What becomes of the next creates of each client request id.
        is_down: Whether nothing gets through.
        has_log: Whether the request log can be read.
    """

    emulator: Emulator
    fates: dict[str, list[str]] = field(factory=dict[str, list[str]])
    is_down: bool = False
    has_log: bool = True

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Carry a request there, and perhaps its answer back."""
        await anyio.sleep(0.1)
        if self.is_down:
            raise httpx.ReadError("the network is down")
        if request.url.path == "/v2/logs" and not self.has_log:
            return httpx.Response(503, json={"message": "Service unavailable"})
        answer = httpx.ASGITransport(app=self.emulator.app).handle_async_request
        if request.method == "GET":
            return await answer(request)
        left = self.fates.get(request.headers["x-client-request-id"])
        arrives, told = FATES[left.pop(0) if left else "answered"]
        true = await answer(request) if arrives else None
        await anyio.sleep(0.1)
        if isinstance(told, Exception):
            raise told
        if isinstance(told, str) and true is not None:
            told = httpx.Response(500, headers={told: true.headers[told]})
        if isinstance(told, httpx.Response):
            return httpx.Response(
                told.status_code, headers=told.headers, content=told.content
            )
        assert true is not None
        return true


@define(eq=False)
class Told:
    """What the client's hooks were told."""

    created: set[str] = field(factory=set[str])
    uncertain: dict[str, UncertainEvent] = field(factory=dict[str, UncertainEvent])

    def on_created(self, event: CreatedEvent) -> None:
        """Note an id."""
        self.created.add(event.generation.id)

    def on_uncertain(self, event: UncertainEvent) -> None:
        """Note what is said of a lost answer."""
        self.uncertain[event.client_request_id] = event


class Program(RuleBasedStateMachine):
    """A program that does all that programs do with one client after another."""

    def __init__(self) -> None:
        super().__init__()
        logging.disable(logging.CRITICAL)
        self.loop = looptime.new_event_loop(noop_cycles=0)
        self.told = Told()
        self.creates: dict[str, asyncio.Task[Generation]] = {}
        self.watches: list[asyncio.Task[None]] = []

    @initialize(log_delay=st.sampled_from([0, 2, 15, 60]))
    def begin(self, log_delay: float) -> None:
        """Choose how late rows of the log are: soon, after a close, or too late."""
        emulator = Emulator(speed=10, log_delay=log_delay, failure_rate=0.2)
        self.network = Network(emulator)
        self.kling = self.opened()

    def opened(self) -> AsyncKling:
        """Make a client."""
        return AsyncKling(
            "any-key",
            base_url="https://kling",
            http_client=httpx.AsyncClient(
                transport=httpx.MockTransport(self.network.handle_async_request)
            ),
            polling=Fixed(5),
            timeout=10,
            wait_timeout=300,
            max_connections=3,
            retry=RetryPolicy(attempts=3, reconcile_timeout=40),
            hooks=Hooks(
                on_created=self.told.on_created, on_uncertain=self.told.on_uncertain
            ),
        )

    def live(self, seconds: float) -> None:
        """Let the clock run."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    @property
    def running(self) -> list[asyncio.Task[Generation] | asyncio.Task[None]]:
        """What has not ended."""
        creates = [it for it in self.creates.values() if not it.done()]
        return [*creates, *(it for it in self.watches if not it.done())]

    @property
    def known(self) -> list[Generation]:
        """The generations that creates have returned."""
        ended = [it for it in self.creates.values() if it.done() and not it.cancelled()]
        return [it.result() for it in ended if it.exception() is None]

    # What a program does

    @rule(fates=fates, after=st.floats(0, 1))
    def create(self, fates: list[str], after: float) -> None:
        """Ask for a video."""
        name = f"scene-{len(self.creates)}"
        self.network.fates[name] = fates
        asked = self.kling.create(REQUEST, client_request_id=name)
        self.creates[name] = self.loop.create_task(asked)
        self.live(after)

    @precondition(lambda self: self.known)
    @rule(data=st.data(), after=st.floats(0, 1))
    def watch(self, data: st.DataObject, after: float) -> None:
        """Follow a generation."""
        generation = data.draw(st.sampled_from(self.known))

        async def follow(kling: AsyncKling) -> None:
            seen = -1
            async for update in kling.watch(generation.id):
                assert update.id == generation.id
                assert ORDER.index(update.status) > seen
                seen = ORDER.index(update.status)

        self.watches.append(self.loop.create_task(follow(self.kling)))
        self.live(after)

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        """Leave."""
        data.draw(st.sampled_from(self.running)).cancel()
        self.live(0)

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        """Do nothing."""
        self.live(seconds)

    @rule()
    def network_changes(self) -> None:
        """Begin or end an outage."""
        self.network.is_down = not self.network.is_down

    @rule()
    def log_changes(self) -> None:
        """Begin or end an outage of the request log alone."""
        self.network.has_log = not self.network.has_log

    @rule()
    def close(self) -> None:
        """Close the client, whatever is under way, and go on with another."""
        self.loop.run_until_complete(self.kling.aclose())
        assert not [it for it in self.running if it.done()]
        self.kling = self.opened()

    # What must hold in the end

    def teardown(self) -> None:
        """End all, and hold what the program has against the vendor's books."""
        try:
            self.network.is_down, self.network.has_log = False, True
            self.live(LONG)
            assert not self.running
            self.loop.run_until_complete(self.check_books())
            self.loop.run_until_complete(self.kling.aclose())
            assert not asyncio.all_tasks(self.loop)
        finally:
            logging.disable(logging.NOTSET)
            self.loop.close()

    async def check_books(self) -> None:
        """Each create that is billed is in somebody's hand, and is billed once."""
        books = self.network.emulator.charges  # a generation that failed is not billed
        names = [it.client_request_id for it in books]
        assert len(names) == len(set(names)), "billed twice"
        for record in books:
            name = record.client_request_id or ""
            held = await self.held(name)
            assert record.generation_id in held, f"{name} is lost: {held}"
        for task in [*self.creates.values(), *self.watches]:
            if not task.cancelled() and (error := task.exception()) is not None:
                assert isinstance(error, KlingError), repr(error)
                assert error.generation_id or task not in self.watches

    async def held(self, name: str) -> set[str]:
        """Give the ids that the program has for a create, one way or another."""
        task = self.creates[name]
        if task.cancelled():
            if (event := self.told.uncertain.get(name)) is None:
                return self.told.created
            return self.told.created | await self.looked_up(name, event)
        error = task.exception()
        if error is None:
            return {task.result().id}
        assert isinstance(error, KlingError), repr(error)
        if isinstance(error, SubmissionUncertainError):
            assert error.client_request_id == name
            return await self.looked_up(name, error)
        return {error.generation_id or "none"}

    async def looked_up(
        self, name: str, lost: SubmissionUncertainError | UncertainEvent
    ) -> set[str]:
        """Ask the vendor's log."""
        found = await self.kling.reconcile(name, since=lost.since, timeout=60)
        return {found.id} if found else set()


ProgramTest = Program.TestCase
IS_DEEP = settings.get_current_profile_name() == "soak"
ProgramTest.settings = settings(
    derandomize=not IS_DEEP,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    max_examples=2000 if IS_DEEP else 100,
    stateful_step_count=50 if IS_DEEP else 20,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

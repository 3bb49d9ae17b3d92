"""What the database keeps of a job: requests, orders, outcomes, money."""

from __future__ import annotations

import datetime as dt
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import anyio
import pytest
import sqlalchemy as sa
from hypothesis import given, settings, strategies as st

from kling_async import (
    Generation,
    ImageToVideo,
    InvalidRequestError,
    Request,
    Status,
    TextToVideo,
    Video,
)
from kling_async.durable import Intent, JobState, JobStatus
from kling_async.durable._database import Database
from kling_async.durable._records import AttemptResult, BudgetStore, JobInput
from kling_async.durable._store import StatusCache
from kling_async.durable._submit import (
    MissingFileError,
    differing_fields,
    fingerprint,
    from_stored,
    to_stored,
)

NOW = dt.datetime(2026, 8, 1, 12, tzinfo=dt.UTC)
V3 = "klingai/video-v3-pro-image-to-video"


def image_to_video(image: object, **more: object) -> Request:
    """Ask for a video of an image."""
    return ImageToVideo(image_url=image, prompt="She smiles", **more)  # type: ignore[arg-type]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Give a file that nobody looks into."""
    path = tmp_path / "mona.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n and so on")
    return path


@pytest.mark.parametrize(
    "asked",
    [
        TextToVideo(prompt="A storm", duration=5),
        ImageToVideo(
            image_url="https://example.com/mona.jpg",
            multi_prompt=["one", "two"],
        ),
        TextToVideo(prompt="A storm", extra={"new_field": [1, {"a": None}]}),
        Request(model="klingai/of-tomorrow", extra={"prompt": "x", "n": 1}),
    ],
)
async def test_a_request_comes_back_as_it_was(asked: Request) -> None:
    """Through JSON, and whatever its class."""
    stored = await to_stored(asked, inline=False, check=True)
    again = await from_stored(json.loads(json.dumps(stored)))
    assert type(again) is type(asked)
    assert again.to_body() == asked.to_body()


@pytest.mark.parametrize("inline", [True, False])
async def test_a_file_comes_back_as_its_bytes(image: Path, *, inline: bool) -> None:
    """Also from deep inside a request."""
    elements = [{"reference_image_urls": [image, b"bytes"]}]
    asked = image_to_video(image, elements=elements)
    stored = await to_stored(asked, inline=inline, check=False)
    again = await from_stored(json.loads(json.dumps(stored)))
    body = again.to_body()
    assert body["image_url"] == image.read_bytes()
    assert body["elements"] == [
        {"reference_image_urls": [image.read_bytes(), b"bytes"]}
    ]
    assert (str(image) in json.dumps(stored)) is not inline


async def test_a_request_is_known_by_its_files_content(
    image: Path, tmp_path: Path
) -> None:
    """The same image under another name is the same request, inline or not."""
    copy = tmp_path / "copy.png"
    copy.write_bytes(image.read_bytes())
    marks = {
        fingerprint(await to_stored(image_to_video(it), inline=inline, check=False))
        for it in (image, copy, image.read_bytes())
        for inline in (True, False)
    }
    assert len(marks) == 1


async def test_two_requests_are_told_apart_by_their_fields(image: Path) -> None:
    """Files by content, extra fields by their own names."""
    one = await to_stored(
        image_to_video(image, extra={"a": 1, "b": 2}), inline=False, check=False
    )
    image.write_bytes(b"another")
    other = await to_stored(
        image_to_video(image, duration=5, extra={"a": 1, "b": 3}),
        inline=False,
        check=False,
    )
    assert differing_fields(one, other) == ["b", "duration", "image_url"]
    assert differing_fields(one, one) == []


async def test_a_file_that_is_gone_or_changed_is_told(image: Path) -> None:
    """The two are different matters: one is mended, the other is not sent."""
    stored = await to_stored(image_to_video(image), inline=False, check=False)
    image.write_bytes(b"another")
    with pytest.raises(InvalidRequestError, match="which has changed"):
        await from_stored(stored)
    image.unlink()
    with pytest.raises(MissingFileError, match=r"mona\.png: No such file"):
        await from_stored(stored)


async def test_a_file_that_is_no_image_is_not_taken(image: Path) -> None:
    """It is looked at when it is submitted, not when it is sent."""
    image.write_bytes(b"GIF89a and so on")
    with pytest.raises(InvalidRequestError, match="image/gif"):
        await to_stored(image_to_video(image), inline=False, check=True)


@pytest.mark.parametrize(
    "outcome",
    [
        AttemptResult(state=JobState.HELD, error="no", kind="KlingError", unsent=True),
        AttemptResult(
            state=JobState.UNCERTAIN,
            intent=Intent(client_request_id="kling-1", at=NOW),
        ),
        AttemptResult(
            state=JobState.DONE,
            generation_id="id:route/x",
            generation=Generation(
                id="id:route/x",
                status=Status.COMPLETED,
                video=Video(url="https://example.com/v.mp4", file_size=3),
                credits_used=1.5,
                client_request_id="kling-1",
                raw={
                    "id": "id",
                    "status": "completed",
                    "video": {"url": "https://example.com/v.mp4", "file_size": 3},
                    "meta": {"usage": {"credits_used": 1.5}},
                },
            ),
        ),
    ],
)
def test_an_outcome_comes_back_as_it_was(outcome: AttemptResult) -> None:
    """Through JSON; a generation from the server's own words."""
    assert AttemptResult.from_json(json.loads(json.dumps(outcome.to_json()))) == outcome


def test_an_order_comes_back_as_it_was() -> None:
    """Through JSON."""
    order = JobInput(
        workflow_id="kling:default:a:1",
        batch="default",
        request={"model": V3},
        output="/videos/a.mp4",
        adopt="id",
        resolve=Intent(client_request_id="kling-1", at=NOW),
        instead_of="kling:default:a:0",
    )
    assert JobInput.from_json(json.loads(json.dumps(order.to_json()))) == order


@pytest.fixture
def budget(tmp_path: Path) -> Iterator[BudgetStore]:
    """Open a ledger."""
    engine = Database.at(tmp_path / "jobs.db").prepare()
    yield BudgetStore(engine)
    engine.dispose()


def test_money_is_set_aside_until_the_budget_is_reached(budget: BudgetStore) -> None:
    """The last one that fits is let through, the next one is told the account."""
    budget.set_limit("b", 10)
    assert budget.reserve("b", "1", 6) is None
    assert budget.reserve("b", "2", 4) is None
    refused = budget.reserve("b", "3", 1)
    assert refused is not None
    assert (refused.budget, refused.committed) == (10, 10)
    assert budget.reserve("b", "2", 4) is None  # it has its money already


def test_what_was_not_spent_is_free_again(budget: BudgetStore) -> None:
    """A failed generation costs nothing, a cheaper one less."""
    budget.set_limit("b", 10)
    budget.reserve("b", "1", 6)
    assert budget.reserve("b", "2", 6) is not None
    budget.settle("b", "1", 0)
    assert budget.reserve("b", "2", 6) is None


def test_without_prices_what_is_spent_counts(budget: BudgetStore) -> None:
    """Nothing is set aside for an unknown price, but a spent budget is spent."""
    budget.set_limit("b", 10)
    assert budget.reserve("b", "1", 0) is None
    budget.settle("b", "1", 11)
    assert budget.reserve("b", "2", 0) is not None
    budget.set_limit("b", 12)
    assert budget.reserve("b", "2", 0) is None
    budget.set_limit("b", None)
    assert budget.reserve("b", "3", 1000) is None
    assert budget.account("other").committed == 0


def test_an_attempt_that_goes_on_with_another_is_one_bill(budget: BudgetStore) -> None:
    """What was set aside for the first is spent by the second, once."""
    budget.set_limit("b", 10)
    budget.reserve("b", "a:1", 6)
    budget.settle("b", "a:2", 5, instead_of="a:1")
    assert budget.account("b").committed == 5


def test_without_a_budget_nobody_is_asked_for_prices(budget: BudgetStore) -> None:
    """What was spent by then counts as soon as there is one."""
    assert not budget.is_bounded("b")
    budget.settle("b", "1", 4)
    budget.set_limit("b", 10)
    assert budget.is_bounded("b")
    assert budget.account("b").committed == 4


def test_many_at_once_do_not_overdraw(budget: BudgetStore) -> None:
    """The check and the setting aside are one step."""
    budget.set_limit("b", 10)
    refused: list[object] = []

    def reserve(name: str) -> None:
        if budget.reserve("b", name, 1) is not None:
            refused.append(name)

    threads = [threading.Thread(target=reserve, args=[f"{n}"]) for n in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 20
    assert budget.account("b").committed == 10


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(0, 10), st.floats(0, 10)), max_size=8))
def test_the_account_is_the_sum_of_its_entries(
    costs: list[tuple[float, float]],
) -> None:
    """Whatever was set aside and settled, in whatever order."""
    engine = sa.create_engine("sqlite://", poolclass=sa.StaticPool)
    budget = BudgetStore(engine)
    for n, (price, _) in enumerate(costs):
        budget.reserve("b", f"{n}", price)
    for n, (_, spent) in enumerate(costs):
        budget.settle("b", f"{n}", spent)
    assert budget.account("b").committed == pytest.approx(sum(it for _, it in costs))
    engine.dispose()


class Log:
    """A store that counts how often it is asked."""

    def __init__(self) -> None:
        self.asked = 0

    async def changed_since(self, since: dt.datetime | None) -> dict[str, JobStatus]:
        """Give one job, done."""
        del since
        self.asked += 1
        await anyio.sleep(0.01)
        return {"a": JobStatus(key="a", batch="b", state=JobState.DONE, attempt=1)}


@pytest.mark.looptime
async def test_all_who_wait_for_news_share_one_look() -> None:
    """A thousand waits for results are one question a second, not a thousand."""
    log = Log()
    board = StatusCache(log, 1.0)  # type: ignore[arg-type]
    started = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for _ in range(1000):
            tasks.start_soon(board.refresh)
    assert log.asked == 1
    await board.refresh()
    assert log.asked == 2
    assert anyio.current_time() - started == pytest.approx(1, abs=0.1)

"""Any answer to any question: a value or a `KlingError`, and nothing else.

Each public method asks a server that answers whatever hypothesis thinks of: any
status, headers and bytes, and JSON that is nearly right. The clock jumps.
"""

from __future__ import annotations

import datetime as dt
import json
import pickle
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import httpx
import pytest
from hypothesis import example, given, settings, strategies as st
from jumping_clock import run_on

from kling_async import AsyncKling, Fixed, KlingError, RetryPolicy, TextToVideo

Ask = Callable[[AsyncKling], Awaitable[object]]
Header = tuple[bytes, bytes]

ID = "88a64d31-cce4-41e8-b9d8-5392e8c2a6d4:kling-video/v2/master/text-to-video"
MODEL = "klingai/v2-master-text-to-video"
REQUEST = TextToVideo(model=MODEL, prompt="A paper boat.")
# What a price holds for, so deep that comparing it would overflow the stack.
DEEP = b"""{"id": "1", "status": "completed", "data": [{"id": "%b", "pricing":
{"kind": "variants", "variants": [{"price": 1, "unit": "second", "when":
{"duration": %%b%%b}}]}}]}""" % MODEL.encode()
SINCE = dt.timedelta(hours=1)

# Every name that some answer has, so that a body of any shape is nearly right.
NAMES = """
    id status video url content_type file_name file_size error name message meta usage
    credits_used usd_spent requestId statusCode path timestamp
    current_balance currency data pagination has_more next_cursor total limit offset
    created origin model cost usd credits tokens request_id inference_id
    client_request_id type direction amount reference_id aliases pricing kind units
    variants price per unit when
""".split()
HEADERS = """
    x-inference-id x-client-request-id x-request-id x-aimlapi-credits-used
    x-aimlapi-usd-spent retry-after date location content-type content-encoding
    content-length
""".split()
WORDS = """
    completed error queued succeeded failed fixed variable variants second gzip br
    application/json 0 -1 1e400 nan https://example.com/a.mp4 2026-11-24T18:00:00Z
""".split()

texts = st.sampled_from([*WORDS, ID, MODEL, "mine", "\ud800"]) | st.text()
leaves = st.none() | st.booleans() | st.integers() | st.floats() | texts
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES), inner, max_size=6)
    ),
    max_leaves=12,
)
objects = st.dictionaries(st.sampled_from(NAMES), values, max_size=8)
bodies = st.binary() | (values | objects).map(lambda it: json.dumps(it).encode())
headers = st.lists(
    st.tuples(
        st.sampled_from(HEADERS).map(str.encode),
        st.sampled_from(WORDS).map(str.encode) | st.binary(),
    ),
    max_size=3,
)
statuses = st.sampled_from([200, 201, 404, 408, 429, 500]) | st.integers(200, 599)
answers = st.lists(st.tuples(statuses, headers, bodies), min_size=1, max_size=3)


class Body(httpx.AsyncByteStream):
    """A body that httpx has not read beforehand."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self._content


async def generate_many(kling: AsyncKling) -> object:
    """Generate two at once."""
    return [it async for it in kling.generate_many([REQUEST, REQUEST], timeout=60)]


async def balance(kling: AsyncKling) -> object:
    """Ask what there is, in both units."""
    told = await kling.balance()
    return told.usd, told.credits


ASK: dict[str, Ask] = {
    "create": lambda kling: kling.create(REQUEST, client_request_id="mine"),
    "get": lambda kling: kling.get(ID),
    "wait": lambda kling: kling.wait(ID, timeout=60),
    "generate": lambda kling: kling.generate(REQUEST, timeout=60),
    "generate_many": generate_many,
    "reconcile": lambda kling: kling.reconcile("mine", since=SINCE, timeout=10),
    "balance": balance,
    "price": lambda kling: kling.price(REQUEST),
    "request_log": lambda kling: listed(kling.request_log(since=SINCE)),
    "transactions": lambda kling: listed(kling.transactions()),
}


async def listed(rows: AsyncIterator[object]) -> list[object]:
    """Read some of a list: a server may say for ever that more follows."""
    found: list[object] = []
    async for row in rows:
        found.append(row)
        if len(found) == 50:
            break
    return found


def survive(ask: Ask, answers: Sequence[tuple[int, Sequence[Header], bytes]]) -> None:
    """Ask a server that gives these answers in turns, and see how it ends."""

    async def asked() -> None:
        given = 0

        def answer(_: httpx.Request) -> httpx.Response:
            nonlocal given
            status, headers, body = answers[given % len(answers)]
            given += 1
            return httpx.Response(status, headers=list(headers), stream=Body(body))

        async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
            kling = AsyncKling(
                "any-key",
                base_url="https://kling.test",
                http_client=http,
                polling=Fixed(10),
                retry=RetryPolicy(attempts=3, reconcile_timeout=10),
            )
            async with kling:
                try:
                    value = await ask(kling)
                except KlingError as error:
                    value = error
        assert repr(value)
        if isinstance(value, KlingError):
            assert str(value).encode()
            assert str(pickle.loads(pickle.dumps(value))) == str(value)

    run_on("asyncio", asked)


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
@given(answers=answers)
@example(answers=[(500, [], rb'{"message": "\ud800"}')])
@example(answers=[(200, [], rb'{"id": "\ud800", "status": "\ud800"}')])
@example(answers=[(200, [], rb'{"id": 1, "status": "error", "error": "\ud800"}')])
@example(answers=[(200, [], DEEP % (b"[" * 700, b"]" * 700))])
@example(answers=[(200, [], rb'{"id": 1, "current_balance": 1e308}')])
@settings(derandomize=True, deadline=None, max_examples=25)
def test_any_answer_is_a_value_or_an_error_of_ours(
    ask: Ask, answers: list[tuple[int, list[Header], bytes]]
) -> None:
    """Nothing of json, httpx, datetime or anyio leaves a public method."""
    survive(ask, answers)

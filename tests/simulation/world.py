"""A vendor and its store of videos, in memory: what they do, and what goes wrong.

Each exchange is decided at once, by the seed; the books are what the invariants read.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import email.utils
import json
import re
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias
from urllib.parse import parse_qs, urlsplit

import detangle
from attrs import define, field, frozen
from films import film

API, STORE = "93.184.216.34", "93.184.216.35"
BASE_URL = f"http://{API}"
MODEL = "klingai/video-v3-standard-turbo-text-to-video"
USD_PER_SECOND = 0.1
CREDITS_PER_USD = 2_000_000

VIDEO = film(bytes(range(256)) * 12)

# What may become of a create, beside what should.
CREATE_FAULTS = (
    "reset unread", "reset", "silence", "late", "502 before", "502 after", "cut",
    "no id", "header only", "garbage", "429", "425", "400", "failed and reset",
    "gateway 403",
)  # fmt: skip
GET_FAULTS = (
    "reset", "silence", "late", "502", "cut", "garbage", "429", "gateway 403",
    "gateway 404", "404 young",
)  # fmt: skip
LOG_FAULTS = ("reset", "silence", "502", "cut", "429")
PRICE_FAULTS = ("502", "reset")
STORE_FAULTS = ("cut", "reset", "503", "404 young", "silence")
SILENCE = 400.0  # longer than any client waits
YOUNG = 10.0  # a store, or a poll, may know nothing of a thing for so long
LATEST_ROW = 20.0


@define
class Weather:
    """What goes wrong in one run, and how often.

    Attributes:
        rate: The share of exchanges that go wrong.
        faults: What may.
        ends_at: From when on all goes well, on the loop's clock.
    """

    rate: float
    faults: frozenset[str]
    ends_at: float

    @classmethod
    def draw(cls, lasts: float) -> Weather:
        """Draw some faults of all, so that they do not stand in each other's way."""
        rate = detangle.choice([0.0, 0.0, 0.2, 0.5, 0.7])
        kinds = (CREATE_FAULTS, GET_FAULTS, LOG_FAULTS, PRICE_FAULTS, STORE_FAULTS)
        faults = {
            detangle.choice(options)
            for options in kinds
            for _ in range(detangle.randint(0, len(options) // 3))
        }
        faults |= {"late row"} if detangle.flip(0.5) else set()
        faults |= {"impatient"} if detangle.flip(0.15) else set()
        return cls(rate, frozenset(faults), lasts)

    @property
    def is_fair(self) -> bool:
        """Whether all goes well from now on."""
        return detangle.now() >= self.ends_at

    def fault(self, options: Sequence[str]) -> str | None:
        """Draw what goes wrong with an exchange, if anything."""
        if self.is_fair or not detangle.flip(self.rate):
            return None
        some = [it for it in options if it in self.faults]
        return detangle.choice(some) if some else None

    def has(self, fault: str) -> bool:
        """Whether a lasting fault is there."""
        return fault in self.faults and not self.is_fair


@frozen
class HttpRequest:
    """One request as it came."""

    method: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: bytes


@define(eq=False)
class Line(asyncio.Protocol):
    """One connection, seen from the server."""

    receive: Callable[[HttpRequest, Line], None]
    idle_limit: Callable[[], float]
    is_busy: bool = False
    _transport: asyncio.Transport | None = None
    _buffer: bytes = b""
    _idle: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, rest = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {
            name.lower(): value.strip()
            for name, _, value in (line.partition(":") for line in lines)
        }
        length = int(headers.get("content-length", "0"))
        if len(rest) < length:
            return
        self._buffer = rest[length:]
        method, target, _ = first.split(" ")
        url = urlsplit(target)
        if self._idle is not None:
            self._idle.cancel()
        self.is_busy = True
        query = parse_qs(url.query)
        self.receive(HttpRequest(method, url.path, query, headers, rest[:length]), self)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 (asyncio's)
        self.is_busy = False
        self._transport = None
        if self._idle is not None:
            self._idle.cancel()

    @property
    def is_left(self) -> bool:
        """Whether the client has closed its end."""
        return self._transport is None or self._transport._conn.client.is_closing()  # type: ignore[attr-defined]

    def reset(self) -> None:
        """Break off."""
        if self._transport is not None:
            self._transport.abort()

    def answer(
        self,
        status: int,
        body: object,
        headers: Mapping[str, str] | None = None,
        *,
        after: float = 0.0,
        cut: float | None = None,
    ) -> None:
        """Answer after a while; only a share of it, if it is cut."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        told = {"content-length": str(len(content)), **(headers or {})}
        head = "".join(f"{name}: {value}\r\n" for name, value in told.items())
        payload = f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + content
        if cut is not None:
            payload = payload[: len(payload) - int(len(content) * (1 - cut))]
        loop = asyncio.get_running_loop()
        loop.call_later(after, self._write, payload, cut is not None)

    def _write(self, payload: bytes, is_cut: bool) -> None:
        if self._transport is None:
            return
        self.is_busy = False
        self._transport.write(payload)
        if is_cut:
            self._transport.close()
        else:
            loop = asyncio.get_running_loop()
            self._idle = loop.call_later(self.idle_limit(), self._leave)

    def _leave(self) -> None:
        if self._transport is not None and not self.is_busy:
            self._transport.close()


Handler: TypeAlias = Callable[[HttpRequest, Line, str | None], None]


@define(eq=False)
class Accepted:
    """A generation in the books.

    Attributes:
        number: Which of all.
        call: The number of the call that asked for it, as its prompt says.
        client_request_id: What it was sent with.
        created: When, on the loop's clock.
        ends_at: When it will have ended.
        succeeds: Whether in a video.
        usd: What it costs then.
    """

    number: int
    call: int
    client_request_id: str
    created: float
    ends_at: float
    succeeds: bool
    usd: float

    @property
    def id(self) -> str:
        """Give the id."""
        return f"gen-{self.number:04}"

    @property
    def has_ended(self) -> bool:
        """Whether it goes on no more."""
        return detangle.now() >= self.ends_at


@frozen
class Row:
    """What the log lists of a create, from when on."""

    created: float
    shown_at: float
    client_request_id: str
    status: str
    inference_id: str | None


@define(eq=False)
class Post:
    """The last create that came for a call: whether its answer has been sent."""

    came: float
    is_answered: bool = False


@define(eq=False)
class Vendor:
    """The API.

    Attributes:
        weather: What goes wrong.
        skew: How much its clock is fast, in seconds.
        most_running: How many generations the account may have under way.
        most_a_second: How many requests it may send in a second.
        accepted: What it has accepted.
        last_post: The last create that came for each call.
        rows: Its log, oldest first.
        polls: When each id was asked for and answered well, on the loop's clock.
        refusals: How often it said 429.
        refused: How often it said so to a create, by call.
        has_priced_badly: Whether a price list could not be read.
        trace: All that came, in order.
    """

    weather: Weather
    skew: float = 0.0
    most_running: float = float("inf")
    most_a_second: float = float("inf")
    accepted: list[Accepted] = field(factory=list[Accepted])
    last_post: dict[int, Post] = field(factory=dict[int, Post])
    rows: list[Row] = field(factory=list[Row])
    polls: list[tuple[float, str]] = field(factory=list[tuple[float, str]])
    refusals: int = 0
    refused: Counter[int] = field(factory=Counter[int])
    has_priced_badly: bool = False
    trace: list[tuple[float, str, str]] = field(factory=list[tuple[float, str, str]])
    _recent: list[float] = field(factory=list[float])

    def fill_log(self, rows: int) -> None:
        """List so many requests of others, of the last hours."""
        self.rows += [
            Row(-30.0 * (rows - it), 0, f"other-{it}", "succeeded", f"other-gen-{it}")
            for it in range(rows)
        ]

    def receive(self, request: HttpRequest, line: Line) -> None:
        """Take a request."""
        options, handle = self._handler_of(request)
        fault = self.weather.fault(options)
        if handle in (self._create, self._poll) and self._is_too_fast():
            fault = "429"
        asked = request.query.get("generation_id", [""])[0]
        self.trace.append(
            (detangle.now(), f"{request.method} {request.path} {asked}", fault or "")
        )
        handle(request, line, fault)

    def _handler_of(self, request: HttpRequest) -> tuple[Sequence[str], Handler]:
        if request.method == "POST":
            return CREATE_FAULTS, self._create
        if request.path == "/v2/logs":
            return LOG_FAULTS, self._log
        if request.path == "/v1/models":
            return PRICE_FAULTS, self._prices
        return GET_FAULTS, self._poll

    def _is_too_fast(self) -> bool:
        now = detangle.now()
        self._recent = [it for it in self._recent if it > now - 1]
        self._recent.append(now)
        return len(self._recent) > self.most_a_second and not self.weather.is_fair

    def _headers(self, **more: str) -> Mapping[str, str]:
        now = dt.datetime.fromtimestamp(time.time() + self.skew, dt.UTC)
        date = email.utils.format_datetime(now, usegmt=True)
        return {"content-type": "application/json", "date": date, **more}

    def _fail(self, line: Line, fault: str) -> bool:
        """Do what goes wrong alike everywhere; tell whether it is that."""
        message = {"message": f"it is {fault}", "statusCode": fault[:3]}
        if fault in ("reset", "reset unread"):
            line.reset()
        elif fault == "silence":
            line.answer(504, b"", after=SILENCE)
        elif fault in ("502", "502 before"):
            line.answer(502, b"<title>Bad gateway</title>", self._headers())
        elif fault.startswith("gateway"):
            page = b"<html><title>Who are you?</title></html>"
            line.answer(int(fault[-3:]), page, {"content-type": "text/html"})
        elif fault in ("425", "400"):
            line.answer(int(fault), message, self._headers())
        elif fault == "429":
            self._refuse(line)
        elif fault == "garbage":
            line.answer(200, b"<html>", self._headers())
        else:
            return False
        return True

    def _refuse(self, line: Line) -> None:
        self.refusals += 1
        wait = detangle.choice(["", "2", "20", "date"])
        more = {"retry-after": wait} if wait else {}
        if wait == "date":
            until = dt.datetime.fromtimestamp(time.time() + self.skew + 5, dt.UTC)
            more = {"retry-after": email.utils.format_datetime(until, usegmt=True)}
        body = {"message": "too many requests", "statusCode": 429}
        line.answer(429, body, {**self._headers(), **more})

    def _create(self, request: HttpRequest, line: Line, fault: str | None) -> None:
        call = int(re.search(rb"call (\d+)", request.body)[1])  # type: ignore[index]
        post = self.last_post[call] = Post(detangle.now())
        request_id = request.headers["x-client-request-id"]
        running = sum(not it.has_ended for it in self.accepted)
        is_full = running >= self.most_running and not self.weather.is_fair
        if is_full and fault != "reset unread":
            fault = "429"
        self.refused[call] += fault == "429"
        if fault in ("400", "failed and reset"):
            self._list(request_id, "failed", None)
        if fault == "failed and reset":
            line.reset()
            return
        unread = ("reset unread", "502 before", "429", "425", "400", "gateway 403")
        if fault in unread:
            post.is_answered = fault not in ("reset unread", "502 before")
            self._fail(line, fault)
            return
        made = self._accept(call, request_id, json.loads(request.body))
        told: dict[str, object] = {"id": made.id, "status": "queued"}
        headers = self._headers(**{"x-inference-id": made.id})
        if fault == "502 after":
            line.answer(502, b"<title>Bad gateway</title>", self._headers())
        elif fault == "no id":
            line.answer(200, {"status": "queued"}, self._headers())
        elif fault == "header only":
            line.answer(502, b"<title>Bad gateway</title>", headers)
        elif fault == "cut":
            line.answer(200, told, self._headers(), cut=0.4)
        elif fault is None or not self._fail(line, fault):
            after = detangle.uniform(3, 40) if fault == "late" else 0.05
            line.answer(200, told, headers, after=after)

    def _accept(
        self, call: int, request_id: str, body: Mapping[str, object]
    ) -> Accepted:
        now = detangle.now()
        made = Accepted(
            number=len(self.accepted),
            call=call,
            client_request_id=request_id,
            created=now,
            ends_at=now + detangle.choice([4.0, 15.0, 40.0]),
            succeeds=not detangle.flip(0.1),
            usd=round(USD_PER_SECOND * seconds_of(body), 6),
        )
        self.accepted.append(made)
        self._list(request_id, "succeeded", made.id)
        return made

    def _list(self, request_id: str, status: str, made: str | None) -> None:
        now = detangle.now()
        late = self.weather.has("late row")
        shown_at = now + (detangle.uniform(0, LATEST_ROW) if late else 0.2)
        self.rows.append(Row(now, shown_at, request_id, status, made))

    def _poll(self, request: HttpRequest, line: Line, fault: str | None) -> None:
        asked = request.query["generation_id"][0]
        made = next((it for it in self.accepted if it.id == asked), None)
        now = detangle.now()
        if made is None or (fault == "404 young" and now < made.created + YOUNG):
            line.answer(404, {"message": "no such generation"}, self._headers())
            return
        self.polls.append((now, asked))
        headers = self._headers(**{"x-inference-id": asked})
        if fault == "cut":
            line.answer(200, self._told(made), headers, cut=0.4)
        elif fault is None or not self._fail(line, fault):
            after = detangle.uniform(3, 40) if fault == "late" else 0.02
            line.answer(200, self._told(made), headers, after=after)

    def _told(self, made: Accepted) -> Mapping[str, object]:
        told: dict[str, object] = {"id": made.id}
        if not made.has_ended:
            half = (made.created + made.ends_at) / 2
            return told | {
                "status": "queued" if detangle.now() < half else "generating"
            }
        if not made.succeeds:
            return told | {"status": "error", "error": {"message": "it broke"}}
        usage = {"credits_used": made.usd * CREDITS_PER_USD, "usd_spent": made.usd}
        video = {"url": f"http://{STORE}/{made.id}.mp4"}
        return told | {"status": "completed", "video": video, "meta": {"usage": usage}}

    def _log(self, request: HttpRequest, line: Line, fault: str | None) -> None:
        if fault is not None and fault != "cut":
            self._fail(line, fault)
            return
        offset, limit = (int(request.query[it][0]) for it in ("offset", "limit"))
        now = detangle.now()
        hours = int(request.query["period"][0].removesuffix("h"))
        shown = [
            it
            for it in reversed(self.rows)
            if it.shown_at <= now and it.created >= now - 3600 * hours
        ]
        rows = [self._row(it) for it in shown[offset : offset + limit]]
        more = {"has_more": len(shown) > offset + limit, "total": len(shown)}
        body = {"data": rows, "pagination": {"limit": limit, "offset": offset, **more}}
        cut = 0.4 if fault == "cut" else None
        line.answer(200, body, self._headers(), after=0.05, cut=cut)

    def _row(self, row: Row) -> Mapping[str, object]:
        moment = time.time() - detangle.now() + row.created + self.skew
        created = dt.datetime.fromtimestamp(moment, dt.UTC)
        return {
            "created": created.isoformat(timespec="milliseconds"),
            "status": row.status,
            "model": MODEL,
            "inference_id": row.inference_id,
            "client_request_id": row.client_request_id,
        }

    def _prices(self, _: HttpRequest, line: Line, fault: str | None) -> None:
        if fault is not None:
            self.has_priced_badly = True
            self._fail(line, fault)
            return
        units = [{"unit": "second", "price": USD_PER_SECOND, "per": 1}]
        entry = {"id": MODEL, "pricing": {"kind": "fixed", "units": units}}
        line.answer(200, {"data": [entry]}, self._headers())


def seconds_of(body: Mapping[str, object]) -> float:
    """Give the length of the video that a create asks for."""
    shots = body.get("multi_prompt")
    if isinstance(shots, list):
        return float(sum(shot["duration"] for shot in shots))
    length = body.get("duration", 5)
    return float(length) if isinstance(length, int) and length <= 15 else 15.0


@define(eq=False)
class Store:
    """Where the videos lie.

    Attributes:
        weather: What goes wrong.
        lines: The connections.
        most_at_once: How many requests were under way at the busiest moment.
        cuts: How many answers it broke off.
        fruitless: How many requests in a row brought nothing new, by path.
        most_fruitless: The most of them, by path.
    """

    weather: Weather
    lines: list[Line] = field(factory=list[Line])
    most_at_once: int = 0
    cuts: int = 0
    fruitless: dict[str, int] = field(factory=dict[str, int])
    most_fruitless: dict[str, int] = field(factory=dict[str, int])

    def receive(self, request: HttpRequest, line: Line) -> None:
        """Take a request."""
        busy = [it for it in self.lines if it.is_busy and not it.is_left]
        self.lines = [*(it for it in busy if it is not line), line]
        self.most_at_once = max(self.most_at_once, len(self.lines))
        fault = self.weather.fault(STORE_FAULTS)
        begin = 0
        if found := re.fullmatch(r"bytes=(\d+)-", request.headers.get("range", "")):
            begin = int(found[1])
        self._count(request.path, is_fruitless=fault not in (None, "cut"))
        headers = {"etag": '"v1"', "content-type": "video/mp4"}
        if fault == "reset":
            line.reset()
        elif fault == "silence":
            line.answer(504, b"", after=SILENCE)
        elif fault in ("503", "404 young"):
            line.answer(int(fault[:3]), b"", {})
        else:
            if begin:
                of = f"bytes {begin}-{len(VIDEO) - 1}/{len(VIDEO)}"
                headers["content-range"] = of
            status, content = (206, VIDEO[begin:]) if begin else (200, VIDEO)
            cut = 0.2 if fault == "cut" and len(content) > 10 else None
            self.cuts += cut is not None
            line.answer(status, content, headers, after=0.5, cut=cut)

    def _count(self, path: str, *, is_fruitless: bool) -> None:
        count = self.fruitless.get(path, 0) + 1 if is_fruitless else 0
        self.fruitless[path] = count
        self.most_fruitless[path] = max(count, self.most_fruitless.get(path, 0))


@define(eq=False)
class World:
    """All that is not the client."""

    weather: Weather
    vendor: Vendor
    store: Store
    _servers: list[asyncio.AbstractServer] = field(factory=list[asyncio.AbstractServer])

    @classmethod
    def draw(cls, lasts: float) -> World:
        """Draw one."""
        weather = Weather.draw(lasts)
        vendor = Vendor(weather)
        vendor.skew = detangle.choice([0.0, 0.0, -900.0, 7200.0])
        limit = detangle.choice(["none", "none", "running", "rate"])
        if limit == "running":
            vendor.most_running = detangle.choice([1, 3])
        elif limit == "rate":
            vendor.most_a_second = 4
        vendor.fill_log(detangle.choice([0, 0, 0, 0, 130, 450]))
        return cls(weather, vendor, Store(weather))

    async def open(self) -> None:
        """Listen."""
        loop = asyncio.get_running_loop()
        for host, receive in ((API, self.vendor.receive), (STORE, self.store.receive)):
            line = self._line_to(receive)
            self._servers.append(await loop.create_server(line, host, 80))

    def _line_to(
        self, receive: Callable[[HttpRequest, Line], None]
    ) -> Callable[[], Line]:
        def idle_limit() -> float:
            return 1.0 if self.weather.has("impatient") else 5.0

        return lambda: Line(receive, idle_limit)

    def close(self) -> None:
        """Listen no more: who comes is refused."""
        for server in self._servers:
            server.close()
        self._servers.clear()

    async def be_away(self, seconds: float) -> None:
        """Refuse connections for a while."""
        self.close()
        await asyncio.sleep(seconds)
        await self.open()

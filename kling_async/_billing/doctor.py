"""Checks of everything that this SDK relies on, without spending anything.

Each check says what was seen and, if something is wrong, what to do.
"""

from __future__ import annotations

import datetime as dt
import ssl
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Literal
from urllib.parse import urlsplit

import anyio
import httpx
from attrs import field, frozen

from kling_async._billing.account import BillingClient
from kling_async._billing.money import LogRow
from kling_async._billing.rows import decode_log
from kling_async._errors import (
    APIStatusError,
    AuthenticationError,
    KlingError,
    causes_of,
)
from kling_async._http.library import errors_named
from kling_async._http.pool import Proxies
from kling_async._http.wire import Response, as_text, dig, parse_object
from kling_async._requests.catalogue import MODELS
from kling_async._text import pluralize

State = Literal["ok", "warning", "failed", "skipped"]

_CLOCK_ERROR = 30.0

_NEWEST = ("klingai/video-v3-pro-image-to-video", "klingai/video-v3-pro-text-to-video")

_TRACE = "kling-doctor"

# What the server refuses to tell without the right key.
_WITH_KEY = frozenset({"balance", "request log", "tracing headers", "downloads"})


@frozen(kw_only=True)
class Check:
    """One check.

    Attributes:
        name: Its name, such as ``clock``.
        state: ``ok``, ``warning``, ``failed``, or ``skipped`` if it could not be
            made.
        seen: What was seen.
        advice: What to do, if something is wrong.
    """

    name: str
    state: State
    seen: str
    advice: str | None = None


@frozen(kw_only=True)
class Diagnosis:
    """What `AsyncKling.diagnose` found.

    Attributes:
        checks: The checks, in order.
    """

    checks: tuple[Check, ...]

    @property
    def is_healthy(self) -> bool:
        """Whether nothing has failed; there may be warnings."""
        return all(check.state != "failed" for check in self.checks)

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)


class _WrongError(Exception):
    """A check found something wrong."""

    def __init__(self, seen: str, advice: str, state: State = "failed") -> None:
        super().__init__(seen)
        self.seen = seen
        self.advice = advice
        self.state: State = state


@frozen(eq=False, repr=False)
class Doctor:
    """Looks at one account, over one client's connections.

    Attributes:
        account: Which.
    """

    account: BillingClient
    _answers: dict[str, Response] = field(factory=dict[str, Response], init=False)

    async def diagnose(self) -> Diagnosis:
        """Make all checks; a failed one does not stop the others."""
        looks: tuple[tuple[str, Callable[[], Awaitable[str]], str], ...] = (
            ("proxy", self._proxy, "Correct HTTPS_PROXY, ALL_PROXY or NO_PROXY"),
            ("name resolution", self._name, "Check the network, its DNS, the base URL"),
            ("connection and TLS", self._reach, "Check the network and firewall"),
            ("clock", self._clock, "Set this machine's clock"),
            ("key", self._key, "Check the API key; keys are made at the vendor's site"),
            ("balance", self._balance, "Top up the account"),
            ("request log", self._log, "Without it no lost create can be found"),
            ("tracing headers", self._tracing, "A proxy may drop them"),
            ("price list", self._prices, "Without it budgets allow one at a time"),
            ("metrics", self._metrics, "Nothing else depends on them"),
            ("downloads", self._downloads, "Allow the hosts of videos"),
        )
        checks: list[Check] = []
        for name, look, advice in looks:
            refused = [it for it in checks if it.name == "key" and it.state == "failed"]
            if refused and name in _WITH_KEY:
                words = "skipped because the key failed"
                checks.append(Check(name=name, state="skipped", seen=words))
            else:
                checks.append(await _look(name, look, advice))
        return Diagnosis(checks=tuple(checks))

    async def _proxy(self) -> str:
        url = self._base_url
        proxy = await Proxies().find(httpx.URL(url))
        if self._is_lent:
            return "the program's own HTTP client decides"
        if proxy is None:
            return "none is set for this host"
        parts = urlsplit(proxy)
        return f"through {parts.scheme}://{parts.hostname}:{parts.port or ''}"

    async def _name(self) -> str:
        parts = urlsplit(self._base_url)
        proxy = await Proxies().find(httpx.URL(self._base_url))
        if self._is_lent or proxy is not None:
            raise _WrongError("the proxy resolves it", "", "skipped")
        try:
            found = await anyio.getaddrinfo(parts.hostname, parts.port or 443)
        except OSError as error:
            raise _WrongError(
                f"{parts.hostname}: {error.strerror or error}",
                "Check the network, its DNS, and the base URL",
            ) from error
        return f"{parts.hostname} is {found[0][4][0]}"

    async def _reach(self) -> str:
        answer = await self._ask(f"/v1/models?id={_NEWEST[0]}&include=pricing")
        kind = "TLS" if self._base_url.startswith("https:") else "without TLS"
        return f"answered {answer.status_code}, {kind}"

    async def _clock(self) -> str:
        answer = await self._ask(f"/v1/models?id={_NEWEST[0]}&include=pricing")
        if answer.date is None:
            advice = "Lost creates are then found by this machine's clock"
            raise _WrongError("the server's answers have no Date", advice, "warning")
        off = (dt.datetime.now(dt.UTC) - answer.date).total_seconds()
        seen = f"{abs(off):.0f} s {'ahead of' if off > 0 else 'behind'} the server's"
        if abs(off) > _CLOCK_ERROR:
            advice = "Set this machine's clock: its times are wrong"
            raise _WrongError(seen, advice, "warning")
        return seen

    async def _key(self) -> str:
        try:
            await self.account.balance()
        except AuthenticationError as error:
            if not error.from_vendor:
                raise
            advice = "Check the API key: the server does not accept it"
            raise _WrongError(error.reason, advice) from error
        except KlingError as error:
            seen = f"the server does not say: {error.reason}"
            raise _WrongError(seen, "", "skipped") from error
        return "the server accepts it"

    async def _balance(self) -> str:
        held = await self.account.balance()
        seen = f"{held.usd:,.2f} {held.currency}"
        if held.usd <= 0:
            raise _WrongError(seen, "Top up the account: creates are refused")
        return seen

    async def _log(self) -> str:
        rows = await self._rows()
        return f"readable; {pluralize(len(rows), 'request')} of the last day in it"

    async def _tracing(self) -> str:
        answer = await self._ask("/v2/billing", {"x-client-request-id": _TRACE})
        if answer.headers.get("x-client-request-id") != _TRACE:
            advice = (
                "Without them a lost create may not be found: ask who runs the proxy"
            )
            raise _WrongError("the id sent did not come back", advice, "warning")
        return "the id sent came back"

    async def _prices(self) -> str:
        kinds: list[str] = []
        for model in _NEWEST:
            price = await self.account.price({"model": model, "duration": 5})
            kinds.append(f"{model}: {price.kind}")
            if price.kind == "unknown":
                advice = "Without a price a budget allows one request at a time"
                raise _WrongError(f"none for {model}", advice, "warning")
        return "; ".join(kinds)

    async def _metrics(self) -> str:
        rows = parse_object(await self._ask("/models/metrics")).get("models")
        if not isinstance(rows, list):
            raise _WrongError("no list of models", "Nothing depends on it", "warning")
        told = {as_text(dig(row, "alias")) for row in rows} & MODELS.keys()
        return f"readable; {pluralize(len(told), 'model')} of Kling in them"

    async def _downloads(self) -> str:
        for row in await self._rows():
            if row.failed or not row.inference_id or row.model not in MODELS:
                continue
            generation = await self.account.transport.fetch(row.inference_id)
            if generation.video is not None:
                return await self._first_byte(generation.video.url)
        raise _WrongError("no finished video of the last day", "", "skipped")

    async def _first_byte(self, url: str) -> str:
        session = self.account.transport.session
        host = urlsplit(url).hostname
        try:
            async with session.files.stream(
                "GET", url, headers={"range": "bytes=0-0"}
            ) as answer:
                if answer.is_success:
                    return f"{host} answers"
                seen = f"{host} answered {answer.status_code}"
        except errors_named("HTTPError") as error:
            seen = f"{host}: {type(error).__name__}: {error}"
        raise _WrongError(seen, "Allow the hosts of videos, or set a proxy")

    @property
    def _base_url(self) -> str:
        return self.account.transport.settings.base_url

    @property
    def _is_lent(self) -> bool:
        return self.account.transport.connections.http_client is not None

    async def _rows(self) -> Sequence[LogRow]:
        return decode_log(await self._ask("/v2/logs?period=24h&limit=100")).rows

    async def _ask(
        self, path: str, headers: Mapping[str, str] | None = None
    ) -> Response:
        if path not in self._answers:
            self._answers[path] = await self.account.fetch(path, headers)
        return self._answers[path]


async def _look(name: str, look: Callable[[], Awaitable[str]], advice: str) -> Check:
    try:
        return Check(name=name, state="ok", seen=await look())
    except _WrongError as wrong:
        return Check(
            name=name, state=wrong.state, seen=wrong.seen, advice=wrong.advice or None
        )
    except KlingError as error:
        if any(isinstance(it, ssl.SSLError) for it in causes_of(error)):
            advice = "Let TLS trust the server: set SSL_CERT_FILE to your proxy's CA"
        elif isinstance(error, APIStatusError) and not error.from_vendor:
            advice = "A proxy or gateway answers instead of the vendor: ask who runs it"
        return Check(name=name, state="failed", seen=error.reason, advice=advice)

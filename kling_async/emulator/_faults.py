"""Faults: rules from JSON, when one strikes, and how it changes an answer.

Pure functions: `_traffic` applies them.
"""

from __future__ import annotations

import json
import math
import random
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping
from fnmatch import fnmatchcase
from functools import lru_cache
from http import HTTPStatus
from itertools import count
from pathlib import Path
from typing import Literal, TypeAlias, cast, get_args

from attrs import asdict, define, evolve, field, fields_dict, frozen
from starlette.datastructures import MutableHeaders

from kling_async._checks import LEAST, is_number, is_whole, require, require_share
from kling_async._errors import ConfigurationError
from kling_async._text import did_you_mean
from kling_async.emulator._protocol import PATHS_BY_NAME

_LAST_PORT = 65535

_SIZES = (64, 4096)

_MANY = 10**9


def are_keys(given: object) -> bool:
    """Whether something is a collection of keys, or None."""
    if given is None:
        return True
    if isinstance(given, str) or not isinstance(given, Collection):
        return False
    return all(isinstance(key, str) and key.strip() for key in given)


@frozen(kw_only=True)
class EmulatorSettings:
    """The checked arguments of an `Emulator`, which documents them.

    Raises:
        ConfigurationError: One of them makes no sense.
    """

    speed: float
    seed: int
    host: str
    port: int
    api_keys: Collection[str] | None = field(repr=False)
    credits: float
    failure_rate: float
    rate_limit: int | None
    max_running: int | None
    expire_after: float | None
    log_delay: float
    request_log: bool
    size: int
    state: Path | None
    strict: bool
    nulls: bool
    names: Collection[str]

    def __attrs_post_init__(self) -> None:
        is_speed = is_number(self.speed, LEAST)
        require("speed", self.speed, "finite, above 0", fits=is_speed)
        is_sum = is_number(self.credits)
        require("credits", self.credits, "finite, at least 0", fits=is_sum)
        require_share("failure_rate", self.failure_rate)
        is_port = is_whole(self.port, 0, _LAST_PORT)
        require("port", self.port, "0 to 65535", fits=is_port)
        is_size = is_whole(self.size, *_SIZES)
        require("size", self.size, "64 to 4096 (pixels)", fits=is_size)
        is_delay = is_number(self.log_delay, 0, math.inf)
        require("log_delay", self.log_delay, "at least 0 (seconds)", fits=is_delay)
        is_time = self.expire_after is None or is_number(self.expire_after)
        words = "at least 0 (seconds), or None"
        require("expire_after", self.expire_after, words, fits=is_time)
        for name in ("rate_limit", "max_running"):
            given = getattr(self, name)
            is_count = given is None or is_whole(given, 1, _MANY)
            require(name, given, "a whole number from 1, or None", fits=is_count)
        words = "texts in a collection, or None"
        require("api_keys", "***", words, fits=are_keys(self.api_keys))
        is_named = are_keys(cast("object", self.names) or ())
        require("names", self.names, "texts in a collection", fits=is_named)


Effect = Literal[
    "status",
    "delay",
    "reset",
    "close",
    "cut",
    "stall",
    "truncate",
    "html",
    "wrong_type",
    "wrong_shape",
    "wrong_id",
    "bad_utf8",
    "bad_gzip",
    "deep",
    "bomb",
    "huge",
    "trickle",
]

EFFECTS: tuple[Effect, ...] = get_args(Effect)

# These change a true answer, so the work is done first.
SPOILERS = frozenset(EFFECTS) - {"status", "delay", "reset", "close", "html"}

_STATUSES = (200, 599)

_AT_THE_DOOR = (401, 429)

_LARGE = 10**12


@frozen
class Fault:
    """A rule by which requests fail.

    It strikes a request that fits `method`, `path` and `model`, comes between
    `starts_after` and `ends_after`, and is picked by `nth`, `every` and
    `probability`.

    Args:
        effect: What happens. ``"status"``: an answer with that status instead of
            the true one. ``"delay"``: the true answer comes late. ``"reset"``: the
            connection is reset (in process `httpx.ReadError`). ``"close"``: it is
            closed without an answer (`httpx.RemoteProtocolError`). ``"cut"``: it
            is closed in the middle of the body. ``"stall"``: the body stops in its
            middle and continues later. ``"truncate"``: half of the body is missing,
            and ``Content-Length`` fits the half. ``"html"``: a gateway's page.
            ``"wrong_type"``: the true body with the type text. ``"wrong_shape"``: the
            true body inside another, or `body` instead. ``"wrong_id"``: the
            true body with the id of another generation. ``"bad_utf8"``: the body
            has a byte that is not UTF-8. ``"bad_gzip"``: the header says gzip, the
            body is not. ``"deep"``: the body has 100,000 nested lists. ``"bomb"``:
            gzip that unpacks to `size` spaces and the body. ``"huge"``: `size` spaces
            before the body, or after it if it is not JSON, without
            ``Content-Length``. ``"trickle"``: a byte every `seconds`. A redirect is
            the ``"status"`` 302 with the header ``Location``.
        method: The HTTP method, such as ``"POST"``; None for any.
        path: generations, files, logs, billing, usage, keys, models, metrics, or a
            path with ``*`` for anything; None for every path.
        model: The model that a create names; None for any.
        nth: Only the n-th fitting request, counted from 1.
        every: Only every n-th fitting request.
        probability: The share of them that it strikes, 0 to 1; random by the
            emulator's seed.
        times: How often it strikes at most.
        starts_after: When it begins, in seconds after it was added.
        ends_after: When it ends, in seconds after it was added; None for never.
        accepted: Whether the work is done before the fault strikes:
            a create is accepted, and billed when it completes.
        status: The HTTP status, 200 to 599: 503 for ``"status"`` and 502 for
            ``"html"`` if left out.
        headers: Headers of the answer, in place of its own.
        body: The body of ``"status"``, ``"html"`` or ``"wrong_shape"``: a text, or
            a value to send as JSON; the usual one if left out.
        seconds: How many seconds ``"delay"``, ``"stall"`` and each byte of
            ``"trickle"`` last; the others wait so long before they strike.
        size: How many spaces ``"bomb"`` and ``"huge"`` add; by default a billion.
            Over a socket they take no memory; in process httpx holds them all.
        name: Its name in `RequestRecord.fault`; the effect if left out.

    Raises:
        ConfigurationError: One of them makes no sense.
    """

    effect: Effect
    method: str | None = field(default=None, kw_only=True)
    path: str | None = field(default=None, kw_only=True)
    model: str | None = field(default=None, kw_only=True)
    nth: int | None = field(default=None, kw_only=True)
    every: int | None = field(default=None, kw_only=True)
    probability: float = field(default=1.0, kw_only=True)
    times: int | None = field(default=None, kw_only=True)
    starts_after: float = field(default=0.0, kw_only=True)
    ends_after: float | None = field(default=None, kw_only=True)
    accepted: bool = field(default=False, kw_only=True)
    status: int | None = field(default=None, kw_only=True)
    headers: Mapping[str, str] = field(factory=dict[str, str], kw_only=True)
    body: object = field(default=None, kw_only=True)
    seconds: float = field(default=0.0, kw_only=True)
    size: int = field(default=10**9, kw_only=True)
    name: str | None = field(default=None, kw_only=True)

    def __attrs_post_init__(self) -> None:
        for name in ("method", "path", "model", "name"):
            given = getattr(self, name)
            fits = given is None or (isinstance(given, str) and bool(given))
            require(name, given, "a text, or None", fits=fits)
        for name in ("nth", "every", "times"):
            given = getattr(self, name)
            fits = given is None or is_whole(given, 1, _MANY)
            require(name, given, "a whole number from 1, or None", fits=fits)
        for name in ("starts_after", "seconds"):
            given = getattr(self, name)
            require(name, given, "at least 0 (seconds)", fits=is_number(given))
        self._check_the_rest()

    def _check_the_rest(self) -> None:
        words = ", ".join(EFFECTS)
        require("effect", self.effect, f"one of {words}", fits=self.effect in EFFECTS)
        place = self.path
        is_place = place is None or place in PATHS_BY_NAME or place.startswith("/")
        words = f"one of {', '.join(PATHS_BY_NAME)}, or begin with a slash"
        require("path", place, words, fits=is_place)
        require_share("probability", self.probability)
        end = self.ends_after
        fits = end is None or is_number(end, self.starts_after)
        require("ends_after", end, "at least starts_after, or None", fits=fits)
        fits = is_whole(self.size, 1, _LARGE)
        require("size", self.size, "a whole number of bytes from 1", fits=fits)
        fits = self.status is None or is_whole(self.status, *_STATUSES)
        require("status", self.status, "from 200 to 599, or None", fits=fits)
        fits = isinstance(cast("object", self.accepted), bool)
        require("accepted", self.accepted, "true or false", fits=fits)
        fits = _are_headers(self.headers)
        require("headers", self.headers, "texts by name, in one line", fits=fits)

    @classmethod
    def from_json(cls, data: object) -> Fault:
        """Read a rule from decoded JSON, with the names of this class.

        Raises:
            ConfigurationError: It is not a valid rule.
        """
        known = fields_dict(cls)
        if not isinstance(data, Mapping) or "effect" not in data:
            raise ConfigurationError(
                f"a fault: given {data!r}; allowed: an object with an effect, "
                f"one of {', '.join(EFFECTS)}"
            )
        for name in data.keys() - known.keys():
            meant = did_you_mean(name, known) or f"It has {', '.join(known)}."
            raise ConfigurationError(f"a fault has no {name!r}. {meant}")
        return cls(**cast("dict[str, object]", data))  # type: ignore[arg-type]

    def to_json(self) -> dict[str, object]:
        """Return the rule as JSON, without what was left out."""
        return {
            name: value
            for name, value in asdict(self).items()
            if value != fields_dict(Fault)[name].default and value != {}
        }

    @property
    def refuses(self) -> bool:
        """Whether the server itself fails the request, so that its log says failed.

        A create that did not arrive, or was refused with 401 or 429, is not logged.
        """
        is_answer = self.effect in {"status", "html"}
        return is_answer and not self.accepted and self.status not in _AT_THE_DOOR

    def fits(self, method: str, path: str, model: str | None) -> bool:
        """Whether the rule applies to a request."""
        places = PATHS_BY_NAME.get(self.path, (self.path,)) if self.path else ("*",)
        return (
            self.method in {None, method}
            and self.model in {None, model}
            and any(fnmatchcase(path, place) for place in places)
        )

    def picks(self, number: int, chance: random.Random) -> bool:
        """Whether it strikes the fitting request of a number, counted from 1."""
        drawn = chance.random()  # always, so that rules stay independent
        return (
            self.nth in {None, number}
            and (self.every is None or number % self.every == 0)
            and drawn < self.probability
        )


def faults_in(text: str) -> list[Fault]:
    """Read rules from JSON: a list of them, or one.

    Raises:
        ConfigurationError: It is not JSON, or a rule is wrong.
    """
    try:
        data: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigurationError(f"the faults are not JSON: {error}") from error
    return [Fault.from_json(it) for it in (data if isinstance(data, list) else [data])]


def _are_headers(given: object) -> bool:
    if not isinstance(given, Mapping):
        return False
    texts = [*given.keys(), *given.values()]
    return all(isinstance(it, str) and it.isprintable() for it in texts)


@define(eq=False)
class ActiveFault:
    """An active fault, with its counts.

    Attributes:
        fault: The rule.
        id: Its number in the list.
        seen: How many fitting requests came while it was active.
        struck: How many of them it struck.
    """

    fault: Fault
    id: int
    _chance: random.Random = field(repr=False)
    _since: float = field(repr=False)
    seen: int = field(default=0, init=False)
    struck: int = field(default=0, init=False)

    def wants(self, method: str, path: str, model: str | None, now: float) -> bool:
        """Count a request, and return whether the rule strikes it."""
        fault = self.fault
        end = math.inf if fault.ends_after is None else fault.ends_after
        holds = fault.starts_after <= now - self._since < end
        if not holds or not fault.fits(method, path, model):
            return False
        self.seen += 1
        is_picked = fault.picks(self.seen, self._chance)
        return is_picked and (fault.times is None or self.struck < fault.times)


@define(eq=False)
class Faults:
    """The faults of one emulator, in the order in which they were added.

    The first one that fits strikes the request; the others only count it.
    """

    _seed: int
    _now: Callable[[], float]
    _rules: dict[int, ActiveFault] = field(factory=dict[int, ActiveFault], init=False)
    _ids: Iterator[int] = field(factory=lambda: count(1), init=False)

    def add(self, fault: Fault) -> ActiveFault:
        """Add a fault; it is active from now on."""
        number = next(self._ids)
        chance = random.Random(f"{self._seed}/faults/{number}")  # noqa: S311 (no secret)
        rule = self._rules[number] = ActiveFault(fault, number, chance, self._now())
        return rule

    def remove(self, fault: ActiveFault | int) -> None:
        """Remove a fault, given itself or by its id.

        Raises:
            KeyError: There is no such fault.
        """
        del self._rules[fault if isinstance(fault, int) else fault.id]

    def clear(self) -> None:
        """Remove all faults."""
        self._rules.clear()

    def strike(self, method: str, path: str, model: str | None) -> Fault | None:
        """Return the fault that strikes a request, if one does."""
        now = self._now()
        wanting = [
            rule
            for rule in self._rules.values()
            if rule.wants(method, path, model, now)
        ]
        if not wanting:
            return None
        wanting[0].struck += 1
        return wanting[0].fault

    def __iter__(self) -> Iterator[ActiveFault]:
        return iter(list(self._rules.values()))

    def __len__(self) -> int:
        return len(self._rules)


_GATEWAY_PAGE = """<html>
<head><title>{status} {phrase}</title></head>
<body><center><h1>{status} {phrase}</h1></center><hr><center>nginx</center></body>
</html>
"""

_ANOTHER_ID = "00000000-0000-4000-8000-000000000000"

_DEPTH = 100_000

_BLOCK = b" " * 2**20

_GZIP_HEAD = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"  # RFC 1952, section 2.3


# Makes the body of an error in the vendor's form, of a status and a message.
ErrorBody: TypeAlias = Callable[[int, str], Mapping[str, object]]


@frozen
class RawAnswer:
    """A complete answer."""

    status: int
    headers: list[tuple[bytes, bytes]] = field(factory=list[tuple[bytes, bytes]])
    body: bytes = b""

    def with_headers(self, named: Mapping[str, str]) -> RawAnswer:
        """Return it with these headers, in place of others with the same name."""
        headers = MutableHeaders(raw=list(self.headers))
        for name, value in named.items():
            headers[name] = value
        return evolve(self, headers=headers.raw)

    def with_body(self, body: bytes, content_type: str) -> RawAnswer:
        """Return it with another body and its type and length."""
        named = {"content-type": content_type, "content-length": str(len(body))}
        return evolve(self, body=body).with_headers(named)

    @property
    def content_type(self) -> str:
        """Its media type, as its header says."""
        return MutableHeaders(raw=list(self.headers)).get("content-type", "")

    @property
    def is_json(self) -> bool:
        """Whether its body is JSON."""
        return self.content_type.startswith("application/json")

    def without_length(self) -> RawAnswer:
        """Return it without ``Content-Length``."""
        headers = [it for it in self.headers if it[0] != b"content-length"]
        return evolve(self, headers=headers)


def apply_to_answer(
    fault: Fault, true: RawAnswer | None, error_body: ErrorBody
) -> RawAnswer:
    """Return the true answer as a fault changes it, or one in its place."""
    if true is None or fault.effect in {"status", "html"}:
        return _make_answer(fault, error_body)
    answer = evolve(true, status=fault.status or true.status)
    spoil = _SPOILS.get(fault.effect)
    return spoil(fault, answer) if spoil else answer


def _cut_body(_: Fault, answer: RawAnswer) -> RawAnswer:
    return answer.with_body(answer.body[: len(answer.body) // 2], answer.content_type)


def _of_wrong_type(_: Fault, answer: RawAnswer) -> RawAnswer:
    return answer.with_body(answer.body, "text/plain; charset=utf-8")


def _of_wrong_shape(fault: Fault, answer: RawAnswer) -> RawAnswer:
    if fault.body is not None:
        return answer.with_body(*_encode(fault.body))
    inside = b'{"data": [' + answer.body + b"]}"
    return answer.with_body(inside, "application/json")


def _of_bad_utf8(_: Fault, answer: RawAnswer) -> RawAnswer:
    """Put a byte that UTF-8 never has into the first text."""
    body = answer.body.replace(b'"', b'"\xff', 1)
    return answer.with_body(body, answer.content_type)


def _of_bad_gzip(_: Fault, answer: RawAnswer) -> RawAnswer:
    return answer.with_headers({"content-encoding": "gzip"})


def _deep(_: Fault, answer: RawAnswer) -> RawAnswer:
    """Add a field of nested lists, which overflows the stack of a careless reader."""
    depths = b"[" * _DEPTH + b"]" * _DEPTH
    rest = answer.body.lstrip()[1:] or b"}"
    return answer.with_body(b'{"deep": ' + depths + b", " + rest, "application/json")


def _of_wrong_id(_: Fault, answer: RawAnswer) -> RawAnswer:
    """Change the body's id; the tracing header stays true."""
    body: object = json.loads(answer.body) if answer.is_json else None
    if not isinstance(body, dict) or "id" not in body:
        return answer
    return answer.with_body(*_encode({**body, "id": _ANOTHER_ID}))


def _bomb(fault: Fault, answer: RawAnswer) -> RawAnswer:
    """Pack `size` spaces and the body: a thousandth of their size is sent."""
    spaces, check = _pack_spaces(fault.size)
    last = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    end = last.compress(answer.body) + last.flush()
    check = zlib.crc32(answer.body, check)
    length = (fault.size + len(answer.body)) % 2**32
    foot = check.to_bytes(4, "little") + length.to_bytes(4, "little")
    packed = answer.with_body(_GZIP_HEAD + spaces + end + foot, answer.content_type)
    return packed.with_headers({"content-encoding": "gzip"})


@lru_cache(maxsize=4)
def _pack_spaces(count: int) -> tuple[bytes, int]:
    """Pack spaces as blocks that others may follow; also return their checksum."""
    blocks, rest = divmod(count, len(_BLOCK))
    check = 0
    for _ in range(blocks):
        check = zlib.crc32(_BLOCK, check)
    packed = _block(_BLOCK) * blocks + _block(_BLOCK[:rest])
    return packed, zlib.crc32(_BLOCK[:rest], check)


def _block(data: bytes) -> bytes:
    packing = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packing.compress(data) + packing.flush(zlib.Z_FULL_FLUSH)


_SPOILS: Mapping[Effect, Callable[[Fault, RawAnswer], RawAnswer]] = {
    "truncate": _cut_body,
    "wrong_type": _of_wrong_type,
    "wrong_shape": _of_wrong_shape,
    "wrong_id": _of_wrong_id,
    "bad_utf8": _of_bad_utf8,
    "bad_gzip": _of_bad_gzip,
    "deep": _deep,
    "bomb": _bomb,
}


def _make_answer(fault: Fault, error_body: ErrorBody) -> RawAnswer:
    is_page = fault.effect == "html"
    status = fault.status or (502 if is_page else 503)
    phrase = HTTPStatus(status).phrase if status in set(HTTPStatus) else "Unknown"
    if fault.body is not None:
        body, content_type = _encode(fault.body)
    elif is_page:
        page = _GATEWAY_PAGE.format(status=status, phrase=phrase)
        body, content_type = page.encode(), "text/html"
    else:
        body, content_type = _encode(error_body(status, phrase))
    return RawAnswer(status).with_body(body, "text/html" if is_page else content_type)


def _encode(body: object) -> tuple[bytes, str]:
    if isinstance(body, str):
        return body.encode(), "text/plain; charset=utf-8"
    return json.dumps(body).encode(), "application/json"

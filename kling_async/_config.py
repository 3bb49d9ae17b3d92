"""The options of a client, checked once: arguments, environment, the key.

Holds no connection and does no I/O.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any, Literal, NoReturn, TypedDict, cast
from urllib.parse import quote, urlsplit

from attrs import evolve, frozen

from kling_async._checks import is_loopback, require, require_timeout
from kling_async._errors import ConfigurationError
from kling_async._failures import RetryPolicy
from kling_async._hooks import Hooks, Reporter, logger
from kling_async._polling.schedules import Polling
from kling_async._requests.catalogue import Catalogue

PATHS: Mapping[Endpoint, str] = {
    "universal": "/v2/video/generations",
    "legacy": "/v2/generate/video/kling/generation",
}

Endpoint = Literal["universal", "legacy"]

__version__ = "0.2.0"

DEFAULT_BASE_URL = "https://api.aimlapi.com"

KEY_VARIABLES = ("AIMLAPI_KEY", "AIMLAPI_API_KEY", "AIML_API_KEY")

BASE_URL_VARIABLE = "AIMLAPI_BASE_URL"

PLAIN_HTTP_VARIABLE = "AIMLAPI_ALLOW_PLAIN_HTTP"

_QUOTES = frozenset(['""', "''", "``", "\u201c\u201d", "\u2018\u2019"])

# The default database of durable jobs.
JOBS_DATABASE = "sqlite:///kling-jobs.db"

# What the names of batches consist of, and their greatest length.
BATCH_LETTERS, LONGEST_BATCH = "A-Za-z0-9._-", 64

# What to do with a create that may or may not have arrived.
WhenUncertain = Literal["ask", "resubmit", "give_up"]

KEYS_PAGE = "aimlapi.com/app/keys"


class Options(TypedDict, total=False):
    """What `AsyncKling.with_options` can change; the names are the constructor's."""

    api_key: str
    base_url: str
    endpoint: Endpoint
    timeout: float
    wait_timeout: float
    retry: RetryPolicy
    polling: Polling
    hooks: Hooks
    catalogue: Catalogue
    check_media: bool
    allow_private_downloads: bool
    allow_plain_http: bool


_LONG = 12


class Secret:
    """A text that is shown only by `reveal`."""

    __slots__ = ("_forms", "_text")

    def __init__(self, text: str) -> None:
        self._text = text
        # Plain, and URL-encoded.
        self._forms = tuple({text, quote(text, safe="", errors="replace")})

    @property
    def is_long(self) -> bool:
        """Whether it is too long to occur by chance, as a short test key may."""
        return len(self._text) >= _LONG

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def redact(self, text: str) -> str:
        """Replace this text in another one by ``***``."""
        for form in self._forms:
            text = text.replace(form, "***")
        return text

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> NoReturn:
        raise TypeError("an API key is not pickled; make the client where it is used")


@frozen(kw_only=True)
class Settings:
    """All that decides how a client behaves.

    Attributes:
        api_key: The bearer key.
        base_url: Scheme and host, and a path before ``/v2`` if there is one.
        endpoint: Which of the vendor's two paths to use.
        timeout: The longest one HTTP exchange may take, in seconds.
        wait_timeout: The longest a watch lasts by default, in seconds.
        retry: What may be tried again.
        polling: When to poll.
        reporter: Where events go.
        catalogue: Which models there are, and what each takes.
        check_media: Whether local media are checked against documented limits.
        allow_private_downloads: Whether downloads may go to addresses that are not
            public.
        allow_plain_http: Whether the key may travel unencrypted to other machines.
    """

    api_key: Secret
    base_url: str
    endpoint: Endpoint
    timeout: float
    wait_timeout: float
    retry: RetryPolicy
    polling: Polling
    reporter: Reporter
    catalogue: Catalogue
    check_media: bool
    allow_private_downloads: bool
    allow_plain_http: bool

    def __attrs_post_init__(self) -> None:
        allowed = " or ".join(map(repr, PATHS))
        require("endpoint", self.endpoint, allowed, fits=self.endpoint in PATHS)
        require_timeout("timeout", self.timeout)
        require_timeout("wait_timeout", self.wait_timeout)
        if not self.allow_plain_http:
            _require_private_way(self.base_url)

    @property
    def path(self) -> str:
        """The path of the generations endpoint."""
        return PATHS[self.endpoint]


def apply_options(settings: Settings, overrides: Options) -> Settings:
    """Apply options to settings, each through the constructor's own check.

    Raises:
        ConfigurationError: There is no such option, or its value makes no sense.
    """
    changes: dict[str, object] = dict(overrides)
    if unknown := sorted(changes.keys() - Options.__annotations__.keys()):
        raise ConfigurationError(
            f"with_options: given {', '.join(unknown)}; "
            f"allowed: {', '.join(Options.__annotations__)}",
        )
    if "api_key" in overrides:
        changes["api_key"] = find_key(overrides["api_key"])
    if "base_url" in overrides:
        changes["base_url"] = find_base_url(overrides["base_url"])
    if "hooks" in overrides:
        changes["reporter"] = Reporter(overrides["hooks"])
        del changes["hooks"]
    return evolve(settings, **cast("dict[str, Any]", changes))


def find_key(given: str | None) -> Secret:
    """Return the key given, else the first one in the environment."""
    if given is not None:
        return _clean_key(Secret(given), "api_key")
    for name in KEY_VARIABLES:
        if os.environ.get(name, "").strip():
            return _clean_key(Secret(os.environ[name]), name)
    raise ConfigurationError(
        f"no API key: set the environment variable {KEY_VARIABLES[0]} (also read: "
        f"{', '.join(KEY_VARIABLES[1:])}). Keys are made at {KEYS_PAGE}; none is "
        "needed for `kling-async demo` and the emulator",
    ).with_hint("give_a_key")


def find_plain_http(given: bool | None) -> bool:
    """Return the option given, else the environment's: 1, true, yes or on."""
    if given is not None:
        return given
    value = os.environ.get(PLAIN_HTTP_VARIABLE, "").strip().lower()
    return value in {"1", "true", "yes", "on"}


def _require_private_way(base_url: str) -> None:
    parts = urlsplit(base_url)
    if parts.scheme == "http" and not is_loopback(parts.hostname or ""):
        raise ConfigurationError(
            f"base_url: given {base_url!r}, over which anyone could read the key; "
            "allowed: https://, or http:// to this machine. In a network that you "
            f"trust, set the environment variable {PLAIN_HTTP_VARIABLE}=1",
        ).with_hint("allow_plain_http")


def _clean_key(key: Secret, source: str) -> Secret:
    """Remove the blanks and quotes that some files leave around a key."""
    text = key.reveal().strip()
    while len(text) > 1 and (text[0] + text[-1]) in _QUOTES:
        text = text[1:-1].strip()
    if re.fullmatch(r"[\x21-\x7e]+", text) is None or text[0] in "\"'`":
        raise ConfigurationError(
            f"{source}: the API key is empty or contains spaces, line breaks, quotes "
            "or characters that no HTTP header can have; copy it again from "
            f"{KEYS_PAGE}",
        )
    if text != key.reveal():
        logger.warning("%s: removed the blanks or quotes around the API key", source)
    return Secret(text)


def _can_be_base(url: str) -> bool:
    if re.search(r"[\s\x00-\x1f\x7f?#@\\]", url):
        return False
    try:
        parts = urlsplit(url)
        _ = parts.port
        (parts.hostname or "").encode("idna")  # as the socket will, for DNS
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def find_base_url(given: str | None) -> str:
    """Return the base URL given, else the environment's, else the vendor's."""
    from_environment = os.environ.get(BASE_URL_VARIABLE, "").strip()
    base_url = (given or from_environment or DEFAULT_BASE_URL).strip()
    if not _can_be_base(base_url):
        raise ConfigurationError(
            f"base_url: given {without_secrets(base_url)!r}; allowed: http:// or "
            "https:// and a host, without user, query or fragment, "
            f"such as {DEFAULT_BASE_URL}",
        )
    # The vendor's own examples end it in /v2, or in OpenAI's /v1.
    return re.sub(r"/v[12]$", "", base_url.rstrip("/")).rstrip("/")


def without_secrets(given: str) -> str:
    """Return the part of a refused URL that certainly holds no secret."""
    found = re.match(r"[A-Za-z0-9+]+://", given)
    scheme = found[0] if found else ""
    rest = given.removeprefix(scheme)
    if "@" in rest:
        rest = f"***@{rest.rpartition('@')[2]}"
    rest = re.split(r"[?#&;]", rest)[0]
    # What follows a colon, unless it is a port, or an equals sign may be secret.
    return scheme + re.sub(r"(?s)(:(?!\d{1,5}(?:/|$))|=).*", r"\1***", rest)

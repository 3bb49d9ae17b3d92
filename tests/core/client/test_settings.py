"""What a client may be set up with, and that its key is shown to nobody."""

from __future__ import annotations

import copy
import math
import pickle
import re
import traceback
from collections.abc import Callable
from itertools import pairwise

import attrs
import pytest

from kling_async import (
    Catalogue,
    ConfigurationError,
    Exponential,
    Fixed,
    Hooks,
    RetryPolicy,
)
from kling_async._config import (
    BASE_URL_VARIABLE,
    DEFAULT_BASE_URL,
    KEY_VARIABLES,
    PLAIN_HTTP_VARIABLE,
    Options,
    Secret,
    Settings,
    apply_options,
    find_base_url,
    find_key,
    find_plain_http,
)
from kling_async._hooks import Reporter
from kling_async._requests.catalogue import catalogue_in_use

KEY = "sk-0123456789abcdef"

# Both take what a caller may give, whatever the annotations say.
OPTIONS: Callable[..., Options] = Options
SETTINGS: Callable[..., Settings] = Settings


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide what the machine that runs the tests is set up with."""
    for name in (*KEY_VARIABLES, BASE_URL_VARIABLE, PLAIN_HTTP_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def make(**overrides: object) -> Settings:
    """Make sound settings, but for the overrides."""
    sound: dict[str, object] = {
        "api_key": Secret(KEY),
        "base_url": DEFAULT_BASE_URL,
        "endpoint": "universal",
        "timeout": 60.0,
        "wait_timeout": 1800.0,
        "retry": RetryPolicy(),
        "polling": Exponential(),
        "reporter": Reporter(),
        "catalogue": catalogue_in_use(),
        "check_media": True,
        "allow_private_downloads": False,
        "allow_plain_http": False,
    }
    return SETTINGS(**sound | overrides)


# --- the key


def test_the_variables_are_the_ones_that_the_vendor_writes_of() -> None:
    """These names are public: the first is the one its texts use most."""
    assert KEY_VARIABLES == ("AIMLAPI_KEY", "AIMLAPI_API_KEY", "AIML_API_KEY")
    assert BASE_URL_VARIABLE == "AIMLAPI_BASE_URL"


@pytest.mark.parametrize("name", KEY_VARIABLES)
def test_the_key_is_found_in_each_variable(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Any one of the three will do."""
    monkeypatch.setenv(name, KEY)
    assert find_key(None).reveal() == KEY


@pytest.mark.parametrize("first, second", list(pairwise(KEY_VARIABLES)))
def test_the_variables_have_an_order(
    monkeypatch: pytest.MonkeyPatch, first: str, second: str
) -> None:
    """Where several are set, the earlier name counts."""
    monkeypatch.setenv(first, "first")
    monkeypatch.setenv(second, "second")
    assert find_key(None).reveal() == "first"


@pytest.mark.parametrize("blank", ["", "  ", "\n"])
def test_a_blank_variable_is_as_good_as_none(
    monkeypatch: pytest.MonkeyPatch, blank: str
) -> None:
    """Shells and CI systems set empty variables: the next one is tried."""
    monkeypatch.setenv(KEY_VARIABLES[0], blank)
    monkeypatch.setenv(KEY_VARIABLES[2], KEY)
    assert find_key(None).reveal() == KEY


def test_the_argument_counts_before_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is given in the code is what was meant."""
    monkeypatch.setenv(KEY_VARIABLES[0], "environment")
    assert find_key(KEY).reveal() == KEY


def test_blanks_around_a_key_are_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key read from a file ends in a line break; that is not part of it."""
    assert find_key(f" {KEY}\n").reveal() == KEY
    monkeypatch.setenv(KEY_VARIABLES[0], f"{KEY}\r\n")
    assert find_key(None).reveal() == KEY


def test_without_a_key_it_is_told_where_to_put_one() -> None:
    """The message names the argument, every variable, and where keys are made."""
    with pytest.raises(ConfigurationError) as caught:
        find_key(None)
    for part in ("api_key", *KEY_VARIABLES, "aimlapi.com/app/keys"):
        assert part in str(caught.value)


BAD_KEYS = [
    "",
    "   ",
    "sk-0123 secret",
    "sk-0123\nsecret",
    "sk-0123\tsecret",
    "sk-schlüssel",
    "sk-0123\x7f",
    "sk\u200b-0123",
]


@pytest.mark.parametrize("key", BAD_KEYS, ids=ascii)
def test_a_key_that_no_header_takes_is_refused_and_not_shown(key: str) -> None:
    """Better here than as an error of the HTTP library that shows the header."""
    with pytest.raises(ConfigurationError, match=r"^api_key: ") as caught:
        find_key(key)
    assert not key.strip() or key not in str(caught.value)
    assert "sk" not in str(caught.value)


def test_a_bad_key_of_the_environment_is_told_by_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The message names where to look, and no traceback shows the key's text."""
    monkeypatch.setenv(KEY_VARIABLES[1], "sk-0123 4567")
    with pytest.raises(ConfigurationError, match=rf"^{KEY_VARIABLES[1]}: ") as caught:
        find_key(None)
    told = traceback.TracebackException.from_exception(
        caught.value, capture_locals=True
    )
    library = [line for line in told.format() if "_settings.py" in line]
    assert library
    assert "4567" not in "".join(library)


def test_a_key_shows_itself_to_nobody() -> None:
    """Neither repr, str, format nor attribute listing of anything holds its text."""
    settings = make()
    for shown in (
        repr(settings),
        str(settings),
        f"{settings}",
        repr(settings.api_key),
        str(settings.api_key),
        f"{settings.api_key}",
        repr(attrs.asdict(settings, recurse=False)),
        repr([settings.api_key]),
    ):
        assert KEY not in shown
    assert "***" in repr(settings)
    assert not hasattr(settings, "__dict__")
    assert not hasattr(settings.api_key, "__dict__")
    assert settings.api_key.reveal() == KEY


def test_a_key_is_taken_out_of_a_text() -> None:
    """Wherever it stands, however often; the rest stays as it is."""
    assert Secret("k").redact("kling k") == "***ling ***"
    assert Secret("sk-1").redact("nothing here") == "nothing here"


@pytest.mark.parametrize("write", [pickle.dumps, copy.deepcopy])
def test_a_key_is_not_pickled(write: Callable[[object], object]) -> None:
    """A queue or a cache on a disk is no place for a key."""
    with pytest.raises(TypeError, match="not pickled") as caught:
        write(make())
    assert KEY not in str(caught.value)


# --- the base URL


@pytest.mark.parametrize(
    "given, found",
    [
        ("https://api.example.com", "https://api.example.com"),
        ("https://api.example.com/", "https://api.example.com"),
        ("https://api.example.com//", "https://api.example.com"),
        ("https://api.example.com/v2", "https://api.example.com"),
        ("https://api.example.com/v2/", "https://api.example.com"),
        ("https://proxy.example.com/aiml/v2", "https://proxy.example.com/aiml"),
        ("https://proxy.example.com/v2x", "https://proxy.example.com/v2x"),
        ("http://127.0.0.1:8765", "http://127.0.0.1:8765"),
        ("http://[::1]:8765/", "http://[::1]:8765"),
        ("http://localhost", "http://localhost"),
        (" https://api.example.com\n", "https://api.example.com"),
    ],
)
def test_a_base_url_is_taken_without_its_end(
    monkeypatch: pytest.MonkeyPatch, given: str, found: str
) -> None:
    """Scheme, host and a path before ``/v2``, from the argument or the variable."""
    assert find_base_url(given) == found
    monkeypatch.setenv(BASE_URL_VARIABLE, given)
    assert find_base_url(None) == found


def test_the_base_url_is_the_vendors_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Argument before environment before default; blank ones are passed over."""
    assert find_base_url(None) == DEFAULT_BASE_URL == "https://api.aimlapi.com"
    for blank in ("", "  "):
        monkeypatch.setenv(BASE_URL_VARIABLE, blank)
        assert find_base_url(None) == DEFAULT_BASE_URL
    monkeypatch.setenv(BASE_URL_VARIABLE, "https://environment.example.com")
    assert find_base_url(None) == "https://environment.example.com"
    assert find_base_url("https://given.example.com") == "https://given.example.com"


@pytest.mark.parametrize(
    "given",
    [
        "api.example.com",
        "ftp://api.example.com",
        "file:///etc/passwd",
        "https://",
        "https:///v2",
        "https://api.example.com?x=1",
        "https://api.example.com/?",
        "https://api.example.com#top",
        "https://api.example.com/#",
        "https://api.example.com:port",
        "https://api.example.com:99999",
        "https://[::1",
        "https://api.exa mple.com",
        "https://api.\nexample.com",
        "https://api.\texample.com",
        "https://api.example.com/\x00",
        "https://api..example.com",
        "https://.",
        f"https://{'a' * 64}.example.com",
        "http://localhost\\.example.com",
    ],
    ids=ascii,
)
def test_a_base_url_that_cannot_work_is_refused(given: str) -> None:
    """Before the first request; the message shows what is allowed.

    And what was given, but for what may be a password: all after a colon that
    begins no port.
    """
    with pytest.raises(ConfigurationError, match=r"^base_url: given ") as caught:
        find_base_url(given)
    shown = re.sub(r":(port|:1)$", ":***", re.split("[?#]", given)[0])
    assert repr(shown)[:-1] in str(caught.value)
    assert DEFAULT_BASE_URL in str(caught.value)


@pytest.mark.parametrize(
    "given",
    [
        "https://user:hunter2@api.example.com",
        "https://hunter2@api.example.com/v2",
        "https://user:hunter2/@api.example.com",
        "https://user:hunter2@api.example.com:port",
        "https://user:a@hunter2@api.example.com",
        "https:/user:hunter2@api.example.com",
        "user:hunter2@api.example.com",
        "https://api.example.com/?api_key=hunter2",
        "https://api.example.com/#hunter2",
        "https://user:hunter2\n@api.example.com",
    ],
)
def test_a_base_url_with_a_secret_in_it_is_refused_and_not_shown(given: str) -> None:
    """Logs and error trackers keep messages: no password gets into one."""
    with pytest.raises(ConfigurationError, match=r"^base_url: given ") as caught:
        find_base_url(given)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(caught.value)


# --- plain HTTP


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8765",
        "127.0.0.1:8765/path",
        "127.200.0.1",
        "[::1]:80",
        "[::ffff:127.0.0.1]",
    ],
)
def test_the_key_goes_in_the_clear_to_this_machine(host: str) -> None:
    """The emulator speaks plain HTTP, and nobody listens on the way."""
    settings = make(base_url=find_base_url(f"http://{host}"))
    assert settings.base_url == f"http://{host}"


@pytest.mark.parametrize("scheme", ["http", "HTTP"])
@pytest.mark.parametrize(
    "host",
    [
        "api.aimlapi.com",
        "emulator:8765",
        "10.0.0.1",
        "192.168.1.7",
        "0.0.0.0",
        "[::]",
        "127.0.0.1.example.com",
        "localhost.example.com",
        "emulator.localhost",  # some resolvers ask a name server
        "notlocalhost",
        "1.127.0.0",
        "2130706433",
        "127.1",
    ],
)
def test_the_key_goes_in_the_clear_to_no_other_machine(scheme: str, host: str) -> None:
    """The message says what is allowed, and how to allow the rest."""
    base_url = find_base_url(f"{scheme}://{host}")
    with pytest.raises(ConfigurationError, match=r"^base_url: given ") as caught:
        make(base_url=base_url)
    assert "allow_plain_http=True" in str(caught.value)
    assert f"{PLAIN_HTTP_VARIABLE}=1" in str(caught.value)
    assert make(base_url=base_url, allow_plain_http=True).base_url == base_url


@pytest.mark.parametrize("told", ["1", "true", "Yes", " on "])
def test_the_environment_may_allow_plain_http(
    monkeypatch: pytest.MonkeyPatch, told: str
) -> None:
    """As in a compose file, beside the base URL; what the code says counts first."""
    monkeypatch.setenv(PLAIN_HTTP_VARIABLE, told)
    assert find_plain_http(None) is True
    refused = False
    assert find_plain_http(refused) is False


@pytest.mark.parametrize("told", [None, "", "0", "false", "no", "off", "maybe"])
def test_only_a_clear_yes_allows_plain_http(
    monkeypatch: pytest.MonkeyPatch, told: str | None
) -> None:
    """Whatever else stands there is a no."""
    if told is not None:
        monkeypatch.setenv(PLAIN_HTTP_VARIABLE, told)
    assert find_plain_http(None) is False


@pytest.mark.parametrize(
    "endpoint, path",
    [
        ("universal", "/v2/video/generations"),
        ("legacy", "/v2/generate/video/kling/generation"),
    ],
)
def test_an_endpoint_is_one_of_the_vendors_two_paths(endpoint: str, path: str) -> None:
    """The newer path and the one that the project started from."""
    assert make(endpoint=endpoint).path == path


@pytest.mark.parametrize("endpoint", ["", "Universal", "/v2/video/generations", None])
def test_another_endpoint_is_refused(endpoint: object) -> None:
    """The message names both."""
    with pytest.raises(ConfigurationError) as caught:
        make(endpoint=endpoint)
    assert str(caught.value) == (
        f"endpoint: given {endpoint!r}; allowed: 'universal' or 'legacy'"
    )


# --- spans of time


@pytest.mark.parametrize("name", ["timeout", "wait_timeout"])
@pytest.mark.parametrize("value", [1, 0.001, 60.0, math.inf])
def test_a_timeout_is_a_span_of_time(name: str, value: float) -> None:
    """Any positive number of seconds, and `math.inf` for no limit."""
    assert getattr(make(**{name: value}), name) == value


@pytest.mark.parametrize("name", ["timeout", "wait_timeout"])
@pytest.mark.parametrize("value", [0, -1, -math.inf, math.nan, "5", None, [5]])
def test_what_is_no_span_of_time_is_refused(name: str, value: object) -> None:
    """The message names the option, what was given and what is allowed."""
    with pytest.raises(ConfigurationError) as caught:
        make(**{name: value})
    assert str(caught.value) == (
        f"{name}: given {value!r}; allowed: seconds, more than 0, "
        "or math.inf for no limit"
    )


# --- other options for the same client


def on_status(_event: object) -> None:
    """Observe nothing."""


HOOKS = Hooks(on_status=on_status)

OLDER = Catalogue({})


@pytest.mark.parametrize(
    "option, given, attribute, expected",
    [
        (
            "base_url",
            "https://other.example.com/v2/",
            "base_url",
            "https://other.example.com",
        ),
        ("endpoint", "legacy", "endpoint", "legacy"),
        ("timeout", 5, "timeout", 5),
        ("wait_timeout", math.inf, "wait_timeout", math.inf),
        ("retry", RetryPolicy(attempts=1), "retry", RetryPolicy(attempts=1)),
        ("polling", Fixed(3), "polling", Fixed(3)),
        ("hooks", HOOKS, "reporter", Reporter(HOOKS)),
        ("catalogue", OLDER, "catalogue", OLDER),
        ("check_media", False, "check_media", False),
        ("allow_private_downloads", True, "allow_private_downloads", True),
        ("allow_plain_http", True, "allow_plain_http", True),
    ],
)
def test_each_option_can_be_changed_alone(
    option: str, given: object, attribute: str, expected: object
) -> None:
    """The new settings differ in the one thing, the old ones stay as they were."""
    settings = make()
    other = apply_options(settings, OPTIONS(**{option: given}))
    assert getattr(other, attribute) == expected
    assert getattr(settings, attribute) != expected
    assert attrs.evolve(other, **{attribute: getattr(settings, attribute)}) == settings


def test_the_key_can_be_changed_and_stays_a_secret() -> None:
    """A client for another account shares the connections, and hides its key too."""
    other = apply_options(make(), {"api_key": " other-key\n"})
    assert other.api_key.reveal() == "other-key"
    assert "other-key" not in repr(other)


def test_every_option_has_been_tried() -> None:
    """An option added to `Options` is to be added to the tests above."""
    assert set(Options.__annotations__) == {
        "allow_plain_http",
        "allow_private_downloads",
        "api_key",
        "base_url",
        "catalogue",
        "check_media",
        "endpoint",
        "hooks",
        "polling",
        "retry",
        "timeout",
        "wait_timeout",
    }


def test_changing_nothing_changes_nothing() -> None:
    """No overrides give equal settings."""
    settings = make()
    assert apply_options(settings, {}) == settings


@pytest.mark.parametrize(
    "option, given",
    [
        ("api_key", "two words"),
        ("base_url", "ftp://x"),
        ("endpoint", "other"),
        ("timeout", 0),
        ("wait_timeout", math.nan),
    ],
)
def test_a_change_is_checked_like_the_constructor_checks(
    option: str, given: object
) -> None:
    """What the constructor refuses, `with_options` refuses, naming the option."""
    with pytest.raises(ConfigurationError, match=rf"^{option}: "):
        apply_options(make(), OPTIONS(**{option: given}))


@pytest.mark.parametrize("name", ["max_connections", "http_client", "time_out"])
def test_an_unknown_option_is_refused(name: str) -> None:
    """What belongs to the shared connections, and slips of the pen, are named."""
    with pytest.raises(ConfigurationError) as caught:
        apply_options(make(), OPTIONS(**{name: 1, "timeout": 5}))
    assert f"with_options: given {name}; allowed: " in str(caught.value)
    assert all(option in str(caught.value) for option in Options.__annotations__)

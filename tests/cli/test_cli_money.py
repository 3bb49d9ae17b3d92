"""`kling-async balance`, `price`, `log` and `reconcile`: money and traces."""

from __future__ import annotations

import json

import pytest
from shell import AT_ONCE, errors_in, invoke, serving

from kling_async import models
from kling_async.emulator import Emulator, Fault

MASTER = "klingai/v2-master-text-to-video"
SOUND = "klingai/video-v2-6-pro-text-to-video"


# What makes rich take a pipe for a wide terminal without colours.
TERMINAL = {"FORCE_COLOR": "1", "TERM": "dumb", "COLUMNS": "200", "LINES": "50"}


def create(emulator: Emulator, *names: str) -> None:
    """Start a generation."""
    assert invoke(emulator, "generate", "--no-wait", *names, "-p", "A boat.").stdout


def rows(stdout: str) -> list[dict[str, object]]:
    """Read one JSON object a line."""
    return [json.loads(line) for line in stdout.splitlines()]


# --- doctor


def test_the_doctor_tells_what_was_seen_and_what_to_do() -> None:
    """For eyes, and for scripts; what has failed is in the exit code."""
    with serving(api_keys=["right"]) as emulator:
        read = invoke(emulator, "doctor")
        parsed = invoke(emulator, "doctor", "--json")
    assert read.exit_code == parsed.exit_code == 1
    assert "FAILED  key: " in read.stdout
    told = json.loads(parsed.stdout)
    assert not told["healthy"]
    key = next(check for check in told["checks"] if check["name"] == "key")
    assert key["state"] == "failed"
    assert key["advice"]


# --- balance


def test_the_balance_is_told_in_both_units() -> None:
    """For eyes, and for scripts."""
    with serving(credits=246_900_000) as emulator:
        read = invoke(emulator, "balance")
        parsed = invoke(emulator, "balance", "--json")
    assert read.stdout == "123.45 USD (246,900,000 credits)\n"
    assert json.loads(parsed.stdout) == {
        "usd": 123.45,
        "credits": 246_900_000,
        "currency": "USD",
    }


def test_a_wrong_key_is_told() -> None:
    """With what to do about it, and without its text."""
    with serving(api_keys=["right"]) as emulator:
        result = invoke(emulator, "balance")
    assert result.exit_code == 1
    assert "401" in errors_in(result)[0]
    assert "AIMLAPI_KEY" in errors_in(result)[0]


# --- price


def test_prices_are_listed_by_model_and_length() -> None:
    """One line each: what a script cuts at tabs."""
    with serving() as emulator:
        lines = invoke(emulator, "price").stdout.splitlines()
    cells = [line.split("\t") for line in lines]
    assert [MASTER, "5", "1.40"] in cells
    assert [MASTER, "10", "2.80"] in cells
    assert ["klingai/avatar-pro", ""] in cells
    assert {it[0] for it in cells} == {it.id for it in models.list()}


def test_prices_of_a_kind_can_be_asked_for() -> None:
    """A kind that is none is refused with the ones there are."""
    with serving() as emulator:
        listed = invoke(emulator, "price", "--kind", "effects", "--json")
        refused = invoke(emulator, "price", "--kind", "opera")
    assert {it["duration"] for it in json.loads(listed.stdout)} == {5, 10}
    assert refused.exit_code == 2
    assert "effects" in errors_in(refused)[0]


def test_the_prices_of_one_model_tell_what_they_hang_on() -> None:
    """Every length, with sound and without."""
    with serving() as emulator:
        quotes = json.loads(invoke(emulator, "price", SOUND, "--json").stdout)
    assert [(it["duration"], it["generate_audio"], it["usd"]) for it in quotes] == [
        (5, True, 0.7),
        (5, False, 0.35),
        (10, True, 1.4),
        (10, False, 0.7),
    ]
    assert quotes[0]["credits"] == 1_400_000
    assert quotes[0]["kind"] == "variants"


def test_on_a_terminal_prices_are_tables() -> None:
    """Models down, lengths across; what is not quoted says so."""
    with serving() as emulator:

        def seen(*args: str) -> str:
            return invoke(emulator, *args, env=TERMINAL).stdout

        whole = seen("price").splitlines()
        one = seen("price", SOUND).splitlines()
        none = seen("price", "klingai/avatar-pro")
    assert whole[0].split() == ["model", "5", "s", "10", "s", "15", "s"]
    assert f"{MASTER} 1.40 2.80".split() in [line.split() for line in whole]
    assert "klingai/avatar-pro variable".split() in [line.split() for line in whole]
    assert one[0].split() == ["duration", "generate_audio", "USD", "credits"]
    assert one[2].split() == ["5", "False", "0.35", "700,000"]
    assert none == "the vendor quotes no price (variable)\n"


# --- log


def test_the_log_lists_what_was_asked_for() -> None:
    """Newest first: when, what became of it, its cost, and the ids to find it by."""
    with serving() as emulator:
        create(emulator, "-m", MASTER)
        create(emulator)
        lines = invoke(emulator, "log").stdout.splitlines()
        parsed = rows(invoke(emulator, "log", "--json").stdout)
        newest, oldest = reversed(emulator.creates)
    cells = [line.split("\t") for line in lines]
    assert [it[-1] for it in cells] == [newest.generation_id, oldest.generation_id]
    assert [it[-2] for it in cells] == [
        newest.client_request_id,
        oldest.client_request_id,
    ]
    assert cells[1][1:4] == ["succeeded", "1.40", MASTER]
    assert parsed[1]["inference_id"] == oldest.generation_id
    assert (parsed[1]["usd"], parsed[1]["credits"]) == (1.4, 2_800_000)


def test_the_log_can_be_narrowed() -> None:
    """To a number, a model, a status, a time."""
    with serving(failure_rate=1) as emulator:
        create(emulator, "-m", MASTER)
        for _ in range(3):
            create(emulator)

        def count(*args: str) -> int:
            return len(invoke(emulator, "log", *args).stdout.splitlines())

        assert count("-n", "2") == 2
        assert count("-m", MASTER) == 1
        assert count("--status", "failed") == 4
        assert count("--status", "succeeded") == 0
        assert count("--since", "2026-01-01T00:00:00Z", "--since", "1h") == 4


@pytest.mark.parametrize(
    "args, words",
    [
        (["--since", "tomorrow"], "30m, 24h, 7d"),
        (["--since", "93d"], "at most 92 days"),
        (["--status", "perhaps"], "succeeded or failed"),
        (["--limit", "0"], "for '--limit'"),  # how it goes on is up to typer
    ],
)
def test_a_log_that_cannot_be_asked_for_is_wrong_usage(
    args: list[str], words: str
) -> None:
    """The message says what is allowed."""
    with serving() as emulator:
        result = invoke(emulator, "log", *args)
    assert result.exit_code == 2
    assert words in result.stderr


def test_on_a_terminal_the_log_is_a_table() -> None:
    """With its columns named."""
    with serving() as emulator:
        create(emulator, "-m", MASTER)
        result = invoke(emulator, "log", env=TERMINAL)
    head, row = result.stdout.splitlines()
    assert head.split() == (
        "created (UTC) status USD model client request id generation".split()
    )
    assert row.split()[2:5] == ["succeeded", "1.40", MASTER]


# --- reconcile


def test_a_lost_create_is_found_by_its_client_request_id() -> None:
    """Told as `get` tells it; and a create that is lost says how to look."""
    fault = Fault("reset", method="POST", accepted=True)
    with serving(speed=AT_ONCE) as emulator:
        emulator.faults.add(fault)
        create(emulator)
        (lost,) = emulator.creates
        read = invoke(emulator, "reconcile", str(lost.client_request_id))
        args = ("reconcile", str(lost.client_request_id), "--since", "2h", "--json")
        parsed = json.loads(invoke(emulator, *args).stdout)
    assert read.exit_code == 0
    assert read.stdout.splitlines()[0] == lost.generation_id
    assert parsed["id"] == lost.generation_id
    assert parsed["status"] == "completed"


def test_a_create_that_goes_on_is_told_how_to_go_on_with() -> None:
    """The id is all that `wait` needs."""
    with serving(speed=1e-3) as emulator:
        create(emulator)
        (record,) = emulator.creates
        result = invoke(emulator, "reconcile", str(record.client_request_id))
    assert f"go on with: kling-async wait {record.generation_id}" in result.stderr


def test_a_create_that_never_came_is_an_error() -> None:
    """After the time that was given to look."""
    with serving() as emulator:
        result = invoke(emulator, "reconcile", "order-1", "--timeout", "1.2")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert "lists no generation under order-1" in errors_in(result)[0]


@pytest.mark.parametrize("args", [["order 1"], ["order-1", "--timeout", "0"]])
def test_what_cannot_be_looked_for_is_wrong_usage(args: list[str]) -> None:
    """An id that the vendor would have dropped, or no time at all."""
    with serving() as emulator:
        assert invoke(emulator, "reconcile", *args).exit_code == 2

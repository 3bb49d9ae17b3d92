"""`kling-async emulator`: the stand-in server, until a signal stops it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn

import anyio
import typer

from kling_async._errors import ConfigurationError
from kling_async._settings import BASE_URL_VARIABLE, KEY_VARIABLES
from kling_async.cli import _options as options
from kling_async.cli._exits import Exit
from kling_async.cli._running import Ledger, until_interrupted
from kling_async.cli._screen import Screen

_ANY_KEY = "emulator"

Host = Annotated[str, typer.Option(help="The address to listen on.")]
Port = Annotated[
    int,
    typer.Option(min=0, max=65535, help="The port to listen on; 0 for a free one."),
]
Speed = Annotated[
    float, typer.Option(help="How many times faster than the vendor; 1 is real time.")
]
Seed = Annotated[
    int, typer.Option(help="What chance starts from: same seed, same lives.")
]
Credits = Annotated[
    float | None,
    typer.Option(
        "--credits", help="What the account starts with; 2,000,000 are 1 USD."
    ),
]


FailureRate = Annotated[
    float, typer.Option(min=0, max=1, help="The share of generations that fail.")
]
RateLimit = Annotated[
    int | None, typer.Option(help="Requests a minute for each key; then 429.")
]
MaxRunning = Annotated[
    int | None, typer.Option(help="Generations at once; a further create is a 429.")
]
Faults = Annotated[
    Path | None,
    typer.Option(help="A JSON file of rules for what goes wrong.", metavar="FILE"),
]
State = Annotated[
    Path | None,
    typer.Option(help="Keep generations and account in FILE.", metavar="FILE"),
]
Size = Annotated[int, typer.Option(help="The videos' longer side, in pixels.")]


def emulator(
    ctx: typer.Context,
    *,
    host: Host = "127.0.0.1",
    port: Port = 8765,
    speed: Speed = 60,
    seed: Seed = 0,
    credits_: Credits = None,
    failure_rate: FailureRate = 0,
    rate_limit: RateLimit = None,
    max_running: MaxRunning = None,
    faults: Faults = None,
    state: State = None,
    size: Size = 320,
    json: options.Json = False,
) -> Exit:
    """Serve the API on this machine: no key, no network, no bill, real videos.

    Stdout can be sourced by a shell: it sets where the API is, and a key.
    """
    screen = Screen.of(ctx)

    async def work() -> NoReturn:
        # Late: it takes a while, and needs the extra `emulator`.
        from kling_async.emulator import Emulator, faults_in  # noqa: PLC0415

        set_up = partial(
            Emulator,
            host=host,
            port=port,
            speed=speed,
            seed=seed,
            failure_rate=failure_rate,
            rate_limit=rate_limit,
            max_running=max_running,
            faults=faults_in(await _read(faults)) if faults else (),
            state=state,
            size=size,
        )
        server = set_up() if credits_ is None else set_up(credits=credits_)
        async with server:
            _announce(screen, server.base_url, speed, is_json=json)
            while True:
                await anyio.sleep_forever()

    code = until_interrupted(work, screen=screen, ledger=Ledger())
    # A signal is how a server is meant to end.
    is_clean = code in {Exit.INTERRUPTED, Exit.TERMINATED}
    return Exit.DONE if is_clean else code


async def _read(path: Path) -> str:
    try:
        return await anyio.Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigurationError(f"faults: cannot read {path}: {why}") from error


def _announce(screen: Screen, url: str, speed: float, *, is_json: bool) -> None:
    variables = {BASE_URL_VARIABLE: url, KEY_VARIABLES[0]: _ANY_KEY}
    if is_json:
        screen.json(variables)
        return
    pace = f"{speed:g} times as fast as the vendor"
    screen.result(f"# The emulator is ready at {url}, {pace}. Ctrl-C stops it.", "dim")
    for name, value in variables.items():
        screen.result(f"export {name}={value}", "bold")

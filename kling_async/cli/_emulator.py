"""`kling-async emulator` and `kling-async demo`: the API on this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import anyio
import httpx
import typer
from anyio import to_thread
from attrs import define, field, frozen

from kling_async import AsyncKling, Exponential, ImageToVideo, KlingError, models
from kling_async._config import BASE_URL_VARIABLE, KEY_VARIABLES
from kling_async._errors import ConfigurationError
from kling_async.cli import _options as options
from kling_async.cli._output import Exit, Screen, set_variable, size_in_words, worst
from kling_async.cli._progress import Progress
from kling_async.cli._running import SeenGenerations, report, until_interrupted

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
    int, typer.Option(help="The random seed: the same seed gives the same results.")
]

Credits = Annotated[
    float | None,
    typer.Option(
        "--credits", help="The account's first balance; 2,000,000 credits are 1 USD."
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
    typer.Option(help="A JSON file of faults.", metavar="FILE"),
]

State = Annotated[
    Path | None,
    typer.Option(help="Keep generations and account in FILE.", metavar="FILE"),
]

Size = Annotated[int, typer.Option(help="The videos' longer side, in pixels.")]

Keys = Annotated[
    list[str] | None,
    typer.Option("--key", help="A valid key; may be repeated. By default any is."),
]

Names = Annotated[
    list[str] | None,
    typer.Option("--name", help="A host name to answer to; may be repeated."),
]

Strict = Annotated[
    bool, typer.Option("--strict", help="Refuse fields that the model does not take.")
]

Nulls = Annotated[bool, typer.Option("--nulls", help="Send absent values as null.")]


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
    key: Keys = None,
    name: Names = None,
    strict: Strict = False,
    nulls: Nulls = False,
    json: options.Json = False,
) -> Exit:
    """Serve the API on this machine: no key, no network, no bill, real videos.

    A shell can source stdout: it sets the address of the API, and a key.
    """
    screen = Screen.of(ctx)

    async def work() -> NoReturn:
        # Late: it takes a while, and needs the extra `emulator`.
        from kling_async.emulator import Emulator, faults_in

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
            api_keys=key or None,
            names=name or (),
            strict=strict,
            nulls=nulls,
        )
        server = set_up() if credits_ is None else set_up(credits=credits_)
        async with server:
            shown = key[0] if key else _ANY_KEY
            _announce(screen, server.base_url, shown, speed, is_json=json)
            while True:
                await anyio.sleep_forever()

    code = until_interrupted(work, screen=screen, generations=SeenGenerations())
    # A signal is how a server is meant to end.
    is_clean = code in {Exit.INTERRUPTED, Exit.TERMINATED}
    return Exit.DONE if is_clean else code


async def _read(path: Path) -> str:
    try:
        return await anyio.Path(path).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8"
        raise ConfigurationError(f"faults: cannot read {path}: {why}") from error


def _announce(
    screen: Screen, url: str, key: str, speed: float, *, is_json: bool
) -> None:
    variables = {BASE_URL_VARIABLE: url, KEY_VARIABLES[0]: key}
    if is_json:
        screen.json(variables)
        return
    pace = f"{speed:g} times as fast as the vendor"
    screen.result(
        f"# The emulator is ready at {url}, {pace}. Ctrl-C stops it.", style="dim"
    )
    for name, value in variables.items():
        screen.result(set_variable(name, value), style="bold")


if TYPE_CHECKING:
    from kling_async.cli._pictures import DemoPicture


_MODEL = "klingai/video-v3-pro-image-to-video"

_LONGER_SIDE = 480  # pixels; larger takes more of the machine than the demo is worth

_OFTEN = Exponential(0.05, 1.5, 0.2)

OutputDir = Annotated[
    Path,
    typer.Option(metavar="DIR", help="The folder for the videos; created if missing."),
]

DemoSpeed = Annotated[
    float, typer.Option(help="How many times faster than the vendor.", min=1e-3)
]


def demo(
    ctx: typer.Context,
    *,
    output_dir: OutputDir = Path("kling-demo"),
    speed: DemoSpeed = 100,
) -> Exit:
    """Generate three videos at once on this machine: no key, no network, no bill.

    Starts the emulator, draws three pictures, and animates them with the real client.
    Videos of an earlier demo in the same folder are replaced.
    """
    screen = Screen.of(ctx)
    output_dir.mkdir(parents=True, exist_ok=True)
    progress = Progress(screen.err)
    show = _Show(screen, progress, output_dir, speed)
    return until_interrupted(show.run, screen=screen, generations=SeenGenerations())


@frozen
class _Film:
    """A video that has been opened: what is in it."""

    path: Path
    width: int
    height: int
    seconds: float

    def __str__(self) -> str:
        size = size_in_words(self.path.stat().st_size)
        return f"{self.width} x {self.height}, {self.seconds:.1f} s, {size}"


@define(eq=False)
class _Show:
    """One run of the demo."""

    screen: Screen
    progress: Progress
    folder: Path
    speed: float
    _films: list[_Film] = field(factory=list[_Film], init=False)
    _errors: list[KlingError] = field(factory=list[KlingError], init=False)

    async def run(self) -> Exit:
        """Generate the videos, and say where they are."""
        # Late: both take a while to import, and need the extra `emulator`.
        from kling_async.emulator import Emulator

        self.screen.note(
            "three videos at once, from an emulator on this machine that is "
            f"{self.speed:g} times as fast as the vendor"
        )
        async with (
            Emulator(speed=self.speed, size=_LONGER_SIDE) as emulator,
            # Proxies are the environment's: this stays on the machine.
            httpx.AsyncClient(trust_env=False) as http,
            AsyncKling(
                "demo",
                base_url=emulator.base_url,
                http_client=http,
                polling=_OFTEN,
                hooks=SeenGenerations(self.progress.show).hooks,
            ) as kling,
        ):
            await self._generate_all(kling)
        return self._end()

    async def _generate_all(self, kling: AsyncKling) -> None:
        from kling_async.cli._pictures import pictures

        drawn = await to_thread.run_sync(pictures)
        typical = models.get(_MODEL).typical_seconds()
        with self.progress:
            for it in drawn:
                at_speed = typical and typical / self.speed
                self.progress.add(it.name, label=it.name, typical=at_speed)
            async with anyio.create_task_group() as tasks:
                for it in drawn:
                    tasks.start_soon(self._generate, kling, it)

    async def _generate(self, kling: AsyncKling, picture: DemoPicture) -> None:
        request = ImageToVideo(
            model=_MODEL, image_url=picture.png, prompt=picture.prompt, duration=5
        )
        try:
            # The name serves as the id of the create, and so of the line on screen.
            created = await kling.create(request, client_request_id=picture.name)
            done = await kling.wait(created)
            path = self.folder / f"demo-{picture.name}.mp4"
            await kling.download(done, path)
        except KlingError as error:
            self._errors.append(error)
        else:
            self._films.append(await to_thread.run_sync(_open_film, path))

    def _end(self) -> Exit:
        width = max((len(str(it.path)) for it in self._films), default=0)
        for film in self._films:
            self.screen.result(f"{film.path!s:<{width}}  {film}")
        told = [
            report(it, screen=self.screen, generations=SeenGenerations())
            for it in self._errors
        ]
        return worst(told)


def _open_film(path: Path) -> _Film:
    """Open a video as a player does, and decode all of it."""
    import av

    with av.open(path) as container:
        stream = container.streams.video[0]
        frames = sum(1 for _ in container.decode(stream))
        rate = float(stream.average_rate or 0)
        return _Film(path, stream.width, stream.height, frames / rate)

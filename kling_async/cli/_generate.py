"""`kling-async generate`, `get`, `watch` and `wait`: one generation, to its file."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import anyio
import typer
from attrs import field, frozen

from kling_async import (
    AsyncKling,
    Generation,
    GenerationFailedError,
    KlingError,
    Request,
)
from kling_async._text import safe_line
from kling_async.cli import _options as options
from kling_async.cli._models import RequestOptions, find_model
from kling_async.cli._output import (
    Exit,
    Screen,
    as_json,
    as_lines,
    resume_command,
    worst,
)
from kling_async.cli._progress import Progress, usually
from kling_async.cli._running import SeenGenerations, Target, VideoFetcher, report, run


def generate(
    ctx: typer.Context,
    *,
    prompt: options.Prompt = None,
    image: options.Images = None,
    tail_image: options.TailImage = None,
    model: options.Model = None,
    duration: options.Duration = None,
    aspect_ratio: options.AspectRatio = None,
    negative_prompt: options.NegativePrompt = None,
    cfg_scale: options.CfgScale = None,
    generate_audio: options.GenerateAudio = None,
    video: options.Video = None,
    audio: options.Audio = None,
    effect: options.Effect = None,
    set_: options.Settings = None,
    check_media: options.CheckMedia = True,
    output: options.Output = None,
    overwrite: options.Overwrite = False,
    any_format: options.AnyFormat = False,
    no_wait: options.NoWait = False,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> Exit:
    """Generate a video and write it to a file. This costs money.

    The path of the file is printed on stdout, the id and the progress on stderr.
    """
    fields = {
        "prompt": prompt,
        "tail_image_url": tail_image,
        "duration": duration,
        "aspect_ratio": aspect_ratio,
        "negative_prompt": negative_prompt,
        "cfg_scale": cfg_scale,
        "generate_audio": generate_audio,
        "video_url": video,
        "audio_url": audio,
        "effect_scene": effect,
    }
    wish = RequestOptions(
        model=model, images=image or [], fields=fields, settings=set_ or []
    )
    target = Target(file=output, overwrite=overwrite, any_format=any_format)
    target.check()
    request = wish.to_request()
    screen = Screen.of(ctx)
    delivery = VideoFetcher(screen=screen, is_json=json, target=target, timeout=timeout)
    order = _CreateOptions(request=request, delivery=delivery, waits=not no_wait)
    return order.run(check_media=check_media)


@frozen(kw_only=True)
class _CreateOptions:
    """One generation to make, and what to do with it."""

    request: Request
    delivery: VideoFetcher
    waits: bool
    client_request_id: str = field(factory=lambda: f"kling-{uuid.uuid4().hex}")

    def run(self, *, check_media: bool) -> Exit:
        """Make it, and print what has become of it."""
        code = run(
            self._work,
            screen=self.delivery.screen,
            generations=self.delivery.generations,
            check_media=check_media,
        )
        self.delivery.print_results()
        return code

    async def _work(self, kling: AsyncKling) -> Exit:
        delivery, typical = self.delivery, typical_seconds(self.request)
        delivery.screen.note(f"{self.request.model}{usually(typical)}")
        delivery.progress.add(self.client_request_id, typical=typical)
        with delivery.progress:
            created = await self._create(kling)
            if self.waits:
                return await delivery.fetch(kling, created)
            delivery.progress.drop(self.client_request_id)
        resume = delivery.generations.resume_command(created.id)
        delivery.screen.note(f"fetch it with: {resume}", "")
        if not delivery.is_json:
            delivery.screen.result(safe_line(created.id))
        return Exit.DONE

    async def _create(self, kling: AsyncKling) -> Generation:
        generations, request_id = self.delivery.generations, self.client_request_id
        if self.waits:
            generations.announce = lambda it: self.delivery.screen.note(it.id)
        else:
            generations.tell = lambda _: None
        generations.create_under_way = request_id
        try:
            created = await kling.create(self.request, client_request_id=request_id)
        except KlingError:
            # Whatever it is, the error says it.
            generations.create_under_way = None
            self.delivery.progress.drop(request_id)
            raise
        return created


def typical_seconds(request: Request) -> float | None:
    """Return how long such a generation usually takes, where somebody says."""
    model = find_model(request.model)
    if model is None:
        return None
    duration = request.to_body().get("duration")
    return model.typical_seconds(None if duration is None else float(str(duration)))


def get(ctx: typer.Context, ids: options.Ids, *, json: options.Json = False) -> Exit:
    """Show the status of generations.

    Ends with 0 if the server answered, even if a generation failed.
    """
    screen, generations = Screen.of(ctx), SeenGenerations()

    async def work(kling: AsyncKling) -> Exit:
        answers = await _all_of(kling, _distinct(ids))
        codes = [Exit.DONE]
        for answer in answers:
            if isinstance(answer, KlingError):
                codes.append(report(answer, screen=screen, generations=generations))
            elif json:
                screen.json(as_json(answer))
            else:
                for line in as_lines(answer):
                    screen.show(line)
        return worst(codes)

    return run(work, screen=screen, generations=generations)


async def _all_of(
    kling: AsyncKling, ids: Sequence[str]
) -> Sequence[Generation | KlingError]:
    """Ask for all at once; the answers come in the order of the ids."""
    answers: dict[int, Generation | KlingError] = {}

    async def ask(index: int, generation_id: str) -> None:
        try:
            answers[index] = await kling.get(generation_id)
        except KlingError as error:
            answers[index] = error

    async with anyio.create_task_group() as tasks:
        for index, generation_id in enumerate(ids):
            tasks.start_soon(ask, index, generation_id)
    return [answers[index] for index in sorted(answers)]


def wait(
    ctx: typer.Context,
    ids: options.Ids,
    *,
    output: options.Output = None,
    output_dir: options.OutputDir = Path(),
    overwrite: options.Overwrite = False,
    any_format: options.AnyFormat = False,
    no_download: options.NoDownload = False,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> Exit:
    """Wait for generations and write their videos, as `generate` does."""
    wanted = _distinct(ids)
    if output is not None and len(wanted) > 1:
        message = "is one file, but there are several ids; use --output-dir"
        raise typer.BadParameter(message, param_hint="--output")
    target = Target(
        file=output, folder=output_dir, overwrite=overwrite, any_format=any_format
    )
    if not no_download:
        target.check()
    delivery = VideoFetcher(
        screen=Screen.of(ctx),
        is_json=json,
        target=None if no_download else target,
        timeout=timeout,
    )
    for it in wanted:
        label = _short(it) if len(wanted) > 1 else ""
        delivery.progress.add(it, label=label)
    delivery.generations.follow(wanted)

    async def work(kling: AsyncKling) -> Exit:
        with delivery.progress:
            return await delivery.fetch(kling, *wanted)

    code = run(work, screen=delivery.screen, generations=delivery.generations)
    delivery.print_results()
    return code


def watch(
    ctx: typer.Context,
    ids: options.Ids,
    *,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> Exit:
    """Follow generations to their end: a line on stdout at each change of status."""
    screen, wanted = Screen.of(ctx), _distinct(ids)
    progress, generations = Progress(screen.out), SeenGenerations()
    generations.follow(wanted)
    for it in wanted:
        progress.add(it, label=_short(it) if len(wanted) > 1 else "")

    def tell(generation: Generation) -> None:
        if json:
            screen.json(as_json(generation))
        else:
            progress.show(generation)
        if generation.is_terminal:
            generations.done.add(generation.id)

    async def work(kling: AsyncKling) -> Exit:
        with contextlib.nullcontext() if json else progress:
            errors = await _follow_all(kling, wanted, tell, timeout)
        return worst(
            [report(it, screen=screen, generations=generations) for it in errors]
        )

    code = run(work, screen=screen, generations=generations)
    if not json and (completed_ids := generations.completed_ids):
        screen.note(f"write the video with: {resume_command(completed_ids)}", "")
    return code


async def _follow_all(
    kling: AsyncKling,
    ids: Sequence[str],
    tell: Callable[[Generation], None],
    timeout: float | None,
) -> Sequence[KlingError]:
    """Follow all at once, and return what went wrong."""
    errors: list[KlingError] = []

    async def follow(generation_id: str) -> None:
        try:
            watching = kling.watch(generation_id, timeout=timeout)
            async with aclosing(watching) as changes:
                async for generation in changes:
                    tell(generation)
                    if generation.failed:
                        errors.append(GenerationFailedError(generation))
        except KlingError as error:
            errors.append(error)

    async with anyio.create_task_group() as tasks:
        for it in ids:
            tasks.start_soon(follow, it)
    return errors


def _distinct(ids: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(it.strip() for it in ids))


def _short(generation_id: str) -> str:
    return generation_id[:8]

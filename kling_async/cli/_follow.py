"""`kling-async get`, `watch` and `wait`: what is known by its id."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import aclosing
from pathlib import Path

import anyio
import typer

from kling_async import AsyncKling, Generation, GenerationFailedError, KlingError
from kling_async.cli import _options as options
from kling_async.cli._delivery import Delivery
from kling_async.cli._exits import Exit, resume_command, worst
from kling_async.cli._progress import Progress
from kling_async.cli._running import Ledger, report, run
from kling_async.cli._screen import Screen
from kling_async.cli._target import Target
from kling_async.cli._words import as_json, as_lines


def get(ctx: typer.Context, ids: options.Ids, *, json: options.Json = False) -> Exit:
    """Tell how generations are now.

    Ends with 0 if the server told, also of a generation that failed.
    """
    screen, ledger = Screen.of(ctx), Ledger()

    async def work(kling: AsyncKling) -> Exit:
        answers = await _all_of(kling, _distinct(ids))
        codes = [Exit.DONE]
        for answer in answers:
            if isinstance(answer, KlingError):
                codes.append(report(answer, screen=screen, ledger=ledger))
            elif json:
                screen.json(as_json(answer))
            else:
                for line in as_lines(answer):
                    screen.show(line)
        return worst(codes)

    return run(work, screen=screen, ledger=ledger)


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
    no_download: options.NoDownload = False,
    timeout: options.Timeout = None,
    json: options.Json = False,
) -> Exit:
    """Wait for generations and write their videos, as `generate` does."""
    wanted = _distinct(ids)
    if output is not None and len(wanted) > 1:
        message = "names one file, and there are several ids; use --output-dir"
        raise typer.BadParameter(message, param_hint="--output")
    target = Target(file=output, folder=output_dir, overwrite=overwrite)
    if not no_download:
        target.check()
    delivery = Delivery(
        screen=Screen.of(ctx),
        is_json=json,
        target=None if no_download else target,
        timeout=timeout,
    )
    for it in wanted:
        label = _short(it) if len(wanted) > 1 else ""
        delivery.progress.add(it, label=label)
    delivery.ledger.follow(wanted)

    async def work(kling: AsyncKling) -> Exit:
        with delivery.progress:
            return await delivery.bring(kling, *wanted)

    code = run(work, screen=delivery.screen, ledger=delivery.ledger)
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
    progress, ledger = Progress(screen.out), Ledger()
    ledger.follow(wanted)
    for it in wanted:
        progress.add(it, label=_short(it) if len(wanted) > 1 else "")

    def tell(generation: Generation) -> None:
        if json:
            screen.json(as_json(generation))
        else:
            progress.show(generation)
        if generation.is_terminal:
            ledger.done.add(generation.id)

    async def work(kling: AsyncKling) -> Exit:
        with contextlib.nullcontext() if json else progress:
            errors = await _followed(kling, wanted, tell, timeout)
        return worst([report(it, screen=screen, ledger=ledger) for it in errors])

    code = run(work, screen=screen, ledger=ledger)
    if not json and (finished := ledger.finished):
        screen.note(f"write the video with: {resume_command(finished)}", "")
    return code


async def _followed(
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

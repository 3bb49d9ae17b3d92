"""`kling-async generate`: from options to an MP4, or to an id."""

from __future__ import annotations

import uuid

import typer
from attrs import field, frozen

from kling_async import AsyncKling, Generation, KlingError, Request
from kling_async.cli import _options as options
from kling_async.cli._delivery import Delivery
from kling_async.cli._exits import Exit
from kling_async.cli._progress import usually
from kling_async.cli._request import Wish, known_model
from kling_async.cli._running import run
from kling_async.cli._screen import Screen
from kling_async.cli._target import Target
from kling_async.cli._words import one_line


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
    wish = Wish(model=model, images=image or [], fields=fields, settings=set_ or [])
    target = Target(file=output, overwrite=overwrite)
    target.check()
    request = wish.to_request()
    screen = Screen.of(ctx)
    delivery = Delivery(screen=screen, is_json=json, target=target, timeout=timeout)
    order = _Order(request=request, delivery=delivery, waits=not no_wait)
    return order.fulfil(check_media=check_media)


@frozen(kw_only=True)
class _Order:
    """One generation to make, and what to do with it."""

    request: Request
    delivery: Delivery
    waits: bool
    client_request_id: str = field(factory=lambda: f"kling-{uuid.uuid4().hex}")

    def fulfil(self, *, check_media: bool) -> Exit:
        """Make it, and print what has become of it."""
        code = run(
            self._work,
            screen=self.delivery.screen,
            ledger=self.delivery.ledger,
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
                return await delivery.bring(kling, created)
            delivery.progress.drop(self.client_request_id)
        resume = delivery.ledger.resume_command(created.id)
        delivery.screen.note(f"fetch it with: {resume}", "")
        if not delivery.is_json:
            delivery.screen.result(one_line(created.id))
        return Exit.DONE

    async def _create(self, kling: AsyncKling) -> Generation:
        ledger, request_id = self.delivery.ledger, self.client_request_id
        if self.waits:
            ledger.announce = lambda it: self.delivery.screen.note(it.id)
        else:
            ledger.tell = lambda _: None
        ledger.create_under_way = request_id
        try:
            created = await kling.create(self.request, client_request_id=request_id)
        except KlingError:
            # Whatever it is, the error says it.
            ledger.create_under_way = None
            self.delivery.progress.drop(request_id)
            raise
        return created


def typical_seconds(request: Request) -> float | None:
    """Return how long such a generation usually takes, where somebody says."""
    model = known_model(request.model)
    if model is None:
        return None
    duration = request.to_body().get("duration")
    return model.typical_seconds(None if duration is None else float(str(duration)))

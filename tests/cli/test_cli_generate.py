"""`kling-async generate`: a video in a file, an id, or a line that says why not."""

from __future__ import annotations

import datetime as dt
import json
import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import anyio
import av
import pytest
from PIL import Image
from shell import NEVER, errors_in, invoke, serving, signalled

from kling_async import (
    AsyncKling,
    DownloadError,
    Generation,
    InvalidRequestError,
    SubmissionUncertainError,
)
from kling_async.cli._models import RequestOptions, fitting_model
from kling_async.cli._output import format_error
from kling_async.cli._running import Target
from kling_async.emulator import Emulator

PROMPT = ("--prompt", "A paper boat crosses a puddle.")
MASTER = ("--model", "klingai/v2-master-image-to-video")


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Run an emulator that is done at once."""
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sit down in an empty folder, with one picture."""
    Image.linear_gradient("L").resize((400, 600)).save(tmp_path / "mona.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def is_playable(path: Path | str) -> bool:
    """Whether a player can open a file, and finds a frame in it."""
    with av.open(path) as container:
        return next(container.decode(video=0)).width > 0


@pytest.mark.parametrize("name", ["\ud800.mp4", f"{'ä' * 126}.mp4"])
def test_a_name_that_no_file_can_have_costs_nothing(tmp_path: Path, name: str) -> None:
    """Half of a character, or more than 255 bytes: told before the create."""
    with serving() as emulator:
        result = invoke(emulator, "generate", "-p", "x", "-o", tmp_path / name)
    assert result.exit_code in {1, 2}
    assert len(errors_in(result)) == 1
    assert "unexpected" not in result.stderr
    assert not emulator.creates


def test_a_prompt_becomes_a_file(emulator: Emulator) -> None:
    """Stdout is the file's path and nothing else; the id and the cost are told."""
    result = invoke(emulator, "generate", *PROMPT)
    path = Path(result.stdout.removesuffix("\n"))
    created = emulator.creates[0]
    assert result.exit_code == 0
    assert is_playable(path)
    letters = [it for it in created.generation_id if it.isalnum()]
    assert path.name == f"kling-{''.join(letters[:8])}.mp4"
    assert created.model == "klingai/video-v3-pro-text-to-video"
    assert created.generation_id in result.stderr
    assert "USD" in result.stderr


def test_the_news_is_told_line_by_line_where_nothing_can_move() -> None:
    """Each status once, after the id that is not to be lost."""
    with serving(speed=2000) as emulator:
        result = invoke(emulator, "generate", *PROMPT)
    told = [line.split()[-1] for line in result.stderr.splitlines()]
    statuses = [it for it in told if it in {"queued", "completed", "downloaded"}]
    assert statuses == ["queued", "completed", "downloaded"]
    assert told.index(emulator.creates[0].generation_id) < told.index("queued")


def test_a_local_image_is_sent_and_the_file_is_named(emulator: Emulator) -> None:
    """With an image the model is one that takes it."""
    args = ("--image", "mona.jpg", *PROMPT, "--output", "out.mp4", "--duration", "5")
    result = invoke(emulator, "generate", *args)
    assert (result.stdout, result.exit_code) == ("out.mp4\n", 0)
    assert is_playable("out.mp4")
    assert emulator.creates[0].model == "klingai/video-v3-pro-image-to-video"


def test_json_is_one_object(emulator: Emulator) -> None:
    """With the file beside all that the server said."""
    result = invoke(emulator, "generate", *PROMPT, "--json")
    told = json.loads(result.stdout)
    assert told["id"] == emulator.creates[0].generation_id
    assert told["status"] == "completed"
    assert told["video"]["content_type"] == "video/mp4"
    assert told["client_request_id"] == emulator.creates[0].client_request_id
    assert is_playable(told["file"])


@pytest.mark.parametrize("as_json", [False, True])
def test_no_wait_prints_the_id_and_leaves(*, as_json: bool) -> None:
    """And tells the command that fetches the video later."""
    extra = ["--json"] if as_json else []
    with serving(speed=NEVER) as emulator:
        args = ("--no-wait", "--output", "a b.mp4", *extra)
        result = invoke(emulator, "generate", *PROMPT, *args)
        generation_id = emulator.creates[0].generation_id
    printed = json.loads(result.stdout)["id"] if as_json else result.stdout.strip()
    assert result.exit_code == 0
    assert printed == generation_id
    fetch = shlex.join(["kling-async", "wait", generation_id, "--output", "a b.mp4"])
    assert f"fetch it with: {fetch}\n" in result.stderr


def test_what_is_said_by_name_reaches_the_model(emulator: Emulator) -> None:
    """Options, and fields of the catalogue by --set as text or as JSON."""
    result = invoke(
        emulator,
        "generate",
        *MASTER,
        *("--image", "mona.jpg", *PROMPT, "--negative-prompt", "rain"),
        *("--cfg-scale", "0.5", "--set", "provider=kling"),
        *("--set", "static_mask=mona.jpg"),
        *("--set", 'camera_control={"type": "simple", "config": {"zoom": 3}}'),
    )
    assert result.exit_code == 0
    assert emulator.creates[0].model == MASTER[1]


def wished(*settings: str, images: tuple[str, ...] = (), **fields: object) -> object:
    """Give the body that a command line asks for."""
    wish = RequestOptions(model=None, images=images, fields=fields, settings=settings)
    return wish.to_request().to_body()


def test_a_text_is_read_as_its_field_would_have_it() -> None:
    """Words stay words even if they look like JSON; local files become paths."""
    elements = '[{"reference_image_urls": ["a.png", "https://b.c/d.png"]}]'
    body = wished(
        "prompt=5",
        "generate_audio=false",
        f"elements={elements}",
        images=("~/face.png",),
    )
    assert body == {
        "model": "klingai/video-v3-pro-image-to-video",
        "prompt": "5",
        "generate_audio": False,
        "image_url": Path.home() / "face.png",
        "elements": [
            {"reference_image_urls": [Path("a.png"), "https://b.c/d.png"]},
        ],
    }


def test_a_list_of_images_goes_where_the_model_has_it() -> None:
    """One field or the other; several for an effect are a list in the single one."""
    two = ("https://b.c/1.png", "data:image/png;base64,AAAA")
    hug = wished(images=two, effect_scene="hug")
    several = wished(images=two)
    assert isinstance(hug, dict)
    assert isinstance(several, dict)
    assert hug["image_url"] == list(two)
    assert several["image_list"] == list(two)


def test_an_effect_may_be_told_its_images_as_json() -> None:
    """A field that takes one or a list reads a bracket as a list."""
    body = wished('image_url=["a.png", "b.png"]', effect_scene="hug")
    assert isinstance(body, dict)
    assert body["image_url"] == [Path("a.png"), Path("b.png")]


@pytest.mark.parametrize(
    "given, images, model",
    [
        ("prompt", 0, "klingai/video-v3-pro-text-to-video"),
        ("prompt duration aspect_ratio", 0, "klingai/video-v3-pro-text-to-video"),
        ("", 0, "klingai/video-v3-pro-text-to-video"),
        ("prompt", 1, "klingai/video-v3-pro-image-to-video"),
        ("prompt tail_image_url", 1, "klingai/video-v3-pro-image-to-video"),
        ("prompt", 2, "klingai/video-o1-reference-to-video"),
        ("", 2, "kling-video/v1.6/standard/multi-image-to-video"),
        ("prompt elements", 0, "klingai/video-o1-reference-to-video"),
        ("prompt video_url", 0, "klingai/video-o1-video-to-video-edit"),
        ("prompt video_url duration", 0, "klingai/video-o1-video-to-video-reference"),
        ("video_url", 1, "klingai/video-v3-motion-control"),
        ("audio_url", 1, "klingai/avatar-pro"),
        ("audio_url", 0, "klingai/avatar-pro"),
        ("effect_scene", 1, "klingai/kling-video-v1.6-pro-effects"),
        ("effect_scene", 2, "klingai/kling-video-v1.6-pro-effects"),
        ("prompt static_mask", 1, "klingai/v2.1-master-image-to-video"),
        ("prompt last_image_url", 1, "klingai/video-o1-image-to-video"),
        ("prompt camera_control", 0, "klingai/v2.1-master-text-to-video"),
        ("prompt duraton", 0, "klingai/video-v3-pro-text-to-video"),
        ("prompt extra", 0, "klingai/video-v3-pro-text-to-video"),
    ],
)
def test_the_model_is_the_newest_that_fits(given: str, images: int, model: str) -> None:
    """Of the models that take all that is given the one that needs no more."""
    assert fitting_model(given.split(), images=images) == model


BAD_REQUESTS = {
    "an empty prompt": (("--prompt", " "), "prompt: given ' '"),
    "no prompt": ((), "prompt: given neither"),
    "a missing file": (("-p", "x", "-i", "no.jpg"), "--image: given no.jpg, which is"),
    "a folder as image": (("-p", "x", "-i", "."), "--image: given ., a directory"),
    "no image": (("-p", "x", "-i", "text.jpg"), "(begins with b'words')"),
    "a missing sound": (("-i", "mona.jpg", "--audio", "no.mp3"), "--audio: given no."),
    "a wrong length": ((*MASTER, "-i", "mona.jpg", "-d", "7"), "duration: given 7"),
    "a length in words": (("-d", "five"), "'--duration'"),
    "a wrong scale": (("-p", "x", "--cfg-scale", "1.5"), "cfg_scale: given 1.5"),
    "a wrong effect": (("-i", "mona.jpg", "--effect", "hugg"), "Did you mean 'hug'?"),
    "a wrong field": (("-p", "x", "-s", "duraton=5"), "Did you mean 'duration'?"),
    "no value": (("-p", "x", "-s", "duration"), "given 'duration'; allowed field=v"),
    "no field": (("-p", "x", "-s", "=5"), "given '=5'; allowed field=value"),
    "a field twice": (("-p", "x", "-s", "prompt=y"), "prompt is given twice"),
    "an image twice": (
        ("-p", "x", "-i", "mona.jpg", "-s", "image_url=a.jpg"),
        "image_url is given twice",
    ),
    "the model by --set": (("-s", "model=x"), "the model is given with --model"),
    "half a JSON": (("-p", "x", "-s", "generate_audio={"), "generate_audio: given '{'"),
    "deep JSON": (
        ("-p", "x", "-s", f"generate_audio={'[' * 100_000}"),
        "generate_audio: given '[[",
    ),
    "a folder as output": (("-p", "x", "-o", "."), ". is a directory; name a file"),
    "no such folder": (("-p", "x", "-o", "no/x.mp4"), "there is no directory no"),
    "a file that exists": (
        ("-p", "x", "-o", "mona.jpg"),
        "mona.jpg exists; --overwrite replaces it",
    ),
    "no option": (("--promt", "x"), "No such option: --promt"),
    "no time": (("-p", "x", "--timeout", "0"), "given 0; allowed: seconds, more"),
}


@pytest.mark.parametrize("args, line", BAD_REQUESTS.values(), ids=BAD_REQUESTS)
def test_bad_input_costs_a_line_and_no_money(
    args: tuple[str, ...], line: str, emulator: Emulator, desk: Path
) -> None:
    """Code 2, one line that says what to do, nothing on stdout, nothing sent."""
    (desk / "text.jpg").write_text("words")
    result = invoke(emulator, "generate", *args)
    assert result.exit_code == 2
    assert len(errors_in(result)) == 1
    assert line in errors_in(result)[0]
    assert result.stdout == ""
    assert list(emulator.creates) == []


def test_each_problem_has_its_line(emulator: Emulator) -> None:
    """All that is wrong is told at once."""
    args = (*MASTER, "-i", "mona.jpg", "-d", "7", "--cfg-scale", "1.5")
    result = invoke(emulator, "generate", *args)
    assert [line.split()[1] for line in errors_in(result)] == [
        "duration:",
        "cfg_scale:",
    ]
    assert all(line.endswith("(nothing was sent)") for line in errors_in(result))


def test_a_folder_that_is_closed_is_refused_before_it_costs(
    desk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may not write there is told so at once."""
    monkeypatch.setattr("os.access", lambda *_: False)
    with serving() as emulator:
        result = invoke(emulator, "generate", *PROMPT)
    assert result.exit_code == 2
    assert "cannot be written to" in errors_in(result)[0]
    assert list(emulator.creates) == []
    assert [path.name for path in desk.iterdir()] == ["mona.jpg"]


def test_without_a_key_it_says_how_to_set_one() -> None:
    """In terms of the environment, since that is where a command has it from."""
    result = invoke(None, "generate", *PROMPT)
    assert result.exit_code == 2
    assert errors_in(result)[0].startswith("no API key: set the environment variable")


def test_a_wrong_key_is_the_servers_to_refuse() -> None:
    """Code 1, and the variable to look at."""
    with serving(api_keys=["another"]) as emulator:
        result = invoke(emulator, "generate", *PROMPT)
    assert result.exit_code == 1
    assert "401" in errors_in(result)[0]
    assert "AIMLAPI_KEY" in errors_in(result)[0]
    assert "api_key" not in errors_in(result)[0]


def test_no_credits_is_the_servers_to_refuse() -> None:
    """Code 1, and no id, since there is none."""
    with serving(credits=0) as emulator:
        result = invoke(emulator, "generate", *PROMPT, "--json")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "top up" in errors_in(result)[0]


def test_an_unknown_model_is_sent_with_a_warning(emulator: Emulator) -> None:
    """A model may be newer than this version; the server's refusal is shown."""
    args = ("-m", "klingai/v2-master-image-to-vido", "-i", "mona.jpg", *PROMPT)
    result = invoke(emulator, "generate", *args)
    assert result.exit_code == 1
    assert "warning: model 'klingai/v2-master-image-to-vido' is not kn" in result.stderr
    assert "Body validation error" in errors_in(result)[0]


def test_a_long_refusal_is_shortened() -> None:
    """Its beginning and its end are shown."""
    (line,) = format_error(DownloadError(f"begin {'x' * 1000} end"))
    assert line.startswith("begin ")
    assert " … " in line
    assert line.endswith(" end")
    assert len(line) < 500


def test_a_failed_generation_ends_with_1_and_its_reason() -> None:
    """With JSON the generation is told as well, and no command resumes it."""
    with serving(failure_rate=1) as emulator:
        result = invoke(emulator, "generate", *PROMPT, "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 1
    assert told["status"] == "error"
    assert told["error"]["message"] in errors_in(result)[0]
    assert told["file"] is None
    assert "resume" not in result.stderr


@pytest.mark.parametrize("as_json", [False, True])
def test_when_the_time_is_up_the_way_back_is_told(*, as_json: bool) -> None:
    """Code 3, the command that resumes, with the file that was named."""
    extra = ["--json"] if as_json else []
    with serving(speed=NEVER) as emulator:
        args = ("--timeout", "0.05", "-o", "a b.mp4", "--overwrite", *extra)
        result = invoke(emulator, "generate", *PROMPT, *args)
        generation_id = emulator.creates[0].generation_id
    resume = f"kling-async wait {generation_id} --output 'a b.mp4' --overwrite"
    assert result.exit_code == 3
    assert errors_in(result)[0].endswith("it may still be running and billed")
    assert f"resume with: {resume}\n" in result.stderr
    assert bool(result.stdout) is as_json
    assert not as_json or json.loads(result.stdout)["id"] == generation_id


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_does_not_lose_the_id(number: signal.Signals, code: int) -> None:
    """Whether the create has been answered by then or not."""
    with serving(speed=NEVER) as emulator, signalled(emulator, number):
        result = invoke(emulator, "generate", *PROMPT, "--json")
        generation_id = emulator.creates[0].generation_id
    assert result.exit_code == code
    resume = f"resume with: kling-async wait {generation_id}"
    assert f"\n{generation_id} (queued)\n{resume}\n" in result.stderr
    assert "before a create was answered" not in result.stderr
    assert json.loads(result.stdout)["id"] == generation_id


def test_a_signal_while_downloading_tells_the_way_to_the_video(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has been paid, and is not here yet."""

    async def stop(
        _self: AsyncKling, _done: Generation, path: Path, **_: object
    ) -> Path:
        signal.raise_signal(signal.SIGINT)
        await anyio.sleep_forever()
        return path

    monkeypatch.setattr(AsyncKling, "download", stop)
    result = invoke(emulator, "generate", *PROMPT)
    generation_id = emulator.creates[0].generation_id
    assert result.exit_code == 130
    assert f"\n{generation_id} (completed)\nresume with: " in result.stderr


def test_a_lost_answer_is_neither_success_nor_failure(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code 3, and the id under which the vendor's log lists it."""

    async def lose(_self: AsyncKling, *_: object, client_request_id: str) -> Generation:
        since = dt.datetime(2026, 8, 1, tzinfo=dt.UTC)
        raise SubmissionUncertainError(client_request_id=client_request_id, since=since)

    monkeypatch.setattr(AsyncKling, "create", lose)
    result = invoke(emulator, "generate", *PROMPT)
    assert (result.exit_code, result.stdout) == (3, "")
    assert re.search(r"client request id kling-[0-9a-f]{32} since", result.stderr)
    assert len(errors_in(result)) == 1


def test_a_download_that_fails_can_be_taken_up(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code 1; the paid video is still there for the command that is told."""

    async def fail(
        _self: AsyncKling, done: Generation, _path: Path, **_: object
    ) -> Path:
        raise DownloadError("the disk is full").concerning(done.id, done)

    monkeypatch.setattr(AsyncKling, "download", fail)
    result = invoke(emulator, "generate", *PROMPT)
    generation_id = emulator.creates[0].generation_id
    assert (result.exit_code, result.stdout) == (1, "")
    assert errors_in(result) == ["the disk is full"]
    assert f"resume with: kling-async wait {generation_id}\n" in result.stderr


def test_no_file_is_replaced_unasked(emulator: Emulator, desk: Path) -> None:
    """A name that is taken gets a number; --overwrite replaces what it names."""
    first = invoke(emulator, "generate", *PROMPT).stdout.strip()
    generation_id = emulator.creates[0].generation_id
    second = invoke(emulator, "wait", generation_id).stdout.strip()
    (desk / "old.mp4").write_text("old")
    replaced = invoke(emulator, "wait", generation_id, "-o", "old.mp4", "--overwrite")
    assert second == first.replace(".mp4", "-2.mp4")
    assert replaced.exit_code == 0
    assert all(is_playable(path) for path in (first, second, "old.mp4"))


@pytest.mark.parametrize("generation_id", ["../../etc/passwd", "\x1b[2J", "…"])
def test_a_servers_id_names_no_place(generation_id: str) -> None:
    """Only letters and digits of it get into a file's name."""
    path = Target().path_for(Generation(id=generation_id, status="completed"))  # type: ignore[arg-type]
    assert path.parent == Path()
    assert path.stem.replace("-", "").isalnum()


def test_two_videos_never_share_a_name(desk: Path) -> None:
    """Even if their ids begin alike, and neither is there yet."""
    one = Generation(id="12345678-a", status="completed")  # type: ignore[arg-type]
    first = Target(folder=desk).path_for(one)
    assert Target(folder=desk).path_for(one, [first]).name == "kling-12345678-2.mp4"


def test_media_may_go_unchecked(emulator: Emulator, desk: Path) -> None:
    """What Kling is said to refuse is sent all the same, if somebody insists."""
    Image.new("RGB", (100, 100)).save(desk / "small.png")
    refused = invoke(emulator, "generate", "-i", "small.png", *PROMPT)
    sent = invoke(emulator, "generate", "-i", "small.png", *PROMPT, "--no-check-media")
    assert (refused.exit_code, sent.exit_code) == (2, 0)


def test_a_request_that_is_refused_is_an_error_of_the_library() -> None:
    """What is right is decided in one place, which is not this one."""
    with pytest.raises(InvalidRequestError):
        wished(prompt="")

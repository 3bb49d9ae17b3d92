"""The command as a whole: help, version, logging, the catalogue, the last resort."""

from __future__ import annotations

import importlib.abc
import json
import logging
import re
import sys
from pathlib import Path

import pytest
from shell import NEVER, errors_in, invoke, serving
from typer.testing import CliRunner

import kling_async
from kling_async import AsyncKling, Generation, cli, models
from kling_async._requests import catalogue
from kling_async.cli import _options
from kling_async.cli._app import app
from kling_async.cli._output import clock, in_words, size_in_words

COMMANDS = {
    "batch",
    "demo",
    "emulator",
    "generate",
    "get",
    "jobs",
    "models",
    "wait",
    "watch",
    "worker",
}


def test_the_version_is_the_packages() -> None:
    """On stdout, so that a script can compare it."""
    result = invoke(None, "--version")
    assert result.stdout == f"kling-async {kling_async.__version__}\n"
    assert result.exit_code == 0


def test_help_names_every_command_and_every_exit_code() -> None:
    """A user needs no documentation to begin."""
    result = invoke(None, "--help")
    words = set(result.stdout.replace("│", " ").split())
    assert words >= COMMANDS
    assert words >= {"0", "1", "2", "3", "130"}


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_explains_itself(command: str) -> None:
    """Without a key, a network, or the extras of another command."""
    result = invoke(None, command, "--help")
    assert result.exit_code == 0
    assert f"kling-async {command}" in result.stdout or command in result.stdout


def test_without_a_command_it_helps_and_complains() -> None:
    """Code 2: nothing was done."""
    result = invoke(None)
    assert result.exit_code == 2
    assert "Usage:" in result.stdout


def test_a_command_that_is_misspelt_is_guessed() -> None:
    """In one line on stderr."""
    result = invoke(None, "modles")
    assert (result.exit_code, result.stdout) == (2, "")
    assert errors_in(result) == ["No such command 'modles'. Did you mean 'models'?"]


def test_verbose_logs_to_stderr_and_not_the_key() -> None:
    """Every exchange is there, and stdout is as without it."""
    with serving(speed=NEVER) as emulator:
        env = {"AIMLAPI_KEY": "sk-secret"}
        args = ("--verbose", "generate", "-p", "x", "--no-wait")
        result = invoke(emulator, *args, env=env)
        assert result.stdout.strip() == emulator.creates[0].generation_id
    assert "debug: POST http" in result.stderr
    assert "info: created generation" in result.stderr
    assert "sk-secret" not in result.output


def test_a_command_leaves_the_logger_as_it_was() -> None:
    """It may be run inside of somebody's program."""
    logger = logging.getLogger("kling_async")
    before = (logger.level, list(logger.handlers))
    invoke(None, "--verbose", "models")
    assert (logger.level, list(logger.handlers)) == before


@pytest.mark.parametrize("extra", [[], ["--verbose"]])
def test_a_bug_is_one_line_unless_somebody_wants_to_see_it(
    extra: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No traceback reaches a user who did not ask for it."""

    async def fail(_self: AsyncKling, _id: str) -> Generation:
        raise ZeroDivisionError("not\nexpected")

    monkeypatch.setattr(AsyncKling, "get", fail)
    result = invoke("http://127.0.0.1:1", *extra, "get", "some-id")
    assert (result.exit_code, result.stdout) == (1, "")
    assert errors_in(result)[0].startswith("unexpected ")
    assert ("Traceback" in result.stderr) is bool(extra)


def test_of_a_group_of_errors_one_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not that there was a group."""

    async def fail(_self: AsyncKling, _id: str) -> Generation:
        raise ExceptionGroup("several", [OSError(28, "No space left", "film.mp4")])

    monkeypatch.setattr(AsyncKling, "get", fail)
    result = invoke("http://127.0.0.1:1", "get", "some-id")
    assert (result.exit_code, result.stdout) == (1, "")
    assert errors_in(result) == ["film.mp4: No space left"]


def test_a_file_in_the_way_is_one_line(tmp_path: Path) -> None:
    """What the operating system refuses is told with the file's name."""
    (tmp_path / "file").write_text("")
    result = invoke(None, "demo", "--output-dir", tmp_path / "file")
    assert result.exit_code == 1
    assert errors_in(result) == [f"{tmp_path / 'file'}: File exists"]


def test_without_typer_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The core is light, and the command is an extra."""
    monkeypatch.setitem(sys.modules, "typer", None)
    monkeypatch.delitem(sys.modules, "kling_async.cli._app")
    with pytest.raises(SystemExit) as ending:
        cli.main()
    assert ending.value.code == 2
    assert capsys.readouterr().err == (
        'error: typer is not installed: pip install "kling_async[cli]"\n'
    )


def test_ctrl_c_while_it_is_still_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing has been sent by then, and no traceback is due."""

    class Impatient(importlib.abc.MetaPathFinder):
        def find_spec(self, name: str, *_: object) -> None:
            if name == "kling_async.cli._app":
                raise KeyboardInterrupt

    monkeypatch.setattr(sys, "meta_path", [Impatient(), *sys.meta_path])
    monkeypatch.delitem(sys.modules, "kling_async.cli._app")
    with pytest.raises(SystemExit) as ending:
        cli.main()
    assert ending.value.code == 130


def test_another_import_that_fails_is_not_hidden(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Only what the extra brings is explained by the extra."""
    monkeypatch.setitem(sys.modules, "kling_async.cli._emulator", None)
    monkeypatch.delitem(sys.modules, "kling_async.cli._app")
    with pytest.raises(ModuleNotFoundError, match="_emulator"):
        cli.main()


def test_the_entry_point_runs_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under its own name, however it was started."""
    monkeypatch.setattr(sys, "argv", ["__main__.py", "generate", "--help"])
    with pytest.raises(SystemExit) as ending:
        cli.main()
    assert ending.value.code == 0
    assert "Usage: kling-async generate" in capsys.readouterr().out


def test_models_are_lines_for_a_pipe() -> None:
    """Id and kind, to be cut and searched."""
    result = invoke(None, "models")
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert lines == [[model.id, model.kind] for model in models.list()]


def test_models_are_a_table_for_eyes() -> None:
    """By kind, with lengths and usual times, on a terminal."""
    env = {"FORCE_COLOR": "1", "COLUMNS": "80", "NO_COLOR": "1", "TERM": "xterm"}
    lines = CliRunner().invoke(app, ["models"], env=env).stdout.splitlines()
    plain = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    assert max(map(len, plain)) <= 80
    assert any("v2-master-image-to-video  " in it and "5, 10 s" in it for it in plain)
    assert any("5:30, 12:30" in it for it in plain)
    assert any("3 to 15 s" in it for it in plain)


def test_models_can_be_chosen_by_kind_and_field() -> None:
    """Both together, as JSON."""
    args = ("--kind", "image-to-video", "--field", "elements", "--json")
    told = json.loads(invoke(None, "models", *args).stdout)
    expected = models.list("image-to-video", field="elements")
    assert [it["id"] for it in told] == [model.id for model in expected]


def test_a_model_as_json_leaves_out_what_is_not_said() -> None:
    """But says whatever a script needs to fill in a form."""
    told = json.loads(
        invoke(None, "models", "klingai/v2-master-image-to-video", "--json").stdout
    )
    assert told["required"] == ["image_url"]
    assert told["fields"]["duration"] == {
        "type": "integer",
        "choices": [5, 10],
        "default": 5,
    }
    assert told["fields"]["cfg_scale"] == {"type": "number", "minimum": 0, "maximum": 1}
    assert told["typical_seconds"] == {"5": 330.0, "10": 750.0}


@pytest.mark.parametrize("model", models.list(), ids=lambda model: model.id)
def test_every_model_can_be_looked_at(model: models.Model) -> None:
    """All its fields, what they take, and what holds between them; as JSON too."""
    page = invoke(None, "models", model.id).stdout
    told = json.loads(invoke(None, "models", model.id, "--json").stdout)
    assert told["fields"].keys() == model.fields.keys()
    assert page.startswith(f"{model.id}\n{model.kind}")
    assert all(f"\n{name} " in page for name in model.fields)
    assert all(rule.text in page for rule in model.rules)


@pytest.mark.parametrize(
    "args, line",
    [
        (("klingai/v2-master",), "model: given 'klingai/v2-master'; allowed the id"),
        (("--kind", "efects"), "Did you mean 'effects'?"),
    ],
)
def test_what_is_not_in_the_catalogue_is_guessed(
    args: tuple[str, ...], line: str
) -> None:
    """Code 2 and a line."""
    result = invoke(None, "models", *args)
    assert (result.exit_code, result.stdout) == (2, "")
    assert line in errors_in(result)[0]


def test_a_field_that_no_model_takes_gives_nothing() -> None:
    """An empty list is an answer."""
    result = invoke(None, "models", "--field", "colour")
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == "no model takes colour\n"


@pytest.fixture
def newer(tmp_path: Path) -> Path:
    """Write a catalogue with one more model, of one more field."""
    file = Path(catalogue.__file__).with_name("catalogue.json")
    data = json.loads(file.read_text("utf-8"))
    data["fields"]["mood"] = {"type": "string", "choices": ["gay", "grim"]}
    fields = {"required": ["prompt"], "fields": ["prompt", "mood"], "aliases": ["v9"]}
    data["models"]["klingai/v9"] = {"kind": "text-to-video", **fields}
    path = tmp_path / "catalogue.json"
    path.write_text(json.dumps(data), "utf-8")
    return path


def test_a_newer_catalogue_holds_for_one_run(newer: Path) -> None:
    """Its model is listed, explained, checked and sent; then it is forgotten."""
    with serving() as emulator:
        asked = (
            "--catalogue",
            str(newer),
            "generate",
            "--prompt",
            "a boat",
            "--no-wait",
        )
        sent = invoke(emulator, *asked, "--model", "v9", "--set", "mood=grim")
        odd = invoke(emulator, *asked, "--model", "v9", "--set", "mood=odd")
        listed = invoke(None, "--catalogue", str(newer), "models")
        shown = invoke(None, "--catalogue", str(newer), "models", "klingai/v9")
        after = invoke(None, "models", "klingai/v9")
    assert "klingai/v9" in listed.stdout
    assert (shown.exit_code, after.exit_code) == (0, 2)
    assert "mood" in shown.stdout
    assert odd.exit_code == 2
    assert "allowed 'gay', 'grim'" in errors_in(odd)[0]
    # The emulator of this test has a catalogue of its own, without that model.
    assert "the API answered 400" in errors_in(sent)[0]
    assert "'v9'" in errors_in(sent)[0]


@pytest.mark.parametrize("content", [None, "", "{}", '{"models": 1}', "no JSON"])
def test_a_catalogue_that_is_none_is_told(content: str | None, tmp_path: Path) -> None:
    """Before anything is sent."""
    path = tmp_path / "odd.json"
    if content is not None:
        path.write_text(content)
    result = invoke(None, "--catalogue", str(path), "models")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "odd.json" in errors_in(result)[0]


def test_a_shell_completes_models() -> None:
    """With their kinds beside them."""
    assert _options.complete_model("klingai/avatar-p") == [
        ("klingai/avatar-pro", "avatar")
    ]


def test_figures_are_told_as_people_tell_them() -> None:
    """Minutes and seconds, kilobytes and megabytes."""
    assert [clock(it) for it in (0, 9.9, 125)] == ["0:00", "0:09", "2:05"]
    assert [in_words(it) for it in (0.25, 45, 120, 330)] == [
        "0.2 s",
        "45 s",
        "2 min",
        "5 min 30 s",
    ]
    assert [size_in_words(it) for it in (12, 5150, 5150376)] == [
        "12 bytes",
        "5 kB",
        "5.2 MB",
    ]

"""Every code block of README and docs runs, as a reader would run it.

A document's Python blocks share their names, top to bottom, against an emulator.
Shell blocks that call `kling-async` run too. ``<!-- run ... -->`` holds hidden
Python, such as a check of what a block left; ``<!-- not run -->`` before a block
says that it never ends or is run elsewhere.
"""

from __future__ import annotations

import ast
import asyncio
import inspect
import logging
import re
import shlex
import subprocess
from collections.abc import Generator, Iterator
from pathlib import Path
from types import CodeType

import pytest
from attrs import frozen
from markdown_it import MarkdownIt
from PIL import Image
from shell import invoke, serving

import kling_async
from kling_async import types
from kling_async.emulator import Emulator

ROOT = Path(__file__).parents[2]
DOCUMENTS = {
    str(path.relative_to(ROOT)): path
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    if "_build" not in path.parts
}
SPEED = 5000
PYTHON, SHELL = "python", "bash"
RUN_ELSEWHERE = (
    "<!-- not run",
    "<!-- run by pytest",
    "<!-- the demo command -->",
    "<!-- tutorial -->",  # by `nox -s tutorial`
    "<!-- tutorial, in the background -->",
)
THE_TEST_COMMAND = "<!-- the test command -->"


@frozen
class Block:
    """A piece of code in a document."""

    language: str
    code: str
    line: int


def blocks_in(path: Path) -> Iterator[Block]:
    """Give the blocks that are to run, in order."""
    marker = ""
    for token in MarkdownIt().parse(path.read_text("utf-8")):
        line = (token.map or [0])[0] + 1
        if token.type == "html_block":
            marker = token.content.strip()
            if hidden := re.fullmatch(r"<!-- run\n(.*?)-->", marker, re.DOTALL):
                yield Block(PYTHON, hidden[1], line + 1)
        elif token.type == "fence":
            if not marker.startswith((*RUN_ELSEWHERE, THE_TEST_COMMAND)):
                yield Block(token.info.strip(), token.content, line + 1)
            marker = ""


def compiled(block: Block, path: Path) -> CodeType:
    """Compile a block so that an error shows its line in the document."""
    code = "\n" * (block.line - 1) + block.code
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    done: CodeType = compile(code, str(path), "exec", flags=flags, dont_inherit=True)
    return done


def run_python(
    block: Block, path: Path, names: dict[str, object], notebook: asyncio.Runner
) -> None:
    """Run a block: a notebook's cell on its event loop, all else as a program."""
    code = compiled(block, path)
    if code.co_flags & inspect.CO_COROUTINE:
        notebook.run(eval(code, names))
    else:
        exec(code, names)


def run_shell(block: Block, emulator: Emulator) -> None:
    """Run each command of a block that is ours; it has to succeed."""
    for command in block.code.replace("\\\n", "").splitlines():
        words = shlex.split(command, comments=True)
        if not words:
            continue
        assert words[0] == "kling-async", f"mark it as not run: {command}"
        result = invoke(emulator, *words[1:])
        assert result.exit_code == 0, f"{command}\n{result.output}"


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[Path]:
    """Sit a reader down where the files lie that the documents speak of."""
    loggers = [logging.getLogger(), logging.getLogger("kling_async")]
    before = [(it, it.level, it.handlers[:]) for it in loggers]
    for name in ("mona.jpg", "scene.jpg", "last.jpg"):
        Image.linear_gradient("L").resize((400, 600)).save(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for it, level, handlers in before:
        it.setLevel(level)
        it.handlers[:] = handlers


@pytest.mark.parametrize("name", DOCUMENTS)
@pytest.mark.usefixtures("desk")
def test_every_code_block_runs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader who copies it gets what the text promises."""
    path = DOCUMENTS[name]
    names: dict[str, object] = {"__name__": "__main__"}
    with serving(speed=SPEED) as emulator, asyncio.Runner() as notebook:
        monkeypatch.setenv("AIMLAPI_BASE_URL", emulator.base_url)
        monkeypatch.setenv("AIMLAPI_KEY", "any-key")
        for block in blocks_in(path):
            if block.language == PYTHON:
                run_python(block, path, names, notebook)
            elif block.language == SHELL:
                run_shell(block, emulator)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_every_block_names_a_language_that_is_run_or_shown(name: str) -> None:
    """No block escapes by a misspelt language."""
    shown = {"text", "console", "json", "toml", "ini", "html", "css", "javascript"}
    shown |= {"powershell"}  # beside the same in bash
    languages = {block.language for block in blocks_in(DOCUMENTS[name])}
    directives = {it for it in languages if it.startswith("{")}
    assert languages - directives <= {PYTHON, SHELL} | shown


@pytest.mark.parametrize("name", DOCUMENTS)
def test_a_page_with_await_outside_of_a_function_says_where_it_runs(name: str) -> None:
    """A reader who saves such a block as a program would get a SyntaxError."""
    path = DOCUMENTS[name]
    visible = re.sub(r"<!-- run\n.*?-->", "", path.read_text("utf-8"), flags=re.DOTALL)
    fences = [it for it in MarkdownIt().parse(visible) if it.type == "fence"]
    codes = [it.content for it in fences if it.info.strip() == PYTHON]
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    kinds = [compile(it, name, "exec", flags, dont_inherit=True) for it in codes]
    if any(it.co_flags & inspect.CO_COROUTINE for it in kinds):
        assert "python -m asyncio" in visible or "of a cell" in visible


def test_ci_runs_the_test_command_of_the_readme() -> None:
    """`.ci/run` reads it from there, so that the two cannot differ."""
    script = (ROOT / ".ci/run").read_text("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")
    assert THE_TEST_COMMAND in script
    assert readme.count(THE_TEST_COMMAND) == 1
    command = readme.partition(f"{THE_TEST_COMMAND}\n```bash\n")[2].partition("\n")[0]
    assert command.endswith(".venv/bin/nox")


def test_the_folder_holds_nothing_at_its_top_that_has_no_place_there() -> None:
    """Examples, notebooks and benchmarks live under `docs/` and `tests/`."""
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    top = {name.split("/")[0] for name in listed.stdout.splitlines()}
    visible = {name for name in top if not name.startswith(".")}
    expected = {"pyproject.toml", "README.md", "LICENSE", "noxfile.py"}
    assert visible - {"kling_async", "tests", "docs"} == expected


def test_the_reference_has_every_public_name() -> None:
    """Whatever can be imported can be looked up."""
    pages = [path.read_text("utf-8") for path in (ROOT / "docs/reference").glob("*.md")]
    named = set(
        re.findall(r"auto(?:class|exception|function):: (\w+)", "\n".join(pages))
    )
    assert set(kling_async.__all__) - named == {"__version__", "models"}


def test_the_reference_has_every_value_that_documents_itself_by_its_name() -> None:
    """Aliases and constants have no docstring, so they are listed one by one."""
    page = (ROOT / "docs/reference/requests.md").read_text("utf-8")
    listed = set(re.findall(r"autodata:: (\w+)", page))
    public = {it for it in vars(types) if it[0].isalpha()} - {"annotations"}
    aliases = {it for it in public if not isinstance(vars(types)[it], type)}
    assert listed == aliases | {"KINDS", "Kind"}

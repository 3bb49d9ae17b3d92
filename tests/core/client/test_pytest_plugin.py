"""The pytest plugin in a user's project, as pytest finds it there."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

pytest_plugins = ["pytester"]

MODES = pytest.mark.parametrize("mode", ["auto", "strict"])


@pytest.fixture
def project(pytester: pytest.Pytester) -> pytest.Pytester:
    """Make a project in which a warning is an error, as careful users have it."""
    import_module("kling_async.emulator")  # a run forgets what it was first to import
    pytester.makeini(
        "[pytest]\n"
        "asyncio_default_fixture_loop_scope = function\n"
        "filterwarnings = error\n"
        "addopts = --strict-markers\n"
    )
    return pytester


def run(
    project: pytest.Pytester,
    test: str,
    mode: str = "strict",
    *more: str,
    is_apart: bool = False,
) -> pytest.RunResult:
    """Run one test file: in this process, which is quick, or in one of its own."""
    project.makepyfile(test)
    run = project.runpytest_subprocess if is_apart else project.runpytest_inprocess
    return run(f"--asyncio-mode={mode}", "-p", "no:cacheprovider", *more)


@MODES
def test_a_generation_of_minutes_is_awaited_on_a_clock_that_jumps(
    project: pytest.Pytester, mode: str
) -> None:
    """In either mode of pytest-asyncio; the real clock hardly moves."""
    result = run(
        project,
        """
        import time

        import pytest

        @pytest.mark.asyncio
        async def test_it(kling, looptime):
            began = time.monotonic()
            generation = await kling.generate(
                model="klingai/v2-master-text-to-video", prompt="A cat", duration=10
            )
            assert generation.succeeded
            assert 8 * 60 < looptime < 20 * 60
            assert time.monotonic() - began < looptime / 10
        """,
        mode,
    )
    result.assert_outcomes(passed=1)


@MODES
def test_the_emulator_is_at_hand_with_what_it_was_asked(
    project: pytest.Pytester, mode: str
) -> None:
    """A test can count what would have been paid for."""
    result = run(
        project,
        """
        import pytest

        @pytest.mark.asyncio
        async def test_it(kling, kling_emulator):
            for prompt in ("A cat", "A dog"):
                await kling.create(
                    model="klingai/v2-master-text-to-video", prompt=prompt
                )
            assert len(kling_emulator.creates) == 2
        """,
        mode,
    )
    result.assert_outcomes(passed=1)


def test_a_marker_sets_the_emulator_up(project: pytest.Pytester) -> None:
    """The nearest marker counts, option by option."""
    result = run(
        project,
        """
        import pytest
        from kling_async import GenerationFailedError, OutOfCreditsError

        pytestmark = [
            pytest.mark.asyncio,
            pytest.mark.kling_emulator(failure_rate=1, speed=60),
        ]
        TEXT = {"model": "klingai/v2-master-text-to-video", "prompt": "A cat"}

        async def test_failure(kling, looptime):
            with pytest.raises(GenerationFailedError):
                await kling.generate(**TEXT)
            assert looptime < 20

        @pytest.mark.kling_emulator(credits=0)
        async def test_poverty(kling):
            with pytest.raises(OutOfCreditsError):
                await kling.create(**TEXT)

        @pytest.mark.kling_emulator(failure_rate=0)
        async def test_success(kling):
            assert (await kling.generate(**TEXT)).succeeded

        @pytest.mark.parametrize("seed", [7, 7])
        async def test_seed(request, seed, kling_emulator, kling):
            first = await kling.create(**TEXT)
            again = request.config.stash.setdefault(IDS, first.id)
            assert first.id == again

        IDS = pytest.StashKey()
        """,
    )
    result.assert_outcomes(passed=5)


def test_an_option_that_is_none_is_told(project: pytest.Pytester) -> None:
    """A misspelt option fails the test that it stands at, by name."""
    result = run(
        project,
        """
        import pytest

        @pytest.mark.asyncio
        @pytest.mark.kling_emulator(spede=60)
        async def test_it(kling):
            pass
        """,
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*unexpected keyword argument 'spede'*"])


def test_the_emulator_serves_on_a_socket_too(project: pytest.Pytester) -> None:
    """For code that makes its own client, or is not Python; on the real clock."""
    result = run(
        project,
        """
        import pytest
        from kling_async import AsyncKling

        @pytest.mark.asyncio
        @pytest.mark.kling_emulator(speed=1e6)
        async def test_it(kling_emulator, tmp_path):
            async with kling_emulator, AsyncKling(
                "any-key", base_url=kling_emulator.base_url
            ) as kling:
                generation = await kling.generate(
                    model="klingai/v2-master-text-to-video", prompt="A cat"
                )
                path = await kling.download(generation, tmp_path / "cat.mp4")
                assert path.stat().st_size > 1000
        """,
    )
    result.assert_outcomes(passed=1)


def test_a_project_that_uses_none_of_it_pays_nothing(project: pytest.Pytester) -> None:
    """Being installed imports no emulator, with all that it needs."""
    result = run(
        project,
        """
        import sys

        def test_it():
            heavy = {"kling_async.emulator", "av", "PIL", "starlette", "uvicorn"}
            assert not heavy & sys.modules.keys()
        """,
        is_apart=True,
    )
    result.assert_outcomes(passed=1)


def test_being_found_by_pytest_imports_nothing_but_itself() -> None:
    """No library that it stands on: milliseconds, whether it is used or not."""
    program = (
        "import pytest, sys, typing; before = set(sys.modules); "
        "import kling_async.pytest_plugin; print(*set(sys.modules) - before)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True
    )
    assert set(ran.stdout.split()) == {"kling_async", "kling_async.pytest_plugin"}


def recipes(which: str = "") -> list[str]:
    """Give the blocks of the page for users' own tests, as they stand there."""
    text = (Path(__file__).parents[3] / "docs/how-to/testing.md").read_text("utf-8")
    block = rf"<!-- run by pytest{which} -->\n```python\n(.*?)```"
    return re.findall(block, text, re.DOTALL)


def test_the_recipes_of_the_documentation_pass(project: pytest.Pytester) -> None:
    """The page for users' own tests, copied into a file."""
    count = sum(recipe.count("async def test_") for recipe in recipes())
    result = run(project, "\n".join(recipes()), is_apart=True)
    result.assert_outcomes(passed=count)
    assert count > 5


def test_the_recipes_for_a_web_app_pass(project: pytest.Pytester) -> None:
    """With Starlette's client on the real clock, and on the one that jumps."""
    # As the page says: a plain test leaves behind a loop that looptime made.
    unclosed = ("-W", "ignore:unclosed:ResourceWarning")
    recipe = "\n".join(recipes(": web app"))
    result = run(project, recipe, "strict", *unclosed, is_apart=True)
    result.assert_outcomes(passed=2)


def test_without_looptime_it_is_said_what_to_install(project: pytest.Pytester) -> None:
    """A clock that stands would look like a test that hangs."""
    project.makepyfile(
        """
        import pytest

        @pytest.mark.asyncio
        async def test_it(kling):
            pass
        """
    )
    off = ("-p", "no:looptime_plugin", "-p", "no:looptime_timeproxies")
    result = project.runpytest_inprocess(*off, "-p", "no:looptime_chronometers")
    result.stdout.fnmatch_lines(["*kling_async?pytest?*"])


def test_a_fixture_of_the_users_own_called_kling_is_theirs(
    project: pytest.Pytester,
) -> None:
    """Its clock is not turned."""
    result = run(
        project,
        """
        import pytest

        @pytest.fixture
        def kling():
            return "my own"

        @pytest.mark.asyncio
        async def test_it(kling, request):
            assert kling == "my own"
            assert request.node.get_closest_marker("looptime") is None
        """,
    )
    result.assert_outcomes(passed=1)


def test_without_looptime_other_tests_run(project: pytest.Pytester) -> None:
    """With strict markers as well; only who uses the fixture is told."""
    project.makepyfile(
        """
        def test_other():
            pass

        def test_kling(kling):
            pass
        """
    )
    names = ("looptime_plugin", "looptime", "cacheprovider")
    plugins = (option for name in names for option in ("-p", f"no:{name}"))
    result = project.runpytest_inprocess(*plugins)
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*pip install *kling_async*pytest*"])
    result.stdout.no_fnmatch_line("*INTERNALERROR*")


@MODES
def test_under_anyio_it_says_what_to_do(project: pytest.Pytester, mode: str) -> None:
    """Rather than wait for minutes on a clock that nobody turns."""
    result = run(
        project,
        """
        import pytest

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_it(kling):
            await kling.generate(
                model="klingai/v2-master-text-to-video", prompt="A cat"
            )
        """,
        mode,
    )
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*pytest.mark.asyncio instead of pytest.mark.anyio*"])

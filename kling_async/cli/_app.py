"""The whole command: its subcommands, its global options, its exit codes.

Every error below ends here, as a line on stderr and a code.
"""

from __future__ import annotations

import ast
import inspect
import io
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from typer.core import TyperGroup

from kling_async import KlingError, __version__, load_catalogue
from kling_async._checks import MissingExtraError
from kling_async._requests.catalogue import use_catalogue
from kling_async.cli._emulator import demo, emulator
from kling_async.cli._generate import generate, get, wait, watch
from kling_async.cli._jobs import batch, jobs, worker
from kling_async.cli._models import models
from kling_async.cli._money import balance, doctor, log, price, reconcile
from kling_async.cli._options import IdCommand
from kling_async.cli._output import Exit, Screen, ScreenHandler, exit_for, format_error

logger = logging.getLogger("kling_async")

_ENDS = (
    "Exit codes: 0 done; 1 the generation failed, the API refused, or a file could "
    "not be written; 2 wrong usage or an invalid request; 3 timed out or uncertain; "
    "130 Ctrl-C."
)


class Commands(TyperGroup):
    """The subcommands, run so that no traceback reaches a user."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002 (Typer's own)
        windows_expand_args: bool = True,
        **extra: object,
    ) -> NoReturn:
        """Run a command, and exit with its code."""
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is
        screen = Screen()
        handler, level = ScreenHandler(screen), logger.level
        logger.addHandler(handler)
        try:
            code = super().main(
                args,
                prog_name,
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                obj=screen,
                **extra,
            )
        except Exception as error:  # noqa: BLE001 (the last resort)
            code = _report_error(error, screen)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
        sys.exit(code)


def _report_error(error: BaseException, screen: Screen) -> Exit:
    while isinstance(error, BaseExceptionGroup):  # of a task group: one is enough
        error = error.exceptions[0]
    match error:
        case KlingError():
            for line in format_error(error):
                screen.error(line)
            return exit_for(error)
        case typer.TyperException():
            screen.error(error.format_message())
            return Exit.USAGE
        case MissingExtraError():
            screen.error(error)
            return Exit.USAGE
        case BrokenPipeError():
            pass  # the reader of the results is gone
        case OSError(filename=str(name), strerror=str(reason)):
            screen.error(f"{name}: {reason}")
        case _:
            logger.debug("unexpected error, please report it", exc_info=error)
            told_as = f"{type(error).__name__}: {error}"
            screen.error(f"unexpected {told_as} (--verbose shows where)")
    return Exit.FAILED


def _print_version(*, wanted: bool) -> None:
    if wanted:
        typer.echo(f"kling-async {__version__}")
        raise typer.Exit


Version = Annotated[
    bool,
    typer.Option(
        "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
]

Verbose = Annotated[
    bool, typer.Option("--verbose", "-v", help="Log what happens to stderr.")
]


Catalogue = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="A newer catalogue of models than the built-in."),
]


def kling_async(
    ctx: typer.Context,
    *,
    _version: Version = False,
    verbose: Verbose = False,
    catalogue: Catalogue = None,
) -> None:
    """Kling videos through the AI/ML API, and the API itself on your machine.

    The key is read from AIMLAPI_KEY. No key? `kling-async demo` needs none.
    """
    if verbose:
        logger.setLevel(logging.DEBUG)
    if catalogue is not None:
        ctx.with_resource(use_catalogue(load_catalogue(catalogue)))
    if ctx.invoked_subcommand is None:
        typer.echo(ctx.get_help())
        raise typer.Exit(Exit.USAGE)


app = typer.Typer(
    cls=Commands,
    callback=kling_async,
    invoke_without_command=True,
    epilog=_ENDS,
    pretty_exceptions_enable=False,
)


# A command is a function in a module of its own, listed here.
for _command in (
    generate,
    get,
    watch,
    wait,
    batch,
    worker,
    models,
    price,
    balance,
    doctor,
    log,
    reconcile,
    emulator,
    demo,
):
    app.command(_command.__name__, cls=IdCommand)(_command)

app.command(
    "download",
    cls=IdCommand,
    help="Write the videos of generations; the same as `wait`.",
)(wait)


app.add_typer(jobs)


def _restore_description(command: Callable[..., object] | None) -> None:
    """Give a command the description that `python -OO` has taken out of it."""
    if command is not None and command.__doc__ is None:
        (definition,) = ast.parse(inspect.getsource(command)).body
        assert isinstance(definition, ast.FunctionDef)  # noqa: S101 (narrows)
        command.__doc__ = ast.get_docstring(definition)


_restore_description(kling_async)
for _group in (app, jobs):
    for _registered in _group.registered_commands:
        _restore_description(_registered.callback)

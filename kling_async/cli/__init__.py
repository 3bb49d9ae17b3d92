"""The command `kling-async`.

It ends with one of these codes:

    0    done
    1    the generation failed, the API refused, or something could not be written
    2    the command is wrong, or the request was refused before it was sent
    3    the time was up, or a create is uncertain: it may go on, and be billed
    130  Ctrl-C (143 for SIGTERM): generations go on, and how to continue is printed

Results go to stdout, all else to stderr. Needs the extra ``cli``.
"""

from __future__ import annotations

import gc
import signal
import sys
from types import FrameType

from kling_async._checks import MissingExtraError, needs_extra

__all__ = ["main"]


def main() -> None:
    """Run the command that the arguments of this process name, and exit."""
    # From the first moment: what comes next takes a while.
    signal.signal(signal.SIGTERM, _leave)
    gc.disable()  # what is loaded stays: to look through it again and again takes time
    try:
        # Late, so that without typer there is a line to read and no traceback.
        with needs_extra("cli", "rich", "typer"):
            from kling_async.cli._app import app
        gc.freeze()
        gc.enable()
        app(prog_name="kling-async")
    except MissingExtraError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(143)

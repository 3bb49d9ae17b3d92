"""A real program in Python's development mode, with every warning an error."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from shell import serving

import kling_async

STRICTLY = ("-X", "dev", "-W", "error")
PROGRAM = Path(__file__).with_name("strict_program.py")


def test_nothing_warns_while_it_runs_nor_at_its_end(tmp_path: Path) -> None:
    """No task, socket, file or generator is left for Python to complain of."""
    tree = str(Path(kling_async.__file__).parent.parent)
    with serving() as emulator:
        done = subprocess.run(
            [sys.executable, *STRICTLY, PROGRAM, emulator.base_url, str(tmp_path)],
            env={"PYTHONPATH": tree},
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "video.mp4").stat().st_size > 0

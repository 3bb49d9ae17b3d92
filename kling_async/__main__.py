"""`python -m kling_async`: the command `kling-async`, if that is not on the PATH."""

from __future__ import annotations

from kling_async.cli import main

main()

"""`python -m kling_async`: the command `kling-async`, where it is not on the path."""

from __future__ import annotations

from kling_async.cli import main

main()

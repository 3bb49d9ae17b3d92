"""What each public method does at each fault of the emulator, as the docs show it."""

from __future__ import annotations

import csv
import logging
from pathlib import Path

import pytest
import socket_clock
from fault_matrix import COLUMNS, FAULTS, HOW_OFTEN, TABLE, expected, observed

from kling_async.emulator._faults import EFFECTS

CASES = [
    pytest.param(column, number, id=name.strip())
    for column in COLUMNS
    for number, name in enumerate(column.split(","))
]


@pytest.mark.parametrize("column, number", CASES)
def test_each_method_meets_each_fault_as_told(
    column: str, number: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Its result or its error, how often it asked, what is billed: cell by cell."""
    caplog.set_level(logging.CRITICAL, logger="kling_async")
    cells: dict[str, str] = {}

    async def look() -> None:
        cells.update(await observed(column, number, tmp_path))

    socket_clock.run(look)
    assert cells == expected(column)
    assert [it.name for it in tmp_path.iterdir()] in ([], ["film.mp4"])


def test_every_fault_is_in_the_table() -> None:
    """One that the emulator learns is to be met, too."""
    assert {fault.effect for fault in FAULTS.values()} == set(EFFECTS)
    with TABLE.open(encoding="utf-8", newline="") as file:
        header, *rows = csv.reader(file)
    assert header == ["fault", "strikes", *COLUMNS]
    assert [row[:2] for row in rows] == [
        [name, often] for name in FAULTS for often in HOW_OFTEN
    ]

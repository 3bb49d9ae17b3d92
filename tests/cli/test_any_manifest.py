"""Any manifest of a batch: rows to send, or all that is wrong with it, line by line.

What hypothesis thinks of goes in, as CSV and as JSON Lines: bytes, texts, and rows
that are nearly right.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st

from kling_async import InvalidRequestError
from kling_async.cli._manifest import Manifest, RowPlan

Row = Mapping[str, object]

COLUMNS = """
    key output model prompt duration image_url aspect_ratio negative_prompt cfg_scale
    multi_prompt image_list extra
""".split()
MODELS = ["klingai/v2-master-text-to-video", "klingai/video-v3-pro-text-to-video"]
FEW = settings(
    derandomize=True,
    deadline=None,
    max_examples=20,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

words = st.sampled_from(
    [
        *MODELS,
        "5",
        "0.5",
        "16:9",
        "a.mp4",
        "../a.mp4",
        ".",
        "/",
        "\ud800",
        "\0",
        "[",
        "{}",
    ]
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | words | st.text()
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(COLUMNS), inner, max_size=3)
    ),
    max_leaves=6,
)
rows = st.lists(
    st.dictionaries(st.sampled_from(COLUMNS), values, max_size=6), max_size=4
)
# What a spreadsheet and JSON can both hold: no cell of blanks, no line of its own.
prompts = st.text(st.characters(exclude_categories=["C"]), min_size=1).filter(str.strip)
good_rows = st.lists(
    st.fixed_dictionaries(
        {"model": st.sampled_from(MODELS), "prompt": prompts},
        optional={"duration": st.sampled_from([5, 10])},
    ),
    min_size=1,
    max_size=4,
)


def planned(folder: Path, name: str, content: bytes) -> list[RowPlan]:
    """Read a manifest."""
    path = folder / name
    path.write_bytes(content)
    return anyio.run(Manifest(str(path), folder / "videos").plan)


def as_json(rows: Sequence[Row], *, ascii_only: bool = True) -> bytes:
    """Write rows as JSON Lines."""
    lines = [json.dumps(row, ensure_ascii=ascii_only) for row in rows]
    return "\n".join(lines).encode(errors="replace")


def as_csv(rows: Sequence[Row]) -> bytes:
    """Write rows as a spreadsheet does."""
    text = io.StringIO(newline="")
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode(errors="replace")


def survive(folder: Path, name: str, content: bytes) -> None:
    """Read a manifest, good or bad, and hold what comes of it to the promises."""
    try:
        plan = planned(folder, name, content)
    except InvalidRequestError as error:
        wrong = error
    else:
        assert plan
        assert len({it.key for it in plan}) == len(plan)
        assert len({it.output for it in plan}) == len(plan)
        for it in plan:
            assert not it.output.is_absolute()
            assert ".." not in it.output.parts
        return
    assert wrong.problems
    assert str(wrong).encode()
    assert all(it.field.startswith("line ") for it in wrong.problems)


@given(content=st.binary() | st.text().map(str.encode))
@FEW
def test_no_file_is_more_than_wrong(tmp_path: Path, content: bytes) -> None:
    """Whatever bytes it holds, each problem is told with its line."""
    survive(tmp_path, "scenes.csv", content)
    survive(tmp_path, "scenes.jsonl", content)


@given(rows=rows)
@example(rows=[{"model": MODELS[0], "prompt": "\ud800"}])
@example(rows=[{"model": MODELS[0], "prompt": "x", "duration": "\ud800"}])
@example(rows=[{"model": "\ud800", "prompt": "x"}])
@example(rows=[{"prompt": "x", "image_url": "\0"}])
@example(rows=[{"prompt": "x", "output": "a" * 5000}])
@FEW
def test_no_rows_are_more_than_wrong(tmp_path: Path, rows: list[Row]) -> None:
    """Nearly right is told, or sent under one key and into one file each."""
    survive(tmp_path, "scenes.csv", as_csv(rows))
    survive(tmp_path, "scenes.jsonl", as_json(rows))


@pytest.mark.parametrize("depth", [50, 98, 500, 900])
def test_no_nesting_is_more_than_wrong(tmp_path: Path, depth: int) -> None:
    """Neither in a row nor in a cell."""
    deep = b"[" * depth + b"]" * depth
    survive(tmp_path, "scenes.jsonl", b'{"prompt": "x", "extra": {"a": %b}}' % deep)
    survive(tmp_path, "scenes.csv", b"prompt,multi_prompt\nx,%b\n" % deep)


@given(rows=good_rows)
@example(rows=[{"model": MODELS[0], "prompt": "a line\u2028and another"}])
@FEW
def test_both_forms_of_a_manifest_ask_for_the_same(
    tmp_path: Path, rows: list[Row]
) -> None:
    """With the same keys, at each run: that is what a second run goes on by."""
    forms = {
        "a.csv": as_csv(rows),
        "a.jsonl": as_json(rows),
        "b.jsonl": as_json(rows, ascii_only=False),
    }
    plans = [planned(tmp_path, name, content) for name, content in forms.items()]
    asked = [[(it.key, it.output, it.request) for it in plan] for plan in plans]
    assert asked[0] == asked[1] == asked[2]
    assert len(asked[0]) == len(rows)

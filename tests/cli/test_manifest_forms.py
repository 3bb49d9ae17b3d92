"""Manifests as spreadsheets, pandas and Python write them."""

from __future__ import annotations

import codecs
import json
from pathlib import Path

import anyio
import pytest

from kling_async import InvalidRequestError
from kling_async.cli._manifest import Manifest, RowPlan

MODEL = "klingai/video-v2-6-pro-text-to-video"
HEADER, ROW = "key,model,prompt", f"a,{MODEL},A fox"


def read(folder: Path, content: bytes | str, name: str = "m.csv") -> list[RowPlan]:
    """Read a manifest of this content."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return anyio.run(Manifest(str(path), folder).plan)


def flaws(folder: Path, content: bytes | str, name: str = "m.csv") -> list[str]:
    """Read a manifest that cannot be read, and give what is said of it."""
    with pytest.raises(InvalidRequestError) as caught:
        read(folder, content, name)
    return [f"{it} {it.hint or ''}" for it in caught.value.problems]


def columns(text: str, separator: str) -> str:
    """Part the columns by something else."""
    return text.replace(",", separator)


@pytest.mark.parametrize(
    "content",
    [
        f"{HEADER}\n{ROW}\n",
        columns(f"{HEADER}\n{ROW}\n", ";"),
        columns(f"{HEADER}\n{ROW}\n", "\t"),
        columns(f"{HEADER}\r\n{ROW}\r\n", "|"),
        f"sep=,\r\n{HEADER}\r\n{ROW}\r\n",
        columns(f'"sep=;"\n{HEADER}\n{ROW}\n', ";"),
        codecs.BOM_UTF8 + f"{HEADER}\n{ROW}".encode(),
        f"{HEADER}\n{ROW}".encode("utf-16"),
        columns(f"{HEADER}\n{ROW}", "\t").encode("utf-16-le"),
        f"{HEADER}\n{ROW}".encode("utf-16-be"),
        codecs.BOM_UTF32_LE + f"{HEADER}\n{ROW}".encode("utf-32-le"),
        f",{HEADER}\n0,{ROW}\n",
        f"Unnamed: 0,{HEADER}\n17,{ROW}\n",
        f"{HEADER},,,\n{ROW},,,\n,,,,,\n",
        f"{HEADER}, \n{ROW},\n",
        f"{HEADER}\n{ROW},,\n",
        f"Key,MODEL, Prompt \n{ROW}\n",
    ],
)
def test_a_table_is_read_whoever_wrote_it(tmp_path: Path, content: bytes | str) -> None:
    """Separators, marks, encodings, an index, blank columns, any case."""
    (row,) = read(tmp_path, content)
    assert (row.key, row.request.model) == ("a", MODEL)
    assert row.request.to_body()["prompt"] == "A fox"


@pytest.mark.parametrize(
    "written, read_as",
    [(it, True) for it in ("TRUE", "True", "true", "1", "1.0", " true ")]
    + [(it, False) for it in ("FALSE", "False", "false", "0", "0.0")]
    + [(it, None) for it in ("", "NaN", "nan", "None", "<NA>", "null", "NaT")],
)
def test_booleans_and_nothing_are_read_as_they_are_written(
    tmp_path: Path, written: str, read_as: object
) -> None:
    """By Excel, pandas and Python; what is nothing is left out."""
    text = f"{HEADER},generate_audio\n{ROW},{written}\n"
    (row,) = read(tmp_path, text)
    assert row.request.to_body().get("generate_audio") is read_as


def test_a_decimal_comma_is_read(tmp_path: Path) -> None:
    """As spreadsheets write it where columns are parted by semicolons."""
    text = f"key;model;prompt;cfg_scale\na;{MODEL};A fox;0,5\n"
    (row,) = read(tmp_path, text)
    assert row.request.to_body()["cfg_scale"] == 0.5


def test_columns_are_named_as_people_write(tmp_path: Path) -> None:
    """With blanks or hyphens for underscores."""
    text = f"{HEADER},Negative Prompt\n{ROW},rain\n"
    (row,) = read(tmp_path, text)
    assert row.request.to_body()["negative_prompt"] == "rain"


ROWS = [{"key": "a", "prompt": "A"}, {"key": "b", "prompt": "B, [C]", "duration": None}]


@pytest.mark.parametrize("name", ["m.json", "m.jsonl", "M.JSON"])
@pytest.mark.parametrize(
    "text",
    [
        json.dumps(ROWS),
        json.dumps(ROWS, indent=2),
        "\n".join(map(json.dumps, ROWS)),
        "[" + ",\n".join(map(json.dumps, ROWS)).replace("null", "NaN") + "]\n",
    ],
)
def test_json_is_read_in_lines_and_as_an_array(
    tmp_path: Path, name: str, text: str
) -> None:
    """Whatever the file is called; null and NaN are nothing."""
    assert [it.key for it in read(tmp_path, text, name)] == ["a", "b"]


def test_one_object_is_one_row(tmp_path: Path) -> None:
    """Over as many lines as it takes."""
    (row,) = read(tmp_path, json.dumps(ROWS[0], indent=2), "m.json")
    assert row.key == "a"


@pytest.mark.parametrize(
    "name, content, told",
    [
        ("m.xlsx", b"PK\x03\x04...", ["line 1", "Excel workbook", "CSV UTF-8"]),
        ("m.csv", b"\xd0\xcf\x11\xe0", ["line 1", "old Excel", "CSV UTF-8"]),
        ("m.csv", f"{HEADER},\n{ROW},x\n", ["line 2: column 4", "'x'", "Name the"]),
        ("m.csv", f",{HEADER}\nfox,{ROW}\n", ["line 2: column 1", "'fox'"]),
        ("m.csv", f"{HEADER}\n{ROW},x\n", ["line 2: row", "4 cells"]),
        ("m.csv", "sep=;\nkey;promt\na;b\n", ["line 2: header", "'promt'"]),
        ("m.csv", f"Key,{HEADER}\nb,{ROW}\n", ["line 1: header", "'key' twice"]),
        ("m.json", '[{"prompt": "x"},\n 7]', ["line 2: row", "7"]),
        ("m.json", '[{"prompt": "x"},', ["line 1: row", "a JSON object"]),
    ],
)
def test_what_is_not_read_is_told_with_its_line(
    tmp_path: Path, name: str, content: bytes | str, told: list[str]
) -> None:
    """With what was seen, and what to do."""
    (flaw,) = flaws(tmp_path, content, name)
    assert [it for it in told if it not in flaw] == []


def test_a_refused_row_is_told_of_itself_alone(tmp_path: Path) -> None:
    """Two of them have no more to do with each other than two that are taken."""
    rows = [{"prompt": "x", "duration": it} for it in (99, 98, 97)]
    told = flaws(tmp_path, "\n".join(map(json.dumps, rows)), "m.jsonl")
    assert [it.split(":")[0] for it in told] == ["line 1", "line 2", "line 3"]


@pytest.mark.parametrize(
    "output",
    [
        "x" * 252 + ".mp4",
        "狐" * 90 + ".mp4",
        "狐" * 90 + "/a.mp4",
        "/a.mp4",
        "\\a.mp4",
        "C:a.mp4",
        "C:\\a.mp4",
        "\\\\host\\share\\a.mp4",
        "a.mp4:hidden",
        "results.jsonl::$DATA",
        "..\\a.mp4",
        "sub/../../a.mp4",
        "nul",
        "Con.mp4",
        "sub/aux.mp4",
        "COM1.tar.mp4",
        "lpt².mp4",
        "a.mp4.",
        "a.mp4 .",
        "sub./a.mp4",
        "jobs.db.",
        "Jobs.db-WAL",
        "RESULTS.jsonl",
        "jobs.db.vm-1.lock",
        "a\x07.mp4",
        "why?.mp4",
        "sub*/a.mp4",
        'a"b.mp4',
        "<a>.mp4",
        "a|b.mp4",
    ],
)
def test_a_name_that_some_system_refuses_is_refused_here(
    tmp_path: Path, output: str
) -> None:
    """Before anything is paid for, wherever the manifest is read."""
    text = json.dumps({"key": "a", "prompt": "x", "output": output})
    (flaw,) = flaws(tmp_path, text, "m.jsonl")
    assert flaw.startswith("line 1: output: given")


@pytest.mark.parametrize(
    "one, other",
    [
        ("boat.mp4", "Boat.MP4"),
        ("caf\u00e9.mp4", "cafe\u0301.mp4"),
        ("Stra\u00dfe.mp4", "STRASSE.mp4"),
        ("a/b.mp4", "A/B.mp4"),
        ("a", "a/b.mp4"),
        ("a/b.mp4", "A"),
    ],
)
def test_names_that_are_one_file_somewhere_are_refused(
    tmp_path: Path, one: str, other: str
) -> None:
    """In case, in the way an accent is written, a file and a folder."""
    rows = [
        {"key": key, "prompt": "x", "output": output}
        for key, output in (("1", one), ("2", other))
    ]
    (flaw,) = flaws(tmp_path, json.dumps(rows), "m.json")
    assert "output: given" in flaw
    assert "as in line 1" in flaw


def test_keys_that_differ_in_case_are_refused_too(tmp_path: Path) -> None:
    """Their videos would be one file."""
    (flaw,) = flaws(tmp_path, "key,prompt\nboat,x\nBoat,x\n")
    assert flaw.startswith("line 3: output: given Boat.mp4, as in line 2")


@pytest.mark.parametrize("key", ["狐" * 100, "x" * 200, "CON", "nul.x", "com¹", "..."])
def test_a_key_makes_a_name_that_every_system_takes(tmp_path: Path, key: str) -> None:
    """Shortened with a digest, never a device; and again the same."""
    (row,) = read(tmp_path, json.dumps({"key": key, "prompt": "x"}), "m.jsonl")
    name = row.output.name
    assert len(name.encode()) <= 255
    assert not flaws_of_name(tmp_path, name)
    (again,) = read(tmp_path, json.dumps({"key": key, "prompt": "y"}), "m.jsonl")
    assert again.output == row.output


def flaws_of_name(folder: Path, name: str) -> bool:
    """Whether a name is refused when it is given."""
    row = json.dumps({"key": "a", "prompt": "x", "output": name})
    try:
        read(folder, row, "n.jsonl")
    except InvalidRequestError:
        return True
    return False

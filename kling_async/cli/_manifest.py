"""A manifest for `kling-async batch`: CSV or JSON Lines become requests, each checked.

All problems are listed at once, with their lines, before anything is sent. Opens only
the manifest and the files that it names.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import hashlib
import io
import json
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import cast

import anyio
from attrs import define, evolve, field, frozen

from kling_async import InvalidRequestError, Problem, Request, models
from kling_async._http.wire import DEEPEST, is_deep
from kling_async._requests.classes import build_request
from kling_async._text import did_you_mean, short_repr
from kling_async.cli._models import find_model, fitting_model, read_value
from kling_async.durable import NewJob
from kling_async.durable._submit import LONGEST_KEY, fingerprint, to_stored

STDIN = "-"

RESULTS, REPORT, JOBS = "results.jsonl", "report.html", "jobs.db"

# What a batch keeps beside the videos; SQLite adds two files of its own.
OWN_FILES = (RESULTS, REPORT, JOBS, f"{JOBS}-wal", f"{JOBS}-shm")

_OURS = ("key", "output")

_SHORT = 12

_UNSAFE = re.compile(r"[^\w.-]+")

# Bytes of a name on all usual file systems, and what is left of a key's.
_LONGEST_NAME, _LONGEST_STEM = 255, 200

_ANY_SYSTEM = (
    'a name that every system takes: none of < > : " | ? *, no dot or blank at the '
    "end, and none of the devices of Windows"
)

# What Windows refuses in a name.
_REFUSED = re.compile(r'[<>:"|?*]')

# Windows' devices, whatever follows a dot.
_RESERVED = re.compile(
    r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3]) *(\..*)?",
    re.IGNORECASE,
)


@frozen(kw_only=True)
class RowDraft:
    """What is known of a row, whether it can be sent or not.

    Attributes:
        line: Where it stands.
        key: Its job's key: the row's own, or made from what it asks for.
        output: The file its video is for.
        mark: What an equal request shares with it.
    """

    line: int
    key: str
    output: Path
    mark: str


@frozen(kw_only=True)
class RowPlan(RowDraft):
    """One row that can be sent.

    Attributes:
        request: What it asks for.
    """

    request: Request

    @property
    def job(self) -> NewJob:
        """What is submitted for it."""
        return NewJob(request=self.request, key=self.key, output=self.output.as_posix())


@frozen
class ManifestRow:
    line: int
    given: Mapping[str, object]

    @property
    def request(self) -> dict[str, object]:
        """What is the request's."""
        return {k: v for k, v in self.given.items() if k not in _OURS}


@define(eq=False)
class Manifest:
    """A manifest on its way to requests.

    Attributes:
        path: Where it is; ``-`` for standard input.
        folder: Where the videos go that name no other place.
        check_media: Whether local files are held against the documented limits.
    """

    path: str
    folder: Path
    check_media: bool = True
    _problems: list[tuple[int, Problem]] = field(
        factory=list[tuple[int, Problem]], init=False
    )

    @property
    def base(self) -> Path:
        """Where the paths in it begin: beside it, or here."""
        return Path() if self.path == STDIN else Path(self.path).parent

    async def plan(self) -> list[RowPlan]:
        """Read it, and check each row.

        Raises:
            InvalidRequestError: Everything that is wrong with it, line by line.
            OSError: It cannot be read.
        """
        rows = list(_rows(_text(self.path), self.path, self._problem))
        if not rows and not self._problems:
            self._problem(
                1, "rows", "none", "at least one, below a header if it is CSV"
            )
        drafts = _with_keys([await self._draft(row) for row in rows])
        self._refuse_twins(drafts)
        if self._problems:
            in_order = sorted(self._problems, key=lambda it: it[0])
            raise InvalidRequestError([problem for _, problem in in_order])
        plan = {it.key: it for it in drafts if isinstance(it, RowPlan)}
        return list(plan.values())

    def _problem(
        self, line: int, where: str, given: str, allowed: str, hint: str | None = None
    ) -> None:
        problem = Problem(f"line {line}: {where}", given, allowed, hint)
        self._problems.append((line, problem))

    async def _draft(self, row: ManifestRow) -> RowDraft:
        asked = repr(row.request).encode(errors="surrogatepass")
        draft = RowDraft(
            line=row.line,
            key=self._key(row),
            output=self._output(row),
            mark=hashlib.sha256(asked).hexdigest(),
        )
        plan = await self._plan(row, draft)
        return plan or draft

    async def _plan(self, row: ManifestRow, draft: RowDraft) -> RowPlan | None:
        params = row.request
        if "model" not in params:
            images = int("image_url" in params) or _length(params.get("image_list"))
            others = params.keys() - {"image_url", "image_list"}
            params["model"] = fitting_model(others, images=images)
        try:
            request = build_request({k: self._rebase(v) for k, v in params.items()})
            stored = await to_stored(request, inline=False, check=self.check_media)
        except InvalidRequestError as error:
            for it in error.problems:
                self._problem(row.line, it.field, it.given, it.allowed, it.hint)
            return None
        mark = await anyio.to_thread.run_sync(fingerprint, stored)
        return RowPlan(
            line=draft.line,
            key=draft.key,
            output=draft.output,
            mark=mark,
            request=request,
        )

    def _own(self, row: ManifestRow, name: str) -> str:
        value = row.given.get(name, "")
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str) or not value.isprintable():
            self._problem(row.line, name, short_repr(value), "a text on one line")
            return ""
        return value

    def _key(self, row: ManifestRow) -> str:
        key = self._own(row, "key")
        if len(key) > LONGEST_KEY:
            allowed = f"at most {LONGEST_KEY} characters"
            self._problem(row.line, "key", f"{len(key)} characters", allowed)
            return ""
        return key

    def _output(self, row: ManifestRow) -> Path:
        given = self._own(row, "output")
        if given and (flaw := _flaw_of(given)):
            allowed, hint = flaw
            self._problem(row.line, "output", repr(given), allowed, hint)
            return Path()
        return Path(given)

    def _rebase(self, value: object) -> object:
        """Let the paths in a value begin beside the manifest."""
        match value:
            case Path():
                return self.base / value
            case list() | tuple():
                return [self._rebase(it) for it in cast("list[object]", value)]
            case Mapping():
                inner = cast("Mapping[str, object]", value)
                return {name: self._rebase(it) for name, it in inner.items()}
            case _:
                return value

    def _refuse_twins(self, drafts: Sequence[RowDraft]) -> None:
        """Refuse two requests under one key, and two jobs for one file."""
        by_key: dict[str, RowDraft] = {}
        by_file: dict[tuple[str, ...], RowDraft] = {}
        for it in drafts:
            first = by_key.setdefault(it.key, it)
            if first.mark != it.mark:
                given = f"{it.key!r}, as in line {first.line} for another request"
                self._problem(it.line, "key", given, "one key for each request")
                continue
            other = by_file.setdefault(_identity(it.output), it)
            if other.key != it.key:
                self._refuse_file(it, other)
        for it in drafts:
            file = _identity(it.output)
            above = (by_file.get(file[:length]) for length in range(1, len(file)))
            for folder in filter(None, above):
                self._refuse_file(it, folder)

    def _refuse_file(self, draft: RowDraft, other: RowDraft) -> None:
        is_same = draft.output == other.output
        hint = None if is_same else f"On some systems it is the same as {other.output}."
        given = f"{draft.output}, as in line {other.line}"
        self._problem(draft.line, "output", given, "one file for each job", hint)


def _with_keys(unnamed: Sequence[RowDraft]) -> list[RowDraft]:
    """Give those a key and a file that name none: the same at each run."""
    counts = Counter[str]()
    drafts: list[RowDraft] = []
    for it in unnamed:
        key = it.key
        if not key:
            counts[it.mark] += 1
            number = f"-{counts[it.mark]}" if counts[it.mark] > 1 else ""
            key = f"{it.mark[:_SHORT]}{number}"
        output = it.output if it.output != Path() else Path(f"{_safe(key)}.mp4")
        drafts.append(evolve(it, key=key, output=output))
    return drafts


def _safe(key: str) -> str:
    """Make a file's name of a key, for any system."""
    name = _UNSAFE.sub("-", key).strip(".") or "video"
    if len(name.encode()) > _LONGEST_STEM:
        digest = hashlib.sha256(key.encode()).hexdigest()[:_SHORT]
        name = f"{name.encode()[:_LONGEST_STEM].decode(errors='ignore')}-{digest}"
    return f"_{name}" if _RESERVED.fullmatch(name) else name


def _identity(path: Path) -> tuple[str, ...]:
    """Give what two names share that are one file on some system."""
    return tuple(unicodedata.normalize("NFC", it).casefold() for it in path.parts)


def _flaw_of(output: str) -> tuple[str, str | None] | None:
    """Tell what is allowed instead of a file's name, wherever it would not do."""
    path = PureWindowsPath(output)  # which splits as both kinds of systems do
    leaves = Path(output).is_absolute() or bool(path.drive or path.root)
    if leaves or ".." in path.parts:
        hint = "--output-dir says where that is."
        return "a path below the output directory", hint
    for part in path.parts:
        if len(part.encode()) > _LONGEST_NAME:
            return f"names of at most {_LONGEST_NAME} bytes, in UTF-8", None
        is_cut = part.rstrip(". ") != part
        if is_cut or _REFUSED.search(part) or _RESERVED.fullmatch(part):
            return _ANY_SYSTEM, None
    if path.parts and _is_own_file(path.parts):
        return f"a path that is not {', '.join(OWN_FILES)}", None
    return None


def _is_own_file(parts: Sequence[str]) -> bool:
    name = unicodedata.normalize("NFC", parts[-1]).casefold()
    is_ours = name in OWN_FILES or name.startswith(f"{JOBS}.")
    return len(parts) == 1 and is_ours


def _length(value: object) -> int:
    return len(cast("list[object]", value)) if isinstance(value, list) else 0


_Complain = Callable[..., None]

# How files begin that are not text, and their names.
_BINARY = {
    b"PK\x03\x04": "an Excel workbook, or another archive",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook",
    b"PAR1": "a Parquet file",
    b"%PDF": "a PDF",
}

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)

_SAVE_AS = "In a spreadsheet, save it as CSV UTF-8."


def _text(path: str) -> str:
    content = sys.stdin.buffer.read() if path == STDIN else Path(path).read_bytes()
    for magic, what in _BINARY.items():
        if content.startswith(magic):
            problem = Problem("line 1", what, "a text: CSV or JSON", _SAVE_AS)
            raise InvalidRequestError([problem])
    encoding = _guess_encoding(content)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        name = "UTF-8" if encoding.startswith("utf-8") else encoding.upper()
        problem = Problem(
            f"line {line}",
            f"a byte {content[error.start]:#04x} that is no {name}",
            "a text in UTF-8",
            "Save it as UTF-8 (in a spreadsheet: CSV UTF-8).",
        )
        raise InvalidRequestError([problem]) from error


def _guess_encoding(content: bytes) -> str:
    for mark, name in _MARKS:
        if content.startswith(mark):
            return name
    if content[1:2] == b"\0":
        return "utf-16-le"
    return "utf-16-be" if content[:1] == b"\0" else "utf-8"


def _rows(text: str, path: str, complain: _Complain) -> Iterator[ManifestRow]:
    is_json = path.lower().endswith((".jsonl", ".ndjson", ".json"))
    if is_json or (path == STDIN and text.lstrip().startswith(("{", "["))):
        for line, value, source in _json_values(text, complain):
            yield from _json_row(line, value, source, complain)
    else:
        yield from _csv_rows(text, complain)


def _json_values(text: str, complain: _Complain) -> Iterator[tuple[int, object, str]]:
    """Give the values of JSON Lines, or of one array or object, with their lines."""
    if text.lstrip().startswith("["):
        with contextlib.suppress(ValueError, RecursionError):
            yield from list(_array_values(text))
            return
    elif text.lstrip().startswith("{"):
        with contextlib.suppress(ValueError, RecursionError):
            begins = _line_at(text, len(text) - len(text.lstrip()))
            yield begins, json.loads(text), text
            return
    # A line ends nowhere else: what `splitlines` takes for ends may be in a text.
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line), line
        except (ValueError, RecursionError) as error:
            complain(number, "row", f"{short_repr(line)} ({error})", "a JSON object")


def _array_values(text: str) -> Iterator[tuple[int, object, str]]:
    json.loads(text)  # refuses what is no array as a whole
    decoder, at = json.JSONDecoder(), text.index("[") + 1
    while found := _VALUE.search(text, at):
        value, at = decoder.raw_decode(text, found.start())
        yield _line_at(text, found.start()), value, text[found.start() : at]


# Where the next value of an array begins.
_VALUE = re.compile(r"[^\s,\]]")


def _line_at(text: str, index: int) -> int:
    return text.count("\n", 0, index) + 1


def _json_row(
    line: int, value: object, source: str, complain: _Complain
) -> Iterator[ManifestRow]:
    if not isinstance(value, dict):
        complain(line, "row", short_repr(value), "a JSON object")
        return
    given = {
        name: it
        for name, it in cast("dict[str, object]", value).items()
        if it is not None and it == it  # noqa: PLR0124 (not a number is not itself)
    }
    if is_deep(given):
        allowed = f"at most {DEEPEST} levels of nesting"
        complain(line, "row", short_repr(source), allowed)
        return
    yield ManifestRow(line, _read(given, given.get("model"), texts=False))


_SEPARATOR = re.compile(r'"?sep=(.)"?\r?\n', re.IGNORECASE)

_SEPARATORS = ",;\t|"

# How spreadsheets, pandas and Python write that there is nothing.
_NOTHING = frozenset({"", "nan", "none", "null", "<na>", "nat"})


def _csv_rows(text: str, complain: _Complain) -> Iterator[ManifestRow]:
    skipped = 0
    if said := _SEPARATOR.match(text):
        text, skipped, separator = text[said.end() :], 1, said[1]
    else:
        separator = _likely_separator(text)
    lines = list(_csv_lines(text, separator, skipped, complain))
    if not lines:
        return
    columns = _columns(lines, complain)
    for line, cells in lines[1:] if columns else ():
        beyond = [it for it in cells[len(lines[0][1]) :] if it.strip()]
        if beyond:
            allowed = f"{len(lines[0][1])}, as the header has columns"
            complain(line, "row", f"{len(cells)} cells", allowed)
            continue
        texts = {
            columns[n]: cell
            for n, cell in enumerate(cells)
            if n in columns and cell.strip().casefold() not in _NOTHING
        }
        yield ManifestRow(line, _read(texts, texts.get("model"), texts=True))


def _csv_lines(
    text: str, separator: str, skipped: int, complain: _Complain
) -> Iterator[tuple[int, list[str]]]:
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    while True:
        begins = lines.line_num + 1 + skipped
        try:
            cells = next(lines, None)
        except csv.Error as error:
            complain(begins, "row", str(error), "CSV (RFC 4180)")
            return
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield begins, cells


def _likely_separator(text: str) -> str:
    """Find what parts the columns: that which makes most of the header known."""
    known = _list_columns()

    def names(separator: str) -> int:
        lines = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        with contextlib.suppress(csv.Error):
            header = next((it for it in lines if any(map(str.strip, it))), [])
            return sum(_plain(cell) in known for cell in header)
        return 0

    return max(_SEPARATORS, key=names)


def _list_columns() -> dict[str, str]:
    names = {*_OURS, "model", "extra"}.union(*(it.fields for it in models.list()))
    return {_plain(name): name for name in names}


def _plain(name: str) -> str:
    """Give what counts of a column's name."""
    return re.sub(r"[\s-]+", "_", name.strip()).casefold()


def _columns(
    lines: Sequence[tuple[int, list[str]]], complain: _Complain
) -> dict[int, str]:
    """Name the columns that count, or give none if one is wrong in all rows."""
    (line, header), known = lines[0], _list_columns()
    columns: dict[int, str] = {}
    is_wrong = False
    for number, cell in enumerate(header):
        name = known.get(_plain(cell))
        if name is None:
            is_wrong |= not _is_ignored(number, cell, lines, complain)
        elif name in columns.values():
            complain(line, "header", f"{name!r} twice", "each column once")
            is_wrong = True
        else:
            columns[number] = name
    return {} if is_wrong else columns


def _is_ignored(
    number: int,
    name: str,
    lines: Sequence[tuple[int, list[str]]],
    complain: _Complain,
) -> bool:
    """Whether an unknown column is nothing: blank, or the index that pandas writes."""
    if name.strip() and not name.startswith("Unnamed: "):
        allowed = "key, output, model, or a field of a model"
        known = set(_list_columns().values())
        complain(lines[0][0], "header", repr(name), allowed, did_you_mean(name, known))
        return False
    cells = [(line, row[number]) for line, row in lines[1:] if len(row) > number]
    filled = [(line, it.strip()) for line, it in cells if it.strip()]
    if number == 0 and all(it.isdecimal() for _, it in filled):
        return True
    if filled:
        line, cell = filled[0]
        hint = "Name the column in the header, or leave it out."
        where = f"column {number + 1}"
        complain(line, where, short_repr(cell), "a name for it", hint)
    return not filled


def _read(
    given: Mapping[str, object], model: object, *, texts: bool
) -> dict[str, object]:
    """Give each value as its field would have it, local files as paths."""
    known = find_model(model) if isinstance(model, str) else None
    rules = known.fields if known else _usual_rules()
    return {
        name: value
        if name in (*_OURS, "model")
        else read_value(value, rules.get(name), is_text=texts)
        for name, value in given.items()
    }


def _usual_rules() -> Mapping[str, models.Field]:
    """Give what fields take where the model is still to be chosen."""
    rules: dict[str, models.Field] = {}
    for model in models.list():
        rules.update(model.fields)
    return rules

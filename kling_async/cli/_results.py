"""What a batch leaves behind: `results.jsonl` to work with, `report.html` to look at.

Each is written whole or not at all, also when a batch is interrupted.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

from kling_async.cli._manifest import REPORT, RESULTS, Planned
from kling_async.cli._report import Card, page_of
from kling_async.cli._words import as_json
from kling_async.durable import JobStatus


def write_results(
    name: str,
    folder: Path,
    planned: Sequence[Planned],
    statuses: Mapping[str, JobStatus],
) -> list[Path]:
    """Write both files, and give their paths.

    Args:
        name: What the batch is called.
        folder: Where to write.
        planned: The rows of the manifest.
        statuses: Its jobs, by key.
    """
    found = [(it, statuses[it.key]) for it in planned if it.key in statuses]
    lines = [json.dumps(_line(it, status)) for it, status in found]
    cards = [
        Card(status=status, prompt=_prompt(it), file=_file(status))
        for it, status in found
    ]
    return [
        _write(folder / RESULTS, "".join(f"{line}\n" for line in lines)),
        _write(folder / REPORT, page_of(name, cards, folder)),
    ]


def _line(planned: Planned, status: JobStatus) -> dict[str, object]:
    file = _file(status)
    generation = status.generation
    return {
        "key": planned.key,
        "line": planned.line,
        "state": status.state,
        "file": None if file is None else str(file),
        "error": status.error,
        "model": status.model,
        "generation_id": status.generation_id,
        "credits_used": status.credits_used,
        "client_request_id": _request_id(status),
        "attempt": status.attempt,
        "created_at": status.created_at and status.created_at.isoformat(),
        "ended_at": status.ended_at and status.ended_at.isoformat(),
        "generation": generation and as_json(generation),
    }


def _request_id(status: JobStatus) -> str | None:
    if status.intent is not None:
        return status.intent.client_request_id
    return status.generation.client_request_id if status.generation else None


def _file(status: JobStatus) -> Path | None:
    output = status.output
    return output if output is not None and output.is_file() else None


def _prompt(planned: Planned) -> str:
    body = planned.request.to_body()
    told = body.get("prompt") or body.get("multi_prompt") or ""
    return told if isinstance(told, str) else json.dumps(told)


def _write(path: Path, text: str) -> Path:
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        part.write_text(text, "utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path

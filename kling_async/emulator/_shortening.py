"""What is kept of a request to show it: all but the long texts.

A data URI of megabytes is told by its size.
"""

from __future__ import annotations

from collections.abc import Mapping

_LONGEST_TEXT = 300
_KEPT = 60


def shortened(body: Mapping[str, object]) -> dict[str, object]:
    """Return a decoded JSON object with its long texts cut."""
    return {name: _short(value) for name, value in body.items()}


def _short(value: object) -> object:
    if isinstance(value, str) and len(value) > _LONGEST_TEXT:
        return f"{value[:_KEPT]}… ({len(value):,} characters)"
    if isinstance(value, dict):
        return {str(name): _short(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_short(item) for item in value]
    return value

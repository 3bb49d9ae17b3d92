"""How things are told: figures in words, a server's text on one line, an answer.

Prints nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.text import Text

from kling_async import Generation
from kling_async._money import usd_of

_MINUTE, _KILO = 60, 1000


def one_line(text: object) -> str:
    """Return a text on one line, with what a terminal would obey spelt out."""
    words = " ".join(str(text).split())
    return "".join(it if it.isprintable() else ascii(it)[1:-1] for it in words)


def clock(seconds: float) -> str:
    """Return a time as a stopwatch shows it, such as ``2:05``."""
    minutes, rest = divmod(int(seconds), _MINUTE)
    return f"{minutes}:{rest:02}"


def in_words(seconds: float) -> str:
    """Return a time in words, such as ``5 min 30 s``."""
    minutes, rest = divmod(round(seconds), _MINUTE)
    parts = [f"{minutes} min"] * bool(minutes) + [f"{rest} s"] * bool(rest)
    return " ".join(parts) or f"{seconds:.1g} s"


def size_in_words(size: float) -> str:
    """Return a number of bytes in words, such as ``5.2 MB``."""
    if size < _KILO:
        return f"{size:.0f} bytes"
    return f"{size / _KILO:.0f} kB" if size < _KILO**2 else f"{size / _KILO**2:.1f} MB"


def cost_in_words(credits_: float) -> str:
    """Return a price in the API's credits and in USD."""
    return f"{credits_:,.0f} credits ({usd_of(credits_):.2f} USD)"


def as_json(generation: Generation) -> dict[str, object]:
    """Return a generation as a script reads it."""
    video, error = generation.video, generation.error
    return {
        "id": generation.id,
        "status": generation.status,
        "video": video
        and {
            **video.extra,
            "url": video.url,
            "content_type": video.content_type,
            "file_name": video.file_name,
            "file_size": video.file_size,
        },
        "error": error and {"name": error.name, "message": error.message},
        "credits_used": generation.credits_used,
        "client_request_id": generation.client_request_id,
    }


def as_lines(generation: Generation) -> Iterator[Text]:
    """Give a generation as a user reads it."""
    yield Text(one_line(generation.id), "bold")
    for name, value in _facts(generation).items():
        yield Text.assemble((f"  {name:<7} ", "dim"), one_line(value))


def _facts(generation: Generation) -> Mapping[str, str]:
    facts = {"status": str(generation.status)}
    if generation.error is not None:
        facts["error"] = str(generation.error)
    if video := generation.video:
        facts["video"] = video.url
        size = video.file_size
        about = [size_in_words(size)] if size is not None else []
        about += [video.content_type] if video.content_type else []
        facts |= {"file": ", ".join(about)} if about else {}
    if generation.credits_used is not None:
        facts["cost"] = cost_in_words(generation.credits_used)
    return facts

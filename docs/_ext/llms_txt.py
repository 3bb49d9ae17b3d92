"""A Sphinx extension: `llms.txt` and `llms-full.txt`, the pages for language models.

The first lists each page with its first sentence, the second holds all their text
(https://llmstxt.org). Both are made at each build, so they cannot be out of date.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SUMMARY = (
    "# kling_async\n\n> An async Python SDK for Kling video generation through the "
    "AI/ML API: create, watch and download; nothing is lost or paid for twice.\n"
)


def setup(app: Sphinx) -> dict[str, bool]:
    """Tell Sphinx when to call."""
    app.connect("build-finished", _write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _write(app: Sphinx, error: Exception | None) -> None:
    if error is not None or app.builder.format != "html":
        return
    pages = {
        name: text
        for name in sorted(app.env.found_docs)
        if (text := _text_of(Path(app.env.doc2path(name))))
    }
    entries = [
        f"- [{_title(text)}]({name}.html): {_first_sentence(text)}"
        for name, text in pages.items()
    ]
    folder = Path(app.outdir)
    listed = "\n".join([SUMMARY, "## Pages", "", *entries, ""])
    (folder / "llms.txt").write_text(listed, "utf-8")
    (folder / "llms-full.txt").write_text("\n\n".join(pages.values()), "utf-8")


def _text_of(path: Path) -> str:
    """Give a page without what readers do not see; nothing for a notebook."""
    if path.suffix != ".md":
        return ""
    return re.sub(r"<!--.*?-->\n?", "", path.read_text("utf-8"), flags=re.DOTALL)


def _title(text: str) -> str:
    return text.partition("\n")[0].removeprefix("# ")


def _first_sentence(text: str) -> str:
    """Give the first sentence that is prose."""
    blocks = [" ".join(block.split()) for block in text.split("\n\n")[1:]]
    prose = [it for it in blocks if re.match(r"[A-Z`\[]", it)]
    return re.split(r"(?<=[.:])\s", prose[0])[0] if prose else ""

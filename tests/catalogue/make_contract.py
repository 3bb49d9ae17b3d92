"""Put the vendor's OpenAPI files together into one: what it promises of each route.

    python tests/catalogue/make_contract.py FOLDER

Programs of others test against it (`nox -s contract`). A create is valid if it fits
one model's schema; what only names the vendor's own site is left out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from make_catalogue import Reading, own_words

Json = dict[str, Any]

CONTRACT = Path(__file__).parents[1] / "others" / "vendor.json"
CREATE = "/v2/video/generations"


def merged(folder: Path) -> Json:
    """Give one document of all that the files of a folder say."""
    reading = Reading(own_words())
    reading.read(folder)
    newest = {model: older[-1] for model, older in reading.older.items()}
    newest |= {model: schema for model, (_, schema) in reading.newer.items()}
    paths: dict[str, Json] = {CREATE: {}}
    for path in sorted(folder.rglob("*.json")):
        for route, verbs in json.loads(path.read_text("utf-8"))["paths"].items():
            if "get" in verbs and route.startswith(("/v1/models", "/v2/", "/models")):
                paths.setdefault(route, {})["get"] = _plain_get(verbs["get"])
            if "post" in verbs and route == CREATE:
                paths[CREATE].setdefault("post", verbs["post"])
    create = paths[CREATE]["post"]
    schema = {"anyOf": [newest[model] for model in sorted(newest)]}
    create["requestBody"]["content"]["application/json"]["schema"] = schema
    return {
        "openapi": "3.0.0",
        "info": {"title": "The vendor's OpenAPI files, put together", "version": "1"},
        "security": [{"key": []}],
        "paths": paths,
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}
        },
    }


def _plain_get(verb: Json) -> Json:
    """Leave out a body: one file demands one, which HTTP does not have."""
    return {name: it for name, it in verb.items() if name != "requestBody"}


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the vendor's OpenAPI files")
    given = parser.parse_args([it for it in sys.argv[1:] if it != "--accept"])
    CONTRACT.write_text(json.dumps(merged(given.folder), indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()

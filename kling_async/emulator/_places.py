"""Where everything is: the paths that are served, the vendor's and our own.

Says nothing of what is done there.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus

# Each path of creates and polls, with the status that a create has there.
GENERATIONS: Mapping[str, HTTPStatus] = {
    "/v2/video/generations": HTTPStatus.OK,
    "/v2/generate/video/kling/generation": HTTPStatus.CREATED,
}
FILES = "/files/"
LOGS = "/v2/logs"
BALANCE, TRANSACTIONS = "/v2/billing", "/v2/billing/transactions"
MODELS, METRICS = "/v1/models", "/models/metrics"
ADMIN = "/_emulator/"  # no vendor's

# The paths behind a short name; a star stands for anything.
PLACES: Mapping[str, tuple[str, ...]] = {
    "generations": tuple(GENERATIONS),
    "files": (f"{FILES}*",),
    "logs": (LOGS,),
    "billing": (BALANCE, TRANSACTIONS),
    "models": (MODELS,),
    "metrics": (METRICS,),
}

"""All public names of the package; loaded when the first of them is asked for."""

from __future__ import annotations

from kling_async import models
from kling_async._batch import Outcome
from kling_async._billing.doctor import Check, Diagnosis
from kling_async._billing.money import Balance, Budget, LogRow, Price, Transaction
from kling_async._client import AsyncKling
from kling_async._config import __version__
from kling_async._errors import (
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    BudgetExceededError,
    ClientClosedError,
    ConfigurationError,
    ConnectionFailedError,
    DecodeError,
    DownloadError,
    GenerationFailedError,
    InvalidRequestError,
    JobConflictError,
    JobError,
    KlingError,
    NotFoundError,
    OutOfCreditsError,
    PermissionDeniedError,
    Problem,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    SubmissionUncertainError,
    TransportError,
    WaitTimeoutError,
)
from kling_async._failures import RetryPolicy
from kling_async._generation import Generation, GenerationError, Status, Video
from kling_async._hooks import (
    CreatedEvent,
    Hooks,
    RequestEvent,
    RetryEvent,
    StatusEvent,
    UncertainEvent,
)
from kling_async._polling.learned import Learned, load_learned, save_learned
from kling_async._polling.schedules import (
    Completion,
    Exponential,
    Fixed,
    LearningPolling,
    Polling,
    PollState,
)
from kling_async._requests.catalogue import Catalogue, load_catalogue
from kling_async._requests.classes import Request
from kling_async._requests.kinds import (
    Avatar,
    Effects,
    ImageToVideo,
    MotionControl,
    MultiImageToVideo,
    ReferenceToVideo,
    TextToVideo,
    VideoToVideo,
)

__all__ = [
    "APIStatusError",
    "AsyncKling",
    "AuthenticationError",
    "Avatar",
    "BadRequestError",
    "Balance",
    "Budget",
    "BudgetExceededError",
    "Catalogue",
    "Check",
    "ClientClosedError",
    "Completion",
    "ConfigurationError",
    "ConnectionFailedError",
    "CreatedEvent",
    "DecodeError",
    "Diagnosis",
    "DownloadError",
    "Effects",
    "Exponential",
    "Fixed",
    "Generation",
    "GenerationError",
    "GenerationFailedError",
    "Hooks",
    "ImageToVideo",
    "InvalidRequestError",
    "JobConflictError",
    "JobError",
    "KlingError",
    "Learned",
    "LearningPolling",
    "LogRow",
    "MotionControl",
    "MultiImageToVideo",
    "NotFoundError",
    "OutOfCreditsError",
    "Outcome",
    "PermissionDeniedError",
    "PollState",
    "Polling",
    "Price",
    "Problem",
    "RateLimitError",
    "ReferenceToVideo",
    "Request",
    "RequestEvent",
    "RequestTimeoutError",
    "RetryEvent",
    "RetryPolicy",
    "ServerError",
    "Status",
    "StatusEvent",
    "SubmissionUncertainError",
    "TextToVideo",
    "Transaction",
    "TransportError",
    "UncertainEvent",
    "Video",
    "VideoToVideo",
    "WaitTimeoutError",
    "__version__",
    "load_catalogue",
    "load_learned",
    "models",
    "save_learned",
]

# Tracebacks, the docs and pickles are to show the names that users import.
for _name in __all__:
    if getattr(globals()[_name], "__module__", "").startswith("kling_async._"):
        globals()[_name].__module__ = "kling_async"

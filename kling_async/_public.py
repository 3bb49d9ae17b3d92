"""All public names of the package; loaded when the first of them is used."""

from __future__ import annotations

from kling_async import models as models
from kling_async._batch import Outcome as Outcome
from kling_async._billing.doctor import Check as Check, Diagnosis as Diagnosis
from kling_async._billing.money import (
    Balance as Balance,
    Budget as Budget,
    LogRow as LogRow,
    Price as Price,
    Transaction as Transaction,
)
from kling_async._client import AsyncKling as AsyncKling
from kling_async._config import __version__ as __version__
from kling_async._errors import (
    APIStatusError as APIStatusError,
    AuthenticationError as AuthenticationError,
    BadRequestError as BadRequestError,
    BudgetExceededError as BudgetExceededError,
    ClientClosedError as ClientClosedError,
    ConfigurationError as ConfigurationError,
    ConnectionFailedError as ConnectionFailedError,
    DecodeError as DecodeError,
    DownloadError as DownloadError,
    GenerationFailedError as GenerationFailedError,
    InvalidRequestError as InvalidRequestError,
    JobConflictError as JobConflictError,
    JobError as JobError,
    KlingError as KlingError,
    NotFoundError as NotFoundError,
    OutOfCreditsError as OutOfCreditsError,
    PermissionDeniedError as PermissionDeniedError,
    Problem as Problem,
    RateLimitError as RateLimitError,
    RequestTimeoutError as RequestTimeoutError,
    ServerError as ServerError,
    SubmissionUncertainError as SubmissionUncertainError,
    TransportError as TransportError,
    WaitTimeoutError as WaitTimeoutError,
)
from kling_async._failures import RetryPolicy as RetryPolicy
from kling_async._generation import (
    Generation as Generation,
    GenerationError as GenerationError,
    Status as Status,
    Video as Video,
)
from kling_async._hooks import (
    CreatedEvent as CreatedEvent,
    Hooks as Hooks,
    RequestEvent as RequestEvent,
    RetryEvent as RetryEvent,
    StatusEvent as StatusEvent,
    UncertainEvent as UncertainEvent,
)
from kling_async._polling.learned import (
    Learned as Learned,
    load_learned as load_learned,
    save_learned as save_learned,
)
from kling_async._polling.schedules import (
    Completion as Completion,
    Exponential as Exponential,
    Fixed as Fixed,
    LearningPolling as LearningPolling,
    Polling as Polling,
    PollState as PollState,
)
from kling_async._requests.catalogue import (
    Catalogue as Catalogue,
    load_catalogue as load_catalogue,
)
from kling_async._requests.classes import Request as Request
from kling_async._requests.kinds import (
    Avatar as Avatar,
    Effects as Effects,
    ImageToVideo as ImageToVideo,
    MotionControl as MotionControl,
    MultiImageToVideo as MultiImageToVideo,
    ReferenceToVideo as ReferenceToVideo,
    TextToVideo as TextToVideo,
    VideoToVideo as VideoToVideo,
)

# Tracebacks, the docs and pickles are to show the names that users import.
for _value in list(globals().values()):
    if getattr(_value, "__module__", "").startswith("kling_async._"):
        _value.__module__ = "kling_async"

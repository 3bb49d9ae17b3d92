"""Durable jobs: many generations that outlive the process and span machines.

    async with DurableKling("sqlite:///kling.db", client=kling) as jobs:
        job = await jobs.submit(ImageToVideo(...), key="scene-12")
        generation = await job.result()

Needs the extra ``durable``. Queue, checkpoints, recovery and limits are DBOS's;
here is what billing needs: an intent is written down before a create is sent, and
its id after it, and what got lost in between is looked for, never sent again.
"""

from __future__ import annotations

from kling_async._checks import needs_extra

with needs_extra("durable", "dbos", "filelock", "sqlalchemy"):
    from kling_async.durable._client import DurableKling, Job
    from kling_async.durable._records import Account, Intent, JobState, JobStatus
    from kling_async.durable._submit import Comparison, NewJob
    from kling_async.durable._webhook import Undelivered, Webhook

__all__ = [
    "Account",
    "Comparison",
    "DurableKling",
    "Intent",
    "Job",
    "JobState",
    "JobStatus",
    "NewJob",
    "Undelivered",
    "Webhook",
]

# Tracebacks, the docs and pickles are to show the names that users import.
for _name in __all__:
    globals()[_name].__module__ = __name__

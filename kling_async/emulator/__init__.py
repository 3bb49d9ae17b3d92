"""The emulator: the vendor's API without a key, a network or a bill.

    async with Emulator(speed=60) as emulator:
        async with AsyncKling("any-key", base_url=emulator.base_url) as kling:
            ...

Needs the extra ``emulator``. It does as the vendor documents; its videos are simple.
"""

from __future__ import annotations

from kling_async._checks import needs_extra

with needs_extra("emulator", "PIL", "av", "starlette", "uvicorn"):
    from kling_async.emulator._emulator import Emulator
    from kling_async.emulator._faults import ActiveFault, Fault, Faults, faults_in
    from kling_async.emulator._store import ChargeRecord, CreateRecord
    from kling_async.emulator._traffic import RequestRecord

__all__ = [
    "ActiveFault",
    "ChargeRecord",
    "CreateRecord",
    "Emulator",
    "Fault",
    "Faults",
    "RequestRecord",
    "faults_in",
]

# Tracebacks and the docs are to show the names that users import.
for _public in (
    ActiveFault,
    ChargeRecord,
    CreateRecord,
    Emulator,
    Fault,
    Faults,
    RequestRecord,
    faults_in,
):
    _public.__module__ = __name__
del _public

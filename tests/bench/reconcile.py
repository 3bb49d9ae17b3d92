"""What lost answers cost: creates against an emulator that loses three in ten.

Each answer is lost once the work was accepted, in one of six ways; the request log
lags behind. Counted is what the vendor would bill against what the caller holds, under
each of the three policies. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator

from attrs import define, field, frozen

from kling_async import (
    AsyncKling,
    Hooks,
    KlingError,
    RetryPolicy,
    SubmissionUncertainError,
    TextToVideo,
    UncertainEvent,
)
from kling_async._failures import OnUncertain
from kling_async.emulator import Emulator, Fault

MODEL = "klingai/v2-master-text-to-video"
SLOW = 0.01  # nothing ends while it is measured
TIMEOUT = 5.0
POLICIES: tuple[OnUncertain, ...] = ("reconcile", "raise", "retry")


def faults(share: float) -> list[Fault]:
    """Make rules that together lose this share of the answers, each as often."""
    ways = (
        Fault("reset", accepted=True),
        Fault("close", accepted=True),
        Fault("status", accepted=True, status=500),
        Fault("html", accepted=True, status=502),
        Fault("status", accepted=True, status=504),
        Fault("html", accepted=True, status=200),
    )
    each = 1 - (1 - share) ** (1 / len(ways))
    return [
        Fault(
            way.effect,
            method="POST",
            accepted=True,
            status=way.status,
            probability=each,
        )
        for way in ways
    ]


@define(eq=False)
class Tally:
    """What the creates of one run came to.

    Attributes:
        held: The generations in the callers' hands, by client request id.
        uncertain: The creates that were told as uncertain.
        failed: The creates that ended in another error.
        outcomes: What was told of lost answers.
    """

    held: dict[str, str] = field(factory=dict[str, str])
    uncertain: int = 0
    failed: int = 0
    outcomes: Counter[str] = field(factory=Counter[str])

    def note(self, event: UncertainEvent) -> None:
        """Count what a hook tells."""
        self.outcomes[event.outcome] += 1


@frozen(kw_only=True)
class Report:
    """One line of the table."""

    policy: str
    creates: int
    lost_answers: int
    billed: int
    lost: int
    billed_twice: int
    uncertain: int
    failed: int
    log_calls: int
    reconciled: int
    seconds: float

    def __str__(self) -> str:
        each = self.log_calls / self.reconciled if self.reconciled else 0
        cells = (
            f"`{self.policy}`",
            f"{self.creates:,}",
            f"{self.lost_answers:,}",
            f"{self.billed:,}",
            f"{self.lost:,}",
            f"{self.billed_twice:,}",
            f"{self.uncertain:,}",
            f"{self.failed:,}",
            f"{self.log_calls:,}",
            f"{each:.2f}",
            f"{self.seconds:.0f} s",
        )
        return f"| {' | '.join(cells)} |"


HEAD = (
    "| policy | creates | answers lost | billed | lost | billed twice | uncertain "
    "| other errors | log calls | per reconciled create | time |\n"
    f"|{' --- |' * 11}"
)


async def run(
    uncertain: OnUncertain, *, creates: int, share: float, delay: float, at_once: int
) -> Report:
    """Create so many, so many at once, and count."""
    tally, numbers = Tally(), iter(range(creates))
    logging.getLogger("kling_async").setLevel(logging.CRITICAL)
    async with Emulator(
        speed=SLOW, size=64, faults=faults(share), log_delay=delay
    ) as emulator:
        kling = AsyncKling(
            "any-key",
            base_url=emulator.base_url,
            timeout=TIMEOUT,
            retry=RetryPolicy(initial=0.1, uncertain=uncertain),
            hooks=Hooks(on_uncertain=tally.note),
        )
        started = time.perf_counter()
        async with kling:
            await asyncio.gather(
                *(creating(kling, numbers, tally) for _ in range(at_once))
            )
        seconds = time.perf_counter() - started
        bill = Counter(it.client_request_id for it in emulator.creates)
        held = set(tally.held.values())
        return Report(
            policy=uncertain,
            creates=creates,
            lost_answers=tally.outcomes["lost"],
            billed=bill.total(),
            lost=sum(it.generation_id not in held for it in emulator.creates),
            billed_twice=sum(count > 1 for count in bill.values()),
            uncertain=tally.uncertain,
            failed=tally.failed,
            log_calls=sum(it.path == "/v2/logs" for it in emulator.requests),
            reconciled=tally.outcomes["found"],
            seconds=seconds,
        )


async def creating(kling: AsyncKling, numbers: Iterator[int], tally: Tally) -> None:
    """Create one after another."""
    for number in numbers:
        name = f"scene-{number}"
        request = TextToVideo(model=MODEL, prompt=f"A cat, scene {number}.")
        try:
            generation = await kling.create(request, client_request_id=name)
        except SubmissionUncertainError:
            tally.uncertain += 1
        except KlingError:
            tally.failed += 1
        else:
            assert generation.client_request_id == name
            tally.held[name] = generation.id


def main() -> None:
    """Measure each policy, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--creates", type=int, default=2000)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--log-delay", type=float, default=3.0)
    parser.add_argument("--at-once", type=int, default=200)
    given = parser.parse_args()
    print(HEAD)
    for policy in POLICIES:
        report = asyncio.run(
            run(
                policy,
                creates=given.creates,
                share=given.share,
                delay=given.log_delay,
                at_once=given.at_once,
            )
        )
        print(report, flush=True)


if __name__ == "__main__":
    main()

# SPDX-License-Identifier: GPL-2.0-only
"""
Run one program again and again under a policy, until nothing is left to try.

A *program* is a callable that sets a fresh run up on a :class:`ControlledRuntime`:
it spawns the tasks and answers a callable that judges the run when all are done
(and cleans up): its value is the run's outcome, a Splat it raises a finding.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import cast

from uvfio.runtime.collector import seldom_collecting
from uvfio.runtime.controlled import ControlledRuntime, Policy
from uvfio.runtime.errors import Splat
from uvfio.runtime.runtime import Listener
from uvfio.runtime.schedule import Schedule, encode
from uvfio.runtime.task import Task

Judge = Callable[[], Hashable]
Program = Callable[[ControlledRuntime], Judge]


@dataclass(frozen=True)
class Finding:
    """A broken rule, and the schedule that breaks it."""

    kind: str
    message: str
    schedule: Schedule

    @property
    def replay(self) -> str:
        """The schedule as it is written on the command line."""
        return encode(self.schedule)


@dataclass
class Result:
    """What a search saw. ``complete`` only if every behaviour was tried."""

    runs: int = 0
    cut: int = 0  # runs given up because they were known
    steps: int = 0
    deepest: int = 0
    seconds: float = 0.0
    tried: float = 0.0  # an estimate, 0 to 1, while the search is under way
    complete: bool = False
    outcomes: Counter[Hashable] = field(default_factory=Counter)
    finding: Finding | None = None
    suspicion: Finding | None = None  # the finding, should the search end without a worse one

    @property
    def classes(self) -> int:
        """Runs that were not cut off."""
        return self.runs - self.cut

    @property
    def harmed(self) -> bool:
        """Is there a finding that is more than a suspicion?"""
        return self.finding is not None and self.finding is not self.suspicion


def explore(
    program: Program,
    policy: Policy,
    *,
    budget: float | None = None,
    listeners: Callable[[], list[Listener]] = list,
    progress: Callable[[Result], None] | None = None,
) -> Result:
    """
    Run *program* under *policy* until it has nothing left to try, a finding turns
    up, or *budget* seconds have gone by. *listeners* makes those of each run.

    What a checker only suspects (a lock order, a data race) does not end the search:
    the harm that comes of it is the better finding, if there is any.
    """
    result = Result()
    spare: list[Task] = []
    estimate: Callable[[], float] = getattr(policy, "estimate", lambda: 0.0)
    start = time.monotonic()
    with seldom_collecting():
        while True:
            result.seconds = time.monotonic() - start
            if budget is not None and result.seconds > budget:
                break
            if not policy.begin():
                result.complete = True
                break
            if not run_once(program, policy, result, listeners(), spare):
                break
            if progress is not None:
                result.tried = estimate()
                progress(result)
    _end(spare)
    result.finding = result.finding or result.suspicion
    result.seconds = time.monotonic() - start
    return result


def run_once(
    program: Program, policy: Policy, result: Result, listeners: list[Listener], spare: list[Task] | None = None
) -> bool:
    """One run, counted in *result*; False when it made a finding. *spare* tasks are used again."""
    runtime = ControlledRuntime(policy, spare)
    # isinstance() would ask for each name of the protocol, in every run.
    hears = cast(Listener, policy) if hasattr(policy, "event") else None
    if hears is not None:
        runtime.listeners.append(hears)
    splat: Splat | None = None
    try:
        judge = program(runtime)
        runtime.listeners[:0] = listeners  # a trace sees what a checker objects to
        runtime.quiet = False
        runtime.run()
        runtime.quiet = True
        policy.end([task for task in runtime.tasks if not task.done])
        # Of the clean-up the policy has nothing to learn.
        runtime.listeners = [listener for listener in runtime.listeners if listener is not hears]
        if runtime.splat is not None:
            splat = runtime.splat
        elif not runtime.cut_off:
            result.outcomes[judge()] += 1
    except Splat as e:
        splat = e
    finally:
        runtime.abort()
        if spare is None:
            _end(runtime.spare)
    result.runs += 1
    result.cut += runtime.cut_off
    result.steps += len(runtime.schedule)
    result.deepest = max(result.deepest, len(runtime.schedule))
    if runtime.suspicions and result.suspicion is None:
        first = runtime.suspicions[0]
        result.suspicion = Finding(first.kind, first.message, runtime.schedule)
    if splat is not None:
        result.finding = Finding(splat.kind, splat.message, runtime.schedule)
    return splat is None


def _end(spare: list[Task]) -> None:
    for task in spare:
        task.throw()  # a greenlet that waits is never collected
    spare.clear()

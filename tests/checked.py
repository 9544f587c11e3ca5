# SPDX-License-Identifier: GPL-2.0-only
"""Toys of a few lines under one checker at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from programs import Bare

from uvfio.check.progress import Progress
from uvfio.check.races import Races
from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import Finding, Judge, explore
from uvfio.runtime.controlled import ControlledRuntime, Policy
from uvfio.runtime.policy import Fifo, Replay

Body = Callable[[], object]


def check(setup: Callable[[], list[Body]], checker: Callable[[], Any], policy: Policy | None = None) -> Finding | None:
    """
    The finding, if any, in one run, first come first served (or as *policy* says).

    *setup* runs in a task, and answers what the tasks A, B and C then do.
    """
    return explore(toy(setup, checker), policy or Fifo()).finding


def check_all(setup: Callable[[], list[Body]], checker: Callable[[], Any]) -> Finding | None:
    """The finding, if any, in all interleavings; it must be found again by its schedule."""
    result = explore(toy(setup, checker), Dpor())
    if result.finding is None:
        assert result.complete
    else:
        assert explore(toy(setup, checker), Replay(result.finding.schedule)).finding == result.finding
    return result.finding


def toy(setup: Callable[[], list[Body]], checker: Callable[[], Any]) -> Callable[[ControlledRuntime], Judge]:
    def run(runtime: ControlledRuntime) -> Judge:
        machine = Bare(runtime)
        listener = checker()
        late = isinstance(listener, Races | Progress)  # as in check/suite.py
        runtime.listeners += [] if late else [listener]
        for name, body in zip("ABC", machine.run(setup, "setup"), strict=False):
            runtime.spawn(body, name)
        runtime.listeners += [listener] if late else []

        def judge() -> str:
            if hasattr(listener, "check"):
                listener.check()
            return "done"

        return judge

    return run

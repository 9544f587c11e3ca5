# SPDX-License-Identifier: GPL-2.0-only
"""Run one schedule again, this time noting everything that a report shows."""

from __future__ import annotations

from collections.abc import Sequence

from uvfio.explore.runner import Program, Result, explore
from uvfio.report.trace import Trace
from uvfio.runtime.controlled import ControlledRuntime
from uvfio.runtime.errors import Splat
from uvfio.runtime.policy import Replay
from uvfio.runtime.runtime import Op
from uvfio.runtime.schedule import Schedule
from uvfio.runtime.task import Task


def record(program: Program, schedule: Schedule) -> tuple[Trace, Result]:
    """
    What happens along *schedule*, and how it ends. Raises InternalError for a schedule
    of another program.
    """
    watched = _Watched(schedule)
    result = explore(program, watched, listeners=lambda: [watched.witness])
    trace = watched.trace
    if result.finding is not None and result.finding.kind != "deadlock":
        splat, task = watched.broken() or (Splat(result.finding.kind, result.finding.message), "")
        trace.broke(splat, task)
    return trace, result


class _Witness:
    """A listener: the trace, and the runtime, which knows what was broken, clean-up included."""

    def __init__(self) -> None:
        self.trace = Trace()
        self.runtime: ControlledRuntime | None = None

    def event(self, task: Task, op: Op) -> None:
        assert isinstance(task.runtime, ControlledRuntime)
        self.runtime = task.runtime
        self.trace.event(task, op)


class _Watched(Replay):
    """A replay that looks at the tasks at its end, before they are unwound."""

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(list(schedule))
        self.witness = _Witness()

    @property
    def trace(self) -> Trace:
        return self.witness.trace

    def end(self, blocked: Sequence[Task]) -> None:
        super().end(blocked)
        self.trace.ended(blocked)

    def broken(self) -> tuple[Splat, str] | None:
        """The broken rule and the task that broke it; no name if that was the clean-up."""
        runtime = self.witness.runtime
        if runtime is None or runtime.splat is None or not runtime.broken_by:
            return None
        return runtime.splat, runtime.broken_by if runtime.broken_by in self.trace.comms else ""

# SPDX-License-Identifier: GPL-2.0-only
"""
All checkers, as they are put on a run: one listener that hands each event to those who
want its kind.

Those that are to see what is set up listen from the start; races and progress are a
matter of tasks that run against each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from uvfio.check.leaks import Leaks
from uvfio.check.lifetimes import Lifetimes
from uvfio.check.lockdep import Lockdep
from uvfio.check.order import Order
from uvfio.check.progress import LIMIT, Progress
from uvfio.check.races import Races
from uvfio.runtime.controlled import ControlledRuntime
from uvfio.runtime.runtime import Op
from uvfio.runtime.task import Task

Handler = Callable[[Task, Op], None]


class Checker(Protocol):
    """A listener that says beforehand what it does not need to hear."""

    def wants(self, kind: str) -> bool:
        """False: no event of this kind matters."""

    def event(self, task: Task, op: Op) -> None:
        """*task* does *op* now."""


class Checkers:
    """Those of one run. *order* is shared by the runs of one scenario."""

    def __init__(self, runtime: ControlledRuntime, order: Order) -> None:
        self.leaks = Leaks()
        self.always: list[Checker] = [self.leaks, Lifetimes(), Lockdep(order)]
        self.progress: Progress | None = None
        self.steps = 0
        self._listen(self.always)
        runtime.listeners.append(self)

    def tasks_start(self) -> None:
        """What is set up is in place."""
        self._listen([*self.always, Races()])
        self.progress = Progress()
        self.steps = 0

    def tasks_ended(self) -> None:
        """What follows is cleaning up."""
        self._listen(self.always)
        self.progress = None

    def at_quiescence(self) -> None:
        """Everybody has gone. Splat for what is left."""
        self.leaks.check()

    def _listen(self, checkers: list[Checker]) -> None:
        self.handlers = _Handlers(checkers)

    def event(self, task: Task, op: Op) -> None:
        for handler in self.handlers[op.kind]:
            handler(task, op)
        self.steps += 1
        if self.steps > LIMIT and self.progress is not None:  # few runs come this far
            self.progress.event(task, op)


class _Handlers(dict[str, tuple[Handler, ...]]):
    """Who wants to hear of which kind: asked once for each kind, not for each event."""

    def __init__(self, checkers: list[Checker]) -> None:
        super().__init__()
        self.checkers = checkers

    def __missing__(self, kind: str) -> tuple[Handler, ...]:
        found = self[kind] = tuple(checker.event for checker in self.checkers if checker.wants(kind))
        return found

# SPDX-License-Identifier: GPL-2.0-only
"""
Scheduling policies that need no memory between runs. Search that learns from
earlier runs is in ``explore/``.
"""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from uvfio.runtime.controlled import ControlledRuntime
from uvfio.runtime.errors import InternalError
from uvfio.runtime.runtime import Op
from uvfio.runtime.schedule import Schedule
from uvfio.runtime.task import Task


class Fifo:
    """Run to block, first come first served: what the live runtime does."""

    def __init__(self, runs: int = 1) -> None:
        self.runs_left = runs

    def begin(self) -> bool:
        self.runs_left -= 1
        return self.runs_left >= 0

    def follow(self, runtime: ControlledRuntime) -> list[str]:
        return []

    def choose(self, runnable: Sequence[Task], current: Task | None) -> Task:
        return current if current in runnable and current is not None else runnable[0]

    def pick(self, n: int) -> int:
        return 0

    def end(self, blocked: Sequence[Task]) -> None:
        pass


class RandomWalk(Fifo):
    """Every runnable task equally likely at every step. *seed* makes it repeatable."""

    def __init__(self, seed: int, runs: int) -> None:
        super().__init__(runs)
        self.random = Random(seed)

    def choose(self, runnable: Sequence[Task], current: Task | None) -> Task:
        return self.random.choice(runnable)

    def pick(self, n: int) -> int:
        return self.random.randrange(n)


class Pct(RandomWalk):
    """
    Probabilistic concurrency testing: random priorities and *depth - 1* demotions.

    Burckhardt, Kothari, Musuvathi, Nagarakatte: "A Randomized Scheduler with
    Probabilistic Guarantees of Finding Bugs", ASPLOS 2010.

    Departures: the number of steps is learned from earlier runs instead of given;
    a choice with one runnable task does not count as a step.
    """

    def __init__(self, seed: int, runs: int, depth: int = 3) -> None:
        super().__init__(seed, runs)
        self.depth = depth
        self.longest = 50  # steps of the longest run so far
        self.step = 0
        self.priority: dict[str, float] = {}  # all values differ; the largest runs
        self.demote_at: dict[int, int] = {}  # step: how low

    def begin(self) -> bool:
        self.longest = max(self.longest, self.step)
        self.step = 0
        self.priority.clear()
        self.demote_at = {self.random.randrange(self.longest): -n for n in range(1, self.depth)}
        return super().begin()

    def choose(self, runnable: Sequence[Task], current: Task | None) -> Task:
        for task in runnable:
            if task.name not in self.priority:
                self.priority[task.name] = self.random.random()
        chosen = max(runnable, key=lambda task: self.priority[task.name])
        if len(runnable) > 1:
            if self.step in self.demote_at:
                self.priority[chosen.name] = self.demote_at[self.step]
                chosen = max(runnable, key=lambda task: self.priority[task.name])
            self.step += 1
        return chosen


class Pos(RandomWalk):
    """
    Partial-order sampling: a random priority for every operation about to happen, and
    a new one for those that raced with what was done.

    Yuan, Yang, Gu: "Partial Order Aware Concurrency Sampling", CAV 2018.
    """

    def __init__(self, seed: int, runs: int) -> None:
        super().__init__(seed, runs)
        self.priority: dict[str, tuple[Op, float]] = {}  # of each task's pending operation

    def begin(self) -> bool:
        self.priority.clear()
        return super().begin()

    def choose(self, runnable: Sequence[Task], current: Task | None) -> Task:
        for task in runnable:
            assert task.pending is not None
            if self.priority.get(task.name, (None, 0))[0] is not task.pending:
                self.priority[task.name] = (task.pending, self.random.random())
        chosen = max(runnable, key=lambda task: self.priority[task.name][1])
        done = self.priority.pop(chosen.name)[0]
        for name, (op, _priority) in list(self.priority.items()):
            if op.obj is done.obj and op.field == done.field and "w" in (op.mode, done.mode):
                del self.priority[name]
        return chosen


class Replay(Fifo):
    """
    One run along *schedule*; first come first served once it has ended.

    Raises InternalError when the schedule names a task that cannot run there: it
    belongs to another scenario, or to other code.
    """

    def __init__(self, schedule: Schedule) -> None:
        super().__init__(1)
        self.left = list(reversed(schedule))

    def choose(self, runnable: Sequence[Task], current: Task | None) -> Task:
        if not self.left:
            return super().choose(runnable, current)
        name = self.left.pop()
        for task in runnable:
            if task.name == name:
                return task
        names = ", ".join(task.name for task in runnable)
        raise InternalError(f"the schedule must name a task that can run here ({names}), not {name}")

    def pick(self, n: int) -> int:
        if not self.left or not isinstance(self.left[-1], int):
            return 0
        choice = self.left.pop()
        assert isinstance(choice, int)
        if choice >= n:
            raise InternalError(f"the schedule must have a choice below {n} here, not {choice}")
        return choice

# SPDX-License-Identifier: GPL-2.0-only
"""
Exhaustive depth-first search without reduction: every interleaving, one by one.

The yardstick for the reduced search, and the way to count by hand. With
*preemptions*, only schedules that take the processor from a task that could have
gone on at most that often (Musuvathi, Qadeer: "Iterative Context Bounding for
Systematic Testing of Multithreaded Programs", PLDI 2007).
"""

from __future__ import annotations

from collections.abc import Sequence

from uvfio.runtime.controlled import ControlledRuntime
from uvfio.runtime.task import Task


class _Node:
    """A place where the run could go on in more than one way."""

    __slots__ = ("left", "taken", "used")

    def __init__(self, taken: str | int, left: list[str | int], used: int) -> None:
        self.taken = taken
        self.left = left  # alternatives not tried yet, last one next
        self.used = used  # preemptions before this place


class Dfs:
    """A policy; ``begin()`` is False when everything has been tried."""

    def __init__(self, preemptions: int | None = None) -> None:
        self.bound = preemptions
        self.path: list[_Node] = []
        self.depth = 0
        self.used = 0
        self.started = False

    def begin(self) -> bool:
        if self.started:
            while self.path and not self.path[-1].left:
                self.path.pop()
            if not self.path:
                return False
            node = self.path[-1]
            node.taken = node.left.pop()
        self.started = True
        self.depth = 0
        self.used = 0
        return True

    def follow(self, runtime: ControlledRuntime) -> list[str]:
        return []

    def choose(self, runnable: Sequence[Task], current: Task | None) -> Task:
        first = current if current is not None and current in runnable else None
        names: list[str | int] = [task.name for task in runnable]
        if first is not None:
            names.remove(first.name)
            if self.bound is not None and self.used >= self.bound:
                names = []
            names.insert(0, first.name)
        name = self._step(names)
        if first is not None and name != first.name:
            self.used += 1
        return next(task for task in runnable if task.name == name)

    def pick(self, n: int) -> int:
        choice = self._step(list(range(n)))
        assert isinstance(choice, int)
        return choice

    def end(self, blocked: Sequence[Task]) -> None:
        pass

    def _step(self, options: list[str | int]) -> str | int:
        if self.depth == len(self.path):
            self.path.append(_Node(options[0], options[:0:-1], self.used))
        node = self.path[self.depth]
        self.depth += 1
        return node.taken

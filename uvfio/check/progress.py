# SPDX-License-Identifier: GPL-2.0-only
"""
Livelock and starvation: the run goes on, and nothing comes of it although all get turns.

Mirrors the hung task detector (``kernel/hung_task.c``), with steps for seconds. A step is
*new* when its task has not done the same thing at the same place since the last new step
of anybody. After ``LIMIT`` steps without a new one, the run is in a circle.

It is a finding only if the circle is fair (Musuvathi, Qadeer: "Fair Stateless Model
Checking", PLDI 2008): every task that could have gone on at some time in it did so. Who
is still waiting then starves. What is said is bounded: so many steps, not for ever. A
circle that a policy was unfair in is not judged; the runtime ends it after its own limit.
"""

from __future__ import annotations

from typing import Any

from uvfio.check.where import Place, caller
from uvfio.runtime.errors import Splat
from uvfio.runtime.runtime import Op
from uvfio.runtime.task import Task

LIMIT = 1000

Signature = tuple[Task, str, int, str, Place]


class Progress:
    """A listener for the explored part of one run."""

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._begin()

    def _begin(self) -> None:
        self.seen: set[Signature] = set()
        self.turns: dict[Task, int] = {}
        self.released: set[int] = set()  # locks that were free at some time
        self.idle = 0
        self._alive: list[Any] = []  # an id must not be used again

    def event(self, task: Task, op: Op) -> None:
        signature = (task, op.kind, id(op.obj), op.field, caller())
        if signature not in self.seen:
            if self.idle:
                self._begin()
            self.seen.add(signature)
            self._alive.append(op.obj)
            return
        self.idle += 1
        self.turns[task] = self.turns.get(task, 0) + 1
        if op.kind == "unlock":
            self.released.add(id(op.obj))
        if self.idle >= self.limit:
            self._judge(task)
            self._begin()

    def _judge(self, task: Task) -> None:
        waiting = [t for t in getattr(task.runtime, "tasks", ()) if t not in self.turns and not t.done]
        if any(self._could_run(t) for t in waiting):
            return
        circle = ", ".join(sorted(t.name for t in self.turns))
        starving = ", ".join(f"{t.name} ({t.pending.kind} {t.pending.obj!r})" for t in waiting if not t.daemon)
        told = f"{circle} did nothing new in {self.limit} steps, with everybody getting turns"
        raise Splat("livelock", f"{told}; starving: {starving}" if starving else told)

    def _could_run(self, task: Task) -> bool:
        op = task.pending
        if op is None:
            return False
        return op.ready is None or op.ready() or id(op.obj) in self.released

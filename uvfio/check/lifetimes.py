# SPDX-License-Identifier: GPL-2.0-only
"""
Lifetimes: what must happen once happens once, and what is dead stays dead.

The primitives themselves report what KASAN and ``refcount_t`` do: use after free, double
free, underflow, an increment of 0. Here is what takes a memory of the run:

* *exactly once*: a file is released, or a driver's ``remove`` called, again or although
  there was no open, or no probe, before it;
* *resurrection*: a reference count that had gone to 0 is set anew, which ``refcount_set``
  cannot notice. Suspected only: a structure that is used again from its start does so;
* *aliasing*: an id or a name is given to a second structure while a first one still goes
  by it. Linux says "cannot create duplicate filename" and goes on.
"""

from __future__ import annotations

from typing import Any

from uvfio.check.where import Place, caller, spell
from uvfio.runtime.errors import Splat
from uvfio.runtime.runtime import Op
from uvfio.runtime.task import Task

ONCE = {"released": "opened", "removed": "probed"}  # each belongs to one of the other
ALIASES = frozenset({"sysfs_duplicate", "cdev_duplicate"})
WANTED = ALIASES | {*ONCE, *ONCE.values(), "refcount_dec", "refcount_dec_if_one", "refcount_set"}


class Lifetimes:
    """A listener for one run."""

    def __init__(self) -> None:
        self.begun: dict[str, set[int]] = {kind: set() for kind in ONCE.values()}
        self.ended: dict[tuple[str, int], tuple[Task, Place]] = {}
        self.dead: dict[int, tuple[Task, Place]] = {}  # reference counts that went to 0
        self._alive: list[Any] = []  # an id must not be used again

    def wants(self, kind: str) -> bool:
        return kind in WANTED

    def event(self, task: Task, op: Op) -> None:
        kind = op.kind
        if kind in self.begun:
            self._alive.append(op.obj)
            self.begun[kind].add(id(op.obj))
        elif kind in ONCE:
            self._once(task, op)
        elif kind in ("refcount_dec", "refcount_dec_if_one"):
            if op.obj.value == 1:
                self._alive.append(op.obj)
                self.dead[id(op.obj)] = (task, caller())
        elif kind == "refcount_set":
            self._set(task, op.obj)
        elif kind in ALIASES:
            told = f"{op.obj!r} is registered in {spell(caller())}, while another one still goes by that name"
            task.runtime.suspect(Splat("id-alias", told))

    def _once(self, task: Task, op: Op) -> None:
        before = ONCE[op.kind]
        this = (op.kind, id(op.obj))
        told = f"{op.obj!r} is {op.kind} by {task.name}"
        if id(op.obj) in self.begun[before]:
            self.begun[before].remove(id(op.obj))
            self.ended[this] = (task, caller())
        elif this in self.ended:
            first, place = self.ended[this]
            raise Splat("exactly-once", f"{told}, and was by {first.name} in {spell(place)}")
        else:
            raise Splat("exactly-once", f"{told}, but was never {before}")

    def _set(self, task: Task, count: Any) -> None:
        if id(count) not in self.dead:
            return
        other, place = self.dead.pop(id(count))
        told = f"{task.name} revives {count!r} in {spell(caller())}; {other.name} dropped the last in {spell(place)}"
        task.runtime.suspect(Splat("resurrection", told))

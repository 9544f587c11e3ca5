# SPDX-License-Identifier: GPL-2.0-only
"""
Data races: two accesses to one shared field, one of them a write, in no order.

What KCSAN (``kernel/kcsan``) samples, decided by the happens-before relation of
``clocks.py``: no lock, wait, last reference or publication is between them, so another
schedule, or another processor, has them the other way round. Reported even if this run
came out well. Only fields that a structure declares as shared are seen.

What is meant to be raced for (Linux: ``READ_ONCE``, ``data_race()``) is left out: one
place that reads with :func:`uvfio.runtime.struct.read_once`, or all accesses to a field
that :func:`uvfio.runtime.struct.kstruct` is told to be ``racy``.

If the write is the first that the structure's allocator makes to the field, the finding
is ``publish-before-init``: others could see the structure before it was filled in. If
one side is a kfree, it is a race with a free, before it has become a use after it.
"""

from __future__ import annotations

from typing import Any

from uvfio.check.clocks import ORDERS, Clock, Clocks
from uvfio.check.where import Place, caller, spell
from uvfio.runtime.errors import Splat
from uvfio.runtime.runtime import Op
from uvfio.runtime.task import Task


class Access:
    """The last read, or write, of a field by one task."""

    __slots__ = ("epoch", "first", "kind", "place", "task")

    def __init__(self, task: Task, epoch: int, kind: str, place: Place, first: bool) -> None:
        self.task = task
        self.epoch = epoch
        self.kind = kind
        self.place = place
        self.first = first  # the first write of the allocator: it initialises

    def after(self, clock: Clock) -> bool:
        """Is it unknown to whoever has *clock*? Then nothing orders the two."""
        return self.epoch > clock.get(self.task, 0)

    def __str__(self) -> str:
        return f"{self.kind} by {self.task.name} in {spell(self.place)}"


class Field:
    """Who touched one field of one structure."""

    __slots__ = ("reads", "write")

    def __init__(self) -> None:
        self.write: Access | None = None
        self.reads: dict[Task, Access] = {}


class Races:
    """A listener for the explored part of one run; it suspects at most one race."""

    def __init__(self) -> None:
        self.clocks = Clocks()
        self.fields: dict[int, dict[str, Field]] = {}
        self.allocator: dict[int, Task] = {}
        self.reported = False
        self._alive: list[Any] = []  # an id must not be used again

    def wants(self, kind: str) -> bool:
        return kind in ("read", "write", "alloc", "free", "spawn") or ORDERS.get(kind) != 0

    def event(self, task: Task, op: Op) -> None:
        if self.reported:
            return
        kind = op.kind
        if kind == "read" or kind == "write":
            if op.field not in getattr(op.obj, "__racy__", ()):
                self._access(task, op)
        elif kind == "free":
            self._free(task, op)
        elif kind == "alloc":
            self.allocator[id(op.obj)] = task
            self._alive.append(op.obj)
        else:
            self.clocks.event(task, op)

    def _access(self, task: Task, op: Op) -> None:
        fields = self.fields.get(id(op.obj))
        if fields is None:
            fields = self.fields[id(op.obj)] = {}
            self._alive.append(op.obj)
        field = fields.get(op.field)
        if field is None:
            field = fields[op.field] = Field()
        clock = self.clocks.of(task)
        write = op.kind == "write"
        first = write and field.write is None and self.allocator.get(id(op.obj)) is task
        access = Access(task, clock[task], op.kind, caller(), first)
        self._compare(field, access, clock, op)
        if write:
            field.write = access
            field.reads.clear()
        else:
            field.reads[task] = access

    def _free(self, task: Task, op: Op) -> None:
        clock = self.clocks.of(task)
        for name, field in self.fields.pop(id(op.obj), {}).items():
            if name not in getattr(op.obj, "__racy__", ()):
                access = Access(task, clock[task], "free", caller(), False)
                self._compare(field, access, clock, Op("free", op.obj, field=name))

    def _compare(self, field: Field, access: Access, clock: Clock, op: Op) -> None:
        others = [] if field.write is None else [field.write]
        if access.kind != "read":
            others += field.reads.values()
        for other in others:
            if not self.reported and other.task is not access.task and other.after(clock):
                self._report(other, access, op)

    def _report(self, one: Access, two: Access, op: Op) -> None:
        self.reported = True
        what = f"{type(op.obj).__name__}.{op.field}"
        functions = " / ".join(sorted(each.place[0].co_name for each in (one, two)))
        kind = "publish-before-init" if one.first or two.first else "data-race"
        lines = [
            f"{kind} in {functions}",
            f"{what}: {one},",
            f"{what}: {two};",
            "nothing orders the two",
        ]
        two.task.runtime.suspect(Splat(kind, "\n".join(lines)))

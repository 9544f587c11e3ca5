# SPDX-License-Identifier: GPL-2.0-only
"""
Leaks: when everybody has gone, everything must be as it was before they came.

Mirrors kmemleak, and what Linux checks when a module is unloaded or a machine is shut
down. A structure allocated since must be freed, a file opened must be released, a sysfs
node added must be removed; no task may have ended with a lock held. A counter or an id
allocator (anything with ``leftover()``) must answer what it answered when it was first
used, or less. A device bound since must be unbound.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from uvfio.runtime.errors import Splat
from uvfio.runtime.runtime import Op
from uvfio.runtime.task import Task

BEGINS = {
    "alloc": "still allocated",
    "opened": "never released",
    "probed": "still bound to its driver",
    "sysfs_add": "still in sysfs",
}
COUNTS = ("refcount_", "xa_")
TAKES = frozenset({"lock", "lock_nested", "trylock", "down_read", "down_write"})
ENDS = {"free": "alloc", "released": "opened", "removed": "probed", "sysfs_remove": "sysfs_add"}


class Leaks:
    """A listener that knows all that came into being since it began to listen."""

    def __init__(self) -> None:
        self.live: dict[str, dict[int, Any]] = {kind: {} for kind in BEGINS}
        self.counted: dict[int, tuple[Any, Any]] = {}  # an object, and what it answered at first
        self.tasks: set[Task] = set()

    def wants(self, kind: str) -> bool:
        return kind in BEGINS or kind in ENDS or kind in TAKES or kind.startswith(COUNTS)

    def event(self, task: Task, op: Op) -> None:
        kind = op.kind
        this = id(op.obj)
        if kind in TAKES:
            self.tasks.add(task)
            return
        if kind in BEGINS:
            self.live[kind][this] = op.obj  # the object keeps its id from being used again
        elif kind in ENDS:
            self.live[ENDS[kind]].pop(this, None)
        elif this not in self.counted and hasattr(type(op.obj), "leftover"):
            self.counted[this] = (op.obj, op.obj.leftover())

    def check(self) -> None:
        """Splat unless all is as it was."""
        for kind, what in BEGINS.items():
            if self.live[kind]:
                raise Splat("leak", f"{what}: {_counts(self.live[kind].values())}")
        for obj, before in self.counted.values():
            after = obj.leftover()
            if not after <= before:  # a number, or a set
                raise Splat("leak", f"{obj!r} must be left with {_told(before)} as it was, not {_told(after)}")
        for task in sorted(self.tasks, key=lambda task: task.name):
            if task.done and task.held:
                raise Splat("lock-held", f"{task.name} has ended, and holds {', '.join(map(repr, task.held))}")


def _told(left: Any) -> str:
    return repr(left) if isinstance(left, int) else f"ids {', '.join(map(str, sorted(left))) or 'none'}"


def _counts(objects: Iterable[Any]) -> str:
    kinds = Counter(f"{type(obj).__name__} {obj!r}" if _is_named(obj) else type(obj).__name__ for obj in objects)
    return ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))


def _is_named(obj: Any) -> bool:
    """Files and sysfs nodes are told apart by name; of structures the number is enough."""
    return "__repr__" in type(obj).__dict__ and not hasattr(type(obj), "__shared__")

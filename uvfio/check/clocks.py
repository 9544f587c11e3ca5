# SPDX-License-Identifier: GPL-2.0-only
"""
Happens-before: vector clocks of tasks and of what orders them.

Lamport's relation as Flanagan and Freund keep it ("FastTrack: Efficient and Precise
Dynamic Race Detection", PLDI 2009), with a clock for readers and one for writers of
each object. What orders what is Linux's memory model, not the schedule: a reference
count's increment orders nothing, its decrement releases, and the last one acquires; an
``atomic_read`` orders nothing; RCU-like look-ups acquire what was published before.

An operation not named here orders as a lock does. That, and a ``trylock`` in vain that
counts as an acquisition, errs on the side of silence.
"""

from __future__ import annotations

from typing import Any

from uvfio.runtime.runtime import Op
from uvfio.runtime.task import Task

Clock = dict[Task, int]  # of every task, the last of its epochs that is known

# Acquire what writers released, or readers; release as a reader, or as a writer.
FROM_WRITERS, FROM_READERS, AS_READER, AS_WRITER = 1, 2, 4, 8
ACQUIRE = FROM_WRITERS | FROM_READERS
BOTH = ACQUIRE | AS_WRITER

ORDERS = {
    **dict.fromkeys(
        ("alloc", "free", "read", "read_once", "write", "start", "exit", "refcount_inc", "refcount_inc_not_zero"), 0
    ),
    **dict.fromkeys(("opened", "released", "probed", "removed", "sysfs_add", "sysfs_dir", "sysfs_remove"), 0),
    **dict.fromkeys(("kernfs_get_active", "refcount_read", "refcount_set", "atomic_read", "atomic_set"), 0),
    **dict.fromkeys(("lock", "lock_nested", "trylock", "down_write", "down_write_trylock"), ACQUIRE),
    **dict.fromkeys(("wait", "prepare_to_wait", "wait_for_completion", "xa_load", "xa_for_each"), ACQUIRE),
    **dict.fromkeys(("work", "flush_work", "cancel_work_sync", "chrdev_open"), ACQUIRE),
    **dict.fromkeys(("down_read", "down_read_trylock", "srcu_read_lock", "kernfs_active"), FROM_WRITERS),
    **dict.fromkeys(("srcu_read_unlock", "kernfs_put_active"), AS_READER),
    **dict.fromkeys(("unlock", "downgrade", "wake_up", "complete", "work_done", "fd_install"), AS_WRITER),
    **dict.fromkeys(("refcount_dec", "refcount_dec_not_one"), AS_READER),
}


class Clocks:
    """A listener for the explored part of one run: what each task knows of the others."""

    def __init__(self) -> None:
        self.tasks: dict[Task, Clock] = {}
        self.readers: dict[int, Clock] = {}
        self.writers: dict[int, Clock] = {}
        self._alive: list[Any] = []  # an id must not be used again

    def event(self, task: Task, op: Op) -> None:
        kind = op.kind
        if kind == "spawn":
            clock = self.of(task)
            self.of(op.obj).update({**clock, op.obj: 1})
            clock[task] += 1
            return
        order = ORDERS.get(kind)
        if order is None:
            order = BOTH if op.mode == "w" else ACQUIRE
        elif kind in ("lock", "unlock") and op.mode == "r":
            order = FROM_WRITERS if kind == "lock" else AS_READER
        elif kind.startswith("refcount_dec") and getattr(op.obj, "value", 1) <= 1:
            order |= FROM_READERS
        if order:
            self._order(self.of(task), task, op.obj, order)

    def of(self, task: Task) -> Clock:
        """What *task* knows. Its own epochs begin at 1, so that 0 is known to all."""
        clock = self.tasks.get(task)
        if clock is None:
            clock = self.tasks[task] = {task: 1}
        return clock

    def _order(self, clock: Clock, task: Task, obj: Any, order: int) -> None:
        this = id(obj)
        if order & FROM_WRITERS and this in self.writers:
            join(clock, self.writers[this])
        if order & FROM_READERS and this in self.readers:
            join(clock, self.readers[this])
        if order & (AS_READER | AS_WRITER):
            clocks = self.writers if order & AS_WRITER else self.readers
            theirs = clocks.get(this)
            if theirs is None:
                clocks[this] = dict(clock)
                self._alive.append(obj)
            else:
                join(theirs, clock)
            clock[task] += 1


def join(clock: Clock, other: Clock) -> None:
    """*clock* learns all that *other* knows."""
    for task, epoch in other.items():
        if epoch > clock.get(task, 0):
            clock[task] = epoch

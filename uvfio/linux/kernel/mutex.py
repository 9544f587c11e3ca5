# SPDX-License-Identifier: GPL-2.0-only
"""
Mutexes and spinlocks. Mirrors ``kernel/locking/mutex.c`` and ``spinlock.c``.

*name* is the lock class, as lockdep has it (``vfio_group.group_lock``).
Difference from Linux: no fairness among those who wait; a policy decides.
"""

from __future__ import annotations

from types import TracebackType

from uvfio.linux.kernel.bug import might_sleep
from uvfio.runtime.errors import Splat
from uvfio.runtime.struct import Embedded
from uvfio.runtime.task import Task, current, running


class _Exclusive(Embedded):
    """What a mutex and a spinlock have in common: one owner at a time."""

    __slots__ = ("__weakref__", "name", "novalidate", "owner")  # there are very many

    def __init__(self, name: str) -> None:
        self.name = name
        self.novalidate = False  # True: lockdep_set_novalidate_class()
        self.owner: Task | None = None

    def __repr__(self) -> str:
        return self.name

    def __enter__(self) -> None:
        self.lock()

    def __exit__(self, kind: type[BaseException] | None, e: BaseException | None, tb: TracebackType | None) -> None:
        self.unlock()

    def lock(self) -> None:
        raise NotImplementedError

    def unlock(self) -> None:
        task = running()
        if self.owner is not task:
            if task.runtime.machine is None or getattr(task.runtime, "aborting", False):
                return
            raise Splat("bad-unlock", f"{task.name} unlocks {self.name}, which {self.owner} holds")
        self.owner = None
        task.held.remove(self)
        if task.runtime.listeners:
            task.runtime.note("unlock", self)

    def is_locked(self) -> bool:
        return self.owner is not None

    def _free(self) -> bool:
        return self.owner is None

    def _acquire(self, task: Task, kind: str = "lock") -> None:
        if self.owner is task:
            raise Splat("recursive-locking", f"{task.name} takes {self.name}, which it holds already")
        if self.owner is not None or task.runtime.schedules:
            task.runtime.point(kind, self, "w", self._free)
        self.owner = task
        task.held.append(self)

    def _try_acquire(self, task: Task) -> bool:
        task.runtime.point("trylock", self)
        if self.owner is not None:
            return False
        self.owner = task
        task.held.append(self)
        return True


class Mutex(_Exclusive):
    """``struct mutex``: sleeps while somebody else holds it; not recursive."""

    __slots__ = ()

    def lock(self) -> None:
        task = current()
        if task.preempt_count:
            might_sleep()
        self._acquire(task)

    def lock_nested(self) -> None:
        """``mutex_lock_nested(SINGLE_DEPTH_NESTING)``: another of its class is held, in a set order."""
        might_sleep()
        self._acquire(current(), "lock_nested")

    def trylock(self) -> bool:
        return self._try_acquire(current())


class Spinlock(_Exclusive):
    """``spinlock_t``: while it is held, nothing may sleep."""

    __slots__ = ()

    def lock(self) -> None:
        task = current()
        if self.owner is None and not task.runtime.schedules:
            self.owner = task
            task.held.append(self)
        else:
            self._acquire(task)
        task.preempt_count += 1

    def trylock(self) -> bool:
        task = current()
        taken = self._try_acquire(task)
        task.preempt_count += taken
        return taken

    def unlock(self) -> None:
        task = running()
        if self.owner is task:
            task.preempt_count -= 1
        super().unlock()

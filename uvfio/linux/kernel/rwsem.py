# SPDX-License-Identifier: GPL-2.0-only
"""
Reader-writer semaphores. Mirrors ``kernel/locking/rwsem.c``.

First come first served: a waiting writer blocks every later reader, and
``down_read_trylock`` fails as soon as a writer waits. Recursive reading is
therefore a deadlock as soon as a writer comes between.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from uvfio.linux.kernel.bug import might_sleep
from uvfio.runtime.errors import Splat
from uvfio.runtime.struct import Embedded
from uvfio.runtime.task import Task, running


class RwSemaphore(Embedded):
    """``struct rw_semaphore``. ``with sem.read():`` and ``with sem.write():``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.writer: Task | None = None
        self.readers: list[Task] = []
        self.queue: list[tuple[Task, str]] = []  # who waits, in order of arrival

    def __repr__(self) -> str:
        return self.name

    @contextmanager
    def read(self) -> Iterator[None]:
        self.down_read()
        try:
            yield
        finally:
            self.up_read()

    @contextmanager
    def write(self) -> Iterator[None]:
        self.down_write()
        try:
            yield
        finally:
            self.up_write()

    def down_read(self) -> None:
        task = running()
        if task.preempt_count or self.writer is task:
            self._may_not(task)
        # Arriving is visible by itself: a writer that waits already shuts readers out.
        if task.runtime.schedules:
            task.runtime.point("down_read", self)
        if self.writer is not None or self.queue:
            self._wait(task, "r")
        self.readers.append(task)
        task.held.append(self)

    def down_read_trylock(self) -> bool:
        task = running()
        task.runtime.point("down_read_trylock", self)
        if self.writer is not None or self.queue:
            return False
        self.readers.append(task)
        task.held.append(self)
        return True

    def up_read(self) -> None:
        task = running()
        if task not in self.readers:
            self._bad_up(task, "reading")
            return
        self.readers.remove(task)
        task.held.remove(self)
        if task.runtime.listeners:
            task.runtime.note("unlock", self, "r")

    def down_write(self) -> None:
        task = running()
        if task.preempt_count or self.writer is task:
            self._may_not(task)
        if task.runtime.schedules:
            task.runtime.point("down_write", self)
        if self.writer is not None or self.readers or self.queue:
            self._wait(task, "w")
        self.writer = task
        task.held.append(self)

    def down_write_trylock(self) -> bool:
        task = running()
        task.runtime.point("down_write_trylock", self)
        if self.writer is not None or self.readers:
            return False
        self.writer = task
        task.held.append(self)
        return True

    def up_write(self) -> None:
        task = running()
        if self.writer is not task:
            self._bad_up(task, "writing")
            return
        self.writer = None
        task.held.remove(self)
        if task.runtime.listeners:
            task.runtime.note("unlock", self)

    def downgrade_write(self) -> None:
        task = running()
        if self.writer is not task:
            self._bad_up(task, "writing")
        self.writer = None
        self.readers.append(task)
        task.runtime.note("downgrade", self)

    def _may_not(self, task: Task) -> None:
        might_sleep()
        if self.writer is task:
            raise Splat("recursive-locking", f"{task.name} takes {self.name}, which it holds for writing")

    def _wait(self, task: Task, how: str) -> None:
        """Somebody is there, or was first. Called right after the point of arrival."""
        entry = (task, how)
        self.queue.append(entry)
        try:
            if not self._may_pass(entry):
                task.runtime.point("lock", self, how, ready=lambda: self._may_pass(entry))
        finally:
            self.queue.remove(entry)

    def _may_pass(self, entry: tuple[Task, str]) -> bool:
        if self.writer is not None:
            return False
        ahead = self.queue[: self.queue.index(entry)]
        if entry[1] == "w":
            return not self.readers and not ahead
        return all(how == "r" for _task, how in ahead)

    def _bad_up(self, task: Task, how: str) -> None:
        if not getattr(task.runtime, "aborting", False):
            raise Splat("bad-unlock", f"{task.name} releases {self.name}, which it does not hold for {how}")

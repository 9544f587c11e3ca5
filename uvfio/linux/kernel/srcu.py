# SPDX-License-Identifier: GPL-2.0-only
"""
Sleepable RCU. Mirrors ``kernel/rcu/srcutree.c``: readers may sleep, and
``synchronize_srcu`` waits for those that were there before it, not for later ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from uvfio.linux.kernel.bug import might_sleep
from uvfio.runtime.struct import Embedded
from uvfio.runtime.task import current


class Srcu(Embedded):
    """``struct srcu_struct``. ``with srcu.read():`` is the read side."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.readers: set[int] = set()
        self.next = 0

    def __repr__(self) -> str:
        return self.name

    def read_lock(self) -> int:
        current().runtime.point("srcu_read_lock", self)
        self.next += 1
        self.readers.add(self.next)
        return self.next

    def read_unlock(self, index: int) -> None:
        self.readers.discard(index)
        current().runtime.note("srcu_read_unlock", self)

    @contextmanager
    def read(self) -> Iterator[None]:
        index = self.read_lock()
        try:
            yield
        finally:
            self.read_unlock(index)

    def synchronize(self) -> None:
        might_sleep()
        runtime = current().runtime
        runtime.point("synchronize_srcu", self)
        before = set(self.readers)
        runtime.point("synchronize_srcu", self, ready=lambda: not before & self.readers)

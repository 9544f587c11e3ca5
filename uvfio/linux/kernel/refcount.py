# SPDX-License-Identifier: GPL-2.0-only
"""
Atomic counters and reference counts.

Mirrors ``lib/refcount.c`` and ``include/linux/kref.h``. Difference from Linux:
what Linux warns about (underflow, an increment of zero) ends the run as a finding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvfio.linux.kernel.mutex import Mutex
from uvfio.runtime.errors import Splat
from uvfio.runtime.struct import Embedded
from uvfio.runtime.task import running

REFCOUNT_SATURATED = -(1 << 30)


class Atomic(Embedded):
    """``atomic_t``."""

    def __init__(self, name: str, value: int = 0) -> None:
        self.name = name
        self.value = value

    def __repr__(self) -> str:
        return f"{self.name}={self.value}"

    def read(self) -> int:
        running().runtime.point("atomic_read", self, "r")
        return self.value

    def set(self, value: int) -> None:
        running().runtime.point("atomic_set", self)
        self.value = value

    def add_return(self, n: int) -> int:
        running().runtime.point("atomic_add", self)
        self.value += n
        return self.value

    def inc(self) -> None:
        self.add_return(1)

    def dec(self) -> None:
        self.add_return(-1)

    def dec_and_test(self) -> bool:
        return self.add_return(-1) == 0

    def cmpxchg(self, old: int, new: int) -> int:
        """Store *new* if the value is *old*; answers what was there."""
        running().runtime.point("cmpxchg", self)
        was = self.value
        if was == old:
            self.value = new
        return was


class Refcount(Embedded):
    """``refcount_t``: saturates instead of overflowing, and never comes back from 0."""

    __slots__ = ("__weakref__", "name", "value")  # there are very many

    def __init__(self, name: str, value: int = 1) -> None:
        self.name = name
        self.value = value

    def __repr__(self) -> str:
        return f"{self.name}={self.value}"

    def read(self) -> int:
        runtime = running().runtime
        if runtime.schedules:
            runtime.point("refcount_read", self, "r")
        return self.value

    def set(self, value: int) -> None:
        runtime = running().runtime
        if runtime.schedules:
            runtime.point("refcount_set", self)
        self.value = value

    def leftover(self) -> int:
        """For checkers: the references that there are."""
        return self.value

    def inc(self) -> None:
        runtime = running().runtime
        if runtime.schedules:
            runtime.point("refcount_inc", self)
        if self.value <= 0:
            raise Splat("refcount", f"{self.name}: addition on {self.value}; use-after-free")
        self.value += 1

    def inc_not_zero(self) -> bool:
        runtime = running().runtime
        if runtime.schedules:
            runtime.point("refcount_inc_not_zero", self)
        if self.value == 0:
            return False
        self.value += 1
        return True

    def dec(self) -> None:
        if self.dec_and_test():
            raise Splat("refcount", f"{self.name}: decrement hit 0; leaking memory")

    def dec_and_test(self) -> bool:
        runtime = running().runtime
        if runtime.schedules:
            runtime.point("refcount_dec", self)
        if self.value <= 0:
            raise Splat("refcount", f"{self.name}: underflow; use-after-free")
        self.value -= 1
        return self.value == 0

    def dec_if_one(self) -> bool:
        runtime = running().runtime
        if runtime.schedules:
            runtime.point("refcount_dec_if_one", self)
        if self.value != 1:
            return False
        self.value = 0
        return True

    def dec_not_one(self) -> bool:
        runtime = running().runtime
        if runtime.schedules:
            runtime.point("refcount_dec_not_one", self)
        if self.value == 1:
            return False
        self.value -= 1
        return True

    def dec_and_mutex_lock(self, lock: Mutex) -> bool:
        """Drop a reference; if it was the last, return True holding *lock*."""
        if self.dec_not_one():
            return False
        lock.lock()
        if self.dec_and_test():
            return True
        lock.unlock()
        return False


class Kref:
    """``struct kref``: a reference count that calls *release(obj)* at the last put."""

    def __init__(self, name: str) -> None:
        self.refcount = Refcount(name)

    def __repr__(self) -> str:
        return repr(self.refcount)

    def get(self) -> None:
        self.refcount.inc()

    def get_unless_zero(self) -> bool:
        return self.refcount.inc_not_zero()

    def put(self, release: Callable[[Any], None], obj: Any) -> bool:
        """Drop a reference; True if it was the last and *release(obj)* ran."""
        if not self.refcount.dec_and_test():
            return False
        release(obj)
        return True

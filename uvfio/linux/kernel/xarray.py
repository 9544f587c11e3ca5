# SPDX-License-Identifier: GPL-2.0-only
"""
XArrays and id allocators. Mirrors ``lib/xarray.c`` and ``lib/idr.c`` (``ida``).

Ids are the lowest free ones: an id is reused at once, which several known bugs
need. A reserved entry (``XA_ZERO_ENTRY``) reads as None and is occupied.
Difference from Linux: no multi-index entries.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from errno import EBUSY
from typing import Any

from uvfio.linux.kernel.bug import WARN_ON
from uvfio.linux.kernel.mutex import Spinlock
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import Embedded
from uvfio.runtime.task import running


class _ZeroEntry:
    def __repr__(self) -> str:
        return "XA_ZERO_ENTRY"


XA_ZERO_ENTRY = _ZeroEntry()


class Xarray(Embedded):
    """``struct xarray``. *first* is the lowest id that :meth:`alloc` gives."""

    def __init__(self, name: str, first: int = 0) -> None:
        self.name = name
        self.entries: dict[int, Any] = {}
        self.marks: dict[int, set[int]] = {}
        self.xa_lock = Spinlock(f"{name}.xa_lock")
        self._first = first
        self._top = first  # every id below is in use or on the heap
        self._holes: list[int] = []

    def __repr__(self) -> str:
        return self.name

    def leftover(self) -> frozenset[int]:
        """For checkers: the ids in use."""
        return frozenset(self.entries)

    def load(self, index: int) -> Any:
        runtime = running().runtime
        if runtime.schedules:
            runtime.point("xa_load", self, "r")
        entry = self.entries.get(index)
        return None if entry is XA_ZERO_ENTRY else entry

    def store(self, index: int, entry: Any) -> Any:
        """Store *entry* (None erases); answers what was there, as ``xa_load`` would."""
        running().runtime.point("xa_store", self)
        return self._exchange(index, entry)

    def cmpxchg(self, index: int, old: Any, entry: Any) -> Any:
        """Store *entry* if *old* is there; answers what was there."""
        running().runtime.point("xa_cmpxchg", self)
        was = self.entries.get(index)
        if was is old or (was is XA_ZERO_ENTRY and old is None):
            self._exchange(index, entry)
        return None if was is XA_ZERO_ENTRY else was

    def insert(self, index: int, entry: Any) -> None:
        """Errno EBUSY when something (a reserved entry too) is there."""
        running().runtime.point("xa_insert", self)
        if index in self.entries:
            raise Errno(EBUSY)
        self._exchange(index, entry)

    def reserve(self, index: int) -> None:
        self.insert(index, XA_ZERO_ENTRY)

    def alloc(self, entry: Any, last: int = 0xFFFFFFFF) -> int:
        """Store *entry* at the lowest free id up to *last*. Errno EBUSY when full."""
        running().runtime.point("xa_alloc", self)
        while self._holes and self._holes[0] in self.entries:
            heapq.heappop(self._holes)
        if self._holes:
            index = heapq.heappop(self._holes)
        else:
            while self._top in self.entries:
                self._top += 1
            index = self._top
        if index > last:
            raise Errno(EBUSY, f"no free id in {self.name}")
        self._exchange(index, entry)
        return index

    def erase(self, index: int) -> Any:
        running().runtime.point("xa_erase", self)
        was = self._exchange(index, None)
        if not index and self._first and self.entries:
            # As in Linux 7.3.4: an entry at 0 keeps it from being allocated while there are
            # others, and is erased like any other. From then on 0 is an id.
            self._first = 0
            heapq.heappush(self._holes, 0)
        return was

    def destroy(self) -> None:
        """Forget all entries, reserved ones too."""
        running().runtime.point("xa_destroy", self)
        self.entries.clear()
        self.marks.clear()

    def empty(self) -> bool:
        running().runtime.point("xa_empty", self, "r")
        return not self.entries

    def items(self) -> Iterator[tuple[int, Any]]:
        """Like ``xa_for_each``: ascending, reserved entries skipped, changes allowed."""
        running().runtime.point("xa_for_each", self, "r")
        for index in sorted(self.entries):
            entry = self.entries.get(index)
            if entry is not None and entry is not XA_ZERO_ENTRY:
                yield index, entry

    def set_mark(self, index: int, mark: int) -> None:
        if index in self.entries:
            self.marks.setdefault(mark, set()).add(index)

    def clear_mark(self, index: int, mark: int) -> None:
        self.marks.get(mark, set()).discard(index)

    def get_mark(self, index: int, mark: int) -> bool:
        return index in self.marks.get(mark, ())

    def _exchange(self, index: int, entry: Any) -> Any:
        was = self.entries.get(index)
        if entry is None:
            if was is not None:
                del self.entries[index]
                for marked in self.marks.values():
                    marked.discard(index)
                if self._first <= index < self._top:
                    heapq.heappush(self._holes, index)
        else:
            self.entries[index] = entry
            if self._top == index:
                self._top += 1
        return None if was is XA_ZERO_ENTRY else was


class Ida:
    """``struct ida``: hands out the lowest free id in a range."""

    def __init__(self, name: str) -> None:
        self.ids = Xarray(name)

    def __repr__(self) -> str:
        return self.ids.name

    def alloc(self, last: int = 0x7FFFFFFF) -> int:
        return self.ids.alloc(XA_ZERO_ENTRY, last)

    def free(self, index: int) -> None:
        running().runtime.point("xa_erase", self.ids)
        if not WARN_ON(index not in self.ids.entries, f"ida_free called for id={index} which is not allocated"):
            self.ids._exchange(index, None)

    def empty(self) -> bool:
        return self.ids.empty()

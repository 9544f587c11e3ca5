# SPDX-License-Identifier: GPL-2.0-only
"""
Disjoint intervals, looked up by address. Mirrors ``include/linux/interval_tree.h``.

Differences from Linux: the nodes of one tree never overlap, and they are kept in sorted
blocks of at most BLOCK_MAX, which beats a tree in Python: what moves when one is added is
small, and bisection is done in C. Addresses are in arrays: with 10^6 nodes, each one that
is looked at on the way would have to be waited for. A node is any object with
``start`` and ``last`` (inclusive, 64 bits), which must not change while it is in the
tree. :meth:`IntervalTree.hole` takes the place of ``interval_tree_span_iter``.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import chain
from typing import Generic, Protocol, TypeVar

BLOCK_MAX = 512
UNKNOWN = 1 << 65  # a hole of more than all addresses: it must be looked for


class Interval(Protocol):
    """What can be a node."""

    start: int
    last: int


N = TypeVar("N", bound=Interval)


class IntervalTree(Generic[N]):
    """``struct rb_root_cached`` of interval nodes that do not overlap."""

    def __init__(self) -> None:
        self.count = 0
        # Block i has the nodes that start from floors[i] up to the next floor, their starts
        # and their lasts; only one that is alone can be empty.
        self.floors: list[int] = [-1]
        self.starts: list[array[int]] = [array("Q")]
        self.lasts: list[array[int]] = [array("Q")]
        self.nodes: list[list[N]] = [[]]
        # No hole in front of a node of block i is larger than largest[i].
        self.largest: list[int] = [UNKNOWN]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[N]:
        """All nodes, ascending; the tree may change meanwhile."""
        return iter(list(chain.from_iterable(self.nodes)))

    def insert(self, node: N) -> None:
        """Add *node*, which overlaps nothing that is there."""
        start = node.start
        floors = self.floors
        index = len(floors) - 1 if start > floors[-1] else bisect_right(floors, start) - 1
        starts = self.starts[index]
        at = bisect_right(starts, start)
        if at == len(starts):
            # The hole in front of it may be new to this block.
            self.largest[index] = UNKNOWN
        starts.insert(at, start)
        self.lasts[index].insert(at, node.last)
        self.nodes[index].insert(at, node)
        self.count += 1
        if len(starts) > BLOCK_MAX:
            self._split(index)

    def remove(self, node: N) -> None:
        start = node.start
        index = bisect_right(self.floors, start) - 1
        starts = self.starts[index]
        at = bisect_left(starts, start)
        del starts[at], self.lasts[index][at], self.nodes[index][at]
        self.count -= 1
        # What was in front of it is now in front of the next one.
        self.largest[index if at < len(starts) else min(index + 1, len(self.starts) - 1)] = UNKNOWN
        if not starts and len(self.starts) > 1:
            self._drop(index)

    def iter_first(self, start: int, last: int) -> N | None:
        """The lowest node that shares an address with *start* to *last*."""
        floors = self.floors
        index = bisect_right(floors, start) - 1 if len(floors) > 1 else 0
        starts = self.starts[index]
        at = bisect_right(starts, start)
        if at:
            if self.lasts[index][at - 1] >= start:
                return self.nodes[index][at - 1]
        elif index and self.lasts[index - 1][-1] >= start:
            return self.nodes[index - 1][-1]
        if at == len(starts):
            index, at = index + 1, 0
            if index == len(floors):
                return None
            starts = self.starts[index]
        return self.nodes[index][at] if starts[at] <= last else None

    def overlapping(self, start: int, last: int) -> list[N]:
        """All nodes that share an address with *start* to *last*, ascending."""
        first = self.iter_first(start, last)
        if first is None:
            return []
        low, high = bisect_right(self.floors, first.start) - 1, bisect_right(self.floors, last) - 1
        begin = bisect_left(self.starts[low], first.start)
        end = bisect_right(self.starts[high], last)
        if low == high:
            return self.nodes[low][begin:end]
        between = chain.from_iterable(self.nodes[low + 1 : high])
        return [*self.nodes[low][begin:], *between, *self.nodes[high][:end]]

    def hole(self, start: int, length: int) -> tuple[int, int | None]:
        """
        The lowest addresses from *start* on, at least *length* of them, that no node has:
        first, and last or None where no node comes behind.
        """
        first = start
        index = bisect_right(self.floors, start) - 1
        at = bisect_right(self.starts[index], start)
        if at:
            first = max(first, self.lasts[index][at - 1] + 1)
        elif index:
            first = max(first, self.lasts[index - 1][-1] + 1)
        while index < len(self.starts):
            if self.largest[index] < length:
                first = max(first, self.lasts[index][-1] + 1)
            else:
                found = self._hole_in(index, first, length)
                if isinstance(found, tuple):
                    return found
                first = found
            index += 1
        return first, None

    def _hole_in(self, index: int, first: int, length: int) -> tuple[int, int] | int:
        """A hole in front of a node of the block, or where to go on. Learns how large its holes are."""
        starts, lasts = self.starts[index], self.lasts[index]
        at = bisect_left(starts, first)
        whole, largest = at == 0 and bool(starts), 0
        if whole:  # the hole in front of all may begin before *first*
            largest = starts[0] - (self.lasts[index - 1][-1] + 1 if index else 0)
        while at < len(starts):
            size = starts[at] - first
            if size >= length:
                return first, starts[at] - 1
            largest = max(largest, size)
            first = lasts[at] + 1
            at += 1
        if whole:
            self.largest[index] = largest
        return first

    def _split(self, index: int) -> None:
        starts, lasts, nodes = self.starts[index], self.lasts[index], self.nodes[index]
        half = len(starts) // 2
        self.starts[index : index + 1] = [starts[:half], starts[half:]]
        self.lasts[index : index + 1] = [lasts[:half], lasts[half:]]
        self.nodes[index : index + 1] = [nodes[:half], nodes[half:]]
        self.floors.insert(index + 1, starts[half])
        self.largest.insert(index + 1, self.largest[index])

    def _drop(self, index: int) -> None:
        del self.starts[index], self.lasts[index], self.nodes[index], self.floors[index], self.largest[index]
        self.floors[0] = -1
        # The holes before and behind what was here are one.
        self.largest[min(index, len(self.starts) - 1)] = UNKNOWN

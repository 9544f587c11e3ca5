# SPDX-License-Identifier: GPL-2.0-only
"""
Disjoint intervals, looked up by address. Mirrors ``include/linux/interval_tree.h``.

Differences from Linux: the nodes of one tree never overlap, and they are kept as
a sorted list of first addresses, which beats a tree in Python up to about 10^5
nodes. A node is any object with ``start`` and ``last`` (inclusive), which must not
change while it is in the tree.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar


class Interval(Protocol):
    """What can be a node."""

    start: int
    last: int


N = TypeVar("N", bound=Interval)


class IntervalTree(Generic[N]):
    """``struct rb_root_cached`` of interval nodes that do not overlap."""

    def __init__(self) -> None:
        self.starts: list[int] = []
        self.nodes: dict[int, N] = {}

    def __len__(self) -> int:
        return len(self.starts)

    def __iter__(self) -> Iterator[N]:
        """All nodes, ascending; the tree may change meanwhile."""
        return iter([self.nodes[start] for start in self.starts])

    def insert(self, node: N) -> None:
        """Add *node*, which overlaps nothing that is there."""
        self.nodes[node.start] = node
        starts = self.starts
        if not starts or node.start > starts[-1]:
            starts.append(node.start)
        else:
            insort(starts, node.start)

    def remove(self, node: N) -> None:
        del self.nodes[node.start]
        del self.starts[bisect_left(self.starts, node.start)]

    def iter_first(self, start: int, last: int) -> N | None:
        """The lowest node that shares an address with *start* to *last*."""
        starts = self.starts
        index = bisect_right(starts, start)
        if index:
            node = self.nodes[starts[index - 1]]
            if node.last >= start:
                return node
        if index < len(starts) and starts[index] <= last:
            return self.nodes[starts[index]]
        return None

    def overlapping(self, start: int, last: int) -> list[N]:
        """All nodes that share an address with *start* to *last*, ascending."""
        first = self.iter_first(start, last)
        if first is None:
            return []
        low = bisect_left(self.starts, first.start)
        high = bisect_right(self.starts, last)
        return [self.nodes[begin] for begin in self.starts[low:high]]

# SPDX-License-Identifier: GPL-2.0-only
"""
Disjoint intervals, looked up by address. Mirrors ``include/linux/interval_tree.h``.

Differences from Linux: the nodes of one tree never overlap, and they are kept as
sorted lists of first addresses of at most BLOCK_MAX entries each, which beats a tree in
Python: what moves when one is added is small, and bisection is done in C. A node is any
object with ``start`` and ``last`` (inclusive), which must not change while it is in the
tree. :meth:`IntervalTree.hole` takes the place of ``interval_tree_span_iter``.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterator
from typing import Generic, Protocol, TypeVar

BLOCK_MAX = 1024
UNKNOWN = 1 << 65  # a hole of more than all addresses: it must be looked for


class Interval(Protocol):
    """What can be a node."""

    start: int
    last: int


N = TypeVar("N", bound=Interval)


class IntervalTree(Generic[N]):
    """``struct rb_root_cached`` of interval nodes that do not overlap."""

    def __init__(self) -> None:
        self.nodes: dict[int, N] = {}
        # Block i has the starts from floors[i] up to the next floor; only one that is alone can be empty.
        self.blocks: list[list[int]] = [[]]
        self.floors: list[int] = [-1]
        # No hole in front of a node of block i is larger than largest[i].
        self.largest: list[int] = [UNKNOWN]

    def __len__(self) -> int:
        return len(self.nodes)

    def __iter__(self) -> Iterator[N]:
        """All nodes, ascending; the tree may change meanwhile."""
        nodes = self.nodes
        return iter([nodes[start] for block in self.blocks for start in block])

    def insert(self, node: N) -> None:
        """Add *node*, which overlaps nothing that is there."""
        start = node.start
        self.nodes[start] = node
        floors = self.floors
        index = len(floors) - 1 if start > floors[-1] else bisect_right(floors, start) - 1
        block = self.blocks[index]
        if not block or start > block[-1]:
            block.append(start)
            # The hole in front of it may be new to this block.
            self.largest[index] = UNKNOWN
        else:
            insort(block, start)
        if len(block) > BLOCK_MAX:
            self._split(index)

    def remove(self, node: N) -> None:
        start = node.start
        del self.nodes[start]
        index = bisect_right(self.floors, start) - 1
        block = self.blocks[index]
        at = bisect_left(block, start)
        del block[at]
        # What was in front of it is now in front of the next one.
        self.largest[index if at < len(block) else min(index + 1, len(self.blocks) - 1)] = UNKNOWN
        if not block and len(self.blocks) > 1:
            self._drop(index)

    def iter_first(self, start: int, last: int) -> N | None:
        """The lowest node that shares an address with *start* to *last*."""
        blocks = self.blocks
        index = bisect_right(self.floors, start) - 1 if len(blocks) > 1 else 0
        block = blocks[index]
        at = bisect_right(block, start)
        if at:
            node = self.nodes[block[at - 1]]
            if node.last >= start:
                return node
        elif index:
            node = self.nodes[blocks[index - 1][-1]]
            if node.last >= start:
                return node
        if at < len(block):
            found = block[at]
        elif index + 1 < len(blocks):
            found = blocks[index + 1][0]
        else:
            return None
        return self.nodes[found] if found <= last else None

    def overlapping(self, start: int, last: int) -> list[N]:
        """All nodes that share an address with *start* to *last*, ascending."""
        first = self.iter_first(start, last)
        if first is None:
            return []
        nodes, floors = self.nodes, self.floors
        low, high = bisect_right(floors, first.start) - 1, bisect_right(floors, last) - 1
        found: list[N] = []
        for index in range(low, high + 1):
            block = self.blocks[index]
            begin = bisect_left(block, first.start) if index == low else 0
            end = bisect_right(block, last) if index == high else len(block)
            found += [nodes[each] for each in block[begin:end]]
        return found

    def hole(self, start: int, length: int) -> tuple[int, int | None]:
        """
        The lowest addresses from *start* on, at least *length* of them, that no node has:
        first, and last or None where no node comes behind.
        """
        first = start
        index = bisect_right(self.floors, start) - 1
        before = self._before(index, start)
        if before is not None and before.last >= start:
            first = before.last + 1
        while index < len(self.blocks):
            block = self.blocks[index]
            if self.largest[index] < length:
                first = max(first, self.nodes[block[-1]].last + 1)
            else:
                found = self._hole_in(index, first, length)
                if isinstance(found, tuple):
                    return found
                first = found
            index += 1
        return first, None

    def _hole_in(self, index: int, first: int, length: int) -> tuple[int, int] | int:
        """A hole in front of a node of the block, or where to go on. Learns how large its holes are."""
        block, nodes = self.blocks[index], self.nodes
        at = bisect_left(block, first)
        begin = at
        largest = 0
        while at < len(block):
            size = block[at] - first
            if size >= length:
                return first, block[at] - 1
            largest = max(largest, size)
            first = nodes[block[at]].last + 1
            at += 1
        # What the first one has in front of it may begin in the block before.
        if begin == 0 and block:
            self.largest[index] = largest
        return first

    def _before(self, index: int, start: int) -> N | None:
        """The last node that begins at or before *start*, which belongs to the block *index*."""
        block = self.blocks[index]
        at = bisect_right(block, start)
        if at:
            return self.nodes[block[at - 1]]
        return self.nodes[self.blocks[index - 1][-1]] if index else None

    def _split(self, index: int) -> None:
        block = self.blocks[index]
        half = len(block) // 2
        self.blocks[index : index + 1] = [block[:half], block[half:]]
        self.floors.insert(index + 1, block[half])
        self.largest.insert(index + 1, self.largest[index])

    def _drop(self, index: int) -> None:
        del self.blocks[index], self.floors[index], self.largest[index]
        self.floors[0] = -1
        # The holes before and behind what was here are one.
        self.largest[min(index, len(self.blocks) - 1)] = UNKNOWN

# SPDX-License-Identifier: GPL-2.0-only
"""The interval tree against one that looks at every node, with blocks so small that they are many."""

from __future__ import annotations

import random

import pytest

from uvfio.linux.kernel import interval_tree
from uvfio.linux.kernel.interval_tree import IntervalTree

SPACE = 4000


class Node:
    def __init__(self, start: int, last: int) -> None:
        self.start = start
        self.last = last


class Naive:
    def __init__(self) -> None:
        self.nodes: list[Node] = []

    def overlapping(self, start: int, last: int) -> list[Node]:
        return [node for node in sorted(self.nodes, key=lambda n: n.start) if node.start <= last and start <= node.last]

    def hole(self, start: int, length: int) -> tuple[int, int | None]:
        first = start
        for node in sorted(self.nodes, key=lambda n: n.start):
            if node.start - first >= length:
                return first, node.start - 1
            first = max(first, node.last + 1)
        return first, None


@pytest.mark.parametrize("seed", range(4))
def test_against_looking_at_every_node(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interval_tree, "BLOCK_MAX", 8)
    chance, tree, naive = random.Random(seed), IntervalTree[Node](), Naive()
    most = 0
    for step in range(3000):
        start = chance.randrange(SPACE)
        last = start + chance.randrange(20)
        found = naive.overlapping(start, last)
        assert tree.overlapping(start, last) == found
        assert tree.iter_first(start, last) is (found[0] if found else None)
        # First it fills up, then it empties.
        if not found and (step < 1500 or chance.random() < 0.2):
            node = Node(start, last)
            tree.insert(node)
            naive.nodes.append(node)
        elif naive.nodes and chance.random() < (0.3 if step < 1500 else 0.9):
            node = naive.nodes.pop(chance.randrange(len(naive.nodes)))
            tree.remove(node)
        most = max(most, len(tree.starts))
        length = chance.choice((1, 5, 30, 100))
        assert tree.hole(start, length) == naive.hole(start, length)
        assert len(tree) == len(naive.nodes)
    assert list(tree) == naive.overlapping(0, SPACE)
    assert most > 10


def test_addresses_have_64_bits() -> None:
    tree = IntervalTree[Node]()
    top = Node((1 << 64) - 4096, (1 << 64) - 1)
    tree.insert(top)
    tree.insert(Node(0, 4095))
    assert tree.iter_first(1 << 63, (1 << 64) - 1) is top
    assert tree.overlapping(0, 1 << 64)[-1] is top
    assert tree.hole(0, 1) == (4096, (1 << 64) - 4097)

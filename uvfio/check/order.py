# SPDX-License-Identifier: GPL-2.0-only
"""The graph behind ``lockdep.py``: which class of locks was taken while which was held."""

from __future__ import annotations

from collections.abc import Iterator

from uvfio.check.where import Place, caller
from uvfio.runtime.runtime import Op
from uvfio.runtime.task import Task

Key = tuple[int, str]  # one lock: id of its object, attribute of a sysfs directory


class Held:
    """Something that a task holds, or waits for."""

    __slots__ = ("cls", "exclusive", "key", "place", "tried", "verb")

    def __init__(self, op: Op, cls: str, exclusive: bool, tried: bool) -> None:
        self.key: Key = (id(op.obj), op.field)
        self.cls = cls
        self.verb = op.kind
        self.exclusive = exclusive
        self.tried = op.obj if tried else None  # not known yet whether it was got
        self.place: Place = caller()


class Edge:
    """*target* was taken, or waited for, while *source* was held."""

    __slots__ = ("gates", "source", "target", "task")

    def __init__(self, task: Task, source: Held, target: Held, gates: frozenset[Key]) -> None:
        self.task = task.name
        self.source = source
        self.target = target
        self.gates = gates  # held exclusively, before *source*, every time that it was seen


class Order:
    """
    The edges of every run so far, to save work: what has no cycle with all of them has
    none with those of one run. It never makes a finding by itself.
    """

    def __init__(self) -> None:
        self.edges: dict[str, set[str]] = {}
        self.cyclic = False

    def add(self, source: str, target: str) -> None:
        out = self.edges.setdefault(source, set())
        if target not in out:
            out.add(target)
            self.cyclic = self.cyclic or self._reaches(target, source)

    def _reaches(self, start: str, goal: str) -> bool:
        seen, left = {start}, [start]
        while left and goal not in seen:
            new = self.edges.get(left.pop(), set()) - seen
            seen |= new
            left += new
        return goal in seen


class Graph:
    """The edges of one run. *order* is its search's."""

    def __init__(self, order: Order) -> None:
        self.order = order
        self.edges: dict[str, dict[str, Edge]] = {}

    def known(self, source: str, target: str) -> bool:
        """Nothing that could be learned about this edge would matter?"""
        edge = self.edges.get(source, {}).get(target)
        return edge is not None and not edge.gates

    def add(self, edge: Edge) -> list[Edge] | None:
        """The cycle that it closes, beginning with it; None if there is none without a gate."""
        source, target = edge.source.cls, edge.target.cls
        out = self.edges.setdefault(source, {})
        known = out.get(target)
        if known is not None:
            if known.gates <= edge.gates:
                return None
            edge.gates &= known.gates
        out[target] = edge
        self.order.add(source, target)
        if self.order.cyclic:
            for cycle in self._cycles(target, source, [edge]):
                if not frozenset.intersection(*(each.gates for each in cycle)):
                    return cycle
        return None

    def _cycles(self, at: str, goal: str, path: list[Edge]) -> Iterator[list[Edge]]:
        for target, edge in self.edges.get(at, {}).items():
            if target == goal:
                yield [*path, edge]
            elif all(target != each.source.cls for each in path):
                yield from self._cycles(target, goal, [*path, edge])

# SPDX-License-Identifier: GPL-2.0-only
"""
Cut a search into independent work items, for several processes or computers.

The first steps are tried in full, with sleep sets but without reversing races; what
follows each such beginning is an item: (the beginning, who sleeps at its end). Since
sleep sets alone keep any two finished runs from being equivalent, the classes counted
over all items are those of the unsplit search; only some more runs are cut off.

A search that is under way can give work away (:meth:`Below.give`): at the first place
that it may still try otherwise, everything it has not come to becomes items, and it
keeps what it is at.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import Finding, Program, explore
from uvfio.explore.wakeup import Accesses, Branch, Event
from uvfio.runtime.task import Task


@dataclass(frozen=True)
class Item:
    """One piece of work: go on from *beginning*, in which *sleep* need not be woken."""

    beginning: tuple[str | int, ...]
    sleep: dict[str, Accesses]


class Beginnings(Dpor):
    """Finds the items: tries every beginning of *depth* steps, and goes no further."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.limit = depth
        self.items: list[Item] = []

    def choose(self, runnable: Sequence[Task], current: Task | None) -> Task | None:
        if self.at == self.limit:
            self.items.append(Item(tuple(node.taken for node in self.path), self.sleep))
            return None
        return super().choose(runnable, current)

    def _new_node(self, runnable: Sequence[Task], current: Task | None) -> bool:
        if not super()._new_node(runnable, current):
            return False
        node = self.path[-1]
        others = [task.name for task in runnable if task.name != node.taken and task.name not in node.sleep]
        needed = _to_first_start([str(node.taken), *others], runnable)
        node.tree = [Branch(Event(name, [])) for name in needed[1:]]
        return True

    def end(self, blocked: Sequence[Task]) -> None:
        """Nothing to reverse: every order of these steps is tried anyway."""


class Below(Dpor):
    """Searches what follows one item's beginning."""

    def __init__(self, item: Item) -> None:
        super().__init__()
        self.item = item
        self.fixed = len(item.beginning)  # nodes that are not ours to try otherwise
        self.tried: list[list[str | int]] = []  # for each node of the path, in order

    def begin(self) -> bool:
        self._note_tried()
        if not super().begin():
            return False
        del self.tried[len(self.path) :]
        if self.path:
            self.tried[-1].append(self.path[-1].taken)
        return True

    def _note_tried(self) -> None:
        self.tried += [[node.taken] for node in self.path[len(self.tried) :]]

    def give(self, program: Program) -> tuple[list[Item], Finding | None]:
        """
        Between two runs: items that are not ours any more, if there are any left, and
        what was found on the way to them.
        """
        self._note_tried()
        while len(self.path) - self.fixed > 1:
            node = self.path[self.fixed]
            tried = list(dict.fromkeys(str(name) for name in self.tried[self.fixed]))
            tried.remove(str(node.taken))
            sleep = {name: theirs for name, theirs in node.sleep.items() if name not in tried}
            taken = tuple(node.taken for node in self.path[: self.fixed])
            beside = Beside(Item(taken, sleep), [*tried, str(node.taken)])
            result = explore(program, beside)
            if result.harmed:
                return [], result.finding
            self._keep(next(self._steps(), len(self.path)))
            own = tuple(node.taken for node in self.path[: self.fixed])
            at = [item.beginning for item in beside.items].index(own)
            if beside.items[at + 1 :]:
                return beside.items[at + 1 :], None
        return [], None

    def _steps(self) -> Iterator[int]:
        """Where the steps after the first of our own begin; between them are choices."""
        return (at for at in range(self.fixed + 1, len(self.path)) if self.path[at].options is None)

    def _keep(self, end: int) -> None:
        """From now on the path is as it is up to *end*."""
        for node in self.path[self.fixed : end]:
            node.tree = []
            if node.options is not None:
                node.options = []
        self.fixed = end

    def _new_node(self, runnable: Sequence[Task], current: Task | None) -> bool:
        at = len(self.path)
        if at == self.fixed:
            self.sleep = dict(self.item.sleep)
        made = super()._new_node(runnable, current)
        if made and at < self.fixed:
            self.path[-1].taken = self.item.beginning[at]
        return made

    def pick(self, n: int) -> int:
        new = len(self.path)
        choice = super().pick(n)
        if new < len(self.path) <= self.fixed:
            node = self.path[-1]
            node.options = []
            taken = self.item.beginning[new]
            assert isinstance(taken, int)
            node.taken = taken
            return taken
        return choice

    def _backtrack(self) -> bool:
        found = super()._backtrack()
        return found and len(self.path) > self.fixed

    def _covered(self, sleeper: str, accesses: Accesses, events: list[Event]) -> bool:
        # Who sleeps since the beginning was tried in another item, and the races found
        # there are not reversed here. So it covers only what has its step for certain,
        # not what could be followed by it.
        if any(theirs is accesses for theirs in self.item.sleep.values()):
            first = next((event for event in events if event.task == sleeper), None)
            return first is not None and not first.after
        return super()._covered(sleeper, accesses, events)

    def _reverse(self, i: int, later: int, name: str, accesses: Accesses) -> None:
        if self.path.index(self.steps[i].node) >= self.fixed:
            super()._reverse(i, later, name, accesses)


class Beside(Below):
    """Finds the items that are one step longer than *item*. *first*: who is tried before all others."""

    def __init__(self, item: Item, first: Sequence[str]) -> None:
        super().__init__(item)
        self.first = first
        self.limit = 1 + sum(isinstance(taken, str) for taken in item.beginning)
        self.items: list[Item] = []

    def choose(self, runnable: Sequence[Task], current: Task | None) -> Task | None:
        if self.at == self.limit:
            self._end_here()
            return None
        return super().choose(runnable, current)

    def _new_node(self, runnable: Sequence[Task], current: Task | None) -> bool:
        own = len(self.path) >= self.fixed
        if not super()._new_node(runnable, current):
            return False
        node = self.path[-1]
        if own:
            names = [task.name for task in runnable if task.name not in node.sleep]
            names.sort(key=lambda name: self.first.index(name) if name in self.first else len(self.first))
            needed = _to_first_start(names, runnable)
            names = [name for name in names if name in needed or name in self.first]
            node.taken = names[0]
            node.tree = [Branch(Event(name, [])) for name in names[1:]]
        return True

    def end(self, blocked: Sequence[Task]) -> None:
        """Nothing to reverse. A run that ended with its last step is an item too."""
        if self.at == self.limit and (not self.items or self.items[-1].beginning != self._path()):
            self._end_here()

    def _end_here(self) -> None:
        self.items.append(Item(self._path(), self.sleep))

    def _path(self) -> tuple[str | int, ...]:
        return tuple(node.taken for node in self.path)


def _to_first_start(names: list[str], runnable: Sequence[Task]) -> list[str]:
    """
    *names* up to the first task that has not started yet. Nothing races with that step:
    after it all can follow that could before, and while it sleeps no run comes to its end.
    """
    starting = {task.name for task in runnable if task.pending is not None and task.pending.kind == "start"}
    end = next((at for at, name in enumerate(names) if name in starting), len(names))
    return names[: end + 1]

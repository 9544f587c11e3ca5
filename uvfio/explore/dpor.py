# SPDX-License-Identifier: GPL-2.0-only
"""
Exhaustive search with partial-order reduction: every behaviour, few schedules.

Abdulla, Aronis, Jonsson, Sagonas: "Optimal Dynamic Partial Order Reduction",
POPL 2014: source sets with sleep sets (their algorithm 1).

Departures: choices of the model (``pick``) are branches of a step and all tried; a
run whose every runnable task sleeps is cut off and counted in ``cut``; when none of
the initials of a race can run at its place, everything that can is added there.

A step is the operation that was pending, and what its task did (notes: releases,
allocations) until its next point. Two steps are dependent when they touch the same
thing and one writes it. An operation that waits does not race with the release
that let it go on, but with the acquisition before: the other order is possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from uvfio.runtime.runtime import Op
from uvfio.runtime.task import Task

Key = tuple[int, str]  # (number of the object in this run, field)
Accesses = list[tuple[Key, bool]]  # what is touched, and whether it is written
Clock = dict[str, int]  # task: its last step known, as an index into the run


class _Node:
    """What has been tried, and must be, at one place of the current path."""

    __slots__ = ("awake", "backtrack", "done", "enabled", "known", "options", "sleep", "taken")

    def __init__(self) -> None:
        self.taken: str | int = ""
        self.options: list[int] | None = None  # a pick: choices not tried yet
        self.enabled: list[str] = []
        self.known = 0  # objects numbered when the run came here: the same in every run
        self.backtrack: list[str] = []
        self.done: dict[str, Accesses] = {}  # tasks tried here, and what their step did
        self.sleep: dict[str, Accesses] = {}
        self.awake: set[str] = set()  # tasks tried here that must not sleep after it


class _Step:
    """One step of the current run."""

    __slots__ = ("accesses", "clock", "node", "op", "task")

    def __init__(self, task: str, op: Op, accesses: Accesses, node: _Node) -> None:
        self.task = task
        self.op = op
        self.accesses = accesses  # those of the notes too
        self.node = node
        self.clock: Clock = {}


class _Touched:
    """Who last touched one thing, by task: steps by operation, and by anything."""

    __slots__ = ("reads", "reads_op", "writes", "writes_op")

    def __init__(self) -> None:
        self.reads: Clock = {}
        self.writes: Clock = {}
        self.reads_op: Clock = {}
        self.writes_op: Clock = {}


class Dpor:
    """A policy, and a listener of the same run."""

    def __init__(self) -> None:
        self.path: list[_Node] = []
        self.cut = 0
        self.started = False
        self._reset()

    def _reset(self) -> None:
        self.depth = 0
        self.steps: list[_Step] = []
        self.touched: dict[Key, _Touched] = {}
        self.clocks: dict[str, Clock] = {}
        self.sleep: dict[str, Accesses] = {}
        self.numbers: dict[int, int] = {}
        self.objects: list[Any] = []  # keeps them alive: an id must not be used again

    def begin(self) -> bool:
        if self.started and not self._backtrack():
            return False
        self.started = True
        self._reset()
        return True

    def _backtrack(self) -> bool:
        """Take the deepest alternative that is left; False when there is none."""
        while self.path:
            node = self.path[-1]
            if node.options is not None:
                if node.options:
                    node.taken = node.options.pop()
                    return True
            else:
                # An object that this step saw first may have another number in the next
                # run: what the step did cannot be compared, so its task must not sleep.
                if any(key[0] >= node.known for key, _write in node.done[str(node.taken)]):
                    node.awake.add(str(node.taken))
                left = [name for name in node.backtrack if name not in node.done and name not in node.sleep]
                if left:
                    node.taken = left[0]
                    return True
            self.path.pop()
        return False

    # -- during a run -------------------------------------------------------

    def choose(self, runnable: Sequence[Task], current: Task | None) -> Task | None:
        for task in runnable:
            assert task.pending is not None
            self._accesses(task.pending)  # number what is about to be touched
        if self.depth == len(self.path):
            awake = [task for task in runnable if task.name not in self.sleep]
            if not awake:
                self.cut += 1
                return None
            self._new_node(runnable, current if current in awake else awake[0])
        node = self.path[self.depth]
        self.depth += 1
        chosen = next(task for task in runnable if task.name == node.taken)
        assert chosen.pending is not None
        self._step(chosen.name, chosen.pending, node)
        return chosen

    def _new_node(self, runnable: Sequence[Task], chosen: Task | None) -> None:
        assert chosen is not None
        node = _Node()
        node.sleep = dict(self.sleep)
        node.known = len(self.objects)
        node.enabled = [task.name for task in runnable]
        node.taken = chosen.name
        node.backtrack = [chosen.name]
        self.path.append(node)

    def _step(self, name: str, op: Op, node: _Node) -> None:
        accesses = self._accesses(op)
        self._races(name, op, accesses)
        step = _Step(name, op, accesses, node)
        step.clock = dict(self.clocks.get(name, ()))
        for key, write in accesses:
            touched = self.touched.get(key)
            if touched is not None:
                self._learn(step.clock, touched.writes.items())
                if write:
                    self._learn(step.clock, touched.reads.items())
        index = len(self.steps)
        step.clock[name] = index
        self.steps.append(step)
        self.clocks[name] = step.clock
        node.done[name] = accesses
        for key, write in accesses:
            touched = self.touched.setdefault(key, _Touched())
            (touched.writes if write else touched.reads)[name] = index
            (touched.writes_op if write else touched.reads_op)[name] = index
        asleep = {**node.sleep, **node.done}
        self.sleep = {other: asleep[other] for other in asleep if other != name and other not in node.awake}
        self._wake(accesses)

    def event(self, task: Task, op: Op) -> None:
        """Notes: what a step does besides its operation."""
        accesses = self._accesses(op)
        if not self.steps or self.steps[-1].task != task.name or op is self.steps[-1].op or op.kind == "alloc":
            return
        index = len(self.steps) - 1
        step = self.steps[-1]
        self._races(task.name, op, accesses)
        step.accesses += accesses
        for key, write in accesses:
            touched = self.touched.setdefault(key, _Touched())
            self._learn(step.clock, touched.writes.items())
            if write:
                self._learn(step.clock, touched.reads.items())
            (touched.writes if write else touched.reads)[task.name] = index
        self._wake(accesses)

    def _wake(self, accesses: Accesses) -> None:
        """Who sleeps wakes when what was just done may matter to its step."""
        for name, theirs in list(self.sleep.items()):
            if dependent(theirs, accesses):
                del self.sleep[name]

    def _accesses(self, op: Op) -> Accesses:
        """What *op* touches. Freeing an object writes the whole of it."""
        number = self.numbers.get(id(op.obj))
        if number is None:
            number = self.numbers[id(op.obj)] = len(self.objects)
            self.objects.append(op.obj)
        if op.field:
            return [((number, op.field), op.mode == "w"), ((number, ""), False)]
        return [((number, ""), op.mode == "w")]

    def pick(self, n: int) -> int:
        if self.depth == len(self.path):
            node = _Node()
            node.options = list(range(n - 1, 0, -1))
            node.taken = 0
            self.path.append(node)
        node = self.path[self.depth]
        self.depth += 1
        assert isinstance(node.taken, int)
        return node.taken

    def end(self, blocked: Sequence[Task]) -> None:
        for task in blocked:
            if task.pending is not None:
                self._races(task.name, task.pending, self._accesses(task.pending))

    # -- races --------------------------------------------------------------

    def _learn(self, clock: Clock, accesses: Iterable[tuple[str, int]]) -> None:
        for _task, index in accesses:
            for name, at in self.steps[index].clock.items():
                if at > clock.get(name, -1):
                    clock[name] = at

    def _races(self, name: str, op: Op, accesses: Accesses) -> None:
        """Where could *op* of task *name* have come before a step it depends on?"""
        mine = self.clocks.get(name, {})
        waits = op.ready is not None
        candidates: set[int] = set()
        for key, write in accesses:
            touched = self.touched.get(key)
            if touched is None:
                continue
            found = dict(touched.writes_op if waits else touched.writes)
            indices = set(found.values())
            if write:
                indices |= set((touched.reads_op if waits else touched.reads).values())
            candidates |= {i for i in indices if self.steps[i].task != name and i > mine.get(self.steps[i].task, -1)}
        for i in candidates:
            if not any(self._before(i, other) for other in candidates if other != i) and self._reversible(i, name, op):
                self._add_backtrack(i, name, accesses)

    def _before(self, i: int, j: int) -> bool:
        return i < j and self.steps[j].clock.get(self.steps[i].task, -1) >= i

    def _reversible(self, i: int, name: str, op: Op) -> bool:
        """Not if the same operation was waiting in vain when step *i* was taken."""
        node = self.steps[i].node
        if op.ready is None or op.timeout is not None or name in node.enabled:
            return True
        moved_since = self.clocks.get(name, {}).get(name, -1) > i
        return moved_since

    def _add_backtrack(self, i: int, name: str, accesses: Accesses) -> None:
        node = self.steps[i].node
        independent = [j for j in range(i + 1, len(self.steps)) if not self._before(i, j)]
        initials = self._initials(independent, name, accesses)
        if any(task in node.backtrack or task in node.done for task in initials):
            return
        possible = [task for task in initials if task in node.enabled]
        if possible:
            node.backtrack.append(name if name in possible else possible[0])
        else:
            node.backtrack += [task for task in node.enabled if task not in node.backtrack]

    def _initials(self, steps: list[int], name: str, accesses: Accesses) -> list[str]:
        """Tasks whose first step among *steps*, then *name*, depends on none before it."""
        initials: list[str] = []
        seen: set[str] = set()
        for position, j in enumerate(steps):
            task = self.steps[j].task
            if task not in seen:
                seen.add(task)
                if not any(self._before(k, j) for k in steps[:position]):
                    initials.append(task)
        if name not in seen:
            # The racing operation itself comes last: it starts if it depends on none of the others.
            mine = self.clocks.get(name, {})
            known = (mine.get(self.steps[k].task, -1) >= k for k in steps)
            if not any(known) and not any(dependent(accesses, self.steps[k].accesses) for k in steps):
                initials.append(name)
        return initials


def dependent(a: Accesses, b: Accesses) -> bool:
    """Does the order of two steps matter?"""
    return any(key == other and (write or others) for key, write in a for other, others in b)

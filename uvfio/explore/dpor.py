# SPDX-License-Identifier: GPL-2.0-only
"""
Exhaustive search with partial-order reduction: one schedule for each behaviour.

Abdulla, Aronis, Jonsson, Sagonas: "Source Sets: A Foundation for Optimal Dynamic
Partial Order Reduction", JACM 2017: optimal DPOR, with sleep sets and wakeup trees.

Departures: choices of the model (``pick``) are branches of a step and all tried; when
a wakeup sequence asks for a task that cannot run, everything that can is tried there;
a run whose every runnable task sleeps is cut off and counted in ``cut`` (with locks
and variables alone there is none).

A step is the operation that was pending, and what its task did (notes: releases,
allocations) until its next point. Two steps are dependent when they touch the same
thing and one writes it. An operation that waits does not race with the release that
let it go on, but with the acquisition before: the other order is possible.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from uvfio.explore.wakeup import Accesses, Branch, Event, covers, dependent, insert
from uvfio.runtime.errors import InternalError
from uvfio.runtime.runtime import Op
from uvfio.runtime.struct import Embedded
from uvfio.runtime.task import Task

# The first that is told of an object which its task has just made.
BIRTHS = frozenset({"alloc", "opened", "sysfs_add", "sysfs_dir"})

Clock = dict[str, int]  # task: its last step known, as an index into the run
Key = tuple[int, str]  # (number of the object in this run, field)


class _Node:
    """What has been tried, and must be, at one place of the current path."""

    __slots__ = ("done", "enabled", "known", "numbered", "options", "retired", "sleep", "taken", "tree", "wanted")

    def __init__(self) -> None:
        self.taken: str | int = ""
        self.options: list[int] | None = None  # a pick: choices not tried yet
        self.enabled: list[str] = []
        self.numbered: list[str] = []  # tasks about to touch what nobody had touched before
        self.known = 0  # objects numbered when the run came here: the same in every run
        self.done: dict[str, list[_Step]] = {}  # tasks tried here; their step, for each choice
        self.retired: list[str] = []  # tasks tried with all that follows
        self.sleep: dict[str, Accesses] = {}
        self.tree: list[Branch] = []  # what must be tried, in order
        self.wanted: list[Branch] = []  # what must come after the step taken


class _Step:
    """One step of the current run."""

    __slots__ = ("accesses", "born", "clock", "node", "past", "task", "undo")

    def __init__(self, task: str, accesses: Accesses, node: _Node) -> None:
        self.task = task
        self.accesses = accesses  # those of the notes too
        self.born: list[int] = []  # the objects that it made
        self.node = node
        self.clock: Clock = {}
        self.past: Clock = {}  # the clock of its task's step before
        self.undo: list[tuple[dict[Any, Any], Any, Any]] = []  # to forget it again


class _Touched:
    """Who last touched one thing, by task: steps by operation, and by anything."""

    __slots__ = ("reads", "reads_op", "writes", "writes_op")

    def __init__(self) -> None:
        self.reads: Clock = {}
        self.writes: Clock = {}
        self.reads_op: Clock = {}
        self.writes_op: Clock = {}


class Dpor:
    """
    A policy, and a listener of the same run.

    What a run shares with the one before is not worked out again: ``steps`` keeps it,
    and every step knows how to undo what it changed.
    """

    def __init__(self) -> None:
        self.path: list[_Node] = []
        self.cut = 0
        self.started = False
        self.depth = 0  # nodes passed in this run
        self.at = 0  # steps passed
        self.steps: list[_Step] = []
        self.touched: dict[Key, _Touched] = {}
        self.clocks: dict[str, Clock] = {}
        self.sleep: dict[str, Accesses] = {}
        self.fresh = False  # the step that is running is not one that the last run shared
        self.op: Op | None = None  # of the step that is running; a step of an earlier run must not keep that run alive
        self.races: list[tuple[int, int, str, Accesses]] = []  # (earlier step, later or -1, its task, accesses)
        self.numbers: dict[int, int] = {}
        self.objects: list[Any] = []  # keeps them alive: an id must not be used again

    # -- between runs -------------------------------------------------------

    def begin(self) -> bool:
        if self.started:
            if not self._backtrack():
                return False
            shared = sum(node.options is None for node in self.path) - 1  # the last one may do something else
            while len(self.steps) > shared:
                self._forget(self.steps.pop())
        self.started = True
        self.depth = self.at = 0
        self.fresh = False
        self.races = []
        self.numbers = {}
        self.objects = []
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
                self._retire(node)
                while node.tree:
                    if self._take(node, node.tree.pop(0)):
                        return True
            self.path.pop()
        return False

    @staticmethod
    def _retire(node: _Node) -> None:
        """The task taken here has been tried with all that can follow."""
        name = str(node.taken)
        node.retired.append(name)
        # What a step makes is out of reach of others until it is taken: no reason to wake its task.
        accesses = [
            access for done in node.done.pop(name, []) for access in done.accesses if access[0][0] not in done.born
        ]
        # An object that this step saw first may have another number in the next run:
        # what the step did cannot be compared, so its task must not sleep.
        if all(key[0] < node.known for key, _write in accesses):
            node.sleep[name] = accesses

    @staticmethod
    def _take(node: _Node, branch: Branch) -> bool:
        """Go on with *branch*; if its task cannot run here, ask for all that can instead."""
        task = branch.event.task
        if task not in node.enabled:
            asked = {other.event.task for other in node.tree}
            node.tree += [Branch(Event(name, [])) for name in node.enabled if name not in asked]
            return False
        if task in node.sleep:
            return False
        node.taken = task
        node.wanted = branch.children
        return True

    def _forget(self, step: _Step) -> None:
        for changed, key, before in reversed(step.undo):
            if before is None:
                del changed[key]
            else:
                changed[key] = before

    def _set(self, step: _Step, changed: dict[Any, Any], key: Any, value: Any) -> None:
        step.undo.append((changed, key, changed.get(key)))
        changed[key] = value

    def estimate(self) -> float:
        """
        About how much has been tried, of what is known to be to try: 0 to 1.

        Every alternative of a place counts the same, however much lies below it.
        """
        tried, weight = 0.0, 1.0
        for node in self.path:
            if node.options is not None:
                before, left = 0, len(node.options)
            else:
                before, left = len(node.retired), len(node.tree)
            weight /= before + 1 + left
            tried += before * weight
        return tried

    # -- during a run -------------------------------------------------------

    def follow(self, tasks: Mapping[str, Task]) -> Task | None:
        """As far as this run is known to be like the last."""
        if self.at == len(self.steps):
            return None
        node = self.path[self.depth]
        self.depth += 1
        self.at += 1
        for name in node.numbered:
            self._number(tasks[name].pending.obj)  # type: ignore[union-attr]
        return tasks[node.taken]  # type: ignore[index]

    def choose(self, runnable: Sequence[Task], current: Task | None) -> Task | None:
        # What is about to be touched gets its number now, in the same order in every run.
        numbered = []
        for task in runnable if current is None else (current,):
            if task.pending is not None and id(task.pending.obj) not in self.numbers:
                self._number(task.pending.obj)
                numbered.append(task.name)
        if self.depth == len(self.path):
            if not self._new_node(runnable, current):
                self.cut += 1
                return None
            self.path[-1].numbered = numbered
        node = self.path[self.depth]
        self.depth += 1
        for chosen in runnable:
            if chosen.name == node.taken:
                break
        else:
            raise InternalError(f"a program must do the same again when it is run again: {node.taken} cannot run")
        self.at += 1
        self.fresh = True
        assert chosen.pending is not None
        self._step(chosen.name, chosen.pending, node)
        return chosen

    def _new_node(self, runnable: Sequence[Task], current: Task | None) -> bool:
        """A place never come to before; False when every task there sleeps."""
        awake = [task for task in runnable if task.name not in self.sleep]
        if not awake:
            return False
        node = _Node()
        node.sleep = dict(self.sleep)
        node.enabled = [task.name for task in runnable]
        node.known = len(self.objects)
        # Whatever the choices within the last step were, the same must come after it.
        before = next((place for place in reversed(self.path) if place.options is None), None)
        node.tree = list(before.wanted) if before is not None else []
        while node.tree and not node.taken:
            self._take(node, node.tree.pop(0))
        if not node.taken:
            node.taken = (current if current is not None and current in awake else awake[0]).name
        self.path.append(node)
        return True

    def _step(self, name: str, op: Op, node: _Node) -> None:
        accesses = self._accesses(op)
        step = _Step(name, accesses, node)
        self.op = op
        index = len(self.steps)
        self._find_races(index, name, op, accesses)
        step.past = self.clocks.get(name, step.past)
        clock = step.clock = dict(step.past)
        for key, write in accesses:
            touched = self.touched.get(key)
            if touched is not None:
                self._learn(clock, touched.writes.items())
                if write:
                    self._learn(clock, touched.reads.items())
        clock[name] = index
        self.steps.append(step)
        self._set(step, self.clocks, name, clock)
        node.done.setdefault(name, []).append(step)
        self._touch(step, accesses, index, True)
        self.sleep = {other: theirs for other, theirs in node.sleep.items() if other != name}
        self._wake(accesses)

    def event(self, task: Task, op: Op) -> None:
        """Notes: what a step does besides its operation."""
        if not self.fresh:
            if id(op.obj) not in self.numbers:
                self._number(op.obj)
                if op.kind == "alloc":
                    self._number_parts(op.obj)
            return
        step = self.steps[-1]
        born = op.kind in BIRTHS and id(op.obj) not in self.numbers
        accesses = self._accesses(op)
        if step.task != task.name or op is self.op or getattr(task.runtime, "quiet", False):
            return
        if born:
            step.born.append(self._number(op.obj))
        if op.kind == "alloc":
            if born:
                step.born += self._number_parts(op.obj)
            return
        index = len(self.steps) - 1
        self._find_races(index, task.name, op, accesses)
        step.accesses += accesses
        for key, write in accesses:
            touched = self.touched.get(key)
            if touched is not None:
                self._learn(step.clock, touched.writes.items())
                if write:
                    self._learn(step.clock, touched.reads.items())
        self._touch(step, accesses, index, False)
        self._wake(accesses)

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
                self._find_races(-1, task.name, task.pending, self._accesses(task.pending))
        for earlier, later, name, accesses in self.races:
            self._reverse(earlier, later, name, accesses)

    def _touch(self, step: _Step, accesses: Accesses, index: int, by_operation: bool) -> None:
        for key, write in accesses:
            touched = self.touched.get(key)
            if touched is None:
                touched = _Touched()
                self._set(step, self.touched, key, touched)
            self._set(step, touched.writes if write else touched.reads, step.task, index)
            if by_operation:
                self._set(step, touched.writes_op if write else touched.reads_op, step.task, index)

    def _wake(self, accesses: Accesses) -> None:
        """Who sleeps wakes when what was just done may matter to its step."""
        if self.sleep:
            self.sleep = {name: theirs for name, theirs in self.sleep.items() if not dependent(theirs, accesses)}

    def _number(self, obj: Any) -> int:
        number = self.numbers.get(id(obj))
        if number is None:
            number = self.numbers[id(obj)] = len(self.objects)
            self.objects.append(obj)
        return number

    def _number_parts(self, obj: Any) -> list[int]:
        """Locks and counters that may not be touched before they are freed with *obj*."""
        return [self._number(part) for part in vars(obj).values() if isinstance(part, Embedded)]

    def _accesses(self, op: Op) -> Accesses:
        """What *op* touches. Freeing an object writes the whole of it."""
        number = self._number(op.obj)
        if op.field:
            return [((number, op.field), op.mode == "w"), ((number, ""), False)]
        return [((number, ""), op.mode == "w")]

    # -- races --------------------------------------------------------------

    def _learn(self, clock: Clock, accesses: Iterable[tuple[str, int]]) -> None:
        for task, index in accesses:
            if clock.get(task, -1) < index:
                for name, at in self.steps[index].clock.items():
                    if at > clock.get(name, -1):
                        clock[name] = at

    def _find_races(self, index: int, name: str, op: Op, accesses: Accesses) -> None:
        """Where could *op* of task *name* have come before a step it depends on?"""
        mine = self.clocks.get(name, {})
        waits = op.ready is not None
        candidates: set[int] = set()
        for key, write in accesses:
            touched = self.touched.get(key)
            if touched is None:
                continue
            tables = [touched.writes_op if waits else touched.writes]
            if write:
                tables.append(touched.reads_op if waits else touched.reads)
            for table in tables:
                for task, i in table.items():
                    if task != name and i > mine.get(task, -1):
                        candidates.add(i)
        for i in candidates:
            if self._reversible(i, name) and not any(self._before(i, other) for other in candidates if other != i):
                self.races.append((i, index, name, accesses))

    def _before(self, i: int, j: int) -> bool:
        return i < j and self.steps[j].clock.get(self.steps[i].task, -1) >= i

    def _reversible(self, i: int, name: str) -> bool:
        """Not if the task could not run when step *i* was taken, and has not moved since."""
        return name in self.steps[i].node.enabled or self.clocks.get(name, {}).get(name, -1) > i

    def _reverse(self, i: int, later: int, name: str, accesses: Accesses) -> None:
        """Ask for the later step of a race before step *i*, unless that has been or will be tried."""
        node = self.steps[i].node
        sequence = [j for j in range(i + 1, len(self.steps)) if j != later and not self._before(i, j)]
        events = [Event(self.steps[j].task, self.steps[j].accesses) for j in sequence]
        for position, j in enumerate(sequence):
            events[position].after = [p for p, k in enumerate(sequence[:position]) if self._before(k, j)]
        events.append(self._last_event(sequence, later, Event(name, accesses)))
        if not any(self._covered(sleeper, theirs, events) for sleeper, theirs in node.sleep.items()):
            insert(node.tree, events, node.known)

    def _covered(self, sleeper: str, accesses: Accesses, events: list[Event]) -> bool:
        return covers(sleeper, accesses, events)

    def _last_event(self, sequence: list[int], later: int, event: Event) -> Event:
        """
        The racing step itself, put last: what it comes after among *sequence*.

        Not what it came after in the run: that was so because of the step it now
        comes before (a lock's release, say), which is not in the sequence.
        """
        if later >= 0:
            event.accesses = self.steps[later].accesses
            past = self.steps[later].past
        else:
            past = self.clocks.get(event.task, {})  # it was waiting when the run ended
        for position, k in enumerate(sequence):
            step = self.steps[k]
            if past.get(step.task, -1) >= k or dependent(event.accesses, step.accesses):
                event.after.append(position)
        return event

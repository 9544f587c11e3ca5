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

from bisect import bisect
from collections.abc import Sequence
from typing import Any

from uvfio.explore.wakeup import Accesses, Branch, Event, covers, dependent, insert
from uvfio.runtime.controlled import ControlledRuntime
from uvfio.runtime.errors import InternalError
from uvfio.runtime.runtime import Op, Runtime
from uvfio.runtime.struct import Embedded
from uvfio.runtime.task import Task

# The first that is told of an object which its task has just made.
BIRTHS = frozenset({"alloc", "opened", "sysfs_add", "sysfs_dir"})

Clock = dict[str, int]  # task: its last step known, as an index into the run
Key = tuple[int, str]  # (number of the object in this run, field)

# The last step that wrote a thing (-1: none), and those that read it since, by task; the
# same of steps whose operation did. Whoever knows a write knows all that it came after.
Touched = tuple[int, Clock, int, Clock]
UNTOUCHED: Touched = (-1, {}, -1, {})


class _Node:
    """What has been tried, and must be, at one place of the current path."""

    __slots__ = (
        "done",
        "enabled",
        "known",
        "numbered",
        "options",
        "retired",
        "shared",
        "sleep",
        "taken",
        "tree",
        "wanted",
    )

    def __init__(self, shared: int, enabled: Sequence[str], sleep: dict[str, Accesses], known: int) -> None:
        self.shared = shared  # steps that all runs through here have in common
        self.taken: str | int = ""
        self.options: list[int] | None = None  # a pick: choices not tried yet
        self.enabled = enabled
        self.numbered: Sequence[str] = ()  # tasks about to touch what nobody had touched before
        self.known = known  # objects numbered when the run came here: the same in every run
        self.done: dict[str, list[_Step]] = {}  # tasks tried here; their step, for each choice
        self.retired: list[str] = []  # tasks tried with all that follows
        self.sleep = sleep
        self.tree: list[Branch] = []  # what must be tried, in order
        self.wanted: Sequence[Branch] = ()  # what must come after the step taken


class _Step:
    """One step of the current run."""

    __slots__ = ("accesses", "born", "clock", "meets", "node", "past", "task", "undo")

    def __init__(self, task: str, node: _Node, past: Clock) -> None:
        self.task = task
        self.accesses: Accesses = []  # those of the notes too
        self.born: list[int] = []  # the objects that it made
        self.meets = False  # it was the first that told of some object
        self.node = node
        self.past = past  # the clock of its task's step before
        self.clock = dict(past)
        self.undo: list[tuple[Key, Touched | None]] = []  # to forget it again


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
        self.touched: dict[Key, Touched] = {}
        self.clocks: dict[str, Clock] = {}
        self.sleep: dict[str, Accesses] = {}
        self.fresh = False  # the step that is running is not one that the last run shared
        self.stops: list[int] = []  # steps, in order, before which a choice was made or an object was new
        self.hears = True  # is it a listener now? Most steps that the last run shared tell nothing new
        self.op: Op | None = None  # of the step that is running; a step of an earlier run must not keep that run alive
        self.races: list[tuple[int, int, str, Accesses]] = []  # (earlier step, later or -1, its task, accesses)
        self.numbers: dict[int, int] = {}
        self.objects: list[Any] = []  # keeps them alive: an id must not be used again

    # -- between runs -------------------------------------------------------

    def begin(self) -> bool:
        if self.started:
            if not self._backtrack():
                return False
            while len(self.steps) > self.path[-1].shared:
                self._forget(self.steps.pop())
        self.started = True
        self.depth = self.at = 0
        self.fresh = False
        self.hears = True
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
            elif node.tree:
                self._retire(node)
                while node.tree:
                    if self._take(node, node.tree.pop(0)):
                        return True
            # The steps know the node: left alone, they would be the collector's to find, and it is slow.
            self.path.pop().done.clear()
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
        if self.stops[-1:] == [len(self.steps)]:
            self.stops.pop()
        self.clocks[step.task] = step.past
        for key, before in reversed(step.undo):
            if before is None:
                del self.touched[key]
            else:
                self.touched[key] = before

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

    def follow(self, runtime: ControlledRuntime) -> list[str]:
        """As far as this run is known to be like the last, or to the next of ``stops``."""
        if self.at == len(self.steps):
            return []
        begin = self.at
        step = self.steps[begin]
        for name in step.node.numbered:
            self._new_number(runtime.by_name[name].pending.obj)  # type: ignore[union-attr]
        if step.meets is not self.hears:
            self._hear(runtime, step.meets)
        if step.meets:
            self.at += 1
        else:
            stop = bisect(self.stops, begin)
            self.at = self.stops[stop] if stop < len(self.stops) else len(self.steps)
        self.depth += self.at - begin
        return [step.task for step in reversed(self.steps[begin : self.at])]

    def _hear(self, runtime: Runtime, hears: bool) -> None:
        self.hears = hears
        if hears:
            runtime.listeners.append(self)
        else:
            runtime.listeners.remove(self)

    def choose(self, runnable: Sequence[Task], current: Task | None) -> Task | None:
        # What is about to be touched gets its number now, in the same order in every run.
        numbered = []
        for task in runnable if current is None else (current,):
            if task.pending is not None and id(task.pending.obj) not in self.numbers:
                self._new_number(task.pending.obj)
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
        if not self.hears:
            self._hear(chosen.runtime, True)
        assert chosen.pending is not None
        self._step(chosen.name, chosen.pending, node)
        return chosen

    def _new_node(self, runnable: Sequence[Task], current: Task | None) -> bool:
        """A place never come to before; False when every task there sleeps."""
        awake = [task for task in runnable if task.name not in self.sleep]
        if not awake:
            return False
        node = _Node(self.at, [task.name for task in runnable], dict(self.sleep), len(self.objects))
        # Whatever the choices within the last step were, the same must come after it.
        if self.steps:
            node.tree = list(self.steps[-1].node.wanted)
        while node.tree and not node.taken:
            self._take(node, node.tree.pop(0))
        if not node.taken:
            node.taken = (current if current is not None and current in awake else awake[0]).name
        self.path.append(node)
        return True

    def _step(self, name: str, op: Op, node: _Node) -> None:
        step = _Step(name, node, self.clocks.get(name, {}))
        index = len(self.steps)
        if node.numbered or (self.depth > 1 and self.path[self.depth - 2].options is not None):
            self.stops.append(index)
        self.steps.append(step)
        accesses = step.accesses = self._accesses(op)
        self.op = op
        self._order(index, name, op, accesses, step.clock)
        step.clock[name] = index
        self.clocks[name] = step.clock
        node.done.setdefault(name, []).append(step)
        self._touch(step, accesses, index, True)
        self.sleep = {other: theirs for other, theirs in node.sleep.items() if other != name}
        self._wake(accesses)

    def event(self, task: Task, op: Op) -> None:
        """Notes: what a step does besides its operation."""
        if not self.fresh:
            if id(op.obj) not in self.numbers:
                self._new_number(op.obj)
                if op.kind == "alloc":
                    self._number_parts(op.obj)
            return
        if op is self.op:
            return
        step = self.steps[-1]
        born = op.kind in BIRTHS and id(op.obj) not in self.numbers
        accesses = [access for access in self._accesses(op) if access not in step.accesses]
        if step.task != task.name or getattr(task.runtime, "quiet", False):
            return
        if born:
            step.born.append(self._number(op.obj))
        if op.kind == "alloc":
            if born:
                step.born += self._number_parts(op.obj)
            return
        if not accesses:
            return
        index = len(self.steps) - 1
        self._order(index, task.name, op, accesses, step.clock)
        step.accesses += accesses
        self._touch(step, accesses, index, False)
        self._wake(accesses)

    def pick(self, n: int) -> int:
        if self.depth == len(self.path):
            node = _Node(self.at - 1, (), {}, 0)  # the step that it is part of may do something else
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
                clock = dict(self.clocks.get(task.name, {}))
                self._order(-1, task.name, task.pending, self._accesses(task.pending), clock)
        for earlier, later, name, accesses in self.races:
            self._reverse(earlier, later, name, accesses)

    def _touch(self, step: _Step, accesses: Accesses, index: int, by_operation: bool) -> None:
        for key, writes in accesses:
            before = self.touched.get(key)
            step.undo.append((key, before))
            write, reads, write_op, reads_op = before or UNTOUCHED
            if writes:
                write, reads = index, {}
                if by_operation:
                    write_op, reads_op = index, {}
            else:
                reads = {**reads, step.task: index}
                if by_operation:
                    reads_op = {**reads_op, step.task: index}
            self.touched[key] = write, reads, write_op, reads_op

    def _wake(self, accesses: Accesses) -> None:
        """Who sleeps wakes when what was just done may matter to its step."""
        if self.sleep:
            self.sleep = {name: theirs for name, theirs in self.sleep.items() if not dependent(theirs, accesses)}

    def _number(self, obj: Any) -> int:
        number = self.numbers.get(id(obj))
        if number is None:
            number = self._new_number(obj)
            if self.fresh:
                self._must_be_heard(self.steps[-1])
        return number

    def _new_number(self, obj: Any) -> int:
        number = self.numbers[id(obj)] = len(self.objects)
        self.objects.append(obj)
        return number

    def _must_be_heard(self, step: _Step) -> None:
        """The last step tells of a new object: also in the next run, where it has another id."""
        step.meets = True
        index = len(self.steps) - 1
        if self.stops[-1:] != [index]:
            self.stops.append(index)

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

    def _order(self, index: int, name: str, op: Op, accesses: Accesses, clock: Clock) -> None:
        """
        *op* of task *name* comes after the steps it depends on. Could it have come before one?

        *clock* is what the task knows, and learns of them.
        """
        unknown = self._unknown(accesses, clock, False)
        if not unknown:
            return
        candidates = unknown if op.ready is None else self._unknown(accesses, clock, True)
        for i in candidates:
            if self._reversible(i, name, clock) and not any(self._before(i, j) for j in candidates if j != i):
                self.races.append((i, index, name, accesses))
        for i in unknown:
            for task, at in self.steps[i].clock.items():
                if at > clock.get(task, -1):
                    clock[task] = at

    def _unknown(self, accesses: Accesses, clock: Clock, by_operation: bool) -> set[int]:
        """The steps that *accesses* depend on, and that *clock* does not have yet."""
        found: set[int] = set()
        for key, writes in accesses:
            touched = self.touched.get(key)
            if touched is None:
                continue
            write, reads, write_op, reads_op = touched
            if by_operation:
                write, reads = write_op, reads_op
            if write >= 0 and write > clock.get(self.steps[write].task, -1):
                found.add(write)
            if writes and reads:
                found.update(i for task, i in reads.items() if i > clock.get(task, -1))
        return found

    def _before(self, i: int, j: int) -> bool:
        return i < j and self.steps[j].clock.get(self.steps[i].task, -1) >= i

    def _reversible(self, i: int, name: str, clock: Clock) -> bool:
        """Not if the task could not run when step *i* was taken, and has not moved since."""
        return name in self.steps[i].node.enabled or clock.get(name, -1) > i

    def _reverse(self, i: int, later: int, name: str, accesses: Accesses) -> None:
        """Ask for the later step of a race before step *i*, unless that has been or will be tried."""
        steps, node, first = self.steps, self.steps[i].node, self.steps[i].task
        sequence = [j for j in range(i + 1, len(steps)) if j != later and steps[j].clock.get(first, -1) < i]
        events = [Event(steps[j].task, steps[j].accesses) for j in sequence]
        for position, j in enumerate(sequence):
            clock = steps[j].clock
            events[position].after = [p for p, k in enumerate(sequence[:position]) if clock.get(steps[k].task, -1) >= k]
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

# SPDX-License-Identifier: GPL-2.0-only
"""
What happened in one run, step by step: the place in the code of each step, what it
left behind in the object, and which locks its task then held.

An event comes before its operation takes effect, and nothing else happens between
that and the next event; so what a step did is looked at when the next one comes.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import Any

from uvfio.report.names import Names
from uvfio.report.source import NOWHERE, Place, Sources, outer_frames
from uvfio.runtime.errors import Splat
from uvfio.runtime.runtime import Op
from uvfio.runtime.struct import is_freed
from uvfio.runtime.task import Task


@dataclass
class Step:
    """One event of a run, or how it ended for a task (*kind* ``blocked`` or ``BUG``)."""

    task: str
    kind: str
    what: str  # the object, as it calls itself
    thing: int  # the object's number in this run; -1: none
    field: str
    writes: bool
    depth: int  # how many locks the task held before it
    stack: tuple[Place, ...]  # innermost first
    value: str = ""  # what the field, counter or lock holds after it
    held: tuple[int, ...] = ()  # locks the task holds after it, outermost first
    note: str = ""  # what it turned out to be

    @property
    def place(self) -> Place:
        return self.stack[0] if self.stack else NOWHERE

    @property
    def ends(self) -> bool:
        """Nothing that the task did, but what became of it."""
        return self.kind in ("blocked", "BUG")

    @property
    def text(self) -> str:
        """The step as a line of C would have it."""
        what = f"{self.what}.{self.field}" if self.field else self.what
        spelled = _SPELLED.get(self.kind, "{kind}({what})")
        if self.kind.startswith(("refcount_", "atomic_")) and self.value:
            spelled += " -> {value}"
        text = spelled.format(kind=self.kind, what=what, value=self.value or "...")
        return f"{text}  <- {self.note}" if self.note else text


_SPELLED = {
    "read": "read {what}: {value}",
    "write": "{what} = {value}",
    "free": "kfree({what})",
    "alloc": "kzalloc({what})",
    "start": "starts",
    "blocked": "{what}  <blocked>",
    "BUG": "<- BUG: {what}",
}


class Trace:
    """A listener that keeps every step; only for single runs, it looks at the stack."""

    def __init__(self) -> None:
        self.objects = Names()
        self.sources = Sources()
        self.comms: dict[str, str] = {}  # what the tasks do, by their letters
        self._steps: list[Step] = []
        self._open: tuple[Task, Op, Step] | None = None  # the last step, not yet looked at
        self._over = False  # a rule is broken: what follows is only unwinding

    @property
    def steps(self) -> list[Step]:
        self._settle()
        return self._steps

    @property
    def tasks(self) -> list[str]:
        return sorted({step.task for step in self._steps if step.task})

    def event(self, task: Task, op: Op) -> None:
        self._settle(released=op.obj if op.kind == "unlock" and self._is_last(task) else None)
        self._over = self._over or _unwinding()
        if self._over or getattr(task.runtime, "quiet", False):
            return
        step = self._step(task, op.kind, op, sys._getframe(1))
        self._steps.append(step)
        self._open = (task, op, step)
        self.comms.setdefault(task.name, task.comm)

    def ended(self, blocked: Sequence[Task]) -> None:
        """The run is over, its tasks still as they were: note who can never go on."""
        self._settle()
        for task in blocked:
            op = task.pending
            if not task.daemon and op is not None and op.ready is not None and not op.ready():
                step = self._step(task, "blocked", op, task.gr_frame)
                step.what = Step(task.name, op.kind, step.what, step.thing, step.field, False, 0, ()).text
                step.held = tuple(self.objects.number(lock) for lock in task.held)
                self._steps.append(step)

    def broke(self, splat: Splat, task: str) -> None:
        """Note where *task* broke a rule; empty if that was found after all had ended."""
        stack, obj = self._raised(splat.__traceback__)
        thing = -1 if obj is None else self.objects.number(obj)
        for step in self.steps:
            if step.kind == "free" and step.thing == thing:
                step.note = "freed here"
        held = next((step.held for step in reversed(self.steps) if step.task == task), ())
        self._steps.append(Step(task, "BUG", splat.kind, thing, "", False, len(held), stack, splat.message, held))

    def contended(self) -> list[Step]:
        """
        The steps on what more than one task touched and somebody wrote: the race. A
        reference count that is always above zero orders nothing, and is left out.
        """
        users: dict[tuple[int, str], set[str]] = {}
        written: set[tuple[int, str]] = set()
        freed = {step.thing for step in self.steps if step.kind == "free"}
        counted = {step.thing for step in self.steps if step.kind.startswith("refcount_")}
        idle = counted - {step.thing for step in self.steps if step.thing in counted and step.value == "0"}
        for step in self.steps:
            if step.kind != "alloc" and step.thing >= 0:
                key = _location(step, freed)
                users.setdefault(key, set()).add(step.task)
                if step.writes or step.ends:
                    written.add(key)
        return [
            step
            for step in self.steps
            if step.ends
            or (step.thing not in idle and len(users.get(key := _location(step, freed), ())) > 1 and key in written)
        ]

    def as_json(self) -> list[dict[str, Any]]:
        return [
            {
                "task": step.task,
                "kind": step.kind,
                "what": step.what,
                "thing": step.thing,
                "field": step.field,
                "writes": step.writes,
                "value": step.value,
                "held": [self.objects.names[lock] for lock in step.held],
                "depth": step.depth,
                "function": step.place.function,
                "file": step.place.file,
                "line": step.place.line,
                "text": step.text,
            }
            for step in self.steps
        ]

    def _step(self, task: Task, kind: str, op: Op, frame: FrameType | None) -> Step:
        stack = tuple(self.sources.place(outer, outer.f_lineno) for outer in outer_frames(frame))
        thing = self.objects.number(op.obj)
        name = self.objects.names[thing]
        return Step(task.name, kind, name, thing, op.field, op.mode == "w", len(task.held), stack)

    def _is_last(self, task: Task) -> bool:
        return self._open is not None and self._open[0] is task

    def _settle(self, released: Any = None) -> None:
        """See what the last step did. *released*: a lock that its task has let go of since."""
        if self._open is None:
            return
        task, op, step = self._open
        self._open = None
        if not is_freed(op.obj):  # otherwise this is the access that must not be: it read and wrote nothing
            step.value = self.objects.field(op.obj, op.field) if op.field else self.objects.state(op.obj)
        held = [*task.held]
        if released is not None and released not in held:
            held.append(released)
            if released is op.obj:
                step.value = f"held by {task.name}"
        step.held = tuple(self.objects.number(lock) for lock in held)

    def _raised(self, tb: TracebackType | None) -> tuple[tuple[Place, ...], Any]:
        """The places on the way to where it was raised, and the freed object if it is about one."""
        places: list[Place] = []
        obj = None
        while tb is not None:
            frame = tb.tb_frame
            if next(outer_frames(frame), None) is frame:
                places.insert(0, self.sources.place(frame, tb.tb_lineno))
            elif tb.tb_next is None:
                obj = next((x for x in (frame.f_locals.get("self"), frame.f_locals.get("obj")) if is_freed(x)), None)
            tb = tb.tb_next
        return tuple(places), obj


def _location(step: Step, freed: set[int]) -> tuple[int, str]:
    """What two steps must share to be in each other's way: freeing is of all fields."""
    return (step.thing, "" if step.thing in freed else step.field)


def _unwinding() -> bool:
    """Is a broken rule on its way out of the current task?"""
    e = sys.exception()
    while e is not None and not isinstance(e, Splat):
        e = e.__context__
    return e is not None

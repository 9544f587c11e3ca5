# SPDX-License-Identifier: GPL-2.0-only
"""
The seam between kernel code and whoever schedules it.

Kernel code calls :meth:`Runtime.point` before every visible operation. What a
point means is the runtime's business: under the live runtime it costs one call
and only waits when it must; under the controlled runtime (``controlled.py``) a
policy decides there who runs next.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar, runtime_checkable

from greenlet import getcurrent, greenlet

from uvfio.runtime.errors import Splat
from uvfio.runtime.task import Task

T = TypeVar("T")


class Op:
    """A visible operation about to happen: *kind* on *obj*, reading or writing it."""

    __slots__ = ("field", "kind", "mode", "obj", "ready", "timeout")

    def __init__(
        self,
        kind: str,
        obj: Any,
        mode: str = "w",
        ready: Callable[[], bool] | None = None,
        timeout: float | None = None,
        field: str = "",
    ) -> None:
        self.kind = kind
        self.obj = obj
        self.mode = mode  # "r": commutes with other reads of the same object
        self.ready = ready  # None: never waits
        self.timeout = timeout  # seconds; None: waits for ever
        self.field = field

    def __repr__(self) -> str:
        return f"<Op {self.kind} {self.obj!r}{'.' + self.field if self.field else ''}>"


@runtime_checkable
class Listener(Protocol):
    """Hears every event of a run, in order (checkers, the trace, the report)."""

    def event(self, task: Task, op: Op) -> None:
        """*task* does *op* now."""


class Runtime:
    """Common to all runtimes. Subclasses say what a point is and who runs next."""

    keeps_tasks = False  # True: a finished task's greenlet may become another task
    observed = False  # True: shared fields of structures are points too
    # False: a point that waits for nothing does nothing, and what every call of a client
    # goes through need not make it.
    schedules = True

    def __init__(self) -> None:
        self.hub: greenlet = getcurrent()
        self.listeners: list[Listener] = []
        self.machine: Any = None  # the one Machine this runtime runs
        self.suspicions: list[Splat] = []

    def point(
        self,
        kind: str,
        obj: Any,
        mode: str = "w",
        ready: Callable[[], bool] | None = None,
        timeout: float | None = None,
        field: str = "",
    ) -> bool:
        """
        The current task is about to do *kind* on *obj*; others may run first.

        Returns once *ready()* holds, with nothing having run since it was found
        true: the caller then does the operation without interruption. False when
        *timeout* (seconds) ran out instead.
        """
        raise NotImplementedError

    def note(self, kind: str, obj: Any, mode: str = "w", field: str = "") -> None:
        """Tell the listeners of something that nobody can run before (a release)."""
        if self.listeners:
            task = getcurrent()
            assert isinstance(task, Task)
            op = Op(kind, obj, mode, None, None, field)
            for listener in self.listeners:
                listener.event(task, op)

    def suspect(self, splat: Splat) -> None:
        """
        A checker: a rule is broken that this run survives, such as a lock order.

        The run goes on, because what the rule guards against is the better finding.
        """
        self.suspicions.append(splat)

    def choose(self, n: int) -> int:
        """Settle a choice the model leaves open (hardware, a fault): in ``range(n)``."""
        return 0

    def spawn(self, run: Callable[[], Any], name: str) -> Task:
        """Make a task that will run *run*; it has not started when this returns."""
        raise NotImplementedError

    def run_function(self, function: Callable[[], T], name: str) -> T:
        """From outside any task: run *function* as a task; its answer or exception."""
        raise NotImplementedError

    def run_task(self, task: Task) -> None:
        """Body of every task's greenlet."""
        raise NotImplementedError

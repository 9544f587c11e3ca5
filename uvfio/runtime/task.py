# SPDX-License-Identifier: GPL-2.0-only
"""
A task: one thread of control inside the modelled kernel.

A task *is* a greenlet, so "who is running" is :func:`current`, a C call, and no
variable that could go stale. A task loses the processor only at a point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar, cast

from greenlet import getcurrent, greenlet

from uvfio.runtime.errors import InternalError

if TYPE_CHECKING:
    from uvfio.runtime.runtime import Op, Runtime

T = TypeVar("T")


class Task(greenlet):
    """
    One thread of control. Linux's ``struct task_struct``, as far as we need it.

    ``process`` is the user process on whose behalf it runs (``mm``, ``files``,
    ``cred``; see ``linux/kernel/process.py``), None for a kernel thread.
    """

    # Python reads and sets what is in the dictionary of a greenlet several times more slowly.
    __slots__ = (
        "body",
        "comm",
        "daemon",
        "done",
        "exception",
        "held",
        "machine",
        "name",
        "pending",
        "preempt_count",
        "process",
        "result",
        "runtime",
        "task_works",
        "timed_out",
        "timeouts_left",
    )

    def __init__(self, runtime: Runtime, name: str, run: Callable[[], Any]) -> None:
        super().__init__(self._main, runtime.hub)
        self.prepare(runtime, name, run)

    def prepare(self, runtime: Runtime, name: str, run: Callable[[], Any]) -> None:
        """Be a new task. A greenlet costs more to make than most runs take, so it is kept."""
        self.runtime = runtime
        self.name = name
        self.comm = name  # what it does, when the name is only a letter
        self.machine = runtime.machine
        self.process: Any = None
        self.body = run
        self.result: Any = None
        self.exception: BaseException | None = None
        self.done = False
        self.daemon = False  # may be blocked for ever without that being a hang
        self.pending: Op | None = None  # what it will do when it is chosen next
        self.timed_out = False
        self.timeouts_left = 1  # explored runs: how often waiting in vain is tried
        self.held: list[Any] = []  # locks, outermost first
        self.preempt_count = 0  # > 0: atomic context, must not sleep
        self.task_works: list[Callable[[], None]] = []  # run on return to user space

    def forget(self) -> None:
        """
        The run is over: hold on to nothing of it but the name.

        The garbage collector does not see a greenlet that waits, and stops looking at a
        dictionary or tuple with nothing else in it, for good: what then leads from there
        back to the task would never go, and the machine with it.
        """
        del self.runtime, self.machine, self.process, self.body, self.result, self.exception
        del self.pending, self.held, self.task_works

    def _main(self) -> None:
        self.runtime.run_task(self)
        while self.runtime.keeps_tasks:
            self.runtime.hub.switch()
            self.runtime.run_task(self)

    def __repr__(self) -> str:
        return f"<Task {self.name}>"


def current() -> Task:
    """The running task (Linux's ``current``). Outside of any task: InternalError."""
    task = getcurrent()
    if not isinstance(task, Task):
        raise InternalError("kernel code must run in a task: use Machine.run()")
    return task


running = cast(Callable[[], Task], getcurrent)
"""``current()`` without the check, for primitives that every call of a client goes through."""


def per_machine(make: Callable[[], T]) -> Callable[[], T]:
    """
    Declare a kernel static: ``vfio = per_machine(Vfio)``, then ``vfio().group_lock``.

    Each Machine makes its own on first use, so that a thousand machines can live
    in one process and every explored run starts clean.
    """

    def get() -> T:
        try:
            statics: dict[Any, Any] = running().machine.statics
        except AttributeError:
            statics = current().machine.statics  # which says what is wrong
        found: T | None = statics.get(make)
        if found is None:
            found = statics[make] = make()
        return found

    return get

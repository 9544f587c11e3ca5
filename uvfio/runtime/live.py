# SPDX-License-Identifier: GPL-2.0-only
"""
The live runtime: run to block, first come first served.

There is one *leader*: the task that runs the event loop and handles what comes
in, in its own greenlet, so an ordinary call costs no switch. A leader that must
wait hands the loop to another worker and comes back when its condition holds.
Conditions of waiting tasks are looked at again after every call handled; there
are never many, and nobody has to be woken by name.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import Any, TypeVar, cast

from greenlet import GreenletExit, getcurrent, greenlet

from uvfio.runtime.errors import InternalError
from uvfio.runtime.runtime import Runtime
from uvfio.runtime.task import Task

T = TypeVar("T")


class _Waiter:
    __slots__ = ("deadline", "ready", "task", "what")

    def __init__(self, task: Task, ready: Callable[[], bool], deadline: float | None, what: str) -> None:
        self.task = task
        self.ready = ready
        self.deadline = deadline
        self.what = what


class LiveRuntime(Runtime):
    """
    Run to block. *idle(timeout)* is called when nothing is runnable: it waits at
    most *timeout* seconds (None: for ever) for something from outside, handles
    it, and returns False when there is nothing left to wait for.
    """

    schedules = False

    def __init__(self, idle: Callable[[float | None], bool] | None = None) -> None:
        super().__init__()
        self.idle = idle
        self.runq: deque[Task] = deque()
        self.waiters: list[_Waiter] = []
        self.spare: list[Task] = []  # workers without work
        self.finished: Callable[[], bool] = lambda: False

    def point(
        self,
        kind: str,
        obj: Any,
        mode: str = "w",
        ready: Callable[[], bool] | None = None,
        timeout: float | None = None,
        field: str = "",
    ) -> bool:
        if ready is None or ready():
            return True
        task = getcurrent()
        assert isinstance(task, Task)
        deadline = None if timeout is None else time.monotonic() + timeout
        waiter = _Waiter(task, ready, deadline, f"{kind} {obj!r}")
        self.waiters.append(waiter)
        self._another_leader().switch()
        # Nothing ran between ready() being found true and this line.
        timed_out, task.timed_out = task.timed_out, False
        return not timed_out

    def spawn(self, run: Callable[[], Any], name: str) -> Task:
        task = Task(self, name, run)
        self.runq.append(task)
        return task

    def run_task(self, task: Task) -> None:
        try:
            task.result = task.body()
        except GreenletExit:
            raise
        except BaseException as e:  # kept for whoever waits for the task
            task.exception = e
        task.done = True
        if self.spare:
            # This greenlet ends, and who led before goes on: a new leader for each task
            # would be one more greenlet for ever, each nested deeper than the one before.
            task.parent = self.spare.pop()
            return
        self._loop()

    def run_function(self, function: Callable[[], T], name: str) -> T:
        task = self.spawn(function, name)
        self.run_until(lambda: task.done)
        if task.exception is not None:
            raise task.exception
        return cast(T, task.result)

    def run_until(self, finished: Callable[[], bool]) -> None:
        """
        Called from the hub: run tasks until *finished()*.

        Raises InternalError when nothing can run any more and it still does not
        hold; the message names who waits for what.
        """
        self.finished = finished
        if not finished():
            self._another_leader().switch()
        if not finished():
            waits = "; ".join(f"{w.task.name} waits for {w.what}" for w in self.waiters) or "no task"
            raise InternalError(f"the machine must not stop here: {waits}")

    def _another_leader(self) -> Task:
        if self.spare:
            return self.spare.pop()
        return Task(self, "worker", self._loop)

    def _loop(self) -> None:
        me = getcurrent()
        assert isinstance(me, Task)
        while True:
            if self.finished():
                self._give_way(me, self.hub)
            elif self.runq:
                self._give_way(me, self.runq.popleft())
            elif self.waiters and (waiter := self._runnable_waiter()):
                self.waiters.remove(waiter)
                self._give_way(me, waiter.task)
            elif not self._wait_outside():
                self._give_way(me, self.hub)

    def _give_way(self, me: Task, other: greenlet) -> None:
        self.spare.append(me)
        other.switch()

    def _wait_outside(self) -> bool:
        pause = self._next_deadline()
        if self.idle is not None and self.idle(pause):
            return True
        if pause is None:
            return False
        time.sleep(pause)
        return True

    def _runnable_waiter(self) -> _Waiter | None:
        now: float | None = None
        for waiter in self.waiters:
            if waiter.ready():
                return waiter
            if waiter.deadline is not None:
                if now is None:
                    now = time.monotonic()
                if now >= waiter.deadline:
                    waiter.task.timed_out = True
                    return waiter
        return None

    def _next_deadline(self) -> float | None:
        deadlines = [w.deadline for w in self.waiters if w.deadline is not None]
        return max(0.0, min(deadlines) - time.monotonic()) if deadlines else None

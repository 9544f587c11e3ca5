# SPDX-License-Identifier: GPL-2.0-only
"""
Kernel code in a thread that is not the main one, while that one waits for the host.

The model belongs to whoever has the *baton*: the main thread, but for the time that it
sleeps in poll. A tracing thread that gets hold of it then does an access to a register
itself, which saves waking the main thread and being woken by it. If the baton is not to
be had at once, the access is handed over as always.

Code that must sleep gives the baton back. A task of the main thread then waits for what
it waits for, and lets it go on while the main thread stands still: between the two
there is never more than one that runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from uvfio.live.loop import Loop
from uvfio.runtime.live import LiveRuntime
from uvfio.runtime.runtime import Runtime
from uvfio.runtime.task import Task, running


class _Turn:
    """The main thread stands still for us, from ``go`` to ``over``."""

    def __init__(self) -> None:
        self.go = threading.Semaphore(0)
        self.over = threading.Semaphore(0)
        self.result = False


class Borrower(Runtime):
    """
    The runtime of the one task that a thread has; make it in that thread. *knock()* wakes
    the main thread, once it has the baton.
    """

    schedules = False

    def __init__(self, loop: Loop, knock: Callable[[], None]) -> None:
        super().__init__()
        self.loop = loop
        self.live: LiveRuntime = loop.runtime
        self.machine = self.live.machine
        self.listeners = self.live.listeners
        self.suspicions = self.live.suspicions
        self.knock = knock
        self.turn: _Turn | None = None  # none: the baton is ours
        self.task = Task(self, "mmio", lambda: None)

    def inhabit(self, body: Callable[[], Any]) -> None:
        """Do *body*, which is all that the thread does, in the task."""
        self.task.body = body
        self.task.switch()

    def borrow(self) -> bool:
        """Get hold of the baton, until ``give_back``; False if it is taken."""
        return self.loop.baton.acquire(False)

    def run_task(self, task: Task) -> None:
        task.body()

    def spawn(self, run: Callable[[], Any], name: str) -> Task:
        return self.live.spawn(run, name)

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
        turn = _Turn()

        def wait() -> None:
            turn.result = running().runtime.point(kind, obj, mode, ready, timeout, field)
            turn.go.release()
            turn.over.acquire()

        self.live.spawn(wait, f"mmio: {kind}")
        self.give_back()
        turn.go.acquire()
        self.turn = turn
        return turn.result

    def give_back(self) -> None:
        turn, self.turn = self.turn, None
        if turn is not None:
            turn.over.release()
            return
        if self.live.runq or self.live.waiters:
            self.knock()  # something may run now, which the main thread does not know of
        self.loop.baton.release()

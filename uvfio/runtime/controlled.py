# SPDX-License-Identifier: GPL-2.0-only
"""
The controlled runtime: at every point a policy decides who runs next.

A task stops *before* each visible operation with that operation known
(``task.pending``), so a policy sees what everybody is about to do. A task whose
operation is not ready is not offered. When nobody can go on and somebody is not
finished, that is a deadlock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, TypeVar, cast

from greenlet import GreenletExit, getcurrent

from uvfio.runtime.errors import InternalError, Splat
from uvfio.runtime.runtime import Op, Runtime
from uvfio.runtime.schedule import Schedule
from uvfio.runtime.task import Task

T = TypeVar("T")

MAX_STEPS = 100_000


class Policy(Protocol):
    """Decides who runs next. Lives across runs, so it may learn from earlier ones."""

    def begin(self) -> bool:
        """Start a run; False when nothing is left to try."""

    def choose(self, runnable: Sequence[Task], current: Task | None) -> Task | None:
        """Pick one of *runnable*, which is never empty; None stops: all that follows is known."""

    def pick(self, n: int) -> int:
        """Settle any other choice the model leaves open, in ``range(n)``."""

    def end(self, blocked: Sequence[Task]) -> None:
        """The run is over; *blocked* tasks will never go on."""


class ControlledRuntime(Runtime):
    """
    Runs tasks under *policy*. One instance is one run.

    ``quiet`` is true while a scenario sets up or cleans up: then tasks run to
    block in order, and nothing is recorded in ``schedule``.
    """

    observed = True

    def __init__(self, policy: Policy) -> None:
        super().__init__()
        self.policy = policy
        self.quiet = True
        self.tasks: list[Task] = []
        self.schedule: Schedule = []  # the task chosen at each step, and choices
        self.splat: Splat | None = None
        self.aborting = False
        self.crash: BaseException | None = None  # a task let something else escape
        self.cut_off = False  # the policy stopped the run
        self.letters: set[str] = set()

    def point(
        self,
        kind: str,
        obj: Any,
        mode: str = "w",
        ready: Callable[[], bool] | None = None,
        timeout: float | None = None,
        field: str = "",
    ) -> bool:
        if self.aborting:
            raise GreenletExit
        task = getcurrent()
        assert isinstance(task, Task)
        op = task.pending = Op(kind, obj, mode, ready, timeout, field)
        if self.quiet and (ready is None or ready()):
            chosen: Task | None = task
        else:
            chosen = self._next(task)
        if chosen is not task:
            (self.hub if chosen is None else chosen).switch()  # a greenlet not yet started is falsy
        task.pending = None
        timed_out, task.timed_out = task.timed_out, False
        for listener in self.listeners:
            listener.event(task, op)
        return not timed_out

    def choose(self, n: int) -> int:
        if self.quiet:
            return 0
        choice = self.policy.pick(n)
        self.schedule.append(choice)
        return choice

    def spawn(self, run: Callable[[], Any], name: str) -> Task:
        task = Task(self, self._letter(name), run)
        task.comm = name
        task.pending = Op("start", task)
        self.tasks.append(task)
        if isinstance(getcurrent(), Task):
            self.note("spawn", task)
        return task

    def run_task(self, task: Task) -> None:
        task.pending = None
        try:
            task.result = task.body()
        except GreenletExit:
            return
        except BaseException as e:
            task.exception = e
            if isinstance(e, Splat):
                self.splat = self.splat or e
            elif not self.quiet:  # nobody waits for an explored task: it must not be lost
                self.crash = e
        task.done = True

    def run(self, tasks: Sequence[Task] = ()) -> None:
        """
        From the hub: run until every task is done, or only daemons wait.

        With *tasks*: until those are done. Stops at the first Splat, which is
        kept in ``splat``; a deadlock is one.
        """
        while self.splat is None:
            if self.crash is not None:
                raise InternalError(f"a task must raise Errno or Splat, not {self.crash!r}") from self.crash
            waited_for = [t for t in tasks or self.tasks if not t.done and not t.daemon]
            if tasks and not waited_for:
                return
            chosen = self._next(None)
            if chosen is None:
                if waited_for and not self.cut_off and self.splat is None:
                    self.splat = deadlock(waited_for)
                return
            chosen.switch()
            self.tasks = [t for t in self.tasks if not t.done]

    def run_function(self, function: Callable[[], T], name: str) -> T:
        """Set-up and clean-up: run *function* to its end, without exploring."""
        was, self.quiet = self.quiet, True
        task = self.spawn(function, name)
        self.run([task])
        self.quiet = was
        if task.exception is not None:
            raise task.exception
        if self.splat is not None:
            raise self.splat
        return cast(T, task.result)

    def abort(self) -> None:
        """Unwind what is still blocked, without letting it do anything visible."""
        self.aborting = True
        for task in self.tasks:
            if task:
                task.throw(GreenletExit)
        self.tasks.clear()

    def _letter(self, name: str) -> str:
        """A schedule has one capital letter for each task; tasks keep theirs if free."""
        if self.quiet and len(name) > 1:
            return name
        taken = {task.name for task in self.tasks} | self.letters
        letter = name if name not in taken and len(name) == 1 else ""
        letter = letter or next((c for c in "KLMNOPQRSTUVWXYZABCDEFGHIJ" if c not in taken), name)
        self.letters.add(letter)
        return letter

    def _next(self, running: Task | None) -> Task | None:
        if self.splat is not None:
            return None
        runnable = [t for t in self.tasks if t.pending is not None and self._can_run(t, t.pending)]
        if not runnable:
            return None
        if self.quiet:
            chosen = runnable[0]
        else:
            if len(self.schedule) >= MAX_STEPS:
                self.splat = Splat("livelock", f"no end after {MAX_STEPS} steps")
                return None
            choice = self.policy.choose(runnable, running)
            if choice is None:
                self.cut_off = True
                return None
            chosen = choice
            self.schedule.append(chosen.name)
        self._settle_timeout(chosen)
        return chosen

    @staticmethod
    def _can_run(task: Task, op: Op) -> bool:
        if op.ready is None or op.ready():
            return True
        # Waiting in vain is a branch, but a bounded one: a loop that only waits
        # again and again makes no progress and must be seen as a hang.
        return op.timeout is not None and task.timeouts_left > 0

    def _settle_timeout(self, task: Task) -> None:
        op = task.pending
        assert op is not None
        if op.timeout is None or op.ready is None:
            return
        if not op.ready() or (not self.quiet and task.timeouts_left > 0 and self.choose(2)):
            task.timed_out = True
            task.timeouts_left -= 1


def deadlock(waiting: Sequence[Task]) -> Splat:
    """Who waits for what, as a finding."""
    lines = []
    for task in waiting:
        op = task.pending
        holds = ", ".join(repr(lock) for lock in task.held) or "nothing"
        lines.append(f"{task.name} waits for {op.obj!r} ({op.kind}), holds {holds}" if op else task.name)
    return Splat("deadlock", "no task can go on: " + "; ".join(lines))

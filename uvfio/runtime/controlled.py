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

    def follow(self, runtime: ControlledRuntime) -> list[str]:
        """
        The tasks that must run next, last first, where that is known: a step for each name.

        It saves working out who could run, and asking again before those steps are done.
        """

    def choose(self, runnable: Sequence[Task], current: Task | None) -> Task | None:
        """Pick one of *runnable*, which is never empty; None stops: all that follows is known."""

    def pick(self, n: int) -> int:
        """Settle any other choice the model leaves open, in ``range(n)``."""

    def end(self, blocked: Sequence[Task]) -> None:
        """The run is over; *blocked* tasks will never go on."""


class ControlledRuntime(Runtime):
    """
    Runs tasks under *policy*. One instance is one run.

    *spare* is taken from and added to: greenlets that runs after each other share.
    ``quiet`` is true while a scenario sets up or cleans up: then tasks run to
    block in order, and nothing is recorded in ``schedule``.
    """

    keeps_tasks = True
    observed = True

    def __init__(self, policy: Policy, spare: list[Task] | None = None) -> None:
        super().__init__()
        self.policy = policy
        self.spare = spare if spare is not None else []  # finished tasks of earlier runs
        self.quiet = True
        self.tasks: list[Task] = []
        self.made: list[Task] = []
        self.by_name: dict[str, Task] = {}
        self.ahead: list[str] = []  # who runs next, as far as the policy knows; last first
        self.schedule: Schedule = []  # the task chosen at each step, and choices
        self.splat: Splat | None = None
        self.broken_by = ""  # the task that raised it
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
        task: Task = getcurrent()  # type: ignore[assignment]  # kernel code runs in tasks
        if self.ahead and self.ahead[-1] == task.name and timeout is None and not self.listeners:
            self.schedule.append(self.ahead.pop())
            return True
        op = task.pending = Op(kind, obj, mode, ready, timeout, field)
        if self.quiet and (ready is None or ready()):
            chosen: Task | None = task
        else:
            chosen = self._next(task)
        if chosen is not task:
            (self.hub if chosen is None else chosen).switch()  # a greenlet not yet started is falsy
        task.pending = None
        for listener in self.listeners:
            listener.event(task, op)
        if timeout is None:
            return True
        timed_out, task.timed_out = task.timed_out, False
        return not timed_out

    def choose(self, n: int) -> int:
        if self.quiet:
            return 0
        choice = self.policy.pick(n)
        if choice:  # 0, the default, is not worth a word in a schedule
            self.schedule.append(choice)
        return choice

    def spawn(self, run: Callable[[], Any], name: str) -> Task:
        letter = self._letter(name)
        if self.spare:
            task = self.spare.pop()
            task.prepare(self, letter, run)
        else:
            task = Task(self, letter, run)
        task.comm = name
        task.pending = Op("start", task)
        self.tasks.append(task)
        self.made.append(task)
        self.by_name[task.name] = task
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
                if self.splat is None:
                    self.splat, self.broken_by = e, task.name
            elif isinstance(e, InternalError) or not isinstance(e, Exception):
                self.crash = e
            elif not self.quiet:  # nobody waits for an explored task: it must not be lost
                self.splat = self.splat or oops(e)
        task.done = True
        self.tasks.remove(task)

    def run(self, tasks: Sequence[Task] = ()) -> None:
        """
        From the hub: run until every task is done, or only daemons wait.

        With *tasks*: until those are done. Stops at the first Splat, which is
        kept in ``splat``; a deadlock is one.
        """
        while self.splat is None:
            if self.crash is not None:
                if isinstance(self.crash, InternalError):
                    raise self.crash
                raise InternalError(f"a task must raise Errno or Splat, not {self.crash!r}") from self.crash
            if tasks and all(t.done or t.daemon for t in tasks):
                return
            chosen = self._next(None) if self.tasks else None
            if chosen is None:
                waited_for = [t for t in tasks or self.tasks if not t.done and not t.daemon]
                if waited_for and not self.cut_off and self.splat is None:
                    self.splat = deadlock(waited_for)
                return
            chosen.switch()

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
        """Unwind what is still blocked, without letting it do anything visible. No task knows its run after that."""
        self.aborting = True
        self.keeps_tasks = False  # kept, they would never run again, nor be collected: and the machine with them
        for task in list(self.tasks):
            if task and not task.done:
                task.throw(GreenletExit)
        self.tasks.clear()
        self.spare += [task for task in self.made if task.done]
        for task in self.made:
            task.forget()
        self.made.clear()
        self.listeners = []
        self.machine = None  # which knows this run: garbage for the collector

    def _letter(self, name: str) -> str:
        """A schedule has one capital letter for each task; tasks keep theirs if free."""
        if self.quiet and len(name) > 1:
            return name
        letter = name
        if name in self.letters or len(name) != 1:
            letter = next((c for c in "KLMNOPQRSTUVWXYZABCDEFGHIJ" if c not in self.letters), name)
        self.letters.add(letter)
        return letter

    def _next(self, running: Task | None) -> Task | None:
        if self.splat is not None or self.cut_off:
            return None
        if not self.ahead and not self.quiet:
            self.ahead = self.policy.follow(self)
        if self.ahead:
            chosen: Task | None = self.by_name[self.ahead.pop()]
        else:
            chosen = self._choose(running)
        if chosen is None:
            return None
        if not self.quiet:
            self.schedule.append(chosen.name)
        op = chosen.pending
        if op is not None and op.timeout is not None:
            self._settle_timeout(chosen, op)
        return chosen

    def _choose(self, running: Task | None) -> Task | None:
        # Waiting in vain is a branch, but a bounded one: a loop that only waits again and
        # again makes no progress and must be seen as a hang.
        runnable = [
            t
            for t in self.tasks
            if (op := t.pending) is not None
            and (op.ready is None or op.ready() or (op.timeout is not None and t.timeouts_left > 0))
        ]
        if not runnable:
            return None
        if self.quiet:
            return runnable[0]
        if len(self.schedule) >= MAX_STEPS:
            self.splat = Splat("livelock", f"no end after {MAX_STEPS} steps")
            return None
        chosen = self.policy.choose(runnable, running)
        self.cut_off = chosen is None
        return chosen

    def _settle_timeout(self, task: Task, op: Op) -> None:
        if op.ready is None:
            return
        if not op.ready() or (not self.quiet and task.timeouts_left > 0 and self.choose(2)):
            task.timed_out = True
            task.timeouts_left -= 1


def oops(e: Exception) -> Splat:
    """What the kernel would not have survived: a NULL pointer, an index out of bounds."""
    null = isinstance(e, AttributeError) and "'NoneType' object has no attribute" in str(e)
    return Splat("null-pointer" if null else "oops", f"{type(e).__name__}: {e}")


def deadlock(waiting: Sequence[Task]) -> Splat:
    """Who waits for what, as a finding."""
    lines = []
    for task in waiting:
        op = task.pending
        holds = ", ".join(repr(lock) for lock in task.held) or "nothing"
        lines.append(f"{task.name} waits for {op.obj!r} ({op.kind}), holds {holds}" if op else task.name)
    return Splat("deadlock", "no task can go on: " + "; ".join(lines))

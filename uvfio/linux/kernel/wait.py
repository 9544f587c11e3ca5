# SPDX-License-Identifier: GPL-2.0-only
"""
Wait queues and completions. Mirrors ``kernel/sched/wait.c`` and ``completion.c``.

A sleeper goes on only when it is woken: a condition that came true without a
``wake_up`` is a lost wake-up here as it is in Linux.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from uvfio.linux.kernel.bug import might_sleep
from uvfio.runtime.struct import Embedded
from uvfio.runtime.task import current


class WaitQueueHead(Embedded):
    """``wait_queue_head_t``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.wakes = 0

    def __repr__(self) -> str:
        return self.name

    def wake_up(self) -> None:
        current().runtime.point("wake_up", self)
        self.wakes += 1

    def wait_event(self, condition: Callable[[], bool]) -> None:
        """Sleep until *condition()* holds; it is looked at now and after every wake-up."""
        self.wait_event_timeout(condition, None)

    def wait_event_timeout(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """The same for at most *timeout* seconds; says whether *condition* held in the end."""
        might_sleep()
        runtime = current().runtime
        while True:
            runtime.point("prepare_to_wait", self, "r")
            seen = self.wakes
            if condition():
                return True
            if not runtime.point("wait", self, "r", ready=partial(self._woken, seen), timeout=timeout):
                return condition()

    def _woken(self, seen: int) -> bool:
        return self.wakes != seen


class Completion(Embedded):
    """``struct completion``: counts what was completed and not yet waited for."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.done = 0

    def __repr__(self) -> str:
        return self.name

    def complete(self) -> None:
        current().runtime.point("complete", self)
        self.done += 1

    def complete_all(self) -> None:
        current().runtime.point("complete", self)
        self.done = 1 << 31

    def reinit(self) -> None:
        self.done = 0

    def wait_for_completion(self) -> None:
        self.wait_for_completion_timeout(None)

    def wait_for_completion_timeout(self, timeout: float | None) -> bool:
        """False when *timeout* seconds went by first."""
        might_sleep()
        if not current().runtime.point("wait_for_completion", self, ready=lambda: self.done > 0, timeout=timeout):
            return False
        if self.done < 1 << 31:
            self.done -= 1
        return True

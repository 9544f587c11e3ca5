# SPDX-License-Identifier: GPL-2.0-only
"""
Deferred work. Mirrors ``kernel/workqueue.c``: one task for each work item that runs.
"""

from __future__ import annotations

from collections.abc import Callable

from uvfio.linux.kernel.bug import might_sleep
from uvfio.runtime.task import current


class Work:
    """``struct work_struct``: *function* runs in a kernel thread, once for a queueing."""

    def __init__(self, name: str, function: Callable[[], None]) -> None:
        self.name = name
        self.function = function
        self.pending = False
        self.running = 0

    def __repr__(self) -> str:
        return self.name

    def queue(self) -> bool:
        """``queue_work``: False when it is pending already."""
        runtime = current().runtime
        runtime.point("queue_work", self)
        if self.pending:
            return False
        self.pending = True
        runtime.spawn(self._run, f"kworker/{self.name}")
        return True

    def flush(self) -> None:
        """``flush_work``: wait until it is neither pending nor running."""
        might_sleep()
        current().runtime.point("flush_work", self, ready=lambda: not self.pending and not self.running)

    def cancel_sync(self) -> bool:
        """``cancel_work_sync``: take it back if pending, wait if running."""
        might_sleep()
        current().runtime.point("cancel_work", self)
        was = self.pending
        self.pending = False
        current().runtime.point("cancel_work_sync", self, ready=lambda: not self.running)
        return was

    def _run(self) -> None:
        current().runtime.point("work", self)
        if not self.pending:
            return
        self.pending = False
        self.running += 1
        try:
            self.function()
        finally:
            self.running -= 1
            current().runtime.note("work_done", self)

# SPDX-License-Identifier: GPL-2.0-only
"""A machine whose kernel has not started: for tests of one room alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from uvfio.runtime.live import LiveRuntime

T = TypeVar("T")


class BareMachine:
    """Kernel statics and a runtime, nothing else."""

    def __init__(self) -> None:
        self.statics: dict[Any, Any] = {}
        self.runtime = LiveRuntime()
        self.runtime.machine = self

    def run(self, function: Callable[[], T]) -> T:
        """Run *function* in a task."""
        return self.runtime.run_function(function, "test")

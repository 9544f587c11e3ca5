# SPDX-License-Identifier: GPL-2.0-only
"""
Leaks: when everybody has gone, nothing that was allocated may still be there.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from uvfio.runtime.errors import Splat
from uvfio.runtime.runtime import Op
from uvfio.runtime.task import Task


class Leaks:
    """A listener that knows every structure allocated since it began to listen."""

    def __init__(self) -> None:
        self.live: dict[int, Any] = {}  # the object keeps its id from being used again

    def event(self, task: Task, op: Op) -> None:
        if op.kind == "alloc":
            self.live[id(op.obj)] = op.obj
        elif op.kind == "free":
            self.live.pop(id(op.obj), None)

    def check(self) -> None:
        """Splat unless all of it has been freed."""
        if self.live:
            kinds = Counter(type(obj).__name__ for obj in self.live.values())
            raise Splat("leak", "still allocated: " + ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())))

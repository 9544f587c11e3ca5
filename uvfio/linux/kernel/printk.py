# SPDX-License-Identifier: GPL-2.0-only
"""
The kernel log. Mirrors ``kernel/printk/printk.c``, as far as anybody reads it: the last
lines are kept, and whoever watches is told of each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from uvfio.runtime.task import per_machine

MAX_LINES = 1000


class Printk:
    """The log of one machine."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=MAX_LINES)
        self.consoles: list[Callable[[str], None]] = []


log_buf = per_machine(Printk)


def printk(line: str) -> None:
    """Log *line*, and show it on every console."""
    log = log_buf()
    log.lines.append(line)
    for console in log.consoles:
        console(line)

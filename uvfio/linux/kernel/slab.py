# SPDX-License-Identifier: GPL-2.0-only
"""
Allocations that fail. Mirrors ``mm/failslab.c``.

Difference from Linux: only the structs that are asked for here can fail, all of one kind
or none; everywhere else there is memory.
"""

from __future__ import annotations

from uvfio.runtime.task import per_machine


class FailSlab:
    """Of which structs there is no memory in one machine."""

    def __init__(self) -> None:
        self.failing: set[str] = set()


fail_slab = per_machine(FailSlab)


def should_failslab(struct: type) -> bool:
    return struct.__name__ in fail_slab().failing

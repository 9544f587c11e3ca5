# SPDX-License-Identifier: GPL-2.0-only
"""
``WARN_ON`` and friends: rules the kernel checks itself. Breaking one is a finding.

Mirrors ``include/asm-generic/bug.h`` and lockdep's assertions. Difference from
Linux: a warning ends the run, because a run that broke a rule proves nothing more.
"""

from typing import Any, NoReturn

from uvfio.runtime.errors import Splat
from uvfio.runtime.task import current


def WARN_ON(condition: object, message: str = "") -> bool:
    """Splat when *condition* is true; False otherwise, to be used in an ``if``."""
    if condition:
        raise Splat("warning", message or "WARN_ON")
    return False


def BUG(message: str) -> NoReturn:
    """This must never be reached."""
    raise Splat("bug", message)


def lockdep_assert_held(lock: Any) -> None:
    """Splat unless the current task holds *lock*."""
    if lock not in current().held:
        raise Splat("lockdep", f"{lock!r} must be held here")


def might_sleep() -> None:
    """Splat in atomic context (a spinlock held, interrupts off)."""
    task = current()
    if task.preempt_count:
        why = f"while holding {task.held[-1]!r}" if task.held else "in an interrupt handler"
        raise Splat("sleeping-in-atomic", f"{task.name} sleeps {why}")

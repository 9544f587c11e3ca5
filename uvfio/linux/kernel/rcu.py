# SPDX-License-Identifier: GPL-2.0-only
"""
RCU. Mirrors ``kernel/rcu/tree.c`` as far as the life of an object goes.

Differences from Linux: a grace period ends as soon as it may, when the last reader
that was there before it leaves, and its callbacks run right then. Nobody could rely
on more, so a longer one would only hide mistakes. There are no CPUs to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from uvfio.runtime.struct import kfree
from uvfio.runtime.task import current, per_machine


class Rcu:
    """Who reads, and what waits for them."""

    def __init__(self) -> None:
        self.readers: set[int] = set()
        self.next = 0
        self.callbacks: list[tuple[frozenset[int], Callable[[], None]]] = []

    def __repr__(self) -> str:
        return "rcu"


rcu = per_machine(Rcu)


@contextmanager
def rcu_read() -> Iterator[None]:
    """``rcu_read_lock()`` to ``rcu_read_unlock()``: what is found inside stays allocated."""
    task, state = current(), rcu()
    task.runtime.point("rcu_read_lock", state, "r")
    state.next += 1
    index = state.next
    state.readers.add(index)
    task.preempt_count += 1
    try:
        yield
    finally:
        task.preempt_count -= 1
        state.readers.discard(index)
        task.runtime.note("rcu_read_unlock", state)
        _run_callbacks(state)


def call_rcu(function: Callable[[], None]) -> None:
    """Call *function* when everybody who reads now has finished."""
    state = rcu()
    current().runtime.point("call_rcu", state)
    state.callbacks.append((frozenset(state.readers), function))
    _run_callbacks(state)


def kfree_rcu(obj: Any) -> None:
    """Free *obj* after a grace period."""
    call_rcu(lambda: kfree(obj))


def _run_callbacks(state: Rcu) -> None:
    due = [each for each in state.callbacks if not each[0] & state.readers]
    state.callbacks = [each for each in state.callbacks if each[0] & state.readers]
    for _readers, function in due:
        function()

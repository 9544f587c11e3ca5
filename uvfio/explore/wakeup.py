# SPDX-License-Identifier: GPL-2.0-only
"""
Wakeup trees: what must still be tried at one place, without trying anything twice.

Abdulla, Aronis, Jonsson, Sagonas: JACM 2017, section 6. A branch is a sequence of
steps that reverses a race; :func:`insert` adds one unless the tree has, or will lead
to, an equivalent.

Departure: an object that a sequence touched first has no number that means the same
in two runs (see ``known``); two steps that both touch such objects count as dependent,
which may try something twice and never loses anything.
"""

from __future__ import annotations

from collections.abc import Sequence

Accesses = list[tuple[tuple[int, str], bool]]  # what is touched, and whether it is written


class Event:
    """A step of a sequence: ``after`` are the positions of those it must come after."""

    __slots__ = ("accesses", "after", "task")

    def __init__(self, task: str, accesses: Accesses) -> None:
        self.task = task
        self.accesses = accesses
        self.after: list[int] = []


class Branch:
    """A step, and what must be tried after it."""

    __slots__ = ("children", "event")

    def __init__(self, event: Event) -> None:
        self.event = event
        self.children: list[Branch] = []


def dependent(a: Accesses, b: Accesses) -> bool:
    """Does the order of two steps matter?"""
    return any(key == other and (write or writes) for key, write in a for other, writes in b)


def covers(task: str, accesses: Accesses, events: Sequence[Event]) -> bool:
    """
    Is *task*, whose next step touches *accesses*, a weak initial of *events*: could
    an execution that begins with *events* as well have begun with it?
    """
    for event in events:
        if event.task == task:
            return not event.after
    return not any(dependent(accesses, event.accesses) for event in events)


def insert(tree: list[Branch], events: Sequence[Event], known: int) -> None:
    """Add *events* to *tree*, the branches at one place, unless they are covered."""
    gone: set[int] = set()  # positions of *events* that the path down the tree has
    positions = list(range(len(events)))
    while True:
        child = next((branch for branch in tree if _leads_on(branch, events, positions, gone, known)), None)
        if child is None:
            break
        taken = next((p for p in positions if events[p].task == child.event.task), None)
        if taken is not None:
            positions.remove(taken)
            gone.add(taken)
        if not child.children or not positions:
            return  # whatever is explored below it has an equivalent
        tree = child.children
    for position in positions:
        branch = Branch(events[position])
        tree.append(branch)
        tree = branch.children


def _leads_on(branch: Branch, events: Sequence[Event], positions: list[int], gone: set[int], known: int) -> bool:
    """Is the branch's first step a weak initial of what is left of *events*?"""
    for position in positions:
        if events[position].task == branch.event.task:
            return all(other in gone for other in events[position].after)
    return not any(_may_depend(branch.event.accesses, events[p].accesses, known) for p in positions)


def _may_depend(a: Accesses, b: Accesses, known: int) -> bool:
    if dependent(a, b):
        return True
    return any(key[0] >= known for key, _w in a) and any(key[0] >= known for key, _w in b)

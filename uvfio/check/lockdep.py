# SPDX-License-Identifier: GPL-2.0-only
"""
Lock order: a cycle of lock classes is reported although this run did not hang in it.

Mirrors ``kernel/locking/lockdep.c``. A class is a lock's name and the subclass that it
is taken with; whatever is taken while something is held gives an edge. As in Linux,
waits that have an annotation there are locks here: SRCU (``synchronize_srcu`` waits for
its readers), a sysfs attribute (its removal waits for its handlers), a work item
(flushing it waits for its function). Completions have none in Linux; here, in the
manner of DEPT (Byungchul Park's dependency tracker), it is a cycle to wait for one
under a lock that another task completes the same one under.

Read recursion: a reader of a semaphore waits behind a waiting writer, so it counts as
any taker. SRCU's and sysfs' readers never wait; only what they then take does.

Differences from Linux, all on the quiet side: the graph is that of one run, so that a
finding replays; a cycle whose every edge was seen under one and the same lock besides
(a gate) is none.
"""

from __future__ import annotations

from typing import Any

from uvfio.check.order import Edge, Graph, Held, Key, Order
from uvfio.check.where import spell
from uvfio.runtime.errors import Splat
from uvfio.runtime.runtime import Op
from uvfio.runtime.task import Task

TAKES = frozenset({"lock", "lock_nested", "down_read", "down_write"})
TRIES = frozenset({"trylock", "down_read_trylock", "down_write_trylock"})
READ_SIDE = frozenset({"srcu_read_lock", "kernfs_active", "work"})
DROPS = frozenset({"unlock", "srcu_read_unlock", "kernfs_put_active", "kernfs_remove_self", "work_done"})
WAITS = frozenset({"synchronize_srcu", "kernfs_drain", "flush_work", "cancel_work_sync"})
SHARED = frozenset({"down_read", "down_read_trylock", "srcu_read_lock", "kernfs_active"})
EVENTS = frozenset({"complete", "wait_for_completion"})
WANTED = TAKES | TRIES | READ_SIDE | DROPS | WAITS | EVENTS | {"downgrade"}


class Lockdep:
    """A checker of one run; it suspects at most one thing. *order* is its search's."""

    def __init__(self, order: Order | None = None) -> None:
        self.graph = Graph(order or Order())
        self.held: dict[Task, list[Held]] = {}
        self.attributes: dict[int, set[str]] = {}  # of which sysfs directory a handler ran
        self.events: dict[int, list[tuple[Task, Held, list[Held]]]] = {}  # completions, under locks
        self.reported = False
        self._alive: list[Any] = []  # an id must not be used again

    def wants(self, kind: str) -> bool:
        return kind in WANTED

    def event(self, task: Task, op: Op) -> None:
        kind = op.kind
        if kind not in WANTED or getattr(op.obj, "novalidate", False):
            return
        mine = self._held_by(task)
        if kind in DROPS:
            drop(mine, (id(op.obj), op.field))
        elif kind in WAITS:
            if mine and op.timeout is None:
                for cls in self._waited_for(op):
                    self._nest(task, mine, Held(op, cls, True, False))
        elif kind in EVENTS:
            if mine and op.timeout is None:
                self._completion(task, mine, op)
        elif kind == "downgrade":
            for held in mine:
                held.exclusive = held.exclusive and held.key != (id(op.obj), "")
        elif not (kind == "lock" and mine and mine[-1].key == (id(op.obj), "")):
            # else a semaphore that was queued for, and is known since the arrival
            new = Held(op, self._class(op), kind not in SHARED, kind in TRIES)
            self._alive.append(op.obj)
            if mine and kind in TAKES:
                self._nest(task, mine, new)
            mine.append(new)

    def _held_by(self, task: Task) -> list[Held]:
        mine = self.held.get(task)
        if mine is None:
            mine = self.held[task] = []
        elif mine and mine[-1].tried is not None:
            if mine[-1].tried in task.held:
                mine[-1].tried = None
            else:
                mine.pop()
        return mine

    def _class(self, op: Op) -> str:
        """What Linux has one lock_class_key for; an attribute has one for itself."""
        if op.kind == "kernfs_active":
            self.attributes.setdefault(id(op.obj), set()).add(op.field)
            return f"kn->active {op.obj!r}/{op.field}"
        return f"{op.obj.name}/1" if op.kind == "lock_nested" else str(op.obj.name)

    def _waited_for(self, op: Op) -> list[str]:
        if op.kind == "kernfs_drain":
            ran = self.attributes.get(id(op.obj), set())
            return [f"kn->active {op.obj!r}/{name}" for name in sorted(ran) if op.field in ("", name)]
        return [str(op.obj.name)]

    def _nest(self, task: Task, mine: list[Held], new: Held) -> None:
        for n, held in enumerate(mine):
            if held.cls == new.cls:
                self._suspect(task, "lock-recursion", recursion(task, held, new))
            elif not self.graph.known(held.cls, new.cls):
                gates = frozenset(gate.key for gate in mine[:n] if gate.exclusive)
                cycle = self.graph.add(Edge(task, held, new, gates))
                if cycle is not None:
                    self._suspect(task, "lock-order", circular(cycle))

    def _completion(self, task: Task, mine: list[Held], op: Op) -> None:
        """Does one task wait for *op.obj* under a lock that another completes it under?"""
        self._alive.append(op.obj)
        event = Held(op, str(op.obj.name), True, False)
        known = self.events.setdefault(id(op.obj), [])
        for other, its, others in known:
            if other is not task and its.verb != event.verb:
                sides = [(task.name, event, held) for held in mine], [(other.name, its, held) for held in others]
                waiting, completing = sides if event.verb == "wait_for_completion" else sides[::-1]
                for waiter in waiting:
                    for completer in completing:
                        if waiter[2].key == completer[2].key:
                            self._suspect(task, "lock-order", too_late(waiter, completer))
        known.append((task, event, list(mine)))

    def _suspect(self, task: Task, kind: str, told: list[str]) -> None:
        if not self.reported:
            self.reported = True
            task.runtime.suspect(Splat(kind, "\n".join(told)))


def drop(mine: list[Held], key: Key) -> None:
    """Forget the innermost of those with this key."""
    for n in range(len(mine) - 1, -1, -1):
        if mine[n].key == key:
            del mine[n]
            return


def recursion(task: Task, held: Held, new: Held) -> list[str]:
    """The message for two of one class."""
    why = "the same one" if held.key == new.key else "another of its class; may be missing lock nesting notation"
    return [
        "possible recursive locking detected",
        f"{task.name}: {act(new)} in {spell(new.place)},",
        f"    with {held.cls} held since {spell(held.place)} ({why})",
    ]


def circular(cycle: list[Edge]) -> list[str]:
    """The message for a cycle, with all its chains."""
    lines = ["possible circular locking dependency detected"]
    for edge in cycle:
        lines.append(f"{edge.task}: {act(edge.target)} in {spell(edge.target.place)},")
        lines.append(f"    with {edge.source.cls} held since {spell(edge.source.place)}")
    if len(cycle) > 2:
        lines += ["", "Chain exists of:", "  " + " --> ".join(edge.source.cls for edge in cycle)]
    first, last = cycle[0], cycle[-1]
    return lines + unsafe_scenario(
        f"  lock({first.source.cls});",
        f"{RIGHT}lock({last.source.cls});",
        f"{RIGHT}{act(last.target)};",
        f"  {act(first.target)};",
    )


def too_late(waiter: tuple[str, Held, Held], completer: tuple[str, Held, Held]) -> list[str]:
    """The message for a completion that needs a lock held by who waits for it."""
    lines = ["possible circular dependency detected"]
    for task, event, held in (waiter, completer):
        lines.append(f"{task}: {act(event)} in {spell(event.place)},")
        lines.append(f"    with {held.cls} held since {spell(held.place)}")
    return lines + unsafe_scenario(
        f"  lock({waiter[2].cls});",
        f"  {act(waiter[1])};",
        f"{RIGHT}lock({completer[2].cls});",
        f"{RIGHT}{act(completer[1])};",
    )


RIGHT = " " * 32


def unsafe_scenario(*steps: str) -> list[str]:
    """The block that lockdep prints, word for word, so that eyes and parsers accept it."""
    return [
        "",
        " Possible unsafe locking scenario:",
        "",
        "       CPU0                    CPU1",
        "       ----                    ----",
        *steps,
        "",
        " *** DEADLOCK ***",
    ]


def act(held: Held) -> str:
    """The call that took it, or waits for it: ``lock(vfio.group_lock)``."""
    verb = "lock" if held.verb in TAKES | TRIES | READ_SIDE else held.verb
    return f"{verb}({held.cls})"

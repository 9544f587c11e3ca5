# SPDX-License-Identifier: GPL-2.0-only
"""Small programs over the primitives, to be run under every policy."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from uvfio.explore.runner import Judge, Program, Result, run_once
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.rwsem import RwSemaphore
from uvfio.linux.kernel.wait import Completion
from uvfio.runtime.controlled import ControlledRuntime, Policy
from uvfio.runtime.struct import kstruct, kzalloc


class Bare:
    """A machine without a kernel in it: enough for primitives."""

    def __init__(self, runtime) -> None:
        self.statics = {}
        self.runtime = runtime
        runtime.machine = self

    def run(self, function, name="kthread"):
        return self.runtime.run_function(function, name)


@kstruct("x", "y")
class Cell:
    def __init__(self) -> None:
        self.x: object = 0
        self.y: object = 0


class World:
    """What the statements below work on."""

    def __init__(self) -> None:
        self.cell = kzalloc(Cell)
        self.m = Mutex("m")
        self.k = Mutex("k")
        self.done = Completion("done")
        self.sem = RwSemaphore("sem")


def _m_section(w: World, who: object, seen: list) -> None:
    with w.m:
        seen.append(w.cell.x)
        w.cell.y = who


def _nested(w: World, who: object, seen: list) -> None:
    with w.k, w.m:
        seen.append(w.cell.y)


def _nested_other_way(w: World, who: object, seen: list) -> None:
    with w.m, w.k:
        seen.append(w.cell.y)


def _try(w: World, who: object, seen: list) -> None:
    seen.append(taken := w.m.trylock())
    if taken:
        w.cell.x = who
        w.m.unlock()


def _read_section(w: World, who: object, seen: list) -> None:
    with w.sem.read():
        seen.append(w.cell.x)


def _write_section(w: World, who: object, seen: list) -> None:
    with w.sem.write():
        w.cell.x = who


def _read_try(w: World, who: object, seen: list) -> None:
    seen.append(taken := w.sem.down_read_trylock())
    if taken:
        seen.append(w.cell.y)
        w.sem.up_read()


def _increment(w: World, who: object, seen: list) -> None:
    w.cell.x = f"{w.cell.x}+"


STATEMENTS: dict[str, Callable[[World, object, list], object]] = {
    "rx": lambda w, who, seen: seen.append(w.cell.x),
    "ry": lambda w, who, seen: seen.append(w.cell.y),
    "wx": lambda w, who, seen: setattr(w.cell, "x", who),
    "wy": lambda w, who, seen: setattr(w.cell, "y", who),
    "x++": _increment,
    "m": _m_section,
    "km": _nested,
    "mk": _nested_other_way,
    "try": _try,
    "complete": lambda w, who, seen: w.done.complete(),
    "wait": lambda w, who, seen: w.done.wait_for_completion(),
    "wait1s": lambda w, who, seen: seen.append(w.done.wait_for_completion_timeout(1)),
    "read": _read_section,
    "write": _write_section,
    "readtry": _read_try,
}


def program(*tasks: str) -> Program:
    """Each task is words of STATEMENTS; the outcome is all that the tasks saw and left."""

    def run(runtime: ControlledRuntime) -> Judge:
        machine = Bare(runtime)
        world = machine.run(World)
        log: dict[str, list] = {}
        for name, words in zip("ABC", tasks, strict=False):
            runtime.spawn(body(world, name, words.split(), log.setdefault(name, [])), name)
        return lambda: (str(log), str(sorted(vars(world.cell).items())))

    return run


def body(world: World, name: str, words: list[str], seen: list) -> Callable[[], None]:
    def run() -> None:
        for n, word in enumerate(words):
            STATEMENTS[word](world, f"{name}{n}", seen)

    return run


def behaviours(run: Program, policy: Policy) -> set[Hashable]:
    """Every outcome and finding that *policy* comes across."""
    found: set[Hashable] = set()
    while policy.begin():
        result = Result()
        run_once(run, policy, result, [])
        found.update(result.outcomes)
        if result.finding is not None:
            found.add(("finding", result.finding.kind))
    return found

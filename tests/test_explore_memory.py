# SPDX-License-Identifier: GPL-2.0-only
"""A long search needs no more memory than a short one: every run's machine goes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable

import pytest
from programs import program

from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import Program, Result, explore, run_once
from uvfio.linux.kernel.mutex import Mutex
from uvfio.runtime.policy import RandomWalk
from uvfio.runtime.task import current
from uvfio.scenarios.catalogue import SCENARIOS
from uvfio.scenarios.registry import Scene, scenario

RUNS = 30


class CutOff(RandomWalk):
    """Stops every run after *steps* steps, wherever its tasks are then."""

    def __init__(self, steps, runs=RUNS):
        super().__init__(1, runs)
        self.steps = steps
        self.step = 0

    def begin(self):
        self.step = 0
        return super().begin()

    def choose(self, runnable, current):
        self.step += 1
        return super().choose(runnable, current) if self.step <= self.steps else None


def counted(program: Program) -> tuple[Program, Callable[[], int]]:
    """*program*, and how many machines of its runs there still are."""
    machines: weakref.WeakSet[object] = weakref.WeakSet()

    def run(runtime):
        judge = program(runtime)
        machines.add(runtime.machine)
        return judge

    def left() -> int:
        gc.collect()
        return len(machines)

    return run, left


@scenario(("locked", "locked"))
def crossed(scene: Scene) -> None:
    """Can two tasks wait for each other for ever, each with an open file?"""
    scene.plug("edu")
    m, k = Mutex("m"), Mutex("k")

    def lock(process, first, second):
        process.open("/dev/vfio/vfio")
        current().runtime.point("between", scene)
        with first, second:
            pass

    a, b = scene.process(), scene.process()
    scene.task("A", lambda: lock(a, m, k), "locked")
    scene.task("B", lambda: lock(b, k, m), "locked")


@pytest.mark.parametrize("steps", [0, 1, 4, 15])
def test_runs_that_are_cut_off_leave_no_machine(steps):
    program, left = counted(SCENARIOS["vfio.two_openers"].program)
    result = explore(program, CutOff(steps))
    assert (result.runs, result.cut) == (RUNS, RUNS)
    assert left() == 0


def test_collections_while_the_tasks_are_under_way_change_nothing():
    """It is the collector that stops looking at a tuple with only a waiting greenlet in it."""

    class Collecting(CutOff):
        def choose(self, runnable, current):
            gc.collect()
            return super().choose(runnable, current)

    program, left = counted(SCENARIOS["vfio.two_openers"].program)
    explore(program, Collecting(6, 5))
    assert left() == 0


def test_runs_that_end_in_a_finding_leave_no_machine():
    """As when a schedule is shrunk: every run for itself."""
    program, left = counted(crossed.program)
    kinds = set()
    for seed in range(RUNS):
        result = Result()
        run_once(program, RandomWalk(seed, 1), result, [])
        if result.finding is not None:
            kinds.add(result.finding.kind)
    assert kinds == {"deadlock"}
    assert left() == 0


def test_what_a_search_of_locks_leaves_to_the_collector_does_not_grow_with_its_executions():
    """The collector takes longer to find a step or a place of the path than the search to make it."""

    def search(sections):
        gc.collect()
        result = explore(program(*[" ".join(["m"] * sections)] * 3), Dpor())
        return result.runs, gc.collect()

    gc.disable()
    try:
        few, many = search(1), search(3)
    finally:
        gc.enable()
    assert (few[0], many[0]) == (6, 1680)
    assert many[1] - few[1] < 100

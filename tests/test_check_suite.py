# SPDX-License-Identifier: GPL-2.0-only
"""Every scenario is run under all checkers, and what they suspect yields to what happens."""

import pytest
from checked import check_all, toy

from uvfio.check.lockdep import Lockdep
from uvfio.check.races import Races
from uvfio.explore.dpor import Dpor
from uvfio.explore.parallel import explore_parallel
from uvfio.explore.runner import explore
from uvfio.linux.kernel.fs import FileOperations, anon_inode_getfile
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.refcount import Refcount
from uvfio.linux.kernel.wait import Completion
from uvfio.runtime.errors import Splat
from uvfio.runtime.policy import Pct, Replay
from uvfio.runtime.struct import kfree, kstruct, kzalloc
from uvfio.scenarios.registry import scenario


@kstruct("x")
class Cell:
    def __init__(self):
        self.x = 0


def race():
    cell = kzalloc(Cell)

    def write():
        cell.x = 1

    return [write, write, lambda: None, lambda: kfree(cell)]


def lock_order():
    a, b, started = Mutex("a"), Mutex("b"), Completion("started")

    def one():
        with a, b:
            pass
        started.complete()

    def other():
        started.wait_for_completion()
        with b, a:
            pass

    return [one, other]


def revived():
    count = Refcount("count")

    def body():
        count.dec_and_test()
        count.set(1)

    return [body]


def file_left():
    return [lambda: anon_inode_getfile("[toy]", FileOperations(), None, 0)]


def lock_left():
    return [Mutex("lock").lock]


def in_circles():
    lock = Mutex("lock")

    def spin():
        while True:
            with lock:
                pass

    return [spin]


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (race, "data-race"),
        (lock_order, "lock-order"),
        (revived, "resurrection"),
        (file_left, "leak"),
        (lock_left, "lock-held"),
        (in_circles, "livelock"),
    ],
)
def test_a_scenario_is_under_every_checker(make, kind):
    @scenario(("done",), ("done", "done"), ("done", "done", "done"))
    def toy_scenario(scene):
        bodies = make()
        for name, body in zip("ABC", bodies, strict=False):
            scene.task(name, lambda body=body: body() and None, "done")
        if make is race:
            scene.tear_down = bodies[3]

    finding = explore(toy_scenario.program, Dpor()).finding
    assert finding.kind == kind
    assert explore(toy_scenario.program, Replay(finding.schedule)).finding == finding


def test_what_is_suspected_does_not_end_the_search():
    def setup():
        cell = kzalloc(Cell)

        def write():
            cell.x = 1

        return [write, write]

    result = explore(toy(setup, Races), Dpor())
    assert result.complete
    assert result.runs > 1
    assert result.finding == result.suspicion
    assert result.finding.kind == "data-race"


def test_what_happens_is_the_better_finding():
    def setup():
        cell = kzalloc(Cell)

        def write():
            cell.x = 1

        def look():
            if cell.x:
                raise Splat("warning", "it came to harm")

        return [look, write]

    assert check_all(setup, Races).kind == "warning"


def test_sampling_suspects_what_it_does_not_meet():
    def setup():
        a, b = Mutex("a"), Mutex("b")

        def one():
            with a, b:
                pass

        def other():
            with b, a:
                pass

        return [one, other]

    result = explore(toy(setup, Lockdep), Pct(1, 3, depth=1))
    assert result.finding.kind == "lock-order"


def test_two_processes_do_not_stop_at_a_suspicion_either():
    def setup():
        cell = kzalloc(Cell)
        lock = Mutex("lock")

        def write():
            for _ in range(3):
                cell.x = 1
                with lock:
                    pass

        return [write, write]

    alone = explore(toy(setup, Races), Dpor())
    result = explore_parallel(toy(setup, Races), 2)
    assert result.complete
    assert result.classes == alone.classes
    assert result.finding.kind == alone.finding.kind == "data-race"
    assert not result.harmed

# SPDX-License-Identifier: GPL-2.0-only
"""An explorer that silently skips schedules looks exactly like a correct kernel."""

import random

import pytest
from programs import STATEMENTS, Bare, Cell, behaviours, program

from uvfio.explore.dfs import Dfs
from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import explore
from uvfio.linux.kernel.mutex import Mutex, Spinlock
from uvfio.linux.kernel.wait import WaitQueueHead
from uvfio.runtime.errors import InternalError
from uvfio.runtime.policy import Fifo, Pct, RandomWalk, Replay
from uvfio.runtime.schedule import decode
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.runtime.task import current
from uvfio.scenarios.catalogue import SCENARIOS


def increments(runtime):
    """
    A does start, load, store (s l w); B does S L W. By hand, the orders of the loads
    and stores alone are six:

        lwLW LWlw           -> "0++"
        lLwW lLWw LlwW LlWw -> "0+"

    and each start may come anywhere before its load: C(6,3) = 20 schedules in all.
    """
    return program("x++", "x++")(runtime)


def test_dfs_visits_each_interleaving_once():
    result = explore(increments, Dfs())
    assert result.complete
    assert result.runs == 20
    assert {o[1] for o in result.outcomes} == {"[('x', '0++'), ('y', 0)]", "[('x', '0+'), ('y', 0)]"}


def test_dpor_tries_one_schedule_for_each_class():
    """
    Two loads and two stores of one variable: the classes are the orders of the
    conflicting pairs (l,W) (w,L) (w,W), of which six can be but lLwW = LlwW and
    lLWw = LlWw (loads commute): 4 classes.
    """
    result = explore(increments, Dpor())
    assert result.complete
    assert (result.classes, result.cut) == (4, 0)


def test_independent_tasks_are_one_class():
    result = explore(program("wx rx wx", "wy ry wy"), Dpor())
    assert (result.complete, result.runs) == (True, 1)


def test_a_mutex_makes_two_classes():
    result = explore(program("m", "m"), Dpor())
    assert (result.complete, result.classes) == (True, 2)


def zoo():
    """Fixed programs that blocked something once, and random ones."""
    yield from [
        ("km", "mk"),
        ("wait", "complete"),
        ("wait1s", "complete"),
        ("try", "complete try"),
        ("rx try try", "km"),
        ("try m readtry", "rx m"),
        ("read read", "write"),
        ("readtry", "write wy"),
        ("wx", "wx", "rx"),
        ("m", "m", "try"),
    ]
    rng = random.Random(7)
    for _ in range(30):
        yield tuple(" ".join(rng.choices(sorted(STATEMENTS), k=rng.randint(1, 2))) for _task in range(2))


@pytest.mark.parametrize("tasks", list(zoo()), ids=" | ".join)
def test_dpor_sees_what_brute_force_sees(tasks):
    assert behaviours(program(*tasks), Dpor()) == behaviours(program(*tasks), Dfs())


class HearsAll(Dpor):
    """Hears what every step tells, also those that are repeated from the last run."""

    def __init__(self):
        super().__init__()
        self.schedules = []
        self.told = 0  # of repeated steps

    def event(self, task, op):
        self.told += not self.fresh and not task.runtime.quiet
        super().event(task, op)

    def end(self, blocked):
        super().end(blocked)
        self.schedules.append([(node.taken, node.known, sorted(node.sleep)) for node in self.path])

    def _hear(self, runtime, hears):
        pass


class Hears(HearsAll):
    _hear = Dpor._hear


@pytest.mark.parametrize(
    "searched",
    [program("m x++", "m rx", "x++ m"), SCENARIOS["vfio.two_openers"].program],
    ids=["primitives", "scenario"],
)
def test_of_repeated_steps_only_what_is_new_need_be_heard(searched):
    """A file opened, say: it has another id in every run, and must have the same number."""
    some, all_of_it = Hears(), HearsAll()
    assert explore(searched, some).complete
    assert explore(searched, all_of_it).complete
    assert some.schedules == all_of_it.schedules
    assert some.told * 4 < all_of_it.told


def test_deadlock_is_found_and_its_schedule_replays():
    result = explore(program("km", "mk"), Dpor())
    finding = result.finding
    assert finding is not None
    assert finding.kind == "deadlock"
    assert "A waits for m (lock), holds k; B waits for k (lock), holds m" in finding.message
    again = explore(program("km", "mk"), Replay(decode(finding.replay)))
    assert again.finding == finding


def test_a_finding_has_no_address_in_it():
    """It reads the same in every run, for structures without a name, too."""

    def make():
        return kzalloc(Cell)

    def waiter(cell):
        current().runtime.point("swait", cell, ready=lambda: False)

    finding = explore(toy(make, waiter), Dpor()).finding
    assert finding is not None
    assert finding.message == "no task can go on: A waits for <Cell> (swait), holds nothing"


def test_a_bound_of_zero_preemptions_misses_what_one_finds():
    assert explore(program("km", "mk"), Dfs(0)).finding is None
    assert explore(program("km", "mk"), Dfs(1)).finding is not None


@pytest.mark.parametrize("policy", [RandomWalk(1, 200), Pct(1, 200)], ids=["random", "pct"])
def test_sampling_finds_an_easy_deadlock(policy):
    assert explore(program("km", "mk"), policy).finding is not None


def test_a_seed_repeats():
    first = explore(program("x++ m", "m x++"), RandomWalk(3, 50)).outcomes
    assert explore(program("x++ m", "m x++"), RandomWalk(3, 50)).outcomes == first


def test_a_schedule_of_another_scenario_is_refused():
    with pytest.raises(InternalError, match="the schedule must name a task that can run here"):
        explore(program("m"), Replay(["A", "Q"]))


def toy(*bodies):
    """A program of plain functions, one task each; all share what the first makes."""

    def run(runtime):
        machine = Bare(runtime)
        shared = machine.run(bodies[0])
        for name, body in zip("ABC", bodies[1:], strict=False):
            runtime.spawn(lambda body=body: body(shared), name)
        return lambda: "done"

    return run


def test_sleeping_in_atomic_context_is_found():
    def sleeps(locks):
        with locks[0], locks[1]:
            pass

    finding = explore(toy(lambda: (Spinlock("s"), Mutex("m")), sleeps), Fifo()).finding
    assert finding is not None
    assert (finding.kind, finding.message) == ("sleeping-in-atomic", "A sleeps while holding s")


def test_use_after_free_needs_the_right_order():
    def user(cell):
        cell.x = 1

    run = toy(lambda: kzalloc(Cell), user, kfree)
    assert explore(run, Fifo()).finding is None
    finding = explore(run, Dpor()).finding
    assert finding is not None
    assert finding.kind == "use-after-free"


def test_double_free_and_recursive_locking():
    finding = explore(toy(lambda: kzalloc(Cell), kfree, kfree), Fifo()).finding
    assert finding is not None
    assert finding.kind == "double-free"

    def twice(m):
        with m, m:
            pass

    finding = explore(toy(lambda: Mutex("m"), twice), Fifo()).finding
    assert finding is not None
    assert finding.kind == "recursive-locking"


def test_a_lost_wake_up_is_a_deadlock():
    """The flag is set without a wake_up: who looked just before sleeps for ever."""

    def make():
        return kzalloc(Cell), WaitQueueHead("wq")

    def waiter(shared):
        cell, wq = shared
        wq.wait_event(lambda: cell.x == 1)

    def forgetful(shared):
        shared[0].x = 1

    def careful(shared):
        shared[0].x = 1
        shared[1].wake_up()

    found = explore(toy(make, waiter, forgetful), Dpor()).finding
    assert found is not None
    assert found.kind == "deadlock"
    good = explore(toy(make, waiter, careful), Dpor())
    assert good.complete
    assert good.finding is None

# SPDX-License-Identifier: GPL-2.0-only
"""Exactly one execution for each class, whole or in pieces, and shrunk schedules still fail."""

from collections import defaultdict

import pytest
from programs import behaviours, program

from uvfio.explore.dfs import Dfs
from uvfio.explore.dpor import Dpor
from uvfio.explore.parallel import explore_parallel
from uvfio.explore.runner import Result, explore, run_once
from uvfio.explore.shrink import shrink
from uvfio.explore.split import Beginnings, Below, Item
from uvfio.runtime.policy import RandomWalk, Replay
from uvfio.runtime.schedule import decode
from uvfio.scenarios.catalogue import SCENARIOS

PROGRAMS = [
    ("m", "m"),
    ("m m", "m m", "m"),
    ("x++ m", "m x++", "try wx"),
    ("wait1s try", "complete m", "m"),
    ("read wx", "write", "readtry"),
    ("m x++", "m rx", "wy"),
]
LOCKS_AND_VARIABLES = [("m m m", "m m m", "m m m"), ("m x++", "m rx", "wy"), ("km", "km"), ("wx rx", "x++", "ry wy")]


def canonical(policy):
    """The class of the run that *policy* has just done: its order of dependent steps, and choices."""
    local, counts, choices, step = {}, defaultdict(int), [], -1
    for index, done in enumerate(policy.steps):
        local[index] = (done.task, counts[done.task])
        counts[done.task] += 1
    for node in policy.path:
        if node.options is None:
            step += 1
        else:
            choices.append((local[step], node.taken))
    order = [
        (local[index], tuple(sorted((task, local[at][1]) for task, at in done.clock.items() if task != done.task)))
        for index, done in enumerate(policy.steps)
    ]
    return tuple(sorted(order)), tuple(sorted(choices))


def classes(tasks, policy):
    """Every finished run's class, in order; twice if it was run twice."""
    found = []
    while policy.begin():
        result = Result()
        run_once(program(*tasks), policy, result, [])
        if not result.cut:
            found.append(canonical(policy))
    return found


@pytest.mark.parametrize("tasks", PROGRAMS, ids=" | ".join)
def test_each_class_once(tasks):
    found = classes(tasks, Dpor())
    assert len(found) == len(set(found))
    # The same by sleep sets alone, which need no race to be seen.
    assert set(found) == set(classes(tasks, Beginnings(1000)))


@pytest.mark.parametrize("tasks", LOCKS_AND_VARIABLES, ids=" | ".join)
def test_locks_and_variables_need_no_run_that_is_cut_off(tasks):
    assert explore(program(*tasks), Dpor()).cut == 0


@pytest.mark.parametrize("depth", [2, 5])
@pytest.mark.parametrize("tasks", PROGRAMS, ids=" | ".join)
def test_the_pieces_are_the_whole(tasks, depth):
    beginnings = Beginnings(depth)
    found = classes(tasks, beginnings)
    for item in beginnings.items:
        found += classes(tasks, Below(item))
    assert len(found) == len(set(found))
    assert set(found) == set(classes(tasks, Dpor()))


@pytest.mark.parametrize("every", [1, 3])
@pytest.mark.parametrize("tasks", PROGRAMS + LOCKS_AND_VARIABLES, ids=" | ".join)
def test_what_is_given_away_is_tried_once(tasks, every):
    items, found, runs, given = [Item((), {})], [], 0, 0
    while items:
        policy = Below(items.pop())
        while policy.begin():
            result = Result()
            run_once(program(*tasks), policy, result, [])
            if not result.cut:
                found.append(canonical(policy))
            runs += 1
            if runs % every == 0:
                more, finding = policy.give(program(*tasks))
                assert finding is None
                items += more
                given += len(more)
    assert given or every > 1
    assert len(found) == len(set(found))
    assert set(found) == set(classes(tasks, Dpor()))


@pytest.mark.parametrize("name", ["vfio.two_openers", "vfio.unplug_vs_unset_container"])
def test_what_a_step_makes_is_no_reason_to_try_it_again_elsewhere(name):
    """Steps that open files, add and remove sysfs nodes, and free structures with locks in them."""
    scenario = SCENARIOS[name]
    items, runs = [Item((), {})], 0
    while items:
        policy = Below(items.pop())

        def give(_result, policy=policy):
            items.extend(policy.give(scenario.program)[0])

        result = explore(scenario.program, policy, progress=give)
        assert result.complete
        runs += result.classes
    assert runs == explore(scenario.program, Dpor()).classes


def test_two_processes_count_what_one_counts():
    tasks = ("m m m", "m m m", "m m m")
    alone, together = explore(program(*tasks), Dpor()), explore_parallel(program(*tasks), 2)
    assert together.complete
    assert (together.classes, together.outcomes) == (alone.classes, alone.outcomes)


def test_two_processes_find_what_one_finds():
    finding = explore_parallel(program("km", "mk"), 2).finding
    assert finding is not None
    assert explore(program("km", "mk"), Replay(decode(finding.replay))).finding == finding


def test_a_budget_ends_two_processes_too():
    tasks = ("m m m", "m m m", "m m m")
    assert not explore_parallel(program(*tasks), 2, budget=0.0).complete


def test_a_schedule_is_shrunk_to_two_switches():
    run = program("rx ry km rx", "wy mk ry")
    finding = None
    for seed in range(50):
        finding = explore(run, RandomWalk(seed, 200)).finding
        if finding is not None and finding.replay.count(".") > 3:
            break
    assert finding is not None
    small = shrink(run, finding)
    assert small.kind == finding.kind == "deadlock"
    assert small.replay.count(".") == 1, small.replay
    assert explore(run, Replay(decode(small.replay))).finding == small


def test_brute_force_agrees_on_three_tasks():
    tasks = ("try", "m", "x++")
    assert behaviours(program(*tasks), Dpor()) == behaviours(program(*tasks), Dfs())

# SPDX-License-Identifier: GPL-2.0-only
"""Every scenario is proven over all interleavings, and would notice a missing lock."""

import pytest

from uvfio.bugs.catalogue import catalogue
from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import explore
from uvfio.linux.kernel.mutex import Mutex
from uvfio.runtime.policy import Replay
from uvfio.runtime.schedule import decode
from uvfio.runtime.task import current
from uvfio.scenarios.catalogue import SCENARIOS


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_every_interleaving_has_a_listed_outcome(name):
    scenario = SCENARIOS[name]
    result = explore(scenario.program, Dpor())
    if scenario.expected:
        assert result.finding is not None, "a known bug of Linux is gone"
        assert result.finding.kind == scenario.expected, result.finding
        return
    assert result.finding is None, result.finding
    assert result.complete
    assert set(result.outcomes) == scenario.outcomes, "an outcome that is never seen is no outcome"


@pytest.mark.parametrize("name", sorted(SCENARIOS))
def test_a_question_and_two_tasks(name):
    assert SCENARIOS[name].question.strip().endswith("?")


def take_out_group_lock(monkeypatch):
    """From here on, vfio_group.group_lock lets everybody in; lockdep still believes in it."""
    lock, unlock = Mutex.lock, Mutex.unlock

    def ours(mutex):
        return mutex.name == "vfio_group.group_lock"

    monkeypatch.setattr(Mutex, "lock", lambda m: current().held.append(m) if ours(m) else lock(m))
    monkeypatch.setattr(Mutex, "unlock", lambda m: current().held.remove(m) if ours(m) else unlock(m))


def test_every_known_bug_of_linux_has_its_fix_in_the_catalogue():
    expected = {(found.name, found.expected) for found in SCENARIOS.values() if found.expected}
    assert expected == {(bug.scenario, bug.finds) for bug in catalogue().values() if bug.kind == "fix"}


@pytest.mark.parametrize("name", ["vfio.two_openers", "vfio.unplug_vs_unset_container"])
def test_without_the_group_lock_it_is_found_and_replays(name, monkeypatch):
    take_out_group_lock(monkeypatch)
    scenario = SCENARIOS[name]
    finding = explore(scenario.program, Dpor()).finding
    assert finding is not None
    assert finding.schedule, "found while setting up, not by interleaving"
    again = explore(scenario.program, Replay(decode(finding.replay))).finding
    assert again == finding

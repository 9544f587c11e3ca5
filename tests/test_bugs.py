# SPDX-License-Identifier: GPL-2.0-only
"""Every bug is a pair: found with it, proven silent without. And its command works."""

import pytest

from uvfio.bugs.catalogue import catalogue, check
from uvfio.bugs.patch import FIELDS, StalePatch, load
from uvfio.cli.main import main

BUGS = catalogue()
FEW = 200  # executions: "in seconds" without looking at a clock
UNHURRIED = 1e6  # seconds: a slow machine must not change a verdict

# What the five mailing-list threads are about, and what was found in iommufd since; a variant
# without a defect of its own is not here.
THREADS = {
    "groups": {"G0", "G1", "G2", "G3", "G4", "G6", "G7", "G8"},
    "kvm": {"K1", "K2", "K3", "K4", "K5", "K6", "K7b", "K7c", "D1", "D2", "D3", "D4", "D5", "D6", "D7"},
    "iommufd": {"V3u", "V3d", "V5a", "V5b", "V5c", "V6", "V10", "V11", "V12", *(f"V{n}" for n in range(13, 26))},
    "syzkaller on iommufd": {f"I0{n}" for n in range(1, 10)},
    "mdev": {"M-a", "M-b", "M-c", "M-d", "M-e", "M-f", "M1", "M2", "M4", "M5"},
    "s390": {"S0", "S1", "S2", "S3", "S4", "S6", "S7", "S8", "S9", "S10", "S11"},
}


@pytest.mark.parametrize("thread", sorted(THREADS))
def test_every_variant_of_a_thread_is_there(thread):
    assert THREADS[thread] <= set(BUGS)


@pytest.mark.parametrize("name", sorted(BUGS))
def test_found_with_it_and_proven_silent_without(name):
    checked = check(BUGS[name], budget=UNHURRIED)
    assert not checked.wrong, checked.wrong
    assert checked.with_bug is not None
    assert checked.with_bug.runs < FEW


@pytest.mark.parametrize("name", ["G2", "K4", "V5a", "S4"])
def test_the_printed_command_shows_it_again(name, capsys):
    assert main(["explore", "--bug", name]) == 1
    printed = capsys.readouterr().out
    command = next(line.split("uvfio ")[1] for line in printed.splitlines() if "uvfio replay" in line)
    assert main(command.split()) == 1
    again = capsys.readouterr().out
    assert again.splitlines()[0] == printed.splitlines()[1]  # the same BUG line, below the verdict


def test_a_stale_patch_fails_loudly(tmp_path):
    head = "".join(f"{field}: x\n" for field in FIELDS)
    for diff, message in {
        "\n--- a/uvfio/machine.py\n+++ b/uvfio/machine.py\n@@\n-not there\n+x\n": "must fit in one place",
        "\n--- a/uvfio/nowhere.py\n+++ b/uvfio/nowhere.py\n@@\n-a\n": "must patch a file that exists",
        "\n--- a/uvfio/machine.py\nrubbish\n": "after --- a/uvfio/... must come",
    }.items():
        path = tmp_path / "X1.patch"
        path.write_text(head + diff)
        with pytest.raises(StalePatch, match=message):
            load(path).sources()
    path.write_text(head)
    with pytest.raises(StalePatch, match=r"^X1\.patch must have a diff$"):
        load(path)


def test_list_and_show(capsys):
    assert main(["bugs"]) == 0
    listed = capsys.readouterr().out
    assert all(name in listed for name in BUGS)
    assert main(["bugs", "show", "G2"]) == 0
    shown = capsys.readouterr().out
    assert "--- a/uvfio/linux/vfio/group.py" in shown
    assert "uvfio explore vfio.unplug_vs_unset_container --bug G2" in shown
    assert main(["bugs", "show", "nothing"]) == 2

# SPDX-License-Identifier: GPL-2.0-only
"""All known bugs, by name, and the check that each is found with and silent without."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from uvfio.bugs import patch, variant
from uvfio.bugs.patch import Bug, StalePatch
from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import Result, explore
from uvfio.scenarios.catalogue import SCENARIOS

DIRECTORY = Path(__file__).resolve().parent / "patches"


@dataclass(frozen=True)
class Checked:
    """A bug's pair: ``with_bug`` must find it, ``without`` must be complete and silent; one is today's code."""

    bug: Bug
    with_bug: Result | None
    without: Result | None
    wrong: str  # empty if all is as it must be


def catalogue() -> Mapping[str, Bug]:
    """Every bug by name. Raises StalePatch for one that cannot be read."""
    return {path.stem: patch.load(path) for path in sorted(DIRECTORY.glob("*.patch"))}


def check(bug: Bug, budget: float = 60) -> Checked:
    """Explore the bug's scenario with and without it, each for at most *budget* seconds."""
    if bug.scenario not in SCENARIOS:
        return Checked(bug, None, None, f"the scenario must exist, and {bug.scenario} does not")
    try:
        patched = variant.scenarios(bug)[bug.scenario]
    except StalePatch as e:
        return Checked(bug, None, None, str(e))
    today = SCENARIOS[bug.scenario]
    buggy, sound = (today, patched) if bug.kind == "fix" else (patched, today)
    found = explore(buggy.program, Dpor(), budget=budget)
    silent = explore(sound.program, Dpor(), budget=budget)
    wrong = ""
    if bug.kind == "fix" and today.expected != bug.finds:
        wrong = f"must be what {today.name} expects, {today.expected or 'nothing'}, not {bug.finds}"
    elif found.finding is None:
        wrong = f"must find {bug.finds}, not nothing"
    elif found.finding.kind != bug.finds:
        wrong = f"must find {bug.finds}, not {found.finding.kind}: {found.finding.message}"
    elif silent.finding is not None:
        wrong = f"must be silent without the bug, not {silent.finding.kind}: {silent.finding.message}"
    elif not silent.complete:
        wrong = f"must be proven silent without the bug in {budget:.0f} s"
    return Checked(bug, found, silent, wrong)

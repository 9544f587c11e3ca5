# SPDX-License-Identifier: GPL-2.0-only
"""
uvfio: Linux device assignment in user space, and a machine that tries its schedules.

The front door, for people who test their own code; nothing inside uses it::

    from uvfio import scenario

    @scenario(("opened", "EBUSY"), ("EBUSY", "opened"), ("opened", "opened"))
    def test_two_openers(scene):
        \"\"\"Can two processes have one group open at the same time?\"\"\"
        ...

pytest collects such a function as a test: see ``docs/write-a-scenario.md``.
"""

from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import Finding, Result, explore
from uvfio.machine import Machine, Plugged
from uvfio.runtime.errors import Errno, InternalError, Splat
from uvfio.scenarios.registry import Scenario, Scene, scenario

__all__ = (
    "Dpor",
    "Errno",
    "Finding",
    "InternalError",
    "Machine",
    "Plugged",
    "Result",
    "Scenario",
    "Scene",
    "Splat",
    "explore",
    "scenario",
)

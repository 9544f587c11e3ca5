# SPDX-License-Identifier: GPL-2.0-only
"""
A schedule as text a person can read, shorten and mail.

>>> encode(["A", "A", "A", "B", 1, "A", "A"])
'A3.B.~1.A2'
>>> decode("A3.B.~1.A2")
['A', 'A', 'A', 'B', 1, 'A', 'A']

A letter names the task that runs, the number behind it for how many steps; ``~n``
settles a choice that the model left open (1 of a wait: it timed out).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby

Schedule = list[str | int]

_PART = re.compile(r"([A-Z])([1-9]\d*)?|~(\d+)")


def encode(schedule: Sequence[str | int]) -> str:
    """Write a schedule as text."""
    parts = []
    for step, run in groupby(schedule):
        n = len(list(run))
        if isinstance(step, int):
            parts += [f"~{step}"] * n
        else:
            parts.append(f"{step}{n if n > 1 else ''}")
    return ".".join(parts)


def decode(text: str) -> Schedule:
    """Read it back. ValueError says which part is wrong."""
    schedule: Schedule = []
    for part in text.split("."):
        match = _PART.fullmatch(part)
        if match is None:
            raise ValueError(f"a schedule must look like A3.B.~1.A2, and {part!r} does not")
        if match[3] is not None:
            schedule.append(int(match[3]))
        else:
            schedule += [match[1]] * int(match[2] or 1)
    return schedule

# SPDX-License-Identifier: GPL-2.0-only
"""
Small programs of locks and variables, for uvfio and for other explorers alike.

The tasks of a program work on a world that has the locks ``m`` and ``k`` and the
variables ``x`` and ``y``, whatever these are made of; one that goes wrong sets ``failed``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Body = Callable[[Any], None]


@dataclass(frozen=True)
class Program:
    """Its tasks, its classes counted by hand, and whether a run of it can fail."""

    name: str
    tasks: tuple[Body, ...]
    classes: int  # 0: too many, or the search ends before
    fails: bool = False


def seven_sections(w: Any) -> None:
    for _ in range(7):
        with w.m:
            pass


def three_sections(w: Any) -> None:
    for _ in range(3):
        with w.m:
            pass


def increment(w: Any) -> None:
    w.x = w.x + 1


def section_then_write(w: Any) -> None:
    with w.m:
        w.x = w.x + 1
    w.y = 1


def a_then_b(w: Any) -> None:
    with w.m, w.k:
        pass


def b_then_a(w: Any) -> None:
    with w.k, w.m:
        pass


def initialise(w: Any) -> None:
    with w.m:
        w.x = 1


def use(w: Any) -> None:
    with w.m:
        w.failed = not w.x


LOCKS = Program("24 steps of one lock", (seven_sections,) * 3, 0)  # a start and seven sections for each
PROGRAMS = [
    Program("9 sections of one lock", (three_sections,) * 3, 1680),  # 9! / (3! 3! 3!)
    Program("two increments", (increment,) * 2, 4),
    Program("section, then a write", (section_then_write,) * 2, 4),
    Program("AB-BA", (a_then_b, b_then_a), 0, fails=True),
    Program("use before initialise", (initialise, use), 0, fails=True),
]

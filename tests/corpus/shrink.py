# SPDX-License-Identifier: GPL-2.0-only
"""
Makes a session shorter while Linux and the stack still answer one of its calls differently.

Calls refer to objects by id and to files by name. A call that made a file leaves a
``skip`` behind, which uses the name up; one that made objects may become a plain one,
which uses an id up. To ask Linux is to boot it, so all candidates of a round are asked
about together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

Calls = list[Any]
Judge = Callable[[Sequence[Calls]], list[bool]]


@dataclass(frozen=True)
class Making:
    """Calls that make files (*files*), those that make objects and the one these may become."""

    files: frozenset[str]
    objects: frozenset[str]
    plain: tuple[Any, ...]

    def without(self, calls: Calls) -> Calls:
        """What is left of *calls* when they are dropped."""
        return [["skip"] for call in calls if call[0] in self.files or call[0] == "skip"]

    def made_plain(self, calls: Calls) -> Calls:
        return [*self.without(calls), [*self.plain]]


def shrink(calls: Calls, judge: Judge, making: Making) -> Calls:
    """A short list of calls that *judge* finds as interesting as *calls*."""
    size = max(len(calls) // 2, 1)
    while size:
        parts = [(at, min(at + size, len(calls))) for at in range(0, len(calls), size)]
        calls = _round(calls, judge, parts, making.without)
        size //= 2
    makers = [(at, at + 1) for at, call in enumerate(calls) if call[0] in making.objects]
    return _round(calls, judge, makers, making.made_plain)


def _round(calls: Calls, judge: Judge, parts: list[tuple[int, int]], instead: Callable[[Calls], Calls]) -> Calls:
    """Replace as many of the *parts* (from, to) as can be."""
    parts = [(low, high) for low, high in parts if instead(calls[low:high]) != calls[low:high]]
    good = [
        part
        for part, is_good in zip(parts, judge([_replace(calls, [p], instead) for p in parts]), strict=True)
        if is_good
    ]
    # Each alone is fine; how many of them are together?
    while len(good) > 1:
        shorter = _replace(calls, good, instead)
        if judge([shorter])[0]:
            return shorter
        good = good[len(good) // 2 :]
    return _replace(calls, good, instead)


def _replace(calls: Calls, parts: Sequence[tuple[int, int]], instead: Callable[[Calls], Calls]) -> Calls:
    for low, high in sorted(parts, reverse=True):
        calls = calls[:low] + instead(calls[low:high]) + calls[high:]
    return calls

# SPDX-License-Identifier: GPL-2.0-only
"""Random choices of a generator, and what it can tell from an answer."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from random import Random
from typing import Any, NamedTuple

HALF = 2048  # half a page
PAGE = 4096
Call = list[Any]
NASTY = (
    0,
    1,
    2,
    3,
    4,
    8,
    16,
    0x40,
    HALF,
    PAGE - 1,
    PAGE,
    1 << 19,
    1 << 31,
    0xFFFF_FFFF,
    1 << 63,
    2**64 - PAGE,
    2**64 - 1,
)


class Op(NamedTuple):
    """What makes a call: its group and weight, and what it needs some of to be of use."""

    make: Callable[[Any], Call]
    group: str
    weight: float
    needs: tuple[str, ...]


class Choices:
    """The session's random numbers."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)
        self.files: dict[str, str] = {}  # name -> kind

    def chance(self, percent: float) -> bool:
        return self.rng.random() * 100 < percent

    def one(self, *choices: Any) -> Any:
        return self.rng.choice(choices)

    def of_files(self, *kinds: str) -> list[str]:
        return [name for name, kind in self.files.items() if kind in kinds]

    def op(self, ops: Sequence[Op], present: set[str], weigh: Callable[[Op], float]) -> Op:
        """One of those that make sense; now and then of the others, too."""
        able = [op for op in ops if not op.needs or present.intersection(op.needs) or self.chance(4)]
        chosen: Op = self.rng.choices(able, [weigh(op) for op in able])[0]
        return chosen

    def spoilt(
        self, values: Sequence[Any], how: Mapping[str, Any], sizes: tuple[int, ...], requests: tuple[int, ...]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Fields and form of an ioctl that is nearly right: another size, place, field or request."""
        values, how = list(values), dict(how)
        what = self.rng.randrange(10)
        if what < 5:
            index = self.rng.randrange(len(values))
            if not isinstance(values[index], str) or self.chance(30):
                values[index] = self.rng.choice(NASTY)
        elif what < 7:
            how["size"] = self.rng.choice(sizes)
        elif what < 8:
            how["at"] = self.one("null", "hole", "edge", "ro", "ro")
        elif what < 9:
            how["size"], how["tail"] = 88, self.one("00" * 40, "00" * 39 + "01", "01" * 40)
        else:
            how["request"] = self.rng.choice(requests)
        return values, how


def changes(answer: Any) -> tuple[Any, dict[str, Any]]:
    """Result of an ioctl, and what it changed."""
    if isinstance(answer, list) and len(answer) == 2 and isinstance(answer[1], dict):
        return answer[0], answer[1]
    return answer, {}


def failed(answer: Any) -> bool:
    return isinstance(changes(answer)[0], str)


def flags(state: Choices, *each: tuple[int, float]) -> int:
    """Flag bits, each with its chance in percent; now and then one that nobody knows."""
    word = sum(bit for bit, percent in each if state.chance(percent))
    return word | (state.one(1 << 4, 1 << 5, 1 << 31) if state.chance(1) else 0)

# SPDX-License-Identifier: GPL-2.0-only
"""
Make a failing schedule shorter while it still fails in the same way.

Fewest context switches first, then fewest steps: what a person reads is the switches.
Candidates are made by leaving out, joining, swapping and cutting blocks of steps of
one task, and are run: a schedule that names a task which cannot run there goes on
with the next one that can. Zeller, Hildebrandt: "Simplifying and Isolating
Failure-Inducing Input", TSE 2002, gave the idea; greedy suffices for so few blocks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from uvfio.explore.runner import Finding, Program, Result, run_once
from uvfio.runtime.policy import Fifo
from uvfio.runtime.schedule import Schedule
from uvfio.runtime.task import Task

Block = tuple[str | int, int]  # a task and its steps, or a choice and 1
MOST_RUNS = 400


class Loosely(Fifo):
    """Follow a schedule as far as it can be followed; what cannot run there is skipped."""

    def __init__(self, schedule: Sequence[str | int]) -> None:
        super().__init__(1)
        self.left = list(reversed(schedule))

    def choose(self, runnable: Sequence[Task], current: Task | None) -> Task:
        while self.left:
            name = self.left.pop()
            for task in runnable:
                if task.name == name:
                    return task
        return super().choose(runnable, current)

    def pick(self, n: int) -> int:
        if self.left and isinstance(self.left[-1], int) and self.left[-1] < n:
            choice = self.left.pop()
            assert isinstance(choice, int)
            return choice
        return 0


def shrink(program: Program, finding: Finding) -> Finding:
    """The simplest schedule found that leads to a finding of the same kind."""
    best = finding
    runs = 0
    improved = True
    while improved:
        improved = False
        for candidate in _candidates(_blocks(best.schedule)):
            if runs >= MOST_RUNS:
                return best
            runs += 1
            result = Result()
            run_once(program, Loosely(_steps(candidate)), result, [])
            found = result.finding or result.suspicion
            if found is not None and found.kind == best.kind and _size(found.schedule) < _size(best.schedule):
                best = found
                improved = True
                break
    return best


def _size(schedule: Schedule) -> tuple[int, int]:
    return len(_blocks(schedule)), len(schedule)


def _blocks(schedule: Schedule) -> list[Block]:
    return [(step, len(list(run))) for step, run in groupby(schedule)]


def _steps(blocks: Sequence[Block]) -> Schedule:
    return [step for step, n in blocks for _ in range(n)]


def _candidates(blocks: list[Block]) -> Iterator[list[Block]]:
    """Schedules that may be simpler, the boldest first."""
    count = len(blocks)
    for i in range(count):  # leave a block out
        yield blocks[:i] + blocks[i + 1 :]
    for i in range(count):  # join a block with an earlier or a later one of its task
        for j in range(i + 1, count):
            if blocks[i][0] == blocks[j][0] and isinstance(blocks[i][0], str):
                joined = (blocks[i][0], blocks[i][1] + blocks[j][1])
                yield [*blocks[:i], joined, *blocks[i + 1 : j], *blocks[j + 1 :]]
                yield [*blocks[:i], *blocks[i + 1 : j], joined, *blocks[j + 1 :]]
                break
    for i in range(count - 1):  # swap neighbours
        yield [*blocks[:i], blocks[i + 1], blocks[i], *blocks[i + 2 :]]
    for i in range(count):  # cut a block short
        for n in {blocks[i][1] // 2, blocks[i][1] - 1} - {0}:
            yield [*blocks[:i], (blocks[i][0], n), *blocks[i + 1 :]]

# SPDX-License-Identifier: GPL-2.0-only
"""
Search with several processes. One begins with the whole search as its item of work
(see ``split.py``); whenever a process has nothing to do, the others are asked for some
of what they have left. So a search of less than SLICE stays in one process, and the
last items do not keep one process busy alone. Who has nothing to do waits for PAUSE and
one execution of another, at most.
"""

from __future__ import annotations

import gc
import multiprocessing
import time
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

from uvfio.explore.runner import Finding, Program, Result, explore
from uvfio.explore.split import Below, Item
from uvfio.runtime.errors import InternalError

SLICE = 0.2  # seconds between two replies of a process, while all have something to do
PAUSE = 0.02  # seconds between two, while one has not: giving away costs some executions


@dataclass
class _Reply:
    """What a process tells: what it saw since it last did, items for others, is it idle now?"""

    runs: int
    cut: int
    steps: int
    deepest: int
    outcomes: dict[Hashable, int] = field(default_factory=dict)
    finding: Finding | None = None
    suspicion: Finding | None = None
    items: list[Item] = field(default_factory=list)
    idle: bool = False


def explore_parallel(
    program: Program,
    jobs: int,
    *,
    budget: float | None = None,
    progress: Callable[[Result], None] | None = None,
) -> Result:
    """
    Like :func:`uvfio.explore.runner.explore` with the exhaustive policy, in *jobs*
    processes. Stops at the first finding, or after *budget* seconds.
    """
    start = time.monotonic()
    context = multiprocessing.get_context("fork")  # a program is a closure: it cannot be sent
    hungry = context.RawValue("b", False)  # looked at after every execution
    result = Result()
    connections: list[Connection] = []
    processes = []
    try:
        for _ in range(jobs):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(program, theirs, hungry), daemon=True)
            process.start()
            theirs.close()  # or the end of a process would go unnoticed
            processes.append(process)
            connections.append(ours)
        result.complete = _serve(connections, hungry, result, budget and start + budget, progress)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
    result.finding = result.finding or result.suspicion
    result.seconds = time.monotonic() - start
    return result


def _serve(
    connections: list[Connection],
    hungry: Any,
    result: Result,
    deadline: float | None,
    progress: Callable[[Result], None] | None,
) -> bool:
    """Hand items out until there are none; False if the search ends before that."""
    idle = list(connections)
    items = [Item((), {})]
    while True:
        while idle and items:
            idle.pop().send(items.pop(0))
        busy = [each for each in connections if each not in idle]
        if not busy:
            return True
        left = None if deadline is None else deadline - time.monotonic()
        ready = wait(busy, left) if left is None or left > 0 else []
        if not ready:
            return False
        for connection in ready:
            assert isinstance(connection, Connection)
            reply = _receive(connection)
            _add(result, reply)
            items += reply.items
            if reply.idle:
                idle.append(connection)
        if progress is not None:
            progress(result)
        if result.finding is not None:
            return False
        hungry.value = len(idle) > len(items)


def _receive(connection: Connection) -> _Reply:
    try:
        reply = connection.recv()
    except EOFError:
        raise InternalError("a process of the search must not end before the search does") from None
    if isinstance(reply, Exception):
        raise reply
    assert isinstance(reply, _Reply)
    return reply


def _work(program: Program, connection: Connection, hungry: Any) -> None:
    """What a process does."""
    gc.freeze()  # the parent's memory: not to be looked through for garbage, and copied for that
    try:
        while True:
            _search(program, Below(connection.recv()), connection, hungry)
    except EOFError:
        return
    except Exception as e:
        connection.send(e)


def _search(program: Program, policy: Below, connection: Connection, hungry: Any) -> None:
    """One item. What is told is what has come since the last time."""
    told = Result()
    last = time.monotonic()

    def tell(result: Result) -> None:
        nonlocal last
        if time.monotonic() - last < (PAUSE if hungry.value else SLICE):
            return
        reply = _news(result, told)
        if hungry.value:
            reply.items, reply.finding = policy.give(program)
        connection.send(reply)
        last = time.monotonic()

    # Not one search for each slice: every search makes its own tasks, which cost much.
    result = explore(program, policy, progress=tell)
    reply = _news(result, told)
    reply.idle = True
    reply.outcomes = dict(result.outcomes)
    reply.finding = result.finding if result.harmed else None
    reply.suspicion = result.suspicion
    connection.send(reply)


def _news(result: Result, told: Result) -> _Reply:
    reply = _Reply(result.runs - told.runs, result.cut - told.cut, result.steps - told.steps, result.deepest)
    told.runs, told.cut, told.steps = result.runs, result.cut, result.steps
    return reply


def _add(result: Result, reply: _Reply) -> None:
    result.runs += reply.runs
    result.cut += reply.cut
    result.steps += reply.steps
    result.deepest = max(result.deepest, reply.deepest)
    result.outcomes.update(reply.outcomes)
    result.finding = result.finding or reply.finding
    result.suspicion = result.suspicion or reply.suspicion

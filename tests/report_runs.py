# SPDX-License-Identifier: GPL-2.0-only
"""Small runs with findings, for the tests of reports."""

from __future__ import annotations

from programs import Bare, program

from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import Judge, Program, explore
from uvfio.linux.kernel.mutex import Mutex
from uvfio.report.html import Entry
from uvfio.report.record import record
from uvfio.report.terminal import render
from uvfio.runtime.controlled import ControlledRuntime
from uvfio.runtime.errors import Splat
from uvfio.runtime.struct import kfree, kstruct, kzalloc


@kstruct("child", "dead")
class Node:
    def __init__(self) -> None:
        self.child: object = None
        self.dead = False


def use_after_free(runtime: ControlledRuntime) -> Judge:
    """The user takes a pointer under the lock, and uses it when it has let go."""
    machine = Bare(runtime)
    lock = Mutex("root.lock")
    root = machine.run(lambda: kzalloc(Node))
    root.__dict__["child"] = machine.run(lambda: kzalloc(Node))

    def user() -> None:
        with lock:
            child = root.child
        if child is not None:
            child.dead = True

    def remover() -> None:
        with lock:
            child = root.child
            root.child = None
        kfree(child)

    runtime.spawn(user, "A")
    runtime.spawn(remover, "B")
    return lambda: 0


def broken_while_locked(runtime: ControlledRuntime) -> Judge:
    """A rule is broken inside a critical section: unlocking is no part of the story."""
    machine = Bare(runtime)
    outer, inner = Mutex("outer"), Mutex("inner")
    node = machine.run(lambda: kzalloc(Node))

    def checker() -> None:
        with outer, inner:
            if node.dead:
                raise Splat("warning", "it is dead")

    def killer() -> None:
        node.dead = True

    runtime.spawn(checker, "A")
    runtime.spawn(killer, "B")
    return lambda: 0


def lost_update(runtime: ControlledRuntime) -> Judge:
    """Only the judge sees it, when all have ended."""
    judge = program("x++", "x++")(runtime)

    def check() -> object:
        seen = judge()
        if "0++" not in str(seen):
            raise Splat("outcome", "an update is lost\n  and this line is laid out")
        return seen

    return check


def broken_in_the_end(runtime: ControlledRuntime) -> Judge:
    """The clean-up, a task of its own, finds what one order of events has left behind."""
    machine = Bare(runtime)
    node = machine.run(lambda: kzalloc(Node))

    def clean_up() -> None:
        if node.child == "A":
            raise Splat("warning", "A must not be the last")

    runtime.spawn(lambda: setattr(node, "child", "A"), "A")
    runtime.spawn(lambda: setattr(node, "child", "B"), "B")
    return lambda: machine.run(clean_up)


RUNS: dict[str, Program] = {
    "toy.deadlock": program("km", "mk"),
    "toy.use_after_free": use_after_free,
    "toy.broken_while_locked": broken_while_locked,
    "toy.lost_update": lost_update,
    "toy.broken_in_the_end": broken_in_the_end,
    "toy.silent": program("m", "m"),
}


def entry(name: str, run: Program) -> Entry:
    """*run* explored, and what it finds recorded."""
    result = explore(run, Dpor())
    finding = result.finding
    summary = {
        "scenario": name,
        "policy": "dpor",
        "verdict": "found" if finding else "complete",
        "executions": result.runs,
        "cut_off": result.cut,
        "deepest": result.deepest,
        "seconds": 0.1,
        "outcomes": {"one outcome": result.classes},
        "finding": finding and {"kind": finding.kind, "message": finding.message, "schedule": finding.replay},
    }
    if finding is None:
        return Entry(summary, "Is it silent?")
    trace, again = record(run, finding.schedule)
    assert again.finding == finding, "being watched must not change what happens"
    return Entry(summary, "Is it found?", f"uvfio replay {name} {finding.replay}", render(name, trace, finding), trace)

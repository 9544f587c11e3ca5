# SPDX-License-Identifier: GPL-2.0-only
"""
Scenarios: litmus tests for the life cycles of the stack.

A scenario is a function that gets a :class:`Scene`, sets it up, and names two or
three tasks; its docstring asks the question. The decorator lists **every** outcome:
one not listed is a finding, and one listed but never seen in a complete search
means that the scenario has lost its teeth.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from uvfio.check.order import Order
from uvfio.check.suite import Checkers
from uvfio.explore.runner import Judge
from uvfio.linux.base import pci_probe
from uvfio.linux.iommufd.pinning import user_struct
from uvfio.linux.kernel.user import UserProcess
from uvfio.machine import Machine, Plugged, plug, unplug
from uvfio.runtime.controlled import ControlledRuntime
from uvfio.runtime.errors import Errno, InternalError, Splat, errno_name
from uvfio.runtime.task import Task

Outcome = tuple[str, ...]
Setup = Callable[["Scene"], None]


@dataclass(frozen=True)
class Scenario:
    """A question with its answers. ``name`` is the function's: ``vfio.two_openers``."""

    name: str
    question: str
    setup: Setup
    outcomes: frozenset[Outcome]
    iommu: str = "vtd"  # the platform of the machine
    expected: str = ""  # the kind of finding that today's Linux has; a fix is in bugs/
    order: Order = field(default_factory=Order, compare=False, repr=False)  # of locks, in its runs so far

    def program(self, runtime: ControlledRuntime) -> Judge:
        """What :func:`uvfio.explore.runner.explore` runs."""
        scene = Scene(runtime, self.iommu)
        scene.machine.boot()
        checkers = Checkers(runtime, self.order)
        try:
            scene.machine.run(lambda: scene.set_up(self.setup), "setup")
        except (Errno, ValueError) as e:
            raise InternalError(f"{self.name} must be set up without an error, not {e}") from e
        scene.start()
        checkers.tasks_start()
        return lambda: self._judge(scene, checkers)

    def _judge(self, scene: Scene, checkers: Checkers) -> Hashable:
        outcome = scene.outcome()
        checkers.tasks_ended()
        scene.machine.run(scene.tear_down, "teardown")
        checkers.at_quiescence()
        for process in scene.processes:
            if process.mm.locked_vm:
                raise Splat("leak", f"{process.comm} is still charged for {process.mm.locked_vm} locked pages")
            if process.mm.pinned_vm:
                raise Splat("leak", f"{process.comm} still has {process.mm.pinned_vm} pages pinned")
        if outcome not in self.outcomes:
            allowed = ", ".join(sorted(map(str, self.outcomes)))
            raise Splat("outcome", f"the outcome must be one of {allowed}, not {outcome}")
        scene.machine.forget()
        return outcome


def scenario(*outcomes: Outcome, iommu: str = "vtd", expected: str = "") -> Callable[[Setup], Scenario]:
    """Decorator: make a function a :class:`Scenario` with these outcomes. See ``Scenario`` for the rest."""

    def decorate(setup: Setup) -> Scenario:
        room = setup.__module__.rpartition(".")[2]
        return Scenario(f"{room}.{setup.__name__}", setup.__doc__ or "", setup, frozenset(outcomes), iommu, expected)

    return decorate


class Scene:
    """What a scenario sets up: a machine with processes, devices and named tasks."""

    def __init__(self, runtime: ControlledRuntime, iommu: str = "vtd") -> None:
        self.runtime = runtime
        self.machine = Machine(runtime, iommu)
        self.processes: list[UserProcess] = []
        self.bodies: dict[str, tuple[Callable[[], Any], str]] = {}
        self.tasks: list[Task] = []
        self.endings: list[Callable[[], Any]] = []
        self.built_in: frozenset[str] = frozenset()  # devices that the machine came with

    def set_up(self, setup: Setup) -> None:
        self.built_in = frozenset(pci_probe.pci_host().found)
        setup(self)

    def process(self, comm: str = "user") -> UserProcess:
        """A new user process."""
        process = UserProcess(comm, pid=1000 + len(self.processes))
        self.processes.append(process)
        return process

    def plug(self, model: str, **options: Any) -> str:
        """Put a device into the next slot, bound to vfio-pci; its address."""
        return plug(Plugged(model, options=options))[0]

    def unplug(self, bdf: str) -> None:
        """Take it away; waits for its users."""
        unplug(bdf)

    def task(self, name: str, body: Callable[[], Any], done: str) -> None:
        """
        Add task *name* (a capital letter). Its outcome is the name of the errno that
        *body* raises, the string it answers, or else *done*.
        """
        self.bodies[name] = (body, done)

    def afterwards(self, body: Callable[[], Any]) -> None:
        """Run *body* when all tasks are done: a last look (a Splat is a finding), or an undo."""
        self.endings.append(body)

    def start(self) -> None:
        self.tasks = [
            self.runtime.spawn(partial(_settle, body, done), name) for name, (body, done) in self.bodies.items()
        ]

    def outcome(self) -> Outcome:
        return tuple(str(task.result) for task in self.tasks)

    def tear_down(self) -> None:
        """
        Everybody exits, and every device that was plugged in goes: nothing may be left.

        What the machine came with stays: it was there before anybody could leak it, and
        taking it away in every run costs as much as taking a device away.
        """
        for ending in self.endings:
            ending()
        for process in self.processes:
            process.exit()
        for bdf in sorted(pci_probe.pci_host().found.keys() - self.built_in):
            unplug(bdf)
        if user_struct().locked_vm:
            raise Splat("leak", f"users are still charged for {user_struct().locked_vm} locked pages")


def _settle(body: Callable[[], Any], done: str) -> str:
    try:
        answer = body()
    except Errno as e:
        return errno_name(e.number)
    return answer if isinstance(answer, str) else done

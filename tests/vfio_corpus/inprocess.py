# SPDX-License-Identifier: GPL-2.0-only
"""Sessions played against a machine in this process: one for each session."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from corpus.model import ModelSystem
from corpus.recording import play_each
from corpus.replaying import Mismatch, first_mismatch, plain
from corpus.sessions import TESTS

from uvfio.machine import Machine
from uvfio.topology import parse_device
from vfio_corpus.bench import Bench
from vfio_corpus.play import Player

T = TypeVar("T")
# The other functions of the reference machine take addresses and interrupt lines, too.
ICH9 = f"{TESTS}/clients/ich9.py"
OTHERS = (f"{ICH9}:Lpc@0000:00:1f.0", f"{ICH9}:Ahci@0000:00:1f.2", f"{ICH9}:Smbus@0000:00:1f.3")
ROOT = ("edu", "pci-testdev", "e1000e")
BEHIND = ("pcie-root-port,id=port", "edu@00.0,bus=port", "pci-testdev@00.1,bus=port")
MACHINES = (ROOT + OTHERS, ROOT + BEHIND + OTHERS)


def options(machine: tuple[str, ...]) -> tuple[str, ...]:
    """Of ``uvfio run``, to make it; as the reference kernel it has the interface of iommufd's tests."""
    words = (device if "root-port" in device else f"{device},driver=none" for device in machine)
    return ("--iommufd-test", *(word for device in words for word in ("-d", device)))


def boot(machine: tuple[str, ...]) -> Machine:
    made = Machine(iommufd_test=True)
    made.boot([parse_device(option) for option in options(machine)[2::2]])
    return made


def in_machine(machine: tuple[str, ...], function: Callable[[Player], T]) -> T:
    def body() -> T:
        system = ModelSystem()
        return function(Player(system, Bench(system)))

    return boot(machine).run(body)


def replay(session: dict[str, Any]) -> Mismatch | None:
    return in_machine(MACHINES[session["theme"] == "bus"], lambda player: first_mismatch(player, session))


def answers_of(calls: list[Any], behind_a_port: bool = False) -> list[Any]:
    """What the stack answers; to calls that make no sense why they do not."""
    answers: list[Any] = in_machine(MACHINES[behind_a_port], lambda player: plain(play_each(player, calls)))
    return answers

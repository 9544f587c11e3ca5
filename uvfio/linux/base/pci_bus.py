# SPDX-License-Identifier: GPL-2.0-only
"""
PCI buses. Mirrors ``struct pci_bus``, ``drivers/pci/bus.c`` and the bus attributes of
``pci-sysfs.c``. All differences from Linux: one domain, one root bus; ``rescan`` of one
bus looks at all of them; the CPU affinity of a bus is that of the two processors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from uvfio.linux.base import core
from uvfio.linux.base.private import Class, Device
from uvfio.linux.kernel.kernfs import Attribute
from uvfio.runtime.struct import kzalloc
from uvfio.runtime.task import per_machine

if TYPE_CHECKING:
    from uvfio.linux.base.pci_dev import PciDev


class PciBus:
    """``struct pci_bus``: *self* is the bridge that leads to it, None for the root bus."""

    def __init__(self, number: int, parent: PciBus | None, bridge: PciDev | None) -> None:
        self.number = number
        self.parent = parent
        self.self = bridge
        self.devices: list[PciDev] = []  # pci_rescan_remove_lock
        self.dev: Device | None = None

    def __repr__(self) -> str:
        return f"<pci_bus 0000:{self.number:02x}>"


class PciBusClass:
    """``pcibus_class``."""

    def __init__(self) -> None:
        self.class_: Class | None = None


pcibus_class = per_machine(PciBusClass)


def pcibus_class_init() -> None:
    pcibus_class().class_ = core.class_create("pci_bus")


def pci_register_bus(bus: PciBus, parent: Device, rescan: Callable[[bytes], None]) -> None:
    """Show *bus* as a device of class pci_bus, below its bridge."""
    dev = bus.dev = kzalloc(Device, f"0000:{bus.number:02x}", parent)
    dev.class_ = pcibus_class().class_
    dev.groups = [
        Attribute("cpuaffinity", 0o444, lambda: "3\n"),
        Attribute("cpulistaffinity", 0o444, lambda: "0-1\n"),
        Attribute("rescan", 0o200, store=rescan),
    ]
    core.device_add(dev)


def pci_remove_bus(bus: PciBus) -> None:
    assert bus.dev is not None
    core.device_unregister(bus.dev)
    bus.dev = None


def pci_is_root_bus(bus: PciBus) -> bool:
    return bus.parent is None


def pci_walk_bus(bus: PciBus) -> Iterator[PciDev]:
    """Every function on *bus* and below it; a bridge comes before what is behind it."""
    for dev in list(bus.devices):
        yield dev
        if dev.subordinate is not None:
            yield from pci_walk_bus(dev.subordinate)

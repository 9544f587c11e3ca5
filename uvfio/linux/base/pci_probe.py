# SPDX-License-Identifier: GPL-2.0-only
"""
Functions come and go. Mirrors ``drivers/pci/{probe,remove,setup-bus}.c``.

What is plugged in (hardware) and what the kernel has found (PciDev) are two things:
``remove`` in sysfs takes away the second only, and ``rescan`` finds it again. All
differences from Linux:

* one root bus, 0000:00, and no bridges below it;
* BARs are placed by the firmware when a function is plugged in, and stay there.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import EBUSY

from uvfio.linux.base import bus, core, dd, pci_driver, pci_reset, pci_sysfs
from uvfio.linux.base.pci_dev import PciDev, PciModel, parse_bdf
from uvfio.linux.base.pci_irq import PciIrqs
from uvfio.linux.base.private import Device
from uvfio.linux.kernel.mutex import Mutex
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kzalloc
from uvfio.runtime.task import per_machine
from uvfio.uapi.pci_regs import (
    PCI_BASE_ADDRESS_0,
    PCI_COMMAND,
    PCI_COMMAND_IO,
    PCI_COMMAND_MEMORY,
    PCI_COMMAND_SERR,
    PCI_INTERRUPT_LINE,
    PCI_INTERRUPT_PIN,
)

SMBUS_PORTS = 64  # what the chipset's SMBus takes of the ports, before smaller BARs
LINES = (10, 10, 11, 11)  # by slot and pin, as SeaBIOS wires them


class PciHost:
    """The host bridge pci0000:00, what is plugged in and what was found."""

    def __init__(self) -> None:
        self.bridge: Device | None = None
        self.hardware: dict[str, PciModel] = {}
        self.found: dict[str, PciDev] = {}
        self.rescan_remove_lock = Mutex("pci_rescan_remove_lock")
        self.smbus_placed = False
        self.next = {"mem32": 0xFEA00000, "mem64": 0x8_00000000, "io": 0xC000}


pci_host = per_machine(PciHost)


def pci_init() -> None:
    """The bus exists; nothing is on it yet."""
    bus.bus_register(pci_driver.pci_bus_type())
    bridge = pci_host().bridge = kzalloc(Device, "pci0000:00")
    bridge.has_fwnode = True
    core.device_add(bridge)


def pci_add_device(model: PciModel, bdf: str) -> PciDev:
    """Plug *model* in and let the kernel find it. Errno EBUSY if the place is taken."""
    return pci_add_devices([(model, bdf)])[0]


def pci_add_devices(plugged: Sequence[tuple[PciModel, str]]) -> list[PciDev]:
    """
    The same for several at once, as at boot: all are there before the first is found,
    and their BARs are placed together, large ones first. Errno EBUSY.
    """
    host = pci_host()
    for model, bdf in plugged:
        parse_bdf(bdf)
        if bdf in host.hardware:
            raise Errno(EBUSY, f"there is a device at {bdf}")
        host.hardware[bdf] = model
    _assign_resources([model for model, _bdf in plugged])
    for model, bdf in plugged:
        _wire_interrupt(model, bdf)
    with host.rescan_remove_lock:
        pci_scan_root_bus()
    return [host.found[bdf] for _model, bdf in plugged]


def pci_unplug(bdf: str) -> None:
    """Take the hardware out, after its driver has let go (which may wait)."""
    host = pci_host()
    with host.rescan_remove_lock:
        found = host.found.get(bdf)
        if found is not None:
            pci_stop_and_remove_bus_device(found)
        host.hardware.pop(bdf, None)


def pci_scan_root_bus() -> None:
    """Find what is plugged in and not known yet; the caller holds rescan_remove_lock."""
    host = pci_host()
    new = [_pci_setup_device(host.hardware[bdf], bdf) for bdf in sorted(host.hardware) if bdf not in host.found]
    for dev in new:
        core.device_add(dev)
        dev.is_added = True


def pci_rescan_bus() -> None:
    with pci_host().rescan_remove_lock:
        pci_scan_root_bus()


def pci_stop_and_remove_bus_device(dev: PciDev) -> None:
    """Unbind and forget *dev*. The caller holds rescan_remove_lock."""
    if not dev.is_added:
        return
    dev.is_added = False
    dd.device_release_driver(dev)
    pci_sysfs.remove_dev_files(dev)
    core.device_del(dev)
    dev.model.upstream = None
    del pci_host().found[dev.bdf]
    core.put_device(dev)


def pci_stop_and_remove_bus_device_locked(dev: PciDev) -> None:
    with pci_host().rescan_remove_lock:
        pci_stop_and_remove_bus_device(dev)


def _pci_setup_device(model: PciModel, bdf: str) -> PciDev:
    host = pci_host()
    dev = kzalloc(PciDev, bdf, model, host.bridge)
    dev.bus = pci_driver.pci_bus_type()
    dev.irqs = PciIrqs(dev)
    dev.reset_methods = pci_reset.pci_reset_methods(dev) if model.has_reset else []
    if dev.config.read(PCI_INTERRUPT_PIN, 1):
        dev.irq = dev.config.read(PCI_INTERRUPT_LINE, 1)
    model.upstream = dev
    host.found[bdf] = dev
    return dev


def _wire_interrupt(model: PciModel, bdf: str) -> None:
    pin = model.config.read(PCI_INTERRUPT_PIN, 1)
    if pin:
        line = LINES[((parse_bdf(bdf)[2] >> 3) + pin - 1) & 3]
        model.config.write(PCI_INTERRUPT_LINE, 1, line)


def _assign_resources(models: Sequence[PciModel]) -> None:
    bars = [(bar.size, i, model) for model in models for i, bar in enumerate(model.bars) if bar.size]
    bars.sort(key=lambda each: -each[0])
    host = pci_host()
    for size, index, model in bars:
        bar = model.bars[index]
        if bar.kind == "io" and size < SMBUS_PORTS and not host.smbus_placed:
            host.next["io"] += SMBUS_PORTS
            host.smbus_placed = True
        bar.addr = -(-host.next[bar.kind] // size) * size
        host.next[bar.kind] = bar.addr + size
        width = 8 if bar.kind == "mem64" else 4
        model.config.write(PCI_BASE_ADDRESS_0 + 4 * index, width, bar.addr)
    for model in models:
        decode = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_SERR
        model.config.write(PCI_COMMAND, 2, decode)

# SPDX-License-Identifier: GPL-2.0-only
"""
Functions come and go. Mirrors ``drivers/pci/{probe,remove}.c``.

What is plugged in (hardware) and what the kernel has found (PciDev) are two things:
``remove`` in sysfs takes away the second only, and ``rescan`` finds it again. All
differences from Linux: one root bus, 0000:00; where things are placed is in
``pci_setup.py``, and stays so.
"""

from __future__ import annotations

from collections.abc import Sequence
from errno import EBUSY, ENODEV

from uvfio.linux.base import bus, core, dd, pci_bus, pci_driver, pci_iov, pci_reset, pci_setup, pci_sysfs
from uvfio.linux.base.pci_bus import PciBus
from uvfio.linux.base.pci_dev import PciDev, PciModel, parse_bdf
from uvfio.linux.base.pci_irq import PciIrqs
from uvfio.linux.base.private import Device
from uvfio.linux.kernel.mutex import Mutex
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kzalloc
from uvfio.runtime.task import current, per_machine
from uvfio.uapi.pci_regs import PCI_HEADER_TYPE, PCI_HEADER_TYPE_MFD, PCI_INTERRUPT_LINE, PCI_INTERRUPT_PIN


class PciHost:
    """The host bridge pci0000:00, what is plugged in and what was found."""

    def __init__(self) -> None:
        self.bridge: Device | None = None
        self.root = PciBus(0, None, None)
        self.hardware: dict[str, PciModel] = {}
        self.found: dict[str, PciDev] = {}
        self.rescan_remove_lock = Mutex("pci_rescan_remove_lock")
        self.decoders = {0: pci_setup.PciDecoder(pci_setup.ROOT)}  # by number of the bus


pci_host = per_machine(PciHost)


def pci_init() -> None:
    """The bus exists; nothing is on it yet."""
    bus.bus_register(pci_driver.pci_bus_type())
    bridge = pci_host().bridge = kzalloc(Device, "pci0000:00")
    bridge.has_fwnode = True
    core.device_add(bridge)
    pci_bus.pcibus_class_init()
    pci_bus.pci_register_bus(pci_host().root, bridge, pci_sysfs.rescan_store)


def pci_add_device(model: PciModel, bdf: str) -> PciDev:
    """Plug *model* in and let the kernel find it. Errno EBUSY if the place is taken."""
    return pci_add_devices([(model, bdf)])[0]


def pci_add_devices(plugged: Sequence[tuple[PciModel, str]]) -> list[PciDev]:
    """
    The same for several at once, as at boot: all are there before the first is found,
    and their BARs are placed together, large ones first. A bridge is numbered already.
    Errno EBUSY, ENODEV no bridge leads there, ENOSPC.
    """
    host = pci_host()
    coming = {bdf: model for model, bdf in plugged}
    leading = {0, *(model.secondary for model in (*host.hardware.values(), *coming.values()))}
    for bdf in coming:
        if bdf in host.hardware:
            raise Errno(EBUSY, f"there is a device at {bdf}")
        if parse_bdf(bdf)[1] not in leading:
            raise Errno(ENODEV, f"no bridge leads to {bdf}")
    new = [(model, parse_bdf(bdf)[1]) for bdf, model in coming.items()]
    for number in [number for number in host.decoders if number in {each for _model, each in new}]:
        pci_setup.assign_resources(number, host.decoders, new)
    host.hardware.update(coming)
    for bdf, model in coming.items():
        pci_setup.wire_interrupt(model, _slots(bdf))
    with host.rescan_remove_lock:
        pci_scan_root_bus()
    return [host.found[bdf] for bdf in coming]


def _slots(bdf: str) -> list[int]:
    """The slot of *bdf*, and those of the bridges that lead there."""
    _domain, number, devfn = parse_bdf(bdf)
    bridges = {model.secondary: at for at, model in pci_host().hardware.items() if model.secondary}
    return [devfn >> 3, *(_slots(bridges[number]) if number else ())]


def is_bridge(bdf: str) -> bool:
    """Is there a bridge at *bdf*?"""
    return bool(pci_host().hardware[bdf].secondary)


def pci_unplug(bdf: str) -> None:
    """Take the hardware out, after its driver has let go (which may wait)."""
    host = pci_host()
    with host.rescan_remove_lock:
        found = host.found.get(bdf)
        if found is not None:
            pci_stop_and_remove_bus_device(found)
        _pull(bdf)


def _pull(bdf: str) -> None:
    """The hardware at *bdf*, with all that is behind it, is not there any more."""
    host = pci_host()
    model = host.hardware.pop(bdf, None)
    if model is None:
        return
    host.decoders[parse_bdf(bdf)[1]].release(model)
    if model.secondary:
        for behind in [each for each in host.hardware if parse_bdf(each)[1] == model.secondary]:
            _pull(behind)
        del host.decoders[model.secondary]


def pci_scan_root_bus() -> None:
    """Find what is plugged in and not known yet; the caller holds rescan_remove_lock."""
    host = pci_host()
    new: list[PciDev] = []
    _pci_scan_child_bus(host.root, new)
    for dev in sorted(new, key=lambda each: each.bdf):
        core.device_add(dev)
        dev.is_added = True
        if dev.subordinate is not None:
            pci_bus.pci_register_bus(dev.subordinate, dev, pci_sysfs.rescan_store)
    pci_bus_add_devices(host.root)


def pci_bus_add_devices(bus: PciBus) -> None:
    """
    Bind what is not bound yet, which can only be a virtual function that comes or goes. As
    in Linux 7.3.4 nothing keeps it: a driver that is unbound removes its virtual functions
    without rescan_remove_lock.
    """
    current().runtime.point("list_for_each", bus, "r")
    for dev in list(bus.devices):
        if not dev.is_added:
            dd.device_initial_probe(dev)
        if dev.subordinate is not None:
            pci_bus_add_devices(dev.subordinate)


def _pci_scan_child_bus(bus: PciBus, new: list[PciDev]) -> None:
    host = pci_host()
    for bdf in sorted(host.hardware):
        if parse_bdf(bdf)[1] != bus.number:
            continue
        dev = host.found.get(bdf)
        if dev is None:
            dev = pci_setup_device(host.hardware[bdf], bdf, bus)
            new.append(dev)
        if dev.subordinate is not None:
            _pci_scan_child_bus(dev.subordinate, new)


def pci_rescan_bus() -> None:
    with pci_host().rescan_remove_lock:
        pci_scan_root_bus()


def pci_stop_and_remove_bus_device(dev: PciDev) -> None:
    """Unbind and forget *dev* and what is behind it. The caller holds rescan_remove_lock."""
    if not dev.is_added:
        return
    if dev.subordinate is not None:
        for behind in reversed(list(dev.subordinate.devices)):
            pci_stop_and_remove_bus_device(behind)
        pci_bus.pci_remove_bus(dev.subordinate)
    dev.is_added = False
    dd.device_release_driver(dev)
    pci_sysfs.remove_dev_files(dev)
    core.device_del(dev)
    dev.model.upstream = None
    if dev.physfn is not None:  # of others, no walker of the list can see that they go
        current().runtime.point("list_del", dev.pci_bus)
    dev.pci_bus.devices.remove(dev)
    del pci_host().found[dev.bdf]
    core.put_device(dev)


def pci_stop_and_remove_bus_device_locked(dev: PciDev) -> None:
    with pci_host().rescan_remove_lock:
        pci_stop_and_remove_bus_device(dev)


def pci_setup_device(model: PciModel, bdf: str, bus: PciBus, physfn: PciDev | None = None) -> PciDev:
    """Make the function at *bdf* known, not yet shown: one of *bus*, or a virtual function of *physfn*."""
    host = pci_host()
    dev = kzalloc(PciDev, bdf, model, bus.self or host.bridge, physfn)
    dev.bus = pci_driver.pci_bus_type()
    dev.pci_bus = bus
    if physfn is None:
        _set_multifunction(dev)
    bus.devices.append(dev)
    dev.irqs = PciIrqs(dev)
    dev.reset_methods = pci_reset.pci_reset_methods(dev)
    if model.secondary:
        dev.subordinate = PciBus(model.secondary, bus, dev)
    if dev.config.read(PCI_INTERRUPT_PIN, 1):
        dev.irq = dev.config.read(PCI_INTERRUPT_LINE, 1)
    if physfn is None:
        pci_iov.pci_iov_init(dev)
    model.upstream = dev
    host.found[bdf] = dev
    return dev


def _set_multifunction(dev: PciDev) -> None:
    """If there are other functions in the slot, all of them say so; virtual ones never."""
    for other in dev.pci_bus.devices:
        if other.devfn >> 3 == dev.devfn >> 3 and other.physfn is None:
            for function in (dev, other):
                function.multifunction = True
                function.config.set_bits(PCI_HEADER_TYPE, 1, PCI_HEADER_TYPE_MFD, True)

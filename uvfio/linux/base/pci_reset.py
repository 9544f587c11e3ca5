# SPDX-License-Identifier: GPL-2.0-only
"""
Enabling, saving and resetting a function. Mirrors parts of ``drivers/pci/pci.c``.

A reset keeps what the kernel saves and restores: the header, and what controls the
capabilities that it knows. All differences from Linux: the methods are ``flr``, ``pm``
and ``bus``; which of them runs makes no difference to the model; there are no slots that
could be reset; the AER capability is not saved, as without CONFIG_PCIEAER.
"""

from __future__ import annotations

from collections.abc import Iterator
from errno import EAGAIN, ENOTTY
from typing import TYPE_CHECKING

from uvfio.linux.base.pci_bus import PciBus, pci_is_root_bus, pci_walk_bus
from uvfio.linux.base.pci_dev import PciDev, pci_find_capability, pci_find_ext_capability
from uvfio.runtime.errors import Errno
from uvfio.uapi.pci_regs import (
    PCI_CAP_ID_EXP,
    PCI_CAP_ID_MSI,
    PCI_CAP_ID_MSIX,
    PCI_CAP_ID_PM,
    PCI_COMMAND,
    PCI_COMMAND_IO,
    PCI_COMMAND_MEMORY,
    PCI_EXP_DEVCAP,
    PCI_EXP_DEVCAP_FLR,
    PCI_EXP_DEVCTL,
    PCI_EXP_DEVCTL2,
    PCI_EXP_LNKCTL,
    PCI_EXP_LNKCTL2,
    PCI_EXT_CAP_ID_ACS,
    PCI_EXT_CAP_ID_ATS,
    PCI_EXT_CAP_ID_PASID,
    PCI_EXT_CAP_ID_PRI,
    PCI_EXT_CAP_ID_SRIOV,
    PCI_MSI_FLAGS,
    PCI_MSIX_FLAGS,
    PCI_PM_CTRL,
    PCI_PM_CTRL_NO_SOFT_RESET,
    PCI_SRIOV_BAR,
    PCI_SRIOV_CTRL,
    PCI_SRIOV_NUM_VF,
    PCI_SRIOV_SYS_PGSIZE,
    PCI_STD_HEADER_SIZEOF,
)

if TYPE_CHECKING:
    from uvfio.linux.base.pci_driver import PciDriver

CONTROL = 4  # of most extended capabilities, with what they can in one word
# Register (offset, size) of each capability that is saved and restored.
SAVED = {
    PCI_CAP_ID_EXP: ((PCI_EXP_DEVCTL, 2), (PCI_EXP_LNKCTL, 2), (PCI_EXP_DEVCTL2, 2), (PCI_EXP_LNKCTL2, 2)),
    PCI_CAP_ID_MSI: ((PCI_MSI_FLAGS, 2),),
    PCI_CAP_ID_MSIX: ((PCI_MSIX_FLAGS, 2),),
}
SAVED_EXTENDED = {
    **dict.fromkeys(
        (PCI_EXT_CAP_ID_ACS, PCI_EXT_CAP_ID_ATS, PCI_EXT_CAP_ID_PRI, PCI_EXT_CAP_ID_PASID), ((CONTROL, 4),)
    ),
    PCI_EXT_CAP_ID_SRIOV: (
        *((PCI_SRIOV_BAR + 4 * bar, 4) for bar in range(6)),
        (PCI_SRIOV_SYS_PGSIZE, 4),
        (PCI_SRIOV_NUM_VF, 2),
        (PCI_SRIOV_CTRL, 2),  # the last: it makes functions of the others
    ),
}


def pci_reset_methods(dev: PciDev) -> list[str]:
    """The function-level resets the hardware has, best first."""
    methods = []
    express = pci_find_capability(dev, PCI_CAP_ID_EXP)
    if express and dev.config.read(express + PCI_EXP_DEVCAP, 4) & PCI_EXP_DEVCAP_FLR:
        methods.append("flr")
    pm = pci_find_capability(dev, PCI_CAP_ID_PM)
    if pm and not dev.config.read(pm + PCI_PM_CTRL, 2) & PCI_PM_CTRL_NO_SOFT_RESET:
        methods.append("pm")
    if _alone_on_its_bus(dev):
        methods.append("bus")
    return methods


def _alone_on_its_bus(dev: PciDev) -> bool:
    """A reset of the bus is one of *dev* then (``pci_parent_bus_reset()``)."""
    return not pci_is_root_bus(dev.pci_bus) and dev.subordinate is None and dev.pci_bus.devices == [dev]


def pci_probe_reset_bus(bus: PciBus) -> None:
    """Errno ENOTTY for the root bus, in front of which no bridge could do it."""
    if pci_is_root_bus(bus):
        raise Errno(ENOTTY)


def pci_reset_bus(dev: PciDev) -> None:
    """
    Reset everything on the bus of *dev* and below it. Errno ENOTTY for the root bus,
    EAGAIN while somebody holds the lock of one of the devices.
    """
    pci_probe_reset_bus(dev.pci_bus)
    locked: list[PciDev] = []
    try:
        for each in pci_walk_bus(dev.pci_bus):
            if not each.mutex.trylock():
                raise Errno(EAGAIN)
            locked.append(each)
        for each in locked:
            _prepare(each)
        for each in locked:
            each.model.reset()
        for each in locked:
            _done(each)
    finally:
        for each in reversed(locked):
            each.mutex.unlock()


def pci_enable_device(dev: PciDev) -> None:
    """Count one more user; the first switches the decoders on."""
    dev.enable_cnt += 1
    if dev.enable_cnt == 1:
        decode = 0
        for bar in dev.bars:
            if bar.size:
                decode |= PCI_COMMAND_IO if bar.kind == "io" else PCI_COMMAND_MEMORY
        dev.config.write(PCI_COMMAND, 2, dev.config.read(PCI_COMMAND, 2) | decode)


def pci_disable_device(dev: PciDev) -> None:
    """Drop a user; the last one ends bus mastering."""
    dev.enable_cnt -= 1
    if dev.enable_cnt == 0:
        dev.config.write(PCI_COMMAND, 2, dev.config.read(PCI_COMMAND, 2) & ~4)


def pci_save_state(dev: PciDev) -> None:
    dev.state_saved = dev.config.read_bytes(0, dev.config.size)


def pci_restore_state(dev: PciDev) -> None:
    """Write back what was saved; nothing if nothing was."""
    saved, dev.state_saved = dev.state_saved, None
    if saved is None:
        return
    for off, size in _saved_registers(dev):
        value = int.from_bytes(saved[off : off + size], "little")
        if dev.config.read(off, size) != value:
            dev.config.write(off, size, value & 0xFFFF if off == PCI_COMMAND else value)


def _saved_registers(dev: PciDev) -> Iterator[tuple[int, int]]:
    """Offset and size; the command register last: BARs must be back before it decodes."""
    for capabilities, find in ((SAVED, pci_find_capability), (SAVED_EXTENDED, pci_find_ext_capability)):
        for cap, registers in capabilities.items():
            at = find(dev, cap)
            if at:
                yield from ((at + off, size) for off, size in registers)
    yield from ((off, 4) for off in range(PCI_STD_HEADER_SIZEOF - 4, -4, -4))


def pci_reset_function(dev: PciDev) -> None:
    """Reset, under the device lock. Errno ENOTTY if the function cannot be reset."""
    _check_resettable(dev)
    with dev.mutex:
        _reset(dev)


def pci_try_reset_function(dev: PciDev) -> None:
    """The same without waiting. Errno EAGAIN while somebody holds the device lock."""
    _check_resettable(dev)
    if not dev.mutex.trylock():
        raise Errno(EAGAIN)
    try:
        _reset(dev)
    finally:
        dev.mutex.unlock()


def _check_resettable(dev: PciDev) -> None:
    # What was alone on its bus when it was found may have company now.
    if not any(method != "bus" or _alone_on_its_bus(dev) for method in dev.reset_methods):
        raise Errno(ENOTTY, f"{dev.bdf} has no reset that is its own")


def _reset(dev: PciDev) -> None:
    _prepare(dev)
    dev.model.reset()
    _done(dev)


def _prepare(dev: PciDev) -> None:
    driver: PciDriver | None = dev.driver  # type: ignore[assignment]
    if driver is not None:
        driver.err_reset_prepare(dev)
    pci_save_state(dev)
    dev.config.write(PCI_COMMAND, 2, 0)


def _done(dev: PciDev) -> None:
    driver: PciDriver | None = dev.driver  # type: ignore[assignment]
    pci_restore_state(dev)
    if driver is not None:
        driver.err_reset_done(dev)

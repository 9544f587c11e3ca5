# SPDX-License-Identifier: GPL-2.0-only
"""
Which PCI functions an IOMMU can tell apart: ``pci_device_group()`` of ``drivers/iommu/iommu.c``
and ``pci_acs_enabled()`` of ``drivers/pci/pci.c``.

Functions are in one group when one could reach the other without passing the IOMMU. PCI
Express ports keep them from it with ACS. All differences from Linux: no quirks of chips
that do without, no DMA aliases but those of a bridge to conventional PCI.
"""

from __future__ import annotations

from uvfio.linux.base.pci import PciDev, pci_find_ext_capability, pci_pcie_type
from uvfio.linux.iommu import iommu
from uvfio.linux.iommu.private import IommuGroup
from uvfio.uapi.pci_regs import (
    PCI_ACS_CAP,
    PCI_ACS_CR,
    PCI_ACS_CTRL,
    PCI_ACS_EC,
    PCI_ACS_RR,
    PCI_ACS_SV,
    PCI_ACS_UF,
    PCI_EXP_TYPE_DOWNSTREAM,
    PCI_EXP_TYPE_PCI_BRIDGE,
    PCI_EXP_TYPE_ROOT_PORT,
    PCI_EXT_CAP_ID_ACS,
)

REQ_ACS_FLAGS = PCI_ACS_SV | PCI_ACS_RR | PCI_ACS_CR | PCI_ACS_UF


def pci_device_group(dev: PciDev) -> IommuGroup:
    """The group for *dev*, referenced: that of whom it cannot be told apart from, else a new one."""
    bus = dev.pci_bus
    # Up to the root: what is behind a bridge that does not isolate is seen as that bridge.
    while bus.self is not None and bus.parent is not None:
        bridge = bus.self
        bus = bus.parent
        if _pci_acs_path_enabled(bridge):
            break
        dev = bridge
        if dev.iommu_group is not None:
            return iommu.iommu_group_ref_get(dev.iommu_group)
    for other in _functions_alike(dev):
        if other.iommu_group is not None:
            return iommu.iommu_group_ref_get(other.iommu_group)
    return iommu.iommu_group_alloc()


def _functions_alike(dev: PciDev) -> list[PciDev]:
    """The other functions of a device whose functions reach each other inside of it."""
    if not dev.multifunction or pci_acs_enabled(dev):
        return []
    return [
        other
        for other in dev.pci_bus.devices
        if other is not dev
        and other.devfn >> 3 == dev.devfn >> 3
        and other.multifunction
        and not pci_acs_enabled(other)
    ]


def _pci_acs_path_enabled(dev: PciDev) -> bool:
    """Does *dev*, and every bridge between it and the root, isolate?"""
    while True:
        if not pci_acs_enabled(dev):
            return False
        if dev.pci_bus.self is None:
            return True
        dev = dev.pci_bus.self


def pci_acs_enabled(dev: PciDev) -> bool:
    """Can nothing that *dev* passes on reach a neighbour without going up first?"""
    kind = pci_pcie_type(dev)
    if kind is None or kind == PCI_EXP_TYPE_PCI_BRIDGE:
        return False
    if kind in (PCI_EXP_TYPE_ROOT_PORT, PCI_EXP_TYPE_DOWNSTREAM) or dev.multifunction:
        return _pci_acs_flags_enabled(dev)
    return True


def _pci_acs_flags_enabled(dev: PciDev) -> bool:
    at = pci_find_ext_capability(dev, PCI_EXT_CAP_ID_ACS)
    if not at:
        return False
    # What a port has no capability for, it cannot do wrong; egress control apart.
    needed = REQ_ACS_FLAGS & (dev.config.read(at + PCI_ACS_CAP, 2) | PCI_ACS_EC)
    return dev.config.read(at + PCI_ACS_CTRL, 2) & needed == needed

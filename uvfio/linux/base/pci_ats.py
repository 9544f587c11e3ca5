# SPDX-License-Identifier: GPL-2.0-only
"""
What a function can do together with an IOMMU. Mirrors ``drivers/pci/ats.c``.

Difference from Linux: nothing is enabled in the function; it is asked what it has.
"""

from __future__ import annotations

from uvfio.linux.base.pci_dev import PciDev, pci_find_ext_capability
from uvfio.uapi.pci_regs import (
    PCI_EXT_CAP_ID_ATS,
    PCI_EXT_CAP_ID_PASID,
    PCI_EXT_CAP_ID_PRI,
    PCI_PASID_CAP,
    PCI_PASID_WIDTH_SHIFT,
)


def pci_ats_supported(pdev: PciDev) -> bool:
    return bool(pci_find_ext_capability(pdev, PCI_EXT_CAP_ID_ATS))


def pci_pri_supported(pdev: PciDev) -> bool:
    """Can the function ask for pages?"""
    return bool(pci_find_ext_capability(pdev, PCI_EXT_CAP_ID_PRI))


def pci_max_pasids(pdev: PciDev) -> int:
    """How many PASIDs the function can have; 0: none."""
    pasid = pci_find_ext_capability(pdev, PCI_EXT_CAP_ID_PASID)
    if not pasid:
        return 0
    return 1 << (pdev.config.read(pasid + PCI_PASID_CAP, 2) >> PCI_PASID_WIDTH_SHIFT & 0x1F)

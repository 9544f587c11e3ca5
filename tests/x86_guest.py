# SPDX-License-Identifier: GPL-2.0-only
"""The tables that a guest with an Intel or an AMD IOMMU makes, in what it believes to be memory."""

from __future__ import annotations

from pathlib import Path

from vfio_user import PG
from viommu_user import MEMORY, NEAR, Vmm

from uvfio.linux.base.pci import PciDev, pci_host
from uvfio.linux.iommu.first_stage import PTE_PRESENT, PTE_USER, PTE_WRITE

PASID_DEVICE = str(Path(__file__).parent / "pasid_device.py")
VA = 0x7F_1234_5000  # where the guest's driver lets the device go
RW = PTE_PRESENT | PTE_WRITE | PTE_USER
TABLES = (1, 2, 3, 4)  # the pages that have the levels of a table, the highest first
FIRST, SECOND, GCR3 = 8, 9, 5  # what is in other pages


class Guest:
    """Memory of 16 pages that is mapped at MEMORY, and what is in it."""

    def __init__(self, vmm: Vmm) -> None:
        self.vmm = vmm
        self.at = vmm.map_memory()
        for n, page in enumerate(TABLES[:-1]):
            self.put(page, VA >> 39 - 9 * n & 0x1FF, gpa(TABLES[n + 1]) | RW)
        self.point_to(FIRST)
        for page, text in ((FIRST, b"first"), (SECOND, b"second")):
            vmm.mm.write(self.at + page * PG, text)

    def put(self, page: int, index: int, value: int) -> None:
        self.vmm.mm.write(self.at + page * PG + 8 * index, value.to_bytes(8, "little"))

    def get(self, page: int, index: int) -> int:
        return int.from_bytes(self.vmm.mm.read(self.at + page * PG + 8 * index, 8), "little")

    def point_to(self, page: int, bits: int = RW) -> None:
        """VA is *page* now."""
        self.put(TABLES[-1], VA >> 12 & 0x1FF, gpa(page) | bits)

    def leaf(self) -> int:
        return self.get(TABLES[-1], VA >> 12 & 0x1FF)


def gpa(page: int) -> int:
    return MEMORY + page * PG


def function(bdf: str = NEAR) -> PciDev:
    """The device, allowed to do DMA."""
    pdev = pci_host().found[bdf]
    pdev.config.write(4, 2, 6)
    return pdev

# SPDX-License-Identifier: GPL-2.0-only
"""The tables that a guest with an SMMUv3 makes, in what it believes to be memory."""

from __future__ import annotations

import struct

from vfio_user import PG
from viommu_user import MEMORY, Vmm

from uvfio.linux.iommu.smmuv3_hw import PTE_AF, PTE_TABLE, PTE_VALID
from uvfio.uapi import iommufd as uapi

VA, ASID = 0x10_0000, 7
T0SZ, CD_V = 25, 1 << 31  # 39 bits: three levels
L1, L2, L3, CDS, L1CDS, QUEUE, FIRST, SECOND = range(1, 9)  # what is in which page


class ArmGuest:
    """Memory of 16 pages that is mapped at MEMORY, and what is in it."""

    def __init__(self, vmm: Vmm) -> None:
        self.vmm = vmm
        self.at = vmm.map_memory()
        self.descriptor(0)
        self.put(L1, VA >> 30 & 0x1FF, ipa(L2) | PTE_TABLE | PTE_VALID)
        self.put(L2, VA >> 21 & 0x1FF, ipa(L3) | PTE_TABLE | PTE_VALID)
        self.point_to(FIRST)
        for page, text in ((FIRST, b"first"), (SECOND, b"second")):
            vmm.mm.write(self.at + page * PG, text)

    def put(self, page: int, index: int, value: int) -> None:
        self.vmm.mm.write(self.at + page * PG + 8 * index, value.to_bytes(8, "little"))

    def descriptor(self, ssid: int, asid: int = ASID) -> None:
        self.put(CDS, 8 * ssid, asid << 48 | CD_V | T0SZ)
        self.put(CDS, 8 * ssid + 1, ipa(L1))

    def point_to(self, page: int, bits: int = PTE_AF | PTE_TABLE | PTE_VALID) -> None:
        """VA is *page* now."""
        self.put(L3, VA >> 12 & 0x1FF, ipa(page) | bits)


def ipa(page: int) -> int:
    return MEMORY + page * PG


def veventq(vmm: Vmm, viommu: int, kind: int, depth: int = 8) -> int:
    """An event queue of *viommu*; its fd."""
    cmd = uapi.iommu_veventq_alloc(viommu_id=viommu, type=kind, veventq_depth=depth)
    return int(vmm.ask(uapi.IOMMU_VEVENTQ_ALLOC, cmd).out_veventq_fd)


def events(vmm: Vmm, fd: int, length: int) -> list[tuple[int, ...]]:
    """What a queue has: flags, sequence, and the words of each payload."""
    data = vmm.read(fd, PG)
    size = 8 + length
    layout = struct.Struct(f"<2I{length // 8}Q")
    return [layout.unpack(data[at : at + size]) for at in range(0, len(data), size)]

# SPDX-License-Identifier: GPL-2.0-only
"""
Page tables of devices that no IOMMU translates for.

Mirrors ``drivers/iommu/iommufd/hwpt_noiommu.c``. A domain here only remembers what is
mapped, so that its memory is pinned and IOMMU_IOAS_NOIOMMU_GET_PA can say where that is;
the device is given physical addresses. Difference from Linux: a device reaches only what
some no-IOMMU page table has mapped (:func:`noiommu_translate`), as there is no other
memory that has an address.
"""

from __future__ import annotations

from errno import EOPNOTSUPP
from typing import Any

from uvfio.linux.base.pci_dev import DmaFault
from uvfio.linux.iommu.io_pgtable import NO_LIMIT
from uvfio.linux.iommu.private import IOMMU_DOMAIN_UNMANAGED, IommuDomain, IommuOps
from uvfio.linux.iommufd.private import PAGE_MASK, PAGE_SIZE, ULONG_MAX
from uvfio.linux.kernel.process import PinnedPages
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import per_machine

PGSIZE_BITMAP = ULONG_MAX & ~PAGE_MASK


class NoiommuMemory:
    """What no-IOMMU devices reach: by physical page, who has mapped it."""

    def __init__(self) -> None:
        self.frames: dict[int, list[tuple[IommuDomain, PinnedPages, int]]] = {}


noiommu_memory = per_machine(NoiommuMemory)


class NoiommuOps(IommuOps):
    """``noiommu_ops``."""

    pgsize_bitmap = PGSIZE_BITMAP
    noiommu = True


NOIOMMU_OPS = NoiommuOps()


class NoiommuDomain(IommuDomain):
    """All addresses are taken, and none is translated."""

    def __init__(self) -> None:
        super().__init__(NOIOMMU_OPS, IOMMU_DOMAIN_UNMANAGED, PGSIZE_BITMAP, ULONG_MAX)

    def map(self, iova: int, pages: PinnedPages, offset: int, length: int, prot: int, max_leaf: int = NO_LIMIT) -> None:
        super().map(iova, pages, offset, length, prot, max_leaf)
        frames = noiommu_memory().frames
        for at in range(offset, offset + length, PAGE_SIZE):
            frames.setdefault(pages.phys(at), []).append((self, pages, at))

    def unmap(self, iova: int, length: int) -> int:
        frames, last = noiommu_memory().frames, iova + length - 1
        for mapping in self.mappings.overlapping(iova, last):
            start, end = max(mapping.start, iova), min(mapping.last, last)
            first = mapping.offset + start - mapping.start
            for at in range(first, first + end - start + 1, PAGE_SIZE):
                phys = mapping.pages.phys(at)
                frames[phys].remove((self, mapping.pages, at))
                if not frames[phys]:
                    del frames[phys]
        return super().unmap(iova, length)


def iommufd_noiommu_alloc_paging(flags: int, user_data: Any) -> IommuDomain:
    """Errno EOPNOTSUPP: there is nothing that it could do."""
    if flags or user_data is not None:
        raise Errno(EOPNOTSUPP)
    return NoiommuDomain()


def noiommu_translate(phys: int, n: int) -> list[tuple[PinnedPages, int, int]]:
    """The pieces (pages, offset, length) behind a physical address. DmaFault where no memory is."""
    pieces: list[tuple[PinnedPages, int, int]] = []
    frames, at, end = noiommu_memory().frames, phys, phys + n
    while at < end:
        length = min(end, (at | PAGE_MASK) + 1) - at
        owners = frames.get(at & ~PAGE_MASK)
        if owners is None:
            raise DmaFault(at)
        _domain, pages, offset = owners[0]
        pieces.append((pages, offset + (at & PAGE_MASK), length))
        at += length
    return pieces

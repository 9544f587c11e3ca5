# SPDX-License-Identifier: GPL-2.0-only
"""
A first stage that a guest made, and the cache in front of it: x86-64 page tables in
the guest's memory, which the domain below translates.

Both an Intel IOMMU (first-stage tables) and an AMD one (guest tables, v2) walk them;
hardware, so Linux has only the formats. All differences from hardware:

* the IOTLB keeps pages of 4 KiB whatever the table's leaf is, it keeps all it ever saw
  (so what is stale stays stale until it is invalidated), and nothing else is cached:
  there are no paging-structure caches;
* reserved bits of an entry are not looked at, and neither are execution and protection
  keys;
* two stages are crossed page by page, so an access that faults has moved nothing of the
  page that it faults in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from uvfio.linux.iommu.private import IOMMU_READ, IOMMU_WRITE, IommuDomain, IotlbLine
from uvfio.linux.kernel.process import PinnedPages
from uvfio.runtime.errors import Errno

PAGE = 4096
PAGE_MASK = PAGE - 1

PTE_PRESENT, PTE_WRITE, PTE_USER, PTE_ACCESSED, PTE_DIRTY, PTE_LARGE = 1, 1 << 1, 1 << 2, 1 << 5, 1 << 6, 1 << 7
PTE_ADDRESS = 0x000F_FFFF_FFFF_F000

# What stopped a walk; each driver has its own words for it.
NOT_CANONICAL = "the address is not canonical"
UNREACHABLE_TABLE = "a table is not in the guest's memory"
NOT_PRESENT = "an entry is not present"
NOT_USER = "an entry is the supervisor's"
NOT_WRITABLE = "an entry is read-only"
SECOND_STAGE = "the guest has no such memory"

Pieces = list[tuple[PinnedPages, int, int]]


class FirstStageFault(Exception):
    """*reason* is one of the above; *addr* is what the device asked for."""

    def __init__(self, reason: str, addr: int) -> None:
        super().__init__(reason, addr)
        self.reason = reason
        self.addr = addr


class IotlbEntry(NamedTuple):
    """A page that was walked to."""

    page: int  # an address of the guest
    writable: bool
    dirty: bool  # the leaf is marked already
    leaf: int  # where the leaf is


@dataclass(frozen=True)
class Root:
    """A page table: where it starts, and how many levels it has."""

    table: int
    levels: int


class FirstStage:
    """
    The tables below *root* and the entries of them that are cached. *parent* is what
    the guest believes to be memory.
    """

    def __init__(self, parent: IommuDomain, supervisor: bool = False) -> None:
        self.parent = parent
        self.supervisor = supervisor  # may devices use entries that are not the user's?
        self.iotlb: dict[tuple[int, int], IotlbEntry] = {}  # by tag (such as a PASID) and page

    def invalidate(self, first: int = 0, last: int | None = None, tag: int | None = None) -> None:
        """Forget the pages of a range, or all; those of *tag*, or everybody's."""
        if last is not None and tag is not None and last - first < PAGE * len(self.iotlb):
            for page in range(first & ~PAGE_MASK, last + 1, PAGE):
                self.iotlb.pop((tag, page), None)
            return
        for key in list(self.iotlb):
            if (tag is None or key[0] == tag) and first <= (key[1] | PAGE_MASK) and (last is None or key[1] <= last):
                del self.iotlb[key]

    def lines(self) -> list[IotlbLine]:
        """What is cached, for who looks."""
        return [IotlbLine(tag, page, e.page, e.writable) for (tag, page), e in sorted(self.iotlb.items())]

    def translate(self, root: Root, iova: int, n: int, write: bool, tag: int = 0) -> Pieces:
        """What is behind *n* bytes at *iova*: through both stages. FirstStageFault."""
        pieces: Pieces = []
        prot = IOMMU_WRITE if write else IOMMU_READ
        at, end = iova, iova + n
        while at < end:
            length = min(end, (at | PAGE_MASK) + 1) - at
            page = self._first(root, at & ~PAGE_MASK, write, tag)
            found, fault = self.parent.walk(page | at & PAGE_MASK, length, prot)
            if fault is not None:
                raise FirstStageFault(SECOND_STAGE, at)
            pieces += found
            at += length
        return pieces

    def _first(self, root: Root, page: int, write: bool, tag: int) -> int:
        entry = self.iotlb.get((tag, page))
        if entry is None or (write and entry.writable and not entry.dirty):
            # A cached entry that is not marked yet is walked to again, as hardware does.
            entry = self.iotlb[tag, page] = self._walk(root, page, write)
        if write and not entry.writable:
            raise FirstStageFault(NOT_WRITABLE, page)
        return entry.page

    def _walk(self, root: Root, page: int, write: bool) -> IotlbEntry:
        bits = 12 + 9 * root.levels
        if page >> (bits - 1) not in (0, (1 << (65 - bits)) - 1):
            raise FirstStageFault(NOT_CANONICAL, page)
        table, rights = root.table, PTE_WRITE | PTE_USER
        for level in reversed(range(root.levels)):
            shift = 12 + 9 * level
            at = table + 8 * (page >> shift & 0x1FF)
            pte = int.from_bytes(self.read(at, 8, page), "little")
            if not pte & PTE_PRESENT:
                raise FirstStageFault(NOT_PRESENT, page)
            rights &= pte
            table = pte & PTE_ADDRESS
            is_leaf = level == 0 or (level <= 2 and bool(pte & PTE_LARGE))
            if not is_leaf:
                self._mark(at, pte, PTE_ACCESSED, page)
                continue
            if not rights & PTE_USER and not self.supervisor:
                raise FirstStageFault(NOT_USER, page)
            dirty = write and bool(rights & PTE_WRITE)
            self._mark(at, pte, PTE_ACCESSED | (PTE_DIRTY if dirty else 0), page)
            below = (1 << shift) - 1
            return IotlbEntry(table & ~below | page & below, bool(rights & PTE_WRITE), dirty, at)
        raise AssertionError("level 0 ends the walk")

    def read(self, at: int, n: int, page: int = 0) -> bytes:
        """Memory of the guest, as the hardware fetches it. FirstStageFault."""
        data = bytearray(n)
        done = 0
        for pages, offset, length in self._guest(at, n, IOMMU_READ, page):
            _or_fault(pages.read_into, page, offset, memoryview(data)[done : done + length])
            done += length
        return bytes(data)

    def _mark(self, at: int, pte: int, bits: int, page: int) -> None:
        if pte & bits != bits:
            for pages, offset, _length in self._guest(at, 8, IOMMU_WRITE, page):
                _or_fault(pages.write_from, page, offset, (pte | bits).to_bytes(8, "little"))

    def _guest(self, at: int, n: int, prot: int, page: int) -> Pieces:
        pieces, fault = self.parent.walk(at, n, prot)
        if fault is not None:
            raise FirstStageFault(UNREACHABLE_TABLE, page)
        return pieces


def _or_fault(access: Any, page: int, offset: int, data: memoryview | bytes) -> None:
    """The memory may have gone away from under the table."""
    try:
        access(offset, data)
    except Errno:
        raise FirstStageFault(UNREACHABLE_TABLE, page) from None

# SPDX-License-Identifier: GPL-2.0-only
"""
The page table of a domain: what devices reach, where that is physically, what is dirty.

Stands for ``include/linux/io-pgtable.h`` and ``drivers/iommu/generic_pt/``. Differences
from Linux: it keeps *ranges* of pinned memory; what its leaves would be follows from
the addresses (:meth:`IoPgtable.leaf`), and unmapping part of a leaf splits it.
"""

from __future__ import annotations

from errno import EADDRINUSE, EINVAL, ERANGE

from uvfio.linux.kernel.interval_tree import IntervalTree
from uvfio.linux.kernel.process import PinnedPages
from uvfio.runtime.errors import Errno

IOMMU_READ = 1 << 0
IOMMU_WRITE = 1 << 1
IOMMU_CACHE = 1 << 2

NO_LIMIT = 1 << 64


class IommuMapping:
    """A range of a domain and the memory behind it, in leaves of at most *max_leaf*."""

    __slots__ = ("last", "max_leaf", "offset", "pages", "prot", "start")

    def __init__(self, start: int, last: int, pages: PinnedPages, offset: int, prot: int, max_leaf: int) -> None:
        self.start = start
        self.last = last
        self.pages = pages
        self.offset = offset
        self.prot = prot
        self.max_leaf = max_leaf


class DirtyLeaf:
    """A leaf that has been written through."""

    __slots__ = ("last", "start")

    def __init__(self, start: int, size: int) -> None:
        self.start = start
        self.last = start + size - 1


class IoPgtable:
    """The page table. The hardware side is :meth:`walk`."""

    reads_dirty_while_off = False  # does the driver report dirty pages also when it does not track them?

    def __init__(self, pgsize_bitmap: int, aperture_end: int) -> None:
        self.pgsize_bitmap = pgsize_bitmap
        self.aperture_end = aperture_end  # inclusive
        self.page_mask = (pgsize_bitmap & -pgsize_bitmap) - 1
        self.mappings: IntervalTree[IommuMapping] = IntervalTree()
        self.dirty_tracking = False  # can it: dirty_ops
        self.dirty_enabled = False  # does it
        self.dirty: IntervalTree[DirtyLeaf] = IntervalTree()

    def map(self, iova: int, pages: PinnedPages, offset: int, length: int, prot: int, max_leaf: int = NO_LIMIT) -> None:
        """
        Let devices reach *length* bytes of *pages*, from *offset* on, at *iova*.
        Errno EINVAL when not aligned to the smallest IO page or neither readable nor
        writable, ERANGE outside of the aperture, EADDRINUSE when something is there.
        """
        if (iova | offset | length) & self.page_mask or not length or not prot & (IOMMU_READ | IOMMU_WRITE):
            raise Errno(EINVAL)
        last = iova + length - 1
        if last > self.aperture_end:
            raise Errno(ERANGE)
        if self.mappings.iter_first(iova, last) is not None:
            raise Errno(EADDRINUSE)
        self.mappings.insert(IommuMapping(iova, last, pages, offset, prot, max_leaf))

    def unmap(self, iova: int, length: int) -> int:
        """Take away what is mapped in the range; how many bytes that was."""
        last = iova + length - 1
        unmapped = 0
        mappings = self.mappings
        for mapping in mappings.overlapping(iova, last):
            mappings.remove(mapping)
            start, end = max(mapping.start, iova), min(mapping.last, last)
            unmapped += end - start + 1
            rest = mapping.pages, mapping.offset, mapping.prot, mapping.max_leaf
            if mapping.start < start:
                mappings.insert(IommuMapping(mapping.start, start - 1, *rest))
            if mapping.last > end:
                offset = mapping.offset + end + 1 - mapping.start
                mappings.insert(IommuMapping(end + 1, mapping.last, rest[0], offset, *rest[2:]))
        if self.dirty.count:
            for leaf in self.dirty.overlapping(iova, last):
                self.dirty.remove(leaf)
        return unmapped

    def walk(self, iova: int, n: int, prot: int) -> tuple[list[tuple[PinnedPages, int, int]], int | None]:
        """
        What a device reaches with an access of *n* bytes that needs *prot*: pieces
        (pages, offset, length), and the address of the fault if they end early.
        """
        pieces: list[tuple[PinnedPages, int, int]] = []
        at, end = iova, iova + n
        find = self.mappings.iter_first
        while at < end:
            mapping = find(at, at)
            if mapping is None or prot & ~mapping.prot:
                break
            length = min(end, mapping.last + 1) - at
            pieces.append((mapping.pages, mapping.offset + at - mapping.start, length))
            at += length
        if self.dirty_enabled and prot & IOMMU_WRITE:
            self._set_dirty_range(iova, at)
        return pieces, at if at < end else None

    def iova_to_phys(self, iova: int) -> int | None:
        """The physical address behind *iova*; None if nothing is mapped there."""
        mapping = self.mappings.iter_first(iova, iova)
        return None if mapping is None else mapping.pages.phys(mapping.offset + iova - mapping.start)

    def leaf(self, mapping: IommuMapping, iova: int) -> tuple[int, int]:
        """
        The leaf of *mapping* that has *iova*, and its size: the largest naturally aligned
        IO page around it of which all is mapped, and consecutive in physical memory.
        """
        found = iova, 0
        bitmap = self.pgsize_bitmap
        while bitmap:
            size = bitmap & -bitmap
            bitmap &= bitmap - 1
            start = iova & -size
            offset = mapping.offset + start - mapping.start
            if (
                size > mapping.max_leaf
                or start < mapping.start
                or start + size - 1 > mapping.last
                or mapping.pages.phys(offset) % size
                or mapping.pages.contiguous(offset) < size
            ):
                break
            found = start, size
        # The smallest IO page always is one: map() refuses what is not made of them.
        return found if found[1] else (iova & ~self.page_mask, self.page_mask + 1)

    # Dirty tracking

    def set_dirty_tracking(self, enable: bool) -> None:
        """Note from now on, or no longer, which leaves devices write to."""
        self.dirty_enabled = enable

    def set_dirty(self, iova: int) -> None:
        """The leaf at *iova*, if there is one, has been written to."""
        self._set_dirty_range(iova, iova + 1)

    def read_and_clear_dirty(self, iova: int, length: int, no_clear: bool = False) -> list[tuple[int, int]]:
        """
        The dirty leaves (address, length) that the range touches, ascending; they are
        clean then unless *no_clear*. Errno EINVAL when they are not tracked.
        """
        if not self.dirty_enabled and not self.reads_dirty_while_off:
            raise Errno(EINVAL)
        return self._dirty_pieces(iova, length, no_clear)

    def clear_dirty(self, iova: int, length: int) -> None:
        """Forget what is dirty in the range, tracked or not."""
        self._dirty_pieces(iova, length, False)

    def _dirty_pieces(self, iova: int, length: int, no_clear: bool) -> list[tuple[int, int]]:
        last = iova + length - 1
        pieces: list[tuple[int, int]] = []
        for leaf in self.dirty.overlapping(iova, last):
            pieces.append((leaf.start, leaf.last - leaf.start + 1))
            if not no_clear:
                self.dirty.remove(leaf)
        return pieces

    def _set_dirty_range(self, at: int, end: int) -> None:
        """All leaves from *at* to before *end*."""
        while at < end:
            mapping = self.mappings.iter_first(at, at)
            if mapping is None:
                return
            dirty = self.dirty.iter_first(at, at)
            if dirty is not None:
                at = dirty.last + 1
                continue
            start, size = self.leaf(mapping, at)
            self.dirty.insert(DirtyLeaf(start, size))
            at = start + size

# SPDX-License-Identifier: GPL-2.0-only
"""
The mappings of a type1 container. Mirrors the middle of ``drivers/vfio/vfio_iommu_type1.c``.

Differences from Linux: a mapping is pinned as a whole, so a failure leaves nothing of it;
a range is memory or the mmap of a BAR, not both; every page of a mapping that is in a
domain is reported dirty, as for all groups whose driver does not pin explicitly.

Memory is pinned as a whole when there is a domain, and where there is none, page by page
when the driver of an emulated device asks (``type1_pin.py``).
"""

from __future__ import annotations

from errno import EBUSY, EEXIST, EINVAL, ENOENT, ENOMEM, ENOSPC, EOVERFLOW
from typing import Any

from uvfio.linux.iommu.private import IommuDomain
from uvfio.linux.kernel.bug import BUG, WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.interval_tree import IntervalTree
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.process import Mm, PinnedPages
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.linux.vfio import type1_pin
from uvfio.linux.vfio.private import VfioDevice
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct
from uvfio.runtime.task import current
from uvfio.uapi.vfio import (
    VFIO_DMA_MAP_FLAG_READ,
    VFIO_DMA_MAP_FLAG_VADDR,
    VFIO_DMA_MAP_FLAG_WRITE,
    VFIO_DMA_UNMAP_FLAG_ALL,
    VFIO_DMA_UNMAP_FLAG_VADDR,
)

PAGE_SIZE = 4096
U64_MAX = (1 << 64) - 1
DMA_ENTRY_LIMIT = 65535
DIRTY_BITMAP_SIZE_MAX = 256 << 20
MAX_RETRIES = 10  # of asking drivers to unpin a mapping


class VfioDomain:
    """``struct vfio_domain``: an IOMMU domain and the groups attached to it."""

    def __init__(self, domain: IommuDomain) -> None:
        self.domain = domain
        self.group_list: list[Any] = []
        self.enforce_cache_coherency = False


class VfioPfn:
    """``struct vfio_pfn``: a page that drivers have pinned *ref_count* times."""

    __slots__ = ("locked", "page", "ref_count")

    def __init__(self, page: PinnedPages, locked: int) -> None:
        self.page = page
        self.locked = locked  # accounted to the mm
        self.ref_count = 0


class VfioDma:
    """``struct vfio_dma``: one MAP_DMA, from *start* to *last* inclusive."""

    __slots__ = ("bitmap", "last", "locked", "mm", "pages", "pfn_list", "prot", "start", "vaddr", "vaddr_invalid")

    def __init__(self, iova: int, size: int, vaddr: int, prot: int, mm: Mm) -> None:
        self.start = iova
        self.last = iova + size - 1
        self.vaddr = vaddr
        self.prot = prot
        self.mm = mm  # whose memory it is, and who pays for it
        self.pages: PinnedPages | None = None
        self.locked = 0  # pages accounted to mm
        self.vaddr_invalid = False
        self.pfn_list: dict[int, VfioPfn] = {}  # by IOVA
        self.bitmap = 0  # pages that were pinned or written since the last query, and what that left behind them

    @property
    def size(self) -> int:
        return self.last - self.start + 1

    def set_dirty(self, iova: int, last: int) -> None:
        for page in range((iova - self.start) // PAGE_SIZE, (last - self.start) // PAGE_SIZE + 1):
            self.bitmap |= 1 << page

    def populate_bitmap(self, kept: int) -> None:
        """Pages that are pinned are dirty from the start; *kept* is what else there is."""
        self.bitmap = kept
        for iova in self.pfn_list:
            self.set_dirty(iova, iova)


@kstruct()
class VfioIommu:
    """``struct vfio_iommu``: what a container with type1 has. *lock* protects all of it."""

    def __init__(self, v2: bool) -> None:
        self.v2 = v2
        self.lock = Mutex("vfio_iommu.lock")
        self.domain_list: list[VfioDomain] = []
        self.emulated_iommu_groups: list[Any] = []
        self.device_list_lock = Mutex("vfio_iommu.device_list_lock")
        self.device_list: list[VfioDevice] = []  # written under both locks; those that may pin
        self.iova_list: list[tuple[int, int]] = []  # what may be mapped, last inclusive; empty: all
        self.dma_list: IntervalTree[VfioDma] = IntervalTree()
        self.pgsize_bitmap = -PAGE_SIZE & U64_MAX
        self.vaddr_invalid_count = 0
        self.dirty_page_tracking = False

    @property
    def pgsize(self) -> int:
        return self.pgsize_bitmap & -self.pgsize_bitmap


def vfio_update_pgsize_bitmap(iommu: VfioIommu) -> None:
    """The page sizes common to all domains; smaller ones than the CPU's are of no use."""
    bitmap = U64_MAX
    for d in iommu.domain_list:
        bitmap &= d.domain.pgsize_bitmap
    if bitmap & (PAGE_SIZE - 1):
        bitmap = bitmap & -PAGE_SIZE | PAGE_SIZE
    iommu.pgsize_bitmap = bitmap & -PAGE_SIZE & U64_MAX


def vfio_dma_do_map(iommu: VfioIommu, flags: int, vaddr: int, iova: int, size: int) -> None:
    set_vaddr = flags & VFIO_DMA_MAP_FLAG_VADDR
    prot = flags & (VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE)
    if size and (iova + size - 1 > U64_MAX or vaddr + size - 1 > U64_MAX):
        raise Errno(EOVERFLOW)
    if bool(prot) == bool(set_vaddr):
        raise Errno(EINVAL)
    with iommu.lock:
        if not size or (size | iova | vaddr) & (iommu.pgsize - 1):
            raise Errno(EINVAL)
        found = iommu.dma_list.iter_first(iova, iova + size - 1)
        if set_vaddr:
            vfio_set_vaddr(iommu, found, vaddr, iova, size)
            return
        if found is not None:
            raise Errno(EEXIST)
        if len(iommu.dma_list) >= DMA_ENTRY_LIMIT:
            raise Errno(ENOSPC)
        if not vfio_iommu_iova_dma_valid(iommu, iova, iova + size - 1):
            raise Errno(EINVAL)
        dma = VfioDma(iova, size, vaddr, prot, current().process.mm)
        if iommu.domain_list:
            vfio_pin_map_dma(iommu, dma)
        iommu.dma_list.insert(dma)


def vfio_set_vaddr(iommu: VfioIommu, dma: VfioDma | None, vaddr: int, iova: int, size: int) -> None:
    """Give an invalidated mapping its new address, perhaps in another process."""
    lockdep_assert_held(iommu.lock)
    if dma is None:
        raise Errno(ENOENT)
    if not dma.vaddr_invalid or dma.start != iova or dma.size != size:
        raise Errno(EINVAL)
    mm = current().process.mm
    if mm is not dma.mm:
        was, locked = dma.mm, dma.locked
        vfio_lock_acct(mm, locked)
        was.locked_vm -= locked
        dma.mm = mm
    dma.vaddr = vaddr
    dma.vaddr_invalid = False
    iommu.vaddr_invalid_count -= 1


def vfio_iommu_iova_dma_valid(iommu: VfioIommu, start: int, last: int) -> bool:
    return not iommu.iova_list or any(first <= start and last <= end for first, end in iommu.iova_list)


def vfio_lock_acct(mm: Mm, npages: int) -> None:
    """Account *npages* to *mm*. Errno ENOMEM beyond its limit."""
    limit = mm.memlock_limit()
    if limit is not None and mm.locked_vm + npages > limit:
        raise Errno(ENOMEM, f"RLIMIT_MEMLOCK must allow {mm.locked_vm + npages} pages, not {limit}")
    mm.locked_vm += npages


def vfio_pin_map_dma(iommu: VfioIommu, dma: VfioDma) -> None:
    """Pin the memory of *dma* and show it to every domain, or do nothing at all."""
    lockdep_assert_held(iommu.lock)
    writable = bool(dma.prot & VFIO_DMA_MAP_FLAG_WRITE)
    try:
        pages = dma.mm.pin(dma.vaddr, dma.size, writable)
        npages = dma.size // PAGE_SIZE
    except Errno:
        pages = dma.mm.follow_pfn(dma.vaddr, dma.size, writable)
        npages = 0  # another device's memory is nobody's to account for
    try:
        vfio_lock_acct(dma.mm, npages)
    except Errno:
        pages.unpin()
        raise
    dma.pages = pages
    dma.locked = npages
    for vpfn in dma.pfn_list.values():  # counted with the rest now
        dma.mm.locked_vm -= vpfn.locked
        vpfn.locked = 0
    done: list[VfioDomain] = []
    try:
        for d in iommu.domain_list:
            d.domain.map(dma.start, pages, 0, dma.size, dma.prot)
            done.append(d)
    except Errno:
        for d in done:
            d.domain.unmap(dma.start, dma.size)
        vfio_unpin_dma(dma)
        raise


def vfio_unpin_dma(dma: VfioDma) -> None:
    if dma.pages is not None:
        dma.pages.unpin()
        dma.pages = None
        dma.mm.locked_vm -= dma.locked
        dma.locked = 0


def vfio_remove_dma(iommu: VfioIommu, dma: VfioDma) -> None:
    lockdep_assert_held(iommu.lock)
    WARN_ON(dma.pfn_list, "a mapping goes of which pages are pinned")
    # Out of every domain first: while one has it, a device may write to the pages.
    for d in iommu.domain_list:
        d.domain.unmap(dma.start, dma.size)
    vfio_unpin_dma(dma)
    iommu.dma_list.remove(dma)
    if dma.vaddr_invalid:
        iommu.vaddr_invalid_count -= 1


def vfio_iommu_unmap_unpin_all(iommu: VfioIommu) -> None:
    for dma in list(iommu.dma_list.overlapping(0, U64_MAX)):
        vfio_remove_dma(iommu, dma)


def vfio_dma_do_unmap(iommu: VfioIommu, flags: int, iova: int, size: int, bitmap: Any) -> int:
    """
    Unmap, or with the flag VADDR invalidate, what lies in the range; how many bytes.
    *bitmap* is the struct vfio_bitmap of GET_DIRTY_BITMAP, else None.
    """
    everything = flags & VFIO_DMA_UNMAP_FLAG_ALL
    with iommu.lock:
        if flags & VFIO_DMA_UNMAP_FLAG_VADDR and iommu.emulated_iommu_groups:
            raise Errno(EBUSY)
        pgsize = iommu.pgsize
        if iova & (pgsize - 1):
            raise Errno(EINVAL)
        if everything:
            if iova or size:
                raise Errno(EINVAL)
            size = U64_MAX + 1
        elif not size or size & (pgsize - 1):
            raise Errno(EINVAL)
        elif iova + size - 1 > U64_MAX:
            raise Errno(EOVERFLOW)
        if bitmap is not None and (not iommu.dirty_page_tracking or bitmap.pgsize != pgsize):
            raise Errno(EINVAL)
        last = iova + size - 1
        if iommu.v2 and not everything:
            vfio_check_not_cut(iommu, iova, last)
        if flags & VFIO_DMA_UNMAP_FLAG_VADDR:
            return vfio_invalidate_vaddr(iommu, vfio_dma_inside(iommu, iova, last))
        unmapped = 0
        notified: VfioDma | None = None
        retries = 0
        while True:
            pinned: VfioDma | None = None
            for dma in vfio_dma_inside(iommu, iova, last):
                if dma.pfn_list:
                    pinned = dma
                    break
                if bitmap is not None:
                    update_user_bitmap(iommu, dma, iova, bitmap.data)
                vfio_remove_dma(iommu, dma)
                unmapped += dma.size
            if pinned is None:
                return unmapped
            retries = retries + 1 if pinned is notified else 0
            if retries > MAX_RETRIES:
                BUG("a driver does not unpin what is unmapped")
            notified = pinned
            type1_pin.vfio_notify_dma_unmap(iommu, pinned)


def vfio_dma_inside(iommu: VfioIommu, iova: int, last: int) -> list[VfioDma]:
    # v1 lets the range cut mappings: what starts before it stays as it is.
    return [dma for dma in iommu.dma_list.overlapping(iova, last) if dma.start >= iova]


def vfio_invalidate_vaddr(iommu: VfioIommu, inside: list[VfioDma]) -> int:
    if any(dma.vaddr_invalid for dma in inside):
        raise Errno(EINVAL)
    for dma in inside:
        dma.vaddr_invalid = True
    iommu.vaddr_invalid_count += len(inside)
    return sum(dma.size for dma in inside)


def vfio_check_not_cut(iommu: VfioIommu, iova: int, last: int) -> None:
    """Errno EINVAL if a mapping is partly inside and partly outside of the range."""
    for end in (iova, last):
        dma = iommu.dma_list.iter_first(end, end)
        if dma is not None and (dma.start < iova or dma.last > last):
            raise Errno(EINVAL)


def verify_bitmap_size(npages: int, size: int) -> None:
    if not npages or not size or size > DIRTY_BITMAP_SIZE_MAX or size < -(-npages // 64) * 8:
        raise Errno(EINVAL)


def vfio_iova_dirty_bitmap(iommu: VfioIommu, iova: int, size: int, data: int) -> None:
    """Write the dirty bits of the range to *data* in user memory, 8 bytes at a time."""
    lockdep_assert_held(iommu.lock)
    last = iova + size - 1
    vfio_check_not_cut(iommu, iova, last)
    for dma in iommu.dma_list.overlapping(iova, last):
        update_user_bitmap(iommu, dma, iova, data)


def update_user_bitmap(iommu: VfioIommu, dma: VfioDma, base: int, data: int) -> None:
    """
    Set the bits of *dma* in the bitmap that starts at the address *base*. As Linux does,
    it shifts the bits where they are kept, and adds the user's first word to them: what
    is then behind the last page stays, and shows in the next answer; and when the user's
    memory is not there, all of it does.
    """
    nbits = dma.size // iommu.pgsize
    word, shift = divmod((dma.start - base) // iommu.pgsize, 64)
    words = -(-(nbits + shift) // 64)
    inside = (1 << 64 * words) - 1
    if iommu.domain_list:
        dma.bitmap |= (1 << nbits) - 1
    if shift:
        dma.bitmap = dma.bitmap & ~inside | dma.bitmap << shift & inside
        # Another mapping may have its bits in the first word.
        dma.bitmap |= int.from_bytes(copy_from_user(data + word * 8, 8), "little")
    copy_to_user(data + word * 8, (dma.bitmap & inside).to_bytes(words * 8, "little"))
    dma.populate_bitmap(dma.bitmap >> nbits << nbits)

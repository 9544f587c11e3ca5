# SPDX-License-Identifier: GPL-2.0-only
"""
The IOVA space of an IOAS: its areas and its domains.

Mirrors ``drivers/iommu/iommufd/io_pagetable.c``; which addresses are free is in
``iova.py``. Accesses (``access.py``) have a list of their own.

Without pages an area is being added or removed: it keeps its range and nothing else.
"""

from __future__ import annotations

from errno import EADDRINUSE, EBUSY, EDEADLOCK, EINVAL, ENOENT, EOPNOTSUPP, EOVERFLOW, EPERM
from typing import Any

from uvfio.linux.iommu import iommu
from uvfio.linux.iommu.private import IOMMU_WRITE, IommuDomain
from uvfio.linux.iommufd import access
from uvfio.linux.iommufd import iova as iova_ranges
from uvfio.linux.iommufd import pages as iopt_pages
from uvfio.linux.iommufd.iova_bitmap import IovaBitmap
from uvfio.linux.iommufd.private import (
    PAGE_SIZE,
    ULONG_MAX,
    IommufdAccess,
    IoPagetable,
    IoptArea,
    IoptPages,
)
from uvfio.linux.kernel.bug import WARN_ON
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc

MAX_TRIES = 100  # after which an access does not answer

IopteList = list[tuple[IoptPages, int, int]]  # (pages, byte offset, length): what becomes one area each


def iopt_table_destroy(iopt: IoPagetable) -> None:
    iopt_unmap_all(iopt)
    iopt.reserved.clear()
    iopt.allowed.clear()


# Mapping


def iopt_map_pages(iopt: IoPagetable, pieces: IopteList, iova: int | None, near: int, iommu_prot: int) -> int:
    """
    Show *pieces* one after the other from *iova* on, or from a free address that
    suits memory at *near*; answers the address. Takes over the references to pages.
    """
    try:
        iova, areas = _iopt_alloc_area_pages(iopt, pieces, iova, near, iommu_prot)
    except Errno:
        for pages, _offset, _length in pieces:
            iopt_pages.iopt_put_pages(pages)
        raise
    done = 0
    iopt.domains_rwsem.down_read()
    try:
        for area, pages in areas:
            iopt_pages.iopt_area_fill_domains(iopt, area, pages)
            done += 1
        iopt.iova_rwsem.down_write()
        for area, pages in areas:
            area.pages = pages
        iopt.iova_rwsem.up_write()
        return iova
    except Errno:
        for area, pages in areas[:done]:
            iopt_pages.iopt_area_unfill_domains(area, pages, iopt.domains)
        for area, pages in areas:
            _iopt_abort_area(iopt, area)
            iopt_pages.iopt_put_pages(pages)
        raise
    finally:
        iopt.domains_rwsem.up_read()


def _iopt_alloc_area_pages(
    iopt: IoPagetable, pieces: IopteList, iova: int | None, near: int, iommu_prot: int
) -> tuple[int, list[tuple[IoptArea, IoptPages]]]:
    length = sum([piece[2] for piece in pieces])
    areas: list[tuple[IoptArea, IoptPages]] = []
    iopt.iova_rwsem.down_write()
    try:
        if not length or length & (iopt.iova_alignment - 1):
            raise Errno(EINVAL)
        if iova is None:
            iova = iova_ranges.iopt_alloc_iova(iopt, near, length)
        else:
            iova_ranges.iopt_check_iova(iopt, iova, length)
        at = iova
        for pages, offset, piece_length in pieces:
            if iommu_prot & IOMMU_WRITE and not pages.writable:
                raise Errno(EPERM)
            if offset & (iopt.iova_alignment - 1):
                raise Errno(EINVAL)
            area = kzalloc(IoptArea, at, piece_length, offset, iommu_prot)
            iova_ranges.iopt_insert_area(iopt, area)
            areas.append((area, pages))
            at += piece_length
        return iova, areas
    except Errno:
        for area, _pages in areas:
            iova_ranges.iopt_remove_area(iopt, area)
            kfree(area)
        raise
    finally:
        iopt.iova_rwsem.up_write()


def _iopt_abort_area(iopt: IoPagetable, area: IoptArea) -> None:
    iopt.iova_rwsem.down_write()
    iova_ranges.iopt_remove_area(iopt, area)
    iopt.iova_rwsem.up_write()
    kfree(area)


def iopt_get_pages_in(iopt: IoPagetable, iova: int, length: int) -> IopteList:
    """
    What is mapped in the range, as pieces with a reference each: ``iopt_get_pages()``.
    Errno EINVAL length 0, EOVERFLOW, ENOENT when there is a hole.
    """
    if not length:
        raise Errno(EINVAL)
    last = iova + length - 1
    if last > ULONG_MAX:
        raise Errno(EOVERFLOW)
    pieces: IopteList = []
    with iopt.iova_rwsem.read():
        at = iova
        for area in iopt.area_itree.overlapping(iova, last):
            if area.start > at or area.pages is None:
                break
            end = min(area.last, last)
            pieces.append((area.pages, area.byte_offset + at - area.start, end - at + 1))
            at = end + 1
        if at <= last:
            raise Errno(ENOENT)
        for pages, _offset, _length in pieces:
            iopt_pages.iopt_get_pages(pages)
    return pieces


# Unmapping


def iopt_unmap_iova(iopt: IoPagetable, iova: int, length: int) -> int:
    """Errno EINVAL length 0, EOVERFLOW, and see :func:`_iopt_unmap_iova_range`."""
    if not length:
        raise Errno(EINVAL)
    last = iova + length - 1
    if last > ULONG_MAX:
        raise Errno(EOVERFLOW)
    unmapped = _iopt_unmap_iova_range(iopt, iova, last)
    if not unmapped:
        raise Errno(ENOENT)
    return unmapped


def iopt_unmap_all(iopt: IoPagetable) -> int:
    """Everything; nothing there is no error."""
    return _iopt_unmap_iova_range(iopt, 0, ULONG_MAX)


class PartlyUnmapped(Errno):
    """The error, when areas are gone already."""

    def __init__(self, error: Errno, unmapped: int) -> None:
        super().__init__(error.number, error.why)
        self.unmapped = unmapped


def _iopt_unmap_iova_range(iopt: IoPagetable, start: int, last: int) -> int:
    """
    Remove every area in the range, ascending; how many bytes that was. PartlyUnmapped: ENOENT
    at one that is only partly inside, EBUSY at one that another task is at.
    """
    unmapped = tries = 0
    iopt.domains_rwsem.down_read()
    iopt.iova_rwsem.down_write()
    try:
        while (area := iopt.area_itree.iter_first(start, last)) is not None:
            pages = area.pages
            if pages is None:
                raise Errno(EBUSY)
            if area.num_locks:
                raise Errno(EBUSY, "locked by a hardware queue")
            if area.start < start or area.last > last:
                raise Errno(ENOENT)
            if area.start != start:
                tries = 0
            if area.num_accesses:
                start = area.start
                area.prevent_access = True
                _ask_to_unpin(iopt, area)
                tries += 1
                if WARN_ON(tries > MAX_TRIES, "an access does not unpin what is unmapped"):
                    raise Errno(EDEADLOCK)
                continue
            area.pages = None
            iopt.iova_rwsem.up_write()
            # Others see the range as taken, but nothing to unmap, while the domains change.
            iopt_pages.iopt_area_unfill_domains(area, pages, iopt.domains)
            iopt_pages.iopt_put_pages(pages)
            iopt.iova_rwsem.down_write()
            iova_ranges.iopt_remove_area(iopt, area)
            start = area.last + 1
            unmapped += start - area.start
            kfree(area)
            if start > last:
                break
        return unmapped
    except Errno as error:
        raise PartlyUnmapped(error, unmapped) from None
    finally:
        iopt.iova_rwsem.up_write()
        iopt.domains_rwsem.up_read()


def _ask_to_unpin(iopt: IoPagetable, area: IoptArea) -> None:
    """Without locks, because the drivers take theirs; anything may have changed then."""
    first, length = area.start, area.last - area.start + 1
    iopt.iova_rwsem.up_write()
    iopt.domains_rwsem.up_read()
    access.iommufd_access_notify_unmap(iopt, first, length)
    iopt.domains_rwsem.down_read()
    iopt.iova_rwsem.down_write()


def iopt_cut_iova(iopt: IoPagetable, iovas: list[int]) -> None:
    """
    Split areas so that none goes across one of *iovas*, each the first address of a
    new area. Errno EINVAL when one that is split would not be aligned then, EOPNOTSUPP dma-buf, EBUSY.
    """
    iopt.domains_rwsem.down_write()
    iopt.iova_rwsem.down_write()
    try:
        for iova in iovas:
            area = iopt.area_itree.iter_first(iova, iova)
            if area is not None and area.start < iova:
                _iopt_area_split(iopt, area, iova)
    finally:
        iopt.iova_rwsem.up_write()
        iopt.domains_rwsem.up_write()


def _iopt_area_split(iopt: IoPagetable, area: IoptArea, iova: int) -> None:
    pages = area.pages
    if pages is None:
        raise Errno(EBUSY)
    if iova & (iopt.iova_alignment - 1):
        raise Errno(EINVAL)
    if pages.dmabuf is not None:
        raise Errno(EOPNOTSUPP)
    if area.num_accesses:
        raise Errno(EINVAL)
    iova_ranges.iopt_remove_area(iopt, area)
    head = kzalloc(IoptArea, area.start, iova - area.start, area.byte_offset, area.iommu_prot)
    offset = area.byte_offset + iova - area.start
    tail = kzalloc(IoptArea, iova, area.last - iova + 1, offset, area.iommu_prot)
    iopt_pages.iopt_area_split_fill(area, pages, (head, tail))
    for part in (head, tail):
        part.pages = pages
        iova_ranges.iopt_insert_area(iopt, part)
    iopt_pages.iopt_get_pages(pages)
    kfree(area)


def iopt_table_enforce_dev_resv_regions(iopt: IoPagetable, dev: Any) -> None:
    """Keep mappings out of what *dev* cannot use. Errno EADDRINUSE: nothing has changed then."""
    with iopt.iova_rwsem.write():
        try:
            for region in iommu.iommu_get_resv_regions(dev):
                iova_ranges.iopt_reserve_iova(iopt, region.start, region.last, dev)
        except Errno:
            iova_ranges.__iopt_remove_reserved_iova(iopt, dev)
            raise


# Accesses


def iopt_add_access(iopt: IoPagetable, user: IommufdAccess) -> None:
    """Errno EADDRINUSE when an area is finer than the access needs."""
    with iopt.domains_rwsem.write(), iopt.iova_rwsem.write():
        alignment = _iopt_calculate_iova_alignment(iopt, iopt.domains, user.iova_alignment)
        with iopt.access_list.xa_lock:  # which Linux's xa_alloc() takes
            user.iopt_access_list_id = iopt.access_list.alloc(user)
        iopt.iova_alignment = alignment


def iopt_remove_access(iopt: IoPagetable, user: IommufdAccess, iopt_access_list_id: int) -> None:
    with iopt.domains_rwsem.write(), iopt.iova_rwsem.write():
        with iopt.access_list.xa_lock:
            was = iopt.access_list.erase(iopt_access_list_id)
        WARN_ON(was is not user, "an access is taken from a list that it is not on")
        iopt.iova_alignment = _iopt_calculate_iova_alignment(iopt, iopt.domains)


# Domains


def iopt_table_add_domain(iopt: IoPagetable, domain: IommuDomain) -> None:
    """
    Show every area in *domain* too. Errno EADDRINUSE when its aperture or page size
    does not suit an area, EFAULT and ENOMEM from pinning.
    """
    with iopt.domains_rwsem.write(), iopt.iova_rwsem.write():
        alignment = _iopt_calculate_iova_alignment(iopt, [*iopt.domains, domain])
        try:
            if domain.force_aperture:
                if domain.aperture_start:
                    iova_ranges.iopt_reserve_iova(iopt, 0, domain.aperture_start - 1, domain)
                if domain.aperture_end != ULONG_MAX:
                    iova_ranges.iopt_reserve_iova(iopt, domain.aperture_end + 1, ULONG_MAX, domain)
            _iopt_fill_domain(iopt, domain)
        except Errno:
            iova_ranges.__iopt_remove_reserved_iova(iopt, domain)
            raise
        iopt.iova_alignment = alignment
        iopt.domains.append(domain)


def iopt_table_remove_domain(iopt: IoPagetable, domain: IommuDomain) -> None:
    with iopt.domains_rwsem.write(), iopt.iova_rwsem.write():
        for area in iopt.area_itree:
            if area.pages is not None:
                iopt_pages.iopt_area_unfill_domain(area, area.pages, iopt, domain)
        iopt.domains.remove(domain)
        iova_ranges.__iopt_remove_reserved_iova(iopt, domain)
        iopt.iova_alignment = _iopt_calculate_iova_alignment(iopt, iopt.domains)


def iopt_set_dirty_tracking(iopt: IoPagetable, domain: IommuDomain, enable: bool) -> None:
    """Errno EOPNOTSUPP when the domain cannot. What was dirty before is forgotten when it begins."""
    with iopt.iova_rwsem.read():
        if not domain.dirty_tracking:
            raise Errno(EOPNOTSUPP)
        if enable:
            domain.clear_dirty(0, ULONG_MAX + 1)
        domain.set_dirty_tracking(enable)


def iopt_read_and_clear_dirty_data(iopt: IoPagetable, domain: IommuDomain, no_clear: bool, bitmap: IovaBitmap) -> None:
    """
    Set the bits of what is dirty, up to the first hole. Errno EOPNOTSUPP when the domain
    does not track; other errors end the walk, and are dropped, as Linux does.
    """
    with iopt.iova_rwsem.read():
        if not domain.dirty_tracking:
            raise Errno(EOPNOTSUPP)
        try:
            end = _contiguous_until(iopt, domain, bitmap.iova, bitmap.iova + bitmap.length - 1)
            if end > bitmap.iova:
                bitmap.set(domain.read_and_clear_dirty(bitmap.iova, end - bitmap.iova, no_clear))
        except Errno:
            return


def _contiguous_until(iopt: IoPagetable, domain: IommuDomain, iova: int, last: int) -> int:
    """How far the range is mapped; what is behind the last dirty leaf is not looked at."""
    at = iova
    while at <= last:
        area = iopt.area_itree.iter_first(at, at)
        if area is None or area.pages is None:
            return at
        at = area.last + 1
        if domain.dirty.iter_first(at, last) is None:
            break
    return min(at, last + 1)


def _iopt_fill_domain(iopt: IoPagetable, domain: IommuDomain) -> None:
    done: list[tuple[IoptArea, IoptPages]] = []
    try:
        for area in iopt.area_itree:
            if area.pages is not None:
                iopt_pages.iopt_area_fill_domain(iopt, area, area.pages, domain)
                done.append((area, area.pages))
    except Errno:
        for area, pages in done:
            if iopt.domains:
                iopt_pages.iopt_area_unfill_domain(area, pages, iopt, domain)
            else:
                iopt_pages.iopt_area_unfill_domains(area, pages, [domain])
        raise


def _iopt_calculate_iova_alignment(iopt: IoPagetable, domains: list[IommuDomain], alignment: int = 1) -> int:
    """
    At least *alignment*. Errno EADDRINUSE when an area is finer than the alignment
    needed, EINVAL IO pages above PAGE_SIZE.
    """
    if iopt.disable_large_pages:
        alignment = max(alignment, PAGE_SIZE)
    for _index, user in iopt.access_list.items():
        alignment = max(alignment, user.iova_alignment)
    for domain in domains:
        alignment = max(alignment, domain.pgsize_bitmap & -domain.pgsize_bitmap)
    if alignment > PAGE_SIZE:
        raise Errno(EINVAL)
    if alignment > iopt.iova_alignment:
        for area in iopt.area_itree:
            if (area.start | (area.last + 1) | area.byte_offset) & (alignment - 1):
                raise Errno(EADDRINUSE)
    return alignment


def iopt_enable_large_pages(iopt: IoPagetable) -> None:
    with iopt.domains_rwsem.write(), iopt.iova_rwsem.write():
        iopt.disable_large_pages = False
        iopt.iova_alignment = _iopt_calculate_iova_alignment(iopt, iopt.domains)


def iopt_disable_large_pages(iopt: IoPagetable) -> None:
    """Errno EINVAL while there are domains and areas, EADDRINUSE at an area that is not page aligned."""
    with iopt.domains_rwsem.write(), iopt.iova_rwsem.write():
        if iopt.disable_large_pages:
            return
        if iopt.domains and len(iopt.area_itree):
            raise Errno(EINVAL)
        iopt.disable_large_pages = True
        try:
            iopt.iova_alignment = _iopt_calculate_iova_alignment(iopt, iopt.domains)
        except Errno:
            iopt.disable_large_pages = False
            raise

# SPDX-License-Identifier: GPL-2.0-only
"""
Which addresses of an IOAS are free: fixed and automatic IOVAs, reserved and allowed ranges.

Mirrors those parts of ``drivers/iommu/iommufd/io_pagetable.c``. Difference from Linux:
the alignment of an automatic IOVA is at most 2 MiB, as with transparent huge pages.
All callers hold ``iova_rwsem``, unless a function takes it.
"""

from __future__ import annotations

from errno import EADDRINUSE, EEXIST, EINVAL, ENOSPC, EOVERFLOW
from typing import Any

from uvfio.linux.iommufd.private import PAGE_SIZE, ULONG_MAX, IoPagetable, IoptArea, IoptReserved
from uvfio.linux.kernel.bug import lockdep_assert_held
from uvfio.runtime.errors import Errno

HPAGE_SIZE = 2 << 20


def iopt_check_iova(iopt: IoPagetable, iova: int, length: int) -> None:
    """A fixed address. Errno EINVAL alignment or reserved, EOVERFLOW, EEXIST."""
    if iova & (iopt.iova_alignment - 1):
        raise Errno(EINVAL)
    last = iova + length - 1
    if last > ULONG_MAX:
        raise Errno(EOVERFLOW)
    for reserved in iopt.reserved:
        if reserved.start <= last and iova <= reserved.last:
            raise Errno(EINVAL, "reserved")
    if iopt.area_itree.iter_first(iova, last) is not None:
        raise Errno(EEXIST)


def iopt_alloc_iova(iopt: IoPagetable, uptr: int, length: int) -> int:
    """The lowest hole that fits. Errno EOVERFLOW, EINVAL alignment, ENOSPC."""
    page_offset = uptr % PAGE_SIZE
    if length >= ULONG_MAX // 2:
        raise Errno(EOVERFLOW)
    alignment = 1 << (length - 1).bit_length()
    if uptr:
        alignment = min(alignment, uptr & -uptr)
    alignment = min(alignment, HPAGE_SIZE)
    if alignment < iopt.iova_alignment:
        raise Errno(EINVAL)
    ranges = iopt.allowed or [(PAGE_SIZE, ULONG_MAX - PAGE_SIZE)]
    for start, last in ranges:
        start, last = max(start, _skip_full(iopt)), min(last, ULONG_MAX - PAGE_SIZE)
        found = _find_hole(iopt, start, last, length, alignment, page_offset)
        if found is not None:
            return found
    raise Errno(ENOSPC)


def iopt_remove_area(iopt: IoPagetable, area: IoptArea) -> None:
    iopt.area_itree.remove(area)
    iopt.full_below = min(iopt.full_below, area.start)


def _skip_full(iopt: IoPagetable) -> int:
    """The lowest address that no area has: many areas in a row are not looked at again and again."""
    while (area := iopt.area_itree.iter_first(iopt.full_below, iopt.full_below)) is not None:
        iopt.full_below = area.last + 1
    return iopt.full_below


def _find_hole(iopt: IoPagetable, start: int, last: int, length: int, alignment: int, page_offset: int) -> int | None:
    reserved = sorted((r.start, r.last) for r in iopt.reserved)
    areas = iopt.area_itree
    at = start
    while True:
        # Addresses with the in-page offset of the memory keep page and sub-page alignment both.
        at = _align(at, alignment, page_offset)
        if at + length - 1 > last:
            return None
        area = areas.iter_first(at, at + length - 1)
        blocked = -1 if area is None else area.last
        for low, high in reserved:
            if low <= at + length - 1 and at <= high:
                blocked = max(blocked, high)
        if blocked < 0:
            return at
        at = blocked + 1


def _align(at: int, alignment: int, page_offset: int) -> int:
    """The lowest address from *at* on that suits both."""
    if alignment >= PAGE_SIZE or not page_offset:
        step = max(alignment, PAGE_SIZE) if page_offset else alignment
        return at + (page_offset - at) % step
    return at + (page_offset - at) % PAGE_SIZE


def iopt_reserve_iova(iopt: IoPagetable, start: int, last: int, owner: Any) -> None:
    """Errno EADDRINUSE when an area or an allowed range is in the way."""
    lockdep_assert_held(iopt.iova_rwsem)
    if iopt.area_itree.iter_first(start, last) is not None:
        raise Errno(EADDRINUSE)
    if any(low <= last and start <= high for low, high in iopt.allowed):
        raise Errno(EADDRINUSE)
    iopt.reserved.append(IoptReserved(start, last, owner))


def iopt_remove_reserved_iova(iopt: IoPagetable, owner: Any) -> None:
    with iopt.iova_rwsem.write():
        __iopt_remove_reserved_iova(iopt, owner)


def __iopt_remove_reserved_iova(iopt: IoPagetable, owner: Any) -> None:
    iopt.reserved = [reserved for reserved in iopt.reserved if reserved.owner is not owner]


def iopt_set_allow_iova(iopt: IoPagetable, allowed: list[tuple[int, int]]) -> None:
    """Replace the allow list. Errno EADDRINUSE when it hits a reserved range: the old one stays."""
    with iopt.iova_rwsem.write():
        for low, high in allowed:
            if any(r.start <= high and low <= r.last for r in iopt.reserved):
                raise Errno(EADDRINUSE)
        iopt.allowed = sorted(allowed)


def iopt_iova_ranges(iopt: IoPagetable) -> list[tuple[int, int]]:
    """The complement of what is reserved, ascending; caller holds ``iova_rwsem``."""
    ranges: list[tuple[int, int]] = []
    at = 0
    for start, last in sorted((r.start, r.last) for r in iopt.reserved):
        if start > at:
            ranges.append((at, start - 1))
        at = max(at, last + 1)
    if at <= ULONG_MAX:
        ranges.append((at, ULONG_MAX))
    return ranges

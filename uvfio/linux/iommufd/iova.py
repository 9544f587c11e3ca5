# SPDX-License-Identifier: GPL-2.0-only
"""
Which addresses of an IOAS are free: fixed and automatic IOVAs, reserved and allowed ranges.

Mirrors those parts of ``drivers/iommu/iommufd/io_pagetable.c``. Difference from Linux:
the alignment of an automatic IOVA is at most 2 MiB, as with transparent huge pages.
All callers hold ``iova_rwsem``, unless a function takes it.
"""

from __future__ import annotations

from errno import EADDRINUSE, EEXIST, EINVAL, ENOSPC, EOVERFLOW
from heapq import heappop, heappush
from typing import Any

from uvfio.linux.iommufd.private import PAGE_SIZE, ULONG_MAX, IoPagetable, IoptArea, IoptReserved
from uvfio.linux.kernel.bug import lockdep_assert_held
from uvfio.runtime.errors import Errno

HPAGE_SIZE = 2 << 20
MANY_HOLES = 1024


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
    if length >= ULONG_MAX // 2:
        raise Errno(EOVERFLOW)
    alignment = 1 << (length - 1).bit_length()
    if uptr:
        alignment = min(alignment, uptr & -uptr)
    alignment = min(alignment, HPAGE_SIZE)
    if alignment < iopt.iova_alignment:
        raise Errno(EINVAL)
    lowest = _lowest_hole(iopt)
    reserved = sorted((r.start, r.last) for r in iopt.reserved)
    for start, last in iopt.allowed or [(0, ULONG_MAX)]:
        last = min(last, ULONG_MAX - PAGE_SIZE)
        # The range is cut to what suits first: that is why its first page is used differently.
        suits = _fit(max(start, PAGE_SIZE), last, length, alignment, uptr % PAGE_SIZE)
        if suits is None:
            continue
        found = _find_hole(iopt, reserved, max(suits, lowest), last, length, alignment, uptr % PAGE_SIZE)
        if found is not None:
            return found
    raise Errno(ENOSPC)


def iopt_insert_area(iopt: IoPagetable, area: IoptArea) -> None:
    iopt.area_itree.insert(area)
    if area.start < iopt.full_below:
        # It may have left a hole behind itself; the one in front has its entry.
        heappush(iopt.holes, area.last + 1)


def iopt_remove_area(iopt: IoPagetable, area: IoptArea) -> None:
    areas = iopt.area_itree
    areas.remove(area)
    if area.start < iopt.full_below:
        heappush(iopt.holes, max(area.start, PAGE_SIZE))
        if len(iopt.holes) > 2 * len(areas) + MANY_HOLES:
            # Nobody has asked for a hole for long: so many entries are of no use.
            iopt.holes.clear()
            iopt.full_below = PAGE_SIZE


def _lowest_hole(iopt: IoPagetable) -> int:
    """
    The lowest address from PAGE_SIZE on that no area has. Areas in a row are not looked at
    again and again, and holes low down are not forgotten.
    """
    areas, holes = iopt.area_itree, iopt.holes
    while holes:
        at = holes[0]
        if at >= PAGE_SIZE and areas.iter_first(at, at) is None:
            return at
        heappop(holes)
    iopt.full_below = areas.hole(iopt.full_below, 1)[0]
    return iopt.full_below


def _find_hole(
    iopt: IoPagetable,
    reserved: list[tuple[int, int]],
    start: int,
    last: int,
    length: int,
    alignment: int,
    page_offset: int,
) -> int | None:
    at = start
    while True:
        low, high = iopt.area_itree.hole(at, length)
        high = last if high is None else min(high, last)
        if low + length - 1 > last:
            return None
        for first, end in reserved:
            if end < low:
                continue
            if first > high:
                break
            if first > low:
                found = _fit(low, first - 1, length, alignment, page_offset)
                if found is not None:
                    return found
            low = max(low, end + 1)
        found = _fit(low, high, length, alignment, page_offset)
        if found is not None:
            return found
        at = max(low, high + 1)
        if at > last:
            return None


def _fit(start: int, last: int, length: int, alignment: int, page_offset: int) -> int | None:
    """The lowest address of a hole that suits, with the offset in a page that the memory has."""
    at = (start + alignment - 1) & -alignment | page_offset
    return at if at < last and last - at >= length - 1 else None


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
        iopt.allowed = []
        for low, high in sorted(allowed):
            if iopt.allowed and iopt.allowed[-1][1] + 1 == low:
                # What is allowed in two pieces may be used as one.
                low = iopt.allowed.pop()[0]
            iopt.allowed.append((low, high))


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

# SPDX-License-Identifier: GPL-2.0-only
"""
The IOMMU driver of containers on x86. Mirrors ``drivers/vfio/vfio_iommu_type1.c``: groups
and domains, and the ioctls; mappings are in ``type1_dma.py``.

Difference from Linux: module parameters are fixed at their defaults.
"""

from __future__ import annotations

from errno import EACCES, EBUSY, EINVAL, ENOTTY, EOVERFLOW, EPERM
from typing import Any

from uvfio.linux.iommu import iommu as iommu_core
from uvfio.linux.iommu.private import IOMMU_RESV_DIRECT_RELAXABLE, IommuDomain
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.linux.vfio import container, main, type1_dma, type1_pin
from uvfio.linux.vfio.private import VFIO_EMULATED_IOMMU, VfioDevice, VfioIommuDriverOps
from uvfio.linux.vfio.type1_dma import DIRTY_BITMAP_SIZE_MAX, DMA_ENTRY_LIMIT, U64_MAX, VfioDomain, VfioIommu
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.uapi.vfio import (
    VFIO_DMA_CC_IOMMU,
    VFIO_DMA_MAP_FLAG_READ,
    VFIO_DMA_MAP_FLAG_VADDR,
    VFIO_DMA_MAP_FLAG_WRITE,
    VFIO_DMA_UNMAP_FLAG_ALL,
    VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP,
    VFIO_DMA_UNMAP_FLAG_VADDR,
    VFIO_IOMMU_DIRTY_PAGES,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_START,
    VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP,
    VFIO_IOMMU_GET_INFO,
    VFIO_IOMMU_INFO_CAPS,
    VFIO_IOMMU_INFO_PGSIZES,
    VFIO_IOMMU_MAP_DMA,
    VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE,
    VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION,
    VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL,
    VFIO_IOMMU_UNMAP_DMA,
    VFIO_TYPE1_IOMMU,
    VFIO_UNMAP_ALL,
    VFIO_UPDATE_VADDR,
    VFIO_TYPE1v2_IOMMU,
    vfio_bitmap,
    vfio_iommu_type1_dirty_bitmap,
    vfio_iommu_type1_dirty_bitmap_get,
    vfio_iommu_type1_dma_map,
    vfio_iommu_type1_dma_unmap,
    vfio_iommu_type1_info,
    vfio_iova_range,
)

INFO_MIN_SIZE = vfio_iommu_type1_info.offsetof("cap_offset")
MAP_FLAGS = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE | VFIO_DMA_MAP_FLAG_VADDR
UNMAP_FLAGS = VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP | VFIO_DMA_UNMAP_FLAG_ALL | VFIO_DMA_UNMAP_FLAG_VADDR
DIRTY_FLAGS = (
    VFIO_IOMMU_DIRTY_PAGES_FLAG_START | VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP | VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP
)


class VfioIommuType1(VfioIommuDriverOps):
    """``vfio_iommu_driver_ops_type1``."""

    name = "vfio-iommu-type1"

    def open(self, arg: int) -> VfioIommu:
        if arg not in (VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU):
            raise Errno(EINVAL)
        return kzalloc(VfioIommu, arg == VFIO_TYPE1v2_IOMMU)

    def release(self, data: VfioIommu) -> None:
        WARN_ON(data.domain_list or data.emulated_iommu_groups, "type1 is released with groups attached")
        with data.lock:
            type1_dma.vfio_iommu_unmap_unpin_all(data)
        kfree(data)

    def check_extension(self, data: VfioIommu | None, arg: int) -> int:
        if arg in (VFIO_TYPE1_IOMMU, VFIO_TYPE1v2_IOMMU, VFIO_UNMAP_ALL):
            return 1
        if data is None:
            return 0
        if arg == VFIO_DMA_CC_IOMMU:
            with data.lock:
                return int(all(d.enforce_cache_coherency for d in data.domain_list))
        if arg == VFIO_UPDATE_VADDR:
            with data.lock:
                return int(not data.emulated_iommu_groups)
        return 0

    def ioctl(self, data: VfioIommu, cmd: int, arg: int) -> int:
        if cmd == VFIO_IOMMU_MAP_DMA:
            return vfio_iommu_type1_map_dma(data, arg)
        if cmd == VFIO_IOMMU_UNMAP_DMA:
            return vfio_iommu_type1_unmap_dma(data, arg)
        if cmd == VFIO_IOMMU_GET_INFO:
            return vfio_iommu_type1_get_info(data, arg)
        if cmd == VFIO_IOMMU_DIRTY_PAGES:
            return vfio_iommu_type1_dirty_pages(data, arg)
        raise Errno(ENOTTY)

    def attach_group(self, data: VfioIommu, iommu_group: Any, type: str) -> None:
        vfio_iommu_type1_attach_group(data, iommu_group, type)

    def detach_group(self, data: VfioIommu, iommu_group: Any) -> None:
        vfio_iommu_type1_detach_group(data, iommu_group)

    def register_device(self, data: VfioIommu, device: VfioDevice) -> None:
        type1_pin.vfio_iommu_type1_register_device(data, device)

    def unregister_device(self, data: VfioIommu, device: VfioDevice) -> None:
        type1_pin.vfio_iommu_type1_unregister_device(data, device)

    def pin_pages(self, data: VfioIommu, iova: int, npage: int, prot: int) -> list[Any]:
        return type1_pin.vfio_iommu_type1_pin_pages(data, iova, npage, prot)

    def unpin_pages(self, data: VfioIommu, iova: int, npage: int) -> None:
        type1_pin.vfio_iommu_type1_unpin_pages(data, iova, npage)

    def dma_rw(self, data: VfioIommu, iova: int, length: int, write: bytes | None) -> bytes:
        return type1_pin.vfio_iommu_type1_dma_rw(data, iova, length, write)


def vfio_iommu_type1_init() -> None:
    container.vfio_register_iommu_driver(VfioIommuType1())


def vfio_iommu_type1_attach_group(iommu: VfioIommu, iommu_group: Any, type: str) -> None:
    with iommu.lock:
        if iommu.vaddr_invalid_count:
            raise Errno(EBUSY)
        if any(iommu_group in d.group_list for d in iommu.domain_list):
            raise Errno(EINVAL)
        if type == VFIO_EMULATED_IOMMU:
            iommu.emulated_iommu_groups.append(iommu_group)
            return
        domain = iommu_core.iommu_paging_domain_alloc_flags(iommu_group.devices[0].dev)
        try:
            iommu_core.iommu_attach_group(domain, iommu_group)
        except Errno:
            iommu_core.iommu_domain_free(domain)
            raise
        try:
            vfio_iommu_add_group(iommu, domain, iommu_group)
        except Errno:
            iommu_core.iommu_detach_group(domain, iommu_group)
            iommu_core.iommu_domain_free(domain)
            raise


def vfio_iommu_add_group(iommu: VfioIommu, domain: IommuDomain, iommu_group: Any) -> None:
    """*iommu_group* is attached to its own *domain*: share one with others, or fill that."""
    lockdep_assert_held(iommu.lock)
    ranges = vfio_iommu_valid_ranges(iommu.iova_list, domain, iommu_group)
    for dma in iommu.dma_list.overlapping(0, U64_MAX):
        if not any(first <= dma.start and dma.last <= last for first, last in ranges):
            raise Errno(EINVAL, "a mapping is where the group cannot have one")
    if not iommu_core.iommu_group_has_isolated_msi(iommu_group):
        raise Errno(EPERM)
    new = VfioDomain(domain)
    new.enforce_cache_coherency = domain.enforce_cache_coherency()
    for d in iommu.domain_list:
        if d.domain.ops is domain.ops and d.enforce_cache_coherency == new.enforce_cache_coherency:
            iommu_core.iommu_detach_group(domain, iommu_group)
            try:
                iommu_core.iommu_attach_group(d.domain, iommu_group)
            except Errno:
                iommu_core.iommu_attach_group(domain, iommu_group)
                continue
            iommu_core.iommu_domain_free(domain)
            d.group_list.append(iommu_group)
            iommu.iova_list = ranges
            return
    new.group_list.append(iommu_group)
    vfio_iommu_replay(iommu, new)
    iommu.domain_list.append(new)
    iommu.iova_list = ranges
    type1_dma.vfio_update_pgsize_bitmap(iommu)


def vfio_iommu_replay(iommu: VfioIommu, new: VfioDomain) -> None:
    """Map in *new* what is mapped already, or nothing."""
    lockdep_assert_held(iommu.lock)
    try:
        for dma in iommu.dma_list.overlapping(0, U64_MAX):
            if dma.pages is None:  # mapped when there were emulated groups only
                type1_dma.vfio_pin_map_dma(iommu, dma)
            assert dma.pages is not None
            new.domain.map(dma.start, dma.pages, 0, dma.size, dma.prot)
    except Errno:
        new.domain.unmap(0, U64_MAX + 1)
        if not iommu.domain_list:
            type1_pin.vfio_iommu_unmap_unpin_reaccount(iommu)
        raise


def vfio_iommu_valid_ranges(
    ranges: list[tuple[int, int]], domain: IommuDomain, iommu_group: Any
) -> list[tuple[int, int]]:
    """What is left of *ranges* (empty: of everything) when *iommu_group* joins."""
    start, last = domain.aperture_start, domain.aperture_end
    ranges = [(max(a, start), min(b, last)) for a, b in ranges or [(0, U64_MAX)] if a <= last and b >= start]
    for region in iommu_core.iommu_get_group_resv_regions(iommu_group):
        if region.type == IOMMU_RESV_DIRECT_RELAXABLE:
            continue
        pieces = [((a, min(b, region.start - 1)), (max(a, region.last + 1), b)) for a, b in ranges]
        ranges = [piece for pair in pieces for piece in pair if piece[0] <= piece[1]]
    return ranges


def vfio_iommu_type1_detach_group(iommu: VfioIommu, iommu_group: Any) -> None:
    with iommu.lock:
        if iommu_group in iommu.emulated_iommu_groups:
            iommu.emulated_iommu_groups.remove(iommu_group)
            if not iommu.emulated_iommu_groups and not iommu.domain_list:
                WARN_ON(iommu.device_list, "the last group leaves with devices open")
                type1_dma.vfio_iommu_unmap_unpin_all(iommu)
            return
        d = next(d for d in iommu.domain_list if iommu_group in d.group_list)
        iommu_core.iommu_detach_group(d.domain, iommu_group)
        d.group_list.remove(iommu_group)
        if not d.group_list:
            # With the last group go all mappings. Emulated ones keep them, but need
            # nothing pinned.
            last = len(iommu.domain_list) == 1
            if last and not iommu.emulated_iommu_groups:
                type1_dma.vfio_iommu_unmap_unpin_all(iommu)
            elif last:
                d.domain.unmap(0, U64_MAX + 1)
                type1_pin.vfio_iommu_unmap_unpin_reaccount(iommu)
            iommu.domain_list.remove(d)
            iommu_core.iommu_domain_free(d.domain)
            type1_dma.vfio_update_pgsize_bitmap(iommu)
        iommu.iova_list = []
        for d in iommu.domain_list:
            for group in d.group_list:
                iommu.iova_list = vfio_iommu_valid_ranges(iommu.iova_list, d.domain, group)


def vfio_iommu_type1_get_info(iommu: VfioIommu, arg: int) -> int:
    info = vfio_iommu_type1_info.unpack(copy_from_user(arg, INFO_MIN_SIZE))
    if info.argsz < INFO_MIN_SIZE:
        raise Errno(EINVAL)
    size = min(info.argsz, vfio_iommu_type1_info.size_of)
    with iommu.lock:
        info.flags = VFIO_IOMMU_INFO_PGSIZES | VFIO_IOMMU_INFO_CAPS
        info.iova_pgsizes = iommu.pgsize_bitmap
        caps = main.vfio_info_cap_chain(vfio_iommu_info_caps(iommu), vfio_iommu_type1_info.size_of)
    info.cap_offset = 0
    if info.argsz < vfio_iommu_type1_info.size_of + len(caps):
        info.argsz = vfio_iommu_type1_info.size_of + len(caps)
    else:
        copy_to_user(arg + vfio_iommu_type1_info.size_of, caps)
        info.cap_offset = vfio_iommu_type1_info.size_of
    copy_to_user(arg, info.pack()[:size])
    return 0


def vfio_iommu_info_caps(iommu: VfioIommu) -> list[tuple[int, int, bytes]]:
    lockdep_assert_held(iommu.lock)
    migration = b"".join(n.to_bytes(8, "little") for n in (0, iommu.pgsize, DIRTY_BITMAP_SIZE_MAX))
    avail = (DMA_ENTRY_LIMIT - len(iommu.dma_list)).to_bytes(4, "little")
    caps = [
        (VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION, 1, migration),
        (VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1, avail),
    ]
    if iommu.iova_list:
        ranges = b"".join(vfio_iova_range(start=start, end=last).pack() for start, last in iommu.iova_list)
        body = len(iommu.iova_list).to_bytes(8, "little") + ranges
        caps.append((VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, body))
    return caps


def vfio_iommu_type1_map_dma(iommu: VfioIommu, arg: int) -> int:
    dma_map = vfio_iommu_type1_dma_map.unpack(copy_from_user(arg, vfio_iommu_type1_dma_map.size_of))
    if dma_map.argsz < vfio_iommu_type1_dma_map.size_of or dma_map.flags & ~MAP_FLAGS:
        raise Errno(EINVAL)
    type1_dma.vfio_dma_do_map(iommu, dma_map.flags, dma_map.vaddr, dma_map.iova, dma_map.size)
    return 0


def vfio_iommu_type1_unmap_dma(iommu: VfioIommu, arg: int) -> int:
    fixed = vfio_iommu_type1_dma_unmap.size_of
    unmap = vfio_iommu_type1_dma_unmap.unpack(copy_from_user(arg, fixed))
    if unmap.argsz < fixed or unmap.flags & ~UNMAP_FLAGS:
        raise Errno(EINVAL)
    bitmap = None
    if unmap.flags & VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP:
        if unmap.flags & (VFIO_DMA_UNMAP_FLAG_ALL | VFIO_DMA_UNMAP_FLAG_VADDR):
            raise Errno(EINVAL)
        if unmap.argsz < fixed + vfio_bitmap.size_of:
            raise Errno(EINVAL)
        bitmap = vfio_bitmap.unpack(copy_from_user(arg + fixed, vfio_bitmap.size_of))
        vfio_check_bitmap(bitmap.pgsize, unmap.size, bitmap.size)
    unmap.size = type1_dma.vfio_dma_do_unmap(iommu, unmap.flags, unmap.iova, unmap.size, bitmap)
    copy_to_user(arg, unmap.pack())
    return 0


def vfio_check_bitmap(pgsize: int, size: int, bitmap_size: int) -> None:
    if not pgsize or pgsize & (pgsize - 1):
        raise Errno(EINVAL)
    type1_dma.verify_bitmap_size(size // pgsize, bitmap_size)


def vfio_iommu_type1_dirty_pages(iommu: VfioIommu, arg: int) -> int:
    fixed = vfio_iommu_type1_dirty_bitmap.size_of
    if not iommu.v2:
        raise Errno(EACCES)
    dirty = vfio_iommu_type1_dirty_bitmap.unpack(copy_from_user(arg, fixed))
    if dirty.argsz < fixed or dirty.flags & ~DIRTY_FLAGS or dirty.flags.bit_count() != 1:
        raise Errno(EINVAL)
    if dirty.flags & VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP:
        if dirty.argsz < fixed + vfio_iommu_type1_dirty_bitmap_get.size_of:
            raise Errno(EINVAL)
        vfio_iommu_type1_get_bitmap(iommu, arg + fixed)
        return 0
    with iommu.lock:
        start = bool(dirty.flags & VFIO_IOMMU_DIRTY_PAGES_FLAG_START)
        if start and not iommu.dirty_page_tracking:
            for dma in iommu.dma_list.overlapping(0, U64_MAX):
                dma.populate_bitmap(0)
        iommu.dirty_page_tracking = start
    return 0


def vfio_iommu_type1_get_bitmap(iommu: VfioIommu, arg: int) -> None:
    get = vfio_iommu_type1_dirty_bitmap_get
    asked = get.unpack(copy_from_user(arg, get.size_of))
    if asked.iova + asked.size > U64_MAX:
        raise Errno(EOVERFLOW)
    vfio_check_bitmap(asked.pgsize, asked.size, asked.bitmap_size)
    with iommu.lock:
        if asked.pgsize != iommu.pgsize or (asked.iova | asked.size) & (iommu.pgsize - 1) or not asked.size:
            raise Errno(EINVAL)
        if not iommu.dirty_page_tracking:
            raise Errno(EINVAL)
        type1_dma.vfio_iova_dirty_bitmap(iommu, asked.iova, asked.size, asked.data)

# SPDX-License-Identifier: GPL-2.0-only
"""
The calls of a VFIO container on an iommufd.

Mirrors ``drivers/iommu/iommufd/vfio_compat.c``.
"""

from __future__ import annotations

import struct
from errno import EINVAL, ENODEV, ENOENT, ENOTTY, EOPNOTSUPP, EPERM

from uvfio.linux.iommu.private import IOMMU_CACHE, IOMMU_READ, IOMMU_WRITE
from uvfio.linux.iommufd import hw_pagetable, io_pagetable, ioas, objects
from uvfio.linux.iommufd import iova as iova_ranges
from uvfio.linux.iommufd.private import (
    PAGE_MASK,
    ULONG_MAX,
    IommufdCtx,
    IommufdIoas,
    IommufdUcmd,
)
from uvfio.linux.kernel.process import CAP_SYS_RAWIO, capable
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user, get_user_u32
from uvfio.runtime.errors import Errno
from uvfio.uapi import vfio as uapi
from uvfio.uapi.iommufd import IOMMU_VFIO_IOAS_CLEAR, IOMMU_VFIO_IOAS_GET, IOMMU_VFIO_IOAS_SET

RANGE = struct.Struct("<QQ")
CAP_HEADER = struct.Struct("<HHI")
DMA_AVAIL_SIZE = 16  # of which the last four bytes are a gap that is not written


def get_compat_ioas(ictx: IommufdCtx) -> IommufdIoas:
    """The compat IOAS, locked against destruction. Errno ENODEV without one."""
    with ictx.objects.xa_lock:
        found = ictx.vfio_ioas
        if found is None or not objects.iommufd_lock_obj(found):
            raise Errno(ENODEV)
        return found


def iommufd_vfio_compat_ioas_get_id(ictx: IommufdCtx) -> int:
    found = get_compat_ioas(ictx)
    id = found.id
    objects.iommufd_put_object(ictx, found)
    return id


def iommufd_vfio_compat_has_ioas(ictx: IommufdCtx) -> bool:
    with ictx.objects.xa_lock:
        return ictx.vfio_ioas is not None


def iommufd_vfio_compat_set_no_iommu(ictx: IommufdCtx) -> None:
    """A no-IOMMU group uses the context from now on. Errno EINVAL: others do already."""
    with ictx.objects.xa_lock:
        if ictx.vfio_ioas is not None:
            raise Errno(EINVAL)
        ictx.no_iommu_mode = True


def iommufd_vfio_compat_ioas_create(ictx: IommufdCtx) -> None:
    """Make the compat IOAS unless there is one."""
    made = ioas.iommufd_ioas_alloc(ictx)
    with ictx.objects.xa_lock:
        existing = ictx.vfio_ioas
        if existing is None or not objects.iommufd_lock_obj(existing):
            existing = None
            ictx.vfio_ioas = made
    if existing is not None:
        objects.iommufd_put_object(ictx, existing)
        objects.iommufd_object_abort(ictx, made)
    else:
        objects.iommufd_object_finalize(ictx, made)


def iommufd_vfio_ioas(ucmd: IommufdUcmd) -> None:
    cmd, ictx = ucmd.cmd, ucmd.ictx
    if cmd.__reserved:
        raise Errno(EOPNOTSUPP)
    if cmd.op == IOMMU_VFIO_IOAS_GET:
        cmd.ioas_id = iommufd_vfio_compat_ioas_get_id(ictx)
        ucmd.respond()
    elif cmd.op == IOMMU_VFIO_IOAS_SET:
        chosen = ioas.iommufd_get_ioas(ictx, cmd.ioas_id)
        with ictx.objects.xa_lock:
            ictx.vfio_ioas = chosen
        objects.iommufd_put_object(ictx, chosen)
    elif cmd.op == IOMMU_VFIO_IOAS_CLEAR:
        with ictx.objects.xa_lock:
            ictx.vfio_ioas = None
    else:
        raise Errno(EOPNOTSUPP)


def iommufd_vfio_ioctl(ictx: IommufdCtx, cmd: int, arg: int) -> int:
    """Everything that is no call of /dev/iommu. Errno ENOTTY when it is none of these either."""
    if cmd == uapi.VFIO_GET_API_VERSION:
        return uapi.VFIO_API_VERSION
    if cmd == uapi.VFIO_CHECK_EXTENSION:
        return _check_extension(ictx, arg)
    if cmd == uapi.VFIO_SET_IOMMU:
        return _set_iommu(ictx, arg)
    if cmd == uapi.VFIO_IOMMU_GET_INFO:
        return _get_info(ictx, arg)
    if cmd == uapi.VFIO_IOMMU_MAP_DMA:
        return _map_dma(ictx, arg)
    if cmd == uapi.VFIO_IOMMU_UNMAP_DMA:
        return _unmap_dma(ictx, arg)
    raise Errno(ENOTTY)


def _check_extension(ictx: IommufdCtx, type: int) -> int:
    if type == uapi.VFIO_DMA_CC_IOMMU:
        return _cc_iommu(ictx)
    if type == uapi.VFIO_NOIOMMU_IOMMU:
        return 1
    supported = (uapi.VFIO_TYPE1_IOMMU, uapi.VFIO_TYPE1v2_IOMMU, uapi.VFIO_UNMAP_ALL)
    return int(type in supported and not ictx.no_iommu_mode)


def _cc_iommu(ictx: IommufdCtx) -> int:
    """Does no device get around the caches, whatever it asks for?"""
    found = get_compat_ioas(ictx)
    try:
        with found.mutex:
            return int(all(hw_pagetable.iommufd_hwpt_paging_enforce_cc(hwpt) for hwpt in found.hwpt_list))
    finally:
        objects.iommufd_put_object(ictx, found)


def _set_iommu(ictx: IommufdCtx, type: int) -> int:
    if ictx.no_iommu_mode and type == uapi.VFIO_NOIOMMU_IOMMU:
        if not capable(CAP_SYS_RAWIO):
            raise Errno(EPERM)
        return 0
    if ictx.no_iommu_mode or type not in (uapi.VFIO_TYPE1_IOMMU, uapi.VFIO_TYPE1v2_IOMMU):
        raise Errno(EINVAL)
    found = get_compat_ioas(ictx)
    try:
        if type == uapi.VFIO_TYPE1_IOMMU:
            # Type 1 may unmap any part of a mapping: only small pages can be cut.
            io_pagetable.iopt_disable_large_pages(found.iopt)
    finally:
        objects.iommufd_put_object(ictx, found)
    return 0


def _map_dma(ictx: IommufdCtx, arg: int) -> int:
    size = uapi.vfio_iommu_type1_dma_map.size_of
    map = uapi.vfio_iommu_type1_dma_map.unpack(copy_from_user(arg, size))
    if map.argsz < size or map.flags & ~(uapi.VFIO_DMA_MAP_FLAG_READ | uapi.VFIO_DMA_MAP_FLAG_WRITE):
        raise Errno(EINVAL)
    prot = IOMMU_CACHE
    if map.flags & uapi.VFIO_DMA_MAP_FLAG_READ:
        prot |= IOMMU_READ
    if map.flags & uapi.VFIO_DMA_MAP_FLAG_WRITE:
        prot |= IOMMU_WRITE
    found = get_compat_ioas(ictx)
    try:
        ioas.iopt_map_user_pages(ictx, found, map.iova, map.vaddr, map.size, prot)
    finally:
        objects.iommufd_put_object(ictx, found)
    return 0


def _unmap_dma(ictx: IommufdCtx, arg: int) -> int:
    size = uapi.vfio_iommu_type1_dma_unmap.size_of
    unmap = uapi.vfio_iommu_type1_dma_unmap.unpack(copy_from_user(arg, size))
    if unmap.argsz < size or unmap.flags & ~uapi.VFIO_DMA_UNMAP_FLAG_ALL:
        raise Errno(EINVAL)
    found = get_compat_ioas(ictx)
    error: Errno | None = None
    try:
        unmap.size = _unmap(found, unmap)
    except io_pagetable.PartlyUnmapped as partly:
        unmap.size, error = partly.unmapped, partly
    finally:
        objects.iommufd_put_object(ictx, found)
    copy_to_user(arg, unmap.pack())
    if error is not None:
        raise error
    return 0


def _unmap(found: IommufdIoas, unmap: uapi.vfio_iommu_type1_dma_unmap) -> int:
    if unmap.flags & uapi.VFIO_DMA_UNMAP_FLAG_ALL:
        if unmap.iova or unmap.size:
            raise Errno(EINVAL)
        return io_pagetable.iopt_unmap_all(found.iopt)
    if found.iopt.disable_large_pages and unmap.size and unmap.iova + unmap.size <= ULONG_MAX + 1:
        io_pagetable.iopt_cut_iova(found.iopt, [unmap.iova, (unmap.iova + unmap.size) & ULONG_MAX])
    try:
        return io_pagetable.iopt_unmap_iova(found.iopt, unmap.iova, unmap.size)
    except Errno as e:
        # A range that is empty already is no error for VFIO; one that cuts an area is.
        if e.number == ENOENT and not _any_area(found, unmap.iova, unmap.iova + unmap.size - 1):
            return 0
        raise


def _any_area(found: IommufdIoas, iova: int, last: int) -> bool:
    with found.iopt.iova_rwsem.read():
        return found.iopt.area_itree.iter_first(iova, last) is not None


def _get_info(ictx: IommufdCtx, arg: int) -> int:
    info_struct = uapi.vfio_iommu_type1_info
    min_size = info_struct.offsetof("cap_offset")
    argsz = get_user_u32(arg)
    if argsz < min_size:
        raise Errno(EINVAL)
    total = info_struct.size_of
    found = get_compat_ioas(ictx)
    try:
        with found.iopt.domains_rwsem.read(), found.iopt.iova_rwsem.read():
            ranges = iova_ranges.iopt_iova_ranges(found.iopt)
            pgsizes = _pgsizes(found)
    finally:
        objects.iommufd_put_object(ictx, found)
    avail, iovas = _info_caps(total, len(ranges))
    ranges_at = total + DMA_AVAIL_SIZE + len(iovas)
    need = ranges_at + len(ranges) * RANGE.size
    info = info_struct(argsz=need, flags=uapi.VFIO_IOMMU_INFO_PGSIZES | uapi.VFIO_IOMMU_INFO_CAPS, iova_pgsizes=pgsizes)
    # What fits is there, although without the rest nothing leads to it.
    if argsz >= total + DMA_AVAIL_SIZE:
        copy_to_user(arg + total, avail)
    for index, each in enumerate(ranges):
        if argsz >= ranges_at + (index + 1) * RANGE.size:
            copy_to_user(arg + ranges_at + index * RANGE.size, RANGE.pack(*each))
    if argsz >= need:
        info.cap_offset = total
        copy_to_user(arg + total + DMA_AVAIL_SIZE, iovas)
    copy_to_user(arg, info.pack()[: min(argsz, total)])
    return 0


def _pgsizes(found: IommufdIoas) -> int:
    """Page sizes that every domain has, from PAGE_SIZE up."""
    sizes = ULONG_MAX
    for domain in found.iopt.domains:
        sizes &= domain.pgsize_bitmap
    return sizes & ~PAGE_MASK


def _info_caps(offset: int, nr_iovas: int) -> tuple[bytes, bytes]:
    """DMA_AVAIL, and IOVA_RANGE without the ranges."""
    following = offset + DMA_AVAIL_SIZE
    avail = CAP_HEADER.pack(uapi.VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL, 1, following) + struct.pack("<I", 0xFFFFFFFF)
    iovas = CAP_HEADER.pack(uapi.VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE, 1, 0) + struct.pack("<II", nr_iovas, 0)
    return avail, iovas

# SPDX-License-Identifier: GPL-2.0-only
"""
IO address spaces and the calls on them.

Mirrors ``drivers/iommu/iommufd/ioas.c``. No known differences from Linux.
"""

from __future__ import annotations

import struct
from contextlib import ExitStack
from errno import EBUSY, EINVAL, EMSGSIZE, ENOENT, EOPNOTSUPP, EOVERFLOW, EPERM

from uvfio.linux.iommu.private import IOMMU_CACHE, IOMMU_READ, IOMMU_WRITE, IommuDomain
from uvfio.linux.iommufd import io_pagetable, objects, pages, pinning, selftest_access
from uvfio.linux.iommufd import iova as iova_ranges
from uvfio.linux.iommufd.private import (
    IOMMUFD_OBJ_IOAS,
    IOPT_PAGES_ACCOUNT_MM,
    PAGE_MASK,
    PAGE_SIZE,
    ULONG_MAX,
    IommufdCtx,
    IommufdIoas,
    IommufdUcmd,
    IoPagetable,
    IoptPages,
)
from uvfio.linux.kernel.dma_buf import DmaBuf, DmaBufFileOperations
from uvfio.linux.kernel.fs import fget, fput
from uvfio.linux.kernel.process import CAP_SYS_RAWIO, CAP_SYS_RESOURCE, capable
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kzalloc
from uvfio.runtime.task import current
from uvfio.uapi.iommufd import (
    IOMMU_IOAS_MAP_FIXED_IOVA,
    IOMMU_IOAS_MAP_READABLE,
    IOMMU_IOAS_MAP_WRITEABLE,
    IOMMU_OPTION_HUGE_PAGES,
    IOMMU_OPTION_OP_GET,
    IOMMU_OPTION_OP_SET,
    IOMMU_OPTION_RLIMIT_MODE,
    iommu_iova_range,
)
from uvfio.uapi.iommufd_test import MOCK_FLAGS_ACCESS_SYZ

MAP_FLAGS = IOMMU_IOAS_MAP_FIXED_IOVA | IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE


def iommufd_ioas_alloc(ictx: IommufdCtx) -> IommufdIoas:
    ioas = kzalloc(IommufdIoas)
    objects.iommufd_object_alloc(ictx, ioas)
    return ioas


def iommufd_ioas_destroy(ioas: IommufdIoas) -> None:
    io_pagetable.iopt_table_destroy(ioas.iopt)


def iommufd_get_ioas(ictx: IommufdCtx, id: int) -> IommufdIoas:
    """The IOAS, locked against destruction. Errno ENOENT."""
    ioas: IommufdIoas = objects.iommufd_get_object(ictx, id, IOMMUFD_OBJ_IOAS)
    return ioas


def iommufd_ioas_alloc_ioctl(ucmd: IommufdUcmd) -> None:
    if ucmd.cmd.flags:
        raise Errno(EOPNOTSUPP)
    ioas = iommufd_ioas_alloc(ucmd.ictx)
    ucmd.cmd.out_ioas_id = ioas.id
    try:
        ucmd.respond()
    except Errno:
        objects.iommufd_object_abort_and_destroy(ucmd.ictx, ioas)
        raise
    objects.iommufd_object_finalize(ucmd.ictx, ioas)


def iommufd_ioas_iova_ranges(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if cmd.__reserved:
        raise Errno(EOPNOTSUPP)
    ioas = iommufd_get_ioas(ucmd.ictx, cmd.ioas_id)
    try:
        iopt = ioas.iopt
        with iopt.iova_rwsem.read():
            ranges = iova_ranges.iopt_iova_ranges(iopt)
            room, cmd.num_iovas = cmd.num_iovas, len(ranges)
            cmd.out_iova_alignment = iopt.iova_alignment
            data = b"".join(struct.pack("<QQ", *each) for each in ranges[:room])
            if data:
                copy_to_user(cmd.allowed_iovas, data)
        ucmd.respond()
        if len(ranges) > room:
            raise Errno(EMSGSIZE)
    finally:
        objects.iommufd_put_object(ucmd.ictx, ioas)


def iommufd_ioas_allow_iovas(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if cmd.__reserved:
        raise Errno(EOPNOTSUPP)
    ioas = iommufd_get_ioas(ucmd.ictx, cmd.ioas_id)
    try:
        allowed: list[tuple[int, int]] = []
        for index in range(cmd.num_iovas):
            size = iommu_iova_range.size_of
            start, last = struct.unpack("<QQ", copy_from_user(cmd.allowed_iovas + index * size, size))
            if start >= last or any(low <= last and start <= high for low, high in allowed):
                raise Errno(EINVAL)
            allowed.append((start, last))
        iova_ranges.iopt_set_allow_iova(ioas.iopt, allowed)
    finally:
        objects.iommufd_put_object(ucmd.ictx, ioas)


def conv_iommu_prot(map_flags: int) -> int:
    """What IOMMU_IOAS_MAP_... asks of a domain; devices are always coherent."""
    prot = IOMMU_CACHE
    if map_flags & IOMMU_IOAS_MAP_WRITEABLE:
        prot |= IOMMU_WRITE
    if map_flags & IOMMU_IOAS_MAP_READABLE:
        prot |= IOMMU_READ
    return prot


def iommufd_ioas_map(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    flags = cmd.flags
    if flags & ~MAP_FLAGS or cmd.__reserved:
        raise Errno(EOPNOTSUPP)
    if cmd.iova >= ULONG_MAX or cmd.length >= ULONG_MAX:
        raise Errno(EOVERFLOW)
    if not flags & (IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE):
        raise Errno(EINVAL)
    ictx = ucmd.ictx
    ioas = iommufd_get_ioas(ictx, cmd.ioas_id)
    try:
        iova = cmd.iova if flags & IOMMU_IOAS_MAP_FIXED_IOVA else None
        iova = iopt_map_user_pages(ictx, ioas, iova, cmd.user_va, cmd.length, conv_iommu_prot(flags))
        ucmd.respond_u64("iova", iova)
    finally:
        objects.iommufd_put_object(ictx, ioas)


def iopt_map_user_pages(
    ictx: IommufdCtx, ioas: IommufdIoas, iova: int | None, uptr: int, length: int, iommu_prot: int
) -> int:
    """Map memory of the current process. Errno EOVERFLOW, EINVAL, and see ``iopt_map_pages``."""
    if uptr + length > ULONG_MAX:
        raise Errno(EOVERFLOW)
    if not length or length > ULONG_MAX - PAGE_SIZE:
        raise Errno(EINVAL)
    memory = pages.iopt_alloc_user_pages(uptr, bool(iommu_prot & IOMMU_WRITE), ictx.account_mode)
    return io_pagetable.iopt_map_pages(ioas.iopt, [(memory, uptr & PAGE_MASK, length)], iova, uptr, iommu_prot)


def iommufd_ioas_map_file(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if cmd.flags & ~MAP_FLAGS:
        raise Errno(EOPNOTSUPP)
    if cmd.iova >= ULONG_MAX or cmd.length >= ULONG_MAX:
        raise Errno(EOVERFLOW)
    if not cmd.flags & (IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE):
        raise Errno(EINVAL)
    ictx = ucmd.ictx
    ioas = iommufd_get_ioas(ictx, cmd.ioas_id)
    try:
        iova = cmd.iova if cmd.flags & IOMMU_IOAS_MAP_FIXED_IOVA else None
        cmd.iova = _iopt_map_file_pages(ictx, ioas, iova, cmd.fd, cmd.start, cmd.length, conv_iommu_prot(cmd.flags))
        ucmd.respond()
    finally:
        objects.iommufd_put_object(ictx, ioas)


def _iopt_map_file_pages(
    ictx: IommufdCtx, ioas: IommufdIoas, iova: int | None, fd: int, start: int, length: int, iommu_prot: int
) -> int:
    if not length:
        raise Errno(EINVAL)
    last = start + length - 1
    if last > ULONG_MAX:
        raise Errno(EOVERFLOW)
    writable = bool(iommu_prot & IOMMU_WRITE)
    file = fget(fd)
    try:
        if isinstance(file.f_op, DmaBufFileOperations):
            dmabuf: DmaBuf = file.private_data
            if last >= dmabuf.size:
                raise Errno(EINVAL)
            memory = pages.iopt_alloc_dmabuf_pages(dmabuf, start, writable, ictx.account_mode)
        else:
            source = current().process.files.memory(fd)
            memory = pages.iopt_alloc_file_pages(source, start, writable, ictx.account_mode)
    finally:
        fput(file)
    return io_pagetable.iopt_map_pages(ioas.iopt, [(memory, start & PAGE_MASK, length)], iova, start, iommu_prot)


def iommufd_ioas_copy(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if cmd.flags & MOCK_FLAGS_ACCESS_SYZ:
        selftest_access.iommufd_test_syz_conv_iova_id(ucmd)
    if cmd.flags & ~MAP_FLAGS:
        raise Errno(EOPNOTSUPP)
    if max(cmd.length, cmd.src_iova, cmd.dst_iova) >= ULONG_MAX:
        raise Errno(EOVERFLOW)
    if not cmd.flags & (IOMMU_IOAS_MAP_WRITEABLE | IOMMU_IOAS_MAP_READABLE):
        raise Errno(EINVAL)
    src_ioas = iommufd_get_ioas(ucmd.ictx, cmd.src_ioas_id)
    try:
        pieces = io_pagetable.iopt_get_pages_in(src_ioas.iopt, cmd.src_iova, cmd.length)
    finally:
        objects.iommufd_put_object(ucmd.ictx, src_ioas)
    try:
        dst_ioas = iommufd_get_ioas(ucmd.ictx, cmd.dst_ioas_id)
    except Errno:
        for memory, _offset, _length in pieces:
            pages.iopt_put_pages(memory)
        raise
    try:
        iova = cmd.dst_iova if cmd.flags & IOMMU_IOAS_MAP_FIXED_IOVA else None
        near = pieces[0][0].uptr + pieces[0][1]
        cmd.dst_iova = io_pagetable.iopt_map_pages(dst_ioas.iopt, pieces, iova, near, conv_iommu_prot(cmd.flags))
        ucmd.respond()
    finally:
        objects.iommufd_put_object(ucmd.ictx, dst_ioas)


def iommufd_ioas_unmap(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    ioas = iommufd_get_ioas(ucmd.ictx, cmd.ioas_id)
    try:
        if cmd.iova == 0 and cmd.length == ULONG_MAX:
            unmapped = io_pagetable.iopt_unmap_all(ioas.iopt)
        elif cmd.iova >= ULONG_MAX or cmd.length >= ULONG_MAX:
            raise Errno(EOVERFLOW)
        else:
            unmapped = io_pagetable.iopt_unmap_iova(ioas.iopt, cmd.iova, cmd.length)
        ucmd.respond_u64("length", unmapped)
    finally:
        objects.iommufd_put_object(ucmd.ictx, ioas)


def iommufd_ioas_change_process(ucmd: IommufdUcmd) -> None:
    if ucmd.cmd.__reserved:
        raise Errno(EOPNOTSUPP)
    with ExitStack() as locks:
        every: dict[IoptPages, None] = {}
        for iopt in _lock_all(ucmd.ictx, locks):
            for area in iopt.area_itree:
                if area.pages is None:
                    raise Errno(EBUSY)
                if area.pages.file is None:
                    raise Errno(EINVAL)
                every[area.pages] = None
        pinning.iopt_pages_charge_process(list(every), current().process)


def _lock_all(ictx: IommufdCtx, locks: ExitStack) -> list[IoPagetable]:
    """Lock every IOAS, so that none can be mapped into or destroyed until *locks* go."""
    iopts: list[IoPagetable] = []
    for _id, obj in ictx.objects.items():
        if isinstance(obj, IommufdIoas) and objects.iommufd_lock_obj(obj):
            locks.callback(objects.iommufd_put_object, ictx, obj)
            locks.enter_context(obj.iopt.domains_rwsem.write())
            locks.enter_context(obj.iopt.iova_rwsem.write())
            iopts.append(obj.iopt)
    return iopts


def iommufd_ioas_noiommu_get_pa(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if not capable(CAP_SYS_RAWIO):
        raise Errno(EPERM)
    if cmd.flags or cmd.__reserved:
        raise Errno(EOPNOTSUPP)
    if not cmd.length:
        raise Errno(EINVAL)
    if cmd.iova >= ULONG_MAX:
        raise Errno(EOVERFLOW)
    ioas = iommufd_get_ioas(ucmd.ictx, cmd.ioas_id)
    try:
        with ioas.iopt.domains_rwsem.read(), ioas.iopt.iova_rwsem.read():
            area = ioas.iopt.area_itree.iter_first(cmd.iova, cmd.iova)
            if area is None or area.pages is None:
                raise Errno(ENOENT)
            if area.pages.dmabuf is not None and area.pages.dmabuf.revoked:
                raise Errno(EINVAL)
            domain = ioas.iopt.domains[0] if area.filled else None
            if domain is None or not domain.ops.noiommu:
                raise Errno(EOPNOTSUPP, "not the domain of a no-IOMMU device")
            cmd.out_phys, cmd.length = _contiguous_phys(domain, cmd.iova, min(area.last, cmd.iova + cmd.length - 1))
        ucmd.respond()
    finally:
        objects.iommufd_put_object(ucmd.ictx, ioas)


def _contiguous_phys(domain: IommuDomain, iova: int, last: int) -> tuple[int, int]:
    """Where *iova* is in physical memory, and how many bytes up to *last* follow there."""
    phys = domain.iova_to_phys(iova)
    assert phys is not None
    at = (iova | PAGE_MASK) + 1
    while at <= last and domain.iova_to_phys(at) == phys + at - iova:
        at += PAGE_SIZE
    return phys, min(at - 1, last) - iova + 1


# Options


def iommufd_option(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if cmd.__reserved:
        raise Errno(EOPNOTSUPP)
    if cmd.option_id == IOMMU_OPTION_RLIMIT_MODE:
        _option_rlimit_mode(ucmd)
    elif cmd.option_id == IOMMU_OPTION_HUGE_PAGES:
        ioas = iommufd_get_ioas(ucmd.ictx, cmd.object_id)
        try:
            _option_huge_pages(ucmd, ioas)
        finally:
            objects.iommufd_put_object(ucmd.ictx, ioas)
    else:
        raise Errno(EOPNOTSUPP)
    copy_to_user(ucmd.ubuffer + cmd.offsets["val64"], struct.pack("<Q", cmd.val64))


def _option_rlimit_mode(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if cmd.object_id:
        raise Errno(EOPNOTSUPP)
    if cmd.op == IOMMU_OPTION_OP_GET:
        cmd.val64 = ucmd.ictx.account_mode
    elif cmd.op == IOMMU_OPTION_OP_SET:
        if not capable(CAP_SYS_RESOURCE):
            raise Errno(EPERM)
        if not ucmd.ictx.objects.empty():
            raise Errno(EBUSY)
        if cmd.val64 > IOPT_PAGES_ACCOUNT_MM:
            raise Errno(EINVAL)
        ucmd.ictx.account_mode = cmd.val64
    else:
        raise Errno(EOPNOTSUPP)


def _option_huge_pages(ucmd: IommufdUcmd, ioas: IommufdIoas) -> None:
    cmd = ucmd.cmd
    if cmd.op == IOMMU_OPTION_OP_GET:
        cmd.val64 = int(not ioas.iopt.disable_large_pages)
    elif cmd.op == IOMMU_OPTION_OP_SET:
        if cmd.val64 == 0:
            io_pagetable.iopt_disable_large_pages(ioas.iopt)
        elif cmd.val64 == 1:
            io_pagetable.iopt_enable_large_pages(ioas.iopt)
        else:
            raise Errno(EINVAL)
    else:
        raise Errno(EOPNOTSUPP)

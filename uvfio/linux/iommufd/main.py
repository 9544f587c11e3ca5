# SPDX-License-Identifier: GPL-2.0-only
"""
/dev/iommu: the file and its calls.

Mirrors ``drivers/iommu/iommufd/main.c``; its objects are in ``objects.py``. All differences from Linux:

* IOMMU_IOAS_MAP and UNMAP write their result back only when it differs from what the
  caller passed: a struct in read-only memory may go unnoticed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from errno import EBADFD, EINVAL, ENOTTY, ENXIO, EPERM
from typing import Any

from uvfio.linux.iommufd import (
    device,
    eventq,
    hw_info,
    hw_pagetable,
    ioas,
    objects,
    selftest,
    selftest_device,
    vfio_compat,
    viommu,
)
from uvfio.linux.iommufd.objects import iommufd_ctx_get as iommufd_ctx_get
from uvfio.linux.iommufd.objects import iommufd_ctx_put as iommufd_ctx_put
from uvfio.linux.iommufd.private import IommufdCtx, IommufdUcmd
from uvfio.linux.kernel.bug import WARN_ON
from uvfio.linux.kernel.chrdev import misc_register
from uvfio.linux.kernel.fs import PROT_EXEC, File, FileOperations, Vma, fget, fput, get_file
from uvfio.linux.kernel.uaccess import copy_from_user, copy_struct_from_user, get_user_u32
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.uapi import iommufd as uapi
from uvfio.uapi.iommufd_test import IOMMU_TEST_CMD, iommu_test_cmd

IOMMUFD_MINOR = 258
IOMMUFD_CMD_BASE = 0x80


class IoctlOp:
    """``struct iommufd_ioctl_op``."""

    __slots__ = ("execute", "min_size", "size", "struct")

    def __init__(self, struct: Any, last_field: str, execute: Callable[[IommufdUcmd], int | None]) -> None:
        """*last_field* is the last one that every caller must know; *execute* may answer what the call does."""
        index = struct.fields.index(last_field) + 1
        after = struct.fields[index] if index < len(struct.fields) else None
        self.struct = struct
        self.size = struct.size_of
        self.min_size = struct.offsets[after] if after else struct.size_of
        self.execute = execute


IOCTL_OPS: Mapping[int, IoctlOp] = {
    uapi.IOMMU_DESTROY: IoctlOp(uapi.iommu_destroy, "id", objects.iommufd_destroy),
    uapi.IOMMU_IOAS_ALLOC: IoctlOp(uapi.iommu_ioas_alloc, "out_ioas_id", ioas.iommufd_ioas_alloc_ioctl),
    uapi.IOMMU_IOAS_ALLOW_IOVAS: IoctlOp(uapi.iommu_ioas_allow_iovas, "allowed_iovas", ioas.iommufd_ioas_allow_iovas),
    uapi.IOMMU_IOAS_COPY: IoctlOp(uapi.iommu_ioas_copy, "src_iova", ioas.iommufd_ioas_copy),
    uapi.IOMMU_IOAS_IOVA_RANGES: IoctlOp(
        uapi.iommu_ioas_iova_ranges, "out_iova_alignment", ioas.iommufd_ioas_iova_ranges
    ),
    uapi.IOMMU_IOAS_MAP: IoctlOp(uapi.iommu_ioas_map, "iova", ioas.iommufd_ioas_map),
    uapi.IOMMU_IOAS_MAP_FILE: IoctlOp(uapi.iommu_ioas_map_file, "iova", ioas.iommufd_ioas_map_file),
    uapi.IOMMU_IOAS_UNMAP: IoctlOp(uapi.iommu_ioas_unmap, "length", ioas.iommufd_ioas_unmap),
    uapi.IOMMU_IOAS_CHANGE_PROCESS: IoctlOp(
        uapi.iommu_ioas_change_process, "__reserved", ioas.iommufd_ioas_change_process
    ),
    uapi.IOMMU_IOAS_NOIOMMU_GET_PA: IoctlOp(
        uapi.iommu_ioas_noiommu_get_pa, "out_phys", ioas.iommufd_ioas_noiommu_get_pa
    ),
    uapi.IOMMU_OPTION: IoctlOp(uapi.iommu_option, "val64", ioas.iommufd_option),
    uapi.IOMMU_VFIO_IOAS: IoctlOp(uapi.iommu_vfio_ioas, "__reserved", vfio_compat.iommufd_vfio_ioas),
    uapi.IOMMU_HWPT_ALLOC: IoctlOp(uapi.iommu_hwpt_alloc, "__reserved", hw_pagetable.iommufd_hwpt_alloc),
    uapi.IOMMU_HWPT_SET_DIRTY_TRACKING: IoctlOp(
        uapi.iommu_hwpt_set_dirty_tracking, "__reserved", hw_pagetable.iommufd_hwpt_set_dirty_tracking
    ),
    uapi.IOMMU_HWPT_GET_DIRTY_BITMAP: IoctlOp(
        uapi.iommu_hwpt_get_dirty_bitmap, "data", hw_pagetable.iommufd_hwpt_get_dirty_bitmap
    ),
    uapi.IOMMU_HWPT_INVALIDATE: IoctlOp(uapi.iommu_hwpt_invalidate, "__reserved", hw_pagetable.iommufd_hwpt_invalidate),
    uapi.IOMMU_GET_HW_INFO: IoctlOp(uapi.iommu_hw_info, "__reserved", hw_info.iommufd_get_hw_info),
    uapi.IOMMU_VIOMMU_ALLOC: IoctlOp(uapi.iommu_viommu_alloc, "out_viommu_id", viommu.iommufd_viommu_alloc_ioctl),
    uapi.IOMMU_VDEVICE_ALLOC: IoctlOp(uapi.iommu_vdevice_alloc, "virt_id", viommu.iommufd_vdevice_alloc_ioctl),
    uapi.IOMMU_FAULT_QUEUE_ALLOC: IoctlOp(uapi.iommu_fault_alloc, "out_fault_fd", eventq.iommufd_fault_alloc),
    uapi.IOMMU_VEVENTQ_ALLOC: IoctlOp(uapi.iommu_veventq_alloc, "out_veventq_fd", eventq.iommufd_veventq_alloc),
    uapi.IOMMU_HW_QUEUE_ALLOC: IoctlOp(uapi.iommu_hw_queue_alloc, "length", viommu.iommufd_hw_queue_alloc_ioctl),
}


# With CONFIG_IOMMUFD_TEST.
IOCTL_OPS_TEST: Mapping[int, IoctlOp] = {
    **IOCTL_OPS,
    IOMMU_TEST_CMD: IoctlOp(iommu_test_cmd, "last", selftest.iommufd_test),
}


class IommufdFileOperations(FileOperations):
    """``iommufd_fops``. With *test* there is IOMMU_TEST_CMD, and the gap before it."""

    name = "iommufd"

    def __init__(self, test: bool = False) -> None:
        self.test = test
        self.ioctl_ops = IOCTL_OPS_TEST if test else IOCTL_OPS
        self.cmd_last = max(self.ioctl_ops) & 0xFF

    def open(self, file: File) -> None:
        file.private_data = kzalloc(IommufdCtx, file)

    def release(self, file: File) -> None:
        iommufd_fops_release(file.private_data)

    def unlocked_ioctl(self, file: File, cmd: int, arg: int) -> int:
        op = self.ioctl_ops.get(cmd)
        if op is None:
            return self._ioctl_unknown(file.private_data, cmd, arg)
        # One copy for the size and the struct, when the caller's is the one we know.
        try:
            data = copy_from_user(arg, op.size)
        except Errno:
            data = b""
        args = op.struct.unpack(data)
        usize = args.size if data else get_user_u32(arg)
        if usize < op.min_size:
            raise Errno(EINVAL)
        if usize != op.size or not data:
            args = copy_struct_from_user(op.struct, arg, usize)
        return op.execute(IommufdUcmd(file.private_data, arg, usize, args)) or 0

    def _ioctl_unknown(self, ictx: IommufdCtx, cmd: int, arg: int) -> int:
        if not IOMMUFD_CMD_BASE <= cmd & 0xFF <= self.cmd_last:
            return vfio_compat.iommufd_vfio_ioctl(ictx, cmd, arg)
        get_user_u32(arg)  # the size is read before the call is looked up
        raise Errno(ENOTTY)

    def mmap(self, file: File, vma: Vma) -> None:
        """One region from end to end. Errno EINVAL private, EPERM executable, ENXIO."""
        if not vma.shared:
            raise Errno(EINVAL)
        if vma.prot & PROT_EXEC:
            raise Errno(EPERM)
        ictx: IommufdCtx = file.private_data
        with ictx.mt_lock:
            immap = ictx.mt_mmap.get(vma.offset)
            # The owner goes away from 0 on, and takes the region along.
            if immap is None or immap.length != vma.length or not immap.owner.users.inc_not_zero():
                raise Errno(ENXIO)
        vma.memory = immap.memory
        vma.close = immap.owner.users.dec


def iommufd_fops_release(ictx: IommufdCtx) -> None:
    """Destroy everything, what nobody uses first."""
    table = ictx.objects
    while not table.empty():
        found = progress = False
        for id, obj in table.items():
            found = True
            if obj.users.dec_if_one():
                progress = True
                table.erase(id)
                objects.iommufd_object_destroy(obj)
                kfree(obj)
        if not found:  # only tombstones
            break
        if WARN_ON(not progress, "objects of a closed iommufd still have users"):
            return
    table.destroy()
    WARN_ON(ictx.groups, "a closed iommufd still has groups")
    kfree(ictx)


def iommufd_ctx_from_file(file: File) -> IommufdCtx:
    """The context of *file*, referenced. Errno EBADFD when it is not an iommufd."""
    if not isinstance(file.f_op, IommufdFileOperations):
        raise Errno(EBADFD)
    ictx: IommufdCtx = file.private_data
    get_file(file)
    return ictx


def iommufd_ctx_from_fd(fd: int) -> IommufdCtx:
    """The same from an fd number: EBADF when it is not open."""
    file = fget(fd)
    if not isinstance(file.f_op, IommufdFileOperations):
        fput(file)
        raise Errno(EBADFD)
    ictx: IommufdCtx = file.private_data
    return ictx


def iommufd_init(test: bool = False) -> None:
    """With *test* as if built with CONFIG_IOMMUFD_TEST."""
    misc_register("iommu", IOMMUFD_MINOR, IommufdFileOperations(test), 0o660)
    device.iommufd_parameters_init()
    if test:
        selftest_device.iommufd_test_init()

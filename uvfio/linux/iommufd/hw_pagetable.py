# SPDX-License-Identifier: GPL-2.0-only
"""
Hardware page tables: domains that show an IOAS.

Mirrors ``drivers/iommu/iommufd/hw_pagetable.c``. All differences from Linux:

* nested ones only through a vIOMMU, as no driver here has others, and there are no
  fault queues, so IOMMU_HWPT_FAULT_ID_VALID never finds one.
"""

from __future__ import annotations

from errno import EINVAL, ENODEV, ENOENT, EOPNOTSUPP, EOVERFLOW

from uvfio.linux.iommu import iommu
from uvfio.linux.iommu.iommufd import IommuUserData, IommuUserDataArray
from uvfio.linux.iommu.private import IommuDomain
from uvfio.linux.iommufd import device, io_pagetable, iova_bitmap, objects
from uvfio.linux.iommufd.private import (
    IOMMUFD_OBJ_ANY,
    IOMMUFD_OBJ_DEVICE,
    IOMMUFD_OBJ_HWPT_PAGING,
    PAGE_SIZE,
    ULONG_MAX,
    IommufdCtx,
    IommufdDevice,
    IommufdHwptNested,
    IommufdHwptPaging,
    IommufdIoas,
    IommufdUcmd,
    IommufdViommu,
)
from uvfio.linux.kernel.bug import lockdep_assert_held
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kzalloc
from uvfio.uapi.iommufd import (
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
    IOMMU_HWPT_ALLOC_NEST_PARENT,
    IOMMU_HWPT_ALLOC_PASID,
    IOMMU_HWPT_DATA_NONE,
    IOMMU_HWPT_DIRTY_TRACKING_ENABLE,
    IOMMU_HWPT_FAULT_ID_VALID,
    IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR,
)

PAGING_FLAGS = (
    IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_DIRTY_TRACKING | IOMMU_HWPT_FAULT_ID_VALID | IOMMU_HWPT_ALLOC_PASID
)
NESTED_FLAGS = IOMMU_HWPT_FAULT_ID_VALID | IOMMU_HWPT_ALLOC_PASID
MAX_INVALIDATE_ENTRIES = 1 << 19


def iommufd_hwpt_paging_alloc(
    ictx: IommufdCtx, ioas: IommufdIoas, idev: IommufdDevice, flags: int, immediate_attach: bool
) -> IommufdHwptPaging:
    """
    A page table of *ioas* that suits *idev*, not finalized yet. With
    *immediate_attach* the device is on it before the IOAS fills it, as some drivers
    know only then what the domain can do. Errno EOPNOTSUPP, ENODEV, EADDRINUSE, ...
    """
    lockdep_assert_held(ioas.mutex)
    if flags & IOMMU_HWPT_FAULT_ID_VALID and flags & IOMMU_HWPT_ALLOC_NEST_PARENT:
        raise Errno(EOPNOTSUPP)
    if flags & ~PAGING_FLAGS:
        raise Errno(EOPNOTSUPP)
    hwpt = kzalloc(IommufdHwptPaging, ioas)
    objects.iommufd_object_alloc(ictx, hwpt)
    hwpt.pasid_compat = bool(flags & IOMMU_HWPT_ALLOC_PASID)
    hwpt.nest_parent = bool(flags & IOMMU_HWPT_ALLOC_NEST_PARENT)
    ioas.users.inc()
    attached = False
    try:
        hwpt.domain = _domain_alloc(idev, flags)
        iommufd_hwpt_paging_enforce_cc(hwpt)
        if immediate_attach:
            device.iommufd_hw_pagetable_attach(hwpt, idev)
            attached = True
        io_pagetable.iopt_table_add_domain(ioas.iopt, hwpt.domain)
        hwpt.in_table = True
        ioas.hwpt_list.append(hwpt)
        return hwpt
    except Errno:
        if attached:
            device.iommufd_hw_pagetable_detach(idev)
            hwpt.users.dec()
        objects.iommufd_object_abort_and_destroy(ictx, hwpt)
        raise


def _domain_alloc(idev: IommufdDevice, flags: int) -> IommuDomain:
    if idev.dev.iommu is None:
        raise Errno(ENODEV)
    return iommu.iommu_paging_domain_alloc_flags(idev.dev, flags & ~IOMMU_HWPT_FAULT_ID_VALID)


def iommufd_hwpt_paging_enforce_cc(hwpt: IommufdHwptPaging) -> bool:
    """Make no access of any device bypass the caches, if the domain can. Says whether it does."""
    if not hwpt.enforce_cache_coherency and hwpt.domain is not None:
        hwpt.enforce_cache_coherency = hwpt.domain.enforce_cache_coherency()
    return hwpt.enforce_cache_coherency


def iommufd_hwpt_paging_destroy(hwpt: IommufdHwptPaging, abort: bool) -> None:
    """With *abort* the caller, who was about to make it, holds the mutex of its IOAS."""
    ioas = hwpt.ioas
    if hwpt.in_table and hwpt.domain is not None:
        if abort:
            _leave_ioas(hwpt)
        else:
            with ioas.mutex:
                _leave_ioas(hwpt)
    if hwpt.domain is not None:
        iommu.iommu_domain_free(hwpt.domain)
    ioas.users.dec()


def _leave_ioas(hwpt: IommufdHwptPaging) -> None:
    assert hwpt.domain is not None
    hwpt.ioas.hwpt_list.remove(hwpt)
    io_pagetable.iopt_table_remove_domain(hwpt.ioas.iopt, hwpt.domain)


def iommufd_hwpt_nested_destroy(hwpt: IommufdHwptNested) -> None:
    if hwpt.domain is not None:
        iommu.iommu_domain_free(hwpt.domain)
    hwpt.viommu.users.dec()


def iommufd_hwpt_alloc(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if cmd.__reserved:
        raise Errno(EOPNOTSUPP)
    if (cmd.data_type == IOMMU_HWPT_DATA_NONE) != (cmd.data_len == 0):
        raise Errno(EINVAL)
    ictx = ucmd.ictx
    idev: IommufdDevice = objects.iommufd_get_object(ictx, cmd.dev_id, IOMMUFD_OBJ_DEVICE)
    try:
        try:
            pt_obj = objects.iommufd_get_object(ictx, cmd.pt_id, IOMMUFD_OBJ_ANY)
        except Errno:
            raise Errno(EINVAL) from None
        try:
            if isinstance(pt_obj, IommufdIoas):
                _hwpt_alloc_paging(ucmd, pt_obj, idev)
            elif isinstance(pt_obj, IommufdHwptPaging):
                _hwpt_alloc_nested(ucmd, pt_obj)
            elif isinstance(pt_obj, IommufdViommu):
                _viommu_alloc_hwpt_nested(ucmd, pt_obj, idev)
            else:
                raise Errno(EINVAL)
        finally:
            objects.iommufd_put_object(ictx, pt_obj)
    finally:
        objects.iommufd_put_object(ictx, idev)


def _hwpt_alloc_paging(ucmd: IommufdUcmd, ioas: IommufdIoas, idev: IommufdDevice) -> None:
    cmd = ucmd.cmd
    if cmd.data_len:
        raise Errno(EOPNOTSUPP)
    with ioas.mutex:
        hwpt = iommufd_hwpt_paging_alloc(ucmd.ictx, ioas, idev, cmd.flags, False)
        cmd.out_hwpt_id = hwpt.id
        try:
            if cmd.flags & IOMMU_HWPT_FAULT_ID_VALID:
                raise Errno(ENOENT)
            ucmd.respond()
        except Errno:
            objects.iommufd_object_abort_and_destroy(ucmd.ictx, hwpt)
            raise
        objects.iommufd_object_finalize(ucmd.ictx, hwpt)


def _hwpt_alloc_nested(ucmd: IommufdUcmd, parent: IommufdHwptPaging) -> None:
    if ucmd.cmd.flags & ~NESTED_FLAGS or not ucmd.cmd.data_len:
        raise Errno(EOPNOTSUPP)
    if parent.auto_domain or not parent.nest_parent:
        raise Errno(EINVAL)
    raise Errno(EOPNOTSUPP)


def _viommu_alloc_hwpt_nested(ucmd: IommufdUcmd, viommu: IommufdViommu, idev: IommufdDevice) -> None:
    cmd = ucmd.cmd
    if idev.dev.iommu is None or viommu.iommu_dev is not idev.dev.iommu.iommu_dev:
        raise Errno(EINVAL, "the device is behind another IOMMU")
    if cmd.flags & ~NESTED_FLAGS or not cmd.data_len:
        raise Errno(EOPNOTSUPP)
    hwpt = kzalloc(IommufdHwptNested, viommu.hwpt, viommu)
    objects.iommufd_object_alloc(ucmd.ictx, hwpt)
    viommu.users.inc()
    try:
        user_data = IommuUserData(cmd.data_type, cmd.data_uptr, cmd.data_len)
        hwpt.domain = viommu.alloc_domain_nested(cmd.flags & ~IOMMU_HWPT_FAULT_ID_VALID, user_data)
        if cmd.flags & IOMMU_HWPT_FAULT_ID_VALID:
            raise Errno(ENOENT)
        cmd.out_hwpt_id = hwpt.id
        ucmd.respond()
    except Errno:
        objects.iommufd_object_abort_and_destroy(ucmd.ictx, hwpt)
        raise
    objects.iommufd_object_finalize(ucmd.ictx, hwpt)


def iommufd_hwpt_set_dirty_tracking(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if cmd.flags & ~IOMMU_HWPT_DIRTY_TRACKING_ENABLE:
        raise Errno(EOPNOTSUPP)
    hwpt: IommufdHwptPaging = objects.iommufd_get_object(ucmd.ictx, cmd.hwpt_id, IOMMUFD_OBJ_HWPT_PAGING)
    try:
        assert hwpt.domain is not None
        enable = bool(cmd.flags & IOMMU_HWPT_DIRTY_TRACKING_ENABLE)
        io_pagetable.iopt_set_dirty_tracking(hwpt.ioas.iopt, hwpt.domain, enable)
    finally:
        objects.iommufd_put_object(ucmd.ictx, hwpt)


def iommufd_hwpt_get_dirty_bitmap(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if cmd.flags & ~IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR or cmd.__reserved:
        raise Errno(EOPNOTSUPP)
    hwpt: IommufdHwptPaging = objects.iommufd_get_object(ucmd.ictx, cmd.hwpt_id, IOMMUFD_OBJ_HWPT_PAGING)
    try:
        if not cmd.length:
            raise Errno(EINVAL)
        end = cmd.iova + cmd.length
        if end - 1 > ULONG_MAX:
            raise Errno(EOVERFLOW)
        if (cmd.iova | end) & (hwpt.ioas.iopt.iova_alignment - 1):
            raise Errno(EINVAL)
        if not cmd.page_size or (cmd.iova | end) & (cmd.page_size - 1):
            raise Errno(EINVAL)
        assert hwpt.domain is not None
        bitmap = iova_bitmap.IovaBitmap(cmd.iova, cmd.page_size, cmd.data)
        no_clear = bool(cmd.flags & IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR)
        io_pagetable.iopt_read_and_clear_dirty_data(hwpt.ioas.iopt, hwpt.domain, no_clear, cmd.length, bitmap)
    finally:
        objects.iommufd_put_object(ucmd.ictx, hwpt)


def iommufd_hwpt_invalidate(ucmd: IommufdUcmd) -> None:
    """Whatever becomes of it, the caller learns how many of its entries were used."""
    cmd = ucmd.cmd
    array = IommuUserDataArray(cmd.data_type, cmd.data_uptr, cmd.entry_len, cmd.entry_num)
    try:
        if cmd.__reserved:
            raise Errno(EOPNOTSUPP)
        if cmd.entry_num and (
            not cmd.data_uptr or not 0 < cmd.entry_len <= PAGE_SIZE or cmd.entry_num > MAX_INVALIDATE_ENTRIES
        ):
            raise Errno(EINVAL)
        pt_obj = objects.iommufd_get_object(ucmd.ictx, cmd.hwpt_id, IOMMUFD_OBJ_ANY)
        try:
            if isinstance(pt_obj, IommufdViommu):
                pt_obj.cache_invalidate(array)
            elif isinstance(pt_obj, IommufdHwptNested):
                raise Errno(EOPNOTSUPP, "no driver here has it other than through a vIOMMU")
            else:
                raise Errno(EINVAL)
        finally:
            objects.iommufd_put_object(ucmd.ictx, pt_obj)
    finally:
        cmd.entry_num = array.entry_done
        ucmd.respond()

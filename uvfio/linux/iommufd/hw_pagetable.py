# SPDX-License-Identifier: GPL-2.0-only
"""
Hardware page tables: domains that show an IOAS.

Mirrors ``drivers/iommu/iommufd/hw_pagetable.c``. All differences from Linux:

* that a driver cannot make nested ones is seen from its operations, as its pointers are
  in Linux; the parent's ``owner`` are the ``ops`` of its domain.
"""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP, EOVERFLOW
from typing import Any

from uvfio.linux.iommu import iommu
from uvfio.linux.iommu.iommufd import IommuUserData, IommuUserDataArray
from uvfio.linux.iommu.private import (
    IOMMU_CAP_DIRTY_TRACKING,
    IOMMU_DOMAIN_NESTED,
    IOMMU_NO_PASID,
    IommuDomain,
    implements,
)
from uvfio.linux.iommufd import device, eventq, hwpt_noiommu, io_pagetable, iova_bitmap, objects
from uvfio.linux.iommufd.private import (
    IOMMUFD_OBJ_ANY,
    IOMMUFD_OBJ_DEVICE,
    IOMMUFD_OBJ_FAULT,
    IOMMUFD_OBJ_HWPT_PAGING,
    PAGE_SIZE,
    ULONG_MAX,
    IommufdCtx,
    IommufdDevice,
    IommufdFault,
    IommufdHwPagetable,
    IommufdHwptNested,
    IommufdHwptPaging,
    IommufdIoas,
    IommufdUcmd,
    IommufdViommu,
)
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
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
    ictx: IommufdCtx,
    ioas: IommufdIoas,
    idev: IommufdDevice,
    flags: int,
    immediate_attach: bool,
    user_data: IommuUserData | None = None,
    pasid: int = IOMMU_NO_PASID,
) -> IommufdHwptPaging:
    """
    A page table of *ioas* that suits *idev*, not finalized yet. With
    *immediate_attach* the device (its *pasid*) is on it before the IOAS fills it, as some
    drivers know only then what the domain can do. Errno EOPNOTSUPP, ENODEV, EADDRINUSE, ...
    """
    lockdep_assert_held(ioas.mutex)
    if flags & IOMMU_HWPT_FAULT_ID_VALID and flags & IOMMU_HWPT_ALLOC_NEST_PARENT:
        raise Errno(EOPNOTSUPP)
    if flags & ~PAGING_FLAGS:
        raise Errno(EOPNOTSUPP)
    if flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING and not iommu.device_iommu_capable(idev.dev, IOMMU_CAP_DIRTY_TRACKING):
        raise Errno(EOPNOTSUPP)
    hwpt = kzalloc(IommufdHwptPaging, ioas)
    objects.iommufd_object_alloc(ictx, hwpt)
    hwpt.pasid_compat = bool(flags & IOMMU_HWPT_ALLOC_PASID)
    hwpt.nest_parent = bool(flags & IOMMU_HWPT_ALLOC_NEST_PARENT)
    ioas.users.inc()
    attached = False
    try:
        domain_flags = flags & ~IOMMU_HWPT_FAULT_ID_VALID
        if idev.noiommu:
            hwpt.domain = hwpt_noiommu.iommufd_noiommu_alloc_paging(domain_flags, user_data)
        else:
            hwpt.domain = iommu.iommu_paging_domain_alloc_flags(idev.dev, domain_flags, user_data)
        hwpt.domain.iommufd_hwpt = hwpt
        iommufd_hwpt_paging_enforce_cc(hwpt)
        if immediate_attach:
            device.iommufd_hw_pagetable_attach(hwpt, idev, pasid)
            attached = True
        io_pagetable.iopt_table_add_domain(ioas.iopt, hwpt.domain)
        hwpt.in_table = True
        ioas.hwpt_list.append(hwpt)
        return hwpt
    except Errno:
        if attached:
            device.iommufd_hw_pagetable_detach(idev, pasid)
            hwpt.users.dec()
        objects.iommufd_object_abort_and_destroy(ictx, hwpt)
        raise


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
    _iommufd_hwpt_destroy(hwpt)
    ioas.users.dec()


def _leave_ioas(hwpt: IommufdHwptPaging) -> None:
    assert hwpt.domain is not None
    hwpt.ioas.hwpt_list.remove(hwpt)
    io_pagetable.iopt_table_remove_domain(hwpt.ioas.iopt, hwpt.domain)


def _iommufd_hwpt_destroy(hwpt: IommufdHwPagetable) -> None:
    if hwpt.domain is not None:
        iommu.iommu_domain_free(hwpt.domain)
    if hwpt.fault is not None:
        hwpt.fault.users.dec()


def iommufd_hwpt_nested_destroy(hwpt: IommufdHwptNested) -> None:
    _iommufd_hwpt_destroy(hwpt)
    if hwpt.viommu is not None:
        hwpt.viommu.users.dec()
    else:
        hwpt.parent.users.dec()


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
                _hwpt_alloc_nested(ucmd, pt_obj, idev)
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
    with ioas.mutex:
        hwpt = iommufd_hwpt_paging_alloc(ucmd.ictx, ioas, idev, cmd.flags, False, _user_data(cmd))
        _hwpt_finalize(ucmd, hwpt)


def _hwpt_finalize(ucmd: IommufdUcmd, hwpt: IommufdHwPagetable) -> None:
    """*hwpt* is made but for its fault queue; from here on user space has it, or it goes again."""
    cmd = ucmd.cmd
    try:
        if cmd.flags & IOMMU_HWPT_FAULT_ID_VALID:
            fault: IommufdFault = objects.iommufd_get_object(ucmd.ictx, cmd.fault_id, IOMMUFD_OBJ_FAULT)
            assert hwpt.domain is not None
            hwpt.fault = fault
            hwpt.domain.iopf_handler = eventq.iommufd_fault_iopf_handler
            fault.users.inc()
            objects.iommufd_put_object(ucmd.ictx, fault)
        cmd.out_hwpt_id = hwpt.id
        ucmd.respond()
    except Errno:
        objects.iommufd_object_abort_and_destroy(ucmd.ictx, hwpt)
        raise
    objects.iommufd_object_finalize(ucmd.ictx, hwpt)


def _user_data(cmd: Any) -> IommuUserData | None:
    return IommuUserData(cmd.data_type, cmd.data_uptr, cmd.data_len) if cmd.data_len else None


def _hwpt_alloc_nested(ucmd: IommufdUcmd, parent: IommufdHwptPaging, idev: IommufdDevice) -> None:
    """``iommufd_hwpt_nested_alloc()``: user space's first stage on *parent*."""
    cmd = ucmd.cmd
    user_data = _user_data(cmd)
    ops = None if idev.dev.iommu is None else idev.dev.iommu.iommu_dev.ops
    if cmd.flags & ~NESTED_FLAGS or user_data is None or ops is None or not implements(ops, "domain_alloc_nested"):
        raise Errno(EOPNOTSUPP)
    assert parent.domain is not None
    if parent.auto_domain or not parent.nest_parent or parent.domain.ops is not ops:
        raise Errno(EINVAL)
    hwpt = kzalloc(IommufdHwptNested, parent, None)
    objects.iommufd_object_alloc(ucmd.ictx, hwpt)
    hwpt.pasid_compat = bool(cmd.flags & IOMMU_HWPT_ALLOC_PASID)
    parent.users.inc()
    try:
        flags = cmd.flags & ~IOMMU_HWPT_FAULT_ID_VALID
        _set_nested_domain(hwpt, ops.domain_alloc_nested(idev.dev, parent.domain, flags, user_data))
    except Errno:
        objects.iommufd_object_abort_and_destroy(ucmd.ictx, hwpt)
        raise
    _hwpt_finalize(ucmd, hwpt)


def _viommu_alloc_hwpt_nested(ucmd: IommufdUcmd, viommu: IommufdViommu, idev: IommufdDevice) -> None:
    """``iommufd_viommu_alloc_hwpt_nested()``: a guest's first stage."""
    cmd = ucmd.cmd
    if idev.dev.iommu is None or viommu.iommu_dev is not idev.dev.iommu.iommu_dev:
        raise Errno(EINVAL, "the device is behind another IOMMU")
    user_data = _user_data(cmd)
    if cmd.flags & ~NESTED_FLAGS or user_data is None:
        raise Errno(EOPNOTSUPP)
    hwpt = kzalloc(IommufdHwptNested, viommu.hwpt, viommu)
    objects.iommufd_object_alloc(ucmd.ictx, hwpt)
    hwpt.pasid_compat = bool(cmd.flags & IOMMU_HWPT_ALLOC_PASID)
    viommu.users.inc()
    try:
        _set_nested_domain(hwpt, viommu.alloc_domain_nested(cmd.flags & ~IOMMU_HWPT_FAULT_ID_VALID, user_data))
    except Errno:
        objects.iommufd_object_abort_and_destroy(ucmd.ictx, hwpt)
        raise
    _hwpt_finalize(ucmd, hwpt)


def _set_nested_domain(hwpt: IommufdHwptNested, domain: IommuDomain) -> None:
    hwpt.domain = domain
    domain.iommufd_hwpt = hwpt
    if WARN_ON(domain.type != IOMMU_DOMAIN_NESTED, "a driver's nested domain is not nested"):
        raise Errno(EINVAL)


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
        bitmap = iova_bitmap.IovaBitmap(cmd.iova, cmd.length, cmd.page_size, cmd.data)
        no_clear = bool(cmd.flags & IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR)
        io_pagetable.iopt_read_and_clear_dirty_data(hwpt.ioas.iopt, hwpt.domain, no_clear, bitmap)
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
                assert pt_obj.domain is not None
                pt_obj.domain.cache_invalidate_user(array)
            else:
                raise Errno(EINVAL)
        finally:
            objects.iommufd_put_object(ucmd.ictx, pt_obj)
    finally:
        cmd.entry_num = array.entry_done
        ucmd.respond()

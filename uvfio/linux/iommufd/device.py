# SPDX-License-Identifier: GPL-2.0-only
"""
Devices bound to an iommufd, and what they are attached to.

Mirrors ``drivers/iommu/iommufd/device.c``. All differences from Linux:

* no PASIDs;
* MSIs need no mapping in the IOVA space (``sw_msi``), as on every x86: where an SMMU has
  a window for them, it is only kept free.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EINVAL, ENODEV, EOPNOTSUPP, EPERM
from typing import Any

from uvfio.linux.base.moduleparam import module_param_bool
from uvfio.linux.iommu import iommu
from uvfio.linux.iommu.private import IOMMU_CAP_CACHE_COHERENCY, IommuGroup
from uvfio.linux.iommufd import hw_pagetable, io_pagetable, objects
from uvfio.linux.iommufd import iova as iova_ranges
from uvfio.linux.iommufd.private import (
    IOMMUFD_OBJ_ANY,
    IOMMUFD_OBJ_DEVICE,
    IommufdCtx,
    IommufdDevice,
    IommufdGroup,
    IommufdHwPagetable,
    IommufdIoas,
    IommufdUcmd,
)
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.uaccess import copy_to_user
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kzalloc
from uvfio.runtime.task import per_machine
from uvfio.uapi.iommufd import IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED, IOMMU_HW_INFO_FLAG_INPUT_TYPE


class IommufdParameters:
    """/sys/module/iommufd/parameters."""

    def __init__(self) -> None:
        self.allow_unsafe_interrupts = False


iommufd_parameters = per_machine(IommufdParameters)


def iommufd_parameters_init() -> None:
    values = iommufd_parameters()

    def allow(value: bool) -> None:
        values.allow_unsafe_interrupts = value

    module_param_bool("iommufd", "allow_unsafe_interrupts", lambda: values.allow_unsafe_interrupts, allow)


# Groups


def iommufd_get_group(ictx: IommufdCtx, dev: Any) -> IommufdGroup:
    """The context's group for the IOMMU group of *dev*, referenced. Errno ENODEV without one."""
    group: IommuGroup | None = iommu.iommu_group_get(dev)
    if group is None:
        raise Errno(ENODEV)
    with ictx.objects.xa_lock:
        igroup = ictx.groups.get(group)
        if igroup is not None and igroup.kref.get_unless_zero():
            found = igroup
        else:
            # One whose last reference is just gone takes itself out only if it is still there.
            found = ictx.groups[group] = IommufdGroup(ictx, group)
            group = None
    iommu.iommu_group_put(group)
    return found


def iommufd_put_group(igroup: IommufdGroup) -> None:
    igroup.kref.put(_iommufd_group_release, igroup)


def _iommufd_group_release(igroup: IommufdGroup) -> None:
    WARN_ON(igroup.hwpt is not None or igroup.device_list, "an iommufd group goes with something attached")
    with igroup.ictx.objects.xa_lock:
        if igroup.ictx.groups.get(igroup.group) is igroup:
            del igroup.ictx.groups[igroup.group]
    iommu.iommu_group_put(igroup.group)


# Bind


def iommufd_device_bind(ictx: IommufdCtx, dev: Any) -> IommufdDevice:
    """
    All DMA of *dev* is the context's from now on. Errno EINVAL not coherent, ENODEV no
    group, EPERM interrupts not isolated or owned by somebody else.
    """
    if not iommu.device_iommu_capable(dev, IOMMU_CAP_CACHE_COHERENCY):
        raise Errno(EINVAL)
    igroup = iommufd_get_group(ictx, dev)
    try:
        isolated = iommu.iommu_group_has_isolated_msi(igroup.group)
        if not isolated and not iommufd_parameters().allow_unsafe_interrupts:
            raise Errno(EPERM)
        iommu.iommu_device_claim_dma_owner(dev, ictx)
    except Errno:
        iommufd_put_group(igroup)
        raise
    idev = kzalloc(IommufdDevice, ictx, igroup, dev)
    objects.iommufd_object_alloc(ictx, idev)
    objects.iommufd_ctx_get(ictx)
    # The caller is a user, so that nobody else can destroy what only it may unbind.
    idev.users.inc()
    objects.iommufd_object_finalize(ictx, idev)
    return idev


def iommufd_device_unbind(idev: IommufdDevice) -> None:
    """Undo the bind; waits for calls that use the device."""
    objects.iommufd_object_destroy_user(idev.ictx, idev)


def iommufd_device_pre_destroy(idev: IommufdDevice) -> None:
    """Somebody still uses *idev*: if that is its vDEVICE, it has to go, and there will be no other."""
    with idev.igroup.lock:
        vdev = idev.vdev
        idev.destroying = True
        if vdev is None:
            return
        try:
            objects.iommufd_try_inc_users(idev.ictx, vdev)
        except Errno:
            return  # user space destroys it now, and that is what we wait for
    objects.iommufd_object_tombstone_user(idev.ictx, vdev)


def iommufd_device_destroy(idev: IommufdDevice) -> None:
    iommu.iommu_device_release_dma_owner(idev.dev)
    iommufd_put_group(idev.igroup)
    objects.iommufd_ctx_put(idev.ictx)


def iommufd_device_to_id(idev: IommufdDevice) -> int:
    return idev.id


def iommufd_ctx_has_group(ictx: IommufdCtx, group: IommuGroup | None) -> bool:
    """Is a device of *group* bound to the context?"""
    with ictx.objects.xa_lock:
        return group is not None and group in ictx.groups


# Attach


def iommufd_device_attach(idev: IommufdDevice, pt_id: int) -> int:
    """
    Attach to a page table, or to an IOAS through one that is found or made; the id of
    the page table. Errno ENOENT, EINVAL, EADDRINUSE, EFAULT, ENOMEM.
    """
    pt_id = _iommufd_device_change_pt(idev, pt_id, iommufd_device_do_attach)
    # The caller holds the device while it is attached.
    idev.users.inc()
    return pt_id


def iommufd_device_replace(idev: IommufdDevice, pt_id: int) -> int:
    """The same for a device that is attached, without a gap in between."""
    return _iommufd_device_change_pt(idev, pt_id, iommufd_device_do_replace)


def iommufd_device_detach(idev: IommufdDevice) -> None:
    hwpt = iommufd_hw_pagetable_detach(idev)
    iommufd_hw_pagetable_put(idev.ictx, hwpt)
    idev.users.dec()


AttachFn = Callable[[IommufdDevice, IommufdHwPagetable], IommufdHwPagetable | None]


def _iommufd_device_change_pt(idev: IommufdDevice, pt_id: int, do_attach: AttachFn) -> int:
    ictx = idev.ictx
    pt_obj = objects.iommufd_get_object(ictx, pt_id, IOMMUFD_OBJ_ANY)
    try:
        if isinstance(pt_obj, IommufdHwPagetable):
            old = do_attach(idev, pt_obj)
            used = pt_obj.id
        elif isinstance(pt_obj, IommufdIoas):
            used, old = _iommufd_device_auto_get_domain(idev, pt_obj, do_attach)
        else:
            raise Errno(EINVAL)
    finally:
        objects.iommufd_put_object(ictx, pt_obj)
    # Only now: the old page table may take the IOAS just used with it.
    if old is not None:
        iommufd_hw_pagetable_put(ictx, old)
    return used


def _iommufd_device_auto_get_domain(
    idev: IommufdDevice, ioas: IommufdIoas, do_attach: AttachFn
) -> tuple[int, IommufdHwPagetable | None]:
    """The page table that *ioas* made by itself, if *idev* can use it; else a new one."""
    ictx = idev.ictx
    # Devices that are attached at the same time must end up sharing one.
    with ioas.mutex:
        for hwpt in list(ioas.hwpt_list):
            if not hwpt.auto_domain or not objects.iommufd_lock_obj(hwpt):
                continue
            try:
                return hwpt.id, do_attach(idev, hwpt)
            except Errno as e:
                if e.number != EINVAL:
                    raise
            finally:
                objects.iommufd_put_object(ictx, hwpt)
        immediate = do_attach is iommufd_device_do_attach
        hwpt = hw_pagetable.iommufd_hwpt_paging_alloc(ictx, ioas, idev, 0, immediate)
        hwpt.auto_domain = True
        old = None
        if not immediate:
            try:
                old = do_attach(idev, hwpt)
            except Errno:
                objects.iommufd_object_abort_and_destroy(ictx, hwpt)
                raise
        used = hwpt.id
        objects.iommufd_object_finalize(ictx, hwpt)
        return used, old


def iommufd_device_do_attach(idev: IommufdDevice, hwpt: IommufdHwPagetable) -> None:
    iommufd_hw_pagetable_attach(hwpt, idev)


def iommufd_hw_pagetable_attach(hwpt: IommufdHwPagetable, idev: IommufdDevice) -> None:
    """Errno EINVAL when the group is on another page table, EADDRINUSE."""
    igroup = idev.igroup
    with igroup.lock:
        if igroup.hwpt is not None and igroup.hwpt is not hwpt:
            raise Errno(EINVAL)
        iopt = hwpt.ioas.iopt
        io_pagetable.iopt_table_enforce_dev_resv_regions(iopt, idev.dev)
        if not igroup.device_list:
            try:
                assert hwpt.domain is not None
                iommu.iommu_attach_group_handle(hwpt.domain, igroup.group)
            except Errno:
                iova_ranges.iopt_remove_reserved_iova(iopt, idev.dev)
                raise
            igroup.hwpt = hwpt
        hwpt.users.inc()
        igroup.device_list.append(idev)


def iommufd_hw_pagetable_detach(idev: IommufdDevice) -> IommufdHwPagetable:
    """What the device was attached to; the caller puts it."""
    igroup = idev.igroup
    with igroup.lock:
        hwpt = igroup.hwpt
        assert hwpt is not None
        assert hwpt.domain is not None
        igroup.device_list.remove(idev)
        if not igroup.device_list:
            iommu.iommu_detach_group(hwpt.domain, igroup.group)
            igroup.hwpt = None
        iova_ranges.iopt_remove_reserved_iova(hwpt.ioas.iopt, idev.dev)
    return hwpt


def iommufd_hw_pagetable_put(ictx: IommufdCtx, hwpt: IommufdHwPagetable) -> None:
    """Drop what an attached device held; the last one takes an automatic page table along."""
    if hwpt.auto_domain:
        objects.iommufd_object_put_and_try_destroy(ictx, hwpt)
    else:
        hwpt.users.dec()


def iommufd_device_do_replace(idev: IommufdDevice, hwpt: IommufdHwPagetable) -> IommufdHwPagetable | None:
    """The page table to put, None when the device is on *hwpt* already. Errno as attach."""
    igroup = idev.igroup
    with igroup.lock:
        old = igroup.hwpt
        if old is None or idev not in igroup.device_list:
            raise Errno(EINVAL)
        if old is hwpt:
            return None
        _replace_reserved(igroup, old, hwpt)
        try:
            assert hwpt.domain is not None
            iommu.iommu_replace_group_handle(igroup.group, hwpt.domain)
        except Errno:
            if old.ioas is not hwpt.ioas:
                for each in igroup.device_list:
                    iova_ranges.iopt_remove_reserved_iova(hwpt.ioas.iopt, each.dev)
            raise
        if old.ioas is not hwpt.ioas:
            for each in igroup.device_list:
                iova_ranges.iopt_remove_reserved_iova(old.ioas.iopt, each.dev)
        igroup.hwpt = hwpt
        # Every device of the group moves, and each holds the page table it is on.
        for _each in igroup.device_list:
            hwpt.users.inc()
        for _each in igroup.device_list[1:]:
            old.users.dec()
        return old


def _replace_reserved(igroup: IommufdGroup, old: IommufdHwPagetable, hwpt: IommufdHwPagetable) -> None:
    lockdep_assert_held(igroup.lock)
    if old.ioas is hwpt.ioas:
        return
    done: list[IommufdDevice] = []
    try:
        for each in igroup.device_list:
            io_pagetable.iopt_table_enforce_dev_resv_regions(hwpt.ioas.iopt, each.dev)
            done.append(each)
    except Errno:
        for each in done:
            iova_ranges.iopt_remove_reserved_iova(hwpt.ioas.iopt, each.dev)
        raise


# What the hardware can do


def iommufd_get_hw_info(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if cmd.flags & ~IOMMU_HW_INFO_FLAG_INPUT_TYPE or any(cmd.__reserved):
        raise Errno(EOPNOTSUPP)
    asked = cmd.data_type if cmd.flags & IOMMU_HW_INFO_FLAG_INPUT_TYPE else 0
    idev: IommufdDevice = objects.iommufd_get_object(ucmd.ictx, cmd.dev_id, IOMMUFD_OBJ_DEVICE)
    try:
        if idev.dev.iommu is None:
            raise Errno(EOPNOTSUPP)
        cmd.data_type, data = idev.dev.iommu.iommu_dev.ops.hw_info(idev.dev, asked)
        copied = data[: cmd.data_len].ljust(cmd.data_len, b"\0")
        if copied:
            copy_to_user(cmd.data_uptr, copied)
        cmd.data_len = len(data)
        cmd.out_max_pasid_log2 = 0
        cmd.out_capabilities = IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED
        ucmd.respond()
    finally:
        objects.iommufd_put_object(ucmd.ictx, idev)

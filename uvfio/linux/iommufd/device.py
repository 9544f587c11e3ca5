# SPDX-License-Identifier: GPL-2.0-only
"""
Devices bound to an iommufd, and what they are attached to.

Mirrors ``drivers/iommu/iommufd/device.c``. All differences from Linux:

* MSIs need no mapping in the IOVA space (``sw_msi``), as on every x86: where an SMMU has
  a window for them, it is only kept free.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY, EINVAL, ENODEV, EPERM
from typing import Any

from uvfio.linux.base.moduleparam import module_param_bool
from uvfio.linux.iommu import iommu
from uvfio.linux.iommu import pasid as iommu_pasid
from uvfio.linux.iommu.private import (
    IOMMU_CAP_CACHE_COHERENCY,
    IOMMU_NO_PASID,
    IommuDomain,
    IommuGroup,
)
from uvfio.linux.iommufd import eventq, hw_pagetable, hwpt_noiommu, io_pagetable, objects, selftest_device
from uvfio.linux.iommufd import iova as iova_ranges
from uvfio.linux.iommufd.private import (
    IOMMUFD_OBJ_ANY,
    IommufdAttach,
    IommufdAttachHandle,
    IommufdCtx,
    IommufdDevice,
    IommufdGroup,
    IommufdHwPagetable,
    IommufdIoas,
)
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.process import CAP_SYS_RAWIO, capable
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.runtime.task import per_machine


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
    WARN_ON(igroup.pasid_attach, "an iommufd group goes with something attached")
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
    return _iommufd_device_alloc(ictx, igroup, dev, noiommu=False)


def iommufd_device_bind_noiommu(ictx: IommufdCtx, dev: Any) -> IommufdDevice:
    """The same for a device that nothing keeps in check. Errno EPERM: not for everybody."""
    if not capable(CAP_SYS_RAWIO):
        raise Errno(EPERM)
    igroup = iommufd_get_group(ictx, dev)
    try:
        iommu.iommu_device_claim_dma_owner(dev, ictx)
    except Errno:
        iommufd_put_group(igroup)
        raise
    dev.dma_direct = hwpt_noiommu.noiommu_translate
    return _iommufd_device_alloc(ictx, igroup, dev, noiommu=True)


def _iommufd_device_alloc(ictx: IommufdCtx, igroup: IommufdGroup, dev: Any, noiommu: bool) -> IommufdDevice:
    idev = kzalloc(IommufdDevice, ictx, igroup, dev)
    idev.noiommu = noiommu
    objects.iommufd_object_alloc(ictx, idev)
    # A mock device is destroyed with the context, and must not keep it.
    if not selftest_device.iommufd_selftest_is_mock_dev(dev):
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
    if not selftest_device.iommufd_selftest_is_mock_dev(idev.dev):
        objects.iommufd_ctx_put(idev.ictx)
    if idev.noiommu:
        idev.dev.dma_direct = None


def iommufd_device_to_id(idev: IommufdDevice) -> int:
    return idev.id


def iommufd_ctx_has_group(ictx: IommufdCtx, group: IommuGroup | None) -> bool:
    """Is a device of *group* bound to the context?"""
    with ictx.objects.xa_lock:
        return group is not None and group in ictx.groups


# Attach


def iommufd_device_attach(idev: IommufdDevice, pasid: int, pt_id: int) -> int:
    """
    Attach (a PASID of) the device to a page table, or to an IOAS through one that is found or
    made; the id of the page table. Errno ENOENT, EINVAL, EBUSY, EADDRINUSE, EFAULT, ENOMEM.
    """
    pt_id = _iommufd_device_change_pt(idev, pasid, pt_id, iommufd_device_do_attach)
    # The caller holds the device while it is attached.
    idev.users.inc()
    return pt_id


def iommufd_device_replace(idev: IommufdDevice, pasid: int, pt_id: int) -> int:
    """The same for what is attached, without a gap in between."""
    return _iommufd_device_change_pt(idev, pasid, pt_id, iommufd_device_do_replace)


def iommufd_device_detach(idev: IommufdDevice, pasid: int) -> None:
    """Nothing happens if nothing is attached there."""
    hwpt = iommufd_hw_pagetable_detach(idev, pasid)
    if hwpt is None:
        return
    iommufd_hw_pagetable_put(idev.ictx, hwpt)
    idev.users.dec()


AttachFn = Callable[[IommufdDevice, int, IommufdHwPagetable], IommufdHwPagetable | None]


def _iommufd_device_change_pt(idev: IommufdDevice, pasid: int, pt_id: int, do_attach: AttachFn) -> int:
    ictx = idev.ictx
    pt_obj = objects.iommufd_get_object(ictx, pt_id, IOMMUFD_OBJ_ANY)
    try:
        if isinstance(pt_obj, IommufdHwPagetable):
            old = do_attach(idev, pasid, pt_obj)
            used = pt_obj.id
        elif isinstance(pt_obj, IommufdIoas):
            used, old = _iommufd_device_auto_get_domain(idev, pasid, pt_obj, do_attach)
        else:
            raise Errno(EINVAL)
    finally:
        objects.iommufd_put_object(ictx, pt_obj)
    # Only now: the old page table may take the IOAS just used with it.
    if old is not None:
        iommufd_hw_pagetable_put(ictx, old)
    return used


def _iommufd_device_auto_get_domain(
    idev: IommufdDevice, pasid: int, ioas: IommufdIoas, do_attach: AttachFn
) -> tuple[int, IommufdHwPagetable | None]:
    """The page table that *ioas* made by itself, if *idev* can use it; else a new one."""
    ictx = idev.ictx
    # Devices that are attached at the same time must end up sharing one.
    with ioas.mutex:
        for hwpt in list(ioas.hwpt_list):
            if not hwpt.auto_domain or not objects.iommufd_lock_obj(hwpt):
                continue
            try:
                return hwpt.id, do_attach(idev, pasid, hwpt)
            except Errno as e:
                if e.number != EINVAL:
                    raise
            finally:
                objects.iommufd_put_object(ictx, hwpt)
        immediate = do_attach is iommufd_device_do_attach
        hwpt = hw_pagetable.iommufd_hwpt_paging_alloc(ictx, ioas, idev, 0, immediate, None, pasid)
        hwpt.auto_domain = True
        old = None
        if not immediate:
            try:
                old = do_attach(idev, pasid, hwpt)
            except Errno:
                objects.iommufd_object_abort_and_destroy(ictx, hwpt)
                raise
        used = hwpt.id
        objects.iommufd_object_finalize(ictx, hwpt)
        return used, old


def iommufd_device_do_attach(idev: IommufdDevice, pasid: int, hwpt: IommufdHwPagetable) -> None:
    iommufd_hw_pagetable_attach(hwpt, idev, pasid)


def iommufd_hw_pagetable_attach(hwpt: IommufdHwPagetable, idev: IommufdDevice, pasid: int) -> None:
    """Errno EBUSY attached already, EINVAL when the group is on another page table, EADDRINUSE."""
    igroup = idev.igroup
    with igroup.lock:
        attach = igroup.pasid_attach.get(pasid)
        if attach is not None:
            if idev in attach.device_array:
                raise Errno(EBUSY)
            if attach.hwpt is not hwpt:
                raise Errno(EINVAL)
        iopt = hwpt.ioas.iopt
        if pasid == IOMMU_NO_PASID:
            io_pagetable.iopt_table_enforce_dev_resv_regions(iopt, idev.dev)
        if attach is None:
            try:
                _iommufd_hwpt_attach_device(hwpt, idev, pasid)
            except Errno:
                if pasid == IOMMU_NO_PASID:
                    iova_ranges.iopt_remove_reserved_iova(iopt, idev.dev)
                raise
            attach = igroup.pasid_attach[pasid] = IommufdAttach(hwpt)
        hwpt.users.inc()
        attach.device_array.append(idev)


def iommufd_hw_pagetable_detach(idev: IommufdDevice, pasid: int) -> IommufdHwPagetable | None:
    """What was attached, for the caller to put."""
    igroup = idev.igroup
    with igroup.lock:
        attach = igroup.pasid_attach.get(pasid)
        if attach is None:
            return None
        hwpt = attach.hwpt
        attach.device_array.remove(idev)
        if not attach.device_array:
            _iommufd_hwpt_detach_device(hwpt, idev, pasid)
            del igroup.pasid_attach[pasid]
        if pasid == IOMMU_NO_PASID:
            iova_ranges.iopt_remove_reserved_iova(hwpt.ioas.iopt, idev.dev)
    return hwpt


def iommufd_hw_pagetable_put(ictx: IommufdCtx, hwpt: IommufdHwPagetable) -> None:
    """Drop what an attached device held; the last one takes an automatic page table along."""
    if hwpt.auto_domain:
        objects.iommufd_object_put_and_try_destroy(ictx, hwpt)
    else:
        hwpt.users.dec()


def iommufd_device_do_replace(idev: IommufdDevice, pasid: int, hwpt: IommufdHwPagetable) -> IommufdHwPagetable | None:
    """The page table to put, None when the device is on *hwpt* already. Errno as attach."""
    igroup = idev.igroup
    with igroup.lock:
        attach = igroup.pasid_attach.get(pasid)
        if attach is None or idev not in attach.device_array:
            raise Errno(EINVAL)
        old = attach.hwpt
        if old is hwpt:
            return None
        reserved = pasid == IOMMU_NO_PASID and old.ioas is not hwpt.ioas
        if reserved:
            _replace_reserved(attach, hwpt)
        try:
            _iommufd_hwpt_replace_device(idev, pasid, hwpt, old)
        except Errno:
            if reserved:
                _remove_reserved(attach, hwpt)
            raise
        if reserved:
            _remove_reserved(attach, old)
        attach.hwpt = hwpt
        # Every device of the group moves, and each holds the page table it is on.
        for _each in attach.device_array:
            hwpt.users.inc()
        for _each in attach.device_array[1:]:
            old.users.dec()
        return old


def _replace_reserved(attach: IommufdAttach, hwpt: IommufdHwPagetable) -> None:
    done: list[IommufdDevice] = []
    try:
        for each in attach.device_array:
            io_pagetable.iopt_table_enforce_dev_resv_regions(hwpt.ioas.iopt, each.dev)
            done.append(each)
    except Errno:
        for each in done:
            iova_ranges.iopt_remove_reserved_iova(hwpt.ioas.iopt, each.dev)
        raise


def _remove_reserved(attach: IommufdAttach, hwpt: IommufdHwPagetable) -> None:
    for each in attach.device_array:
        iova_ranges.iopt_remove_reserved_iova(hwpt.ioas.iopt, each.dev)


# Domains


def _iommufd_hwpt_pasid_compat(hwpt: IommufdHwPagetable, idev: IommufdDevice, pasid: int) -> None:
    """A device uses PASIDs on page tables made for that only, and its plain one is made for it, too."""
    attached = idev.igroup.pasid_attach
    lockdep_assert_held(idev.igroup.lock)
    if pasid == IOMMU_NO_PASID:
        refused = not hwpt.pasid_compat and any(other != IOMMU_NO_PASID for other in attached)
    else:
        plain = attached.get(IOMMU_NO_PASID)
        refused = not hwpt.pasid_compat or (plain is not None and not plain.hwpt.pasid_compat)
    if refused:
        raise Errno(EINVAL)


def _iommufd_hwpt_attach_device(hwpt: IommufdHwPagetable, idev: IommufdDevice, pasid: int) -> None:
    _iommufd_hwpt_pasid_compat(hwpt, idev, pasid)
    assert hwpt.domain is not None
    if idev.noiommu:
        _iommufd_noiommu_compat(hwpt.domain)
        return
    handle = kzalloc(IommufdAttachHandle, idev)
    try:
        if pasid == IOMMU_NO_PASID:
            iommu.iommu_attach_group_handle(hwpt.domain, idev.igroup.group, handle)
        else:
            iommu_pasid.iommu_attach_device_pasid(hwpt.domain, idev.dev, pasid, handle)
    except Errno:
        kfree(handle)
        raise


def _iommufd_noiommu_compat(domain: IommuDomain) -> None:
    """Nothing is to be done to put a device on a page table that nobody walks; but that it must be."""
    if not domain.ops.noiommu:
        raise Errno(EINVAL)


def _iommufd_hwpt_detach_device(hwpt: IommufdHwPagetable, idev: IommufdDevice, pasid: int) -> None:
    if idev.noiommu:
        return
    handle = iommufd_device_get_attach_handle(idev, pasid)
    assert hwpt.domain is not None
    if pasid == IOMMU_NO_PASID:
        iommu.iommu_detach_group_handle(hwpt.domain, idev.igroup.group)
    else:
        iommu_pasid.iommu_detach_device_pasid(hwpt.domain, idev.dev, pasid)
    eventq.iommufd_auto_response_faults(hwpt, handle)
    kfree(handle)


def _iommufd_hwpt_replace_device(
    idev: IommufdDevice, pasid: int, hwpt: IommufdHwPagetable, old: IommufdHwPagetable
) -> None:
    _iommufd_hwpt_pasid_compat(hwpt, idev, pasid)
    assert hwpt.domain is not None
    if idev.noiommu:
        _iommufd_noiommu_compat(hwpt.domain)
        return
    old_handle = iommufd_device_get_attach_handle(idev, pasid)
    handle = kzalloc(IommufdAttachHandle, idev)
    try:
        if pasid == IOMMU_NO_PASID:
            iommu.iommu_replace_group_handle(idev.igroup.group, hwpt.domain, handle)
        else:
            iommu_pasid.iommu_replace_device_pasid(hwpt.domain, idev.dev, pasid, handle)
    except Errno:
        kfree(handle)
        raise
    # The faults of the old one: they came through it, and are in its queue.
    eventq.iommufd_auto_response_faults(old, old_handle)
    kfree(old_handle)


def iommufd_device_get_attach_handle(idev: IommufdDevice, pasid: int) -> IommufdAttachHandle:
    lockdep_assert_held(idev.igroup.lock)
    handle = iommu.iommu_attach_handle_get(idev.igroup.group, pasid)
    assert isinstance(handle, IommufdAttachHandle)
    return handle

# SPDX-License-Identifier: GPL-2.0-only
"""
Virtual IOMMUs, the devices that a guest knows behind them, and queues for the hardware.

Mirrors ``drivers/iommu/iommufd/viommu.c``; their events are in ``eventq.py``. All
differences from Linux:

* a driver whose vDEVICE is not one of the core's is refused without the warning that
  Linux has for it.

A vDEVICE holds its device as a call in progress would: it keeps an unbind waiting, and
must then be destroyed, by user space or by the unbind itself.
"""

from __future__ import annotations

from errno import EEXIST, EFAULT, EINVAL, ENOENT, ENOMEM, EOPNOTSUPP, EOVERFLOW, ERANGE

from uvfio.linux.iommu.iommufd import IommuUserData
from uvfio.linux.iommufd import access as iommufd_access
from uvfio.linux.iommufd import objects
from uvfio.linux.iommufd.private import (
    IOMMUFD_OBJ_DEVICE,
    IOMMUFD_OBJ_HWPT_PAGING,
    IOMMUFD_OBJ_VIOMMU,
    PAGE_MASK,
    PAGE_SIZE,
    ULONG_MAX,
    IommufdAccess,
    IommufdDevice,
    IommufdHwptPaging,
    IommufdHwQueue,
    IommufdUcmd,
    IommufdVdevice,
    IommufdViommu,
)
from uvfio.linux.kernel.bug import lockdep_assert_held
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kzalloc
from uvfio.uapi.iommufd import IOMMU_HW_QUEUE_TYPE_DEFAULT, IOMMU_VIOMMU_TYPE_DEFAULT

MAX_PAGE_ARRAY = 0x7FFFFFFF  # bytes, what kvmalloc() gives


def iommufd_viommu_alloc_ioctl(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if cmd.flags or cmd.type == IOMMU_VIOMMU_TYPE_DEFAULT:
        raise Errno(EOPNOTSUPP)
    ictx = ucmd.ictx
    idev: IommufdDevice = objects.iommufd_get_object(ictx, cmd.dev_id, IOMMUFD_OBJ_DEVICE)
    try:
        if idev.dev.iommu is None:
            raise Errno(EOPNOTSUPP)
        ops = idev.dev.iommu.iommu_dev.ops
        struct = ops.get_viommu_struct(idev.dev, cmd.type)
        hwpt: IommufdHwptPaging = objects.iommufd_get_object(ictx, cmd.hwpt_id, IOMMUFD_OBJ_HWPT_PAGING)
        try:
            if not hwpt.nest_parent:
                raise Errno(EINVAL)
            viommu: IommufdViommu = kzalloc(struct, ictx, hwpt, idev.dev.iommu.iommu_dev)
            objects.iommufd_object_alloc(ictx, viommu)
            hwpt.users.inc()
            try:
                data = IommuUserData(cmd.type, cmd.data_uptr, cmd.data_len) if cmd.data_len else None
                ops.viommu_init(viommu, hwpt.domain, data)
                cmd.out_viommu_id = viommu.id
                ucmd.respond()
            except Errno:
                objects.iommufd_object_abort_and_destroy(ictx, viommu)
                raise
            objects.iommufd_object_finalize(ictx, viommu)
        finally:
            objects.iommufd_put_object(ictx, hwpt)
    finally:
        objects.iommufd_put_object(ictx, idev)


def iommufd_viommu_destroy(viommu: IommufdViommu) -> None:
    viommu.destroy()
    viommu.hwpt.users.dec()
    viommu.vdevs.destroy()


def iommufd_vdevice_abort(vdev: IommufdVdevice) -> None:
    """Take *vdev* from its vIOMMU and its device; the caller holds the lock of the latter's group."""
    idev: IommufdDevice = vdev.idev
    lockdep_assert_held(idev.igroup.lock)
    viommu = vdev.viommu
    vdev.destroy()
    with viommu.vdevs.xa_lock:  # which Linux's xa_cmpxchg() takes
        # Nothing happens if it was refused its virt_id: the one who has that is another.
        viommu.vdevs.cmpxchg(vdev.virt_id, vdev, None)
    viommu.users.dec()
    idev.vdev = None


def iommufd_vdevice_destroy(vdev: IommufdVdevice) -> None:
    idev: IommufdDevice = vdev.idev
    with idev.igroup.lock:
        iommufd_vdevice_abort(vdev)
    # Whoever unbinds the device has waited for this.
    objects.iommufd_put_object(idev.ictx, idev)


def iommufd_vdevice_alloc_ioctl(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if cmd.virt_id > ULONG_MAX:
        raise Errno(EINVAL)
    ictx = ucmd.ictx
    viommu: IommufdViommu = objects.iommufd_get_object(ictx, cmd.viommu_id, IOMMUFD_OBJ_VIOMMU)
    try:
        idev: IommufdDevice = objects.iommufd_get_object(ictx, cmd.dev_id, IOMMUFD_OBJ_DEVICE)
        try:
            if idev.dev.iommu is None or viommu.iommu_dev is not idev.dev.iommu.iommu_dev:
                raise Errno(EINVAL, "the device is behind another IOMMU")
            iommufd_vdevice_alloc(ucmd, viommu, idev)
        except Errno:
            # Otherwise the vDEVICE has it now.
            objects.iommufd_put_object(ictx, idev)
            raise
    finally:
        objects.iommufd_put_object(ictx, viommu)


def iommufd_vdevice_alloc(ucmd: IommufdUcmd, viommu: IommufdViommu, idev: IommufdDevice) -> None:
    """The caller has references of a call in progress; that to *idev* goes to the vDEVICE."""
    with idev.igroup.lock:
        _vdevice_alloc(ucmd, viommu, idev)


def _vdevice_alloc(ucmd: IommufdUcmd, viommu: IommufdViommu, idev: IommufdDevice) -> None:
    lockdep_assert_held(idev.igroup.lock)
    if idev.destroying:
        raise Errno(ENOENT)
    if idev.vdev is not None:
        raise Errno(EEXIST)
    if not issubclass(viommu.vdevice, IommufdVdevice):
        raise Errno(EOPNOTSUPP, "the driver's vDEVICE is too small to be one")
    ictx, cmd = ucmd.ictx, ucmd.cmd
    vdev: IommufdVdevice = kzalloc(viommu.vdevice, viommu)
    objects.iommufd_object_alloc(ictx, vdev)
    viommu.users.inc()
    vdev.virt_id = cmd.virt_id
    vdev.idev = idev
    idev.vdev = vdev
    try:
        viommu.vdevice_init(vdev, idev.dev)
        # Visible to the driver from here on, under xa_lock alone: it must be complete.
        with viommu.vdevs.xa_lock:
            if viommu.vdevs.cmpxchg(cmd.virt_id, None, vdev) is not None:
                raise Errno(EEXIST)
        cmd.out_vdevice_id = vdev.id
        ucmd.respond()
    except Errno:
        objects.iommufd_object_abort_and_destroy(ictx, vdev)
        raise
    objects.iommufd_object_finalize(ictx, vdev)


# HW queues


def iommufd_hw_queue_alloc_ioctl(ucmd: IommufdUcmd) -> None:
    cmd = ucmd.cmd
    if cmd.flags or cmd.type == IOMMU_HW_QUEUE_TYPE_DEFAULT:
        raise Errno(EOPNOTSUPP)
    if not cmd.length:
        raise Errno(EINVAL)
    if cmd.nesting_parent_iova + cmd.length - 1 > ULONG_MAX:
        raise Errno(EOVERFLOW)
    viommu: IommufdViommu = objects.iommufd_get_object(ucmd.ictx, cmd.viommu_id, IOMMUFD_OBJ_VIOMMU)
    try:
        _iommufd_hw_queue_alloc(ucmd, viommu)
    finally:
        objects.iommufd_put_object(ucmd.ictx, viommu)


def _iommufd_hw_queue_alloc(ucmd: IommufdUcmd, viommu: IommufdViommu) -> None:
    cmd = ucmd.cmd
    hw_queue: IommufdHwQueue = kzalloc(viommu.get_hw_queue_struct(cmd.type))
    objects.iommufd_object_alloc(ucmd.ictx, hw_queue)
    try:
        hw_queue.base_addr = cmd.nesting_parent_iova
        hw_queue.length = cmd.length
        hw_queue.access, base_pa = iommufd_hw_queue_alloc_phys(viommu, hw_queue.base_addr, hw_queue.length)
        hw_queue.viommu = viommu
        viommu.users.inc()
        hw_queue.queue_type = cmd.type
        viommu.hw_queue_init_phys(hw_queue, cmd.index, base_pa)
        hw_queue.initialised = True
        cmd.out_hw_queue_id = hw_queue.id
        ucmd.respond()
    except Errno:
        objects.iommufd_object_abort_and_destroy(ucmd.ictx, hw_queue)
        raise
    objects.iommufd_object_finalize(ucmd.ictx, hw_queue)


def iommufd_hw_queue_alloc_phys(viommu: IommufdViommu, base: int, length: int) -> tuple[IommufdAccess, int]:
    """
    Pin the memory of a queue, and keep it mapped: the access that does it, and the physical
    address. Errno ERANGE, ENOMEM, ENOENT, EPERM, EFAULT not in one piece.
    """
    offset = base & PAGE_MASK
    if offset + length + PAGE_MASK > ULONG_MAX:
        raise Errno(ERANGE)
    npages = (offset + length + PAGE_MASK) // PAGE_SIZE
    if npages * 8 > MAX_PAGE_ARRAY:
        raise Errno(ENOMEM)
    access = iommufd_access.iommufd_access_create_internal(viommu.ictx)
    try:
        iommufd_access.iommufd_access_attach_internal(access, viommu.hwpt.ioas)
        # Whole pages: a queue may begin and end inside of one.
        pages = iommufd_access.iommufd_access_pin_pages(access, base - offset, npages * PAGE_SIZE, 0)
    except Errno:
        iommufd_access.iommufd_access_destroy_internal(viommu.ictx, access)
        raise
    first = pages[0].phys(0)
    if any(page.phys(0) != first + at * PAGE_SIZE for at, page in enumerate(pages)):
        iommufd_hw_queue_destroy_access(viommu, access, base, length)
        raise Errno(EFAULT)
    return access, first + offset


def iommufd_hw_queue_destroy_access(viommu: IommufdViommu, access: IommufdAccess, base: int, length: int) -> None:
    offset = base & PAGE_MASK
    aligned = (offset + length + PAGE_MASK) & ~PAGE_MASK
    iommufd_access.iommufd_access_unpin_pages(access, base - offset, aligned)
    iommufd_access.iommufd_access_detach_internal(access)
    iommufd_access.iommufd_access_destroy_internal(viommu.ictx, access)


def iommufd_hw_queue_destroy(hw_queue: IommufdHwQueue) -> None:
    if hw_queue.viommu is None:
        return  # it came to nothing early
    if hw_queue.initialised:
        hw_queue.destroy()
    iommufd_hw_queue_destroy_access(hw_queue.viommu, hw_queue.access, hw_queue.base_addr, hw_queue.length)
    hw_queue.viommu.users.dec()

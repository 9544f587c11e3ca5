# SPDX-License-Identifier: GPL-2.0-only
"""
Virtual IOMMUs, and the devices that a guest knows behind them.

Mirrors ``drivers/iommu/iommufd/viommu.c``. All differences from Linux:

* no hardware queues and no events (``IOMMU_HW_QUEUE_ALLOC``, ``IOMMU_VEVENTQ_ALLOC``);
* a driver whose vDEVICE is not one of the core's is refused without the warning that
  Linux has for it.

A vDEVICE holds its device as a call in progress would: it keeps an unbind waiting, and
must then be destroyed, by user space or by the unbind itself.
"""

from __future__ import annotations

from errno import EEXIST, EINVAL, ENOENT, EOPNOTSUPP

from uvfio.linux.iommu.iommufd import IommuUserData
from uvfio.linux.iommufd import objects
from uvfio.linux.iommufd.private import (
    IOMMUFD_OBJ_DEVICE,
    IOMMUFD_OBJ_HWPT_PAGING,
    IOMMUFD_OBJ_VIOMMU,
    ULONG_MAX,
    IommufdDevice,
    IommufdHwptPaging,
    IommufdUcmd,
    IommufdVdevice,
    IommufdViommu,
)
from uvfio.linux.kernel.bug import lockdep_assert_held
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kzalloc
from uvfio.uapi.iommufd import IOMMU_VIOMMU_TYPE_DEFAULT


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

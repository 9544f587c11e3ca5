# SPDX-License-Identifier: GPL-2.0-only
"""
VFIO devices on an iommufd. Mirrors ``drivers/vfio/iommufd.c``.

The functions ``vfio_iommufd_physical_*`` are what a driver of a device that does its own
DMA puts into its operations, ``vfio_iommufd_emulated_*`` those for a driver that does it
in its place.
"""

from __future__ import annotations

from errno import EINVAL, ENOSPC
from typing import Any

from uvfio.linux.iommu.private import IOMMU_NO_PASID
from uvfio.linux.iommufd import access as iommufd_access
from uvfio.linux.iommufd import device as iommufd_device
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
from uvfio.linux.vfio.private import VFIO_NO_IOMMU, VfioDevice, VfioDeviceFile, VfioDeviceOps
from uvfio.runtime.errors import Errno

INT_MAX = (1 << 31) - 1


def vfio_df_iommufd_bind(df: VfioDeviceFile) -> None:
    lockdep_assert_held(df.device.dev_set.lock)
    if _unbound(df):
        return
    df.devid = df.device.ops.bind_iommufd(df.device, df.iommufd)


def vfio_df_iommufd_unbind(df: VfioDeviceFile) -> None:
    lockdep_assert_held(df.device.dev_set.lock)
    if not _unbound(df):
        df.device.ops.unbind_iommufd(df.device)


def _unbound(df: VfioDeviceFile) -> bool:
    """Through its group, a no-IOMMU device is the user's without the iommufd knowing it."""
    return df.group is not None and df.device.group.type == VFIO_NO_IOMMU


class VfioIommufdPhysicalOps(VfioDeviceOps):
    """The iommufd operations of a device that does its own DMA."""

    has_pasids = True

    def bind_iommufd(self, device: VfioDevice, ictx: Any) -> int:
        if device.group.type == VFIO_NO_IOMMU:
            idev = iommufd_device.iommufd_device_bind_noiommu(ictx, device.dev)
        else:
            idev = iommufd_device.iommufd_device_bind(ictx, device.dev)
        device.iommufd_device = idev
        return iommufd_device.iommufd_device_to_id(idev)

    def unbind_iommufd(self, device: VfioDevice) -> None:
        lockdep_assert_held(device.dev_set.lock)
        for pasid in sorted(device.pasids):
            iommufd_device.iommufd_device_detach(device.iommufd_device, pasid)
        device.pasids.clear()
        if device.iommufd_attached:
            iommufd_device.iommufd_device_detach(device.iommufd_device, IOMMU_NO_PASID)
            device.iommufd_attached = False
        iommufd_device.iommufd_device_unbind(device.iommufd_device)
        device.iommufd_device = None

    def attach_ioas(self, device: VfioDevice, pt_id: int) -> int:
        lockdep_assert_held(device.dev_set.lock)
        if WARN_ON(device.iommufd_device is None, "attach of a device that is not bound"):
            raise Errno(EINVAL)
        if device.iommufd_attached:
            return iommufd_device.iommufd_device_replace(device.iommufd_device, IOMMU_NO_PASID, pt_id)
        attached = iommufd_device.iommufd_device_attach(device.iommufd_device, IOMMU_NO_PASID, pt_id)
        device.iommufd_attached = True
        return attached

    def detach_ioas(self, device: VfioDevice) -> None:
        lockdep_assert_held(device.dev_set.lock)
        if device.iommufd_device is None or not device.iommufd_attached:
            return
        iommufd_device.iommufd_device_detach(device.iommufd_device, IOMMU_NO_PASID)
        device.iommufd_attached = False

    def pasid_attach_ioas(self, device: VfioDevice, pasid: int, pt_id: int) -> int:
        lockdep_assert_held(device.dev_set.lock)
        if WARN_ON(device.iommufd_device is None, "attach of a device that is not bound"):
            raise Errno(EINVAL)
        if pasid in device.pasids:
            return iommufd_device.iommufd_device_replace(device.iommufd_device, pasid, pt_id)
        if pasid > INT_MAX:
            raise Errno(ENOSPC, "an ida takes no such number")
        attached = iommufd_device.iommufd_device_attach(device.iommufd_device, pasid, pt_id)
        device.pasids.add(pasid)
        return attached

    def pasid_detach_ioas(self, device: VfioDevice, pasid: int) -> None:
        lockdep_assert_held(device.dev_set.lock)
        if device.iommufd_device is None or pasid not in device.pasids:
            return
        iommufd_device.iommufd_device_detach(device.iommufd_device, pasid)
        device.pasids.remove(pasid)


class VfioIommufdEmulatedOps(VfioDeviceOps):
    """The iommufd operations of a device whose driver does its DMA."""

    def bind_iommufd(self, device: VfioDevice, ictx: Any) -> int:
        lockdep_assert_held(device.dev_set.lock)
        needs_pin_pages = device.ops.pins_pages
        user = iommufd_access.iommufd_access_create(
            ictx, lambda iova, length: device.ops.dma_unmap(device, iova, length), needs_pin_pages
        )
        device.iommufd_access = user
        return user.id

    def unbind_iommufd(self, device: VfioDevice) -> None:
        lockdep_assert_held(device.dev_set.lock)
        if device.iommufd_access is not None:
            iommufd_access.iommufd_access_destroy(device.iommufd_access)
            device.iommufd_attached = False
            device.iommufd_access = None

    def attach_ioas(self, device: VfioDevice, pt_id: int) -> int:
        lockdep_assert_held(device.dev_set.lock)
        if device.iommufd_attached:
            iommufd_access.iommufd_access_replace(device.iommufd_access, pt_id)
        else:
            iommufd_access.iommufd_access_attach(device.iommufd_access, pt_id)
        device.iommufd_attached = True
        return pt_id

    def detach_ioas(self, device: VfioDevice) -> None:
        lockdep_assert_held(device.dev_set.lock)
        if device.iommufd_access is None or not device.iommufd_attached:
            return
        iommufd_access.iommufd_access_detach(device.iommufd_access)
        device.iommufd_attached = False

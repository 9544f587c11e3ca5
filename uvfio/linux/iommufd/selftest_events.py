# SPDX-License-Identifier: GPL-2.0-only
"""
What mock devices report when the selftest asks: page faults, and events for a guest.

Mirrors that part of ``drivers/iommu/iommufd/selftest.c``. Difference from Linux:
none known.
"""

from __future__ import annotations

from contextlib import suppress
from errno import EINVAL
from typing import Any

from uvfio.linux.iommu import io_pgfault
from uvfio.linux.iommu.iommufd import iommufd_viommu_report_event
from uvfio.linux.iommu.private import IOMMU_NO_PASID
from uvfio.linux.iommufd import objects, selftest_device
from uvfio.linux.iommufd.private import IOMMUFD_OBJ_DEVICE, IommufdCtx, IommufdDevice, IommufdUcmd
from uvfio.runtime.errors import Errno
from uvfio.uapi.iommufd_test import IOMMU_VEVENTQ_TYPE_SELFTEST, iommu_viommu_event_selftest


def get_mock_device(ictx: IommufdCtx, id: int) -> IommufdDevice:
    """The bound device, locked against destruction. Errno ENOENT, EINVAL it is no mock."""
    idev: IommufdDevice = objects.iommufd_get_object(ictx, id, IOMMUFD_OBJ_DEVICE)
    if not selftest_device.iommufd_selftest_is_mock_dev(idev.dev):
        objects.iommufd_put_object(ictx, idev)
        raise Errno(EINVAL)
    return idev


def iommufd_test_trigger_vevent(ucmd: IommufdUcmd, arg: Any) -> None:
    """Errno ENOENT not attached through a vIOMMU, or as number 0; EOPNOTSUPP nobody listens."""
    idev = get_mock_device(ucmd.ictx, arg.dev_id)
    try:
        with idev.dev.viommu_rwsem.read():
            viommu, vdev_id = selftest_device.mock_dev_viommu_id(idev.dev)
            event = iommu_viommu_event_selftest(virt_id=vdev_id & 0xFFFFFFFF)
            iommufd_viommu_report_event(viommu, IOMMU_VEVENTQ_TYPE_SELFTEST, event.pack())
    finally:
        objects.iommufd_put_object(ucmd.ictx, idev)


def iommufd_test_trigger_iopf(ucmd: IommufdUcmd, arg: Any) -> None:
    """A group of one fault. It is no error when nobody can handle it."""
    idev = get_mock_device(ucmd.ictx, arg.dev_id)
    try:
        flags = io_pgfault.IOMMU_FAULT_PAGE_REQUEST_LAST_PAGE
        if arg.pasid != IOMMU_NO_PASID:
            flags |= io_pgfault.IOMMU_FAULT_PAGE_REQUEST_PASID_VALID
        fault = io_pgfault.IopfFault(flags, arg.pasid, arg.grpid, arg.perm, arg.addr)
        with suppress(Errno):  # nobody takes it, and the device has been told so
            io_pgfault.iommu_report_device_fault(idev.dev, fault)
    finally:
        objects.iommufd_put_object(ucmd.ictx, idev)

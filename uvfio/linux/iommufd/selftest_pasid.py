# SPDX-License-Identifier: GPL-2.0-only
"""
The selftest's ops on PASIDs of mock devices.

Mirrors that part of ``drivers/iommu/iommufd/selftest.c``. Difference from Linux: none known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from errno import EINVAL
from typing import Any

from uvfio.linux.iommu import iommu
from uvfio.linux.iommu.private import IommuDomain
from uvfio.linux.iommufd import device, objects, selftest
from uvfio.linux.iommufd.private import (
    IOMMUFD_OBJ_ANY,
    IOMMUFD_OBJ_SELFTEST,
    IommufdHwPagetable,
    IommufdUcmd,
    SelftestObj,
)
from uvfio.runtime.errors import Errno


@contextmanager
def _selftest_object(ucmd: IommufdUcmd) -> Iterator[SelftestObj]:
    """``iommufd_test_get_selftest_obj()``, for the time of a call. Errno ENOENT."""
    sobj: SelftestObj = objects.iommufd_get_object(ucmd.ictx, ucmd.cmd.id, IOMMUFD_OBJ_SELFTEST)
    try:
        yield sobj
    finally:
        objects.iommufd_put_object(ucmd.ictx, sobj)


def iommufd_test_pasid_attach(ucmd: IommufdUcmd, arg: Any) -> None:
    with _selftest_object(ucmd) as sobj:
        arg.pt_id = device.iommufd_device_attach(sobj.idev, arg.pasid, arg.pt_id)
        try:
            selftest.respond(ucmd, arg)
        except Errno:
            device.iommufd_device_detach(sobj.idev, arg.pasid)
            raise


def iommufd_test_pasid_replace(ucmd: IommufdUcmd, arg: Any) -> None:
    with _selftest_object(ucmd) as sobj:
        arg.pt_id = device.iommufd_device_replace(sobj.idev, arg.pasid, arg.pt_id)
        selftest.respond(ucmd, arg)


def iommufd_test_pasid_detach(ucmd: IommufdUcmd, arg: Any) -> None:
    with _selftest_object(ucmd) as sobj:
        device.iommufd_device_detach(sobj.idev, arg.pasid)


def _domain(sobj: SelftestObj, pasid: int) -> IommuDomain | None:
    try:
        return iommu.iommu_attach_handle_get(sobj.idev.igroup.group, pasid).domain
    except Errno:
        return None


def iommufd_test_pasid_check_hwpt(ucmd: IommufdUcmd, arg: Any) -> None:
    """Errno EINVAL unless exactly this page table, or with id 0 none, is attached; ENOENT no such id."""
    with _selftest_object(ucmd) as sobj:
        domain = _domain(sobj, arg.pasid)
        if not arg.hwpt_id:
            if domain is not None:
                raise Errno(EINVAL)
            return
        hwpt = objects.iommufd_get_object(ucmd.ictx, arg.hwpt_id, IOMMUFD_OBJ_ANY)
        try:
            if not isinstance(hwpt, IommufdHwPagetable) or hwpt.domain is not domain:
                raise Errno(EINVAL)
        finally:
            objects.iommufd_put_object(ucmd.ictx, hwpt)

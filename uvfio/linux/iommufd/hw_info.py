# SPDX-License-Identifier: GPL-2.0-only
"""
What the hardware in front of a device can do: IOMMU_GET_HW_INFO.

Mirrors ``iommufd_get_hw_info()`` of ``drivers/iommu/iommufd/device.c``. No difference from
Linux is known.
"""

from __future__ import annotations

from errno import EOPNOTSUPP
from typing import Any

from uvfio.linux.base.pci_dev import PciDev, pci_find_ext_capability
from uvfio.linux.iommu import iommu
from uvfio.linux.iommu.private import IOMMU_CAP_DIRTY_TRACKING
from uvfio.linux.iommufd import objects
from uvfio.linux.iommufd.private import IOMMUFD_OBJ_DEVICE, IommufdDevice, IommufdUcmd
from uvfio.linux.kernel.uaccess import clear_user, copy_to_user
from uvfio.runtime.errors import Errno
from uvfio.uapi.iommufd import (
    IOMMU_HW_CAP_DIRTY_TRACKING,
    IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED,
    IOMMU_HW_CAP_PCI_PASID_EXEC,
    IOMMU_HW_CAP_PCI_PASID_PRIV,
    IOMMU_HW_INFO_FLAG_INPUT_TYPE,
)
from uvfio.uapi.pci_regs import PCI_EXT_CAP_ID_PASID, PCI_PASID_CTRL, PCI_PASID_CTRL_EXEC, PCI_PASID_CTRL_PRIV


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
        copied = data[: cmd.data_len]
        if copied:
            copy_to_user(cmd.data_uptr, copied)
        clear_user(cmd.data_uptr + len(copied), cmd.data_len - len(copied))
        cmd.data_len = len(data)
        cmd.out_capabilities, cmd.out_max_pasid_log2 = _capabilities(idev.dev)
        ucmd.respond()
    finally:
        objects.iommufd_put_object(ucmd.ictx, idev)


def pci_pasid_status(dev: PciDev) -> int:
    """What of PASIDs is enabled in the device: its PASID control register."""
    at = pci_find_ext_capability(dev, PCI_EXT_CAP_ID_PASID)
    return dev.config.read(at + PCI_PASID_CTRL, 2) if at else 0


def _capabilities(dev: Any) -> tuple[int, int]:
    """``out_capabilities`` and ``out_max_pasid_log2``."""
    capabilities = 0 if dev.iommu.ats_supported else IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED
    if iommu.device_iommu_capable(dev, IOMMU_CAP_DIRTY_TRACKING):
        capabilities |= IOMMU_HW_CAP_DIRTY_TRACKING
    if not dev.iommu.max_pasids:
        return capabilities, 0
    if isinstance(dev, PciDev):
        control = pci_pasid_status(dev)
        if control & PCI_PASID_CTRL_EXEC:
            capabilities |= IOMMU_HW_CAP_PCI_PASID_EXEC
        if control & PCI_PASID_CTRL_PRIV:
            capabilities |= IOMMU_HW_CAP_PCI_PASID_PRIV
    return capabilities, dev.iommu.max_pasids.bit_length() - 1

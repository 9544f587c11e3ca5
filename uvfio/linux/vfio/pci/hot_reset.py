# SPDX-License-Identifier: GPL-2.0-only
"""
Reset of a whole bus by one of its users. Mirrors the hot reset of ``drivers/vfio/pci/vfio_pci_core.c``.

Who asks for it must own every function that is hit: by group files, or by the iommufd
that the device is bound to. Difference from Linux: no slots, so it is always the bus.
"""

from __future__ import annotations

import struct
from errno import EBUSY, EINVAL, ENODEV, ENOSPC, EPERM
from typing import Any

from uvfio.linux.base.pci import PCI_D0, PciDev, pci_probe_reset_bus, pci_reset_bus, pci_walk_bus
from uvfio.linux.iommu import iommu
from uvfio.linux.iommufd import device as iommufd_device
from uvfio.linux.kernel.fs import File, fget, fput
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.linux.vfio import group
from uvfio.linux.vfio.pci import config, dmabuf
from uvfio.linux.vfio.pci.private import VfioPciCoreDevice
from uvfio.linux.vfio.private import VfioDevice, VfioDeviceSet
from uvfio.runtime.errors import Errno
from uvfio.uapi.vfio import (
    VFIO_PCI_DEVID_NOT_OWNED,
    VFIO_PCI_DEVID_OWNED,
    VFIO_PCI_HOT_RESET_FLAG_DEV_ID,
    VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED,
    vfio_pci_dependent_device,
    vfio_pci_hot_reset,
    vfio_pci_hot_reset_info,
)


def vfio_pci_ioctl_get_pci_hot_reset_info(core: VfioPciCoreDevice, arg: int) -> int:
    """Which functions a reset hits. Errno EINVAL, ENODEV, EPERM, ENOSPC (with the count)."""
    info = vfio_pci_hot_reset_info.unpack(copy_from_user(arg, vfio_pci_hot_reset_info.size_of))
    if info.argsz < vfio_pci_hot_reset_info.size_of:
        raise Errno(EINVAL)
    _probe(core.pdev)
    with core.vdev.dev_set.lock:
        hit = [_dependent(core, pdev) for pdev in pci_walk_bus(core.pdev.pci_bus)]
    info.flags = 0
    info.count = len(hit)
    if vfio_pci_hot_reset_info.size_of + len(hit) * vfio_pci_dependent_device.size_of > info.argsz:
        copy_to_user(arg, info.pack())
        raise Errno(ENOSPC)
    if core.vdev.cdev_opened:
        info.flags = VFIO_PCI_HOT_RESET_FLAG_DEV_ID
        if all(each.devid != VFIO_PCI_DEVID_NOT_OWNED for each in hit):
            info.flags |= VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED
    copy_to_user(arg, info.pack() + b"".join([each.pack() for each in hit]))
    return 0


def _dependent(core: VfioPciCoreDevice, pdev: PciDev) -> Any:
    """``struct vfio_pci_dependent_device`` of *pdev*. Errno EPERM: it is in no group."""
    where = vfio_pci_dependent_device(segment=pdev.domain, bus=pdev.bus_nr, devfn=pdev.devfn)
    if core.vdev.cdev_opened:
        device = _in_set(core.vdev.dev_set, pdev)
        where.devid = VFIO_PCI_DEVID_NOT_OWNED if device is None else _dev_id(core.vdev, device)
    elif pdev.iommu_group is None:
        raise Errno(EPERM)
    else:
        where.devid = iommu.iommu_group_id(pdev.iommu_group)
    return where


def _dev_id(asking: VfioDevice, device: VfioDevice) -> int:
    """``vfio_iommufd_get_dev_id()``: the id of *device* in the iommufd of *asking*, or whose it is."""
    ictx = asking.iommufd_device.ictx
    idev = device.iommufd_device
    if idev is not None and idev.ictx is ictx:
        return iommufd_device.iommufd_device_to_id(idev)
    if iommufd_device.iommufd_ctx_has_group(ictx, device.dev.iommu_group):
        return VFIO_PCI_DEVID_OWNED
    return VFIO_PCI_DEVID_NOT_OWNED


def vfio_pci_ioctl_pci_hot_reset(core: VfioPciCoreDevice, arg: int) -> int:
    """Errno EINVAL, ENODEV, EBADF, EBUSY; see :func:`vfio_pci_dev_set_hot_reset`."""
    reset = vfio_pci_hot_reset.unpack(copy_from_user(arg, vfio_pci_hot_reset.size_of))
    if reset.argsz < vfio_pci_hot_reset.size_of or reset.flags:
        raise Errno(EINVAL)
    # Ownership is shown by group files, or by the iommufd that a cdev is bound to.
    if bool(reset.count) == core.vdev.cdev_opened:
        raise Errno(EINVAL)
    _probe(core.pdev)
    if reset.count > len(list(pci_walk_bus(core.pdev.pci_bus))):
        raise Errno(EINVAL)
    fds = struct.unpack(f"<{reset.count}i", copy_from_user(arg + vfio_pci_hot_reset.size_of, 4 * reset.count))
    files: list[File] = []
    try:
        for fd in fds:
            files.append(fget(fd))
            if group.vfio_group_from_file(files[-1]) is None:
                raise Errno(EINVAL)
        vfio_pci_dev_set_hot_reset(core.vdev, files)
    finally:
        for file in files:
            fput(file)
    return 0


def vfio_pci_dev_set_hot_reset(asking: VfioDevice, files: list[File]) -> None:
    """
    Reset the bus of *asking*. Errno EINVAL when a function on it is not bound to vfio-pci,
    or not owned through *files* (none: through the iommufd); EBUSY when it is accessed now.
    """
    dev_set = asking.dev_set
    with dev_set.lock:
        if not vfio_pci_dev_set_resettable(dev_set):
            raise Errno(EINVAL)
        cores: list[VfioPciCoreDevice] = []
        try:
            for device in dev_set.device_list:
                if not _owned(asking, device, files):
                    raise Errno(EINVAL)
                if not device.drvdata.memory_lock.down_write_trylock():
                    raise Errno(EBUSY)
                cores.append(device.drvdata)
                dmabuf.vfio_pci_dma_buf_move(device.drvdata, True)
                config.vfio_pci_set_power_state(device.drvdata, PCI_D0)
            pci_reset_bus(cores[0].pdev)
        finally:
            for core in reversed(cores):
                dmabuf.vfio_pci_dma_buf_move(core, not config.vfio_pci_memory_enabled(core))
                core.memory_lock.up_write()


def vfio_pci_dev_set_resettable(dev_set: VfioDeviceSet) -> bool:
    """Is everything that a reset hits bound to vfio-pci?"""
    pdev: PciDev = dev_set.device_list[0].dev  # type: ignore[assignment]
    return all(_in_set(dev_set, each) is not None for each in pci_walk_bus(pdev.pci_bus))


def _owned(asking: VfioDevice, device: VfioDevice, files: list[File]) -> bool:
    if not files:
        return _dev_id(asking, device) != VFIO_PCI_DEVID_NOT_OWNED
    return any(group.vfio_file_has_dev(file, device) for file in files)


def _in_set(dev_set: VfioDeviceSet, pdev: PciDev) -> VfioDevice | None:
    return next((device for device in dev_set.device_list if device.dev is pdev), None)


def _probe(pdev: PciDev) -> None:
    try:
        pci_probe_reset_bus(pdev.pci_bus)
    except Errno:
        raise Errno(ENODEV, "a function on the root bus has neither slot nor bus reset") from None

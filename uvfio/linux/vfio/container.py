# SPDX-License-Identifier: GPL-2.0-only
"""
``/dev/vfio/vfio``: containers. Mirrors ``drivers/vfio/container.c``.

Differences from Linux: IOMMU drivers are never unloaded, so no module reference is taken;
the devices of a no-IOMMU container reach no memory, as there is none with an address that
a process could find out.

As in Linux, a call of the IOMMU driver runs without ``group_lock``: one that has just
looked its driver up can find it freed, if the last group leaves the container meanwhile.
"""

from __future__ import annotations

from errno import E2BIG, EINVAL, ENODEV, ENOTTY, EPERM
from typing import Any

from uvfio.linux.iommu import iommu
from uvfio.linux.kernel.bug import BUG, WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.chrdev import misc_register
from uvfio.linux.kernel.fs import File, FileOperations, fput, get_file
from uvfio.linux.kernel.process import CAP_SYS_RAWIO, capable
from uvfio.linux.vfio.private import (
    VFIO_IOMMU,
    VFIO_NO_IOMMU,
    VfioContainer,
    VfioDevice,
    VfioGroup,
    VfioIommuDriverOps,
    vfio,
)
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.uapi.vfio import (
    VFIO_API_VERSION,
    VFIO_CHECK_EXTENSION,
    VFIO_GET_API_VERSION,
    VFIO_NOIOMMU_IOMMU,
    VFIO_SET_IOMMU,
)

VFIO_MINOR = 196
VFIO_PIN_PAGES_MAX_ENTRIES = 512


class VfioContainerFops(FileOperations):
    """``vfio_fops``."""

    name = "/dev/vfio/vfio"

    def open(self, file: File) -> None:
        file.private_data = kzalloc(VfioContainer)

    def release(self, file: File) -> None:
        container, file.private_data = file.private_data, None
        vfio_container_put(container)

    def unlocked_ioctl(self, file: File, cmd: int, arg: int) -> int:
        if cmd == VFIO_GET_API_VERSION:
            return VFIO_API_VERSION
        container: VfioContainer = file.private_data
        if cmd == VFIO_CHECK_EXTENSION:
            return vfio_container_ioctl_check_extension(container, arg)
        if cmd == VFIO_SET_IOMMU:
            return vfio_ioctl_set_iommu(container, arg)
        driver, data = container.iommu_driver, container.iommu_data
        if driver is None:
            raise Errno(EINVAL, "VFIO_SET_IOMMU must come first")
        if data is None:
            BUG("NULL pointer dereference: the last group left between the two reads")
        return driver.ioctl(data, cmd, arg)


VFIO_FOPS = VfioContainerFops()


class VfioNoiommuOps(VfioIommuDriverOps):
    """``vfio_noiommu_ops``: nothing is mapped."""

    name = "vfio-noiommu"

    def open(self, arg: int) -> Any:
        if arg != VFIO_NOIOMMU_IOMMU:
            raise Errno(EINVAL)
        if not capable(CAP_SYS_RAWIO):
            raise Errno(EPERM)
        return self  # there is nothing to keep

    def release(self, data: Any) -> None:
        """Nothing."""

    def check_extension(self, data: Any, arg: int) -> int:
        return int(vfio().noiommu and arg == VFIO_NOIOMMU_IOMMU)

    def ioctl(self, data: Any, cmd: int, arg: int) -> int:
        raise Errno(ENOTTY)

    def attach_group(self, data: Any, iommu_group: Any, type: str) -> None:
        """Nothing."""

    def detach_group(self, data: Any, iommu_group: Any) -> None:
        """Nothing."""


def vfio_iommu_driver_allowed(container: VfioContainer, ops: VfioIommuDriverOps) -> bool:
    """Is *ops* for the kind of groups that *container* has?"""
    return container.noiommu == isinstance(ops, VfioNoiommuOps)


def vfio_register_iommu_driver(ops: VfioIommuDriverOps) -> None:
    vfio().iommu_drivers.append(ops)


def vfio_container_put(container: VfioContainer) -> None:
    container.kref.put(kfree, container)


def vfio_container_from_file(file: File) -> VfioContainer | None:
    if file.f_op is not VFIO_FOPS:
        return None
    container: VfioContainer = file.private_data
    return container


def vfio_container_ioctl_check_extension(container: VfioContainer, arg: int) -> int:
    with container.group_lock.read():
        driver = container.iommu_driver
        if driver is not None:
            return driver.check_extension(container.iommu_data, arg)
        for ops in vfio().iommu_drivers:
            if container.group_list and not vfio_iommu_driver_allowed(container, ops):
                continue
            answer = ops.check_extension(None, arg)
            if answer > 0:
                return answer
    return 0


def vfio_ioctl_set_iommu(container: VfioContainer, arg: int) -> int:
    """Let the first driver that takes type *arg* and all groups serve *container*."""
    with container.group_lock.write():
        if not container.group_list or container.iommu_driver is not None:
            raise Errno(EINVAL)
        error = Errno(ENODEV)
        for driver in vfio().iommu_drivers:
            if not vfio_iommu_driver_allowed(container, driver) or driver.check_extension(None, arg) <= 0:
                continue
            try:
                data = driver.open(arg)
            except Errno as e:
                error = e
                continue
            try:
                vfio_container_attach_all(container, driver, data)
            except Errno as e:
                driver.release(data)
                error = e
                continue
            container.iommu_driver = driver
            container.iommu_data = data
            return 0
        raise error


def vfio_container_attach_all(container: VfioContainer, driver: VfioIommuDriverOps, data: Any) -> None:
    """Attach every group, or none. Mirrors ``__vfio_container_attach_groups()``."""
    attached: list[VfioGroup] = []
    try:
        for group in container.group_list:
            driver.attach_group(data, group.iommu_group, group.type)
            attached.append(group)
    except Errno:
        for group in reversed(attached):
            driver.detach_group(data, group.iommu_group)
        raise


def vfio_container_attach_group(container: VfioContainer, group: VfioGroup) -> None:
    lockdep_assert_held(group.group_lock)
    noiommu = group.type == VFIO_NO_IOMMU
    if noiommu and not capable(CAP_SYS_RAWIO):
        raise Errno(EPERM)
    with container.group_lock.write():
        if container.group_list and container.noiommu != noiommu:
            raise Errno(EPERM, "a container has groups with an IOMMU, or without, but not both")
        if group.type == VFIO_IOMMU:
            iommu.iommu_group_claim_dma_owner(group.iommu_group, group)
        driver = container.iommu_driver
        if driver is not None:
            try:
                driver.attach_group(container.iommu_data, group.iommu_group, group.type)
            except Errno:
                if group.type == VFIO_IOMMU:
                    iommu.iommu_group_release_dma_owner(group.iommu_group)
                raise
        container.noiommu = noiommu
        group.container = container
        group.container_users = 1
        container.group_list.append(group)
        container.kref.get()


def vfio_group_detach_container(group: VfioGroup) -> None:
    lockdep_assert_held(group.group_lock)
    container = group.container
    assert container is not None
    WARN_ON(group.container_users != 1, "a container is detached from a group that uses it")
    with container.group_lock.write():
        driver = container.iommu_driver
        if driver is not None:
            driver.detach_group(container.iommu_data, group.iommu_group)
        if group.type == VFIO_IOMMU:
            iommu.iommu_group_release_dma_owner(group.iommu_group)
        group.container = None
        group.container_users = 0
        container.group_list.remove(group)
        # The last group takes the type and all mappings with it.
        if driver is not None and not container.group_list:
            driver.release(container.iommu_data)
            container.iommu_driver = None
            container.iommu_data = None
    vfio_container_put(container)


def vfio_group_use_container(group: VfioGroup) -> None:
    """An opened device keeps the container attached and the group file open."""
    lockdep_assert_held(group.group_lock)
    assert group.container is not None
    assert group.opened_file is not None
    # Only a container with a type can have device files.
    if group.container.iommu_driver is None:
        raise Errno(EINVAL, "the container must have a type")
    if group.type == VFIO_NO_IOMMU and not capable(CAP_SYS_RAWIO):
        raise Errno(EPERM)
    get_file(group.opened_file)
    group.container_users += 1


def vfio_group_unuse_container(group: VfioGroup) -> None:
    lockdep_assert_held(group.group_lock)
    WARN_ON(group.container_users <= 1, "a device did not use its container")
    assert group.opened_file is not None
    group.container_users -= 1
    fput(group.opened_file)


def vfio_device_container_register(device: VfioDevice) -> None:
    driver, data = _of_device(device)
    if device.ops.pins_pages:
        driver.register_device(data, device)


def vfio_device_container_unregister(device: VfioDevice) -> None:
    driver, data = _of_device(device)
    if device.ops.pins_pages:
        driver.unregister_device(data, device)


def vfio_device_container_pin_pages(device: VfioDevice, iova: int, npage: int, prot: int) -> list[Any]:
    """The memory at *iova*, page by page, pinned. Errno E2BIG, EINVAL, EPERM, EFAULT."""
    if npage > VFIO_PIN_PAGES_MAX_ENTRIES:
        raise Errno(E2BIG)
    driver, data = _of_device(device)
    return driver.pin_pages(data, iova, npage, prot)


def vfio_device_container_unpin_pages(device: VfioDevice, iova: int, npage: int) -> None:
    driver, data = _of_device(device)
    driver.unpin_pages(data, iova, npage)


def vfio_device_container_dma_rw(device: VfioDevice, iova: int, length: int, write: bytes | None) -> bytes:
    driver, data = _of_device(device)
    return driver.dma_rw(data, iova, length, write)


def _of_device(device: VfioDevice) -> tuple[VfioIommuDriverOps, Any]:
    """An open device keeps its container, and what serves that."""
    container = device.group.container
    assert container is not None
    assert container.iommu_driver is not None
    return container.iommu_driver, container.iommu_data


def vfio_container_init() -> None:
    misc_register("vfio", VFIO_MINOR, VFIO_FOPS, 0o666)
    vfio_register_iommu_driver(VfioNoiommuOps())

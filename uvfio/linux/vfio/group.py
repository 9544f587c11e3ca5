# SPDX-License-Identifier: GPL-2.0-only
"""
``/dev/vfio/N``: the legacy group interface. Mirrors ``drivers/vfio/group.c``.

The group file does not keep a device from going away: when the last one is unregistered
the group lets go of its iommu_group, and the file, still open, answers ENODEV ever after.

Difference from Linux: a no-IOMMU group is said to taint the kernel, but
/proc/sys/kernel/tainted is the host's.
"""

from __future__ import annotations

from errno import EBUSY, EINVAL, ENODEV, ENOTTY, EPERM
from typing import Any

from uvfio.linux.base.core import Device, put_device
from uvfio.linux.iommu import iommu
from uvfio.linux.iommu.private import IOMMU_CAP_ENFORCE_CACHE_COHERENCY
from uvfio.linux.iommufd import main as iommufd_main
from uvfio.linux.iommufd import vfio_compat
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.chrdev import Cdev, cdev_device_add, cdev_device_del
from uvfio.linux.kernel.fs import (
    O_CLOEXEC,
    File,
    FileOperations,
    anon_inode_getfile,
    fd_install,
    fget,
    fput,
    get_unused_fd_flags,
    put_unused_fd,
)
from uvfio.linux.kernel.printk import printk
from uvfio.linux.kernel.process import CAP_SYS_RAWIO, capable
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user, get_user_u32, strndup_user
from uvfio.linux.vfio import container as vfio_container
from uvfio.linux.vfio import main
from uvfio.linux.vfio.private import (
    VFIO_EMULATED_IOMMU,
    VFIO_IOMMU,
    VFIO_NO_IOMMU,
    VfioDevice,
    VfioDeviceFile,
    VfioGroup,
    vfio,
)
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.uapi.vfio import (
    VFIO_GROUP_FLAGS_CONTAINER_SET,
    VFIO_GROUP_FLAGS_VIABLE,
    VFIO_GROUP_GET_DEVICE_FD,
    VFIO_GROUP_GET_STATUS,
    VFIO_GROUP_SET_CONTAINER,
    VFIO_GROUP_UNSET_CONTAINER,
    vfio_group_status,
)

PAGE_SIZE = 4096
O_RDWR = 2


class VfioGroupFops(FileOperations):
    """``vfio_group_fops``."""

    name = "/dev/vfio/group"

    def open(self, file: File) -> None:
        group: VfioGroup = file.cdev.obj
        with group.group_lock:
            # Another task may have been between the lookup of the node and this line
            # when the last device went away.
            if group.drivers.read() == 0:
                raise Errno(ENODEV)
            if group.type == VFIO_NO_IOMMU and not capable(CAP_SYS_RAWIO):
                raise Errno(EPERM)
            if group.cdev_device_open_cnt:
                raise Errno(EBUSY)
            if group.opened_file is not None:
                raise Errno(EBUSY)
            group.opened_file = file
            file.private_data = group

    def release(self, file: File) -> None:
        group: VfioGroup = file.private_data
        file.private_data = None
        with group.group_lock:
            if group.container is not None:
                vfio_container.vfio_group_detach_container(group)
            if group.iommufd is not None:
                iommufd_main.iommufd_ctx_put(group.iommufd)
                group.iommufd = None
            group.opened_file = None

    def unlocked_ioctl(self, file: File, cmd: int, arg: int) -> int:
        group: VfioGroup = file.private_data
        if cmd == VFIO_GROUP_GET_DEVICE_FD:
            return vfio_group_ioctl_get_device_fd(group, arg)
        if cmd == VFIO_GROUP_GET_STATUS:
            return vfio_group_ioctl_get_status(group, arg)
        if cmd == VFIO_GROUP_SET_CONTAINER:
            return vfio_group_ioctl_set_container(group, arg)
        if cmd == VFIO_GROUP_UNSET_CONTAINER:
            return vfio_group_ioctl_unset_container(group)
        raise Errno(ENOTTY)


VFIO_GROUP_FOPS = VfioGroupFops()


def vfio_group_has_iommu(group: VfioGroup) -> bool:
    lockdep_assert_held(group.group_lock)
    WARN_ON(bool(group.container) != bool(group.container_users), "container and container_users disagree")
    return group.container is not None or group.iommufd is not None


def vfio_group_ioctl_unset_container(group: VfioGroup) -> int:
    with group.group_lock:
        if not vfio_group_has_iommu(group):
            raise Errno(EINVAL)
        if group.container is not None:
            if group.container_users != 1:
                raise Errno(EBUSY)
            vfio_container.vfio_group_detach_container(group)
        if group.iommufd is not None:
            iommufd_main.iommufd_ctx_put(group.iommufd)
            group.iommufd = None
    return 0


def vfio_group_ioctl_set_container(group: VfioGroup, arg: int) -> int:
    fd = get_user_u32(arg)
    file = fget(fd if fd < 1 << 31 else fd - (1 << 32))
    try:
        with group.group_lock:
            if vfio_group_has_iommu(group):
                raise Errno(EINVAL)
            if group.iommu_group is None:
                raise Errno(ENODEV)
            container = vfio_container.vfio_container_from_file(file)
            if container is not None:
                vfio_container.vfio_container_attach_group(container, group)
            else:
                vfio_group_attach_iommufd(group, file)
    finally:
        fput(file)
    return 0


def vfio_group_attach_iommufd(group: VfioGroup, file: File) -> None:
    """Errno EBADFD when *file* is no iommufd either."""
    lockdep_assert_held(group.group_lock)
    ictx = iommufd_main.iommufd_ctx_from_file(file)
    try:
        if group.type == VFIO_NO_IOMMU:
            vfio_compat.iommufd_vfio_compat_set_no_iommu(ictx)
        else:
            vfio_compat.iommufd_vfio_compat_ioas_create(ictx)
    except Errno:
        iommufd_main.iommufd_ctx_put(ictx)
        raise
    group.iommufd = ictx


def vfio_group_ioctl_get_status(group: VfioGroup, arg: int) -> int:
    status = vfio_group_status.unpack(copy_from_user(arg, 8))
    if status.argsz < 8:
        raise Errno(EINVAL)
    status.flags = 0
    with group.group_lock:
        if group.iommu_group is None:
            raise Errno(ENODEV)
        # With an iommufd VIABLE is a hint only: ownership is taken when a device is opened.
        if vfio_group_has_iommu(group):
            status.flags = VFIO_GROUP_FLAGS_CONTAINER_SET | VFIO_GROUP_FLAGS_VIABLE
        elif not iommu.iommu_group_dma_owner_claimed(group.iommu_group):
            status.flags = VFIO_GROUP_FLAGS_VIABLE
    copy_to_user(arg, status.pack())
    return 0


def vfio_group_ioctl_get_device_fd(group: VfioGroup, arg: int) -> int:
    name = strndup_user(arg, PAGE_SIZE).decode("latin-1")
    device = vfio_device_get_from_name(group, name)
    try:
        fd = get_unused_fd_flags(O_CLOEXEC)
        try:
            file = vfio_device_open_file(device)
        except Errno:
            put_unused_fd(fd)
            raise
    except Errno:
        main.vfio_device_put_registration(device)
        raise
    fd_install(fd, file)
    return fd


def vfio_device_get_from_name(group: VfioGroup, name: str) -> VfioDevice:
    """The registered device that *name* means, referenced. Errno ENODEV, or what a match says."""
    with group.device_lock:
        for device in group.device_list:
            if device.ops.match(device, name) and main.vfio_device_try_get_registration(device):
                return device
    raise Errno(ENODEV)


def vfio_device_open_file(device: VfioDevice) -> File:
    """A new device file; it takes over the caller's registration reference."""
    df = kzalloc(VfioDeviceFile, device, device.group)
    try:
        vfio_df_group_open(df)
    except Errno:
        kfree(df)
        raise
    file = anon_inode_getfile("[vfio-device]", main.VFIO_DEVICE_FOPS, df, O_RDWR)
    df.access_granted = True
    if main.vfio_device_is_noiommu(device):
        printk(f"vfio-pci {device.dev.name}: vfio-noiommu device opened by user")
    return file


def vfio_df_group_open(df: VfioDeviceFile) -> None:
    device, group = df.device, df.group
    assert group is not None
    with group.group_lock:
        if not vfio_group_has_iommu(group):
            raise Errno(EINVAL)
        with device.dev_set.lock:
            # The VM that the group belongs to now is the device's until its last close.
            if device.open_count == 0:
                vfio_device_group_get_kvm_safe(device)
            df.iommufd = group.iommufd
            try:
                _check_noiommu(df)
                main.vfio_df_open(df)
                if df.iommufd is not None and device.open_count == 1:
                    try:
                        vfio_iommufd_compat_attach_ioas(device, df.iommufd)
                    except Errno:
                        main.vfio_df_close(df)
                        raise
            except Errno:
                df.iommufd = None
                if device.open_count == 0:
                    main.vfio_device_put_kvm(device)
                raise


def _check_noiommu(df: VfioDeviceFile) -> None:
    """Errno EPERM: not for everybody, and not beside mappings that would mean nothing to the device."""
    if not main.vfio_device_is_noiommu(df.device) or df.iommufd is None or df.device.open_count:
        return
    if not capable(CAP_SYS_RAWIO) or vfio_compat.iommufd_vfio_compat_has_ioas(df.iommufd):
        raise Errno(EPERM)


def vfio_device_group_get_kvm_safe(device: VfioDevice) -> None:
    group = device.group
    # group.kvm is no reference: within the lock it cannot be cleared, and what it points
    # to is not freed before that.
    with group.kvm_ref_lock:
        main.vfio_device_get_kvm_safe(device, group.kvm)


def vfio_iommufd_compat_attach_ioas(device: VfioDevice, ictx: Any) -> None:
    """The group interface knows no ATTACH: a device gets the compat IOAS as it opens."""
    lockdep_assert_held(device.dev_set.lock)
    if main.vfio_device_is_noiommu(device):
        return
    device.ops.attach_ioas(device, vfio_compat.iommufd_vfio_compat_ioas_get_id(ictx))


def vfio_df_group_close(df: VfioDeviceFile) -> None:
    device, group = df.device, df.group
    assert group is not None
    with group.group_lock, device.dev_set.lock:
        main.vfio_df_close(df)
        df.iommufd = None
        if device.open_count == 0:
            main.vfio_device_put_kvm(device)


def vfio_device_block_group(device: VfioDevice) -> None:
    """Keep the group from being opened while *device* is bound through its cdev. Errno EBUSY."""
    group = device.group
    with group.group_lock:
        if group.opened_file is not None:
            raise Errno(EBUSY)
        group.cdev_device_open_cnt += 1


def vfio_device_unblock_group(device: VfioDevice) -> None:
    group = device.group
    with group.group_lock:
        group.cdev_device_open_cnt -= 1


def vfio_device_set_group(device: VfioDevice, type: str) -> None:
    """
    Find or make the group of *device*. Errno EINVAL when it has no IOMMU, that is not
    emulated, and nobody has said that it may be used all the same.
    """
    if type == VFIO_EMULATED_IOMMU:
        device.group = vfio_noiommu_group_alloc(device.dev, type)
        return
    iommu_group = iommu.iommu_group_get(device.dev)
    if iommu_group is None:
        if not vfio().noiommu:
            raise Errno(EINVAL)
        device.group = vfio_noiommu_group_alloc(device.dev, VFIO_NO_IOMMU)
        # From now on its user can do anything.
        printk(f"vfio-pci {device.dev.name}: Adding kernel taint for vfio-noiommu group on device")
        return
    try:
        with vfio().group_lock:
            group = vfio_group_find_from_iommu(iommu_group)
            if group is not None:
                WARN_ON(vfio_group_has_device(group, device), "a device is registered twice")
                group.drivers.inc()
            else:
                group = vfio_create_group(iommu_group, VFIO_IOMMU)
    finally:
        iommu.iommu_group_put(iommu_group)
    device.group = group


def vfio_noiommu_group_alloc(dev: Device, type: str) -> VfioGroup:
    """A group for a device that no IOMMU translates for."""
    iommu_group = iommu.iommu_group_alloc()
    try:
        iommu.iommu_group_set_name(iommu_group, "vfio-noiommu")
        iommu.iommu_group_add_device(iommu_group, dev)
        try:
            with vfio().group_lock:
                return vfio_create_group(iommu_group, type)
        except Errno:
            iommu.iommu_group_remove_device(dev)
            raise
    finally:
        iommu.iommu_group_put(iommu_group)


def vfio_group_find_from_iommu(iommu_group: Any) -> VfioGroup | None:
    lockdep_assert_held(vfio().group_lock)
    # A listed group has an iommu_group: it loses both under vfio.group_lock.
    return next((group for group in vfio().group_list if group.iommu_group is iommu_group), None)


def vfio_group_has_device(group: VfioGroup, device: VfioDevice) -> bool:
    with group.device_lock:
        return any(other.dev is device.dev for other in group.device_list)


def vfio_create_group(iommu_group: Any, type: str) -> VfioGroup:
    lockdep_assert_held(vfio().group_lock)
    statics = vfio()
    iommu.iommu_group_ref_get(iommu_group)
    group = kzalloc(VfioGroup, iommu_group, statics.group_ida.alloc(), type)
    prefix = "noiommu-" if type == VFIO_NO_IOMMU else ""
    dev = group.dev = kzalloc(Device, f"{prefix}{iommu.iommu_group_id(iommu_group)}")
    dev.class_ = statics.group_class
    dev.devt = (statics.group_major, group.minor)
    dev.driver_data = group
    dev.release = vfio_group_release
    group.cdev = Cdev(VFIO_GROUP_FOPS, group)
    try:
        cdev_device_add(group.cdev, dev)
    except Errno:
        group.iommu_group = None
        iommu.iommu_group_put(iommu_group)
        put_device(dev)
        raise
    statics.group_list.append(group)
    return group


def vfio_group_release(dev: Device) -> None:
    group: VfioGroup = dev.driver_data
    WARN_ON(group.iommu_group is not None, "a group is freed that has an iommu_group")
    WARN_ON(group.cdev_device_open_cnt, "a group is freed while a cdev blocks it")
    vfio().group_ida.free(group.minor)
    kfree(group)
    kfree(dev)


def vfio_device_remove_group(device: VfioDevice) -> None:
    """Drop the group of an unregistered device; the last one cuts it off its iommu_group."""
    group = device.group
    statics = vfio()
    if group.type != VFIO_IOMMU:
        iommu.iommu_group_remove_device(device.dev)
    if not group.drivers.dec_and_mutex_lock(statics.group_lock):
        return
    try:
        statics.group_list.remove(group)
        # Within vfio.group_lock: a driver that binds meanwhile makes a node of the same
        # name, and must find this one gone.
        cdev_device_del(group.cdev, group.dev)
        with group.group_lock:
            WARN_ON(group.device_list, "a group loses its last driver but has devices")
            # No device is left, so nobody can have it in use; whoever still holds the
            # group file finds out under group_lock.
            if group.container is not None:
                vfio_container.vfio_group_detach_container(group)
            iommu_group, group.iommu_group = group.iommu_group, None
    finally:
        statics.group_lock.unlock()
    iommu.iommu_group_put(iommu_group)
    put_device(group.dev)


def vfio_device_group_register(device: VfioDevice) -> None:
    with device.group.device_lock:
        device.group.device_list.append(device)


def vfio_device_group_unregister(device: VfioDevice) -> None:
    with device.group.device_lock:
        device.group.device_list.remove(device)


def vfio_device_group_use_iommu(device: VfioDevice) -> None:
    group = device.group
    lockdep_assert_held(group.group_lock)
    if WARN_ON(group.container is None, "a device opens without a container"):
        raise Errno(EINVAL)
    vfio_container.vfio_group_use_container(group)


def vfio_device_group_unuse_iommu(device: VfioDevice) -> None:
    lockdep_assert_held(device.group.group_lock)
    vfio_container.vfio_group_unuse_container(device.group)


def vfio_group_from_file(file: File) -> VfioGroup | None:
    if not isinstance(file.f_op, VfioGroupFops):
        return None
    group: VfioGroup = file.private_data
    return group


def vfio_group_set_kvm(group: VfioGroup, kvm: Any) -> None:
    # Not group_lock: kvm-vfio comes here with kvm->lock held, which drivers take
    # under group_lock as they are opened.
    with group.kvm_ref_lock:
        group.kvm = kvm


def vfio_group_enforced_coherent(group: VfioGroup) -> bool:
    """Can the IOMMU make every access of every device of *group* coherent?"""
    with group.device_lock:
        return all(
            iommu.device_iommu_capable(device.dev, IOMMU_CAP_ENFORCE_CACHE_COHERENCY) for device in group.device_list
        )


def vfio_file_has_dev(file: File, device: VfioDevice) -> bool:
    """Is *device* in the group of *file*?"""
    group = vfio_group_from_file(file)
    return group is not None and device.group is group


def vfio_file_iommu_group(file: File) -> Any:
    """The iommu_group of a group file, referenced; None for another file, or once it is cut off."""
    group = vfio_group_from_file(file)
    if group is None:
        return None
    with group.group_lock:
        if group.iommu_group is not None:
            iommu.iommu_group_ref_get(group.iommu_group)
        return group.iommu_group

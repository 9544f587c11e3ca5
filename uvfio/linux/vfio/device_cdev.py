# SPDX-License-Identifier: GPL-2.0-only
"""
``/dev/vfio/devices/vfioN``. Mirrors ``drivers/vfio/device_cdev.c``.

A file of the cdev can do nothing until it is bound to an iommufd; only one is, of all
that are open. As in Linux 7.3, a second bind (of another file of the device, which fails)
takes the VM from the device that is bound and running: see ``bugs/patches/D7.patch``.
"""

from __future__ import annotations

from errno import EINVAL, ENODEV, EOPNOTSUPP, EPERM

from uvfio.linux.iommufd import main as iommufd_main
from uvfio.linux.kernel.chrdev import Cdev, cdev_device_add, cdev_device_del
from uvfio.linux.kernel.fs import File
from uvfio.linux.kernel.printk import printk
from uvfio.linux.kernel.process import CAP_SYS_RAWIO, capable
from uvfio.linux.kernel.uaccess import copy_from_user, copy_struct_from_user, get_user_u32, put_user_u32
from uvfio.linux.vfio import group, main
from uvfio.linux.vfio.private import VfioDevice, VfioDeviceFile, vfio
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kzalloc
from uvfio.uapi.vfio import (
    VFIO_DEVICE_ATTACH_PASID,
    VFIO_DEVICE_BIND_FLAG_TOKEN,
    VFIO_DEVICE_DETACH_PASID,
    vfio_device_attach_iommufd_pt,
    vfio_device_bind_iommufd,
    vfio_device_detach_iommufd_pt,
)

BIND_MIN_SIZE = vfio_device_bind_iommufd.offsetof("token_uuid_ptr")
ATTACH_MIN_SIZE = vfio_device_attach_iommufd_pt.offsetof("pasid")
DETACH_MIN_SIZE = vfio_device_detach_iommufd_pt.offsetof("pasid")


def vfio_init_device_cdev(device: VfioDevice) -> None:
    device.device.devt = (vfio().device_major, device.index)
    device.cdev = Cdev(main.VFIO_DEVICE_FOPS, device)


def vfio_device_add(device: VfioDevice) -> None:
    if main.vfio_device_is_noiommu(device):
        device.device.name = f"noiommu-{device.device.name}"
        printk(f"vfio-pci {device.dev.name}: Adding kernel taint for vfio-noiommu cdev")
    cdev_device_add(device.cdev, device.device)


def vfio_device_del(device: VfioDevice) -> None:
    cdev_device_del(device.cdev, device.device)


def vfio_device_fops_cdev_open(file: File) -> None:
    device: VfioDevice = file.cdev.obj
    # The node may have been found just before it went away.
    if not main.vfio_device_try_get_registration(device):
        raise Errno(ENODEV)
    if main.vfio_device_is_noiommu(device) and not capable(CAP_SYS_RAWIO):
        main.vfio_device_put_registration(device)
        raise Errno(EPERM)
    file.private_data = kzalloc(VfioDeviceFile, device, None)


def vfio_df_ioctl_bind_iommufd(df: VfioDeviceFile, arg: int) -> int:
    """Bind the file to an iommufd and open the device; the answer is the id there."""
    argsz = get_user_u32(arg)
    if argsz < BIND_MIN_SIZE:
        raise Errno(EINVAL)
    bind = copy_struct_from_user(vfio_device_bind_iommufd, arg, argsz)
    if bind.flags & ~VFIO_DEVICE_BIND_FLAG_TOKEN or bind.iommufd < 0:
        raise Errno(EINVAL)
    if df.group is not None:
        raise Errno(EINVAL, "the file must come from the cdev")
    device = df.device
    group.vfio_device_block_group(device)
    try:
        with device.dev_set.lock:
            # One file is bound at most once: its device is released when it is closed.
            if df.access_granted:
                raise Errno(EINVAL)
            vfio_df_check_token(device, bind)
            df.iommufd = iommufd_main.iommufd_ctx_from_fd(bind.iommufd)
            try:
                vfio_df_get_kvm_safe(df)
                main.vfio_df_open(df)
                try:
                    put_user_u32(arg + vfio_device_bind_iommufd.offsetof("out_devid"), df.devid)
                except Errno:
                    main.vfio_df_close(df)
                    raise
            except Errno:
                main.vfio_device_put_kvm(device)
                iommufd_main.iommufd_ctx_put(df.iommufd)
                df.iommufd = None
                raise
            device.cdev_opened = True
            df.access_granted = True
    except Errno:
        group.vfio_device_unblock_group(device)
        raise
    return 0


def vfio_df_get_kvm_safe(df: VfioDeviceFile) -> None:
    with df.kvm_ref_lock:
        main.vfio_device_get_kvm_safe(df.device, df.kvm)


def vfio_df_check_token(device: VfioDevice, bind: vfio_device_bind_iommufd) -> None:
    uuid = None
    if bind.flags & VFIO_DEVICE_BIND_FLAG_TOKEN:
        uuid = copy_from_user(bind.token_uuid_ptr, 16)
    device.ops.match_token_uuid(device, uuid)


def vfio_df_unbind_iommufd(df: VfioDeviceFile) -> None:
    """The file is closed; nothing is to be done if it never was bound."""
    device = df.device
    if not df.access_granted:
        return
    with device.dev_set.lock:
        main.vfio_df_close(df)
        main.vfio_device_put_kvm(device)
        iommufd_main.iommufd_ctx_put(df.iommufd)
        device.cdev_opened = False
    group.vfio_device_unblock_group(device)


def vfio_df_ioctl_attach_pt(df: VfioDeviceFile, arg: int) -> int:
    device = df.device
    attach = vfio_device_attach_iommufd_pt.unpack(copy_from_user(arg, ATTACH_MIN_SIZE))
    if attach.argsz < ATTACH_MIN_SIZE or attach.flags & ~VFIO_DEVICE_ATTACH_PASID:
        raise Errno(EINVAL)
    if attach.flags & VFIO_DEVICE_ATTACH_PASID:
        if not device.ops.has_pasids:
            raise Errno(EOPNOTSUPP)
        if attach.argsz < vfio_device_attach_iommufd_pt.size_of:
            raise Errno(EINVAL)
        attach.pasid = get_user_u32(arg + ATTACH_MIN_SIZE)
    with device.dev_set.lock:
        if attach.flags & VFIO_DEVICE_ATTACH_PASID:
            attach.pt_id = device.ops.pasid_attach_ioas(device, attach.pasid, attach.pt_id)
        else:
            attach.pt_id = device.ops.attach_ioas(device, attach.pt_id)
        try:
            put_user_u32(arg + vfio_device_attach_iommufd_pt.offsetof("pt_id"), attach.pt_id)
        except Errno:
            device.ops.detach_ioas(device)
            raise
    return 0


def vfio_df_ioctl_detach_pt(df: VfioDeviceFile, arg: int) -> int:
    device = df.device
    detach = vfio_device_detach_iommufd_pt.unpack(copy_from_user(arg, DETACH_MIN_SIZE))
    if detach.argsz < DETACH_MIN_SIZE or detach.flags & ~VFIO_DEVICE_DETACH_PASID:
        raise Errno(EINVAL)
    if detach.flags & VFIO_DEVICE_DETACH_PASID:
        if not device.ops.has_pasids:
            raise Errno(EOPNOTSUPP)
        if detach.argsz < vfio_device_detach_iommufd_pt.size_of:
            raise Errno(EINVAL)
        pasid = get_user_u32(arg + DETACH_MIN_SIZE)
    with device.dev_set.lock:
        if detach.flags & VFIO_DEVICE_DETACH_PASID:
            device.ops.pasid_detach_ioas(device, pasid)
        else:
            device.ops.detach_ioas(device)
    return 0

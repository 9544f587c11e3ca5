# SPDX-License-Identifier: GPL-2.0-only
"""
VMs and the devices that the kernel emulates for them. Mirrors ``virt/kvm/kvm_main.c``.

Differences from Linux: only what device assignment meets. /dev/kvm knows
KVM_GET_API_VERSION, KVM_CREATE_VM (type 0) and KVM_CHECK_EXTENSION, which knows
KVM_CAP_DEVICE_CTRL only; a VM knows KVM_CHECK_EXTENSION and KVM_CREATE_DEVICE. There is
no memory, no CPU and no interrupt controller: what else is asked of them answers ENOTTY.
Files pin the module themselves, as ``fops->owner`` does in Linux. For programs under
``uvfio run`` the host's own /dev/kvm comes first (``live/kvm.py``).
"""

from __future__ import annotations

from errno import EINVAL, EIO, ENODEV, ENOTTY, EPERM, EWOULDBLOCK
from typing import Any

from uvfio.linux.kernel.chrdev import misc_register
from uvfio.linux.kernel.fs import (
    O_CLOEXEC,
    File,
    FileOperations,
    anon_inode_getfile,
    fd_install,
    get_unused_fd_flags,
)
from uvfio.linux.kernel.module import export_symbol, load_module, module_put, try_module_get, unload_module
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.linux.kvm import vfio
from uvfio.linux.kvm.private import Kvm, KvmDevice, KvmDeviceOps, statics
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.runtime.task import current
from uvfio.uapi.kvm import (
    KVM_API_VERSION,
    KVM_CAP_DEVICE_CTRL,
    KVM_CHECK_EXTENSION,
    KVM_CREATE_DEVICE,
    KVM_CREATE_DEVICE_TEST,
    KVM_CREATE_VM,
    KVM_DEV_TYPE_VFIO,
    KVM_GET_API_VERSION,
    KVM_GET_DEVICE_ATTR,
    KVM_HAS_DEVICE_ATTR,
    KVM_SET_DEVICE_ATTR,
    kvm_create_device,
    kvm_device_attr,
)

KVM_MINOR = 232
O_RDWR = 2


class _KvmFops(FileOperations):
    """Files that keep the module in memory (``.owner``)."""

    def release(self, file: File) -> None:
        module_put(statics().module)


class KvmChardevFops(_KvmFops):
    """``kvm_chardev_ops``: /dev/kvm."""

    name = "/dev/kvm"

    def open(self, file: File) -> None:
        if not try_module_get(statics().module):
            raise Errno(ENODEV)

    def unlocked_ioctl(self, file: File, cmd: int, arg: int) -> int:
        if cmd == KVM_GET_API_VERSION:
            if arg:
                raise Errno(EINVAL)
            return KVM_API_VERSION
        if cmd == KVM_CREATE_VM:
            return kvm_dev_ioctl_create_vm(arg)
        if cmd == KVM_CHECK_EXTENSION:
            return kvm_vm_ioctl_check_extension(arg)
        raise Errno(ENOTTY)


class KvmVmFops(_KvmFops):
    """``kvm_vm_fops``."""

    name = "kvm-vm"

    def release(self, file: File) -> None:
        kvm_put_kvm(file.private_data)
        super().release(file)

    def unlocked_ioctl(self, file: File, cmd: int, arg: int) -> int:
        kvm: Kvm = file.private_data
        kvm_check_mm(kvm)
        if cmd == KVM_CHECK_EXTENSION:
            return kvm_vm_ioctl_check_extension(arg)
        if cmd == KVM_CREATE_DEVICE:
            return kvm_vm_ioctl_create_device(kvm, arg)
        raise Errno(ENOTTY)


class KvmDeviceFops(_KvmFops):
    """``kvm_device_fops``: what KVM_CREATE_DEVICE answers."""

    name = "kvm-device"

    def release(self, file: File) -> None:
        dev: KvmDevice = file.private_data
        kvm = dev.kvm
        if dev.ops.releases:
            with kvm.lock:
                kvm.devices.remove(dev)
                dev.ops.release(dev)
        kvm_put_kvm(kvm)
        super().release(file)

    def unlocked_ioctl(self, file: File, cmd: int, arg: int) -> int:
        dev: KvmDevice = file.private_data
        kvm_check_mm(dev.kvm)
        if cmd == KVM_SET_DEVICE_ATTR:
            attr = kvm_device_attr.unpack(copy_from_user(arg, kvm_device_attr.size_of))
            return dev.ops.set_attr(dev, attr.group, attr.attr, attr.addr)
        if cmd == KVM_GET_DEVICE_ATTR:
            raise Errno(EPERM)  # no device here has get_attr
        if cmd == KVM_HAS_DEVICE_ATTR:
            attr = kvm_device_attr.unpack(copy_from_user(arg, kvm_device_attr.size_of))
            return dev.ops.has_attr(dev, attr.group, attr.attr)
        raise Errno(ENOTTY)


KVM_CHARDEV_OPS = KvmChardevFops()
KVM_VM_FOPS = KvmVmFops()
KVM_DEVICE_FOPS = KvmDeviceFops()


def kvm_check_mm(kvm: Kvm) -> None:
    if kvm.mm is not current().process.mm:
        raise Errno(EIO)


def kvm_vm_ioctl_check_extension(cap: int) -> int:
    return int(cap == KVM_CAP_DEVICE_CTRL)


def kvm_dev_ioctl_create_vm(type: int) -> int:
    if type:
        raise Errno(EINVAL)
    fd = get_unused_fd_flags(O_CLOEXEC)
    file = kvm_getfile(KVM_VM_FOPS, kvm_create_vm(), KVM_VM_FOPS.name)
    fd_install(fd, file)
    return fd


def kvm_getfile(fops: FileOperations, private_data: Any, name: str) -> File:
    """A file of KVM; its owner, the module, is pinned by who asks for it, so this cannot fail."""
    try_module_get(statics().module)
    return anon_inode_getfile(name, fops, private_data, O_RDWR)


def kvm_create_vm() -> Kvm:
    kvm = kzalloc(Kvm, current().process.mm)
    with statics().kvm_lock:
        statics().vm_list.append(kvm)
    return kvm


def kvm_get_kvm(kvm: Kvm) -> None:
    kvm.users_count.inc()


def kvm_get_kvm_safe(kvm: Kvm) -> bool:
    """A reference, unless the VM is on its way out."""
    return kvm.users_count.inc_not_zero()


def kvm_put_kvm(kvm: Kvm) -> None:
    if kvm.users_count.dec_and_test():
        kvm_destroy_vm(kvm)


def kvm_destroy_vm(kvm: Kvm) -> None:
    with statics().kvm_lock:
        statics().vm_list.remove(kvm)
    kvm_destroy_devices(kvm)
    kvm.destroyed()
    kfree(kvm)


def kvm_destroy_devices(kvm: Kvm) -> None:
    # No kvm->lock: nobody has a reference to the VM any more.
    while kvm.devices:
        dev = kvm.devices.pop(0)
        dev.ops.destroy(dev)


def kvm_vm_ioctl_create_device(kvm: Kvm, arg: int) -> int:
    cd = kvm_create_device.unpack(copy_from_user(arg, kvm_create_device.size_of))
    kvm_ioctl_create_device(kvm, cd)
    copy_to_user(arg, cd.pack())
    return 0


def kvm_ioctl_create_device(kvm: Kvm, cd: Any) -> None:
    """Make a device and its file, and put its fd into *cd*. Errno ENODEV, EMFILE, those of create."""
    ops = statics().device_ops_table.get(cd.type)
    if ops is None:
        raise Errno(ENODEV)
    if cd.flags & KVM_CREATE_DEVICE_TEST:
        return
    dev = kzalloc(KvmDevice, ops(), kvm)
    with kvm.lock:
        try:
            dev.ops.create(dev)
        except Errno:
            kfree(dev)
            raise
        kvm.devices.append(dev)
    # The file's reference, before there is a file: another thread may close the fd as
    # soon as it is installed.
    kvm_get_kvm(kvm)
    try:
        cd.fd = kvm_device_getfd(dev)
    except Errno:
        kvm.users_count.dec()
        kvm_device_undo(dev)
        raise


def kvm_device_getfd(dev: KvmDevice) -> int:
    fd = get_unused_fd_flags(O_CLOEXEC)
    fd_install(fd, kvm_getfile(KVM_DEVICE_FOPS, dev, dev.ops.name))
    return fd


def kvm_device_undo(dev: KvmDevice) -> None:
    """There is no fd free for *dev*."""
    kvm, ops = dev.kvm, dev.ops  # release and destroy free dev
    with kvm.lock:
        kvm.devices.remove(dev)
        if ops.releases:
            ops.release(dev)
    if not ops.releases:
        ops.destroy(dev)


def kvm_register_device_ops(ops: type[KvmDeviceOps], type: int) -> None:
    statics().device_ops_table[type] = ops


def kvm_init() -> None:
    """Boot: /dev/kvm, the kvm-vfio device, and what VFIO asks for by name."""
    module = statics().module = load_module("kvm")
    for function in (kvm_get_kvm_safe, kvm_put_kvm):
        export_symbol(module, function)
    kvm_register_device_ops(vfio.KvmVfioOps, KVM_DEV_TYPE_VFIO)
    misc_register("kvm", KVM_MINOR, KVM_CHARDEV_OPS, 0o600)


def kvm_exit() -> None:
    """``rmmod kvm``. Errno EWOULDBLOCK while somebody needs it."""
    if not unload_module(statics().module):
        raise Errno(EWOULDBLOCK)

# SPDX-License-Identifier: GPL-2.0-only
"""
Registration of VFIO devices and their files. Mirrors ``drivers/vfio/vfio_main.c``.

Unregistering waits for every open device file, and asks the user again for each ten
seconds that go by. Migration and DMA logging are in ``migration.py``.

Differences from Linux: no runtime power management; the wait cannot be interrupted.
"""

from __future__ import annotations

from errno import EINVAL, ENODEV
from typing import Any

from uvfio.linux.base.core import Device, class_create, put_device
from uvfio.linux.iommu import iommu
from uvfio.linux.iommu.private import IOMMU_CAP_ENFORCE_CACHE_COHERENCY
from uvfio.linux.iommufd import access
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.chrdev import alloc_chrdev_region
from uvfio.linux.kernel.fs import File, FileOperations, Vma, path_noexec
from uvfio.linux.kernel.module import (
    Module,
    export_symbol,
    load_module,
    module_put,
    symbol_get,
    symbol_put,
    try_module_get,
)
from uvfio.linux.kernel.printk import printk
from uvfio.linux.kernel.uaccess import copy_from_user, copy_to_user
from uvfio.linux.vfio import container, device_cdev, group, iommufd, migration, parameters, type1
from uvfio.linux.vfio.pci import driver as pci_driver
from uvfio.linux.vfio.private import (
    VFIO_EMULATED_IOMMU,
    VFIO_IOMMU,
    VFIO_NO_IOMMU,
    VfioDevice,
    VfioDeviceFile,
    VfioDeviceOps,
    VfioDeviceSet,
    vfio,
)
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.uapi.vfio import (
    VFIO_DEVICE_ATTACH_IOMMUFD_PT,
    VFIO_DEVICE_BIND_IOMMUFD,
    VFIO_DEVICE_DETACH_IOMMUFD_PT,
    VFIO_DEVICE_FEATURE,
    VFIO_DEVICE_FEATURE_GET,
    VFIO_DEVICE_FEATURE_MASK,
    VFIO_DEVICE_FEATURE_PROBE,
    VFIO_DEVICE_FEATURE_SET,
    VFIO_DEVICE_GET_REGION_INFO,
    VFIO_REGION_INFO_FLAG_CAPS,
    vfio_device_feature,
    vfio_info_cap_header,
    vfio_region_info,
)

PAGE_SIZE = 4096
REQUEST_PERIOD = 10.0  # seconds between two requests to let go of a device


class VfioDeviceFops(FileOperations):
    """``vfio_device_fops``: device files, from a group or from the cdev."""

    name = "[vfio-device]"

    def open(self, file: File) -> None:
        device_cdev.vfio_device_fops_cdev_open(file)

    def release(self, file: File) -> None:
        df: VfioDeviceFile = file.private_data
        device = df.device
        file.private_data = None
        if df.group is not None:
            group.vfio_df_group_close(df)
        else:
            device_cdev.vfio_df_unbind_iommufd(df)
        kfree(df)
        vfio_device_put_registration(device)

    def unlocked_ioctl(self, file: File, cmd: int, arg: int) -> int:
        df: VfioDeviceFile = file.private_data
        if cmd == VFIO_DEVICE_BIND_IOMMUFD:
            return device_cdev.vfio_df_ioctl_bind_iommufd(df, arg)
        if not df.access_granted:
            raise Errno(EINVAL, "the device must be bound first")
        device = df.device
        if df.group is None:
            if cmd == VFIO_DEVICE_ATTACH_IOMMUFD_PT:
                return device_cdev.vfio_df_ioctl_attach_pt(df, arg)
            if cmd == VFIO_DEVICE_DETACH_IOMMUFD_PT:
                return device_cdev.vfio_df_ioctl_detach_pt(df, arg)
        if cmd == VFIO_DEVICE_FEATURE:
            return vfio_ioctl_device_feature(device, arg)
        if cmd == VFIO_DEVICE_GET_REGION_INFO:
            return vfio_get_region_info(device, arg)
        return device.ops.ioctl(device, cmd, arg)

    def read(self, file: File, buf: int, count: int, pos: int) -> int:
        device = self._granted(file)
        return device.ops.read(device, buf, count, pos)

    def write(self, file: File, buf: int, count: int, pos: int) -> int:
        device = self._granted(file)
        return device.ops.write(device, buf, count, pos)

    def mmap(self, file: File, vma: Vma) -> None:
        path_noexec(file, vma)
        device = self._granted(file)
        device.ops.mmap(device, vma, file)

    def _granted(self, file: File) -> VfioDevice:
        df: VfioDeviceFile = file.private_data
        if not df.access_granted:
            raise Errno(EINVAL, "the device must be bound first")
        return df.device


VFIO_DEVICE_FOPS = VfioDeviceFops()


def vfio_assign_device_set(device: VfioDevice, set_id: Any) -> None:
    """Put *device* into the set *set_id*; only registered devices are on its list."""
    statics = vfio()
    with statics.device_set_lock:
        dev_set = statics.device_sets.get(set_id)
        if dev_set is None:
            dev_set = statics.device_sets[set_id] = VfioDeviceSet(set_id)
        dev_set.device_count += 1
    device.dev_set = dev_set
    with dev_set.lock:
        dev_set.device_list.append(device)


def vfio_release_device_set(device: VfioDevice) -> None:
    dev_set = device.dev_set
    with dev_set.lock:
        dev_set.device_list.remove(device)
    with vfio().device_set_lock:
        dev_set.device_count -= 1
        if not dev_set.device_count:
            del vfio().device_sets[dev_set.set_id]


def vfio_alloc_device(dev: Device, ops: VfioDeviceOps, drvdata: Any) -> VfioDevice:
    """A device for :func:`vfio_register_group_dev`; :func:`vfio_put_device` frees it."""
    statics = vfio()
    device = kzalloc(VfioDevice, dev, ops, statics.device_ida.alloc())
    device.drvdata = drvdata
    device.device = kzalloc(Device, f"vfio{device.index}", dev)
    device.device.class_ = statics.device_class
    device.device.driver_data = device
    device.device.release = vfio_device_release
    device_cdev.vfio_init_device_cdev(device)
    return device


def vfio_device_release(dev: Device) -> None:
    device: VfioDevice = dev.driver_data
    vfio_release_device_set(device)
    vfio().device_ida.free(device.index)
    device.ops.release(device)
    kfree(device)
    kfree(dev)


def vfio_put_device(device: VfioDevice) -> None:
    put_device(device.device)


def vfio_register_group_dev(device: VfioDevice) -> None:
    """Offer *device* to user space. Errno EINVAL without an IOMMU group."""
    __vfio_register_dev(device, VFIO_IOMMU)


def vfio_register_emulated_iommu_dev(device: VfioDevice) -> None:
    """The same for a device that does no DMA itself: its driver does, with :func:`vfio_dma_rw`."""
    __vfio_register_dev(device, VFIO_EMULATED_IOMMU)


def __vfio_register_dev(device: VfioDevice, type: str) -> None:
    group.vfio_device_set_group(device, type)
    try:
        device_cdev.vfio_device_add(device)
    except Errno:
        group.vfio_device_remove_group(device)
        raise
    group.vfio_device_group_register(device)


def vfio_device_is_noiommu(device: VfioDevice) -> bool:
    return device.group.type == VFIO_NO_IOMMU


def vfio_device_put_registration(device: VfioDevice) -> None:
    if device.refcount.dec_and_test():
        device.comp.complete()


def vfio_device_try_get_registration(device: VfioDevice) -> bool:
    return device.refcount.inc_not_zero()


def vfio_unregister_group_dev(device: VfioDevice) -> None:
    """Take *device* away from user space, waiting until nobody has it open."""
    # First out of the group, so that GET_DEVICE_FD finds it no more; then the cdev, so
    # that nobody opens it. Only what is open already keeps the registration then.
    group.vfio_device_group_unregister(device)
    device_cdev.vfio_device_del(device)
    vfio_device_put_registration(device)
    asked = 0
    while not device.comp.wait_for_completion_timeout(REQUEST_PERIOD if asked else 0):
        device.ops.request(device, asked)
        asked += 1
        if asked == 2:  # the first answer was due at once; from now on somebody keeps us waiting
            printk(f"{device.dev.name}: Device is currently in use, blocked until device is released")
    group.vfio_device_remove_group(device)


def vfio_df_open(df: VfioDeviceFile) -> None:
    device = df.device
    lockdep_assert_held(device.dev_set.lock)
    # Only files of the group may share a device.
    if device.open_count and df.group is None:
        raise Errno(EINVAL)
    device.open_count += 1
    if device.open_count == 1:
        try:
            vfio_df_device_first_open(df)
        except Errno:
            device.open_count -= 1
            raise


def vfio_df_device_first_open(df: VfioDeviceFile) -> None:
    device = df.device
    module = vfio_device_module(device)
    if not try_module_get(module):
        raise Errno(ENODEV)
    try:
        if df.iommufd is not None:
            iommufd.vfio_df_iommufd_bind(df)
        else:
            group.vfio_device_group_use_iommu(device)
        try:
            device.ops.open_device(device)
        except Errno:
            vfio_df_release_iommu(df)
            raise
        if df.iommufd is None:
            container.vfio_device_container_register(device)
    except Errno:
        module_put(module)
        raise


def vfio_device_module(device: VfioDevice) -> Module | None:
    """The module of the driver, which stays bound while the device is registered."""
    driver = device.dev.driver
    assert driver is not None
    return load_module(driver.module) if driver.module is not None else None


def vfio_df_release_iommu(df: VfioDeviceFile) -> None:
    if df.iommufd is not None:
        iommufd.vfio_df_iommufd_unbind(df)
    else:
        group.vfio_device_group_unuse_iommu(df.device)


def vfio_df_close(df: VfioDeviceFile) -> None:
    device = df.device
    lockdep_assert_held(device.dev_set.lock)
    WARN_ON(device.open_count == 0, "a device is closed that is not open")
    if device.open_count == 1:
        device.ops.close_device(device)
        if df.iommufd is None:
            container.vfio_device_container_unregister(device)
        vfio_df_release_iommu(df)
        module_put(vfio_device_module(device))
    device.open_count -= 1


def vfio_device_get_kvm_safe(device: VfioDevice, kvm: Any) -> None:
    """Make *kvm* the device's, with a reference; the device stays without if that VM is dying."""
    lockdep_assert_held(device.dev_set.lock)
    if kvm is None:
        return
    # Kept until the put: it is what holds KVM's text in place for it.
    put_kvm = symbol_get("kvm_put_kvm")
    if put_kvm is None:
        return
    get_kvm_safe = symbol_get("kvm_get_kvm_safe")
    if get_kvm_safe is None:
        symbol_put("kvm_put_kvm")
        return
    alive = get_kvm_safe(kvm)
    symbol_put("kvm_get_kvm_safe")
    if not alive:
        symbol_put("kvm_put_kvm")
        return
    device.put_kvm = put_kvm
    device.kvm = kvm


def vfio_device_put_kvm(device: VfioDevice) -> None:
    # If this is the last reference, the VM is destroyed here and now; that does not come
    # back for our locks, because a VM whose kvm-vfio is still open has another one.
    lockdep_assert_held(device.dev_set.lock)
    if device.kvm is None:
        return
    put_kvm = device.put_kvm
    if not WARN_ON(put_kvm is None, "a device has a VM and cannot put it"):
        assert put_kvm is not None
        put_kvm(device.kvm)
        device.put_kvm = None
        symbol_put("kvm_put_kvm")
    device.kvm = None


def vfio_device_from_file(file: File) -> VfioDevice | None:
    if not isinstance(file.f_op, VfioDeviceFops):
        return None
    df: VfioDeviceFile = file.private_data
    return df.device


def vfio_file_is_valid(file: File) -> bool:
    """Is *file* a group's or a device's?"""
    return group.vfio_group_from_file(file) is not None or vfio_device_from_file(file) is not None


def vfio_file_enforced_coherent(file: File) -> bool:
    vfio_group = group.vfio_group_from_file(file)
    if vfio_group is not None:
        return group.vfio_group_enforced_coherent(vfio_group)
    device = vfio_device_from_file(file)
    return device is None or iommu.device_iommu_capable(device.dev, IOMMU_CAP_ENFORCE_CACHE_COHERENCY)


def vfio_file_set_kvm(file: File, kvm: Any) -> None:
    """Associate a group or device file with a VM (None: no more); the next first open sees it."""
    vfio_group = group.vfio_group_from_file(file)
    if vfio_group is not None:
        group.vfio_group_set_kvm(vfio_group, kvm)
    elif vfio_device_from_file(file) is not None:
        vfio_device_file_set_kvm(file, kvm)


def vfio_device_file_set_kvm(file: File, kvm: Any) -> None:
    df: VfioDeviceFile = file.private_data
    with df.kvm_ref_lock:
        df.kvm = kvm


def vfio_pin_pages(device: VfioDevice, iova: int, npage: int, prot: int) -> list[Any]:
    """
    The user memory that *device* sees at *iova*, one PinnedPages for each page, until
    :func:`vfio_unpin_pages`, or until the driver is told that it goes. The device must
    be open, and its driver have a ``dma_unmap``.
    """
    if not npage or not device.ops.pins_pages:
        raise Errno(EINVAL)
    if device.group.container is not None:
        return container.vfio_device_container_pin_pages(device, iova, npage, prot)
    if device.iommufd_access is None:
        raise Errno(EINVAL)
    return access.iommufd_access_pin_pages(device.iommufd_access, iova, npage * PAGE_SIZE, prot)


def vfio_unpin_pages(device: VfioDevice, iova: int, npage: int) -> None:
    if device.group.container is not None:
        container.vfio_device_container_unpin_pages(device, iova, npage)
    elif device.iommufd_access is not None:
        access.iommufd_access_unpin_pages(device.iommufd_access, iova, npage * PAGE_SIZE)


def vfio_dma_rw(device: VfioDevice, iova: int, length: int, write: bytes | None = None) -> bytes:
    """Read *length* bytes at *iova* as *device* sees them, or store *write* there."""
    if not length:
        raise Errno(EINVAL)
    if device.group.container is not None:
        return container.vfio_device_container_dma_rw(device, iova, length, write)
    if device.iommufd_access is None:
        raise Errno(EINVAL)
    return access.iommufd_access_rw(device.iommufd_access, iova, length, write)


def vfio_get_region_info(device: VfioDevice, arg: int) -> int:
    info = vfio_region_info.unpack(copy_from_user(arg, vfio_region_info.size_of))
    if info.argsz < vfio_region_info.size_of:
        raise Errno(EINVAL)
    caps = device.ops.get_region_info_caps(device, info)
    tail = b""
    if caps:
        info.flags |= VFIO_REGION_INFO_FLAG_CAPS
        chain = vfio_info_cap_chain(caps, vfio_region_info.size_of)
        if info.argsz < vfio_region_info.size_of + len(chain):
            info.argsz = vfio_region_info.size_of + len(chain)
            info.cap_offset = 0
        else:
            info.cap_offset = vfio_region_info.size_of
            tail = chain
    copy_to_user(arg, info.pack() + tail)
    return 0


def vfio_info_cap_chain(caps: list[tuple[int, int, bytes]], offset: int) -> bytes:
    """
    The capabilities (id, version, body) as they follow an info struct of *offset*
    bytes: each padded to 8 bytes, linked by offsets from the start of the struct.
    """
    chain = b""
    for number, (cap_id, version, body) in enumerate(caps, 1):
        padded = body + bytes(-len(body) % 8)
        following = offset + len(chain) + vfio_info_cap_header.size_of + len(padded)
        header = vfio_info_cap_header(id=cap_id, version=version, next=following if number < len(caps) else 0)
        chain += header.pack() + padded
    return chain


def vfio_ioctl_device_feature(device: VfioDevice, arg: int) -> int:
    feature = vfio_device_feature.unpack(copy_from_user(arg, vfio_device_feature.size_of))
    flags = feature.flags
    operations = VFIO_DEVICE_FEATURE_SET | VFIO_DEVICE_FEATURE_GET
    if feature.argsz < vfio_device_feature.size_of:
        raise Errno(EINVAL)
    if flags & ~(VFIO_DEVICE_FEATURE_MASK | operations | VFIO_DEVICE_FEATURE_PROBE):
        raise Errno(EINVAL)
    # Both at once can only be asked about.
    if not flags & VFIO_DEVICE_FEATURE_PROBE and flags & operations == operations:
        raise Errno(EINVAL)
    handler = migration.vfio_feature(flags & VFIO_DEVICE_FEATURE_MASK)
    if handler is not None:
        return handler(device, flags, arg + vfio_device_feature.size_of, feature.argsz)
    return device.ops.device_feature(device, flags, arg + vfio_device_feature.size_of, feature.argsz)


def vfio_check_feature(flags: int, argsz: int, supported: int, size: int) -> bool:
    """
    Common checks of a feature that knows the operations *supported* and has a payload
    of *size* bytes. False: it was only asked about, and the answer is yes.
    """
    operations = flags & (VFIO_DEVICE_FEATURE_GET | VFIO_DEVICE_FEATURE_SET)
    if operations & ~supported:
        raise Errno(EINVAL)
    if flags & VFIO_DEVICE_FEATURE_PROBE:
        return False
    if not operations or argsz < vfio_device_feature.size_of + size:
        raise Errno(EINVAL)
    return True


def vfio_init() -> None:
    """Boot: classes, character devices, type1 and the driver vfio-pci."""
    statics = vfio()
    statics.device_major = alloc_chrdev_region("vfio-dev")
    statics.group_major = alloc_chrdev_region("vfio")
    statics.device_class = class_create("vfio-dev", lambda dev: (f"vfio/devices/{dev.name}", 0))
    statics.group_class = class_create("vfio", lambda dev: (f"vfio/{dev.name}", 0))
    module = load_module("vfio")
    for function in (vfio_file_set_kvm, vfio_file_is_valid, vfio_file_enforced_coherent, group.vfio_file_iommu_group):
        export_symbol(module, function)
    container.vfio_container_init()
    type1.vfio_iommu_type1_init()
    pci_driver.vfio_pci_init()
    parameters.vfio_parameters_init()

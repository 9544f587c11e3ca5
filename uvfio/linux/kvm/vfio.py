# SPDX-License-Identifier: GPL-2.0-only
"""
The kvm-vfio device: tells a VM and VFIO of each other. Mirrors ``virt/kvm/vfio.c``.

A file of a VFIO group or device that is added is told its VM, and held; it is untold when
it is deleted or the device's file is closed, which is before the VM can go: the file
holds a reference on it. A group that two VMs add belongs to who added it last, and to
nobody as soon as one of them lets go of it.

Differences from Linux: with SPAPR (``statics().spapr_tce_iommu``) an iommu_group is held
as there, but the TCE table that it should be attached to is not looked at.
"""

from __future__ import annotations

from errno import EBUSY, EEXIST, EINVAL, EIO, ENOENT, ENXIO
from typing import Any

from uvfio.linux.iommu import iommu
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.fs import File, fget, fput, get_file
from uvfio.linux.kernel.module import symbol_get, symbol_put
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.uaccess import copy_from_user
from uvfio.linux.kvm.private import Kvm, KvmDevice, KvmDeviceOps, statics
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kstruct, kzalloc
from uvfio.uapi.kvm import (
    KVM_DEV_VFIO_FILE,
    KVM_DEV_VFIO_FILE_ADD,
    KVM_DEV_VFIO_FILE_DEL,
    KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE,
    kvm_vfio_spapr_tce,
)


@kstruct("file", "iommu_group")
class KvmVfioFile:
    """``struct kvm_vfio_file``: a VFIO file that belongs to the VM."""

    def __init__(self, file: File) -> None:
        self.file = file  # a reference
        self.iommu_group: Any = None  # SPAPR; a reference


@kstruct()
class KvmVfio:
    """``struct kvm_vfio``."""

    def __init__(self) -> None:
        self.lock = Mutex("kvm_vfio.lock")
        self.file_list: list[KvmVfioFile] = []  # lock
        self.noncoherent = False  # lock


class KvmVfioOps(KvmDeviceOps):
    """``kvm_vfio_ops``."""

    name = "kvm-vfio"
    releases = True

    def create(self, dev: KvmDevice) -> None:
        # Only one for each VM: all of its VFIO files are known in one place.
        if any(isinstance(other.ops, KvmVfioOps) for other in dev.kvm.devices):
            raise Errno(EBUSY)
        dev.private = kzalloc(KvmVfio)

    def release(self, dev: KvmDevice) -> None:
        kv: KvmVfio = dev.private
        while kv.file_list:
            kvm_vfio_file_drop(dev.kvm, kv.file_list.pop(0))
        kvm_vfio_update_coherency(dev)
        kfree(kv)
        kfree(dev)

    def set_attr(self, dev: KvmDevice, group: int, attr: int, addr: int) -> int:
        self.has_attr(dev, group, attr)
        if attr == KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE:
            return kvm_vfio_file_set_spapr_tce(dev, addr)
        fd = int.from_bytes(copy_from_user(addr, 4), "little", signed=True)
        return kvm_vfio_file_add(dev, fd) if attr == KVM_DEV_VFIO_FILE_ADD else kvm_vfio_file_del(dev, fd)

    def has_attr(self, dev: KvmDevice, group: int, attr: int) -> int:
        known = attr in (KVM_DEV_VFIO_FILE_ADD, KVM_DEV_VFIO_FILE_DEL)
        known = known or (attr == KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE and statics().spapr_tce_iommu)
        if group != KVM_DEV_VFIO_FILE or not known:
            raise Errno(ENXIO)
        return 0


def kvm_vfio_call(name: str, otherwise: Any, *args: Any) -> Any:
    """What VFIO exports as *name*; *otherwise* if it is not loaded."""
    function = symbol_get(name)
    if function is None:
        return otherwise
    answer = function(*args)
    symbol_put(name)
    return answer


def kvm_vfio_file_set_kvm(file: File, kvm: Kvm | None) -> None:
    kvm_vfio_call("vfio_file_set_kvm", None, file, kvm)


def kvm_vfio_file_enforced_coherent(file: File) -> bool:
    return bool(kvm_vfio_call("vfio_file_enforced_coherent", False, file))


def kvm_vfio_file_is_valid(file: File) -> bool:
    return bool(kvm_vfio_call("vfio_file_is_valid", False, file))


def kvm_vfio_file_iommu_group(file: File) -> Any:
    return kvm_vfio_call("vfio_file_iommu_group", None, file)


def kvm_vfio_update_coherency(dev: KvmDevice) -> None:
    """A VM with a file whose DMA may be incoherent must be told: its caching then matters."""
    kv: KvmVfio = dev.private
    noncoherent = any(not kvm_vfio_file_enforced_coherent(kvf.file) for kvf in kv.file_list)
    if noncoherent != kv.noncoherent:
        kv.noncoherent = noncoherent
        dev.kvm.noncoherent_dma_count += 1 if noncoherent else -1


def kvm_vfio_file_add(dev: KvmDevice, fd: int) -> int:
    kv: KvmVfio = dev.private
    file = fget(fd)
    try:
        if not kvm_vfio_file_is_valid(file):
            raise Errno(EINVAL)
        with kv.lock:
            if any(kvf.file is file for kvf in kv.file_list):
                raise Errno(EEXIST)
            kvf = kzalloc(KvmVfioFile, get_file(file))
            kv.file_list.append(kvf)
            dev.kvm.assigned_device_count += 1
            # Not later: outside of kv->lock somebody may delete and free it.
            kvm_vfio_file_set_kvm(kvf.file, dev.kvm)
            kvm_vfio_update_coherency(dev)
    finally:
        fput(file)
    return 0


def kvm_vfio_file_del(dev: KvmDevice, fd: int) -> int:
    kv: KvmVfio = dev.private
    file = fget(fd)
    try:
        with kv.lock:
            kvf = kvm_vfio_file_find(kv, file)
            kv.file_list.remove(kvf)
            kvm_vfio_file_drop(dev.kvm, kvf)
            kvm_vfio_update_coherency(dev)
    finally:
        fput(file)
    return 0


def kvm_vfio_file_find(kv: KvmVfio, file: File) -> KvmVfioFile:
    """Errno ENOENT when *file* was not added."""
    lockdep_assert_held(kv.lock)
    for kvf in kv.file_list:
        if kvf.file is file:
            return kvf
    raise Errno(ENOENT)


def kvm_vfio_file_drop(kvm: Kvm, kvf: KvmVfioFile) -> None:
    """Let go of a file that is off the list already."""
    kvm.assigned_device_count -= 1
    if kvf.iommu_group is not None:
        iommu.iommu_group_put(kvf.iommu_group)
        kvf.iommu_group = None
    kvm_vfio_file_set_kvm(kvf.file, None)
    fput(kvf.file)
    kfree(kvf)


def kvm_vfio_file_set_spapr_tce(dev: KvmDevice, addr: int) -> int:
    kv: KvmVfio = dev.private
    param = kvm_vfio_spapr_tce.unpack(copy_from_user(addr, kvm_vfio_spapr_tce.size_of))
    file = fget(param.groupfd)
    try:
        with kv.lock:
            kvf = kvm_vfio_file_find(kv, file)
            if kvf.iommu_group is None:
                kvf.iommu_group = kvm_vfio_file_iommu_group(kvf.file)
                if WARN_ON(kvf.iommu_group is None, "a group without an IOMMU group is attached to a TCE table"):
                    raise Errno(EIO)
    finally:
        fput(file)
    return 0

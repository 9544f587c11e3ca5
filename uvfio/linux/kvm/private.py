# SPDX-License-Identifier: GPL-2.0-only
"""
The structs and statics of KVM. Mirrors ``include/linux/kvm_host.h``.

Lock order: ``kvm->lock``, ``kvm_vfio->lock``, then what VFIO takes in the functions that
it exports (``kvm_ref_lock``; under SPAPR ``group_lock``). Differences from Linux: one
module has what is ``kvm.ko`` and ``kvm-amd.ko`` there, so the second cannot be unloaded
while only the first is pinned; a VM has neither memory nor CPUs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvfio.linux.kernel.module import Module
from uvfio.linux.kernel.mutex import Mutex
from uvfio.linux.kernel.refcount import Refcount
from uvfio.runtime.struct import kstruct
from uvfio.runtime.task import per_machine


class KvmStatics:
    """The statics of ``kvm_main.c``."""

    def __init__(self) -> None:
        self.kvm_lock = Mutex("kvm_lock")
        self.vm_list: list[Kvm] = []  # kvm_lock
        self.module: Module  # what every file of KVM pins
        self.device_ops_table: dict[int, type[KvmDeviceOps]] = {}  # by KVM_DEV_TYPE_
        self.spapr_tce_iommu = False  # CONFIG_SPAPR_TCE_IOMMU: powerpc only


statics = per_machine(KvmStatics)


@kstruct("lock", "users_count")  # never written, but read by who may come too late: a VM is freed
class Kvm:
    """``struct kvm``: a VM. Every file of it holds a reference, and every opened device that is its."""

    def __init__(self, mm: Any) -> None:
        self.mm = mm  # only this process may use it
        self.users_count = Refcount("kvm.users_count")
        self.lock = Mutex("kvm.lock")
        self.devices: list[KvmDevice] = []  # lock, and nobody's once users_count is 0
        self.noncoherent_dma_count = 0  # arch; kvm_vfio.lock
        self.assigned_device_count = 0  # arch; kvm_vfio.lock
        self.destroyed: Callable[[], None] = _nothing  # for who keeps something beside it


@kstruct()
class KvmDevice:
    """``struct kvm_device``: a device that the kernel emulates for a VM, made by KVM_CREATE_DEVICE."""

    def __init__(self, ops: KvmDeviceOps, kvm: Kvm) -> None:
        self.ops = ops
        self.kvm = kvm
        self.private: Any = None


class KvmDeviceOps:
    """
    ``struct kvm_device_ops``. A device goes in one of two ways: by ``release`` when its
    file is closed (with ``kvm->lock`` held, and it is off the list already), or else by
    ``destroy`` when the VM goes (without).
    """

    name = "kvm-device"
    releases = False  # has ``release``

    def create(self, dev: KvmDevice) -> None:
        """Under ``kvm->lock``; Errno if there cannot be one."""

    def destroy(self, dev: KvmDevice) -> None:
        """The VM goes."""

    def release(self, dev: KvmDevice) -> None:
        """The device's file is closed."""

    def set_attr(self, dev: KvmDevice, group: int, attr: int, addr: int) -> int:
        """Errno ENXIO if there is no such attribute."""
        raise NotImplementedError

    def has_attr(self, dev: KvmDevice, group: int, attr: int) -> int:
        """Errno ENXIO if there is no such attribute."""
        raise NotImplementedError


def _nothing() -> None:
    """Nobody keeps anything beside the VM."""

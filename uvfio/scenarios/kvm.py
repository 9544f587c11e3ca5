# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios of VMs and the VFIO groups and devices that are associated with them."""

import struct
from collections.abc import Callable
from errno import EINVAL, EIO
from functools import partial

from uvfio.linux.base import pci_probe
from uvfio.linux.kernel.user import UserProcess
from uvfio.linux.kvm import main as kvm_main
from uvfio.linux.kvm import private as kvm_private
from uvfio.linux.vfio.pci.core import VfioPciOps
from uvfio.linux.vfio.private import VfioDevice
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import current
from uvfio.scenarios.registry import Scene, scenario
from uvfio.uapi.kvm import (
    KVM_CREATE_DEVICE,
    KVM_CREATE_VM,
    KVM_DEV_TYPE_VFIO,
    KVM_DEV_VFIO_FILE,
    KVM_DEV_VFIO_FILE_ADD,
    KVM_DEV_VFIO_FILE_DEL,
    KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE,
    KVM_SET_DEVICE_ATTR,
)
from uvfio.uapi.vfio import (
    VFIO_DEVICE_BIND_IOMMUFD,
    VFIO_GROUP_GET_DEVICE_FD,
    VFIO_GROUP_SET_CONTAINER,
    VFIO_SET_IOMMU,
    VFIO_TYPE1v2_IOMMU,
)


class NeedsVm(VfioPciOps):
    """The driver of one device that wants its VM's lock at open and close, as vfio-ap does."""

    def open_device(self, device: VfioDevice) -> None:
        self.kvm = device.kvm
        if self.kvm is None:
            raise Errno(EINVAL)
        with self.kvm.lock:
            super().open_device(device)

    def close_device(self, device: VfioDevice) -> None:
        with self.kvm.lock:
            super().close_device(device)


class Broken(VfioPciOps):
    """A driver whose device does not come up."""

    def open_device(self, device: VfioDevice) -> None:
        raise Errno(EIO)


class Vmm(UserProcess):
    """A process with a group in a container and a VM with its kvm-vfio device."""

    def __init__(self, scene: Scene, ops: VfioPciOps | None = None) -> None:
        super().__init__("vmm")
        scene.processes.append(self)
        self.bdf = scene.plug("edu")
        if ops is not None:
            pci_probe.pci_host().found[self.bdf].driver_data.vdev.ops = ops
        kvm = self.open("/dev/kvm")
        self.vm = self.ioctl(kvm, KVM_CREATE_VM)
        self.close(kvm)
        self.kv = self.create_device(self.vm)

    def struct(self, layout: str, *values: int | bytes) -> int:
        """The address of a struct, made beforehand so that a task only makes the call."""
        data = struct.pack("<" + layout, *values)
        arg = self.mm.mmap(len(data))
        self.mm.write(arg, data)
        return arg

    def create_device(self, vm: int) -> int:
        arg = self.struct("3I", KVM_DEV_TYPE_VFIO, 0, 0)
        self.ioctl(vm, KVM_CREATE_DEVICE, arg)
        return int.from_bytes(self.mm.read(arg + 4, 4), "little")

    def attr(self, attr: int, fd: int, kv: int | None = None) -> Callable[[], int]:
        """The call that adds or deletes *fd*."""
        arg = self.struct("IIQQ", 0, KVM_DEV_VFIO_FILE, attr, self.struct("i", fd))
        return partial(self.ioctl, self.kv if kv is None else kv, KVM_SET_DEVICE_ATTR, arg)

    def add(self, fd: int, kv: int | None = None) -> Callable[[], int]:
        return self.attr(KVM_DEV_VFIO_FILE_ADD, fd, kv)

    def delete(self, fd: int, kv: int | None = None) -> Callable[[], int]:
        return self.attr(KVM_DEV_VFIO_FILE_DEL, fd, kv)

    def open_group(self) -> int:
        container, group = self.open("/dev/vfio/vfio"), self.open("/dev/vfio/1")
        self.ioctl(group, VFIO_GROUP_SET_CONTAINER, self.struct("i", container))
        self.ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)
        return group

    def get_device(self, group: int) -> Callable[[], int]:
        """The call that opens the group's device."""
        arg = self.struct("64s", self.bdf.encode())
        return partial(self.ioctl, group, VFIO_GROUP_GET_DEVICE_FD, arg)

    def bind(self, cdev: int) -> Callable[[], int]:
        """The call that opens a device through its cdev."""
        arg = self.struct("IIiI", 16, 0, self.open("/dev/iommu"), 0)
        return partial(self.ioctl, cdev, VFIO_DEVICE_BIND_IOMMUFD, arg)

    def leave(self) -> None:
        """What is left of a VM's end, once its CPUs have stopped: kvm-vfio and the VM go."""
        self.close(self.kv)
        self.close(self.vm)


@scenario(("closed", "left"))
def exit_vs_device_close(scene: Scene) -> None:
    """Is a VM destroyed by the close of its last device without needing a lock that is held?"""
    vmm = Vmm(scene, NeedsVm())
    group = vmm.open_group()
    vmm.add(group)()
    device = vmm.get_device(group)()
    scene.task("A", lambda: vmm.close(device), "closed")
    scene.task("B", vmm.leave, "left")


@scenario(("opened", "left"), ("EINVAL", "left"))
def exit_vs_open(scene: Scene) -> None:
    """Can a device be opened with a VM that is already going?"""
    vmm = Vmm(scene, NeedsVm())
    group = vmm.open_group()
    vmm.add(group)()
    scene.task("A", vmm.get_device(group), "opened")
    scene.task("B", vmm.leave, "left")


@scenario(("EIO", "left"))
def exit_vs_failing_open(scene: Scene) -> None:
    """Can a device that does not come up be the last to let go of a VM?"""
    vmm = Vmm(scene, Broken())
    group = vmm.open_group()
    vmm.add(group)()
    scene.task("A", vmm.get_device(group), "opened")
    scene.task("B", vmm.leave, "left")


@scenario(("opened", "released"), ("EINVAL", "released"))
def release_vs_open(scene: Scene) -> None:
    """Can the release of kvm-vfio and the open of a device wait for each other?"""
    vmm = Vmm(scene, NeedsVm())
    group = vmm.open_group()
    vmm.add(group)()
    scene.task("A", vmm.get_device(group), "opened")
    scene.task("B", lambda: vmm.close(vmm.kv), "released")


@scenario(("bound", "released"), ("EINVAL", "released"))
def release_vs_bind(scene: Scene) -> None:
    """Can the release of kvm-vfio and a bind through the cdev wait for each other?"""
    vmm = Vmm(scene, NeedsVm())
    cdev = vmm.open("/dev/vfio/devices/vfio0")
    vmm.add(cdev)()
    scene.task("A", vmm.bind(cdev), "bound")
    scene.task("B", lambda: vmm.close(vmm.kv), "released")


@scenario(("added", "deleted"), ("added", "ENOENT"))
def add_vs_del(scene: Scene) -> None:
    """Can a file be deleted from a VM while it is still being added?"""
    vmm = Vmm(scene)
    group = vmm.open("/dev/vfio/1")
    scene.task("A", vmm.add(group), "added")
    scene.task("B", vmm.delete(group), "deleted")


@scenario(("opened", "added"), ("EINVAL", "added"))
def add_vs_open(scene: Scene) -> None:
    """Does a driver see the VM that its device holds, when the VM comes just now?"""
    vmm = Vmm(scene, NeedsVm())
    group = vmm.open_group()
    scene.task("A", vmm.get_device(group), "opened")
    scene.task("B", vmm.add(group), "added")


@scenario(("opened", "added"))
def other_vm_vs_open(scene: Scene) -> None:
    """Does a device put the VM that it got, when its group goes over to another?"""
    vmm = Vmm(scene, NeedsVm())
    group = vmm.open_group()
    vmm.add(group)()
    kvm = vmm.open("/dev/kvm")
    other = vmm.create_device(vmm.ioctl(kvm, KVM_CREATE_VM))
    scene.task("A", vmm.get_device(group), "opened")
    scene.task("B", vmm.add(group, other), "added")


@scenario(("opened", "deleted"), ("EINVAL", "deleted"))
def two_vms_of_a_group(scene: Scene) -> None:
    """Whose is a group that two VMs have added, when the first lets go of it?"""
    vmm = Vmm(scene, NeedsVm())
    group = vmm.open_group()
    kvm = vmm.open("/dev/kvm")
    other = vmm.create_device(vmm.ioctl(kvm, KVM_CREATE_VM))
    vmm.add(group)()
    vmm.add(group, other)()
    scene.task("A", vmm.get_device(group), "opened")
    scene.task("B", vmm.delete(group), "deleted")


@scenario(("closed", "opened"))
def close_vs_open_again(scene: Scene) -> None:
    """Is every reference on a VM put, when a device is opened again as it is closed?"""
    vmm = Vmm(scene, NeedsVm())
    group = vmm.open_group()
    vmm.add(group)()
    device = vmm.get_device(group)()
    scene.task("A", lambda: vmm.close(device), "closed")
    scene.task("B", vmm.get_device(group), "opened")


@scenario(("closed", "unloaded"), ("closed", "EAGAIN"))
def unload_vs_device_close(scene: Scene) -> None:
    """Can KVM be unloaded while a device still has to put its VM?"""
    vmm = Vmm(scene, NeedsVm())
    group = vmm.open_group()
    vmm.add(group)()
    device = vmm.get_device(group)()
    vmm.leave()
    scene.task("A", lambda: vmm.close(device), "closed")
    scene.task("B", kvm_main.kvm_exit, "unloaded")


@scenario(("bound", "EINVAL"), ("EINVAL", "bound"), expected="leak")
def second_bind(scene: Scene) -> None:
    """Does the second bind of a device, which fails, leave the first its VM?"""
    vmm = Vmm(scene)
    for name in "AB":
        cdev = vmm.open("/dev/vfio/devices/vfio0")
        vmm.add(cdev)()
        scene.task(name, vmm.bind(cdev), "bound")


@scenario(("EINVAL", "left"), expected="use-after-free")
def second_bind_without_vm(scene: Scene) -> None:
    """Does a VM outlive the device that it is opened with, whatever else tries to bind that?"""
    vmm = Vmm(scene, NeedsVm())
    cdev = vmm.open("/dev/vfio/devices/vfio0")
    vmm.add(cdev)()
    vmm.bind(cdev)()
    scene.task("A", vmm.bind(vmm.open("/dev/vfio/devices/vfio0")), "bound")
    scene.task("B", vmm.leave, "left")


@scenario(("created", "closed"))
def create_vs_close(scene: Scene) -> None:
    """Does a device have its VM for certain before its fd can be closed?"""
    vmm = Vmm(scene)
    vmm.close(vmm.kv)  # its number is the next one given out

    def guess() -> None:
        current().runtime.point("guess", vmm.files, ready=lambda: vmm.files.table.get(vmm.kv) is not None)
        vmm.close(vmm.kv)

    scene.task("A", partial(vmm.create_device, vmm.vm), "created")
    scene.task("B", guess, "closed")


@scenario(("unplugged",))
def unplug_with_spapr_group(scene: Scene) -> None:
    """Does unplug wait for a group file whose iommu_group SPAPR's KVM holds?"""
    kvm_private.statics().spapr_tce_iommu = True
    user = Vmm(scene)
    group = user.open("/dev/vfio/1")
    user.add(group)()
    tce = user.struct("IIQQ", 0, KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_GROUP_SET_SPAPR_TCE, user.struct("ii", group, -1))
    user.ioctl(user.kv, KVM_SET_DEVICE_ATTR, tce)

    scene.task("A", lambda: scene.unplug(user.bdf), "unplugged")

# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios of iommufd's objects: vDEVICEs of devices that are unbound, and ids that come back."""

import struct
from functools import partial
from typing import Any

from uvfio.linux.base.pci import pci_host
from uvfio.linux.iommu import smmuv3_hw
from uvfio.linux.iommufd import device, objects, viommu
from uvfio.linux.iommufd.private import IOMMUFD_OBJ_ANY, IommufdUcmd
from uvfio.linux.kernel.user import UserProcess
from uvfio.runtime.errors import Errno, Splat
from uvfio.scenarios.registry import Scene, scenario
from uvfio.uapi.iommufd import (
    IOMMU_DESTROY,
    IOMMU_HWPT_ALLOC,
    IOMMU_HWPT_ALLOC_NEST_PARENT,
    IOMMU_HWPT_INVALIDATE,
    IOMMU_IOAS_ALLOC,
    IOMMU_VDEVICE_ALLOC,
    IOMMU_VIOMMU_ALLOC,
    IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3,
    IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
    iommu_vdevice_alloc,
)
from uvfio.uapi.vfio import VFIO_DEVICE_ATTACH_IOMMUFD_PT, VFIO_DEVICE_BIND_IOMMUFD

PAGE = 4096
VSID = 5


class _Guest(UserProcess):
    """Somebody who runs a guest: devices bound to an iommufd, and a vIOMMU on a nesting parent."""

    def __init__(self, scene: Scene, devices: int = 1) -> None:
        super().__init__("vmm")
        scene.processes.append(self)
        self.bdfs = [scene.plug("edu") for _n in range(devices)]
        self.iommufd = self.open("/dev/iommu")
        self.devices = [self.open(f"/dev/vfio/devices/vfio{n}") for n in range(devices)]
        self.ids = [self.call(fd, VFIO_DEVICE_BIND_IOMMUFD, "2IiI", 16, 0, self.iommufd, 0)[3] for fd in self.devices]
        flags, ids = IOMMU_HWPT_ALLOC_NEST_PARENT, (self.ids[0], self.ioas_alloc())
        self.parent = self.call(self.iommufd, IOMMU_HWPT_ALLOC, "8IQ2I", 48, flags, *ids, 0, 0, 0, 0, 0, 0, 0)[4]
        kind, ids = IOMMU_VIOMMU_TYPE_ARM_SMMUV3, (self.ids[0], self.parent)
        self.viommu = self.call(self.iommufd, IOMMU_VIOMMU_ALLOC, "8IQ", 40, 0, kind, *ids, 0, 0, 0, 0)[5]

    def call(self, fd: int, cmd: int, layout: str, *values: int) -> tuple[int, ...]:
        """An ioctl on a struct; what the kernel left there."""
        arg = self.mm.mmap(PAGE)
        self.mm.write(arg, struct.pack("<" + layout, *values))
        self.ioctl(fd, cmd, arg)
        return struct.unpack("<" + layout, self.mm.read(arg, struct.calcsize("<" + layout)))

    def ioas_alloc(self) -> int:
        return self.call(self.iommufd, IOMMU_IOAS_ALLOC, "3I", 12, 0, 0)[2]

    def destroy(self, object_id: int) -> None:
        self.call(self.iommufd, IOMMU_DESTROY, "2I", 8, object_id)

    def vdevice_alloc(self, device: int = 0, virt_id: int = VSID) -> int:
        return self.call(self.iommufd, IOMMU_VDEVICE_ALLOC, "4IQ", 24, self.viommu, self.ids[device], 0, virt_id)[3]

    def unbind(self, device: int = 0) -> None:
        self.close(self.devices[device])

    def attach(self) -> None:
        self.call(self.devices[0], VFIO_DEVICE_ATTACH_IOMMUFD_PT, "3I", 12, 0, self.parent)

    def invalidate(self, object_id: int) -> None:
        """Forget the context descriptors of the guest's device."""
        commands = self.mm.mmap(PAGE)
        stream = VSID << smmuv3_hw.CMDQ_0_SID_SHIFT
        self.mm.write(commands, struct.pack("<2Q", smmuv3_hw.CMDQ_OP_CFGI_CD_ALL | stream, 0))
        kind = IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3
        self.call(self.iommufd, IOMMU_HWPT_INVALIDATE, "2IQ4I", 32, object_id, commands, kind, 16, 1, 0)

    def object(self, object_id: int) -> Any:
        """What the kernel has behind *object_id*."""
        return self.files.get(self.iommufd).private_data.objects.entries[object_id]


@scenario(("unbound", "destroyed"), ("unbound", "ENOENT"), ("unbound", "EBUSY"), iommu="smmuv3")
def unbind_vs_destroy(scene: Scene) -> None:
    """Who destroys a vDEVICE when its device is unbound while user space destroys it?"""
    user = _Guest(scene)
    vdevice = user.vdevice_alloc()
    scene.task("A", user.unbind, "unbound")
    scene.task("B", partial(user.destroy, vdevice), "destroyed")


@scenario(("unbound", "allocated"), ("unbound", "ENOENT"), iommu="smmuv3")
def unbind_vs_vdevice_alloc(scene: Scene) -> None:
    """Can a device get a vDEVICE that keeps it from being unbound?"""
    user = _Guest(scene)
    scene.task("A", user.unbind, "unbound")
    scene.task("B", lambda: str(user.vdevice_alloc() and "allocated"), "allocated")


@scenario(("unbound", "EINVAL"), ("unbound", "ENOENT"), iommu="smmuv3")
def unbind_vs_use(scene: Scene) -> None:
    """Can a call that only looks at a vDEVICE keep its device from being unbound?"""
    user = _Guest(scene)
    vdevice = user.vdevice_alloc()
    scene.task("A", user.unbind, "unbound")
    scene.task("B", partial(user.invalidate, vdevice), "used")


@scenario(("unbound", "destroyed"), ("unbound", "ENOENT"), ("unbound", "EBUSY"), iommu="smmuv3")
def unbind_vs_reused_id(scene: Scene) -> None:
    """Can unbinding destroy an object that got the id of the vDEVICE?"""
    user = _Guest(scene)
    vdevice = user.vdevice_alloc()
    made: list[int] = []

    def destroy_and_go_on() -> None:
        try:
            user.destroy(vdevice)
        finally:
            made.append(user.ioas_alloc())

    scene.task("A", user.unbind, "unbound")
    scene.task("B", destroy_and_go_on, "destroyed")
    scene.afterwards(lambda: _still_there(user, made))


@scenario(("unbound", "destroyed"), ("unbound", "ENOENT"), ("unbound", "EBUSY"), iommu="smmuv3")
def unbind_vs_late_destroy(scene: Scene) -> None:
    """Can user space, destroying a vDEVICE that is gone already, hit something else?"""
    user = _Guest(scene)
    vdevice = user.vdevice_alloc()
    made: list[int] = []

    def go_on_and_destroy() -> None:
        made.append(user.ioas_alloc())
        user.destroy(vdevice)

    scene.task("A", user.unbind, "unbound")
    scene.task("B", go_on_and_destroy, "destroyed")
    scene.afterwards(lambda: _still_there(user, made))


def _still_there(user: _Guest, made: list[int]) -> None:
    """Nobody but user space may have destroyed what it made."""
    for ioas in made:
        try:
            user.destroy(ioas)
        except Errno as e:
            raise Splat("id-reuse", f"the IOAS with id {ioas} was destroyed as if it were a vDEVICE: {e}") from None


@scenario(("destroyed", "allocated"), ("destroyed", "EEXIST"), iommu="smmuv3")
def destroy_vs_same_virt_id(scene: Scene) -> None:
    """What becomes of a vDEVICE whose virt_id is another's until just now?"""
    user = _Guest(scene, devices=2)
    vdevice = user.vdevice_alloc(0)
    scene.task("A", partial(user.destroy, vdevice), "destroyed")
    scene.task("B", partial(_vdevice, user, 1), "allocated")


@scenario(("allocated", "EEXIST"), ("EEXIST", "allocated"), iommu="smmuv3")
def two_vdevices_for_one_device(scene: Scene) -> None:
    """Can a device be two for its guest?"""
    user = _Guest(scene)
    for virt_id, name in enumerate("AB"):
        scene.task(name, partial(_vdevice, user, 0, virt_id), "allocated")


def _vdevice(user: _Guest, device: int, virt_id: int = VSID) -> None:
    user.vdevice_alloc(device, virt_id)


@scenario(("EOPNOTSUPP", "attached"), iommu="smmuv3")
def driver_with_a_small_vdevice(scene: Scene) -> None:
    """Does a driver that is wrong about the size of its vDEVICE hurt anybody else?"""
    user = _Guest(scene)
    user.object(user.viommu).vdevice = object
    scene.task("A", partial(_vdevice, user, 0), "allocated")
    scene.task("B", user.attach, "attached")


@scenario(("allocated", "invalidated"), ("allocated", "EIO"), iommu="smmuv3")
def vdevice_alloc_vs_invalidate(scene: Scene) -> None:
    """From when on does a guest's command find its device?"""
    user = _Guest(scene)
    scene.task("A", partial(_vdevice, user, 0), "allocated")
    scene.task("B", partial(user.invalidate, user.viommu), "invalidated")


@scenario(("EOPNOTSUPP", "EIO"), iommu="smmuv3")
def refused_vdevice_vs_invalidate(scene: Scene) -> None:
    """Can a guest's command find a device that its driver refuses?"""
    user = _Guest(scene)
    master = pci_host().found[user.bdfs[0]].iommu
    master.streams = (*master.streams, 0xFF)  # behind a bridge, it has a second stream id
    scene.task("A", partial(_vdevice, user, 0), "allocated")
    scene.task("B", partial(user.invalidate, user.viommu), "invalidated")


@scenario(("gone", "invalidated"), ("gone", "EIO"), iommu="smmuv3")
def unplug_vs_invalidate(scene: Scene) -> None:
    """Can a guest's command reach a device that has left its IOMMU?"""
    user = _Guest(scene)
    user.vdevice_alloc()

    def leave() -> None:
        user.unbind()
        scene.unplug(user.bdfs[0])

    scene.task("A", leave, "gone")
    scene.task("B", partial(user.invalidate, user.viommu), "invalidated")


class _NoAnswer(IommufdUcmd):
    """A call whose answer nobody reads."""

    def respond(self) -> None:
        return


@scenario(
    ("destroyed", "allocated", "unbound"),
    ("EBUSY", "allocated", "unbound"),
    ("ENOENT", "allocated", "unbound"),
    iommu="smmuv3",
)
def destroy_vs_vdevice_alloc_vs_unbind(scene: Scene) -> None:
    """Is a vDEVICE that is being destroyed mistaken for the next one with its id?"""
    user = _Guest(scene)
    ictx = user.files.get(user.iommufd).private_data
    other = device.iommufd_device_bind(ictx, pci_host().found[scene.plug("edu")])
    user.ids.append(other.id)
    vdevice = user.vdevice_alloc(1)
    ucmd = _NoAnswer(ictx, 0, iommu_vdevice_alloc.size_of, iommu_vdevice_alloc(virt_id=VSID + 1))
    looked_up = [objects.iommufd_get_object(ictx, each, IOMMUFD_OBJ_ANY) for each in (user.viommu, user.ids[0])]

    scene.task("A", lambda: objects.iommufd_object_remove(ictx, None, vdevice, 0), "destroyed")
    scene.task("B", lambda: viommu.iommufd_vdevice_alloc(ucmd, *looked_up), "allocated")
    scene.task("C", lambda: device.iommufd_device_unbind(other), "unbound")
    scene.afterwards(lambda: objects.iommufd_put_object(ictx, looked_up[0]))

# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios of iommufd's objects: vDEVICEs of devices that are unbound, and ids that come back."""

from functools import partial

from uvfio.linux.base.pci import pci_host
from uvfio.linux.iommufd import device, objects, viommu
from uvfio.linux.iommufd.private import IOMMUFD_OBJ_ANY, IommufdUcmd
from uvfio.runtime.errors import Errno, Splat
from uvfio.scenarios.iommufd_user import VSID, Guest
from uvfio.scenarios.registry import Scene, scenario
from uvfio.uapi.iommufd import iommu_vdevice_alloc


@scenario(("unbound", "destroyed"), ("unbound", "ENOENT"), ("unbound", "EBUSY"), iommu="smmuv3")
def unbind_vs_destroy(scene: Scene) -> None:
    """Who destroys a vDEVICE when its device is unbound while user space destroys it?"""
    user = Guest(scene)
    vdevice = user.vdevice_alloc()
    scene.task("A", user.close_device, "unbound")
    scene.task("B", partial(user.destroy, vdevice), "destroyed")


@scenario(("unbound", "allocated"), ("unbound", "ENOENT"), iommu="smmuv3")
def unbind_vs_vdevice_alloc(scene: Scene) -> None:
    """Can a device get a vDEVICE that keeps it from being unbound?"""
    user = Guest(scene)
    scene.task("A", user.close_device, "unbound")
    scene.task("B", lambda: str(user.vdevice_alloc() and "allocated"), "allocated")


@scenario(("unbound", "EINVAL"), ("unbound", "ENOENT"), iommu="smmuv3")
def unbind_vs_use(scene: Scene) -> None:
    """Can a call that only looks at a vDEVICE keep its device from being unbound?"""
    user = Guest(scene)
    vdevice = user.vdevice_alloc()
    scene.task("A", user.close_device, "unbound")
    scene.task("B", partial(user.invalidate, vdevice), "used")


@scenario(("unbound", "destroyed"), ("unbound", "ENOENT"), ("unbound", "EBUSY"), iommu="smmuv3")
def unbind_vs_reused_id(scene: Scene) -> None:
    """Can unbinding destroy an object that got the id of the vDEVICE?"""
    user = Guest(scene)
    vdevice = user.vdevice_alloc()
    made: list[int] = []

    def destroy_and_go_on() -> None:
        try:
            user.destroy(vdevice)
        finally:
            made.append(user.ioas_alloc())

    scene.task("A", user.close_device, "unbound")
    scene.task("B", destroy_and_go_on, "destroyed")
    scene.afterwards(lambda: _still_there(user, made))


@scenario(("unbound", "destroyed"), ("unbound", "ENOENT"), ("unbound", "EBUSY"), iommu="smmuv3")
def unbind_vs_late_destroy(scene: Scene) -> None:
    """Can user space, destroying a vDEVICE that is gone already, hit something else?"""
    user = Guest(scene)
    vdevice = user.vdevice_alloc()
    made: list[int] = []

    def go_on_and_destroy() -> None:
        made.append(user.ioas_alloc())
        user.destroy(vdevice)

    scene.task("A", user.close_device, "unbound")
    scene.task("B", go_on_and_destroy, "destroyed")
    scene.afterwards(lambda: _still_there(user, made))


def _still_there(user: Guest, made: list[int]) -> None:
    """Nobody but user space may have destroyed what it made."""
    for ioas in made:
        try:
            user.destroy(ioas)
        except Errno as e:
            raise Splat("id-reuse", f"the IOAS with id {ioas} was destroyed as if it were a vDEVICE: {e}") from None


@scenario(("destroyed", "allocated"), ("destroyed", "EEXIST"), iommu="smmuv3")
def destroy_vs_same_virt_id(scene: Scene) -> None:
    """What becomes of a vDEVICE whose virt_id is another's until just now?"""
    user = Guest(scene, devices=2)
    vdevice = user.vdevice_alloc(0)
    scene.task("A", partial(user.destroy, vdevice), "destroyed")
    scene.task("B", partial(_vdevice, user, 1), "allocated")


@scenario(("allocated", "EEXIST"), ("EEXIST", "allocated"), iommu="smmuv3")
def two_vdevices_for_one_device(scene: Scene) -> None:
    """Can a device be two for its guest?"""
    user = Guest(scene)
    for virt_id, name in enumerate("AB"):
        scene.task(name, partial(_vdevice, user, 0, virt_id), "allocated")


def _vdevice(user: Guest, device: int, virt_id: int = VSID) -> None:
    user.vdevice_alloc(device, virt_id)


@scenario(("EOPNOTSUPP", "attached"), iommu="smmuv3")
def driver_with_a_small_vdevice(scene: Scene) -> None:
    """Does a driver that is wrong about the size of its vDEVICE hurt anybody else?"""
    user = Guest(scene)
    user.object(user.viommu).vdevice = object
    scene.task("A", partial(_vdevice, user, 0), "allocated")
    scene.task("B", user.attach_device, "attached")


@scenario(("allocated", "invalidated"), ("allocated", "EIO"), iommu="smmuv3")
def vdevice_alloc_vs_invalidate(scene: Scene) -> None:
    """From when on does a guest's command find its device?"""
    user = Guest(scene)
    scene.task("A", partial(_vdevice, user, 0), "allocated")
    scene.task("B", partial(user.invalidate, user.viommu), "invalidated")


@scenario(("EOPNOTSUPP", "EIO"), iommu="smmuv3")
def refused_vdevice_vs_invalidate(scene: Scene) -> None:
    """Can a guest's command find a device that its driver refuses?"""
    user = Guest(scene)
    master = pci_host().found[user.bdfs[0]].iommu
    master.streams = (*master.streams, 0xFF)  # behind a bridge, it has a second stream id
    scene.task("A", partial(_vdevice, user, 0), "allocated")
    scene.task("B", partial(user.invalidate, user.viommu), "invalidated")


@scenario(("gone", "invalidated"), ("gone", "EIO"), iommu="smmuv3")
def unplug_vs_invalidate(scene: Scene) -> None:
    """Can a guest's command reach a device that has left its IOMMU?"""
    user = Guest(scene)
    user.vdevice_alloc()

    def leave() -> None:
        user.close_device()
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
    user = Guest(scene)
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

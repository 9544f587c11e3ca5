# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios of s390's PCI: attach and detach against functions that go, fail and recover."""

import struct
from functools import partial

from uvfio.linux.base.pci import pci_host
from uvfio.linux.iommu import iommu, zpci_insn
from uvfio.linux.iommu.private import IommuDomain, IommuGroup
from uvfio.linux.iommu.zpci_insn import ZpciDev, ZpciFunction
from uvfio.linux.kernel.kernfs import KernfsNode, kernfs_find, kernfs_write
from uvfio.linux.kernel.user import UserProcess
from uvfio.linux.s390 import kvm_pci, zpci
from uvfio.runtime.errors import Errno, Splat
from uvfio.scenarios.registry import Scene, scenario
from uvfio.uapi.iommufd import IOMMU_IOAS_ALLOC, IOMMU_IOAS_MAP
from uvfio.uapi.vfio import (
    VFIO_DEVICE_ATTACH_IOMMUFD_PT,
    VFIO_DEVICE_BIND_IOMMUFD,
    VFIO_DEVICE_DETACH_IOMMUFD_PT,
    VFIO_GROUP_SET_CONTAINER,
    VFIO_GROUP_UNSET_CONTAINER,
    VFIO_IOMMU_MAP_DMA,
    VFIO_SET_IOMMU,
    VFIO_TYPE1v2_IOMMU,
)

IOVA = zpci_insn.START_DMA
PAGE = 4096


class _Call(UserProcess):
    def call(self, fd: int, cmd: int, layout: str, *values: int) -> tuple[int, ...]:
        """An ioctl on a struct; what the kernel left there."""
        arg = self.mm.mmap(PAGE)
        self.mm.write(arg, struct.pack("<" + layout, *values))
        self.ioctl(fd, cmd, arg)
        return struct.unpack("<" + layout, self.mm.read(arg, struct.calcsize("<" + layout)))


class _Type1(_Call):
    """A process with a group and a container."""

    def __init__(self, scene: Scene, attached: bool) -> None:
        super().__init__()
        scene.processes.append(self)
        self.container = self.open("/dev/vfio/vfio")
        self.group = self.open("/dev/vfio/0")
        if attached:
            self.set_container()

    def join(self) -> None:
        self.call(self.group, VFIO_GROUP_SET_CONTAINER, "i", self.container)

    def set_container(self) -> None:
        self.join()
        self.ioctl(self.container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)

    def unset_container(self) -> None:
        self.ioctl(self.group, VFIO_GROUP_UNSET_CONTAINER)

    def map(self) -> None:
        self.call(self.container, VFIO_IOMMU_MAP_DMA, "2I3Q", 32, 3, self.mm.mmap(PAGE), IOVA, PAGE)


class _Iommufd(_Call):
    """A process with devices on one IOAS."""

    def __init__(self, scene: Scene, devices: int = 1) -> None:
        super().__init__()
        scene.processes.append(self)
        self.iommufd = self.open("/dev/iommu")
        self.ioas = self.new_ioas()
        self.devices = [self.open(f"/dev/vfio/devices/vfio{n}") for n in range(devices)]
        for device in self.devices:
            self.call(device, VFIO_DEVICE_BIND_IOMMUFD, "2IiI", 16, 0, self.iommufd, 0)

    def new_ioas(self) -> int:
        return self.call(self.iommufd, IOMMU_IOAS_ALLOC, "3I", 12, 0, 0)[2]

    def attach(self, device: int = 0, ioas: int = 0) -> None:
        self.call(self.devices[device], VFIO_DEVICE_ATTACH_IOMMUFD_PT, "3I", 12, 0, ioas or self.ioas)

    def detach(self, device: int = 0) -> None:
        self.call(self.devices[device], VFIO_DEVICE_DETACH_IOMMUFD_PT, "2I", 8, 0)

    def map(self) -> None:
        self.call(self.iommufd, IOMMU_IOAS_MAP, "4I3Q", 40, 7, self.ioas, 0, self.mm.mmap(PAGE), PAGE, IOVA)


def _function(scene: Scene) -> tuple[ZpciDev, ZpciFunction]:
    """A function in the next slot: the kernel's side and the hardware's."""
    zdev = zpci.zpci_get(scene.plug("edu"))
    return zdev, zpci_insn.zpci_function(zdev)


def _pull(zdev: ZpciDev) -> None:
    """Somebody takes the function away, and then the kernel hears of it."""
    zpci_insn.zpci_function(zdev).surprise_removal()
    _gone(zdev)


def _gone(zdev: ZpciDev) -> None:
    """The kernel hears of it."""
    zpci.zpci_event_hard_deconfigured(zdev)
    zpci.zpci_device_reserved(zdev)


def _store(node: KernfsNode, data: bytes) -> None:
    kernfs_write(node, data)


def _show(zdev: ZpciDev) -> None:
    """Read the statistics in debugfs."""
    zpci.pci_perf_show(zdev)


def _agree(zdev: ZpciDev) -> None:
    """What the hardware translates through must be what the kernel believes."""
    function, domain = zpci_insn.zpci_function(zdev), zdev.s390_domain
    table = domain if domain.type != "blocked" else None
    if function.present and not function.error and function.iota is not table:
        raise Splat("wrong-table", f"{zdev!r} is on {domain!r}, but its hardware on {function.iota!r}")


@scenario(("gone", "unset"), ("gone", "EINVAL"), iommu="s390")
def unplug_vs_unset_container(scene: Scene) -> None:
    """Can UNSET_CONTAINER touch a function that is being deconfigured?"""
    zdev, _hardware = _function(scene)
    user = _Type1(scene, attached=True)
    scene.task("A", lambda: scene.unplug(zdev.fid), "gone")
    scene.task("B", user.unset_container, "unset")


@scenario(("gone", "mapped"), ("gone", "ENODEV"), iommu="s390")
def unplug_vs_attach(scene: Scene) -> None:
    """Can a table get a device whose function is being deconfigured?"""
    _function(scene)
    zdev, _hardware = _function(scene)
    user = _Type1(scene, attached=True)  # the first function keeps the container going
    user.group = user.open("/dev/vfio/1")

    def attach() -> None:
        user.join()
        user.map()

    scene.task("A", lambda: scene.unplug(zdev.fid), "gone")
    scene.task("B", attach, "mapped")


@scenario(("gone", "unset"), ("gone", "EINVAL"), iommu="s390")
def pulled_vs_unset_container(scene: Scene) -> None:
    """Does a group find back to its default domain when its function has been pulled?"""
    zdev, _hardware = _function(scene)
    user = _Type1(scene, attached=True)
    scene.task("A", lambda: _pull(zdev), "gone")
    scene.task("B", user.unset_container, "unset")


@scenario(("gone", "set"), ("gone", "ENODEV"), ("gone", "EINVAL"), iommu="s390")
def pulled_vs_set_container(scene: Scene) -> None:
    """Does a function that is pulled while it is attached go away in good order?"""
    zdev, _hardware = _function(scene)
    user = _Type1(scene, attached=False)
    scene.task("A", lambda: _pull(zdev), "gone")
    scene.task("B", user.set_container, "set")


@scenario(("gone", "set"), ("gone", "ENODEV"), ("gone", "EINVAL"), iommu="s390")
def set_container_before_the_news(scene: Scene) -> None:
    """A function was pulled, and nobody knows yet: what becomes of an attach?"""
    zdev, hardware = _function(scene)
    user = _Type1(scene, attached=False)
    hardware.surprise_removal()
    scene.task("A", lambda: _gone(zdev), "gone")
    scene.task("B", user.set_container, "set")


@scenario(("set", "shown"), iommu="s390")
def whims_of_a_function(scene: Scene) -> None:
    """Does it matter at which instruction of an attach a function goes or fails?"""
    zdev, hardware = _function(scene)
    user = _Type1(scene, attached=False)
    hardware.whims = ("gone", "error")

    def attach() -> None:
        user.set_container()
        user.map()
        user.unset_container()

    scene.task("A", attach, "set")
    scene.task("B", partial(_show, zdev), "shown")


@scenario(("failed", "set"), iommu="s390")
def error_vs_attach(scene: Scene) -> None:
    """Can a function be attached while it is in its error state?"""
    _zdev, hardware = _function(scene)
    user = _Type1(scene, attached=False)
    scene.task("A", hardware.enter_error_state, "failed")
    scene.task("B", user.set_container, "set")


@scenario(("mapped", "gone"), iommu="s390")
def map_vs_unplug(scene: Scene) -> None:
    """Can a refresh reach a function after it was freed?"""
    _function(scene)
    zdev, _hardware = _function(scene)
    user = _Iommufd(scene, devices=2)
    for device in range(2):
        user.attach(device)

    def leave() -> None:
        user.close(user.devices[1])
        scene.unplug(zdev.fid)

    scene.task("A", user.map, "mapped")
    scene.task("B", leave, "gone")


@scenario(("mapped", "replaced"), iommu="s390")
def map_vs_replace(scene: Scene) -> None:
    """Does a table forget a function that goes over to another one?"""
    _function(scene)
    user = _Iommufd(scene)
    user.attach()
    other = user.new_ioas()
    scene.task("A", user.map, "mapped")
    scene.task("B", lambda: user.attach(ioas=other), "replaced")


@scenario(("reserved", "removed"), iommu="s390")
def reserved_vs_remove(scene: Scene) -> None:
    """Can the hypervisor take a function back while a device of another is removed?"""
    zdev, _hardware = _function(scene)
    other = scene.plug("edu")
    zpci.disable_slot(zdev)
    node = kernfs_find(f"/sys/devices/pci0000:00/{other}/remove")
    assert node is not None
    scene.task("A", lambda: zpci.zpci_device_reserved(zdev), "reserved")
    scene.task("B", partial(_store, node, b"1"), "removed")
    scene.afterwards(lambda: scene.unplug(other))


@scenario(("decided", "decided"), iommu="s390")
def two_attaches(scene: Scene) -> None:
    """Is every address of a domain in reach of every device that was attached to it?"""
    groups = [_claim(scene, end=zpci_insn.END_DMA >> n) for n in range(2)]
    domain = iommu.iommu_paging_domain_alloc_flags(groups[0].devices[0].dev)

    def attach(group: IommuGroup) -> None:
        try:
            iommu.iommu_attach_group(domain, group)
        except Errno:
            return  # a driver may refuse, but then it must not be in reach

    for name, group in zip("AB", groups, strict=True):
        scene.task(name, partial(attach, group), "decided")

    def undo() -> None:
        attached = [group for group in groups if group.domain is domain]
        _in_reach(domain, attached)
        _refreshed(domain, attached)
        for group in groups:
            iommu.iommu_detach_group(domain, group)
            iommu.iommu_group_release_dma_owner(group)
            iommu.iommu_group_put(group)
        iommu.iommu_domain_free(domain)

    scene.afterwards(undo)


def _claim(scene: Scene, end: int) -> IommuGroup:
    """The group of a new function that can address up to *end*, owned by a user."""
    zdev, _hardware = _function(scene)
    zdev.end_dma = end
    group = iommu.iommu_group_get(pci_host().found[zdev.fid])
    assert group is not None
    iommu.iommu_group_claim_dma_owner(group, scene)
    return group


def _refreshed(domain: IommuDomain, groups: list[IommuGroup]) -> None:
    """A change of the table must reach every device on it, once."""
    functions = [zpci_insn.zpci_function(member.dev.iommu.zdev) for group in groups for member in group.devices]
    for function in functions:
        function.refreshed = 0
    domain.unmap(IOVA, PAGE)
    for function in functions:
        if function.refreshed != 1:
            raise Splat("stale-translation", f"{function!r} was refreshed {function.refreshed} times")


def _in_reach(domain: IommuDomain, groups: list[IommuGroup]) -> None:
    resv = [region for group in groups for region in iommu.iommu_get_group_resv_regions(group)]
    for zdev in (member.dev.iommu.zdev for group in groups for member in group.devices):
        for iova in (domain.aperture_start, zdev.end_dma + 1, domain.aperture_end):
            usable = domain.aperture_start <= iova <= domain.aperture_end
            usable = usable and not any(region.start <= iova <= region.last for region in resv)
            if usable and not zdev.start_dma <= iova <= zdev.end_dma:
                raise Splat("out-of-reach", f"{domain!r} maps {iova:#x}, which {zdev!r} cannot address")


@scenario(("shown", "unset"), iommu="s390")
def counters_vs_detach(scene: Scene) -> None:
    """Can debugfs read the counters of a table that is being freed?"""
    zdev, _hardware = _function(scene)
    user = _Type1(scene, attached=True)
    scene.task("A", partial(_show, zdev), "shown")
    scene.task("B", user.unset_container, "unset")


@scenario(("shown", "identity"), iommu="s390")
def counters_vs_identity(scene: Scene) -> None:
    """What are the counters of a function that no table translates for?"""
    zdev, _hardware = _function(scene)
    node = kernfs_find("/sys/kernel/iommu_groups/0/type")
    assert node is not None
    scene.task("A", partial(_show, zdev), "shown")
    scene.task("B", partial(_store, node, b"identity"), "identity")


@scenario(("gone", "identity"), ("gone", "ENODEV"), ("gone", "EINVAL"), ("gone", "EPERM"), iommu="s390")
def unplug_vs_identity(scene: Scene) -> None:
    """Can a released function come by a domain after it was blocked for good?"""
    zdev, _hardware = _function(scene)
    node = kernfs_find("/sys/kernel/iommu_groups/0/type")
    assert node is not None
    scene.task("A", lambda: scene.unplug(zdev.fid), "gone")
    scene.task("B", partial(_store, node, b"identity"), "identity")


@scenario(("set", "identity"), ("set", "EPERM"), iommu="s390")
def set_container_vs_identity(scene: Scene) -> None:
    """Can the default domain of a group change while VFIO takes the group?"""
    zdev, _hardware = _function(scene)
    user = _Type1(scene, attached=False)
    node = kernfs_find("/sys/kernel/iommu_groups/0/type")
    assert node is not None
    scene.task("A", user.set_container, "set")
    scene.task("B", partial(_store, node, b"identity"), "identity")
    scene.afterwards(lambda: _agree(zdev))


@scenario(("registered", "gone"), ("EIO", "gone"), iommu="s390")
def kvm_vs_pulled(scene: Scene) -> None:
    """Does a function that is pulled while KVM takes it over go away in good order?"""
    zdev, _hardware = _function(scene)
    zdev.kref.get()  # VFIO's, through the device

    def put() -> None:
        kvm_pci.kvm_s390_pci_unregister_kvm(zdev)
        with pci_host().rescan_remove_lock:
            zpci.zpci_zdev_put(zdev)

    scene.task("A", lambda: kvm_pci.kvm_s390_pci_register_kvm(zdev, scene), "registered")
    scene.task("B", lambda: _pull(zdev), "gone")
    scene.afterwards(put)


@scenario(("registered", "mapped"), iommu="s390")
def kvm_vs_map(scene: Scene) -> None:
    """Does a function keep its table when KVM takes it over?"""
    zdev, _hardware = _function(scene)
    user = _Iommufd(scene)
    user.attach()
    scene.task("A", lambda: kvm_pci.kvm_s390_pci_register_kvm(zdev, scene), "registered")
    scene.task("B", user.map, "mapped")
    scene.afterwards(lambda: _agree(zdev))


@scenario(("reset", "attached"), iommu="s390", expected="wrong-table")
def reset_vs_attach(scene: Scene) -> None:
    """Does a function that is reset while it is attached have the table of its domain?"""
    zdev, _hardware = _function(scene)
    user = _Iommufd(scene)
    scene.task("A", lambda: zpci.reset_slot(zdev), "reset")
    scene.task("B", user.attach, "attached")
    scene.afterwards(lambda: _agree(zdev))


@scenario(("reset", "detached"), iommu="s390", expected="use-after-free")
def reset_vs_detach(scene: Scene) -> None:
    """Can a reset bring back the table of a domain that the function has left?"""
    zdev, _hardware = _function(scene)
    user = _Iommufd(scene)
    user.attach()
    scene.task("A", lambda: zpci.reset_slot(zdev), "reset")
    scene.task("B", user.detach, "detached")
    scene.afterwards(lambda: _agree(zdev))

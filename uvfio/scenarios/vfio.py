# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios of VFIO groups and containers: a group file against the devices of its group."""

from errno import ENOENT
from functools import partial

from uvfio.linux.kernel.kernfs import kernfs_find, kernfs_write
from uvfio.linux.kernel.user import UserProcess
from uvfio.machine import Plugged, plug
from uvfio.runtime.errors import Errno, errno_name
from uvfio.scenarios.registry import Scene, scenario
from uvfio.uapi.vfio import (
    VFIO_GROUP_GET_DEVICE_FD,
    VFIO_GROUP_GET_STATUS,
    VFIO_GROUP_SET_CONTAINER,
    VFIO_GROUP_UNSET_CONTAINER,
    VFIO_SET_IOMMU,
    VFIO_TYPE1v2_IOMMU,
)


@scenario(("opened", "EBUSY"), ("EBUSY", "opened"), ("opened", "opened"))
def two_openers(scene: Scene) -> None:
    """Can two processes have one group open at the same time?"""
    scene.plug("edu")
    inside: set[str] = set()

    def use(process: UserProcess, name: str) -> str:
        fd = process.open("/dev/vfio/1")
        inside.add(name)
        arg = process.mm.mmap(8)
        process.mm.write(arg, (8).to_bytes(4, "little"))
        process.ioctl(fd, VFIO_GROUP_GET_STATUS, arg)
        shared = inside != {name}
        inside.discard(name)
        process.close(fd)
        return "shared" if shared else "opened"

    for name in "AB":
        scene.task(name, partial(use, scene.process(), name), "opened")


@scenario(("unplugged", "unset"), ("unplugged", "EINVAL"))
def unplug_vs_unset_container(scene: Scene) -> None:
    """Can UNSET_CONTAINER detach a group while unplug takes its last device away?"""
    bdf = scene.plug("edu")
    user = scene.process()
    _container, group = attach(user)

    scene.task("A", lambda: scene.unplug(bdf), "unplugged")
    scene.task("B", lambda: user.ioctl(group, VFIO_GROUP_UNSET_CONTAINER), "unset")


@scenario(("unplugged", "closed"))
def unplug_vs_close(scene: Scene) -> None:
    """Can closing the group file detach the container once more while unplug does?"""
    bdf = scene.plug("edu")
    user = scene.process()
    _container, group = attach(user)

    scene.task("A", lambda: scene.unplug(bdf), "unplugged")
    scene.task("B", lambda: user.close(group), "closed")


@scenario(("unplugged", "set"), ("unplugged", "ENODEV"))
def unplug_vs_set_container(scene: Scene) -> None:
    """Can SET_CONTAINER attach a group that unplug is cutting off?"""
    bdf = scene.plug("edu")
    user = scene.process()
    container = user.open("/dev/vfio/vfio")
    group = user.open("/dev/vfio/1")

    scene.task("A", lambda: scene.unplug(bdf), "unplugged")
    scene.task("B", lambda: set_container(user, group, container), "set")


@scenario(("unplugged",))
def unplug_while_group_is_open(scene: Scene) -> None:
    """Does unplug wait for somebody who never closes a group file?"""
    bdf = scene.plug("edu")
    user = scene.process("virtnodedevd")
    user.open("/dev/vfio/1")

    scene.task("A", lambda: scene.unplug(bdf), "unplugged")


@scenario(("ENODEV",))
def unplug_and_replug(scene: Scene) -> None:
    """Does a device that comes back while its old group file is open get its group number again?"""
    bdf = scene.plug("edu")
    old, new = scene.process(), scene.process()
    group = old.open("/dev/vfio/1")

    def replug() -> str:
        scene.unplug(bdf)
        scene.plug("edu")
        new.close(new.open("/dev/vfio/1"))  # the same number
        return errno_name(status(old, group))  # and the old file stays dead

    scene.task("A", replug, "")


@scenario(("set",))
def close_and_reopen(scene: Scene) -> None:
    """Does closing a group file give its container back?"""
    scene.plug("edu")
    user = scene.process()

    def twice() -> None:
        for _ in range(2):
            container, group = attach(user)
            user.close(group)
            user.close(container)

    scene.task("A", twice, "set")


@scenario(("bound", "bound"))
def two_probes(scene: Scene) -> None:
    """Do two functions of one group, bound at the same time, get one VFIO group?"""
    first, second = two_functions()

    scene.task("A", lambda: bind(first), "bound")
    scene.task("B", lambda: bind(second), "bound")


@scenario(("unbound", "bound"))
def unbind_vs_bind(scene: Scene) -> None:
    """Does a function that binds while its group is going collide with the old group's node?"""
    first, second = two_functions()
    bind(first)

    scene.task("A", lambda: unbind(first), "unbound")
    scene.task("B", lambda: bind(second), "bound")


@scenario(("EINVAL",), iommu="none")
def bind_without_iommu(scene: Scene) -> None:
    """Is a device without an IOMMU group refused, and nothing else?"""
    bdf, _other = two_functions()

    scene.task("A", lambda: bind(bdf), "bound")


@scenario(("EBUSY",), expected="outcome")
def reopen_with_iommufd(scene: Scene) -> None:
    """Is a group busy while its device is open, with an iommufd as with a container?"""
    scene.plug("edu")
    user = scene.process()

    def reopen() -> None:
        iommufd = user.open("/dev/iommu")
        group = user.open("/dev/vfio/1")
        set_container(user, group, iommufd)
        get_device_fd(user, group)
        user.close(group)
        get_device_fd(user, user.open("/dev/vfio/1"))

    scene.task("A", reopen, "opened")


def attach(user: UserProcess) -> tuple[int, int]:
    """A container of type1 with group 1 in it: the fds of both."""
    container = user.open("/dev/vfio/vfio")
    group = user.open("/dev/vfio/1")
    set_container(user, group, container)
    user.ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)
    return container, group


def set_container(user: UserProcess, group: int, container: int) -> None:
    arg = user.mm.mmap(4096)
    user.mm.write(arg, container.to_bytes(4, "little"))
    user.ioctl(group, VFIO_GROUP_SET_CONTAINER, arg)


def get_device_fd(user: UserProcess, group: int) -> int:
    arg = user.mm.mmap(4096)
    user.mm.write(arg, b"0000:00:01.0\0")
    return user.ioctl(group, VFIO_GROUP_GET_DEVICE_FD, arg)


def status(user: UserProcess, group: int) -> int:
    """The errno of GET_STATUS, 0 if it worked."""
    arg = user.mm.mmap(4096)
    user.mm.write(arg, (8).to_bytes(4, "little"))
    try:
        user.ioctl(group, VFIO_GROUP_GET_STATUS, arg)
    except Errno as e:
        return e.number
    return 0


def two_functions() -> list[str]:
    """Two functions of one slot, in one IOMMU group, with vfio-pci to bind to."""
    functions = plug(*(Plugged("edu", f"0000:00:01.{n}", driver="none") for n in range(2)))
    for bdf in functions:
        write(f"/sys/devices/pci0000:00/{bdf}/driver_override", "vfio-pci")
    return functions


def bind(bdf: str) -> None:
    write("/sys/bus/pci/drivers/vfio-pci/bind", bdf)


def unbind(bdf: str) -> None:
    write("/sys/bus/pci/drivers/vfio-pci/unbind", bdf)


def write(path: str, text: str) -> None:
    """``echo TEXT > PATH``. Errno ENOENT if it is not there."""
    node = kernfs_find(path)
    if node is None:
        raise Errno(ENOENT)
    kernfs_write(node, text.encode())

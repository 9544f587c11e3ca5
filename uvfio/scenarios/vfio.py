# SPDX-License-Identifier: GPL-2.0-only
"""Scenarios of VFIO groups and containers."""

from functools import partial

from uvfio.linux.kernel.user import UserProcess
from uvfio.scenarios.registry import Scene, scenario
from uvfio.uapi.vfio import (
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
    container = user.open("/dev/vfio/vfio")
    group = user.open("/dev/vfio/1")
    arg = user.mm.mmap(4096)
    user.mm.write(arg, container.to_bytes(4, "little"))
    user.ioctl(group, VFIO_GROUP_SET_CONTAINER, arg)
    user.ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU)

    scene.task("A", lambda: scene.unplug(bdf), "unplugged")
    scene.task("B", lambda: user.ioctl(group, VFIO_GROUP_UNSET_CONTAINER), "unset")

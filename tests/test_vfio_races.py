# SPDX-License-Identifier: GPL-2.0-only
"""Pairs of VFIO operations over all their interleavings (what is no scenario of its own)."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import partial

import pytest
from vfio_user import EDU, PG, VfioUser

from uvfio.explore.dpor import Dpor
from uvfio.explore.runner import explore
from uvfio.scenarios.registry import Outcome, Scene, Setup, scenario
from uvfio.uapi.vfio import VFIO_GROUP_SET_CONTAINER, VFIO_IOMMU_MAP_DMA


def vfio_user(scene: Scene) -> VfioUser:
    user = VfioUser(pid=1000 + len(scene.processes))
    scene.processes.append(user)
    return user


def container_call(user: VfioUser, group: int, container: int) -> Callable[[], int]:
    """SET_CONTAINER with its argument in memory beforehand: one call, no more points."""
    at = user.mm.mmap(4)
    user.mm.write(at, struct.pack("<i", container))
    return partial(user.ioctl, group, VFIO_GROUP_SET_CONTAINER, at)


def unplug_vs_group_open(scene: Scene) -> None:
    """Can a group be opened that has just lost its last device?"""
    scene.plug("edu")
    user = vfio_user(scene)
    scene.task("A", lambda: scene.unplug(EDU), "unplugged")
    scene.task("B", lambda: user.open("/dev/vfio/1"), "opened")


def unplug_vs_set_container(scene: Scene) -> None:
    """Can SET_CONTAINER attach a group while its last device goes away?"""
    scene.plug("edu")
    user = vfio_user(scene)
    container, group = user.open("/dev/vfio/vfio"), user.open("/dev/vfio/1")
    scene.task("A", lambda: scene.unplug(EDU), "unplugged")
    scene.task("B", container_call(user, group, container), "set")


def unplug_vs_group_close(scene: Scene) -> None:
    """Do unplug and the release of the group both detach the container?"""
    scene.plug("edu")
    user = vfio_user(scene)
    container, group = user.open("/dev/vfio/vfio"), user.open("/dev/vfio/1")
    user.set_container(group, container)
    user.set_iommu(container)
    scene.task("A", lambda: scene.unplug(EDU), "unplugged")
    scene.task("B", lambda: user.close(group), "closed")


def unplug_vs_get_device(scene: Scene) -> None:
    """Can a device be opened that unplug does not wait for?"""
    scene.plug("edu")
    user = vfio_user(scene)
    container, group = user.open("/dev/vfio/vfio"), user.open("/dev/vfio/1")
    user.set_container(group, container)
    user.set_iommu(container)
    scene.task("A", lambda: scene.unplug(EDU), "unplugged")
    scene.task("B", lambda: user.close(user.get_device(group)), "used")


def unplug_vs_cdev_open(scene: Scene) -> None:
    """Can a cdev be opened that unplug does not wait for?"""
    scene.plug("edu")
    user = vfio_user(scene)
    scene.task("A", lambda: scene.unplug(EDU), "unplugged")
    scene.task("B", lambda: user.close(user.open("/dev/vfio/devices/vfio0")), "used")


def two_binds(scene: Scene) -> None:
    """Can two files of one cdev both be bound?"""
    scene.plug("edu")
    user = vfio_user(scene)
    iommufd = user.open("/dev/iommu")
    fds = [user.open("/dev/vfio/devices/vfio0") for _ in range(2)]
    for name, fd in zip("AB", fds, strict=True):
        scene.task(name, partial(lambda fd: user.bind(fd, iommufd) and None, fd), "bound")


def bind_vs_group_open(scene: Scene) -> None:
    """Can a device be bound through its cdev while its group is open?"""
    scene.plug("edu")
    user = vfio_user(scene)
    iommufd, device = user.open("/dev/iommu"), user.open("/dev/vfio/devices/vfio0")
    scene.task("A", lambda: user.bind(device, iommufd) and None, "bound")
    scene.task("B", lambda: user.open("/dev/vfio/1"), "opened")


def close_vs_unset_container(scene: Scene) -> None:
    """Can the container be unset while a device that uses it is being closed?"""
    scene.plug("edu")
    user = vfio_user(scene)
    _container, group, device = user.open_through_group()
    scene.task("A", lambda: user.close(device), "closed")
    scene.task("B", lambda: user.unset_container(group), "unset")


RACES: dict[Setup, set[Outcome]] = {
    unplug_vs_group_open: {
        ("unplugged", "opened"),
        ("unplugged", "ENODEV"),
        ("unplugged", "ENXIO"),
        ("unplugged", "ENOENT"),
    },
    unplug_vs_set_container: {("unplugged", "set"), ("unplugged", "ENODEV")},
    unplug_vs_group_close: {("unplugged", "closed")},
    unplug_vs_get_device: {("unplugged", "used"), ("unplugged", "ENODEV")},
    unplug_vs_cdev_open: {
        ("unplugged", "used"),
        ("unplugged", "ENODEV"),
        ("unplugged", "ENXIO"),
        ("unplugged", "ENOENT"),
    },
    two_binds: {("bound", "EINVAL"), ("EINVAL", "bound")},
    bind_vs_group_open: {("bound", "EBUSY"), ("EBUSY", "opened")},
    close_vs_unset_container: {("closed", "unset"), ("closed", "EBUSY")},
}


@pytest.mark.parametrize("setup", RACES, ids=lambda setup: setup.__name__)
def test_no_interleaving_breaks_a_rule(setup: Setup) -> None:
    race = scenario(*RACES[setup])(setup)
    result = explore(race.program, Dpor(), budget=20)
    assert result.finding is None, result.finding
    assert result.complete
    assert set(result.outcomes) == race.outcomes


def test_the_race_that_linux_has_is_found() -> None:
    """
    A call of the IOMMU driver runs without the container's lock, in Linux 7.3.4 too
    (there, SET_IOMMU is answered while a long MAP_DMA is under way): the driver's state
    can be freed between the look at it and its use.
    """

    def map_vs_unset_container(scene: Scene) -> None:
        """Can MAP_DMA meet an IOMMU driver that is gone?"""
        scene.plug("edu")
        user = vfio_user(scene)
        container, group = user.open("/dev/vfio/vfio"), user.open("/dev/vfio/1")
        user.set_container(group, container)
        user.set_iommu(container)
        memory, at = user.mm.mmap(PG), user.mm.mmap(PG)
        user.mm.write(at, struct.pack("<IIQQQ", 32, 3, memory, 0x100000, PG))
        scene.task("A", lambda: user.ioctl(container, VFIO_IOMMU_MAP_DMA, at), "mapped")
        scene.task("B", lambda: user.unset_container(group), "unset")

    race = scenario(("mapped", "unset"), ("EINVAL", "unset"))(map_vs_unset_container)
    finding = explore(race.program, Dpor(), budget=20).finding
    assert finding is not None
    assert finding.kind == "use-after-free"

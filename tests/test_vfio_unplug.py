# SPDX-License-Identifier: GPL-2.0-only
"""Devices that go away while somebody has them: what waits, what does not, and what dies."""

from __future__ import annotations

from errno import EINVAL, ENODEV, ENOENT

from vfio_user import EDU, VfioUser, booted, refusal, wait_until

from uvfio.linux.base.devtmpfs import devtmpfs
from uvfio.linux.iommu.private import iommu_core
from uvfio.linux.vfio.private import vfio
from uvfio.machine import Machine, Plugged, plug, unplug
from uvfio.runtime.task import Task, current
from uvfio.uapi.vfio import VFIO_GROUP_FLAGS_VIABLE, VFIO_PCI_REQ_IRQ_INDEX


def unplugging() -> Task:
    """Unplug edu in a task of its own, and let it come as far as it can."""
    return current().runtime.spawn(lambda: unplug(EDU), "unplug")


def assert_nothing_left() -> None:
    statics = vfio()
    assert not statics.group_list
    assert not statics.device_sets
    assert statics.group_ida.empty()
    assert statics.device_ida.empty()
    assert not [path for path in devtmpfs().nodes if path.startswith("/dev/vfio/") and path != "/dev/vfio/vfio"]


def test_unplug_asks_for_an_open_device_and_waits_until_it_is_closed() -> None:
    machine = booted()

    def run() -> None:
        user = VfioUser()
        _container, group, device = user.open_through_group()
        request = user.eventfd()
        user.set_eventfds(device, VFIO_PCI_REQ_IRQ_INDEX, request)
        ctx = user.files.eventfd(request)
        task = unplugging()
        wait_until(lambda: ctx.count > 0)
        assert not task.done
        assert refusal(user.get_device, group) == ENODEV
        user.close(device)
        wait_until(lambda: task.done)
        user.exit()
        assert_nothing_left()

    machine.run(run)


def test_unplug_waits_for_a_cdev_fd_that_was_never_bound() -> None:
    machine = booted()

    def run() -> None:
        user = VfioUser()
        device = user.open("/dev/vfio/devices/vfio0")
        task = unplugging()
        wait_until(lambda: "/dev/vfio/devices/vfio0" not in devtmpfs().nodes)
        assert not task.done
        user.close(device)
        wait_until(lambda: task.done)
        assert_nothing_left()

    machine.run(run)


def test_unplug_waits_for_every_fd_of_the_device() -> None:
    machine = booted()

    def run() -> None:
        user = VfioUser()
        _container, group, first = user.open_through_group()
        second = user.get_device(group)
        copy = user.dup(second)
        task = unplugging()
        wait_until(lambda: "/dev/vfio/devices/vfio0" not in devtmpfs().nodes)
        for fd in (first, second):
            user.close(fd)
            assert not task.done
        user.close(copy)
        wait_until(lambda: task.done)

    machine.run(run)


def test_an_open_group_does_not_hold_up_unplug_and_is_dead_afterwards() -> None:
    machine = booted()

    def run() -> None:
        user = VfioUser()
        container, group = user.open("/dev/vfio/vfio"), user.open("/dev/vfio/1")
        user.set_container(group, container)
        user.set_iommu(container)
        user.map_dma(container, user.mm.mmap(4096), 0x100000, 4096)
        unplug(EDU)
        assert refusal(user.status, group) == ENODEV
        assert refusal(user.set_container, group, container) == ENODEV
        assert refusal(user.unset_container, group) == EINVAL
        assert refusal(user.get_device, group) == ENODEV
        # The group took the type and the mappings of its container along.
        assert refusal(user.map_dma, container, user.mm.mmap(4096), 0x200000, 4096) == EINVAL
        assert user.mm.locked_vm == 0
        assert refusal(user.open, "/dev/vfio/1") == ENOENT
        user.exit()
        assert_nothing_left()

    machine.run(run)


def test_a_replugged_device_gets_its_group_number_back() -> None:
    machine = booted()

    def run() -> None:
        user = VfioUser()
        dead = user.open("/dev/vfio/1")
        unplug(EDU)
        plug(Plugged("edu", EDU))
        group = user.open("/dev/vfio/1")
        assert user.status(group) == VFIO_GROUP_FLAGS_VIABLE
        assert refusal(user.status, dead) == ENODEV
        # The old file still has minor 0, so the new node got the next.
        assert devtmpfs().nodes["/dev/vfio/1"].rdev[1] == 1
        user.exit()

    machine.run(run)


def test_unplug_with_an_iommufd_as_container() -> None:
    machine = booted()

    def run() -> None:
        user = VfioUser()
        iommufd, group = user.open("/dev/iommu"), user.open("/dev/vfio/1")
        user.set_container(group, iommufd)
        device = user.get_device(group)
        task = unplugging()
        wait_until(lambda: "/dev/vfio/devices/vfio0" not in devtmpfs().nodes)
        user.close(device)
        wait_until(lambda: task.done)
        assert refusal(user.status, group) == ENODEV
        user.exit()
        assert_nothing_left()

    machine.run(run)


def test_unplugging_everything_leaves_no_iommu_group() -> None:
    machine = Machine()
    machine.boot([Plugged("edu"), Plugged("pci-testdev"), Plugged("e1000e")])

    def groups() -> int:
        return len(iommu_core().group_ida.ids.entries)

    before = machine.run(groups)
    for slot in (1, 2, 3):
        machine.unplug(f"0000:00:0{slot}.0")
    assert machine.run(groups) == before - 3
    machine.run(assert_nothing_left)


def test_a_group_of_two_lives_until_its_second_function_goes() -> None:
    first, second = "0000:00:05.0", "0000:00:05.1"
    machine = booted("pci-testdev")

    def run() -> None:
        plug(Plugged("edu", first), Plugged("edu", second))
        user = VfioUser()
        _container, group, _device = user.open_through_group(2, first)
        other = user.get_device(group, second)
        user.close(other)
        unplug(second)
        assert refusal(user.get_device, group, second) == ENODEV
        user.get_device(group, first)
        assert user.status(group) & VFIO_GROUP_FLAGS_VIABLE
        user.exit()
        unplug(first)
        assert "/dev/vfio/2" not in devtmpfs().nodes

    machine.run(run)


def test_a_sibling_without_a_driver_leaves_the_group_viable() -> None:
    first, second = "0000:00:05.0", "0000:00:05.1"
    machine = booted("pci-testdev")

    def run() -> None:
        plug(Plugged("edu", first), Plugged("edu", second, driver="none"))
        user = VfioUser()
        user.open_through_group(2, first)
        unplug(second)
        user.exit()

    machine.run(run)

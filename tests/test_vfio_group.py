# SPDX-License-Identifier: GPL-2.0-only
"""Groups, cdevs and who may have a device: what the life of the files means."""

from __future__ import annotations

import struct
from collections.abc import Callable
from errno import EBADFD, EBUSY, EINVAL, ENOTTY, EPERM

import pytest
from vfio_user import EDU, PG, VfioUser, booted, refusal

from uvfio.linux.base.pci import DmaFault, pci_host, pci_set_master
from uvfio.linux.kernel.kernfs import kernfs_find, kernfs_write
from uvfio.linux.vfio.main import vfio_info_cap_chain
from uvfio.uapi import vfio as uapi
from uvfio.uapi.iommufd import IOMMU_DESTROY, IOMMU_IOAS_MAP
from uvfio.uapi.vfio import VFIO_GROUP_FLAGS_CONTAINER_SET, VFIO_GROUP_FLAGS_VIABLE

ALL = VFIO_GROUP_FLAGS_VIABLE | VFIO_GROUP_FLAGS_CONTAINER_SET


def as_user(test: Callable[[VfioUser], None], *models: str) -> None:
    def run() -> None:
        user = VfioUser()
        test(user)
        user.exit()

    booted(*models).run(run)


def write_sysfs(path: str, text: str) -> None:
    node = kernfs_find(path)
    assert node is not None
    kernfs_write(node, text.encode())


def test_closing_the_group_gives_the_container_back() -> None:
    def test(user: VfioUser) -> None:
        container, group = user.open("/dev/vfio/vfio"), user.open("/dev/vfio/1")
        user.set_container(group, container)
        assert user.status(group) == ALL
        user.close(group)
        group = user.open("/dev/vfio/1")
        assert user.status(group) == VFIO_GROUP_FLAGS_VIABLE
        user.set_container(group, container)

    as_user(test)


def test_an_open_device_keeps_its_group_busy() -> None:
    def test(user: VfioUser) -> None:
        _container, group, device = user.open_through_group()
        user.close(group)
        assert refusal(user.open, "/dev/vfio/1") == EBUSY
        user.close(device)
        user.open("/dev/vfio/1")

    as_user(test)


def test_the_container_fd_may_be_closed_first() -> None:
    def test(user: VfioUser) -> None:
        container, group, device = user.open_through_group()
        memory = user.mm.mmap(PG)
        user.map_dma(container, memory, 0x100000, PG)
        user.close(container)
        pdev = pci_host().found[EDU]
        pci_set_master(pdev)
        pdev.dma_write(0x100000, b"still there")
        assert user.mm.read(memory, 5) == b"still"
        user.close(device)
        user.close(group)
        assert user.mm.locked_vm == 0

    as_user(test)


def test_group_and_cdev_exclude_each_other() -> None:
    def test(user: VfioUser) -> None:
        iommufd, device = user.open_through_cdev()
        assert refusal(user.open, "/dev/vfio/1") == EBUSY
        user.close(device)
        group = user.open("/dev/vfio/1")
        again = user.open("/dev/vfio/devices/vfio0")
        assert refusal(user.bind, again, iommufd) == EBUSY
        user.close(group)
        user.bind(again, iommufd)

    as_user(test)


def test_an_unbound_cdev_knows_only_bind() -> None:
    def test(user: VfioUser) -> None:
        device = user.open("/dev/vfio/devices/vfio0")
        assert refusal(user.call, device, uapi.VFIO_DEVICE_GET_INFO, struct.pack("<6I", 24, 0, 0, 0, 0, 0)) == EINVAL
        assert refusal(user.ioctl, device, 0x3BFF) == EINVAL
        assert refusal(user.bind, device, device) == EBADFD
        user.bind(device, user.open("/dev/iommu"))
        assert refusal(user.ioctl, device, 0x3BFF) == ENOTTY

    as_user(test)


def test_dma_through_a_cdev_and_an_ioas() -> None:
    def test(user: VfioUser) -> None:
        iommufd, device = user.open_through_cdev()
        ioas = user.ioas_alloc(iommufd)
        memory = user.mm.mmap(PG)
        user.call(iommufd, IOMMU_IOAS_MAP, struct.pack("<4I3Q", 40, 7, ioas, 0, memory, PG, 0x100000))
        pdev = pci_host().found[EDU]
        pci_set_master(pdev)
        with pytest.raises(DmaFault):
            pdev.dma_write(0x100000, b"too early")
        hwpt = user.attach(device, ioas)
        assert user.attach(device, ioas) == hwpt
        pdev.dma_write(0x100000, b"through")
        assert user.mm.read(memory, 7) == b"through"
        user.close(device)
        with pytest.raises(DmaFault):
            pdev.dma_write(0x100000, b"too late")
        assert refusal(user.call, iommufd, IOMMU_DESTROY, struct.pack("<II", 8, hwpt)) != 0, "it went with its device"
        user.call(iommufd, IOMMU_DESTROY, struct.pack("<II", 8, ioas))

    as_user(test)


def test_a_device_that_is_passed_on_is_not_for_another_iommufd() -> None:
    def test(user: VfioUser) -> None:
        _iommufd, device = user.open_through_cdev()
        other = user.open("/dev/vfio/devices/vfio0")
        assert refusal(user.bind, other, user.open("/dev/iommu")) == EINVAL
        user.close(device)
        user.bind(other, user.open("/dev/iommu"))

    as_user(test)


def test_a_group_in_two_containers_or_with_two_owners() -> None:
    def test(user: VfioUser) -> None:
        iommufd, group = user.open("/dev/iommu"), user.open("/dev/vfio/1")
        user.set_container(group, iommufd)
        device = user.get_device(group)
        user.unset_container(group)
        # The device is the iommufd's until it is closed, whatever the group says.
        container = user.open("/dev/vfio/vfio")
        assert refusal(user.set_container, group, container) == EPERM
        user.close(device)
        user.set_container(group, container)
        assert refusal(user.set_container, group, iommufd) == EINVAL

    as_user(test)


def test_a_device_of_another_group_is_not_found() -> None:
    def test(user: VfioUser) -> None:
        _container, group, _device = user.open_through_group()
        assert refusal(user.get_device, group, "0000:00:02.0") != 0
        user.get_device(group, EDU)

    as_user(test, "edu", "edu")


def test_unbinding_makes_the_nodes_go_and_binding_brings_them_back() -> None:
    def test(user: VfioUser) -> None:
        driver = "/sys/bus/pci/drivers/vfio-pci"
        write_sysfs(f"{driver}/unbind", EDU)
        assert refusal(user.open, "/dev/vfio/1") != 0
        assert refusal(user.open, "/dev/vfio/devices/vfio0") != 0
        write_sysfs(f"{driver}/bind", EDU)
        user.open_through_group()

    as_user(test)


def test_a_capability_chain_is_padded_and_linked_from_the_start() -> None:
    chain = vfio_info_cap_chain([(2, 1, bytes(3)), (3, 1, b"")], 24)
    assert chain == struct.pack("<HHI", 2, 1, 40) + bytes(8) + struct.pack("<HHI", 3, 1, 0)

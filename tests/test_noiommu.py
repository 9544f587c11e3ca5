# SPDX-License-Identifier: GPL-2.0-only
"""Devices without an IOMMU: who may have them, what works, and DMA by physical address."""

from __future__ import annotations

import struct
from collections.abc import Callable
from errno import EBUSY, EINVAL, ENODEV, ENOENT, ENOTTY, EOPNOTSUPP, EPERM

import pytest
from vfio_user import EDU, PG, VfioUser, refusal

from uvfio.linux.base.pci import pci_host
from uvfio.linux.base.pci_dev import DmaFault
from uvfio.linux.kernel.kernfs import kernfs_find, kernfs_read, kernfs_write
from uvfio.machine import Machine, Plugged, plug
from uvfio.runtime.errors import Errno
from uvfio.uapi import iommufd as iommufd_uapi
from uvfio.uapi import vfio as uapi
from uvfio.uapi.cstruct import CStruct

MODE = "/sys/module/vfio/parameters/enable_unsafe_noiommu_mode"
GROUP, CDEV = "/dev/vfio/noiommu-0", "/dev/vfio/devices/noiommu-vfio0"
EXTENSIONS = range(12)


def read(path: str) -> str:
    node = kernfs_find(path)
    assert node is not None, path
    return kernfs_read(node).decode()


def write(path: str, text: str) -> int:
    node = kernfs_find(path)
    assert node is not None, path
    return refusal(kernfs_write, node, text.encode())


class User(VfioUser):
    """Bound to the first device through its cdev."""

    def __init__(self, bound: bool = True) -> None:
        super().__init__()
        self.iommufd = self.open("/dev/iommu")
        if bound:
            self.cdev = self.open(CDEV)
            self.dev = self.bind(self.cdev, self.iommufd)
            self.ioas = self.ioas_alloc(self.iommufd)

    def ask(self, request: int, struct: CStruct) -> CStruct:
        setattr(struct, "size", struct.size_of)
        return type(struct).unpack(self.call(self.iommufd, request, struct.pack()))

    def hwpt(self, flags: int = 0, **more: int) -> int:
        cmd = iommufd_uapi.iommu_hwpt_alloc(dev_id=self.dev, pt_id=self.ioas, flags=flags, **more)
        return int(getattr(self.ask(iommufd_uapi.IOMMU_HWPT_ALLOC, cmd), "out_hwpt_id"))

    def map(self, iova: int, length: int = 4 * PG, page_size: int = PG) -> int:
        at = self.mm.mmap(length, page_size=page_size)
        cmd = iommufd_uapi.iommu_ioas_map(flags=7, ioas_id=self.ioas, user_va=at, length=length, iova=iova)
        self.ask(iommufd_uapi.IOMMU_IOAS_MAP, cmd)
        return at

    def get_pa(self, iova: int, length: int) -> tuple[int, int]:
        """(physical address, length)."""
        cmd = iommufd_uapi.iommu_ioas_noiommu_get_pa(ioas_id=self.ioas, iova=iova, length=length)
        answer = self.ask(iommufd_uapi.IOMMU_IOAS_NOIOMMU_GET_PA, cmd)
        return getattr(answer, "out_phys"), getattr(answer, "length")

    def extensions(self, fd: int) -> list[int]:
        return [number for number in EXTENSIONS if self.ioctl(fd, uapi.VFIO_CHECK_EXTENSION, number)]


def without_iommu(test: Callable[[], None]) -> Callable[[], None]:
    """Decorator: the test runs in a task of a machine with an edu, nothing between it and memory."""

    def run() -> None:
        machine = Machine(iommu="none,unsafe-noiommu-mode=on")
        machine.boot([Plugged("edu")])
        machine.run(test)

    run.__name__, run.__doc__ = test.__name__, test.__doc__
    return run


def test_the_mode_must_be_on_when_the_driver_binds() -> None:
    machine = Machine(iommu="none")
    machine.boot([Plugged("edu", driver="none")])

    def body() -> None:
        bind = "/sys/bus/pci/drivers/vfio-pci/bind"
        assert read(MODE) == "N\n"
        assert write(f"/sys/devices/pci0000:00/{EDU}/driver_override", "vfio-pci") == 0
        assert write(bind, EDU) == EINVAL
        assert write(MODE, "1") == 0
        assert read(MODE) == "Y\n"
        assert write(bind, EDU) == 0
        group = "/sys/kernel/iommu_groups/0"
        assert [read(f"{group}/{name}") for name in ("name", "type", "reserved_regions")] == [
            "vfio-noiommu\n",
            "unknown\n",
            "",
        ]
        assert write(MODE, "N") == 0
        user = User()
        assert user.dev == 1, "what is bound works on"

    machine.run(body)


@without_iommu
def test_not_for_everybody() -> None:
    user = User()
    user.map(0x100000)
    user.attach(user.cdev, user.ioas)
    user.capabilities = set()
    assert refusal(user.open, GROUP) == EPERM
    assert refusal(user.open, CDEV) == EPERM
    assert refusal(user.get_pa, 0x100000, PG) == EPERM


@without_iommu
def test_page_tables() -> None:
    user = User()
    refused = {flags: refusal(user.hwpt, flags) for flags in range(16)}
    assert {flags for flags, error in refused.items() if not error} == {0}
    assert refused[4] == ENOENT  # there is no fault queue 0
    assert {error for flags, error in refused.items() if flags not in (0, 4)} == {EOPNOTSUPP}
    data = user.mm.mmap(32)
    assert refusal(lambda: user.hwpt(0, data_type=1, data_len=24, data_uptr=data)) == EOPNOTSUPP
    info = iommufd_uapi.iommu_hw_info(dev_id=user.dev)
    assert refusal(user.ask, iommufd_uapi.IOMMU_GET_HW_INFO, info) == EOPNOTSUPP
    viommu = iommufd_uapi.iommu_viommu_alloc(type=1, dev_id=user.dev, hwpt_id=user.hwpt())
    assert refusal(user.ask, iommufd_uapi.IOMMU_VIOMMU_ALLOC, viommu) == EOPNOTSUPP
    at = user.mm.mmap(PG)
    ranges = iommufd_uapi.iommu_ioas_iova_ranges(ioas_id=user.ioas, num_iovas=4, allowed_iovas=at)
    answer = user.ask(iommufd_uapi.IOMMU_IOAS_IOVA_RANGES, ranges)
    assert (getattr(answer, "num_iovas"), getattr(answer, "out_iova_alignment")) == (1, PG)
    assert struct.unpack("<2Q", user.mm.read(at, 16)) == (0, 2**64 - 1)


@without_iommu
def test_attach() -> None:
    user = User()
    auto = user.attach(user.cdev, user.ioas)
    assert user.attach(user.cdev, user.ioas) == auto
    hwpt = user.hwpt()
    assert user.attach(user.cdev, hwpt) == hwpt
    for pt_id in (user.ioas, hwpt):
        with_pasid = struct.pack("<4I", 16, 1, pt_id, 1)
        assert refusal(user.call, user.cdev, uapi.VFIO_DEVICE_ATTACH_IOMMUFD_PT, with_pasid) == EINVAL
    plug(Plugged("edu"))
    other = user.open("/dev/vfio/devices/noiommu-vfio1")
    user.bind(other, user.iommufd)
    assert user.attach(other, user.ioas) == user.attach(user.cdev, user.ioas), "they share what the IOAS makes"
    assert refusal(user.bind, user.open(CDEV), user.open("/dev/iommu")) == EINVAL
    assert refusal(user.open, GROUP) == EBUSY


@without_iommu
def test_dma_by_physical_address() -> None:
    user = User()
    memory = user.map(0x100000)
    assert refusal(user.get_pa, 0x100000, PG) == EOPNOTSUPP  # in no domain yet
    user.attach(user.cdev, user.ioas)
    phys, length = user.get_pa(0x100010, 4 * PG)
    assert (phys & (PG - 1), length) == (0x10, PG - 0x10)
    user.mm.write(memory + 0x10, b"memory")
    pdev = pci_host().found[EDU]
    pdev.config.write(4, 2, 6)
    assert pdev.dma_read(phys, 6) == b"memory"
    pdev.dma_write(phys, b"device")
    assert user.mm.read(memory + 0x10, 6) == b"device"
    with pytest.raises(DmaFault):
        pdev.dma_read(0x100000, 1)  # nothing translates
    with pytest.raises(DmaFault):
        pdev.dma_read(phys - 0x10 + PG - 1, 2)  # the next page is elsewhere
    unmap = iommufd_uapi.iommu_ioas_unmap(ioas_id=user.ioas, iova=0x100000, length=4 * PG)
    user.ask(iommufd_uapi.IOMMU_IOAS_UNMAP, unmap)
    assert refusal(user.get_pa, 0x100000, PG) == ENOENT
    with pytest.raises(DmaFault):
        pdev.dma_read(phys, 1)


@without_iommu
def test_a_huge_page_is_one_piece() -> None:
    user = User()
    huge = 2 << 20
    memory = user.map(0, huge, page_size=huge)
    user.attach(user.cdev, user.ioas)
    phys, length = user.get_pa(PG, 2 * huge)
    assert (phys % huge, length) == (PG, huge - PG)
    user.mm.write(memory + PG - 4, b"across a page")
    pdev = pci_host().found[EDU]
    pdev.config.write(4, 2, 6)
    assert pdev.dma_read(phys - 4, 13) == b"across a page"


@without_iommu
def test_container() -> None:
    user = User(bound=False)
    container, group = user.open("/dev/vfio/vfio"), user.open(GROUP)
    assert user.extensions(container) == [1, 3, 8, 9]
    assert user.status(group) == 1
    user.set_container(group, container)
    assert (user.extensions(container), user.status(group)) == ([8], 3)
    assert refusal(user.get_device, group) == EINVAL
    assert [refusal(user.set_iommu, container, kind) for kind in (1, 3, 8)] == [ENODEV, ENODEV, 0]
    device = user.get_device(group)
    assert refusal(user.map_dma, container, 0, 0, PG) == ENOTTY
    assert refusal(user.unset_container, group) == EBUSY
    user.close(device)
    user.unset_container(group)
    write(MODE, "N")
    user.set_container(group, container)
    assert user.extensions(container) == []
    assert refusal(user.set_iommu, container, 8) == ENODEV


@without_iommu
def test_group_on_an_iommufd() -> None:
    user = User(bound=False)
    group = user.open(GROUP)
    user.set_container(group, user.iommufd)
    assert [refusal(user.ioctl, user.iommufd, uapi.VFIO_SET_IOMMU, kind) for kind in (1, 3, 8, 9)] == [
        EINVAL,
        EINVAL,
        0,
        EINVAL,
    ]
    with pytest.raises(Errno) as e:
        user.ioctl(user.iommufd, uapi.VFIO_CHECK_EXTENSION, uapi.VFIO_DMA_CC_IOMMU)
    assert e.value.number == ENODEV
    device = user.get_device(group)
    ioas = user.ioas_alloc(user.iommufd)
    assert ioas == 1, "the iommufd does not know the device"
    user.ask(iommufd_uapi.IOMMU_VFIO_IOAS, iommufd_uapi.iommu_vfio_ioas(ioas_id=ioas, op=1))
    assert user.extensions(user.iommufd) == [4, 8]
    second = user.get_device(group)
    user.close(second)
    user.close(device)
    assert refusal(user.get_device, group) == EPERM
    user.unset_container(group)
    assert refusal(user.set_container, group, user.iommufd) == EINVAL

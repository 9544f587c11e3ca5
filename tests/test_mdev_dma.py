# SPDX-License-Identifier: GPL-2.0-only
"""Devices whose driver does the DMA: pages pinned and accessed through a container and an iommufd."""

from __future__ import annotations

import struct
from collections.abc import Callable
from errno import E2BIG, EBUSY, EFAULT, EINVAL, ENOENT, ENOMEM, EOVERFLOW, EPERM
from typing import Any

import pytest
from vfio_user import PG, VfioUser, booted, refusal

from uvfio.devices.mtty import MttyOps
from uvfio.linux.kernel.kernfs import kernfs_find, kernfs_write
from uvfio.linux.mdev.private import mdev
from uvfio.linux.vfio import main
from uvfio.linux.vfio.private import VfioDevice
from uvfio.uapi import iommufd as iommufd_uapi
from uvfio.uapi import vfio as uapi

U = "83b8f4f2-509f-382f-3c1e-e6bfe0fa{:04}"
IOVA = 0x10000
READ, WRITE = 1, 2
IOMMU_WRITE = 2


class Pinning(MttyOps):
    """An mtty whose driver pins what it is told to, and lets go of it when it must."""

    pins_pages = True

    def __init__(self) -> None:
        self.pinned: list[tuple[int, int]] = []
        self.unmapped: list[tuple[int, int]] = []
        self.stubborn = False

    def dma_unmap(self, device: VfioDevice, iova: int, length: int) -> None:
        self.unmapped.append((iova, length))
        for at, npage in list(self.pinned):
            if not self.stubborn and at < iova + length and iova < at + npage * PG:
                main.vfio_unpin_pages(device, at, npage)
                self.pinned.remove((at, npage))

    def pin(self, device: VfioDevice, iova: int, npage: int, prot: int = READ | WRITE) -> list[Any]:
        pages = main.vfio_pin_pages(device, iova, npage, prot)
        self.pinned.append((iova, npage))
        return pages


class Rig:
    """A user with memory, and an mtty that is open *how* (container or iommufd)."""

    def __init__(self, how: str) -> None:
        self.how = how
        self.user = VfioUser()
        create = kernfs_find("/sys/devices/virtual/mtty/mtty/mdev_supported_types/mtty-1/create")
        assert create is not None
        kernfs_write(create, U.format(1).encode())
        self.device: VfioDevice = mdev().list[0].driver_data.vdev
        self.ops = Pinning()
        self.device.ops = self.ops
        self.memory = self.user.mm.mmap(4 * PG)
        if how == "container":
            self.fd, self.group, self.file = self.user.open_through_group(2, U.format(1))
        else:
            self.fd, self.file = self.user.open_through_cdev(1)
            self.ioas = self.user.ioas_alloc(self.fd)
            self.user.attach(self.file, self.ioas)

    def map(self, iova: int = IOVA, length: int = 4 * PG, writable: bool = True, at: int | None = None) -> None:
        at = self.memory if at is None else at
        if self.how == "container":
            self.user.map_dma(self.fd, at, iova, length, READ | WRITE if writable else READ)
            return
        flags = 1 | 4 | (2 if writable else 0)
        data = struct.pack("<4I3Q", 40, flags, self.ioas, 0, at, length, iova)
        self.user.call(self.fd, iommufd_uapi.IOMMU_IOAS_MAP, data)

    def unmap(self, iova: int = IOVA, length: int = 4 * PG) -> int:
        if self.how == "container":
            return self.user.unmap_dma(self.fd, iova, length)
        data = struct.pack("<2I2Q", 24, self.ioas, iova, length)
        return struct.unpack("<2I2Q", self.user.call(self.fd, iommufd_uapi.IOMMU_IOAS_UNMAP, data))[3]


@pytest.fixture(params=["container", "iommufd"])
def rigged(request) -> Callable[[Callable[[Rig], None]], None]:
    machine = booted("edu", "mtty")
    return lambda body: machine.run(lambda: body(Rig(request.param)))


def page(view: Any) -> bytes:
    data = bytearray(PG)
    view.read_into(0, memoryview(data))
    return bytes(data)


def test_pinned_pages_are_the_users_memory(rigged):
    def body(rig: Rig) -> None:
        rig.map()
        rig.user.mm.write(rig.memory + PG, b"second page")
        pages = rig.ops.pin(rig.device, IOVA, 2)
        assert page(pages[1]).startswith(b"second page")
        pages[0].write_from(8, b"written")
        assert rig.user.mm.read(rig.memory + 8, 7) == b"written"
        main.vfio_unpin_pages(rig.device, IOVA, 2)
        rig.ops.pinned.clear()
        assert rig.unmap() == 4 * PG

    rigged(body)


def test_an_unmap_has_the_driver_unpin(rigged):
    def body(rig: Rig) -> None:
        rig.map()
        rig.ops.pin(rig.device, IOVA + PG, 1)
        rig.ops.pin(rig.device, IOVA, 4)
        assert rig.unmap() == 4 * PG
        assert rig.ops.pinned == []
        assert rig.ops.unmapped == [(IOVA, 4 * PG)]
        assert rig.unmap() == 0 if rig.how == "container" else refusal(rig.unmap) == ENOENT

    rigged(body)


def test_what_cannot_be_pinned(rigged):
    def body(rig: Rig) -> None:
        absent = EINVAL if rig.how == "container" else ENOENT
        assert refusal(rig.ops.pin, rig.device, IOVA, 1) == absent
        rig.map(length=PG, writable=False)
        rig.map(IOVA + 2 * PG, PG, at=8 * PG)
        assert refusal(rig.ops.pin, rig.device, IOVA, 0) == EINVAL
        assert refusal(rig.ops.pin, rig.device, IOVA, 1, READ) == 0
        assert refusal(rig.ops.pin, rig.device, IOVA, 1, READ | WRITE) == EPERM
        assert refusal(rig.ops.pin, rig.device, IOVA, 2, READ) == absent
        assert refusal(rig.ops.pin, rig.device, IOVA + 2 * PG, 1) == EFAULT
        if rig.how == "iommufd":
            assert refusal(rig.ops.pin, rig.device, 2**64 - PG, 2) == EOVERFLOW
        else:
            assert refusal(rig.ops.pin, rig.device, IOVA, 513) == E2BIG
        rig.ops.pins_pages = False
        assert refusal(rig.ops.pin, rig.device, IOVA, 1, READ) == EINVAL

    rigged(body)


def test_pins_are_counted_once_and_given_back(rigged):
    def body(rig: Rig) -> None:
        rig.map()
        rig.user.mm.limit = 3 if rig.how == "container" else 4
        rig.ops.pin(rig.device, IOVA, 3)
        rig.ops.pin(rig.device, IOVA, 2)
        if rig.how == "container":
            assert rig.user.mm.locked_vm == 3
            assert refusal(rig.ops.pin, rig.device, IOVA + 3 * PG, 1) == ENOMEM
        rig.unmap()
        assert rig.user.mm.locked_vm == 0

    rigged(body)


def test_dma_rw(rigged):
    def body(rig: Rig) -> None:
        rig.map(length=2 * PG)
        rig.map(IOVA + 2 * PG, PG, writable=False, at=rig.memory + 3 * PG)
        rig.user.mm.write(rig.memory, bytes(range(256)) * 64)
        data = bytes(range(256)) * 16
        assert main.vfio_dma_rw(rig.device, IOVA + PG + 5, 2 * PG - 5) == data[5:] + data
        main.vfio_dma_rw(rig.device, IOVA + PG - 2, 4, b"over")
        assert rig.user.mm.read(rig.memory + PG - 2, 4) == b"over"
        assert refusal(main.vfio_dma_rw, rig.device, IOVA + 2 * PG, 4, b"nope") == EPERM
        assert refusal(main.vfio_dma_rw, rig.device, IOVA + 3 * PG - 2, 4) in (EINVAL, ENOENT)
        assert refusal(main.vfio_dma_rw, rig.device, IOVA, 0) == EINVAL

    rigged(body)


def test_a_closed_device_pins_nothing(rigged):
    def body(rig: Rig) -> None:
        rig.map()
        rig.user.close(rig.file)
        if rig.how == "iommufd":
            assert refusal(rig.ops.pin, rig.device, IOVA, 1) == EINVAL
        assert refusal(rig.user.close, rig.fd) == 0

    rigged(body)


def test_a_container_pins_on_demand_until_a_real_group_joins():
    def body() -> None:
        rig = Rig("container")
        user = rig.user
        rig.map()
        user.map_dma(rig.fd, user.mm.mmap(PG), 0x100000, PG)
        assert user.mm.locked_vm == 0
        rig.ops.pin(rig.device, IOVA, 1)
        assert user.mm.locked_vm == 1
        group = user.open("/dev/vfio/1")
        user.set_container(group, rig.fd)
        assert user.mm.locked_vm == 5
        user.unset_container(group)
        assert user.mm.locked_vm == 1
        assert rig.unmap() == 4 * PG
        assert user.mm.locked_vm == 0

    booted("edu", "mtty").run(body)


def test_absent_memory_is_mapped_and_missed_later():
    def body() -> None:
        rig = Rig("container")
        rig.map(at=8 * PG)
        group = rig.user.open("/dev/vfio/1")
        assert refusal(rig.user.set_container, group, rig.fd) == EFAULT
        assert refusal(rig.ops.pin, rig.device, IOVA, 1) == EFAULT

    booted("edu", "mtty").run(body)


def test_only_pinned_and_written_pages_are_dirty():
    def body() -> None:
        rig = Rig("container")
        user = rig.user
        rig.map()
        start = struct.pack("<II", 8, uapi.VFIO_IOMMU_DIRTY_PAGES_FLAG_START)
        user.call(rig.fd, uapi.VFIO_IOMMU_DIRTY_PAGES, start)
        rig.ops.pin(rig.device, IOVA + PG, 1)
        main.vfio_dma_rw(rig.device, IOVA + 3 * PG + 9, 1, b"x")

        def bitmap() -> int:
            data = user.mm.mmap(8)
            ask = struct.pack("<IIQQQQQ", 48, uapi.VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP, IOVA, 4 * PG, PG, 8, data)
            user.call(rig.fd, uapi.VFIO_IOMMU_DIRTY_PAGES, ask)
            return int.from_bytes(user.mm.read(data, 8), "little")

        assert bitmap() == 0b1010
        assert bitmap() == 0b0010  # a driver may write to what it has pinned

    booted("edu", "mtty").run(body)


def test_a_driver_that_does_not_unpin_is_a_bug():
    machine = booted("edu", "mtty")

    def body() -> None:
        rig = Rig("container")
        rig.map()
        rig.ops.pin(rig.device, IOVA, 1)
        rig.ops.stubborn = True
        rig.unmap()

    with pytest.raises(Exception, match="does not unpin"):
        machine.run(body)


def test_the_ioas_can_be_changed_under_pins():
    def body() -> None:
        rig = Rig("iommufd")
        rig.map()
        rig.ops.pin(rig.device, IOVA, 1)
        other = rig.user.ioas_alloc(rig.fd)
        assert rig.user.attach(rig.file, other) == other
        assert rig.ops.unmapped == [(0, 2**64 - 1)]
        assert refusal(rig.ops.pin, rig.device, IOVA, 1) == ENOENT
        destroy = struct.pack("<II", 8, rig.ioas)
        rig.user.call(rig.fd, iommufd_uapi.IOMMU_DESTROY, destroy)
        # The one in use cannot be destroyed; nor can the access, whose id is 1.
        for object_id in (other, 1):
            call = (rig.user.call, rig.fd, iommufd_uapi.IOMMU_DESTROY, struct.pack("<II", 8, object_id))
            assert refusal(*call) == EBUSY

    booted("edu", "mtty").run(body)

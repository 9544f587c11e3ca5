# SPDX-License-Identifier: GPL-2.0-only
"""A user program of VFIO, as the tests write it: system calls of a UserProcess, structs packed."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, TypeVar

from uvfio.linux.kernel.user import UserProcess
from uvfio.machine import Machine, Plugged
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import current
from uvfio.uapi import vfio as uapi
from uvfio.uapi.iommufd import IOMMU_IOAS_ALLOC

T = TypeVar("T")

EDU = "0000:00:01.0"
PG = 4096


def booted(*models: str) -> Machine:
    machine = Machine()
    machine.boot([Plugged(model) for model in models or ("edu",)])
    return machine


def refusal(call: Callable[..., Any], *args: Any) -> int:
    """The errno that *call* raises, 0 if it does not."""
    try:
        call(*args)
    except Errno as e:
        return e.number
    return 0


def wait_until(condition: Callable[[], bool]) -> None:
    """Let the other tasks run until *condition* holds."""
    current().runtime.point("test", None, ready=condition)


class VfioUser(UserProcess):
    """A process with the calls of VFIO by name."""

    def call(self, fd: int, request: int, data: bytes) -> bytes:
        """An ioctl whose argument is a struct; what the kernel left there."""
        at = self.mm.mmap(max(len(data), 1))
        self.mm.write(at, data)
        try:
            self.ioctl(fd, request, at)
            return self.mm.read(at, len(data))
        finally:
            self.mm.munmap(at)

    def status(self, group: int) -> int:
        answer = self.call(group, uapi.VFIO_GROUP_GET_STATUS, struct.pack("<II", 8, 0))
        return struct.unpack("<II", answer)[1]

    def set_container(self, group: int, container: int) -> None:
        self.call(group, uapi.VFIO_GROUP_SET_CONTAINER, struct.pack("<i", container))

    def unset_container(self, group: int) -> None:
        self.ioctl(group, uapi.VFIO_GROUP_UNSET_CONTAINER)

    def set_iommu(self, container: int, kind: int = uapi.VFIO_TYPE1v2_IOMMU) -> None:
        self.ioctl(container, uapi.VFIO_SET_IOMMU, kind)

    def get_device(self, group: int, name: str = EDU) -> int:
        at = self.mm.mmap(PG)
        self.mm.write(at, name.encode() + b"\0")
        try:
            return self.ioctl(group, uapi.VFIO_GROUP_GET_DEVICE_FD, at)
        finally:
            self.mm.munmap(at)

    def open_through_group(self, number: int = 1, name: str = EDU) -> tuple[int, int, int]:
        """(container, group, device) with type1 v2."""
        container, group = self.open("/dev/vfio/vfio"), self.open(f"/dev/vfio/{number}")
        self.set_container(group, container)
        self.set_iommu(container)
        return container, group, self.get_device(group, name)

    def open_through_cdev(self, number: int = 0) -> tuple[int, int]:
        """(iommufd, device), bound but not attached."""
        iommufd, device = self.open("/dev/iommu"), self.open(f"/dev/vfio/devices/vfio{number}")
        self.bind(device, iommufd)
        return iommufd, device

    def bind(self, device: int, iommufd: int) -> int:
        answer = self.call(device, uapi.VFIO_DEVICE_BIND_IOMMUFD, struct.pack("<IIiI", 16, 0, iommufd, 0))
        return struct.unpack("<IIiI", answer)[3]

    def ioas_alloc(self, iommufd: int) -> int:
        return struct.unpack("<III", self.call(iommufd, IOMMU_IOAS_ALLOC, struct.pack("<III", 12, 0, 0)))[2]

    def attach(self, device: int, pt_id: int) -> int:
        answer = self.call(device, uapi.VFIO_DEVICE_ATTACH_IOMMUFD_PT, struct.pack("<III", 12, 0, pt_id))
        return struct.unpack("<III", answer)[2]

    def map_dma(self, container: int, vaddr: int, iova: int, size: int, flags: int = 3) -> None:
        self.call(container, uapi.VFIO_IOMMU_MAP_DMA, struct.pack("<IIQQQ", 32, flags, vaddr, iova, size))

    def unmap_dma(self, container: int, iova: int, size: int, flags: int = 0) -> int:
        answer = self.call(container, uapi.VFIO_IOMMU_UNMAP_DMA, struct.pack("<IIQQ", 24, flags, iova, size))
        return struct.unpack("<IIQQ", answer)[3]

    def set_irqs(self, device: int, flags: int, index: int, start: int, count: int, data: bytes = b"") -> None:
        head = struct.pack("<5I", 20 + len(data), flags, index, start, count)
        self.call(device, uapi.VFIO_DEVICE_SET_IRQS, head + data)

    def set_eventfds(self, device: int, index: int, *fds: int, start: int = 0) -> None:
        flags = uapi.VFIO_IRQ_SET_DATA_EVENTFD | uapi.VFIO_IRQ_SET_ACTION_TRIGGER
        self.set_irqs(device, flags, index, start, len(fds), struct.pack(f"<{len(fds)}i", *fds))

    def region(self, device: int, index: int) -> tuple[int, int, int]:
        """(flags, size, offset)."""
        answer = self.call(device, uapi.VFIO_DEVICE_GET_REGION_INFO, struct.pack("<4I2Q", 32, 0, index, 0, 0, 0))
        _argsz, flags, _index, _cap, size, offset = struct.unpack("<4I2Q", answer)
        return flags, size, offset

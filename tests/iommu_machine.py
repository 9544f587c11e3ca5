# SPDX-License-Identifier: GPL-2.0-only
"""A machine with an IOMMU, /dev/iommu and a few toy PCI functions, for tests of the two."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from uvfio.devices.kit import PciDevice
from uvfio.linux.base import pci
from uvfio.linux.iommu import vtd
from uvfio.linux.iommufd import main as iommufd
from uvfio.linux.kernel.user import UserProcess
from uvfio.runtime.errors import Errno
from uvfio.runtime.live import LiveRuntime

A = "0000:00:01.0"
B = "0000:00:02.0"
PG = 4096


class Bare:
    """A machine without the rooms above iommufd."""

    def __init__(self) -> None:
        self.statics: dict[Any, Any] = {}
        self.runtime = LiveRuntime()
        self.runtime.machine = self


class Toy(PciDevice):
    """A function that does nothing but DMA when a test asks."""

    vendor = 0x1234
    device = 0x0001


class Driver(pci.PciDriver):
    """A kernel driver that does DMA of its own."""

    name = "toy"
    id_table = [pci.PciDeviceId(0x1234, 0x0001)]

    def probe(self, dev: Any) -> None:
        return

    def remove(self, dev: Any) -> None:
        return


class VfioLike(Driver):
    """A driver that hands its device to user space."""

    name = "toy-user"
    driver_managed_dma = True


def boot(*bdfs: str) -> None:
    """In a task: bring up PCI, the IOMMU and iommufd, and plug a toy at each of *bdfs*."""
    pci.pci_init()
    vtd.iommu_init()
    iommufd.iommufd_init()
    for bdf in bdfs:
        pci.pci_set_master(pci.pci_add_device(Toy(), bdf))


def dev(bdf: str = A) -> pci.PciDev:
    return pci.pci_host().found[bdf]


def errno_of(call: Callable[[], Any]) -> int:
    """The errno of *call*, 0 for success."""
    try:
        call()
    except Errno as e:
        return e.number
    return 0


def in_machine(test: Callable[..., None]) -> Callable[[], None]:
    """Decorator: the test runs in a task of a machine with toys at A and B."""

    def run() -> None:
        def body() -> None:
            boot(A, B)
            test()

        Bare().runtime.run_function(body, test.__name__)

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


class Iommu:
    """/dev/iommu as user space sees it: every method is a call, answering 0 or an errno first."""

    def __init__(self, process: UserProcess | None = None) -> None:
        self.process = process or UserProcess()
        self.fd = self.process.open("/dev/iommu")
        self.ctx = self.process.files.get(self.fd).private_data

    def raw(self, cmd: int, arg: int = 0) -> int:
        """The errno, 0 for success."""
        return errno_of(lambda: self.process.ioctl(self.fd, cmd, arg))

    def call(self, cmd: int, fmt: str, *values: int, size: int | None = None, tail: bytes = b"") -> tuple[int, bytes]:
        data = bytearray(struct.pack("<" + fmt, *values) + tail)
        struct.pack_into("<I", data, 0, len(data) if size is None else size)
        mm = self.process.mm
        addr = mm.mmap(len(data))
        mm.write(addr, bytes(data))
        error = self.raw(cmd, addr)
        out = mm.read(addr, len(data))
        mm.munmap(addr)
        return error, out

    def buffer(self, n: int) -> int:
        return self.process.mm.mmap(n)

    def ioas(self) -> int:
        error, out = self.call(0x3B81, "3I", 0, 0, 0)
        assert error == 0
        return int(struct.unpack_from("<I", out, 8)[0])

    def destroy(self, object_id: int) -> int:
        return self.call(0x3B80, "II", 0, object_id)[0]

    def map(self, ioas: int, va: int, length: int, iova: int = 0, flags: int = 6, res: int = 0) -> tuple[int, int]:
        error, out = self.call(0x3B85, "4I3Q", 0, flags, ioas, res, va, length, iova)
        return error, struct.unpack_from("<Q", out, 32)[0]

    def unmap(self, ioas: int, iova: int, length: int) -> tuple[int, int]:
        error, out = self.call(0x3B86, "2I2Q", 0, ioas, iova, length)
        return error, struct.unpack_from("<Q", out, 16)[0]

    def copy(self, dst: int, src: int, n: int, dst_iova: int, src_iova: int, flags: int = 6) -> tuple[int, int]:
        error, out = self.call(0x3B83, "4I3Q", 0, flags, dst, src, n, dst_iova, src_iova)
        return error, struct.unpack_from("<Q", out, 24)[0]

    def ranges(self, ioas: int, n: int, res: int = 0, ptr: int | None = None) -> tuple[int, int, int, list[Any]]:
        buf = self.buffer(16 * max(n, 1))
        error, out = self.call(0x3B84, "4I2Q", 0, ioas, n, res, buf if ptr is None else ptr, 0)
        data = self.process.mm.read(buf, 16 * max(n, 1))
        pairs = [struct.unpack_from("<QQ", data, 16 * k) for k in range(n)]
        return error, struct.unpack_from("<I", out, 8)[0], struct.unpack_from("<Q", out, 24)[0], pairs

    def allow(self, ioas: int, *ranges: tuple[int, int], res: int = 0) -> int:
        data = b"".join(struct.pack("<QQ", *each) for each in ranges)
        buf = self.buffer(max(len(data), 1))
        self.process.mm.write(buf, data)
        return self.call(0x3B82, "4IQ", 0, ioas, len(ranges), res, buf)[0]

    def hwpt(self, dev_id: int, pt: int, flags: int = 0, data_type: int = 0, data: bytes = b"") -> tuple[int, int]:
        buf = self.buffer(max(len(data), 1))
        self.process.mm.write(buf, data)
        error, out = self.call(0x3B89, "8IQ2I", 0, flags, dev_id, pt, 0, 0, data_type, len(data), buf, 0, 0)
        return error, struct.unpack_from("<I", out, 16)[0]

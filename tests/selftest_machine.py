# SPDX-License-Identifier: GPL-2.0-only
"""A machine whose kernel has the iommufd selftest, and a program that uses its ops by name."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

from iommu_machine import Iommu

from uvfio.machine import Machine
from uvfio.uapi import iommufd_test as uapi

PG = 4096
A0 = uapi.MOCK_APERTURE_START


def with_selftest(test: Callable[..., None]) -> Callable[[], None]:
    """Decorator: the test runs in a task of such a machine; it gets a Selftest with an IOAS."""

    def run() -> None:
        machine = Machine(iommufd_test=True)
        machine.boot()
        machine.run(lambda: test(Selftest()))

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


class Selftest(Iommu):
    """/dev/iommu with IOMMU_TEST_CMD. ``try_x()`` answers the errno first, ``x()`` insists on success."""

    def __init__(self) -> None:
        super().__init__()
        self.ioas_id = self.ioas()

    def test(self, op: str, object_id: int = 0, size: int = 72, **fields: int) -> tuple[int, Any]:
        """The errno, and the op's part of the command as the kernel left it."""
        number = getattr(uapi, f"IOMMU_TEST_OP_{op}")
        _name, member = uapi.OPS[number]
        data = struct.pack("<4I", size, number, object_id, 0) + member(**fields).pack()
        error, out = self.call(uapi.IOMMU_TEST_CMD, "72s", data.ljust(72, b"\0"), size=size)
        return error, member.unpack(out[16:])

    def mock(self, pt_id: int | None = None, flags: int = 0) -> tuple[int, int, int]:
        """(stdev, hwpt, idev) of a new mock device on *pt_id*, or on the IOAS."""
        error, out = self.test("MOCK_DOMAIN_FLAGS", self.ioas_id if pt_id is None else pt_id, dev_flags=flags)
        assert error == 0
        return out.out_stdev_id, out.out_hwpt_id, out.out_idev_id

    def access(self, pin: bool = True) -> int:
        error, out = self.test("CREATE_ACCESS", self.ioas_id, flags=int(pin))
        assert error == 0
        return int(out.out_access_fd)

    def check_map(self, hwpt: int, iova: int, length: int, uptr: int) -> int:
        return self.test("MD_CHECK_MAP", hwpt, iova=iova, length=length, uptr=uptr)[0]

    def check_refs(self, uptr: int, length: int, refs: int) -> int:
        return self.test("MD_CHECK_REFS", uptr=uptr, length=length, refs=refs)[0]

    def iotlb(self, hwpt: int) -> list[bool]:
        """Which of a nested page table's words are still what it was made with."""
        kept = uapi.IOMMU_TEST_IOTLB_DEFAULT
        return [self.test("MD_CHECK_IOTLB", hwpt, id=n, iotlb=kept)[0] == 0 for n in range(4)]

    def cache(self, idev: int) -> list[bool]:
        kept = uapi.IOMMU_TEST_DEV_CACHE_DEFAULT
        return [self.test("DEV_CHECK_CACHE", idev, id=n, cache=kept)[0] == 0 for n in range(4)]

    def nested(self, idev: int, parent: int, flags: int = 0, fault: int = 0) -> int:
        buf = self.buffer(8)
        self.process.mm.write(buf, struct.pack("<2I", uapi.IOMMU_TEST_IOTLB_DEFAULT, 0))
        kind = uapi.IOMMU_HWPT_DATA_SELFTEST
        error, out = self.call(0x3B89, "8IQ2I", 0, flags, idev, parent, 0, 0, kind, 8, buf, fault, 0)
        assert error == 0
        return int(struct.unpack_from("<I", out, 16)[0])

    def viommu(self, idev: int, hwpt: int) -> int:
        error, out = self.call(0x3B90, "8IQ", 0, 0, uapi.IOMMU_VIOMMU_TYPE_SELFTEST, idev, hwpt, 0, 0, 0, 0)
        assert error == 0
        return int(struct.unpack_from("<I", out, 20)[0])

    def vdevice(self, viommu: int, idev: int, virt_id: int) -> int:
        error, out = self.call(0x3B91, "4IQ", 0, viommu, idev, 0, virt_id)
        assert error == 0
        return int(struct.unpack_from("<I", out, 12)[0])

    def invalidate(self, hwpt: int, *entries: bytes, data_type: int = 0xDEADBEEF) -> tuple[int, int]:
        """The errno, and how many entries were used."""
        data = b"".join(entries)
        buf = self.buffer(max(len(data), 1))
        self.process.mm.write(buf, data)
        error, out = self.call(0x3B8D, "2IQ4I", 0, hwpt, buf, data_type, len(entries[0]), len(entries), 0)
        return error, struct.unpack_from("<I", out, 24)[0]

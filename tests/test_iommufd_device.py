# SPDX-License-Identifier: GPL-2.0-only
"""iommufd with devices: bind, attach, replace, page tables, pinning, and DMA through all that."""

from __future__ import annotations

import struct
from errno import (
    EADDRINUSE,
    EBUSY,
    EFAULT,
    EINVAL,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOTTY,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
)
from typing import Any

import pytest
from iommu_machine import PG, A, B, Iommu, Toy, dev, errno_of, in_machine

from uvfio.linux.base import pci
from uvfio.linux.iommu import iommu
from uvfio.linux.iommufd import device, objects, vfio_compat
from uvfio.linux.iommufd.pages import user_struct
from uvfio.linux.kernel.dma_buf import DmaBuf, dma_buf_export
from uvfio.linux.kernel.fs import fput_sync
from uvfio.linux.kernel.process import CAP_IPC_LOCK
from uvfio.runtime.struct import is_freed
from uvfio.runtime.task import current
from uvfio.uapi import iommufd as uapi
from uvfio.uapi import vfio

U64_MAX = 2**64 - 1
VTD_RANGES = [(0, 0xFEDFFFFF), (0xFEF00000, 0x7FFFFFFFFF)]


def bind(i: Iommu, bdf: str = A) -> Any:
    return device.iommufd_device_bind(i.ctx, dev(bdf))


def attach(idev: Any, pt: int) -> int:
    """The errno, 0 for success."""
    return errno_of(lambda: device.iommufd_device_attach(idev, 0, pt))


def close(i: Iommu, *idevs: Any) -> None:
    for idev in idevs:
        device.iommufd_device_unbind(idev)
    i.process.close(i.fd)


@in_machine
def test_bind_and_unbind() -> None:
    i, other = Iommu(), Iommu()
    idev = bind(i)
    assert device.iommufd_device_to_id(idev) == 1
    assert i.destroy(1) == EBUSY
    assert errno_of(lambda: bind(other)) == EPERM
    assert device.iommufd_ctx_has_group(i.ctx, dev(A).iommu_group)
    assert not device.iommufd_ctx_has_group(i.ctx, dev(B).iommu_group)
    device.iommufd_device_unbind(idev)
    assert not device.iommufd_ctx_has_group(i.ctx, dev(A).iommu_group)
    assert i.ioas() == 1
    idev = bind(other)
    i.process.close(i.fd)
    close(other, idev)
    assert is_freed(other.ctx)
    assert not iommu.iommu_group_dma_owner_claimed(dev(A).iommu_group)


@in_machine
def test_bind_needs_an_iommu() -> None:
    i = Iommu()
    plain = pci.PciDev("0000:00:05.0", Toy())
    assert errno_of(lambda: device.iommufd_device_bind(i.ctx, plain)) == EINVAL
    assert not i.ctx.groups


@in_machine
def test_attach_ioas_makes_a_page_table_that_goes_with_its_last_device() -> None:
    i = Iommu()
    one, two, q = bind(i), bind(i, B), i.ioas()
    h = device.iommufd_device_attach(one, 0, q)
    assert device.iommufd_device_attach(two, 0, q) == h
    assert i.ranges(q, 2) == (0, 2, PG, VTD_RANGES)
    assert [i.destroy(each) for each in (one.id, h, q)] == [EBUSY, EBUSY, EBUSY]
    device.iommufd_device_detach(one, 0)
    assert i.destroy(h) == EBUSY
    device.iommufd_device_detach(two, 0)
    assert i.destroy(h) == ENOENT
    assert i.ranges(q, 1) == (0, 1, 1, [(0, U64_MAX)])
    assert i.destroy(q) == 0
    close(i, one, two)


@in_machine
def test_attach_refusals() -> None:
    i = Iommu()
    idev, q, va = bind(i), i.ioas(), i.buffer(PG)
    assert attach(idev, 999) == ENOENT
    assert attach(idev, idev.id) == EINVAL
    for error, args in [
        (EADDRINUSE, (va, PG, 0xFEE00000, 7)),
        (EADDRINUSE, (va + 16, 16, 0x10010, 7)),
        (EADDRINUSE, (va, PG, 1 << 39, 7)),
        (EFAULT, (0x10000, PG, 0x10000, 7)),
    ]:
        assert i.map(q, *args)[0] == 0
        assert attach(idev, q) == error, args
        assert i.unmap(q, 0, U64_MAX)[0] == 0
    assert i.allow(q, (0xFEE00000, 0xFEE00FFF)) == 0
    assert attach(idev, q) == EADDRINUSE
    assert i.allow(q) == 0
    assert i.ranges(q, 1) == (0, 1, 1, [(0, U64_MAX)])  # no attempt left anything behind
    assert attach(idev, q) == 0
    assert idev.dev.iommu_group.domain is idev.igroup.pasid_attach[0].hwpt.domain
    device.iommufd_device_detach(idev, 0)
    close(i, idev)


@in_machine
def test_replace() -> None:
    i = Iommu()
    idev, q, q2, va = bind(i), i.ioas(), i.ioas(), i.buffer(PG)
    i.map(q2, va, PG, 0x5000, 7)
    h = device.iommufd_device_attach(idev, 0, q)
    assert device.iommufd_device_replace(idev, 0, q) == h
    h2 = device.iommufd_device_replace(idev, 0, q2)
    assert h2 != h
    assert i.destroy(h) == ENOENT
    assert i.ranges(q, 1)[3] == [(0, U64_MAX)]
    idev.dev.dma_write(0x5000, b"hi")
    assert i.process.mm.read(va, 2) == b"hi"
    i.map(q, va, PG, 0xFEE00000, 7)
    assert errno_of(lambda: device.iommufd_device_replace(idev, 0, q)) == EADDRINUSE
    assert idev.igroup.pasid_attach[0].hwpt.id == h2
    device.iommufd_device_detach(idev, 0)
    assert i.destroy(h2) == ENOENT
    close(i, idev)


@in_machine
def test_two_devices_of_a_group() -> None:
    pci.pci_add_device(Toy(), "0000:00:01.1")
    i = Iommu()
    one, two, q, q2 = bind(i), bind(i, "0000:00:01.1"), i.ioas(), i.ioas()
    assert one.igroup is two.igroup
    device.iommufd_device_attach(one, 0, q)
    assert attach(two, q2) == EINVAL
    h = device.iommufd_device_attach(two, 0, q)
    h2 = device.iommufd_device_replace(one, 0, q2)  # the whole group moves
    assert two.igroup.pasid_attach[0].hwpt.id == h2
    assert i.destroy(h) == ENOENT
    device.iommufd_device_detach(one, 0)
    assert i.destroy(h2) == EBUSY
    device.iommufd_device_detach(two, 0)
    assert i.destroy(h2) == ENOENT
    close(i, one, two)


@in_machine
def test_page_tables_of_the_user() -> None:
    i = Iommu()
    idev, q = bind(i), i.ioas()
    answers = {0: 0, 8: 0, 1: EOPNOTSUPP, 2: EOPNOTSUPP, 3: EOPNOTSUPP, 4: ENOENT, 12: ENOENT, 5: EOPNOTSUPP}
    for flags, error in {**answers, 6: EOPNOTSUPP, 9: EOPNOTSUPP, 16: EOPNOTSUPP}.items():
        got, made = i.hwpt(idev.id, q, flags)
        assert got == error, flags
        if not got:
            assert i.destroy(made) == 0
    assert [i.hwpt(idev.id, pt)[0] for pt in (99, idev.id)] == [EINVAL, EINVAL]
    assert i.hwpt(99, q)[0] == ENOENT
    assert i.hwpt(idev.id, q, 0, 0, b"x")[0] == EINVAL
    assert i.hwpt(idev.id, q, 0, 1, bytes(24))[0] == EOPNOTSUPP
    error, h = i.hwpt(idev.id, q)
    assert i.ranges(q, 1) == (0, 1, PG, [(0, 0x7FFFFFFFFF)])
    assert i.hwpt(idev.id, h)[0] == EOPNOTSUPP
    assert [i.hwpt(idev.id, h, 0, t, bytes(24))[0] for t in (1, 2, 3)] == [EINVAL] * 3
    assert device.iommufd_device_attach(idev, 0, h) == h
    assert i.destroy(h) == EBUSY
    device.iommufd_device_detach(idev, 0)
    assert i.destroy(q) == EBUSY
    assert i.destroy(h) == 0
    assert i.ranges(q, 1)[3] == [(0, U64_MAX)]
    close(i, idev)


@in_machine
def test_dirty_tracking_and_invalidation_are_refused_in_order() -> None:
    i = Iommu()
    idev, q = bind(i), i.ioas()
    _, h = i.hwpt(idev.id, q)

    def dirty(flags: int, res: int, iova: int, n: int, page: int) -> int:
        return i.call(uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, "4I4Q", 0, h, flags, res, iova, n, page, i.buffer(8))[0]

    assert i.call(uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, "4I", 0, 1, h, 0)[0] == EOPNOTSUPP
    assert i.call(uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, "4I", 0, 1, q, 0)[0] == ENOENT
    asked = [(0, 0, 0, 0, PG), (2, 0, 0, PG, PG), (0, 0, 1, PG, PG), (0, 0, 0, PG, 0), (0, 0, 0, PG, PG)]
    assert [dirty(*each) for each in asked] == [EINVAL, EOPNOTSUPP, EINVAL, EINVAL, EOPNOTSUPP]
    assert dirty(0, 0, 2**64 - PG, 2 * PG, PG) == EOVERFLOW
    assert dirty(0, 0, 0, PG, 2 * PG) == EINVAL
    error, out = i.call(uapi.IOMMU_HWPT_INVALIDATE, "2IQ4I", 0, h, 0, 0, 0, 0, 0)
    assert error == EINVAL
    error, out = i.call(uapi.IOMMU_HWPT_INVALIDATE, "2IQ4I", 0, 99, 8, 0, 8, 5, 0)
    assert (error, struct.unpack_from("<I", out, 24)[0]) == (ENOENT, 0)
    close(i, idev)


@in_machine
def test_hw_info() -> None:
    i = Iommu()
    idev = bind(i)

    def info(dev_id: int, n: int, asked: int = 0, flags: int = 0, res: int = 0) -> tuple[int, bytes, bytes]:
        buf = i.buffer(max(n, 1))
        i.process.mm.write(buf, b"\xff" * n)
        error, out = i.call(uapi.IOMMU_GET_HW_INFO, "4IQI4BQ", 0, flags, dev_id, n, buf, asked, 0, res, 0, 0, 0)
        return error, out, i.process.mm.read(buf, n)

    error, out, data = info(idev.id, 64)
    assert (error, struct.unpack_from("<I", out, 12)[0], struct.unpack_from("<I", out, 24)[0]) == (0, 24, 1)
    assert struct.unpack_from("<Q", out, 32)[0] == 8
    assert data.hex() == "0100000000000000860226228c00d2004a0ff0000000000000" + "00" * 39
    assert info(idev.id, 8, 2, 1)[0] == EOPNOTSUPP
    assert info(idev.id, 24, 1, 1)[0] == 0
    assert info(idev.id, 24, 2, 0)[0] == 0
    short = i.buffer(64)
    asked = (0, idev.id, 2**32 - 1, short, 0, 0, 0, 0, 0, 0)
    assert i.call(uapi.IOMMU_GET_HW_INFO, "4IQI4BQ", 0, *asked)[0] == EFAULT, "the first byte that is not there"
    assert info(idev.id, 24, 0, 2)[0] == EOPNOTSUPP
    assert info(idev.id, 24, 0, 0, 1)[0] == EOPNOTSUPP
    assert info(99, 24)[0] == ENOENT
    close(i, idev)


@in_machine
def test_no_virtual_iommus() -> None:
    i = Iommu()
    idev = bind(i)

    def alloc(kind: int, dev_id: int, flags: int = 0) -> int:
        return i.call(uapi.IOMMU_VIOMMU_ALLOC, "8IQ", 0, flags, kind, dev_id, 0, 0, 0, 0, 0)[0]

    assert [alloc(t, idev.id) for t in (1, 2, 0xDEADBEEF)] == [EOPNOTSUPP] * 3
    assert alloc(0, 99) == EOPNOTSUPP
    assert alloc(1, 99) == ENOENT
    close(i, idev)


@in_machine
def test_mapping_with_a_device() -> None:
    i = Iommu()
    idev, q, va = bind(i), i.ioas(), i.buffer(16 * PG)
    device.iommufd_device_attach(idev, 0, q)
    for error, args in [
        (EFAULT, (0x10000, PG, 0x100000, 7)),
        (EINVAL, (va, 2048, 0x300000, 7)),
        (EINVAL, (va, PG, 0x300800, 7)),
        (EINVAL, (va + 2048, PG, 0x300000, 7)),
        (EINVAL, (va, PG, 0xFEE00000, 7)),
        (EINVAL, (va, PG, 1 << 39, 7)),
        (0, (va, PG, 0x100000, 5)),
        (0, (va, PG, 0x200000, 3)),
    ]:
        assert i.map(q, *args)[0] == error, args
    toy = idev.dev
    i.process.mm.write(va, b"seen")
    assert toy.dma_read(0x100000, 4) == b"seen"
    with pytest.raises(pci.DmaFault):
        toy.dma_write(0x100000, b"x")
    with pytest.raises(pci.DmaFault):
        toy.dma_read(0x200000, 4)
    toy.dma_write(0x200000, b"kept")
    assert i.process.mm.read(va, 4) == b"kept"
    assert i.unmap(q, 0x200000, PG) == (0, PG)
    with pytest.raises(pci.DmaFault):
        toy.dma_write(0x200000, b"x")
    device.iommufd_device_detach(idev, 0)
    with pytest.raises(pci.DmaFault):
        toy.dma_read(0x100000, 4)
    close(i, idev)


@in_machine
def test_the_locked_page_limit() -> None:
    i = Iommu()
    idev, q, va = bind(i), i.ioas(), i.buffer(16 * PG)
    i.process.mm.limit = 4
    i.process.capabilities = set(range(64)) - {CAP_IPC_LOCK}
    assert i.map(q, va, 8 * PG, 0x10000, 7)[0] == 0
    assert attach(idev, q) == ENOMEM
    assert i.unmap(q, 0, U64_MAX)[0] == 0
    assert attach(idev, q) == 0
    assert i.map(q, va, 8 * PG, 0x10000, 7)[0] == ENOMEM
    assert i.map(q, va, 3 * PG, 0x10000, 7)[0] == 0
    assert user_struct().locked_vm == 3
    assert i.copy(q, q, PG, 0, 0x10000)[0] == 0  # shared with the source, counted once
    assert i.map(q, va, 2 * PG, 0x80000, 7)[0] == ENOMEM
    assert i.unmap(q, 0, U64_MAX)[0] == 0
    assert user_struct().locked_vm == 0
    assert i.map(q, va, 4 * PG, 0x10000, 7)[0] == 0
    device.iommufd_device_detach(idev, 0)
    assert user_struct().locked_vm == 0
    close(i, idev)


@in_machine
def test_copied_memory_outlives_its_source_in_a_domain() -> None:
    i = Iommu()
    idev, q, q2, va = bind(i), i.ioas(), i.ioas(), i.buffer(4 * PG)
    device.iommufd_device_attach(idev, 0, q)
    i.map(q2, va, 4 * PG, 0x10000, 7)
    assert i.copy(q, q2, 2 * PG, 0x40000, 0x11000, 7) == (0, 0x40000)
    assert i.unmap(q2, 0, U64_MAX)[0] == 0
    idev.dev.dma_write(0x40000, b"there")
    assert i.process.mm.read(va + PG, 5) == b"there"
    device.iommufd_device_detach(idev, 0)
    close(i, idev)


class Bar:
    """Device memory that a dma-buf stands for."""

    length = 4 * PG

    def read_into(self, offset: int, buffer: memoryview) -> None:
        buffer[:] = bytes([offset // PG]) * len(buffer)

    def write_from(self, offset: int, data: bytes | memoryview) -> None:
        return

    def phys(self, offset: int) -> int:
        return (1 << 30) + offset

    def contiguous(self, offset: int) -> int:
        return self.length - offset

    def unpin(self) -> None:
        return


def export(i: Iommu, memory: Any) -> tuple[int, DmaBuf]:
    dmabuf = DmaBuf(4 * PG, memory, lambda dmabuf: None)
    fd = i.process.files.reserve(0)
    i.process.files.install(fd, dma_buf_export(dmabuf, 0))
    return fd, dmabuf


def map_file(i: Iommu, ioas: int, fd: int, start: int, n: int, iova: int) -> int:
    return i.call(uapi.IOMMU_IOAS_MAP_FILE, "3Ii3Q", 0, 7, ioas, fd, start, n, iova)[0]


@in_machine
def test_dma_buf() -> None:
    i = Iommu()
    idev, q = bind(i), i.ioas()
    device.iommufd_device_attach(idev, 0, q)
    fd, dmabuf = export(i, Bar())
    assert map_file(i, q, fd, 0, 4 * PG, 0x10000) == 0
    assert map_file(i, q, fd, 2 * PG, PG, 0x20000) == 0
    assert map_file(i, q, fd, 4 * PG, PG, 0x30000) == EINVAL
    assert map_file(i, q, export(i, None)[0], 0, PG, 0x30000) == EOPNOTSUPP
    assert idev.dev.dma_read(0x13000, 1) == b"\3"
    assert idev.dev.dma_read(0x20000, 1) == b"\2"
    assert user_struct().locked_vm == 0
    dmabuf.revoke()
    with pytest.raises(pci.DmaFault):
        idev.dev.dma_read(0x13000, 1)
    assert map_file(i, q, fd, 0, PG, 0x30000) == ENODEV
    dmabuf.restore()
    assert map_file(i, q, fd, 0, PG, 0x30000) == 0
    with pytest.raises(pci.DmaFault):
        idev.dev.dma_read(0x13000, 1)  # what was revoked is not mapped again
    assert i.unmap(q, 0, U64_MAX) == (0, 6 * PG)
    assert not dmabuf.importers
    device.iommufd_device_detach(idev, 0)
    close(i, idev)


# The calls of a VFIO container


def vfio_call(i: Iommu, cmd: int, data: bytes) -> tuple[int, bytes]:
    addr = i.buffer(len(data))
    i.process.mm.write(addr, data)
    return i.raw(cmd, addr), i.process.mm.read(addr, len(data))


def dma_map(i: Iommu, iova: int, va: int, n: int, flags: int = 3, argsz: int = 32) -> int:
    return vfio_call(i, vfio.VFIO_IOMMU_MAP_DMA, struct.pack("<IIQQQ", argsz, flags, va, iova, n))[0]


def dma_unmap(i: Iommu, iova: int, n: int, flags: int = 0, argsz: int = 24) -> tuple[int, int]:
    error, out = vfio_call(i, vfio.VFIO_IOMMU_UNMAP_DMA, struct.pack("<IIQQ", argsz, flags, iova, n))
    return error, struct.unpack_from("<Q", out, 16)[0]


def extension(i: Iommu, n: int) -> int:
    return i.process.ioctl(i.fd, vfio.VFIO_CHECK_EXTENSION, n)


@in_machine
def test_compat_without_an_ioas() -> None:
    i = Iommu()
    assert i.process.ioctl(i.fd, vfio.VFIO_GET_API_VERSION) == 0
    assert {n: extension(i, n) for n in (1, 2, 3, 6, 8, 9, 10)} == {1: 1, 2: 0, 3: 1, 6: 0, 8: 1, 9: 1, 10: 0}
    assert i.raw(vfio.VFIO_CHECK_EXTENSION, 4) == ENODEV
    assert i.raw(vfio.VFIO_SET_IOMMU, 3) == ENODEV
    assert dma_map(i, 0, i.buffer(PG), PG) == ENODEV
    assert i.raw(vfio.VFIO_IOMMU_DIRTY_PAGES, 0) == ENOTTY


@in_machine
def test_compat() -> None:
    i = Iommu()
    vfio_compat.iommufd_vfio_compat_ioas_create(i.ctx)
    vfio_compat.iommufd_vfio_compat_ioas_create(i.ctx)
    q = vfio_compat.iommufd_vfio_compat_ioas_get_id(i.ctx)
    assert q == 1
    assert i.ioas() == 2
    assert extension(i, 4) == 1
    assert [i.raw(vfio.VFIO_SET_IOMMU, n) for n in (6, 8, 77, 3, 3)] == [EINVAL, EINVAL, EINVAL, 0, 0]
    idev, va = bind(i), i.buffer(4 * PG)
    device.iommufd_device_attach(idev, 0, q)
    assert extension(i, 4) == 0
    for error, args in [
        (0, (0x100000, va, 4 * PG)),
        (17, (0x100000, va, PG)),
        (EINVAL, (0x200000, va, PG, 0)),
        (EINVAL, (0x300000, va, PG, 4)),
        (EINVAL, (0, va, PG, 3, 31)),
        (EINVAL, (0x300000, va, 0)),
        (EOVERFLOW, (2**64 - PG, va, 2 * PG)),
        (EINVAL, (0xFEE00000, va, PG)),
        (EFAULT, (0x400000, 0x10000, PG)),
    ]:
        assert dma_map(i, *args) == error, args
    for answer, unmap in [
        (EINVAL, (0x100000, PG, 1)),
        (ENOENT, (0x101000, PG)),
        (EINVAL, (0x800000, 0)),
        (EOVERFLOW, (2**64 - PG, 2 * PG)),
        (EINVAL, (1, 0, 2)),
    ]:
        assert dma_unmap(i, *unmap)[0] == answer, unmap
    assert dma_unmap(i, 0x800000, PG) == (0, 0)
    assert dma_unmap(i, 0, 0, 2) == (0, 4 * PG)
    device.iommufd_device_detach(idev, 0)
    close(i, idev)


@in_machine
def test_compat_info() -> None:
    i = Iommu()
    vfio_compat.iommufd_vfio_compat_ioas_create(i.ctx)
    idev = bind(i)
    device.iommufd_device_attach(idev, 0, 1)
    assert vfio_call(i, vfio.VFIO_IOMMU_GET_INFO, struct.pack("<I", 15).ljust(24, b"\0"))[0] == EINVAL
    _, out = vfio_call(i, vfio.VFIO_IOMMU_GET_INFO, struct.pack("<I", 24).ljust(24, b"\0"))
    assert struct.unpack("<IIQII", out) == (88, 3, 0x40201000, 0, 0)
    _, out = vfio_call(i, vfio.VFIO_IOMMU_GET_INFO, struct.pack("<I", 88).ljust(88, b"\0"))
    assert struct.unpack_from("<IIQII", out) == (88, 3, 0x40201000, 24, 0)
    assert out[24:].hex() == (
        "0300010028000000ffffffff00000000"
        "01000100000000000200000000000000"
        "0000000000000000ffffdffe000000000000f0fe00000000ffffffff7f000000"
    )
    device.iommufd_device_detach(idev, 0)
    close(i, idev)


@in_machine
def test_compat_info_without_a_device() -> None:
    i = Iommu()
    vfio_compat.iommufd_vfio_compat_ioas_create(i.ctx)
    assert i.raw(vfio.VFIO_SET_IOMMU, 1) == 0
    _, out = vfio_call(i, vfio.VFIO_IOMMU_GET_INFO, struct.pack("<I", 72).ljust(72, b"\xee"))
    assert struct.unpack_from("<IIQII", out) == (72, 3, 0xFFFFFFFFFFFFF000, 24, 0)
    assert out[24:40].hex() == "0300010028000000ffffffffeeeeeeee"  # the gap is not written
    assert struct.unpack_from("<QQ", out, 56) == (0, U64_MAX)


@in_machine
def test_compat_type1_cuts_mappings() -> None:
    i = Iommu()
    vfio_compat.iommufd_vfio_compat_ioas_create(i.ctx)
    assert i.raw(vfio.VFIO_SET_IOMMU, 1) == 0
    idev, va = bind(i), i.buffer(4 * PG)
    device.iommufd_device_attach(idev, 0, 1)
    assert dma_map(i, 0x100000, va, 4 * PG) == 0
    assert dma_unmap(i, 0x101000, PG) == (0, PG)
    idev.dev.dma_write(0x102000, b"tail")
    assert i.process.mm.read(va + 2 * PG, 4) == b"tail"
    with pytest.raises(pci.DmaFault):
        idev.dev.dma_write(0x101000, b"x")
    assert dma_unmap(i, 0x102800, PG)[0] == EINVAL
    assert dma_unmap(i, 0x100000, PG + 1) == (0, PG)  # the cut at its end lies in a hole
    assert dma_unmap(i, 0x100000, 4 * PG) == (0, 2 * PG)
    assert user_struct().locked_vm == 0
    device.iommufd_device_detach(idev, 0)
    close(i, idev)


@in_machine
def test_unbind_waits_for_calls_in_progress() -> None:
    i = Iommu()
    idev = bind(i)
    task = current()
    held = objects.iommufd_get_object(i.ctx, idev.id, "device")
    worker = task.runtime.spawn(lambda: device.iommufd_device_unbind(idev), "unbind")
    seen: list[int] = []

    def put() -> None:
        seen.append(i.destroy(1))
        objects.iommufd_put_object(i.ctx, held)

    task.runtime.spawn(put, "call")
    task.runtime.point("wait", worker, ready=lambda: worker.done)
    assert worker.exception is None
    assert seen == [EBUSY]
    assert not i.ctx.objects.entries
    fput_sync(i.process.files.table.pop(i.fd))

# SPDX-License-Identifier: GPL-2.0-only
"""Pages under iommufd: which are pinned, who pays, where they physically are, which are dirty."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EFAULT, EINVAL, ENOMEM, EOPNOTSUPP, EPERM
from pathlib import Path
from typing import Any

import pytest
from iommu_machine import PG, Iommu, dev, errno_of, in_machine

from uvfio.linux.iommu.private import IOMMU_READ, IOMMU_WRITE
from uvfio.linux.iommufd import access, device, iova_bitmap
from uvfio.linux.iommufd import iova as iova_ranges
from uvfio.linux.iommufd.pages import page_pins, user_struct
from uvfio.linux.kernel.process import CAP_IPC_LOCK
from uvfio.linux.kernel.uaccess import copy_to_user
from uvfio.linux.kernel.user import UserProcess
from uvfio.linux.kernel.user_mm import Memory
from uvfio.runtime.task import current
from uvfio.uapi import iommufd as uapi

HUGE = 2 << 20
TRACE = Path(__file__).parent / "data" / "iova_trace.txt"


@contextmanager
def attached(i: Iommu, ioas: int) -> Iterator[Any]:
    """A device on *ioas*; its domain."""
    idev = device.iommufd_device_bind(i.ctx, dev())
    try:
        device.iommufd_device_attach(idev, 0, ioas)
        yield i.ctx.objects.load(ioas).iopt.domains[0]
        device.iommufd_device_detach(idev, 0)
    finally:
        device.iommufd_device_unbind(idev)


def pins(i: Iommu, va: int, n: int) -> list[int]:
    return [page_pins(i.process.mm.phys(va + PG * each)) for each in range(n)]


def unprivileged(i: Iommu, limit: int | None = None) -> None:
    i.process.capabilities = set(range(64)) - {CAP_IPC_LOCK}
    i.process.mm.limit = limit


def map_file(i: Iommu, ioas: int, fd: int, start: int, n: int, iova: int, flags: int = 7) -> int:
    return i.call(uapi.IOMMU_IOAS_MAP_FILE, "3Ii3Q", 0, flags, ioas, fd, start, n, iova)[0]


def reserve(i: Iommu, ioas: int, start: int, length: int) -> int:
    iopt = i.ctx.objects.load(ioas).iopt
    with iopt.iova_rwsem.write():
        return errno_of(lambda: iova_ranges.iopt_reserve_iova(iopt, start, start + length - 1, "test"))


@in_machine
def test_automatic_iovas_are_those_of_linux() -> None:
    i, big = Iommu(), 1 << 40
    for line in TRACE.read_text().splitlines():
        kind, *words = line.split()
        if kind == "NEW":
            j = i.ioas()
        elif kind == "W":
            ranges = [tuple(map(int, each.split("-"))) for each in words[:-1] if each != "-"]
            assert i.allow(j, *ranges) == int(words[-1]), line  # type: ignore[arg-type]
        elif kind != "#":
            a, b, error, iova = map(int, words)
            if kind == "A":
                got = i.map(j, a, b)
                assert got == (error, iova) if not error else got[0] == error, line
            elif kind == "F":
                assert i.map(j, big, b, a, 7)[0] == error, line
            elif kind == "U":
                assert i.unmap(j, a, b)[0] == error, line
            else:
                assert reserve(i, j, a, b) == error, line


@in_machine
def test_pages_are_pinned_once_and_only_those_in_use() -> None:
    i = Iommu()
    q, r, va = i.ioas(), i.ioas(), i.buffer(8 * PG)
    assert i.map(q, va, 8 * PG, 0x100000, 7)[0] == 0
    assert i.copy(r, q, 4 * PG, 0x200000, 0x102000, 7)[0] == 0
    assert pins(i, va, 8) == [0] * 8
    with attached(i, r):
        assert pins(i, va, 8) == [0, 0, 1, 1, 1, 1, 0, 0]
        assert i.copy(r, q, 3 * PG, 0x300000, 0x101000, 7)[0] == 0
        assert pins(i, va, 8) == [0, 1, 1, 1, 1, 1, 0, 0]
        assert i.process.mm.pinned_vm == 5
        assert i.map(r, va + PG, 3 * PG, 0x400000, 7)[0] == 0  # memory that is mapped twice is pinned twice
        assert pins(i, va, 8) == [0, 2, 2, 2, 1, 1, 0, 0]
        assert i.unmap(r, 0x200000, 4 * PG)[0] == 0
        assert pins(i, va, 8) == [0, 2, 2, 2, 0, 0, 0, 0]
        assert i.unmap(r, 0x400000, 3 * PG)[0] == 0
        assert pins(i, va, 8) == [0, 1, 1, 1, 0, 0, 0, 0]
        assert i.process.mm.pinned_vm == 3
    assert pins(i, va, 8) == [0] * 8
    assert i.process.mm.pinned_vm == 0


@in_machine
def test_what_is_pinned_in_parts_is_reached_as_a_whole() -> None:
    i = Iommu()
    q, va = i.ioas(), i.buffer(6 * PG)
    i.process.mm.write(va, b"".join(bytes([n]) * PG for n in range(6)))
    assert i.map(q, va, 6 * PG, 0x100000, 7)[0] == 0
    user = access.iommufd_access_create(i.ctx, lambda iova, length: None, True)
    access.iommufd_access_attach(user, q)
    views = access.iommufd_access_pin_pages(user, 0x102000, PG, IOMMU_WRITE)
    assert pins(i, va, 6) == [0, 0, 1, 0, 0, 0]
    assert views[0].phys(5) == i.process.mm.phys(va + 2 * PG + 5)
    with attached(i, q) as domain:
        assert pins(i, va, 6) == [1] * 6
        data = dev().dma_read(0x101800, 2 * PG)
        assert data == bytes([1]) * 2048 + bytes([2]) * PG + bytes([3]) * 2048
        dev().dma_write(0x101FFE, b"over")
        assert i.process.mm.read(va + 2 * PG - 2, 4) == b"over"
        assert [domain.iova_to_phys(0x100000 + n * PG) for n in range(6)] == [
            i.process.mm.phys(va + n * PG) for n in range(6)
        ]
        assert domain.iova_to_phys(0x106000) is None
    assert pins(i, va, 6) == [0, 0, 1, 0, 0, 0]
    access.iommufd_access_unpin_pages(user, 0x102000, PG)
    assert pins(i, va, 6) == [0] * 6
    access.iommufd_access_destroy(user)


@in_machine
def test_a_failure_half_way_undoes_everything() -> None:
    i = Iommu()
    q, va = i.ioas(), i.buffer(4 * PG)
    assert i.map(q, va, 2 * PG, 0x100000, 7)[0] == 0
    with attached(i, q):
        assert i.map(q, va + 2 * PG, 4 * PG, 0x200000, 7)[0] == EFAULT
        assert pins(i, va, 4) == [1, 1, 0, 0]
        assert i.unmap(q, 0x200000, PG)[0] != 0
    assert i.map(q, va + 2 * PG, 4 * PG, 0x200000, 7)[0] == 0  # nobody looks without a domain
    idev = device.iommufd_device_bind(i.ctx, dev())
    assert errno_of(lambda: device.iommufd_device_attach(idev, 0, q)) == EFAULT
    assert pins(i, va, 4) == [0] * 4
    device.iommufd_device_unbind(idev)


@in_machine
def test_what_an_access_may_do() -> None:
    """Each answer is that of the reference kernel."""
    i = Iommu()
    q, va = i.ioas(), i.buffer(8 * PG)
    for iova, flags in ((0x100000, 7), (0x200000, 3), (0x300000, 5)):
        assert i.map(q, va, 8 * PG, iova, flags)[0] == 0
    user = access.iommufd_access_create(i.ctx, lambda iova, length: None, True)
    access.iommufd_access_attach(user, q)
    refused = [
        (EPERM, lambda: access.iommufd_access_rw(user, 0x200000, 10)),
        (EPERM, lambda: access.iommufd_access_rw(user, 0x300000, 10, b"x" * 10)),
        (EPERM, lambda: access.iommufd_access_pin_pages(user, 0x200000, PG, IOMMU_READ)),
        (EPERM, lambda: access.iommufd_access_pin_pages(user, 0x300000, PG, IOMMU_WRITE)),
        (EINVAL, lambda: access.iommufd_access_pin_pages(user, 0x100001, PG, IOMMU_READ)),
    ]
    for error, call in refused:
        assert errno_of(call) == error
    assert len(access.iommufd_access_pin_pages(user, 0x100000, 1, IOMMU_READ)) == 1
    assert i.process.mm.pinned_vm == 1
    access.iommufd_access_unpin_pages(user, 0x100000, 1)
    # What is only read is not accounted.
    unprivileged(i, limit=0)
    assert i.map(q, va, PG, 0x400000, 7)[0] == 0
    assert access.iommufd_access_rw(user, 0x400005, 100) == bytes(100)
    assert errno_of(lambda: access.iommufd_access_pin_pages(user, 0x400000, PG, IOMMU_READ)) == ENOMEM
    access.iommufd_access_destroy(user)


@in_machine
def test_who_may_lock_memory_is_not_limited_and_not_counted_as_locked() -> None:
    i = Iommu()
    q, va = i.ioas(), i.buffer(4 * PG)
    i.process.mm.limit = 1
    with attached(i, q):
        assert i.map(q, va, 4 * PG, 0x100000, 7)[0] == 0
        assert (user_struct().locked_vm, i.process.mm.locked_vm, i.process.mm.pinned_vm) == (0, 0, 4)


@pytest.mark.parametrize("mode", [0, 1])
def test_accounting(mode: int) -> None:
    @in_machine
    def test() -> None:
        i = Iommu()
        unprivileged(i, limit=4)
        assert i.call(uapi.IOMMU_OPTION, "2I2HIQ", 0, 0, 0, 0, 0, mode)[0] == 0
        q, va = i.ioas(), i.buffer(8 * PG)
        mm = i.process.mm
        with attached(i, q):
            assert i.map(q, va, 4 * PG, 0x100000, 7)[0] == 0
            assert (user_struct().locked_vm, mm.locked_vm, mm.pinned_vm) == ((0, 4, 4) if mode else (4, 0, 4))
            assert i.map(q, va, PG, 0x200000, 7)[0] == ENOMEM
            assert i.copy(q, q, 2 * PG, 0x300000, 0x101000, 7)[0] == 0
            assert i.unmap(q, 0x100000, 4 * PG)[0] == 0
            assert mm.pinned_vm == 2
        assert (user_struct().locked_vm, mm.locked_vm, mm.pinned_vm) == (0, 0, 0)

    test()


# Files


@in_machine
def test_a_file_is_looked_at_when_its_memory_is_needed() -> None:
    i = Iommu()
    q = i.ioas()
    fd = i.process.memfd_create(8 * PG)
    assert map_file(i, q, i.process.eventfd(), 0, PG, 0x100000) == 0
    assert map_file(i, q, fd, 8 * PG, PG, 0x200000) == 0
    assert i.unmap(q, 0, 2**64 - 1)[0] == 0
    with attached(i, q) as domain:
        assert map_file(i, q, i.process.eventfd(), 0, PG, 0x100000) == EINVAL
        assert map_file(i, q, i.fd, 0, PG, 0x100000) == EINVAL
        assert map_file(i, q, fd, 7 * PG, 2 * PG, 0x100000) == EINVAL
        assert map_file(i, q, fd, 2 * PG, 6 * PG, 0x100000) == 0
        memory = i.process.files.memory(fd)
        assert isinstance(memory, Memory)
        va = i.process.mm.map_memory(memory)
        assert domain.iova_to_phys(0x101000) == i.process.mm.phys(va + 3 * PG)
        dev().dma_write(0x101000, b"hello")
        assert i.process.mm.read(va + 3 * PG, 5) == b"hello"
        i.process.close(fd)
        memory.truncate(0)
        assert dev().dma_read(0x101000, 5) == b"hello"  # pinned pages stay
        assert i.process.mm.pinned_vm == 6


def test_another_process_takes_over_what_it_has_no_memory_for() -> None:
    @in_machine
    def test() -> None:
        i = Iommu()
        unprivileged(i)
        assert i.call(uapi.IOMMU_OPTION, "2I2HIQ", 0, 0, 0, 0, 0, 1)[0] == 0
        q, va, fd = i.ioas(), i.buffer(PG), i.process.memfd_create(4 * PG)
        child = UserProcess("child", 1001)
        child.capabilities = i.process.capabilities
        child.files.install(child.files.reserve(0), i.process.files.get(i.fd))
        parent, i.process = i.process, child

        def change() -> int:
            return i.call(uapi.IOMMU_IOAS_CHANGE_PROCESS, "2I", 0, 0)[0]

        with attached(i, q):
            assert change() == 0  # there is nothing yet
            i.process = parent
            assert map_file(i, q, fd, 0, 4 * PG, 0x100000) == 0
            assert i.map(q, va, PG, 0x200000, 7)[0] == 0
            i.process = child
            assert change() == EINVAL
            assert i.unmap(q, 0x200000, PG)[0] == 0
            child.mm.limit = 3
            assert change() == ENOMEM
            assert (parent.mm.locked_vm, parent.mm.pinned_vm, child.mm.locked_vm) == (4, 4, 0)
            child.mm.limit = 4
            assert change() == 0
            assert (parent.mm.locked_vm, parent.mm.pinned_vm) == (0, 0)
            assert (child.mm.locked_vm, child.mm.pinned_vm) == (4, 4)
        assert (child.mm.locked_vm, child.mm.pinned_vm) == (0, 0)

    test()


# Leaves and dirty tracking


@in_machine
def test_leaves_are_as_large_as_memory_and_address_allow() -> None:
    i = Iommu()
    q = i.ioas()
    mm = i.process.mm
    huge, small = mm.mmap(2 * HUGE, page_size=HUGE), mm.mmap(4 * PG)
    with attached(i, q) as domain:
        i.map(q, huge, 2 * HUGE, 4 * HUGE, 7)
        i.map(q, huge + PG, HUGE, 8 * HUGE + PG, 7)
        i.map(q, small, 4 * PG, 16 * HUGE, 7)

        def leaf(iova: int) -> tuple[int, int]:
            return domain.leaf(domain.mappings.iter_first(iova, iova), iova)

        assert leaf(4 * HUGE + 12345) == (4 * HUGE, HUGE)
        assert leaf(5 * HUGE) == (5 * HUGE, HUGE)
        assert leaf(8 * HUGE + PG) == (8 * HUGE + PG, PG)  # less than a huge page is there
        assert leaf(9 * HUGE) == (9 * HUGE, PG)
        assert leaf(16 * HUGE + PG + 7) == (16 * HUGE + PG, PG)
        domain.pgsize_bitmap = -2048 & (1 << 64) - 1  # the selftest's
        assert leaf(16 * HUGE + PG + 7) == (16 * HUGE + PG, PG)
        assert leaf(8 * HUGE + PG) == (8 * HUGE + PG, PG)
        assert leaf(8 * HUGE + 6 * PG) == (8 * HUGE + 4 * PG, 4 * PG)


@in_machine
def test_without_huge_pages_leaves_are_pages() -> None:
    i = Iommu()
    q, va = i.ioas(), i.process.mm.mmap(HUGE, page_size=HUGE)
    assert i.call(uapi.IOMMU_OPTION, "2I2HIQ", 0, 1, 0, 0, q, 0)[0] == 0
    with attached(i, q) as domain:
        i.map(q, va, HUGE, HUGE, 7)
        assert domain.leaf(domain.mappings.iter_first(HUGE, HUGE), HUGE + 3 * PG + 1) == (HUGE + 3 * PG, PG)


class Tracking:
    """An IOAS with three areas of 8 pages, a hole of as many before the last, and a domain that tracks."""

    first = 1 << 24

    def __init__(self, i: Iommu, domain: Any, q: int) -> None:
        self.i, self.domain = i, domain
        domain.dirty_tracking = True
        self.hwpt = i.ctx.objects.load(q).hwpt_list[0].id
        va = i.buffer(24 * PG)
        for at in (0, 8, 24):
            assert i.map(q, va, 8 * PG, self.first + at * PG, 7)[0] == 0

    def set(self, enable: int) -> int:
        return self.i.call(uapi.IOMMU_HWPT_SET_DIRTY_TRACKING, "4I", 0, enable, self.hwpt, 0)[0]

    def soil(self, *pages: int) -> None:
        for page in pages:
            self.domain.set_dirty(self.first + page * PG)

    def get(self, page: int, n: int, unit: int = PG, clear: bool = False, ptr: int | None = None) -> tuple[int, int]:
        """The errno, and the bitmap."""
        buf = self.i.buffer(PG)
        args = (0, self.hwpt, int(not clear), 0, self.first + page * PG, n * PG, unit, buf if ptr is None else ptr)
        error = self.i.call(uapi.IOMMU_HWPT_GET_DIRTY_BITMAP, "4I4Q", *args)[0]
        return error, int.from_bytes(self.i.process.mm.read(buf, PG), "little")


@in_machine
def test_dirty_bitmaps() -> None:
    """The figures are those of the reference kernel."""
    i = Iommu()
    q = i.ioas()
    with attached(i, q) as domain:
        t = Tracking(i, domain, q)
        assert t.set(1) == 0
        everything = [*range(16), *range(24, 32)]
        t.soil(*everything, 20)
        assert t.get(0, 32) == (0, 0xFFFF)  # up to the hole
        assert t.get(16, 16) == (0, 0)
        assert t.get(12, 20) == (0, 0xF)
        assert t.get(0, 16, 2 * PG) == (0, 0xFF)
        assert t.get(0, 16, 16 * PG) == (0, 1)
        assert t.get(0, 12, 3 * PG) == (0, 0xFFF)  # the lowest bit of the page size counts
        assert t.get(0, 1, 512) == (0, 0xFF)
        assert t.get(0, 32, clear=True, ptr=8) == (0, 0)  # nobody learns that it could not be written
        assert t.get(0, 16) == (0, 0)
        assert t.get(24, 8) == (0, 0xFF)
        t.soil(1, 3)
        assert t.get(2, 4, clear=True) == (0, 2)
        assert t.get(0, 16, clear=True) == (0, 2)
        assert t.get(0, 16) == (0, 0)


@in_machine
def test_switching_dirty_tracking() -> None:
    i = Iommu()
    q = i.ioas()
    with attached(i, q) as domain:
        t = Tracking(i, domain, q)
        dev().dma_write(t.first, b"x")
        assert t.set(1) == 0
        assert t.get(0, 8) == (0, 0)
        dev().dma_read(t.first, 4)
        dev().dma_write(t.first + 2 * PG - 1, b"xx")
        assert t.get(0, 8) == (0, 0b110)
        assert t.set(0) == 0
        assert t.get(0, 8) == (0, 0)  # the driver does not look
        domain.reads_dirty_while_off = True
        assert t.get(0, 8) == (0, 0b110)
        assert t.set(1) == 0
        assert t.get(0, 8) == (0, 0)
        t.soil(3)
        assert i.unmap(q, t.first, 8 * PG)[0] == 0
        assert i.map(q, i.buffer(8 * PG), 8 * PG, t.first, 7)[0] == 0
        assert t.get(0, 8) == (0, 0)
        domain.dirty_tracking = False
        assert t.set(1) == EOPNOTSUPP
        assert t.get(0, 8)[0] == EOPNOTSUPP


def test_clean_memory_costs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def store(addr: int, data: bytes) -> None:
        written.append(len(data))
        copy_to_user(addr, data)

    monkeypatch.setattr(iova_bitmap, "copy_to_user", store)

    @in_machine
    def test() -> None:
        i = Iommu()
        q = i.ioas()
        with attached(i, q) as domain:
            t = Tracking(i, domain, q)
            t.set(1)
            # Half a TiB: the bitmap alone has 16 MiB.
            pages = domain.mappings.iter_first(t.first, t.first).pages
            domain.unmap(0, 1 << 39)
            domain.map(0, pages, 0, 1 << 39, IOMMU_READ | IOMMU_WRITE)
            soiled = [(1 << 38) + 3 * PG, (1 << 38) + 5 * PG, (1 << 39) - PG]
            for iova in soiled:
                domain.set_dirty(iova)
            bitmap, buf = 1 << 27 >> 3, i.buffer(1 << 27 >> 3)
            task = current()
            was, task.process = task.process, i.process
            found = domain.read_and_clear_dirty(0, 1 << 39)
            iova_bitmap.IovaBitmap(0, 1 << 39, PG, buf).set(found)
            task.process = was
            assert found == [(iova, PG) for iova in soiled]
            assert written == [1, 1]
            data = i.process.mm.read(buf, bitmap)
            assert (data[bitmap // 2], data[-1], data.count(0)) == (0b101000, 0x80, bitmap - 2)
            domain.unmap(0, 1 << 39)

    test()


@in_machine
def test_an_area_that_is_locked_stays() -> None:
    i = Iommu()
    q, va = i.ioas(), i.buffer(4 * PG)
    iopt = i.ctx.objects.load(q).iopt
    for iova in (0x100000, 0x200000):
        i.map(q, va, 2 * PG, iova, 7)
    access.iopt_pin_range(iopt, 0x101000, PG, IOMMU_READ, lock_area=True)
    assert i.unmap(q, 0x100000, 2 * PG)[0] == 16
    assert i.unmap(q, 0, 2**64 - 1)[0] == 16
    assert i.unmap(q, 0x200000, 2 * PG)[0] == 0
    access.iopt_unpin_range(iopt, 0x101000, PG, unlock_area=True)
    assert i.unmap(q, 0x100000, 2 * PG)[0] == 0


@in_machine
def test_noiommu_get_pa() -> None:
    i = Iommu()
    q = i.ioas()
    huge, small = i.process.mm.mmap(HUGE, page_size=HUGE), i.buffer(2 * PG)

    def get_pa(iova: int, n: int) -> tuple[int, int, int]:
        error, out = i.call(uapi.IOMMU_IOAS_NOIOMMU_GET_PA, "4I3Q", 0, 0, q, 0, iova, n, 0)
        return error, *struct.unpack_from("<2Q", out, 24)

    with attached(i, q) as domain:
        i.map(q, huge, HUGE, HUGE, 7)
        i.map(q, small, 2 * PG, 4 * HUGE, 7)
        assert get_pa(HUGE, PG)[0] == EOPNOTSUPP
        domain.ops.noiommu = True
        phys = i.process.mm.phys
        assert get_pa(HUGE + 5, 100) == (0, 100, phys(huge) + 5)
        assert get_pa(HUGE + 5, 1 << 40) == (0, HUGE - 5, phys(huge) + 5)
        assert get_pa(4 * HUGE + 7, 2 * PG) == (0, PG - 7, phys(small) + 7)
        domain.ops.noiommu = False

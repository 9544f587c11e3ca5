# SPDX-License-Identifier: GPL-2.0-only
"""IOMMU_TEST_CMD: each op does what its name says, and refuses what the reference kernel refuses."""

from __future__ import annotations

import struct
from errno import (
    E2BIG,
    EADDRINUSE,
    EBADE,
    EBADF,
    EBADFD,
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    EIO,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOTTY,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
)

import pytest
from iommu_machine import Iommu
from selftest_machine import A0, PG, Selftest, with_selftest

from uvfio.linux.kernel.kernfs import kernfs_find
from uvfio.machine import Machine
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import is_freed
from uvfio.uapi import iommufd_test as uapi

U64_MAX = 2**64 - 1
IOMMU_TEST_CMD = uapi.IOMMU_TEST_CMD


def test_without_the_option_the_call_is_not_there():
    machine = Machine()
    machine.boot()

    def ask() -> list[int]:
        iommu = Iommu()
        ioas = iommu.ioas()
        return [iommu.raw(IOMMU_TEST_CMD, 8), iommu.raw(0x3B96, 8), iommu.copy(ioas, ioas, PG, 0, 0, 7 | 1 << 16)[0]]

    assert machine.run(ask) == [ENOTTY, ENOTTY, EOPNOTSUPP]


@with_selftest
def test_envelope(t: Selftest) -> None:
    assert t.raw(IOMMU_TEST_CMD, 8) == EFAULT
    assert t.raw(0x3B9F, 8) == EFAULT  # in the gap before it: the size word is read first
    assert t.raw(0x3B9F, t.buffer(8)) == ENOTTY
    assert t.raw(0x3BA1, 8) == ENOTTY
    assert t.test("SET_TEMP_MEMORY_LIMIT", limit=12, size=67)[0] == EINVAL
    assert t.test("SET_TEMP_MEMORY_LIMIT", limit=12, size=68)[0] == 0
    assert t.test("SET_TEMP_MEMORY_LIMIT", limit=11)[0] == EINVAL
    for op in (0, 24):
        assert t.call(IOMMU_TEST_CMD, "4I56x", 0, op, 0, 0)[0] == EOPNOTSUPP
    assert t.call(IOMMU_TEST_CMD, "4I56x", 0, 9, 0, 0, tail=b"\1")[0] == E2BIG


@with_selftest
def test_a_mock_device_and_its_ids(t: Selftest) -> None:
    assert t.mock() == (2, 4, 3)
    assert t.mock() == (5, 4, 6), "the page table is shared"
    assert t.test("MOCK_DOMAIN_FLAGS", t.ioas_id, dev_flags=2)[0] == EINVAL
    assert t.test("MOCK_DOMAIN", 99)[0] == ENOENT
    assert t.test("MOCK_DOMAIN", 3)[0] == EINVAL
    assert t.mock()[0] == 7, "what failed gave its ids back"
    assert kernfs_find("/sys/bus/iommufd_mock/devices/iommufd_mock2") is not None
    assert t.destroy(3) == EBUSY
    assert t.destroy(2) == 0
    assert t.destroy(3) == ENOENT
    assert kernfs_find("/sys/bus/iommufd_mock/devices/iommufd_mock0") is None
    assert t.mock() == (2, 4, 3)
    t.process.close(t.fd)
    assert kernfs_find("/sys/bus/iommufd_mock/devices/iommufd_mock0") is None


@with_selftest
def test_replace(t: Selftest) -> None:
    stdev, hwpt, idev = t.mock()
    assert t.test("MOCK_DOMAIN_REPLACE", t.ioas_id, pt_id=hwpt)[0] == ENOENT
    assert t.test("MOCK_DOMAIN_REPLACE", stdev, pt_id=99)[0] == ENOENT
    assert t.test("MOCK_DOMAIN_REPLACE", stdev, pt_id=idev)[0] == EINVAL
    error, out = t.test("MOCK_DOMAIN_REPLACE", stdev, pt_id=t.ioas())
    assert (error, out.pt_id != hwpt) == (0, True)
    assert t.destroy(hwpt) == ENOENT, "it went with its last device"


@with_selftest
def test_what_is_mapped(t: Selftest) -> None:
    _stdev, hwpt, _idev = t.mock()
    memory = t.buffer(4 * PG)
    assert t.map(t.ioas_id, memory, 4 * PG, A0, 7) == (0, A0)
    assert t.check_map(hwpt, A0, 4 * PG, memory) == 0
    assert t.check_map(hwpt, A0 + PG, PG, memory) == EINVAL
    assert t.check_map(hwpt, A0 + 4 * PG, PG, memory) == EINVAL
    assert t.check_map(hwpt, A0, PG, 8192) == EFAULT
    assert t.check_map(hwpt, A0 + 1, PG, memory) == EINVAL
    assert t.check_map(t.ioas_id, A0, PG, memory) == ENOENT
    assert t.check_refs(memory, 4 * PG, 1) == 0
    assert t.check_refs(memory, 4 * PG, 0) == EIO
    assert t.check_refs(memory + 1, PG, 1) == EINVAL
    assert t.map(t.ioas_id, memory, PG, A0 + 8 * PG, 7)[0] == 0
    assert t.check_refs(memory, PG, 2) == 0, "two mappings"
    t.mock(t.ioas())
    assert t.check_refs(memory, PG, 2) == 0, "whatever the number of page tables"
    assert t.unmap(t.ioas_id, 0, U64_MAX)[0] == 0
    assert t.check_refs(memory, 4 * PG, 0) == 0


@with_selftest
def test_pins_of_huge_pages_are_not_looked_at(t: Selftest) -> None:
    memory = t.process.mm.mmap(2 << 20, page_size=2 << 20)
    assert [t.check_refs(memory, 2 << 20, refs) for refs in (0, 1)] == [0, 0]


@with_selftest
def test_aperture_and_reserved(t: Selftest) -> None:
    assert t.test("ADD_RESERVED", t.ioas_id, start=0, length=0)[0] == EINVAL
    assert t.test("ADD_RESERVED", t.ioas_id, start=U64_MAX, length=2)[0] == EOVERFLOW
    assert t.test("ADD_RESERVED", 99, start=0, length=PG)[0] == ENOENT
    memory = t.buffer(PG)
    assert t.map(t.ioas_id, memory, PG, PG, 7)[0] == 0
    assert t.test("ADD_RESERVED", t.ioas_id, start=PG, length=1)[0] == EADDRINUSE
    assert t.test("MOCK_DOMAIN", t.ioas_id)[0] == EADDRINUSE, "outside of the aperture"
    t.unmap(t.ioas_id, 0, U64_MAX)
    t.mock()
    assert t.test("ADD_RESERVED", t.ioas_id, start=A0, length=PG)[0] == 0
    assert t.ranges(t.ioas_id, 2)[2:] == (2048, [(A0 + PG, (1 << 31) - 1), (0, 0)])
    assert t.map(t.ioas_id, memory, PG, A0, 7)[0] == EINVAL


@with_selftest
def test_an_access_is_refused(t: Selftest) -> None:
    memory = t.buffer(PG)
    assert t.map(t.ioas_id, memory, 2048, A0, 7)[0] == 0
    assert t.test("CREATE_ACCESS", 99, flags=2)[0] == EOPNOTSUPP
    assert t.test("CREATE_ACCESS", 99)[0] == ENOENT
    assert t.test("CREATE_ACCESS", t.ioas_id, flags=1)[0] == EADDRINUSE, "what is mapped is finer than a page"
    assert t.ioas() == 2, "what failed gave its id back"
    fd = t.access(pin=False)
    assert t.ioas() == 4, "an access has an id, too"
    assert t.destroy(3) == EBUSY
    t.process.close(t.fd)
    t.process.close(fd)
    assert is_freed(t.ctx), "the last access took the context along"


@with_selftest
def test_access_pins_and_an_unmap_has_it_unpin(t: Selftest) -> None:
    memory, other = t.buffer(4 * PG), t.buffer(PG)
    t.map(t.ioas_id, memory, 4 * PG, A0, 7)
    t.map(t.ioas_id, other, PG, A0 + 4 * PG, 5)
    access = t.access()

    def pin(**fields: int) -> tuple[int, int]:
        error, out = t.test("ACCESS_PAGES", access, **fields)
        return error, out.out_access_pages_id

    assert pin(iova=A0, length=2 * PG, uptr=memory, flags=1) == (0, 0)
    assert pin(iova=A0, length=5 * PG, uptr=0) == (0, 1)
    assert t.check_refs(memory, 4 * PG, 1) == 0, "one pin for one mapping"
    assert pin(iova=A0, length=PG, uptr=other)[0] == EBADE
    assert pin(iova=A0 + 4 * PG, length=PG, flags=1)[0] == EPERM
    assert pin(iova=A0 + 5 * PG, length=PG)[0] == ENOENT
    assert pin(iova=A0 + 1, length=PG)[0] == EINVAL
    assert pin(iova=A0, length=0)[0] == EINVAL
    assert pin(iova=A0, length=(16 << 20) + 1, flags=2)[0] == ENOMEM
    assert pin(iova=A0, length=PG, flags=2)[0] == EOPNOTSUPP
    assert t.test("DESTROY_ACCESS_PAGES", access, access_pages_id=7)[0] == ENOENT
    assert t.test("DESTROY_ACCESS_PAGES", access, access_pages_id=0)[0] == 0
    assert t.unmap(t.ioas_id, A0, 4 * PG)[0] == 0
    assert t.test("DESTROY_ACCESS_PAGES", access, access_pages_id=1)[0] == ENOENT
    assert t.check_refs(memory, 4 * PG, 0) == 0
    assert t.check_refs(other, PG, 0) == 0
    assert t.destroy(t.ioas_id) == EBUSY
    t.process.close(access)
    assert t.destroy(t.ioas_id) == 0


@with_selftest
def test_an_access_that_never_pins(t: Selftest) -> None:
    memory, buffer = t.buffer(2 * PG), t.buffer(PG)
    t.map(t.ioas_id, memory, PG, A0, 7)
    t.map(t.ioas_id, memory + PG, PG, A0 + PG, 3)
    access = t.access(pin=False)
    t.process.mm.write(buffer, b"across the page")

    def rw(iova: int, length: int = 15, uptr: int = buffer, flags: int = 0) -> int:
        return t.test("ACCESS_RW", access, iova=iova, length=length, uptr=uptr, flags=flags)[0]

    assert rw(A0 + PG - 6, flags=1) == 0
    assert t.process.mm.read(memory + PG - 6, 15) == b"across the page"
    assert rw(A0 + PG - 6) == EPERM, "the second page is not READABLE"
    assert rw(A0 + 1, flags=4) == 0
    assert t.process.mm.read(buffer, 15) == bytes(15)
    assert rw(A0, uptr=8) == EFAULT
    assert rw(A0, uptr=8, flags=1) == EFAULT
    assert rw(A0 + 2 * PG) == ENOENT
    assert rw(A0, length=0) == EINVAL
    assert rw(U64_MAX, length=2) == EOVERFLOW
    assert rw(A0, flags=2) == EOPNOTSUPP
    assert t.test("ACCESS_PAGES", access, iova=A0, length=PG)[0] == EOPNOTSUPP
    assert t.test("ACCESS_RW", t.fd, iova=A0, length=PG)[0] == EBADFD
    t.process.close(access)
    assert rw(A0) == EBADFD


@with_selftest
def test_the_offset_of_a_fuzzer(t: Selftest) -> None:
    memory, buffer = t.buffer(2 * PG), t.buffer(PG)
    t.map(t.ioas_id, memory, PG, A0, 7)
    t.map(t.ioas_id, memory + PG, PG, A0 + 8 * PG, 7)
    t.process.mm.write(memory + PG + 3, b"x")
    access = t.access(pin=False)
    syz = 1 << 16
    assert t.test("ACCESS_RW", access, iova=1 | 3 << 32, length=1, uptr=buffer, flags=syz)[0] == 0
    assert t.process.mm.read(buffer, 1) == b"x"
    assert t.test("ACCESS_RW", access, iova=2, length=1, uptr=buffer, flags=syz)[0] == ENOENT
    assert t.copy(t.ioas_id, t.ioas_id, PG, A0 + PG, 1, 7 | syz) == (0, A0 + PG)
    assert t.test("ACCESS_RW", access, iova=A0 + PG + 3, length=1, uptr=buffer)[0] == 0
    assert t.process.mm.read(buffer, 1) == b"x"
    assert t.copy(t.ioas_id, 99, PG, A0, 1, 7 | syz)[0] == ENOENT
    assert t.copy(t.ioas_id, t.ioas_id, PG, A0, 1, 7 | syz << 1)[0] == EOPNOTSUPP


@with_selftest
def test_access_goes_to_another_ioas(t: Selftest) -> None:
    memory, other = t.buffer(PG), t.ioas()
    t.map(t.ioas_id, memory, PG, A0, 7)
    access = t.access()
    assert t.test("ACCESS_PAGES", access, iova=A0, length=PG)[0] == 0
    assert t.test("ACCESS_REPLACE_IOAS", access, ioas_id=99)[0] == ENOENT
    assert t.test("ACCESS_REPLACE_IOAS", access, ioas_id=other)[0] == 0
    assert t.check_refs(memory, PG, 0) == 0
    assert t.destroy(t.ioas_id) == 0
    assert t.destroy(other) == EBUSY


@with_selftest
def test_dirty(t: Selftest) -> None:
    _stdev, _hwpt, idev = t.mock()
    memory, bitmap = t.buffer(4 * PG), t.buffer(PG)
    error, tracked = t.hwpt(idev, t.ioas_id, 2)
    assert error == 0
    t.map(t.ioas_id, memory, 4 * PG, A0, 7)

    def dirty(hwpt: int = tracked, **fields: int) -> tuple[int, int]:
        given = {"iova": A0, "length": 4 * PG, "page_size": PG, "uptr": bitmap, **fields}
        error, out = t.test("DIRTY", hwpt, **given)
        return error, out.out_nr_dirty

    def read(flags: int = 0) -> int:
        out = t.buffer(8)
        assert t.call(0x3B8C, "4I4Q", 0, tracked, flags, 0, A0, 4 * PG, PG, out)[0] == 0
        return t.process.mm.read(out, 1)[0]

    assert dirty()[0] == EINVAL, "not tracking yet"
    assert t.call(0x3B8B, "4I", 0, 1, tracked, 0)[0] == 0
    t.process.mm.write(bitmap, b"\xfa")
    assert dirty() == (0, 2)
    assert [read(1), read(), read()] == [0b1010, 0b1010, 0]
    for wrong in ({"page_size": 0}, {"length": 0}, {"iova": A0 + 1}, {"uptr": 0}):
        assert dirty(**wrong)[0] == EINVAL
    assert dirty(uptr=8)[0] == EFAULT
    assert dirty(page_size=1, iova=0, length=(16 << 23) + 1)[0] == EOVERFLOW
    assert dirty(99)[0] == ENOENT
    assert t.test("MOCK_DOMAIN_FLAGS", tracked, dev_flags=1)[0] == EINVAL, "a device that cannot"
    _stdev, _hwpt, other = t.mock(flags=1)
    assert t.hwpt(other, t.ioas_id, 2)[0] == EOPNOTSUPP


@with_selftest
def test_nested_page_table_and_its_iotlb(t: Selftest) -> None:
    _stdev, _hwpt, idev = t.mock()
    error, parent = t.hwpt(idev, t.ioas_id, 1)
    assert error == 0
    nested = t.nested(idev, parent)
    entry = struct.Struct("<2I").pack
    assert t.invalidate(nested, entry(0, 1), entry(0, 4)) == (EINVAL, 1)
    assert t.iotlb(nested) == [True, False, True, True]
    assert t.invalidate(nested, entry(2, 0)) == (EOPNOTSUPP, 0)
    assert t.invalidate(nested, entry(0, 0) + b"\0") == (EINVAL, 0)
    assert t.invalidate(nested, entry(0, 0), data_type=0xDADBEEF) == (EINVAL, 0)
    assert t.invalidate(nested, entry(1, 0)) == (0, 1)
    assert t.iotlb(nested) == [False] * 4
    assert t.test("MD_CHECK_IOTLB", nested, id=4)[0] == EINVAL
    assert t.test("MD_CHECK_IOTLB", parent)[0] == ENOENT
    assert t.destroy(parent) == EBUSY


@with_selftest
def test_a_guest_invalidates_device_caches(t: Selftest) -> None:
    stdev, _hwpt, idev = t.mock()
    error, parent = t.hwpt(idev, t.ioas_id, 1)
    assert error == 0
    viommu = t.viommu(idev, parent)
    nested = t.nested(idev, viommu)
    assert t.test("MOCK_DOMAIN_REPLACE", stdev, pt_id=nested)[0] == ENOENT, "the guest does not know it"
    t.vdevice(viommu, idev, 0x99)
    assert t.test("MOCK_DOMAIN_REPLACE", stdev, pt_id=nested)[0] == 0
    entry = struct.Struct("<3I").pack
    assert t.invalidate(viommu, entry(0, 0x99, 2), entry(0, 0x98, 0)) == (EINVAL, 1)
    assert t.cache(idev) == [True, True, False, True]
    assert t.invalidate(viommu, entry(0, 0x99, 0) + b"\1") == (E2BIG, 0)
    assert t.invalidate(viommu, entry(1, 0x99, 0)) == (0, 1)
    assert t.cache(idev) == [False] * 4
    assert t.test("DEV_CHECK_CACHE", t.ioas_id)[0] == ENOENT
    assert t.test("TRIGGER_VEVENT", dev_id=idev)[0] == EOPNOTSUPP, "nobody listens"
    assert t.test("TRIGGER_VEVENT", dev_id=t.mock()[2])[0] == ENOENT


def iopf(t: Selftest, idev: int, pasid: int) -> int:
    return t.test("TRIGGER_IOPF", dev_id=idev, pasid=pasid, grpid=2, perm=3, addr=0xDEADBEAF)[0]


@with_selftest
def test_page_faults(t: Selftest) -> None:
    stdev, _hwpt, idev = t.mock()
    error, out = t.call(0x3B8E, "4I", 0, 0, 0, 0)
    assert error == 0
    fault, fd = struct.unpack_from("<2I", out, 8)
    nested = t.nested(idev, t.hwpt(idev, t.ioas_id, 1)[1], flags=4, fault=fault)
    assert iopf(t, t.ioas_id, 0) == ENOENT
    assert iopf(t, idev, 1) == 0
    assert t.process.read(fd, 40) == b"", "nobody handles it yet"
    assert t.test("MOCK_DOMAIN_REPLACE", stdev, pt_id=nested)[0] == 0
    assert iopf(t, idev, 1) == 0
    assert struct.unpack("<6IQ2I", t.process.read(fd, 40)) == (3, idev, 1, 2, 3, 0, 0xDEADBEAF, 0, 1)
    assert t.process.write(fd, struct.pack("<2I", 1, 0)) == 8
    assert iopf(t, idev, 0) == 0
    assert struct.unpack("<6IQ2I", t.process.read(fd, 40))[:3] == (2, idev, 0)
    assert t.test("MOCK_DOMAIN_REPLACE", stdev, pt_id=t.ioas_id)[0] == 0
    with pytest.raises(Errno, match="EINVAL"):  # it was answered when it was detached
        t.process.write(fd, struct.pack("<2I", 1, 0))


@with_selftest
def test_events_for_a_guest(t: Selftest) -> None:
    stdev, _hwpt, idev = t.mock()
    viommu = t.viommu(idev, t.hwpt(idev, t.ioas_id, 1)[1])
    t.vdevice(viommu, idev, 0x99)
    assert t.test("MOCK_DOMAIN_REPLACE", stdev, pt_id=t.nested(idev, viommu))[0] == 0
    error, out = t.call(0x3B93, "8I", 0, 0, viommu, uapi.IOMMU_VEVENTQ_TYPE_SELFTEST, 2, 0, 0, 0)
    assert error == 0
    fd = struct.unpack_from("<I", out, 24)[0]
    assert [t.test("TRIGGER_VEVENT", dev_id=idev)[0] for _ in range(3)] == [0, 0, 0]
    assert struct.unpack("<8I", t.process.read(fd, 36)) == (0, 0, 0x99, 0, 1, 0x99, 1, 2), "the third is lost"


@with_selftest
def test_hardware_queues(t: Selftest) -> None:
    _stdev, _hwpt, idev = t.mock()
    viommu = t.viommu(idev, t.hwpt(idev, t.ioas_id, 1)[1])
    t.map(t.ioas_id, t.buffer(PG), PG, A0, 7)

    def queue(index: int) -> tuple[int, int]:
        kind = uapi.IOMMU_HW_QUEUE_TYPE_SELFTEST
        error, out = t.call(0x3B94, "6I2Q", 0, 0, viommu, kind, index, 0, A0 + PG // 2, PG // 2)
        return error, struct.unpack_from("<I", out, 20)[0]

    assert queue(2)[0] == EINVAL
    assert queue(1)[0] == EIO
    error, first = queue(0)
    assert error == 0
    assert queue(0)[0] == EEXIST
    error, second = queue(1)
    assert error == 0
    assert t.unmap(t.ioas_id, A0, PG)[0] == EBUSY
    assert [t.destroy(each) for each in (first, second, first)] == [EBUSY, 0, 0]
    assert t.unmap(t.ioas_id, A0, PG)[0] == 0


@with_selftest
def test_pasid(t: Selftest) -> None:
    stdev, hwpt, idev = t.mock(flags=4)
    hwpts = [t.hwpt(idev, t.ioas_id, 8)[1] for _ in range(2)]

    def op(what: str, pasid: int, pt_id: int = 0) -> int:
        return t.test(
            f"PASID_{what}", stdev, **{"pasid": pasid, "hwpt_id" if what == "CHECK_HWPT" else "pt_id": pt_id}
        )[0]

    assert op("ATTACH", 5, hwpts[0]) == EINVAL, "what it is attached to is not PASID compatible"
    assert t.test("MOCK_DOMAIN_REPLACE", stdev, pt_id=hwpts[0])[0] == 0
    assert op("ATTACH", 5, t.ioas_id) == EINVAL
    assert op("ATTACH", 1 << 20, hwpts[0]) == EINVAL
    assert op("CHECK_HWPT", 5) == 0
    assert op("ATTACH", 5, hwpts[0]) == 0
    assert op("ATTACH", 5, hwpts[1]) == EBUSY
    assert op("REPLACE", 6, hwpts[1]) == EINVAL
    assert op("REPLACE", 5, hwpts[1]) == 0
    assert [op("CHECK_HWPT", 5, pt) for pt in (0, hwpts[0], hwpts[1], t.ioas_id, 99)] == [
        EINVAL,
        EINVAL,
        0,
        EINVAL,
        ENOENT,
    ]
    assert t.test("PASID_DETACH", stdev, pasid=5)[0] == 0
    assert op("CHECK_HWPT", 5) == 0
    assert [op(what, 1024, pt) for what, pt in (("ATTACH", hwpts[0]), ("REPLACE", hwpts[1]))] == [0, ENOMEM]
    assert op("CHECK_HWPT", 1024, hwpts[0]) == 0
    assert op("REPLACE", 1024, hwpts[1]) == 0
    assert t.test("PASID_DETACH", stdev, pasid=1024)[0] == 0
    assert hwpt != hwpts[0]


@with_selftest
def test_dmabuf(t: Selftest) -> None:
    _stdev, hwpt, _idev = t.mock()
    assert t.test("DMABUF_GET", length=0)[0] == EINVAL
    assert t.test("DMABUF_GET", length=512 * PG + 1)[0] == EINVAL
    fd = t.process.ioctl(t.fd, IOMMU_TEST_CMD, _command(t, uapi.IOMMU_TEST_OP_DMABUF_GET, 2 * PG - 1))
    file = t.process.files.get(fd)
    with pytest.raises(Errno, match="EINVAL"):
        t.process.mmap_file(fd, PG, 0)
    assert file.f_op.llseek(file, 0, 2) == 2 * PG

    def map_file(iova: int, length: int = 2 * PG) -> int:
        return t.call(0x3B8F, "3Ii3Q", 0, 7, t.ioas_id, fd, 0, length, iova)[0]

    assert map_file(A0, 3 * PG) == EINVAL
    assert map_file(A0) == 0
    assert t.copy(t.ioas_id, t.ioas_id, 2 * PG, A0 + 16 * PG, A0, 7)[0] == 0
    domain = t.ctx.objects.entries[hwpt].domain
    first = domain.iova_to_phys(A0)
    assert domain.iova_to_phys(A0 + PG) == first + PG, "physically contiguous"
    assert t.test("DMABUF_REVOKE", dmabuf_fd=99, revoked=1)[0] == EBADF
    assert t.test("DMABUF_REVOKE", dmabuf_fd=t.fd, revoked=1)[0] == EINVAL
    assert t.test("DMABUF_REVOKE", dmabuf_fd=fd, revoked=1)[0] == 0
    assert [domain.iova_to_phys(at) for at in (A0, A0 + 16 * PG)] == [None, None]
    assert map_file(A0 + 8 * PG) == ENODEV
    assert t.test("DMABUF_REVOKE", dmabuf_fd=fd, revoked=0)[0] == 0
    assert map_file(A0 + 8 * PG) == 0
    assert domain.iova_to_phys(A0 + 8 * PG) == first
    _stdev, other, _idev = t.mock()
    domain = t.ctx.objects.entries[other].domain
    assert domain.iova_to_phys(A0) is None, "what was taken away stays away"
    assert t.unmap(t.ioas_id, 0, U64_MAX) == (0, 6 * PG)


def _command(t: Selftest, op: int, *words: int) -> int:
    """A command in the program's memory; its address."""
    at = t.buffer(72)
    t.process.mm.write(at, struct.pack(f"<4I{len(words)}I", 72, op, 0, 0, *words))
    return at

# SPDX-License-Identifier: GPL-2.0-only
"""The calls of /dev/iommu that need no device: answers as the reference kernel gives them."""

from __future__ import annotations

import struct
from errno import (
    E2BIG,
    EADDRINUSE,
    EBADF,
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    EMSGSIZE,
    ENODEV,
    ENOENT,
    ENOSPC,
    ENOTTY,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
)

import pytest
from iommu_machine import PG, Iommu, in_machine

from uvfio.linux.iommufd import iova as iova_ranges
from uvfio.linux.iommufd import main
from uvfio.linux.kernel.user import UserProcess
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import is_freed
from uvfio.runtime.task import current
from uvfio.uapi import iommufd as uapi

U64_MAX = 2**64 - 1
ALL = (0, U64_MAX)


@in_machine
def test_generic_rules() -> None:
    i = Iommu()
    addr = i.buffer(8)
    i.process.mm.write(addr, struct.pack("<II", 8, 0))
    assert i.raw(0x3B7F) == ENOTTY
    assert i.raw(0x3BA1) == ENOTTY
    assert i.raw(0xC0003B80, addr) == ENOTTY
    assert i.raw(0x00083B80, addr) == ENOTTY
    assert i.raw(0x4180, addr) == ENOTTY
    assert i.raw(uapi.IOMMU_DESTROY, 0) == EFAULT
    assert i.raw(uapi.IOMMU_FAULT_QUEUE_ALLOC, 0) == EFAULT
    assert i.raw(uapi.IOMMU_FAULT_QUEUE_ALLOC, addr) == EINVAL
    assert i.call(uapi.IOMMU_DESTROY, "II", 0, 0, size=7)[0] == EINVAL
    assert i.call(uapi.IOMMU_DESTROY, "II", 0, 0, tail=b"\1")[0] == E2BIG
    assert i.call(uapi.IOMMU_DESTROY, "II", 0, 0, tail=bytes(9))[0] == ENOENT
    assert i.call(uapi.IOMMU_DESTROY, "II", 0, 0, tail=bytes(8192))[0] == ENOENT


@in_machine
def test_minimum_sizes_are_those_of_the_header() -> None:
    sizes = {uapi.REQUESTS["iommufd"][cmd][0]: op.min_size for cmd, op in main.IOCTL_OPS.items()}
    assert sizes["IOMMU_HWPT_ALLOC"] == 24
    assert sizes["IOMMU_GET_HW_INFO"] == 32
    assert sizes["IOMMU_VIOMMU_ALLOC"] == 24
    assert sizes["IOMMU_IOAS_MAP"] == 40


@in_machine
def test_ids_are_the_lowest_free() -> None:
    i = Iommu()
    assert (i.ioas(), i.ioas()) == (1, 2)
    assert i.destroy(1) == 0
    assert i.ioas() == 1
    assert [i.destroy(each) for each in (0, 99)] == [ENOENT, ENOENT]
    assert i.call(uapi.IOMMU_IOAS_ALLOC, "3I", 0, 1, 0)[0] == EOPNOTSUPP


@in_machine
def test_an_id_is_given_up_when_it_cannot_be_told() -> None:
    i = Iommu()
    addr = i.process.mm.mmap(PG, writable=False)
    i.process.mm.regions[-1].data[:4] = struct.pack("<I", 12)
    assert i.raw(uapi.IOMMU_IOAS_ALLOC, addr) == EFAULT
    assert i.ioas() == 1


@in_machine
def test_map_refusals_in_order() -> None:
    i = Iommu()
    j, va = i.ioas(), i.buffer(1 << 20)
    other = i.ctx.objects.load(j).iopt
    with other.iova_rwsem.write():
        iova_ranges.iopt_reserve_iova(other, 0x900000, 0x900FFF, "test")
    for error, args in [
        (EOPNOTSUPP, (j, va, PG, 0, 8 | 6)),
        (EOPNOTSUPP, (j, va, PG, 0, 6, 1)),
        (EOVERFLOW, (j, va, PG, U64_MAX, 7)),
        (EOVERFLOW, (j, va, U64_MAX, 0, 1)),
        (EINVAL, (77, va, PG, 0x1000, 1)),
        (ENOENT, (77, va, PG, 0x1000, 7)),
        (EINVAL, (j, va, 0, 0x1000, 7)),
        (EINVAL, (j, va, 0, 0, 6)),
        (EOVERFLOW, (j, 2**64 - PG, 2 * PG, 0x1000, 7)),
        (EOVERFLOW, (j, va, 2 * PG, 2**64 - PG, 7)),
        (EINVAL, (j, 0, 2**64 - 2, 0x1000, 7)),
        (EOVERFLOW, (j, 0, 2**63, 0, 6)),
        (EINVAL, (j, va, PG, 0x900000, 7)),
    ]:
        assert i.map(*args)[0] == error, args
    assert i.map(j, va, 2 * PG, 0x10000, 7) == (0, 0x10000)
    assert i.map(j, va, PG, 0x11000, 7)[0] == EEXIST
    assert i.map(j, va + 1, 3, 0x20003, 7)[0] == 0
    assert i.map(j, 0x10, PG, 0x40000, 7)[0] == 0  # nothing is pinned without a domain


@in_machine
def test_automatic_iova() -> None:
    i = Iommu()
    j, va = i.ioas(), i.buffer(4 << 20)
    assert i.map(j, va, PG) == (0, 0x1000)
    error, iova = i.map(j, va + 5, 100)
    assert (error, iova % PG) == (0, 5)
    assert i.map(j, va, 3 * PG) == (0, 0x4000)
    k = i.ioas()
    aligned = -(-va // (2 << 20)) * (2 << 20)
    assert i.map(k, aligned, 2 << 20) == (0, 2 << 20)
    assert i.map(k, va, PG) == (0, 0x1000)


@in_machine
def test_automatic_iova_is_always_the_lowest_hole() -> None:
    i = Iommu()
    j, va = i.ioas(), i.buffer(PG)
    assert [i.map(j, va, PG)[1] for _ in range(4)] == [0x1000, 0x2000, 0x3000, 0x4000]
    i.unmap(j, 0x2000, PG)
    assert [i.map(j, va, PG)[1] for _ in range(2)] == [0x2000, 0x5000]
    i.unmap(j, 0, U64_MAX)
    assert i.map(j, va, PG) == (0, 0x1000)


@in_machine
def test_allow_list() -> None:
    i = Iommu()
    j, va = i.ioas(), i.buffer(1 << 20)
    assert i.allow(j, res=1) == EOPNOTSUPP
    assert i.allow(77) == ENOENT
    assert i.call(uapi.IOMMU_IOAS_ALLOW_IOVAS, "4IQ", 0, j, 1, 0, 8)[0] == EFAULT
    assert i.allow(j, (5, 5)) == EINVAL
    assert i.allow(j, (6, 5)) == EINVAL
    assert i.allow(j, (0, 100), (50, 200)) == EINVAL
    assert i.allow(j, (0x400000, 0x4FFFFF), (0x100000, 0x1FFFFF)) == 0
    assert i.map(j, va, PG) == (0, 0x100000)
    assert i.map(j, va, PG, 0x800000, 7)[0] == 0
    assert i.map(j, va, 2 << 20)[0] == ENOSPC
    iopt = i.ctx.objects.load(j).iopt
    with iopt.iova_rwsem.write():
        iova_ranges.iopt_reserve_iova(iopt, 0x900000, 0x900FFF, "test")
        with pytest.raises(Errno):
            iova_ranges.iopt_reserve_iova(iopt, 0x4FFFFF, 0x500000, "test")
    assert i.allow(j, (0x900000, 0x9FFFFF)) == EADDRINUSE
    assert i.map(j, va, PG) == (0, 0x101000)
    assert i.allow(j) == 0


@in_machine
def test_iova_ranges() -> None:
    i = Iommu()
    j = i.ioas()
    assert i.ranges(j, 1) == (0, 1, 1, [ALL])
    iopt = i.ctx.objects.load(j).iopt
    with iopt.iova_rwsem.write():
        iova_ranges.iopt_reserve_iova(iopt, 0x900000, 0x900FFF, "test")
        iova_ranges.iopt_reserve_iova(iopt, 0x900000, 0x900FFF, "again")
    assert i.ranges(j, 1, 1)[0] == EOPNOTSUPP
    assert i.ranges(77, 1)[0] == ENOENT
    assert i.ranges(j, 1) == (EMSGSIZE, 2, 1, [(0, 0x8FFFFF)])
    assert i.ranges(j, 0)[:3] == (EMSGSIZE, 2, 1)
    assert i.ranges(j, 2, ptr=8)[0] == EFAULT
    assert i.ranges(j, 4)[3][:2] == [(0, 0x8FFFFF), (0x901000, U64_MAX)]


@in_machine
def test_unmap() -> None:
    i = Iommu()
    j, va = i.ioas(), i.buffer(1 << 20)
    i.map(j, va, 2 * PG, 0x10000, 7)
    for error, args in [
        (ENOENT, (77, 0, PG)),
        (EINVAL, (j, 0x10000, 0)),
        (EOVERFLOW, (j, U64_MAX, 1)),
        (EOVERFLOW, (j, 1, U64_MAX)),
        (EOVERFLOW, (j, 2**64 - PG, 2 * PG)),
        (ENOENT, (j, 0x10000, PG)),
        (ENOENT, (j, 0x11000, PG)),
        (ENOENT, (j, 0x700000, PG)),
    ]:
        assert i.unmap(*args)[0] == error, args
    assert i.unmap(j, 0xF000, 0x4000) == (0, 2 * PG)
    i.map(j, va, PG, 0x10000, 7)
    i.map(j, va, 2 * PG, 0x12000, 7)
    assert i.unmap(j, 0x10000, 0x3000)[0] == ENOENT
    assert i.map(j, va, PG, 0x10000, 7)[0] == 0  # what lay before the cut is gone
    assert i.unmap(j, *ALL) == (0, 3 * PG)
    assert i.unmap(j, *ALL) == (0, 0)


@in_machine
def test_copy() -> None:
    i = Iommu()
    j, k, va = i.ioas(), i.ioas(), i.buffer(1 << 20)
    i.map(j, va, 4 * PG, 0x10000, 7)
    i.map(j, va, PG, 0x20000, 5)
    for error, args in [
        (EOPNOTSUPP, (k, j, PG, 0, 0x10000, 16 | 6)),
        (EOVERFLOW, (k, j, U64_MAX, 0, 0x10000)),
        (EOVERFLOW, (k, j, PG, 0, U64_MAX)),
        (EOVERFLOW, (k, j, PG, U64_MAX, 0x10000, 7)),
        (EINVAL, (k, j, PG, 0, 0x10000, 1)),
        (ENOENT, (k, 77, PG, 0, 0x10000)),
        (ENOENT, (77, j, PG, 0, 0x10000)),
        (EINVAL, (k, j, 0, 0, 0x10000)),
        (EOVERFLOW, (k, j, 0x10000, 0, 2**64 - 0x1000)),
        (ENOENT, (k, j, 8 * PG, 0, 0x10000)),
        (EPERM, (k, j, PG, 0x1000, 0x20000, 3)),
        (0, (k, j, PG, 0x1000, 0x20000, 5)),
        (EEXIST, (k, j, PG, 0x1000, 0x10000, 7)),
        (0, (k, j, PG, 0x8000, 0x11000, 7)),
        (0, (j, j, PG, 0x80000, 0x11000, 7)),
    ]:
        assert i.copy(*args)[0] == error, args
    assert i.copy(k, j, PG, 0xDEAD000, 0x10000) == (0, 0x2000)
    pages = i.ctx.objects.load(j).iopt.area_itree.iter_first(0x10000, 0x10000).pages
    i.unmap(j, *ALL)
    assert not is_freed(pages)
    i.unmap(k, *ALL)
    assert is_freed(pages)


def option(i: Iommu, option_id: int, op: int, obj: int, val: int = 0, res: int = 0) -> tuple[int, int]:
    error, out = i.call(uapi.IOMMU_OPTION, "IIHHIQ", 0, option_id, op, res, obj, val)
    return error, struct.unpack_from("<Q", out, 16)[0]


@in_machine
def test_options() -> None:
    i = Iommu()
    j, va = i.ioas(), i.buffer(PG)
    assert option(i, 0, 1, 0, 0, 1)[0] == EOPNOTSUPP
    assert option(i, 5, 1, 0)[0] == EOPNOTSUPP
    assert option(i, 0, 7, 0)[0] == EOPNOTSUPP
    assert option(i, 1, 7, j)[0] == EOPNOTSUPP
    assert option(i, 0, 1, j)[0] == EOPNOTSUPP
    assert option(i, 0, 1, 0, 9) == (0, 0)
    assert option(i, 0, 0, 0, 1)[0] == EBUSY
    assert option(i, 1, 1, 0)[0] == ENOENT
    assert option(i, 1, 1, j, 9) == (0, 1)
    assert option(i, 1, 0, j, 2)[0] == EINVAL
    assert option(i, 1, 0, j, 0)[0] == 0
    assert i.ranges(j, 1)[2] == PG
    assert option(i, 1, 0, j, 1)[0] == 0
    i.map(j, va + 16, 16, 0x20010, 7)
    assert option(i, 1, 0, j, 0)[0] == EADDRINUSE
    fresh = Iommu(i.process)
    assert option(fresh, 0, 0, 0, 2)[0] == EINVAL
    assert option(fresh, 0, 0, 0, 1)[0] == 0
    assert option(fresh, 0, 1, 0) == (0, 1)


def vfio_ioas(i: Iommu, op: int, ioas: int = 0, res: int = 0) -> tuple[int, int]:
    error, out = i.call(uapi.IOMMU_VFIO_IOAS, "IIHH", 0, ioas, op, res)
    return error, struct.unpack_from("<I", out, 4)[0]


@in_machine
def test_vfio_ioas() -> None:
    i = Iommu()
    assert vfio_ioas(i, 0, 0, 1)[0] == EOPNOTSUPP
    assert vfio_ioas(i, 3)[0] == EOPNOTSUPP
    assert vfio_ioas(i, 0)[0] == ENODEV
    assert vfio_ioas(i, 1, 55)[0] == ENOENT
    assert vfio_ioas(i, 2)[0] == 0
    j = i.ioas()
    assert vfio_ioas(i, 1, j)[0] == 0
    assert vfio_ioas(i, 0) == (0, j)
    assert i.destroy(j) == 0
    assert vfio_ioas(i, 0)[0] == ENODEV


@in_machine
def test_change_process() -> None:
    i = Iommu()
    assert i.call(uapi.IOMMU_IOAS_CHANGE_PROCESS, "II", 0, 1)[0] == EOPNOTSUPP
    assert i.call(uapi.IOMMU_IOAS_CHANGE_PROCESS, "II", 0, 0)[0] == 0
    i.map(i.ioas(), i.buffer(PG), PG)
    assert i.call(uapi.IOMMU_IOAS_CHANGE_PROCESS, "II", 0, 0)[0] == EINVAL


def map_file(i: Iommu, ioas: int, fd: int, start: int, n: int, iova: int = 0, flags: int = 6) -> tuple[int, int]:
    error, out = i.call(uapi.IOMMU_IOAS_MAP_FILE, "3Ii3Q", 0, flags, ioas, fd, start, n, iova)
    return error, struct.unpack_from("<Q", out, 32)[0]


@in_machine
def test_map_file_refusals_in_order() -> None:
    i = Iommu()
    j = i.ioas()
    for error, args in [
        (EOPNOTSUPP, (j, 99, 0, PG, 0, 8 | 6)),
        (EOVERFLOW, (j, 99, 0, U64_MAX)),
        (EINVAL, (j, 99, 0, PG, 0x1000, 1)),
        (ENOENT, (77, 99, 0, PG)),
        (EINVAL, (j, 99, 0, 0)),
        (EOVERFLOW, (j, 99, 2**64 - PG, 2 * PG)),
        (EBADF, (j, 99, 0, PG)),
        (EBADF, (j, -1, 0, PG)),
    ]:
        assert map_file(i, *args)[0] == error, args


@in_machine
def test_noiommu_get_pa() -> None:
    i = Iommu()
    j = i.ioas()
    i.map(j, i.buffer(PG), PG, 0x1000, 7)

    def get_pa(ioas: int, iova: int, n: int, flags: int = 0, res: int = 0) -> int:
        return i.call(uapi.IOMMU_IOAS_NOIOMMU_GET_PA, "4I3Q", 0, flags, ioas, res, iova, n, 0)[0]

    assert get_pa(j, 0x1000, PG, 1) == EOPNOTSUPP
    assert get_pa(j, 0x1000, PG, 0, 1) == EOPNOTSUPP
    assert get_pa(j, 0x1000, 0) == EINVAL
    assert get_pa(j, U64_MAX, 1) == EOVERFLOW
    assert get_pa(999, 0x1000, PG) == ENOENT
    assert get_pa(j, 0x900000, PG) == ENOENT
    assert get_pa(j, 0x1000, PG) == EOPNOTSUPP
    i.process.capabilities = set()
    assert get_pa(j, 0x1000, 0) == EPERM


@in_machine
def test_closing_the_file_destroys_everything() -> None:
    process = UserProcess()
    i = Iommu(process)
    j = i.ioas()
    i.map(j, i.buffer(PG), PG, 0x1000, 7)
    ctx, ioas = i.ctx, i.ctx.objects.load(j)
    again = process.dup(i.fd)
    process.close(i.fd)
    assert not is_freed(ioas)
    process.close(again)
    assert is_freed(ioas)
    assert is_freed(ctx)


@in_machine
def test_a_context_is_found_by_its_fd_only() -> None:
    i = Iommu()
    eventfd = i.process.eventfd()
    current().process = i.process
    for fd, error in ((99, "EBADF"), (eventfd, "EBADFD")):
        with pytest.raises(Errno, match=error):
            main.iommufd_ctx_from_fd(fd)
    ictx = main.iommufd_ctx_from_fd(i.fd)
    i.process.close(i.fd)
    assert not is_freed(ictx)
    main.iommufd_ctx_put(ictx)
    current().process = None

# SPDX-License-Identifier: GPL-2.0-only
"""What a vIOMMU has beside its devices: events, HW queues, memory that user space maps; and nesting without one."""

from __future__ import annotations

import struct
from errno import (
    E2BIG,
    EBUSY,
    EEXIST,
    EFAULT,
    EINVAL,
    EIO,
    ENOENT,
    ENXIO,
    EOPNOTSUPP,
    EOVERFLOW,
    EPERM,
    ERANGE,
    ESPIPE,
)

from toy_iommu import PAGE_SIZE, TOY, ToyVmm, on_toy, toy_event, toy_viommu
from vfio_user import refusal
from viommu_user import MEMORY

from uvfio.uapi import iommufd as uapi

U64_MAX = 2**64 - 1
IN, LOST = 0x41, 1


def record(sequence: int, value: int | None = None, length: int = 4) -> bytes:
    """An event, or without *value* the news that some were lost."""
    if value is None:
        return struct.pack("<II", LOST, sequence)
    return struct.pack("<II", 0, sequence) + value.to_bytes(length, "little")


def a_viommu(vmm: ToyVmm) -> int:
    return vmm.viommu(vmm.dev, vmm.parent(), TOY)


# Events


@on_toy()
def test_event_queue_is_refused_and_kept(vmm: ToyVmm) -> None:
    viommu = a_viommu(vmm)
    assert refusal(lambda: vmm.veventq(viommu, flags=1)) == EOPNOTSUPP
    assert refusal(
        lambda: vmm.ask(0x3B93, uapi.iommu_veventq_alloc(viommu_id=viommu, type=1, veventq_depth=1), 27)
    ) == (EINVAL)
    assert refusal(vmm.veventq, viommu, 0) == EOPNOTSUPP
    assert [refusal(vmm.veventq, viommu, 1, depth) for depth in (0, (1 << 19) + 1)] == [EINVAL] * 2
    assert refusal(vmm.veventq, 99, 1, 0) == EINVAL, "the depth comes first"
    assert refusal(vmm.veventq, vmm.ioas) == ENOENT
    queue, fd = vmm.veventq(viommu)
    assert refusal(vmm.veventq, viommu) == EEXIST
    other, fd2 = vmm.veventq(viommu, 7, 1 << 19)
    assert other == queue + 1, "the refused one gave its id back"
    assert refusal(vmm.destroy, queue) == EBUSY
    vmm.close(fd)
    assert refusal(vmm.destroy, viommu) == EBUSY
    vmm.destroy(queue)
    assert refusal(vmm.destroy, viommu) == EBUSY
    vmm.close(fd2)
    vmm.destroy(other)
    vmm.destroy(viommu)
    vmm.exit()


@on_toy()
def test_reading_events(vmm: ToyVmm) -> None:
    viommu = a_viommu(vmm)
    assert refusal(vmm.event, viommu, 1) == EOPNOTSUPP, "nobody listens"
    _queue, fd = vmm.veventq(viommu, depth=9)
    assert vmm.poll(fd) == 0
    assert vmm.read(fd, 8) == b""
    assert [refusal(vmm.read, fd, n) for n in (0, 7)] == [EINVAL] * 2
    vmm.event(viommu, 0x99)
    assert vmm.poll(fd) == IN
    assert [refusal(vmm.read, fd, n) for n in (7, 8, 11)] == [EINVAL] * 3
    assert refusal(vmm.write, fd, b"x") == EINVAL
    assert refusal(vmm.pread, fd, 12, 0) == ESPIPE
    vmm.event(viommu, 0x88, 8)
    vmm.event(viommu, 0x77)
    assert vmm.read(fd, 12 + 16 + 11) == record(0, 0x99) + record(1, 0x88, 8)
    file, page = vmm.files.get(fd), vmm.mm.mmap(PAGE_SIZE)
    assert refusal(lambda: vmm._with(file, lambda: file.f_op.read(file, page + PAGE_SIZE - 9, 99, 0))) == EFAULT
    assert vmm.read(fd, 12) == record(2, 0x77)
    assert vmm.poll(fd) == 0


@on_toy()
def test_lost_events(vmm: ToyVmm) -> None:
    viommu = a_viommu(vmm)
    _queue, fd = vmm.veventq(viommu, depth=2)
    for value in range(4):
        vmm.event(viommu, value)
    assert vmm.read(fd, 12 + 12 + 8) == record(0, 0) + record(1, 1) + record(3)
    for value in range(4):
        vmm.event(viommu, value)
    assert vmm.read(fd, 12 + 12 + 7) == record(4, 0) + record(5, 1)
    vmm.event(viommu, 4)
    assert vmm.read(fd, 99) == record(8, 4), "the gap tells what was lost"
    for value in range(3):
        vmm.event(viommu, value)
    vmm.read(fd, 24)
    assert vmm.poll(fd) == IN
    assert vmm.read(fd, 8) == record(11)
    assert vmm.poll(fd) == 0


@on_toy()
def test_events_of_a_closed_queue(vmm: ToyVmm) -> None:
    viommu = a_viommu(vmm)
    queue, fd = vmm.veventq(viommu)
    vmm.close(fd)
    for value in range(3):
        vmm.event(viommu, value)  # the queue is there, though nobody can read it
    vmm.destroy(queue)
    assert refusal(vmm.event, viommu, 1) == EOPNOTSUPP


# Memory


def with_memory(vmm: ToyVmm, value: int = 0x55) -> tuple[int, int, int]:
    """(vIOMMU, offset, length)."""
    at = vmm.buffer(toy_viommu(value=value).pack())
    cmd = uapi.iommu_viommu_alloc(
        dev_id=vmm.dev, hwpt_id=vmm.parent(), type=TOY, data_len=toy_viommu.size_of, data_uptr=at
    )
    viommu = int(vmm.ask(uapi.IOMMU_VIOMMU_ALLOC, cmd).out_viommu_id)
    data = toy_viommu.unpack(vmm.mm.read(at, toy_viommu.size_of))
    return viommu, data.offset, data.length


@on_toy()
def test_mapping_the_memory_of_a_viommu(vmm: ToyVmm) -> None:
    viommu, offset, length = with_memory(vmm)
    other = with_memory(vmm)
    assert (offset, length, other[1]) == (PAGE_SIZE, 2 * PAGE_SIZE, 3 * PAGE_SIZE)
    odd = [(length, offset + PAGE_SIZE), (PAGE_SIZE, offset), (length, 0), (2 * length, offset)]
    assert [refusal(vmm.mmap_file, vmm.iommufd, *each) for each in odd] == [ENXIO] * 4
    assert refusal(vmm.mmap_file, vmm.iommufd, length, offset, 7) == EPERM
    assert refusal(vmm.mmap_file, vmm.iommufd, length, offset, 7, False) == EINVAL
    at = vmm.mmap_file(vmm.iommufd, length, offset)
    assert vmm.mm.read(at, 4) == struct.pack("<I", 0x55)
    vmm.mm.write(at + 4, b"user")
    vmm.event(viommu, 0, 0)  # the driver copies it
    assert vmm.mm.read(at + 8, 4) == b"user"
    second = vmm.mmap_file(vmm.iommufd, length, offset, 1)
    vmm.munmap(at)
    assert refusal(vmm.destroy, viommu) == EBUSY
    vmm.munmap(second)
    vmm.destroy(viommu)
    assert refusal(vmm.mmap_file, vmm.iommufd, length, offset) == ENXIO
    assert with_memory(vmm)[1] == offset, "the lowest that is free"
    vmm.mmap_file(vmm.iommufd, other[2], other[1])
    vmm.exit()  # which unmaps it first


# HW queues


@on_toy()
def test_hw_queue_checks(vmm: ToyVmm) -> None:
    vmm.map_memory()
    viommu = a_viommu(vmm)
    assert refusal(lambda: vmm.hw_queue(viommu, 0, MEMORY, PAGE_SIZE, flags=1)) == EOPNOTSUPP
    assert refusal(vmm.hw_queue, viommu, 0, MEMORY, PAGE_SIZE, 0) == EOPNOTSUPP
    assert refusal(vmm.hw_queue, viommu, 0, MEMORY, 0) == EINVAL
    assert refusal(vmm.hw_queue, viommu, 0, U64_MAX, PAGE_SIZE) == EOVERFLOW
    assert refusal(vmm.hw_queue, vmm.ioas, 0, MEMORY, PAGE_SIZE) == ENOENT
    assert refusal(vmm.hw_queue, viommu, 0, MEMORY, PAGE_SIZE, 1) == EOPNOTSUPP
    assert refusal(vmm.hw_queue, viommu, 0, 1, U64_MAX) == ERANGE
    assert refusal(vmm.hw_queue, viommu, 0, MEMORY + 16 * PAGE_SIZE, PAGE_SIZE) == ENOENT
    assert refusal(vmm.hw_queue, viommu, 0, MEMORY, 2 * PAGE_SIZE) == EFAULT, "not in one piece"
    assert refusal(vmm.hw_queue, viommu, 2, MEMORY, PAGE_SIZE) == EINVAL
    assert refusal(vmm.hw_queue, viommu, 1, MEMORY, PAGE_SIZE) == EIO
    assert vmm.unmap(MEMORY, 16 * PAGE_SIZE) == 16 * PAGE_SIZE, "nothing of them is pinned"


@on_toy()
def test_hw_queue_needs_readable_memory(vmm: ToyVmm) -> None:
    at = vmm.mm.mmap(PAGE_SIZE)
    cmd = uapi.iommu_ioas_map(flags=3, ioas_id=vmm.ioas, user_va=at, length=PAGE_SIZE, iova=MEMORY)
    vmm.ask(uapi.IOMMU_IOAS_MAP, cmd)
    assert refusal(vmm.hw_queue, a_viommu(vmm), 0, MEMORY, PAGE_SIZE) == EPERM


@on_toy()
def test_hw_queue_keeps_its_memory(vmm: ToyVmm) -> None:
    at = vmm.map_memory()
    more = uapi.iommu_ioas_map(flags=7, ioas_id=vmm.ioas, user_va=at, length=PAGE_SIZE, iova=2 * MEMORY)
    vmm.ask(uapi.IOMMU_IOAS_MAP, more)
    viommu = a_viommu(vmm)
    first = vmm.hw_queue(viommu, 0, MEMORY + PAGE_SIZE // 2, PAGE_SIZE // 2)
    assert refusal(vmm.hw_queue, viommu, 0, MEMORY, PAGE_SIZE) == EEXIST
    second = vmm.hw_queue(viommu, 1, MEMORY, PAGE_SIZE)
    model = vmm.files.get(vmm.iommufd).private_data.objects.load(viommu)
    assert [each.base_pa for each in model.hw_queues] == [vmm.mm.phys(at) + PAGE_SIZE // 2, vmm.mm.phys(at)]
    assert second == first + 2, "between them is the access that pins"
    assert [refusal(vmm.destroy, each) for each in (first, first + 1, second + 1, viommu)] == [EBUSY] * 4
    assert refusal(vmm.unmap, MEMORY, 16 * PAGE_SIZE) == EBUSY
    assert refusal(vmm.unmap, 0, U64_MAX) == EBUSY
    vmm.destroy(second)
    vmm.destroy(first)
    assert vmm.unmap(MEMORY, 16 * PAGE_SIZE) == 16 * PAGE_SIZE
    vmm.destroy(viommu)


@on_toy()
def test_an_iommufd_with_everything_is_closed(vmm: ToyVmm) -> None:
    vmm.map_memory()
    viommu, _offset, _length = with_memory(vmm)
    vmm.hw_queue(viommu, 0, MEMORY, PAGE_SIZE)
    vmm.hw_queue(viommu, 1, MEMORY, PAGE_SIZE)
    vmm.veventq(viommu)
    vmm.attach(vmm.devices[0], vmm.toy_nested(viommu))
    vmm.exit()


# Nesting without a vIOMMU


@on_toy()
def test_nested_on_a_parent(vmm: ToyVmm) -> None:
    parent, plain = vmm.parent(), vmm.hwpt(vmm.dev, vmm.ioas)
    assert refusal(vmm.toy_nested, plain) == EINVAL
    assert refusal(lambda: vmm.toy_nested(plain, flags=1)) == EOPNOTSUPP
    assert refusal(vmm.hwpt, vmm.dev, parent) == EOPNOTSUPP, "no data"
    assert refusal(vmm.hwpt, vmm.dev, parent, 0, bytes(4), 5) == EOPNOTSUPP
    assert refusal(vmm.hwpt, vmm.dev, parent, 0, bytes(8), TOY) == EINVAL
    assert refusal(lambda: vmm.hwpt(vmm.dev, parent, 0, bytes(4), TOY, data_uptr=8)) == EFAULT
    automatic = vmm.attach(vmm.devices[0], vmm.ioas)
    assert refusal(vmm.toy_nested, automatic) == EINVAL
    nested = vmm.toy_nested(parent)
    assert refusal(vmm.toy_nested, nested) == EINVAL
    assert vmm.attach(vmm.devices[0], nested) == nested
    assert refusal(vmm.destroy, parent) == EBUSY
    assert refusal(vmm.destroy, nested) == EBUSY
    vmm.attach(vmm.devices[0], plain)
    vmm.destroy(nested)
    vmm.destroy(parent)
    assert refusal(vmm.hwpt, vmm.dev, vmm.ioas, 0, bytes(4), 5) == EOPNOTSUPP
    vmm.hwpt(vmm.dev, vmm.ioas, 0, bytes(4), TOY)  # a paging one whose driver was told more


@on_toy()
def test_invalidation_counts_what_it_has_done(vmm: ToyVmm) -> None:
    viommu = a_viommu(vmm)
    vmm.veventq(viommu)
    nested = vmm.toy_nested(vmm.parent())
    events = toy_event(value=1, length=4).pack() * 3
    assert vmm.invalidate(viommu, events, 8, TOY) == 3
    assert vmm.invalidate(viommu, b"", 0, TOY, entry_num=0) == 0
    assert refusal(vmm.invalidate, viommu, events, 8, 1) == EINVAL
    assert refusal(vmm.invalidate, viommu, events + bytes(9), 11, TOY) == E2BIG
    assert refusal(vmm.invalidate, nested, events, 8, 1) == EINVAL
    assert refusal(vmm.invalidate, vmm.ioas, events, 8, TOY) == EINVAL
    assert refusal(vmm.page_request, nested) == EINVAL
    assert vmm.done == 0

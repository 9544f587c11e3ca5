# SPDX-License-Identifier: GPL-2.0-only
"""Page faults of devices: from the hardware through a fault queue to user space and back."""

from __future__ import annotations

import struct
from errno import EBUSY, EFAULT, EINVAL, ENOENT, EOPNOTSUPP, ESPIPE
from typing import Any

from toy_iommu import ToyVmm, on_toy
from vfio_user import refusal

from uvfio.linux.iommu.io_pgfault import iopf_queue_discard_partial
from uvfio.uapi.iommufd import iommu_hwpt_pgfault

IN, OUT = 0x41, 0x4
FAULT_ID_VALID, NEST_PARENT, PASID = 4, 1, 8
RECORD = iommu_hwpt_pgfault.size_of


def records(data: bytes) -> list[Any]:
    return [iommu_hwpt_pgfault.unpack(data[at : at + RECORD]) for at in range(0, len(data), RECORD)]


def respond(vmm: ToyVmm, fd: int, *answers: tuple[int, int]) -> int:
    return vmm.write(fd, b"".join(struct.pack("<II", *answer) for answer in answers))


def attached(vmm: ToyVmm) -> tuple[int, int, int]:
    """(queue, its fd, nested page table that uses it and is attached)."""
    queue, fd = vmm.fault_queue()
    nested = vmm.toy_nested(vmm.parent(), flags=FAULT_ID_VALID, fault_id=queue)
    vmm.attach(vmm.devices[0], nested)
    return queue, fd, nested


@on_toy()
def test_queue_is_refused_and_kept(vmm: ToyVmm) -> None:
    assert refusal(vmm.fault_queue, 1) == EOPNOTSUPP
    queue, fd = vmm.fault_queue()
    assert vmm.poll(fd) == OUT
    assert refusal(vmm.destroy, queue) == EBUSY
    parent = vmm.parent()
    assert refusal(lambda: vmm.toy_nested(parent, flags=FAULT_ID_VALID, fault_id=99)) == ENOENT
    assert refusal(lambda: vmm.toy_nested(parent, flags=FAULT_ID_VALID, fault_id=parent)) == ENOENT
    assert refusal(lambda: vmm.hwpt(vmm.dev, vmm.ioas, FAULT_ID_VALID | NEST_PARENT, fault_id=queue)) == EOPNOTSUPP
    paging = vmm.hwpt(vmm.dev, vmm.ioas, FAULT_ID_VALID, fault_id=queue)
    nested = vmm.toy_nested(parent, flags=FAULT_ID_VALID, fault_id=queue)
    vmm.close(fd)
    assert refusal(vmm.destroy, queue) == EBUSY, "two page tables use it"
    vmm.destroy(paging)
    assert refusal(vmm.destroy, queue) == EBUSY
    vmm.destroy(nested)
    vmm.destroy(queue)
    vmm.exit()


@on_toy()
def test_id_comes_back_when_the_answer_cannot_be_written(vmm: ToyVmm) -> None:
    first, fd = vmm.fault_queue()
    readonly = vmm.mm.mmap(4096, writable=False)
    vmm.mm.regions[-1].memory.data[:4] = struct.pack("<I", 16)
    assert refusal(vmm.ioctl, vmm.iommufd, 0x3B8E, readonly) == EFAULT
    assert vmm.fault_queue() == (first + 1, fd + 1)


@on_toy()
def test_read_rules(vmm: ToyVmm) -> None:
    _queue, fd, nested = attached(vmm)
    assert vmm.read(fd, 0) == vmm.read(fd, RECORD) == b""
    assert refusal(vmm.read, fd, RECORD - 1) == ESPIPE
    assert refusal(vmm.pread, fd, RECORD, 0) == ESPIPE
    vmm.page_request(nested, pasid=1)
    assert vmm.poll(fd) == IN | OUT
    assert refusal(vmm.read, fd, 0) == EINVAL, "not even the first has room"
    vmm.page_request(nested, pasid=0, grpid=9, addr=0x1000, perm=2)
    one, two = records(vmm.read(fd, 3 * RECORD))
    assert (one.flags, one.dev_id, one.pasid, one.grpid, one.perm, one.addr) == (3, vmm.dev, 1, 2, 3, 0xDEAD000)
    assert (two.flags, two.pasid, two.grpid, two.perm, two.addr) == (2, 0, 9, 2, 0x1000)
    assert (one.length, one.cookie, two.cookie) == (0, 1, 2)
    assert vmm.poll(fd) == OUT
    assert vmm.read(fd, RECORD) == b""


@on_toy()
def test_groups_are_read_whole(vmm: ToyVmm) -> None:
    _queue, fd, nested = attached(vmm)
    vmm.page_request(nested, times=3, grpid=5, last=0)
    vmm.page_request(nested, grpid=6)
    vmm.page_request(nested, grpid=5, addr=0x9000)
    vmm.page_request(nested, grpid=7, times=2)
    assert [each.grpid for each in records(vmm.read(fd, 3 * RECORD))] == [6], "the next has four"
    assert refusal(vmm.read, fd, 3 * RECORD) == EINVAL
    group = records(vmm.read(fd, 5 * RECORD))
    assert [(each.grpid, each.cookie, each.flags) for each in group] == [(5, 2, 0)] * 3 + [(5, 2, 2)]
    assert len(records(vmm.read(fd, 5 * RECORD))) == 2
    assert respond(vmm, fd, (2, 0)) == 8
    assert vmm.ops.responses == [(0, 5, 0)], "one answer for all of them"
    vmm.page_request(nested, grpid=8, times=2, last=0)
    iopf_queue_discard_partial(vmm.ops.queue)
    vmm.page_request(nested, grpid=8)
    assert len(records(vmm.read(fd, 5 * RECORD))) == 1


@on_toy()
def test_a_bad_buffer_loses_nothing(vmm: ToyVmm) -> None:
    _queue, fd, nested = attached(vmm)
    for grpid in (1, 2):
        vmm.page_request(nested, grpid=grpid, times=2)
    file = vmm.files.get(fd)
    page = vmm.mm.mmap(4096)

    def read(room: int, count: int) -> int:
        return vmm._with(file, lambda: file.f_op.read(file, page + 4096 - room, count, 0))

    assert refusal(read, RECORD, 4 * RECORD) == EFAULT, "half of the first group"
    assert read(3 * RECORD, 4 * RECORD) == 2 * RECORD
    (one, _), (two, _) = records(vmm.mm.read(page + 4096 - 3 * RECORD, 2 * RECORD)), records(vmm.read(fd, 2 * RECORD))
    assert (one.grpid, one.cookie, two.grpid, two.cookie) == (1, 1, 2, 2)


@on_toy()
def test_write_rules(vmm: ToyVmm) -> None:
    _queue, fd, nested = attached(vmm)
    for grpid in (1, 2, 3):
        vmm.page_request(nested, grpid=grpid)
    assert refusal(respond, vmm, fd, (1, 0)) == EINVAL, "nobody has read it"
    vmm.read(fd, 3 * RECORD)
    assert vmm.write(fd, b"") == 0
    assert refusal(vmm.write, fd, bytes(7)) == ESPIPE
    assert refusal(vmm.pwrite, fd, bytes(8), 0) == ESPIPE
    assert refusal(respond, vmm, fd, (1, 2)) == EINVAL
    assert refusal(respond, vmm, fd, (4, 0)) == EINVAL
    assert respond(vmm, fd, (2, 1), (2, 0), (1, 0)) == 8, "up to the one that is none"
    assert respond(vmm, fd, (1, 0)) == 8
    assert vmm.ops.responses == [(0, 2, 1), (0, 1, 0)]
    vmm.page_request(nested, grpid=4)
    assert records(vmm.read(fd, RECORD))[0].cookie == 1, "the lowest that is free"


@on_toy()
def test_what_is_attached_no_more_is_answered(vmm: ToyVmm) -> None:
    _queue, fd, nested = attached(vmm)
    other, fd2 = vmm.fault_queue()
    paging = vmm.hwpt(vmm.dev, vmm.ioas, FAULT_ID_VALID, fault_id=other)
    for grpid in (1, 2):
        vmm.page_request(nested, grpid=grpid)
    cookie = records(vmm.read(fd, RECORD))[0].cookie
    vmm.attach(vmm.devices[0], paging)
    assert sorted(vmm.ops.responses) == [(0, 1, 1), (0, 2, 1)], "the one that was read, and the one that was not"
    assert vmm.poll(fd) == OUT
    assert refusal(respond, vmm, fd, (cookie, 0)) == EINVAL
    vmm.ops.responses.clear()
    vmm.page_request(nested, grpid=3)  # it is a button of the device, whatever that is on
    assert vmm.read(fd, RECORD) == b""
    assert records(vmm.read(fd2, RECORD))[0].grpid == 3
    vmm.close(vmm.devices[0])
    assert vmm.ops.responses == [(0, 3, 1)]
    vmm.exit()


@on_toy()
def test_nobody_is_there_to_help(vmm: ToyVmm) -> None:
    _queue, fd = vmm.fault_queue()
    nested = vmm.toy_nested(vmm.parent())
    assert refusal(vmm.page_request, nested) == EINVAL, "not attached"
    vmm.attach(vmm.devices[0], nested)
    assert refusal(vmm.page_request, nested) == EINVAL, "no queue"
    assert refusal(lambda: vmm.page_request(nested, pasid=3)) == EINVAL
    assert vmm.ops.responses == [(0, 2, 1)] * 2 + [(3, 2, 1)]
    assert vmm.poll(fd) == OUT


@on_toy()
def test_faults_of_a_pasid_go_to_its_page_table(vmm: ToyVmm) -> None:
    queue, fd = vmm.fault_queue()
    plain = vmm.hwpt(vmm.dev, vmm.ioas, PASID)
    paging = vmm.hwpt(vmm.dev, vmm.ioas, PASID | FAULT_ID_VALID, fault_id=queue)
    button = vmm.toy_nested(vmm.parent())
    vmm.attach(vmm.devices[0], plain)
    vmm.attach_pasid(5, paging)
    assert refusal(vmm.page_request, button) == EINVAL
    assert refusal(lambda: vmm.page_request(button, pasid=6)) == EINVAL, "the plain one is not nested"
    vmm.page_request(button, pasid=5)
    assert records(vmm.read(fd, RECORD))[0].pasid == 5
    vmm.ops.responses.clear()
    vmm.attach_pasid(5, plain)
    assert vmm.ops.responses == [(5, 2, 1)]
    assert vmm.ops.queue.devices == [], "and the device asks no more"


@on_toy()
def test_the_iommufd_closes_last(vmm: ToyVmm) -> None:
    _queue, fd, nested = attached(vmm)
    vmm.page_request(nested)
    ictx_file = vmm.files.get(vmm.iommufd)
    vmm.close(vmm.devices[0])
    vmm.close(vmm.iommufd)
    assert not ictx_file.released
    assert vmm.poll(fd) == OUT
    vmm.close(fd)
    assert ictx_file.released

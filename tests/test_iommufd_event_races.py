# SPDX-License-Identifier: GPL-2.0-only
"""Event queues and mappings of an iommufd over all interleavings of two tasks."""

from __future__ import annotations

import struct
from collections.abc import Callable
from errno import ENOENT
from typing import Any

from iommu_machine import A, Iommu, dev
from test_iommufd_races import Bodies, every_order
from toy_iommu import TOY, ToyOps, page_request, toy_page_request, toy_viommu

from uvfio.linux.iommu.iommufd import iommufd_viommu_report_event
from uvfio.linux.iommu.vtd import intel_iommu
from uvfio.linux.iommufd import device
from uvfio.uapi import iommufd as uapi

PASID_FAULT = 8 | 4
RECORD = 40


def refused(call: Callable[[], Any]) -> int:
    """For the tasks: success is 0, whatever the call answers."""
    call()
    return 0


class Guest(Iommu):
    """A device bound to an iommufd, with a parent for nesting."""

    def __init__(self) -> None:
        super().__init__()
        self.idev = device.iommufd_device_bind(self.ctx, dev(A))
        self.q = self.ioas()
        self.parent = self.hwpt(self.idev.id, self.q, 1)[1]

    def fault_queue(self) -> tuple[int, int]:
        _error, out = self.call(uapi.IOMMU_FAULT_QUEUE_ALLOC, "4I", 0, 0, 0, 0)
        return struct.unpack_from("<II", out, 8)

    def with_fault_queue(self, fault_id: int) -> int:
        """A page table, attached."""
        _error, out = self.call(
            uapi.IOMMU_HWPT_ALLOC, "8IQ2I", 0, PASID_FAULT, self.idev.id, self.q, 0, 0, 0, 0, 0, fault_id, 0
        )
        hwpt = int(struct.unpack_from("<I", out, 16)[0])
        device.iommufd_device_attach(self.idev, 0, hwpt)
        return hwpt

    def viommu(self) -> Any:
        at = self.buffer(toy_viommu.size_of)
        _error, out = self.call(
            uapi.IOMMU_VIOMMU_ALLOC, "8IQ", 0, 0, TOY, self.idev.id, self.parent, 0, toy_viommu.size_of, 0, at
        )
        return self.ctx.objects.load(struct.unpack_from("<I", out, 20)[0])

    def veventq(self, viommu: Any) -> tuple[int, int]:
        _error, out = self.call(uapi.IOMMU_VEVENTQ_ALLOC, "8I", 0, 0, viommu.id, TOY, 1, 0, 0, 0)
        return struct.unpack_from("<II", out, 20)

    def page_request(self, grpid: int = 1) -> None:
        page_request(self.idev.dev, toy_page_request(grpid=grpid, perm=1, last=1))

    def clean_up(self) -> None:
        device.iommufd_device_detach(self.idev, 0)
        device.iommufd_device_unbind(self.idev)
        self.process.exit()


def outcomes(setup: Callable[[], Bodies]) -> set[Any]:
    def first() -> None:
        intel_iommu().iommu.ops = ToyOps()

    return set(every_order(setup, before=first).outcomes)


def ops() -> ToyOps:
    found = intel_iommu().iommu.ops
    assert isinstance(found, ToyOps)
    return found


def test_read_against_detach_answers_once() -> None:
    def setup() -> Bodies:
        i = Guest()
        queue, fd = i.fault_queue()
        i.with_fault_queue(queue)
        i.page_request()

        def clean_up() -> None:
            assert ops().responses == [(0, 1, 1)]
            fault = i.ctx.objects.load(queue)
            assert not fault.deliver
            assert fault.response.empty(), "what is not attached has no cookie"
            i.clean_up()

        return (
            lambda: refused(lambda: i.process.read(fd, RECORD)),
            lambda: device.iommufd_device_detach(i.idev, 0),
            clean_up,
        )

    assert outcomes(setup) == {("ok", "ok")}


def test_response_against_replace_answers_once() -> None:
    def setup() -> Bodies:
        i = Guest()
        queue, fd = i.fault_queue()
        i.with_fault_queue(queue)
        i.page_request()
        i.process.read(fd, RECORD)

        def clean_up() -> None:
            assert len(ops().responses) == 1
            i.clean_up()

        return (
            lambda: refused(lambda: i.process.write(fd, struct.pack("<II", 1, 0))),
            lambda: refused(lambda: device.iommufd_device_replace(i.idev, 0, i.q)),
            clean_up,
        )

    assert outcomes(setup) == {("ok", "ok"), ("EINVAL", "ok")}


def test_a_fault_comes_while_another_is_read() -> None:
    def setup() -> Bodies:
        i = Guest()
        queue, fd = i.fault_queue()
        i.with_fault_queue(queue)
        i.page_request(1)
        got: list[bytes] = []

        def clean_up() -> None:
            got.append(i.process.read(fd, 2 * RECORD))
            groups = [struct.unpack_from("<I", b"".join(got), at + 12)[0] for at in (0, RECORD)]
            assert groups == [1, 2]
            i.clean_up()

        return lambda: got.append(i.process.read(fd, RECORD)), lambda: i.page_request(2), clean_up

    assert outcomes(setup) == {("ok", "ok")}


def test_page_table_with_a_queue_against_its_destruction() -> None:
    def setup() -> Bodies:
        i = Guest()
        queue, fd = i.fault_queue()
        i.process.close(fd)

        def alloc() -> int:
            return i.call(uapi.IOMMU_HWPT_ALLOC, "8IQ2I", 0, 4, i.idev.id, i.q, 0, 0, 0, 0, 0, queue, 0)[0]

        return alloc, lambda: i.destroy(queue), i.clean_up

    assert outcomes(setup) == {("ok", "EBUSY"), ("ENOENT", "ok")}


def test_an_event_comes_while_another_is_read() -> None:
    def setup() -> Bodies:
        i = Guest()
        viommu = i.viommu()
        _queue, fd = i.veventq(viommu)
        iommufd_viommu_report_event(viommu, TOY, b"one.")
        got: list[bytes] = []

        def clean_up() -> None:
            got.append(i.process.read(fd, 64))
            data = b"".join(got)
            two = struct.pack("<II", 0, 0) + b"one." + struct.pack("<II", 0, 1) + b"two."
            assert data in (two, two[:12] + struct.pack("<II", 1, 1)), "the second may have been lost, and says so"
            iommufd_viommu_report_event(viommu, TOY, b"more")
            assert i.process.read(fd, 64) == struct.pack("<II", 0, 2) + b"more", "the depth counts right"
            i.clean_up()

        return (
            lambda: got.append(i.process.read(fd, 12)),
            lambda: iommufd_viommu_report_event(viommu, TOY, b"two."),
            clean_up,
        )

    assert outcomes(setup) == {("ok", "ok")}


def test_event_against_destruction_of_its_queue() -> None:
    def setup() -> Bodies:
        i = Guest()
        viommu = i.viommu()
        queue, fd = i.veventq(viommu)
        i.process.close(fd)

        def clean_up() -> None:
            assert i.destroy(queue) == ENOENT
            i.clean_up()

        return lambda: iommufd_viommu_report_event(viommu, TOY, b"late"), lambda: i.destroy(queue), clean_up

    assert outcomes(setup) == {("ok", "ok"), ("EOPNOTSUPP", "ok")}


def test_mmap_against_destruction_of_the_owner() -> None:
    """A reference that comes back from 0 would be a finding."""

    def setup() -> Bodies:
        i = Guest()
        viommu = i.viommu()
        where = next(iter(i.ctx.mt_mmap))
        return (
            lambda: refused(lambda: i.process.mmap_file(i.fd, 8192, where)),
            lambda: i.destroy(viommu.id),
            i.clean_up,
        )

    assert outcomes(setup) == {("ok", "EBUSY"), ("ENXIO", "ok")}

# SPDX-License-Identifier: GPL-2.0-only
"""An Intel IOMMU in scalable mode: what it takes, guests' first stages and their IOTLB, PASIDs."""

from __future__ import annotations

import struct
from errno import EFAULT, EINVAL, ENODEV, EOPNOTSUPP
from typing import Any

import pytest
from vfio_user import PG, refusal
from viommu_user import NEAR, Vmm, on
from x86_guest import FIRST, PASID_DEVICE, RW, SECOND, TABLES, VA, Guest, function, gpa

from uvfio.linux.base.pci import pci_host
from uvfio.linux.base.pci_dev import DmaFault
from uvfio.linux.iommu.first_stage import PTE_ACCESSED, PTE_DIRTY, PTE_LARGE, PTE_PRESENT, PTE_USER
from uvfio.linux.iommu.vtd import intel_iommu
from uvfio.machine import Machine
from uvfio.uapi.iommufd import (
    IOMMU_FAULT_QUEUE_ALLOC,
    IOMMU_GET_HW_INFO,
    IOMMU_HWPT_ALLOC_PASID,
    IOMMU_HWPT_FAULT_ID_VALID,
    iommu_fault_alloc,
    iommu_hw_info,
    iommu_hw_info_vtd,
)
from uvfio.uapi.vfio import VFIO_DEVICE_ATTACH_IOMMUFD_PT, VFIO_DEVICE_DETACH_IOMMUFD_PT

scalable = on("vtd,scalable-mode=on")
VTD_S1, U64_MAX = 1, 2**64 - 1


def table(root: int = gpa(TABLES[0]), flags: int = 0, width: int = 48, reserved: int = 0) -> bytes:
    return struct.pack("<2Q2I", flags, root, width, reserved)


def entry(addr: int = 0, npages: int = U64_MAX, flags: int = 0, reserved: int = 0) -> bytes:
    return struct.pack("<2Q2I", addr, npages, flags, reserved)


def nested(vmm: Vmm, parent: int, data: bytes | None = None, flags: int = 0, **more: int) -> int:
    return vmm.hwpt(vmm.dev, parent, flags, table() if data is None else data, VTD_S1, **more)


def invalidate(vmm: Vmm, hwpt: int, data: bytes, length: int = 24, **more: int) -> int:
    return vmm.invalidate(hwpt, data, length, 0, **more)


def attach_pasid(vmm: Vmm, pt_id: int, pasid: int) -> None:
    vmm.call(vmm.devices[0], VFIO_DEVICE_ATTACH_IOMMUFD_PT, struct.pack("<4I", 16, 1, pt_id, pasid))


def read_fails(text: str, va: int = VA) -> None:
    """The device cannot read *va*, and the IOMMU says why."""
    with pytest.raises(DmaFault):
        function().dma_read(va, 4)
    assert intel_iommu().faults[-1].text == text


@pytest.mark.parametrize("option", ["", ",scalable-mode=on", ",scalable-mode=on,nesting=off", ",dirty-tracking=on"])
def test_paging_flags(option: str) -> None:
    taken = {
        "": {0, 8},
        ",scalable-mode=on": {0, 1, 2, 3, 8, 9, 10, 11},
        ",scalable-mode=on,nesting=off": {0, 2, 8, 10},
        ",dirty-tracking=on": {0, 2, 8, 10},
    }

    def test(vmm: Vmm) -> None:
        refused = {flags: refusal(vmm.hwpt, vmm.dev, vmm.ioas, flags) for flags in range(16) if not flags & 4}
        assert {flags for flags, error in refused.items() if not error} == taken[option]
        assert {error for error in refused.values() if error} <= {EOPNOTSUPP}

    on("vtd" + option)(test)()


def test_what_the_registers_say() -> None:
    registers: dict[str, tuple[int, int]] = {}

    def of(iommu: str) -> None:
        def test(vmm: Vmm) -> None:
            at = vmm.mm.mmap(64)
            vmm.ask(IOMMU_GET_HW_INFO, iommu_hw_info(dev_id=vmm.dev, data_len=24, data_uptr=at))
            info = iommu_hw_info_vtd.unpack(vmm.mm.read(at, 24))
            registers[iommu] = info.cap_reg, info.ecap_reg

        on(iommu)(test)()

    for iommu in ("vtd", "vtd,aw-bits=48", "vtd,nesting=on"):
        of(iommu)
    assert registers["vtd"] == (0xD2008C22260286, 0xF00F4A)  # QEMU's
    assert registers["vtd,aw-bits=48"][0] >> 16 & 0x3F == 47
    nest, flts, pasid, slads = (registers["vtd,nesting=on"][1] >> bit & 1 for bit in (26, 47, 40, 45))
    assert (nest, flts, pasid, slads) == (1, 1, 0, 0)


@pytest.mark.parametrize(
    ("iommu", "message"),
    [
        ("vtd,nesting=yes", "nesting must be on or off, not 'yes'"),
        (
            "vtd,foo=on",
            "one of scalable-mode, nesting, dirty-tracking, pasid, page-requests, aw-bits, not 'foo'",
        ),
        ("vtd,aw-bits=x", "aw-bits must be a number, not 'x'"),
        ("none,x=y", "an option of none must be one of unsafe-noiommu-mode"),
        ("elbow", "the iommu must be one of"),
    ],
)
def test_options_that_do_not_exist(iommu: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Machine(iommu=iommu)


@pytest.mark.parametrize(
    ("iommu", "message"),
    [("vtd,aw-bits=57", "aw-bits must be 39 or 48, not 57"), ("vtd,scalable-mode=off,pasid=on", "must have scalable")],
)
def test_options_that_no_hardware_has(iommu: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Machine(iommu=iommu).boot()


@scalable
def test_nested_page_table_is_refused(vmm: Vmm) -> None:
    parent, plain = vmm.parent(), vmm.hwpt(vmm.dev, vmm.ioas)
    good = table()
    assert refusal(vmm.hwpt, vmm.dev, parent) == EOPNOTSUPP  # no data
    assert refusal(vmm.hwpt, vmm.dev, parent, 0, good, 2) == EOPNOTSUPP  # another's
    assert refusal(nested, vmm, parent, good, 1) == EOPNOTSUPP
    assert refusal(nested, vmm, plain) == EINVAL
    assert refusal(nested, vmm, parent, good[:20]) == EINVAL
    assert refusal(nested, vmm, parent, good + bytes(8)) == EINVAL
    assert refusal(nested, vmm, parent, table(flags=8)) == EINVAL
    assert refusal(nested, vmm, parent, table(reserved=1)) == EINVAL
    assert refusal(lambda: vmm.hwpt(vmm.dev, parent, 0, good, 1, data_uptr=8)) == EFAULT
    ours = nested(vmm, parent, table(flags=7), IOMMU_HWPT_ALLOC_PASID)
    assert refusal(nested, vmm, ours) == EINVAL  # it is no parent itself
    assert refusal(vmm.viommu, vmm.dev, parent) == EOPNOTSUPP
    vmm.destroy(ours)
    vmm.destroy(parent)


@scalable
def test_a_width_that_the_hardware_cannot_walk(vmm: Vmm) -> None:
    parent = vmm.parent()
    for width in (39, 57):
        assert refusal(vmm.attach, vmm.devices[0], nested(vmm, parent, table(width=width))) == EINVAL
    vmm.attach(vmm.devices[0], nested(vmm, parent))


@on("vtd")
def test_by_itself_it_cannot_nest(vmm: Vmm) -> None:
    plain = vmm.hwpt(vmm.dev, vmm.ioas)
    assert refusal(vmm.parent) == EOPNOTSUPP
    assert refusal(nested, vmm, plain) == EINVAL


@scalable
def test_two_stages_and_a_stale_iotlb(vmm: Vmm) -> None:
    guest = Guest(vmm)
    hwpt = nested(vmm, vmm.parent())
    vmm.attach(vmm.devices[0], hwpt)
    pdev = function()
    assert pdev.dma_read(VA, 5) == b"first"
    guest.point_to(SECOND)
    assert pdev.dma_read(VA, 5) == b"first", "the guest has not invalidated"
    assert invalidate(vmm, hwpt, entry(VA - PG, 1)) == 1
    assert pdev.dma_read(VA, 5) == b"first", "that was another page"
    assert invalidate(vmm, hwpt, entry(VA, 1, 1)) == 1
    assert pdev.dma_read(VA, 6) == b"second"
    guest.point_to(FIRST)
    assert invalidate(vmm, hwpt, entry()) == 1
    assert pdev.dma_read(VA, 5) == b"first"
    guest.point_to(SECOND)
    vmm.attach(vmm.devices[0], nested(vmm, vmm.parent()))
    vmm.attach(vmm.devices[0], hwpt)
    assert pdev.dma_read(VA, 6) == b"second", "nothing is left of a table that was taken off"


@scalable
def test_entries(vmm: Vmm) -> None:
    parent = vmm.parent()
    hwpt = nested(vmm, parent)
    good = entry()
    assert invalidate(vmm, hwpt, good + good) == 2
    assert invalidate(vmm, hwpt, b"", entry_num=0) == 0
    assert refusal(vmm.invalidate, hwpt, good, 24, 1) == EINVAL  # the type of another
    assert refusal(lambda: vmm.invalidate(hwpt, b"", kind=1, entry_num=0)) == EINVAL
    assert refusal(invalidate, vmm, hwpt, good[:16], 16) == EINVAL
    assert refusal(invalidate, vmm, hwpt, good + bytes(8), 32) == EINVAL
    assert refusal(lambda: invalidate(vmm, hwpt, good, data_uptr=8)) == EFAULT
    for bad, error in (
        (entry(flags=2), EOPNOTSUPP),
        (entry(reserved=1), EOPNOTSUPP),
        (entry(1, 1), EINVAL),
        (entry(PG), EINVAL),
    ):
        assert refusal(invalidate, vmm, hwpt, good + bad + good) == error
        assert vmm.done == 1
    assert refusal(invalidate, vmm, parent, good) == EINVAL


@scalable
def test_what_the_hardware_writes_into_the_table(vmm: Vmm) -> None:
    guest = Guest(vmm)
    vmm.attach(vmm.devices[0], nested(vmm, vmm.parent()))
    pdev = function()
    pdev.dma_read(VA, 4)
    assert guest.leaf() & (PTE_ACCESSED | PTE_DIRTY) == PTE_ACCESSED
    assert guest.get(TABLES[0], VA >> 39 & 0x1FF) & PTE_ACCESSED
    pdev.dma_write(VA, b"dirty")
    assert guest.leaf() & PTE_DIRTY
    assert vmm.mm.read(guest.at + FIRST * PG, 5) == b"dirty"


@scalable
def test_why_it_faults(vmm: Vmm) -> None:
    guest = Guest(vmm)
    hwpt = nested(vmm, vmm.parent())
    vmm.attach(vmm.devices[0], hwpt)
    read_fails("SM: Present bit in first-level paging entry is clear", VA + PG)
    read_fails("SM: First-level address is not canonical", 1 << 47)
    guest.point_to(FIRST, PTE_PRESENT)
    read_fails("SM: U/S set 0 for first-level translation with user privilege")
    guest.point_to(FIRST, PTE_PRESENT | PTE_USER)
    with pytest.raises(DmaFault):
        function().dma_write(VA, b"x")
    assert intel_iommu().faults[-1].text == "SM: No write permission for Write/AtomicOp request"
    guest.point_to(1000)
    invalidate(vmm, hwpt, entry())
    read_fails("SM: Read/Write permission error in second-level paging entry")
    guest.put(TABLES[2], VA >> 21 & 0x1FF, gpa(1000) | RW)
    invalidate(vmm, hwpt, entry())
    read_fails("SM: Read permission error in first-level paging entry in Nested translation")


@scalable
def test_large_pages_of_the_guest(vmm: Vmm) -> None:
    guest = Guest(vmm)
    # 2 MiB from where the guest's memory starts, which is not all there.
    guest.put(TABLES[2], VA >> 21 & 0x1FF, gpa(0) | RW | PTE_LARGE)
    vmm.attach(vmm.devices[0], nested(vmm, vmm.parent()))
    start = VA & ~0x1FFFFF
    assert function().dma_read(start + FIRST * PG, 5) == b"first"
    read_fails("SM: Read/Write permission error in second-level paging entry", start + 16 * PG)


@scalable
def test_what_is_unmapped_below_is_gone_at_once(vmm: Vmm) -> None:
    Guest(vmm)
    vmm.attach(vmm.devices[0], nested(vmm, vmm.parent()))
    assert function().dma_read(VA, 5) == b"first"
    vmm.unmap_memory()
    read_fails("SM: Read/Write permission error in second-level paging entry")


@on("vtd,scalable-mode=on", PASID_DEVICE)
def test_pasids(vmm: Vmm) -> None:
    guest = Guest(vmm)
    answer = vmm.ask(IOMMU_GET_HW_INFO, iommu_hw_info(dev_id=vmm.dev))
    assert answer.out_max_pasid_log2 == 8, "the device's, which are less than the hardware's"
    plain = vmm.hwpt(vmm.dev, vmm.ioas, IOMMU_HWPT_ALLOC_PASID)
    vmm.attach(vmm.devices[0], plain)
    hwpt = nested(vmm, vmm.parent(), None, IOMMU_HWPT_ALLOC_PASID)
    attach_pasid(vmm, hwpt, 7)
    pdev = function(NEAR)
    assert pdev.dma_read(VA, 5, pasid=7) == b"first"
    guest.point_to(SECOND)
    assert pdev.dma_read(VA, 5, pasid=7) == b"first"
    assert invalidate(vmm, hwpt, entry()) == 1
    assert pdev.dma_read(VA, 6, pasid=7) == b"second"
    assert pdev.dma_read(gpa(FIRST), 5) == b"first", "its own address space is another"
    for pasid in (8, 256):
        with pytest.raises(DmaFault):
            pdev.dma_read(VA, 6, pasid)
    assert "Read PASID 0x8]" in str(intel_iommu().faults[-1])
    assert refusal(attach_pasid, vmm, hwpt, 256) == EINVAL
    vmm.call(vmm.devices[0], VFIO_DEVICE_DETACH_IOMMUFD_PT, struct.pack("<3I", 12, 1, 7))
    with pytest.raises(DmaFault):
        pdev.dma_read(VA, 6, pasid=7)


def fault_queue(vmm: Vmm) -> tuple[int, int]:
    """(id, fd)."""
    answer = vmm.ask(IOMMU_FAULT_QUEUE_ALLOC, iommu_fault_alloc())
    return answer.out_fault_id, answer.out_fault_fd


@on("vtd,scalable-mode=on", PASID_DEVICE)
def test_page_requests(vmm: Vmm) -> None:
    answer = vmm.ask(IOMMU_GET_HW_INFO, iommu_hw_info(dev_id=vmm.dev))
    assert not answer.out_capabilities & 8, "it has ATS"
    queue, fd = fault_queue(vmm)
    vmm.attach(vmm.devices[0], vmm.hwpt(vmm.dev, vmm.ioas, IOMMU_HWPT_ALLOC_PASID))
    flags = IOMMU_HWPT_ALLOC_PASID | IOMMU_HWPT_FAULT_ID_VALID
    hwpt = nested(vmm, vmm.parent(), None, flags, fault_id=queue)
    model: Any = pci_host().hardware[NEAR]
    attach_pasid(vmm, hwpt, 7)
    model.page_request(VA + 5, write=False, pasid=7, group=3, last=False)
    assert vmm.read(fd, 80) == b""
    model.page_request(VA + PG, write=True, pasid=7, group=3)
    records = struct.unpack("<6IQ2I6IQ2I", vmm.read(fd, 80))
    assert (records[2:5], records[6], records[11:14], records[15]) == ((7, 3, 1), VA, (7, 3, 2), VA + PG)
    assert model.responses == []
    vmm.write(fd, struct.pack("<2I", records[8], 0))
    model.page_request(VA, write=False, pasid=8, group=4)
    model.page_request(VA, write=False, pasid=0, group=5)
    assert model.responses == [(7, 3, True), (8, 4, False), (0, 5, False)]
    model.page_request(VA, write=False, pasid=7, group=6)
    vmm.call(vmm.devices[0], VFIO_DEVICE_DETACH_IOMMUFD_PT, struct.pack("<3I", 12, 1, 7))
    assert model.responses[-1] == (7, 6, False), "nobody will answer any more"


@on("vtd,scalable-mode=on")
def test_a_device_that_cannot_ask_for_pages(vmm: Vmm) -> None:
    queue, _fd = fault_queue(vmm)
    hwpt = vmm.hwpt(vmm.dev, vmm.ioas, IOMMU_HWPT_FAULT_ID_VALID, fault_id=queue)
    assert refusal(vmm.attach, vmm.devices[0], hwpt) == ENODEV

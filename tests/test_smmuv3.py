# SPDX-License-Identifier: GPL-2.0-only
"""An SMMUv3 beyond vIOMMUs: events for guests, substreams, ranges of a TLBI, PASIDs of the kernel."""

from __future__ import annotations

import struct
from errno import EINVAL, EOPNOTSUPP

import pytest
from arm_guest import ASID, CDS, FIRST, L1CDS, SECOND, VA, ArmGuest, events, ipa, veventq
from vfio_user import PG, refusal
from viommu_user import BYPASS, TRANSLATE, Vmm, on, on_smmu
from x86_guest import PASID_DEVICE, function

from uvfio.linux.base.pci_dev import DmaFault
from uvfio.linux.iommu.smmuv3 import arm_smmus
from uvfio.linux.iommu.smmuv3_hw import PTE_AF, PTE_READ_ONLY, PTE_TABLE, PTE_VALID
from uvfio.uapi.iommufd import IOMMU_GET_HW_INFO, IOMMU_HWPT_ALLOC_PASID, iommu_hw_info
from uvfio.uapi.vfio import VFIO_DEVICE_ATTACH_IOMMUFD_PT

VSID = 0x42
CFGI_CD, CFGI_CD_ALL, TLBI_NH_VA, TLBI_NH_VAA, TLBI_NH_ASID = 5, 6, 0x12, 0x13, 0x11
F_TRANSLATION, F_PERMISSION, C_BAD_CD, C_BAD_SUBSTREAMID, F_STREAM_DISABLED = 0x10, 0x13, 0x0A, 8, 6
RNW, S2, IN = 1 << 35, 1 << 39, 2 << 40


def faults(read: int = VA, pasid: int = 0) -> None:
    with pytest.raises(DmaFault):
        function().dma_read(read, 4, pasid)


def attach(vmm: Vmm, ste0: int = 0, ste1: int = 0) -> tuple[int, ArmGuest]:
    """The first device on tables of a guest: the vIOMMU."""
    guest = ArmGuest(vmm)
    viommu = vmm.viommu(vmm.dev, vmm.parent())
    vmm.vdevice(viommu, vmm.dev, VSID)
    ste = struct.pack("<2Q", ste0 | ipa(CDS) | TRANSLATE << 1 | 1, ste1)
    vmm.attach(vmm.devices[0], vmm.hwpt(vmm.dev, viommu, data=ste))
    return viommu, guest


@on_smmu
def test_a_guest_hears_of_its_own_faults(vmm: Vmm) -> None:
    viommu, guest = attach(vmm)
    faults(VA + PG)  # nobody listens yet
    fd = veventq(vmm, viommu, 1)
    assert events(vmm, fd, 32) == []
    faults(VA + PG)
    guest.point_to(FIRST, PTE_AF | PTE_TABLE | PTE_VALID | PTE_READ_ONLY)
    with pytest.raises(DmaFault):
        function().dma_write(VA + 4, b"x")
    who = VSID << 32
    assert events(vmm, fd, 32) == [
        (0, 0, who | F_TRANSLATION, IN | RNW, VA + PG, 0),
        (0, 1, who | F_PERMISSION, IN, VA + 4, 0),
    ]
    assert events(vmm, fd, 32) == []


@on_smmu
def test_what_a_guest_does_not_hear_of(vmm: Vmm) -> None:
    viommu, guest = attach(vmm)
    fd = veventq(vmm, viommu, 1)
    guest.point_to(1000)  # it has no such memory: that is the second stage's fault
    faults()
    assert arm_smmus().devices[0].events[-1].record()[1] == S2 | IN | RNW
    vmm.attach(vmm.devices[0], vmm.ioas)
    faults()  # the VMM's own table
    assert events(vmm, fd, 32) == []


@on_smmu
def test_a_bad_context_descriptor(vmm: Vmm) -> None:
    viommu, guest = attach(vmm)
    fd = veventq(vmm, viommu, 1)
    guest.put(CDS, 0, 0)
    faults()
    assert events(vmm, fd, 32) == [(0, 0, VSID << 32 | C_BAD_CD, 0, 0, 0)]


@on_smmu
def test_lost_events(vmm: Vmm) -> None:
    viommu, _guest = attach(vmm)
    fd = veventq(vmm, viommu, 1, depth=1)
    for _n in range(3):
        faults(VA + PG)
    data = vmm.read(fd, PG)
    assert len(data) == 8 + 32 + 8
    assert struct.unpack("<2I", data[40:]) == (1, 2)


@on_smmu
def test_a_bypassing_device_needs_no_vdevice_to_be_silent(vmm: Vmm) -> None:
    viommu = vmm.viommu(vmm.dev, vmm.parent())
    fd = veventq(vmm, viommu, 1)
    vmm.attach(vmm.devices[0], vmm.nested(viommu, BYPASS))
    faults()
    assert events(vmm, fd, 32) == []


def by_address(op: int, start: int, scale: int = 0, num: int = 0, asid: int = ASID) -> bytes:
    """A TLBI of (num + 1) << scale pages, or of one page if both are 0."""
    granule = 1 << 10 if scale or num else 0
    return struct.pack("<2Q", op | num << 12 | scale << 20 | asid << 48, start | granule)


@on_smmu
def test_a_range_of_a_tlbi(vmm: Vmm) -> None:
    viommu, guest = attach(vmm)
    pdev = function()
    assert pdev.dma_read(VA, 5) == b"first"
    guest.point_to(SECOND)
    stale = [by_address(TLBI_NH_VA, VA - 4 * PG, scale=1, num=1), by_address(TLBI_NH_VA, VA, asid=ASID + 1)]
    for command in (*stale, struct.pack("<2Q", TLBI_NH_ASID | (ASID + 1) << 48, 0)):
        assert vmm.invalidate(viommu, command) == 1
        assert pdev.dma_read(VA, 5) == b"first"
    assert vmm.invalidate(viommu, by_address(TLBI_NH_VA, VA - 4 * PG, scale=1, num=2)) == 1
    assert pdev.dma_read(VA, 6) == b"second"
    guest.point_to(FIRST)
    assert vmm.invalidate(viommu, by_address(TLBI_NH_VAA, VA, asid=0)) == 1
    assert pdev.dma_read(VA, 5) == b"first"


@on("smmuv3", PASID_DEVICE)
def test_substreams_of_the_guest(vmm: Vmm) -> None:
    """Eight descriptors; accesses without a substream are those of the first."""
    viommu, guest = attach(vmm, ste0=3 << 59, ste1=2)
    fd = veventq(vmm, viommu, 1)
    guest.descriptor(5, asid=9)
    pdev = function()
    assert (pdev.dma_read(VA, 5), pdev.dma_read(VA, 5, pasid=5)) == (b"first", b"first")
    faults(VA, pasid=4)
    faults(VA, pasid=8)
    at = VSID << 32 | 1 << 11
    assert [event[2] for event in events(vmm, fd, 32)] == [at | 4 << 12 | C_BAD_CD, at | 8 << 12 | C_BAD_SUBSTREAMID]
    guest.put(CDS, 8 * 5, 0)
    assert pdev.dma_read(VA, 5, pasid=5) == b"first", "the descriptor is cached"
    assert vmm.invalidate(viommu, struct.pack("<2Q", CFGI_CD | 4 << 12 | VSID << 32, 0)) == 1
    assert pdev.dma_read(VA, 5, pasid=5) == b"first", "that was another"
    assert vmm.invalidate(viommu, struct.pack("<2Q", CFGI_CD | 5 << 12 | VSID << 32, 0)) == 1
    faults(VA, pasid=5)


@on("smmuv3", PASID_DEVICE)
def test_two_levels_of_descriptors(vmm: Vmm) -> None:
    guest = ArmGuest(vmm)
    viommu = vmm.viommu(vmm.dev, vmm.parent())
    vmm.vdevice(viommu, vmm.dev, VSID)
    guest.put(L1CDS, 1, ipa(CDS) | 1)
    guest.descriptor(2)
    ste = struct.pack("<2Q", 7 << 59 | 1 << 4 | ipa(L1CDS) | TRANSLATE << 1 | 1, 0)
    vmm.attach(vmm.devices[0], vmm.hwpt(vmm.dev, viommu, data=ste))
    assert function().dma_read(VA, 5, pasid=64 + 2) == b"first"
    faults(VA, pasid=2)  # the first table of descriptors is not there
    fd = veventq(vmm, viommu, 1)
    faults()  # S1DSS says that accesses without a substream end
    assert events(vmm, fd, 32)[0][2] == VSID << 32 | F_STREAM_DISABLED


@on("smmuv3", PASID_DEVICE)
def test_pasids_of_the_kernel(vmm: Vmm) -> None:
    memory = vmm.map_memory()
    vmm.mm.write(memory + FIRST * PG, b"first")
    answer = vmm.ask(IOMMU_GET_HW_INFO, iommu_hw_info(dev_id=vmm.dev))
    assert (answer.out_max_pasid_log2, answer.out_capabilities & 1) == (8, 1)
    hwpt = vmm.hwpt(vmm.dev, vmm.ioas, IOMMU_HWPT_ALLOC_PASID)
    vmm.attach(vmm.devices[0], hwpt)
    vmm.call(vmm.devices[0], VFIO_DEVICE_ATTACH_IOMMUFD_PT, struct.pack("<4I", 16, 1, hwpt, 9))
    assert function().dma_read(ipa(FIRST), 5, pasid=9) == b"first"
    faults(ipa(FIRST), pasid=10)
    other = vmm.hwpt(vmm.other, vmm.ioas, IOMMU_HWPT_ALLOC_PASID)  # of the second SMMU
    attach_other = struct.pack("<4I", 16, 1, other, 11)
    assert refusal(vmm.call, vmm.devices[0], VFIO_DEVICE_ATTACH_IOMMUFD_PT, attach_other) == EINVAL


@pytest.mark.parametrize("option", ["nesting=off", "dirty-tracking=off"])
def test_hardware_that_has_less(option: str) -> None:
    taken = {"nesting=off": {0, 2, 8, 10}, "dirty-tracking=off": {0, 1, 8}}

    def test(vmm: Vmm) -> None:
        flags = [flags for flags in range(16) if not flags & 4]
        assert {each for each in flags if not refusal(vmm.hwpt, vmm.dev, vmm.ioas, each)} == taken[option]
        if option == "nesting=off":
            assert refusal(vmm.viommu, vmm.dev, vmm.ioas) == EOPNOTSUPP

    on("smmuv3," + option)(test)()

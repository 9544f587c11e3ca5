# SPDX-License-Identifier: GPL-2.0-only
"""An AMD IOMMU: what it takes, guests' device table entries and their tables, PASIDs."""

from __future__ import annotations

import struct
from errno import EBUSY, EFAULT, EINVAL, EOPNOTSUPP

import pytest
from vfio_user import PG, refusal
from viommu_user import Vmm, on
from x86_guest import FIRST, GCR3, PASID_DEVICE, SECOND, TABLES, VA, Guest, function, gpa

from uvfio.linux.base.pci_dev import DmaFault
from uvfio.linux.iommu.amd import amd_iommu
from uvfio.linux.kernel.kernfs import kernfs_find, kernfs_read
from uvfio.uapi.iommufd import IOMMU_GET_HW_INFO, IOMMU_HWPT_ALLOC_PASID, iommu_hw_info, iommu_hw_info_amd
from uvfio.uapi.vfio import VFIO_DEVICE_ATTACH_IOMMUFD_PT

on_amd = on("amd")
AMD_GUEST = 3
V, GV, LEVEL5, GLX3 = 1, 1 << 55, 1 << 54, 3 << 56


def dte(gcr3: int = gpa(GCR3), word0: int = V | GV, word1: int = 0, word2: int = 0, word3: int = 0) -> bytes:
    word0 |= (gcr3 >> 12 & 7) << 58
    word1 |= (gcr3 >> 15 & 0xFFFF) << 16 | (gcr3 >> 31 & 0x1FFFFF) << 43
    return struct.pack("<4Q", word0, word1, word2, word3)


def nested(vmm: Vmm, viommu: int, data: bytes | None = None, flags: int = 0) -> int:
    return vmm.hwpt(vmm.dev, viommu, flags, data=dte() if data is None else data, data_type=AMD_GUEST)


def guest_of(vmm: Vmm) -> Guest:
    guest = Guest(vmm)
    guest.put(GCR3, 0, gpa(TABLES[0]) | 1)
    return guest


@pytest.mark.parametrize("option", ["", ",dirty-tracking=off", ",nesting=off", ",pasid=off"])
def test_paging_flags(option: str) -> None:
    taken = {"": {0, 1, 2, 3, 8}, ",dirty-tracking=off": {0, 8}, ",nesting=off": {0, 2, 8}, ",pasid=off": {0, 1, 2, 3}}

    def test(vmm: Vmm) -> None:
        flags = [flags for flags in range(16) if not flags & 4]
        assert {each for each in flags if not refusal(vmm.hwpt, vmm.dev, vmm.ioas, each)} == taken[option]

    on("amd" + option)(test)()


@on_amd
def test_what_the_hardware_says(vmm: Vmm) -> None:
    at = vmm.mm.mmap(64)
    answer = vmm.ask(IOMMU_GET_HW_INFO, iommu_hw_info(dev_id=vmm.dev, data_len=16, data_uptr=at))
    assert (answer.data_type, answer.data_len) == (4, 16)
    assert answer.out_capabilities & 1, "dirty tracking"
    efr = iommu_hw_info_amd.unpack(vmm.mm.read(at, 16)).efr
    assert efr >> 4 & 1, "guest translation"
    other = iommu_hw_info(flags=1, dev_id=vmm.dev, data_type=1)
    assert refusal(vmm.ask, IOMMU_GET_HW_INFO, other) == EOPNOTSUPP
    features = kernfs_find("/sys/devices/virtual/iommu/ivhd0/amd-iommu/features")
    assert features is not None
    assert kernfs_read(features).decode() == f"{efr:x}:0\n"
    regions = kernfs_find("/sys/kernel/iommu_groups/0/reserved_regions")
    assert regions is not None
    assert kernfs_read(regions).decode().splitlines() == [
        "0x00000000fee00000 0x00000000feefffff msi",
        "0x000000fd00000000 0x000000ffffffffff reserved",
    ]


@on_amd
def test_viommu(vmm: Vmm) -> None:
    parent, plain = vmm.parent(), vmm.hwpt(vmm.dev, vmm.ioas)
    assert refusal(vmm.viommu, vmm.dev, parent, 0) == EOPNOTSUPP
    assert refusal(vmm.viommu, vmm.dev, plain, 1) == EINVAL
    for kind in (1, 2, 99):
        viommu = vmm.viommu(vmm.dev, parent, kind)
        vdevice = vmm.vdevice(viommu, vmm.dev, 2**64 - 1)
        assert refusal(vmm.destroy, viommu) == EBUSY
        for each in (vdevice, viommu):
            vmm.destroy(each)
    vmm.destroy(parent)


@on_amd
def test_nested_page_table_is_refused(vmm: Vmm) -> None:
    parent = vmm.parent()
    viommu = vmm.viommu(vmm.dev, parent)
    good = dte()
    assert refusal(vmm.hwpt, vmm.dev, parent, 0, good, AMD_GUEST) == EOPNOTSUPP  # not through a vIOMMU
    assert refusal(vmm.hwpt, vmm.dev, viommu, 0, good, 1) == EOPNOTSUPP
    assert refusal(nested, vmm, viommu, good[:24]) == EINVAL
    assert refusal(nested, vmm, viommu, good + bytes(8)) == EINVAL
    assert refusal(lambda: vmm.hwpt(vmm.dev, viommu, 0, good, AMD_GUEST, data_uptr=8)) == EFAULT
    for bad, error in (
        (dte(word0=V | GV | 1 << 9), EINVAL),  # Mode
        (dte(word0=V | GV | 1 << 12), EINVAL),  # the host's table
        (dte(0), EINVAL),
        (dte(word0=V | GV | GLX3), EINVAL),
        (dte(word2=2 << 54), EINVAL),
        (dte(word2=3 << 54), EINVAL),
        (dte(word2=LEVEL5), EOPNOTSUPP),
    ):
        assert refusal(nested, vmm, viommu, bad) == error
    for taken in (bytes(32), dte(0, V), dte(0, GV), dte(1 << 51), good):
        vmm.destroy(nested(vmm, viommu, taken))
    hwpt = nested(vmm, viommu)
    assert refusal(vmm.invalidate, viommu, bytes(16)) == EOPNOTSUPP
    assert refusal(vmm.invalidate, hwpt, bytes(16)) == EOPNOTSUPP


@on_amd
def test_two_stages_and_a_stale_iotlb(vmm: Vmm) -> None:
    guest = guest_of(vmm)
    hwpt = nested(vmm, vmm.viommu(vmm.dev, vmm.parent()))
    vmm.attach(vmm.devices[0], hwpt)  # no vDEVICE is needed
    pdev = function()
    assert pdev.dma_read(VA, 5) == b"first"
    guest.point_to(SECOND)
    assert pdev.dma_read(VA, 5) == b"first", "and there is no way to invalidate"
    vmm.attach(vmm.devices[0], vmm.ioas)
    vmm.attach(vmm.devices[0], hwpt)
    assert pdev.dma_read(VA, 6) == b"second"
    with pytest.raises(DmaFault):
        pdev.dma_read(VA + PG, 1)
    assert amd_iommu().events[-1].startswith("AMD-Vi: Event logged [IO_PAGE_FAULT device=0000:00:01.0 domain=0x0000")


@on("amd", PASID_DEVICE)
def test_pasids_are_the_guests(vmm: Vmm) -> None:
    guest = guest_of(vmm)
    guest.put(GCR3, 3, gpa(TABLES[0]) | 1)
    vmm.attach(vmm.devices[0], nested(vmm, vmm.viommu(vmm.dev, vmm.parent())))
    pdev = function()
    assert pdev.dma_read(VA, 5, pasid=3) == b"first"
    guest.point_to(SECOND)
    assert pdev.dma_read(VA, 6) == b"second", "what is cached for a PASID is that one's"
    with pytest.raises(DmaFault):
        pdev.dma_read(VA, 5, pasid=4)


@on("amd", PASID_DEVICE)
def test_pasids_of_the_kernel(vmm: Vmm) -> None:
    guest = guest_of(vmm)
    v2 = vmm.hwpt(vmm.dev, vmm.ioas, IOMMU_HWPT_ALLOC_PASID)
    vmm.attach(vmm.devices[0], v2)
    vmm.call(vmm.devices[0], VFIO_DEVICE_ATTACH_IOMMUFD_PT, struct.pack("<4I", 16, 1, v2, 9))
    assert function().dma_read(gpa(FIRST), 5, pasid=9) == b"first"
    assert guest.leaf() & 0x60 == 0, "no table of the guest was walked"

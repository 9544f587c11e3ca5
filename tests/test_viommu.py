# SPDX-License-Identifier: GPL-2.0-only
"""vIOMMUs and vDEVICEs on SMMUv3s: every check, ids that are never used again, and what goes with what."""

from __future__ import annotations

import struct
from errno import E2BIG, EBUSY, EEXIST, EFAULT, EINVAL, EIO, ENOENT, EOPNOTSUPP

from vfio_user import refusal
from viommu_user import ABORT, BYPASS, MEMORY, NEAR, TRANSLATE, Vmm, on_smmu

from uvfio.linux.base.pci import pci_host
from uvfio.linux.base.pci_dev import DmaFault
from uvfio.linux.iommu.smmuv3 import arm_smmus
from uvfio.machine import Machine, Plugged, plug, unplug
from uvfio.uapi.iommufd import (
    IOMMU_GET_HW_INFO,
    iommu_hw_info,
    iommu_hw_info_arm_smmuv3,
)

U64_MAX = 2**64 - 1
CFGI_CD, CFGI_STE, TLBI_NH_ALL, TLBI_NSNH_ALL, ATC_INV = 0x05, 0x03, 0x10, 0x30, 0x40


def command(op: int, vsid: int = 0) -> bytes:
    return struct.pack("<2Q", op | vsid << 32, 0)


@on_smmu
def test_what_the_hardware_says(vmm: Vmm) -> None:
    at = vmm.mm.mmap(64)
    answer = vmm.ask(IOMMU_GET_HW_INFO, iommu_hw_info(dev_id=vmm.dev, data_len=40, data_uptr=at))
    assert (answer.data_type, answer.data_len) == (2, 40)
    registers = iommu_hw_info_arm_smmuv3.unpack(vmm.mm.read(at, 40))
    assert registers.idr0 & 3 == 3, "both stages"


@on_smmu
def test_viommu_is_refused(vmm: Vmm) -> None:
    parent, plain = vmm.parent(), vmm.hwpt(vmm.dev, vmm.ioas)
    assert refusal(vmm.viommu, vmm.dev, parent, 1, 1) == EOPNOTSUPP  # flags
    assert refusal(vmm.viommu, vmm.dev, parent, 0) == EOPNOTSUPP
    assert refusal(vmm.viommu, vmm.ioas, parent) == ENOENT
    assert refusal(vmm.viommu, vmm.dev, 999, 2) == EOPNOTSUPP  # the type comes first
    assert refusal(vmm.viommu, vmm.dev, 999) == ENOENT
    assert refusal(vmm.viommu, vmm.dev, plain) == EINVAL
    assert refusal(vmm.viommu, vmm.other, parent) == EINVAL  # it is the other SMMU's


@on_smmu
def test_paging_flags(vmm: Vmm) -> None:
    assert {flags for flags in range(16) if not refusal(vmm.hwpt, vmm.dev, vmm.ioas, flags)} == {0, 1, 2, 8, 10}


@on_smmu
def test_vdevice_is_refused(vmm: Vmm) -> None:
    parent = vmm.parent()
    viommu = vmm.viommu(vmm.dev, parent)
    assert refusal(vmm.vdevice, parent, vmm.dev, 1) == ENOENT
    assert refusal(vmm.vdevice, viommu, vmm.ioas, 1) == ENOENT
    assert refusal(vmm.vdevice, viommu, vmm.other, 1) == EINVAL
    first = vmm.vdevice(viommu, vmm.dev, 1)
    assert refusal(vmm.vdevice, viommu, vmm.dev, 2) == EEXIST
    assert refusal(vmm.vdevice, viommu, vmm.dev2, 1) == EEXIST
    second = vmm.vdevice(viommu, vmm.dev2, U64_MAX)
    assert second == first + 1, "the refused ones gave their ids back"
    assert refusal(vmm.destroy, viommu) == EBUSY
    assert refusal(vmm.destroy, parent) == EBUSY
    assert refusal(vmm.destroy, vmm.dev) == EBUSY
    for each in (first, second, viommu, parent, vmm.ioas):
        vmm.destroy(each)


@on_smmu
def test_one_device_in_two_viommus(vmm: Vmm) -> None:
    parent = vmm.parent()
    one, two = vmm.viommu(vmm.dev, parent), vmm.viommu(vmm.dev, parent)
    vmm.vdevice(one, vmm.dev, 1)
    assert refusal(vmm.vdevice, two, vmm.dev, 1) == EEXIST
    vmm.vdevice(two, vmm.dev2, 1)  # another guest, another name space


@on_smmu
def test_a_device_with_two_streams_is_refused(vmm: Vmm) -> None:
    viommu = vmm.viommu(vmm.dev, vmm.parent())
    pci_host().found[NEAR].iommu.streams += (0xFF,)
    assert refusal(vmm.vdevice, viommu, vmm.dev, 1) == EOPNOTSUPP
    vmm.vdevice(viommu, vmm.dev2, 1)


@on_smmu
def test_nested_page_table_is_refused(vmm: Vmm) -> None:
    viommu = vmm.viommu(vmm.dev, vmm.parent())
    good = struct.pack("<2Q", BYPASS << 1 | 1, 0)
    assert refusal(vmm.hwpt, vmm.other, viommu, 0, good) == EINVAL
    assert refusal(vmm.hwpt, vmm.dev, viommu, 1, good) == EOPNOTSUPP
    assert refusal(vmm.hwpt, vmm.dev, viommu, 8, good) == EOPNOTSUPP
    assert refusal(vmm.hwpt, vmm.dev, viommu) == EOPNOTSUPP  # no data
    assert refusal(vmm.hwpt, vmm.dev, viommu, 0, good, 1) == EOPNOTSUPP  # another's
    assert refusal(vmm.hwpt, vmm.dev, viommu, 0, good[:8]) == EINVAL
    assert refusal(vmm.hwpt, vmm.dev, viommu, 0, good + bytes(8)) == EINVAL
    assert refusal(lambda: vmm.hwpt(vmm.dev, viommu, 0, good, data_uptr=8)) == EFAULT
    assert refusal(vmm.nested, viommu, 6) == EIO  # second stage
    assert refusal(vmm.hwpt, vmm.dev, viommu, 0, struct.pack("<2Q", BYPASS << 1 | 1, 1 << 40)) == EIO
    assert refusal(lambda: vmm.nested(viommu, BYPASS, flags=4, fault_id=99)) == ENOENT
    vmm.destroy(viommu)  # nobody has left a reference


@on_smmu
def test_attach_through_the_guests_entry(vmm: Vmm) -> None:
    memory = vmm.map_memory()
    viommu = vmm.viommu(vmm.dev, vmm.parent())
    bypass, abort, translate = (vmm.nested(viommu, cfg) for cfg in (BYPASS, ABORT, TRANSLATE))
    pdev = pci_host().found[NEAR]
    pdev.config.write(4, 2, 6)
    vmm.mm.write(memory, b"guest")

    vmm.attach(vmm.devices[0], bypass)
    assert pdev.dma_read(MEMORY, 5) == b"guest"
    assert refusal(vmm.attach, vmm.devices[0], translate) == ENOENT  # the guest does not know it
    assert pdev.dma_read(MEMORY, 5) == b"guest", "it stays where it was"
    vdevice = vmm.vdevice(viommu, vmm.dev, 5)
    vmm.attach(vmm.devices[0], translate)
    assert not pdev.try_dma_read_into(MEMORY, memoryview(bytearray(5)))
    vmm.attach(vmm.devices[0], abort)
    assert not pdev.try_dma_read_into(MEMORY, memoryview(bytearray(5)))
    assert [str(e).split()[3] for e in arm_smmus().devices[0].events] == ["F_TRANSLATION", "F_STREAM_DISABLED"]
    assert refusal(vmm.attach, vmm.devices[2], bypass) == EINVAL  # behind the other SMMU
    vmm.destroy(vdevice)  # even while it is attached
    assert refusal(vmm.destroy, viommu) == EBUSY


@on_smmu
def test_commands(vmm: Vmm) -> None:
    viommu = vmm.viommu(vmm.dev, vmm.parent())
    vmm.vdevice(viommu, vmm.dev2, 0x42)
    smmu = arm_smmus().devices[0]
    sid, vmid = 0x10, 1
    smmu.commands.clear()
    assert vmm.invalidate(viommu, command(ATC_INV, 0x42) + command(TLBI_NSNH_ALL) + command(TLBI_NH_ALL, 0xBEEF)) == 3
    all_of_guest = TLBI_NH_ALL | vmid << 32
    assert [cmd0 for cmd0, _cmd1 in smmu.commands] == [ATC_INV | sid << 32, all_of_guest, all_of_guest]
    mine, unknown = command(CFGI_CD, 0x42), command(CFGI_CD, 0x43)
    assert refusal(vmm.invalidate, viommu, mine + unknown + mine) == EIO
    assert vmm.done == 1
    assert refusal(vmm.invalidate, viommu, command(CFGI_STE, 0x42)) == EIO
    assert vmm.done == 0


@on_smmu
def test_entries(vmm: Vmm) -> None:
    parent = vmm.parent()
    viommu = vmm.viommu(vmm.dev, parent)
    nested = vmm.nested(viommu, BYPASS)
    one = command(TLBI_NH_ALL)
    assert vmm.invalidate(viommu, one + one) == 2
    assert vmm.invalidate(viommu, one[:8], length=8) == 1  # the rest is zero
    assert vmm.invalidate(viommu, one + bytes(8), length=24) == 1
    assert refusal(vmm.invalidate, viommu, one + b"\1" * 8, 24) == E2BIG
    assert vmm.invalidate(viommu, b"", entry_num=0) == 0
    assert refusal(vmm.invalidate, viommu, one, 16, 0) == EINVAL
    assert refusal(lambda: vmm.invalidate(viommu, b"", kind=0, entry_num=0)) == EINVAL
    assert refusal(lambda: vmm.invalidate(viommu, one, data_uptr=8)) == EFAULT
    assert refusal(lambda: vmm.invalidate(viommu, one, __reserved=1)) == EOPNOTSUPP
    assert refusal(vmm.invalidate, viommu, one, 0) == EINVAL
    assert refusal(vmm.invalidate, 999, one) == ENOENT
    assert refusal(vmm.invalidate, nested, one) == EOPNOTSUPP
    assert refusal(vmm.invalidate, parent, one) == EINVAL
    assert refusal(vmm.invalidate, vmm.ioas, one) == EINVAL


@on_smmu
def test_unbinding_leaves_a_tombstone(vmm: Vmm) -> None:
    viommu = vmm.viommu(vmm.dev, vmm.parent())
    vdevice = vmm.vdevice(viommu, vmm.dev, 5)
    vmm.close(vmm.devices[0])
    assert refusal(vmm.destroy, vdevice) == ENOENT
    assert refusal(vmm.invalidate, viommu, command(CFGI_CD, 5)) == EIO
    new = [vmm.ioas_alloc(vmm.iommufd) for _n in range(3)]
    assert vdevice not in new
    assert vmm.dev in new, "that of the device is free"
    assert vmm.vdevice(viommu, vmm.dev2, 5) > vdevice
    vmm.close(vmm.iommufd)  # the tombstone does not keep it from ending
    assert refusal(vmm.close, vmm.devices[1]) == 0


@on_smmu
def test_what_user_space_destroys_is_no_tombstone(vmm: Vmm) -> None:
    viommu = vmm.viommu(vmm.dev, vmm.parent())
    vdevice = vmm.vdevice(viommu, vmm.dev, 5)
    vmm.destroy(vdevice)
    assert vmm.vdevice(viommu, vmm.dev, 6) == vdevice
    vmm.close(vmm.devices[0])


@on_smmu
def test_unplug_and_plug_again(vmm: Vmm) -> None:
    viommu = vmm.viommu(vmm.dev, vmm.parent())
    vdevice = vmm.vdevice(viommu, vmm.dev, 5)
    vmm.close(vmm.devices[0])
    unplug(NEAR)
    plug(Plugged("edu", NEAR))
    again = vmm.bind(vmm.open("/dev/vfio/devices/vfio0"), vmm.iommufd)
    assert vmm.vdevice(viommu, again, 5) != vdevice
    assert vmm.invalidate(viommu, command(CFGI_CD, 5)) == 1


@on_smmu
def test_an_ioas_behind_both(vmm: Vmm) -> None:
    """A page table is one SMMU's: an IOAS has as many as it needs."""
    vmm.map_memory()
    hwpts = [vmm.attach(device, vmm.ioas) for device in vmm.devices]
    assert hwpts[0] == hwpts[1] != hwpts[2]


def test_intel_has_none() -> None:
    machine = Machine()
    machine.boot([Plugged("edu")] * 3)

    def body() -> None:
        vmm = Vmm()
        hwpt = vmm.hwpt(vmm.dev, vmm.ioas)
        assert refusal(vmm.viommu, vmm.dev, hwpt) == EOPNOTSUPP

    machine.run(body)


@on_smmu
def test_dma_of_a_released_device(vmm: Vmm) -> None:
    vmm.map_memory()
    vmm.attach(vmm.devices[0], vmm.ioas)
    pdev = pci_host().found[NEAR]
    pdev.config.write(4, 2, 6)
    pdev.dma_read(MEMORY, 8)
    vmm.close(vmm.devices[0])
    pdev.config.write(4, 2, 6)
    try:
        pdev.dma_read(MEMORY, 8)
    except DmaFault:
        return
    raise AssertionError("it reaches the memory of a process that has let go of it")

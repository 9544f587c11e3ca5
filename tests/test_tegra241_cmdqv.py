# SPDX-License-Identifier: GPL-2.0-only
"""Command queues that a guest owns: every check, and a guest that cleans the IOTLB without the kernel."""

from __future__ import annotations

import struct
from errno import EBUSY, EEXIST, EINVAL, EIO, ENOENT, ENOSPC, EOPNOTSUPP

from arm_guest import ASID, CDS, FIRST, QUEUE, SECOND, VA, ArmGuest, events, ipa, veventq
from vfio_user import PG, refusal
from viommu_user import TRANSLATE, Vmm, on, on_smmu
from x86_guest import function

from uvfio.linux.iommu.smmuv3 import arm_smmus
from uvfio.linux.iommu.tegra241_cmdqv import CONFIG, CONS, GERROR, GERRORN, PROD, STATUS, Tegra241Vintf
from uvfio.uapi import iommufd as uapi

on_tegra = on("smmuv3,cmdqv=on")
CMDQV, VSID = 2, 0x42
TLBI_NH_VA, TLBI_NH_ASID, TLBI_NH_ALL, CFGI_CD, ATC_INV, CMD_SYNC = 0x12, 0x11, 0x10, 5, 0x40, 0x46
ENTRIES = 4


class Vintf:
    """A vIOMMU of the type, in the hands of *vmm*; ``offset`` and ``length`` are those of its page."""

    def __init__(self, vmm: Vmm, parent: int, length: int = 16) -> None:
        self.vmm = vmm
        at = vmm.buffer(bytes(length))
        cmd = uapi.iommu_viommu_alloc(dev_id=vmm.dev, hwpt_id=parent, type=CMDQV, data_uptr=at, data_len=length)
        self.id = int(vmm.ask(uapi.IOMMU_VIOMMU_ALLOC, cmd).out_viommu_id)
        self.offset, self.length = struct.unpack("<2Q", vmm.mm.read(at, 16))

    @property
    def hardware(self) -> Tegra241Vintf:
        cmdqv = arm_smmus().devices[0].cmdqv
        assert cmdqv is not None
        return cmdqv.vintfs[1]

    def queue(self, index: int, iova: int = ipa(QUEUE), length: int = 16 * ENTRIES, kind: int = 1) -> int:
        cmd = uapi.iommu_hw_queue_alloc(
            viommu_id=self.id, type=kind, index=index, nesting_parent_iova=iova, length=length
        )
        return int(self.vmm.ask(uapi.IOMMU_HW_QUEUE_ALLOC, cmd).out_hw_queue_id)


class Driver:
    """A guest's driver of queue *index*, through the page that its VMM has mapped."""

    def __init__(self, guest: ArmGuest, vintf: Vintf, index: int = 0, page: int = QUEUE) -> None:
        self.guest, self.vintf, self.index, self.page = guest, vintf, index, page
        self.prod = 0
        self.put(CONFIG, 1)

    def get(self, register: int) -> int:
        return self.vintf.hardware.get(self.index, register)

    def put(self, register: int, value: int) -> None:
        self.vintf.hardware.put(self.index, register, value)

    def command(self, cmd0: int, cmd1: int = 0) -> None:
        slot = self.prod % ENTRIES
        self.guest.put(self.page, 2 * slot, cmd0)
        self.guest.put(self.page, 2 * slot + 1, cmd1)
        self.prod = (self.prod + 1) % (2 * ENTRIES)
        self.put(PROD, self.prod)


def attached(vmm: Vmm) -> tuple[Vintf, ArmGuest]:
    guest = ArmGuest(vmm)
    vintf = Vintf(vmm, vmm.parent())
    vmm.vdevice(vintf.id, vmm.dev, VSID)
    ste = struct.pack("<2Q", ipa(CDS) | TRANSLATE << 1 | 1, 0)
    vmm.attach(vmm.devices[0], vmm.hwpt(vmm.dev, vintf.id, data=ste))
    return vintf, guest


@on_tegra
def test_what_the_hardware_says(vmm: Vmm) -> None:
    at = vmm.mm.mmap(64)
    for flags, kind, found in ((0, 0, 2), (1, 2, 2), (1, 3, 3)):
        asked = uapi.iommu_hw_info(flags=flags, dev_id=vmm.dev, data_type=kind, data_len=40, data_uptr=at)
        assert vmm.ask(uapi.IOMMU_GET_HW_INFO, asked).data_type == found
    info = uapi.iommu_hw_info_tegra241_cmdqv.unpack(vmm.mm.read(at, 8))
    assert (info.version, info.log2vcmdqs, info.log2vsids) == (1, 1, 4)


@on_smmu
def test_an_smmu_without(vmm: Vmm) -> None:
    parent = vmm.parent()
    asked = uapi.iommu_hw_info(flags=1, dev_id=vmm.dev, data_type=3)
    assert refusal(vmm.ask, uapi.IOMMU_GET_HW_INFO, asked) == EOPNOTSUPP
    assert refusal(Vintf, vmm, parent) == EOPNOTSUPP


@on_tegra
def test_vintf(vmm: Vmm) -> None:
    parent = vmm.parent()
    assert refusal(vmm.viommu, vmm.dev, parent, CMDQV) == EINVAL  # no data
    assert refusal(Vintf, vmm, parent, 8) == EINVAL
    assert refusal(Vintf, vmm, parent, 24) == EINVAL
    vintfs = [Vintf(vmm, parent) for _n in range(3)]
    assert [(vintf.offset, vintf.length) for vintf in vintfs] == [(PG + n * 0x10000, 0x10000) for n in range(3)]
    assert refusal(Vintf, vmm, parent) == ENOSPC
    vmm.mmap_file(vmm.iommufd, 0x10000, vintfs[1].offset)
    assert refusal(vmm.destroy, vintfs[1].id) == EBUSY
    vmm.destroy(vintfs[0].id)
    assert Vintf(vmm, parent).offset == PG
    plain = vmm.viommu(vmm.dev, parent)
    assert plain, "the type of every SMMU is there, too"


@on_tegra
def test_vdevices_have_slots(vmm: Vmm) -> None:
    vintf = Vintf(vmm, vmm.parent())
    assert refusal(vmm.vdevice, vintf.id, vmm.dev, 1 << 32) == EINVAL
    first = vmm.vdevice(vintf.id, vmm.dev, 1)
    assert vintf.hardware.sid_slots == {0: (1, 0x08)}
    assert refusal(vmm.vdevice, vintf.id, vmm.dev2, 1) == EEXIST
    assert vintf.hardware.sid_slots == {0: (1, 0x08)}, "the one who has it keeps it"
    vmm.destroy(first)
    assert vintf.hardware.sid_slots == {}
    for slot in range(16):
        vintf.hardware.sids.alloc(slot)
    assert refusal(vmm.vdevice, vintf.id, vmm.dev, 1) == ENOSPC


@on_tegra
def test_queues_are_refused(vmm: Vmm) -> None:
    vmm.map_memory()
    vintf = Vintf(vmm, vmm.parent())
    unknown = uapi.iommu_hw_queue_alloc(viommu_id=vintf.id, type=2, nesting_parent_iova=ipa(1), length=64)
    assert refusal(vmm.ask, uapi.IOMMU_HW_QUEUE_ALLOC, unknown) == EOPNOTSUPP
    other = vmm.viommu(vmm.dev, vmm.parent())
    cmd = uapi.iommu_hw_queue_alloc(viommu_id=other, type=1, nesting_parent_iova=ipa(1), length=64)
    assert refusal(vmm.ask, uapi.IOMMU_HW_QUEUE_ALLOC, cmd) == EOPNOTSUPP
    for index, iova, length, error in (
        (2, ipa(QUEUE), 64, EINVAL),
        (1, ipa(QUEUE), 64, EIO),
        (0, ipa(QUEUE), 48, EINVAL),
        (0, ipa(QUEUE), 16, EINVAL),
        (0, ipa(QUEUE) + 32, 64, EINVAL),
        (0, ipa(100), 64, ENOENT),
    ):
        assert refusal(vintf.queue, index, iova, length) == error
    first = vintf.queue(0)
    assert refusal(vintf.queue, 0) == EEXIST
    second = vintf.queue(1, ipa(QUEUE) + 64)
    assert refusal(vmm.destroy, first) == EBUSY, "the second stands on it"
    assert refusal(vmm.unmap_memory) == EBUSY
    vmm.destroy(second)
    vmm.destroy(first)
    vmm.unmap_memory()
    vmm.destroy(vintf.id)


@on_tegra
def test_a_guest_cleans_its_own_iotlb(vmm: Vmm) -> None:
    vintf, guest = attached(vmm)
    vintf.queue(0)
    driver = Driver(guest, vintf)
    pdev = function()
    assert pdev.dma_read(VA, 5) == b"first"
    assert driver.get(STATUS) == 1
    for turn in range(3):  # around the end of the queue
        page, text = ((SECOND, b"second"), (FIRST, b"first"))[turn % 2]
        guest.point_to(page)
        assert pdev.dma_read(VA, len(text)) != text
        driver.command(ATC_INV | VSID << 32)
        driver.command(TLBI_NH_VA | ASID << 48 | 0xBEEF << 32, VA)
        driver.command(CMD_SYNC)
        assert pdev.dma_read(VA, len(text)) == text
        assert driver.get(CONS) == driver.prod
    smmu = arm_smmus().devices[0]
    assert [cmd0 & 0xFFFF_FFFF_0000_00FF for cmd0, _cmd1 in smmu.commands][-2:] == [
        ATC_INV | 0x08 << 32,
        TLBI_NH_VA | ASID << 48 | 1 << 32,
    ]


@on_tegra
def test_a_command_that_is_wrong_stops_its_queue(vmm: Vmm) -> None:
    vintf, guest = attached(vmm)
    fd = veventq(vmm, vintf.id, 2)
    vintf.queue(0)
    vintf.queue(1, ipa(QUEUE) + 64)
    driver = Driver(guest, vintf)
    driver.command(TLBI_NH_ASID | ASID << 48)
    driver.command(CFGI_CD | VSID << 32)  # not for guests' queues
    driver.command(CMD_SYNC)
    hardware = vintf.hardware
    hardware.cmdqv.run()
    hardware.cmdqv.run()
    assert driver.get(CONS) == 1 | 1 << 24, "the first is done, the second illegal"
    assert driver.get(GERROR) ^ driver.get(GERRORN) == 1
    assert events(vmm, fd, 16) == [(0, 0, 1, 0)]
    guest.put(QUEUE, 2, ATC_INV | VSID + 1 << 32)  # in its place, one of a stream that it does not have
    driver.put(CONS, 1)
    driver.put(GERRORN, driver.get(GERROR))
    hardware.cmdqv.run()
    assert events(vmm, fd, 16) == [(0, 1, 1, 0)]
    guest.put(QUEUE, 2, CMD_SYNC)
    driver.put(CONS, 1)
    driver.put(GERRORN, driver.get(GERROR))
    hardware.cmdqv.run()
    assert driver.get(CONS) == 3
    driver.put(CONFIG, 0)
    hardware.cmdqv.run()
    assert driver.get(STATUS) == 0


@on_tegra
def test_the_kernel_serves_what_the_queue_does_not(vmm: Vmm) -> None:
    vintf, guest = attached(vmm)
    pdev = function()
    assert pdev.dma_read(VA, 5) == b"first"
    guest.point_to(SECOND)
    assert vmm.invalidate(vintf.id, struct.pack("<4Q", TLBI_NH_ALL, 0, CFGI_CD | VSID << 32, 0)) == 2
    assert pdev.dma_read(VA, 6) == b"second"


@on_tegra
def test_closing_everything_at_once(vmm: Vmm) -> None:
    vintf, _guest = attached(vmm)
    vintf.queue(0)
    vintf.queue(1, ipa(QUEUE) + 64)
    cmdqv = vintf.hardware.cmdqv
    vmm.close(vmm.devices[0])
    vmm.exit()
    assert not cmdqv.vintfs

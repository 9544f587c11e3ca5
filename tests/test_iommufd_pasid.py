# SPDX-License-Identifier: GPL-2.0-only
"""PASIDs of devices: attach, replace, detach, and which page tables go together."""

from __future__ import annotations

import struct
from errno import EBUSY, EINVAL, ENOENT, ENOMEM, ENOSPC, EOPNOTSUPP

from toy_iommu import MAX_PASIDS, NoPasidOps, ToyVmm, on_toy
from vfio_user import refusal

from uvfio.linux.base.pci import pci_host
from uvfio.linux.iommufd import device
from uvfio.uapi import iommufd as uapi
from uvfio.uapi.pci_regs import PCI_EXT_CAP_ID_PASID

PASID = 8
E1000E = "0000:00:01.0"


@on_toy()
def test_attach_replace_detach(vmm: ToyVmm) -> None:
    plain, other = vmm.hwpt(vmm.dev, vmm.ioas, PASID), vmm.hwpt(vmm.dev, vmm.ioas, PASID)
    vmm.attach(vmm.devices[0], plain)
    assert vmm.attach_pasid(100, other) == other
    assert vmm.attach_pasid(100, plain) == plain, "VFIO replaces what is attached"
    assert vmm.attach_pasid(100, plain) == plain
    assert vmm.attach_pasid(7, other) == other
    assert {pasid for _name, pasid in vmm.ops.pasids} == {7, 100}
    assert refusal(vmm.destroy, other) == EBUSY
    vmm.detach_pasid(7)
    vmm.detach_pasid(7)  # nothing there is no error
    vmm.destroy(other)
    vmm.close(vmm.devices[0])
    assert vmm.ops.pasids == {}, "closing the device detaches its PASIDs, too"
    vmm.destroy(plain)
    vmm.exit()


@on_toy()
def test_rules_of_attach(vmm: ToyVmm) -> None:
    plain, good = vmm.hwpt(vmm.dev, vmm.ioas), vmm.hwpt(vmm.dev, vmm.ioas, PASID)
    assert refusal(vmm.attach_pasid, 5, 99) == ENOENT
    assert refusal(vmm.attach_pasid, 5, vmm.ioas) == EINVAL, "the automatic one is not made for it"
    assert refusal(vmm.attach_pasid, 5, plain) == EINVAL
    assert refusal(vmm.attach_pasid, 5, vmm.fault_queue()[0]) == EINVAL
    assert refusal(vmm.attach_pasid, MAX_PASIDS, good) == EINVAL
    assert refusal(vmm.attach_pasid, 1 << 31, good) == ENOSPC
    vmm.attach_pasid(5, good)  # before the plain one
    assert refusal(vmm.attach, vmm.devices[0], plain) == EINVAL
    assert refusal(vmm.attach, vmm.devices[0], vmm.ioas) == EINVAL
    vmm.attach(vmm.devices[0], good)
    assert refusal(vmm.attach, vmm.devices[0], plain) == EINVAL, "nor may it be replaced by such a one"
    vmm.detach_pasid(5)
    vmm.attach(vmm.devices[0], plain)
    assert refusal(vmm.attach_pasid, 5, good) == EINVAL
    for each in (plain, good):
        assert refusal(vmm.destroy, each) == (EBUSY if each == plain else 0)


@on_toy(refuse_pasid=9)
def test_what_the_driver_refuses_leaves_the_old_one(vmm: ToyVmm) -> None:
    one, two = vmm.hwpt(vmm.dev, vmm.ioas, PASID), vmm.hwpt(vmm.dev, vmm.ioas, PASID)
    assert refusal(vmm.attach_pasid, 9, one) == ENOMEM
    vmm.ops.refuse_pasid = -1
    vmm.attach_pasid(9, one)
    vmm.ops.refuse_pasid = 9
    assert refusal(vmm.attach_pasid, 9, two) == ENOMEM
    vmm.destroy(two)
    assert refusal(vmm.destroy, one) == EBUSY
    vmm.detach_pasid(9)
    vmm.destroy(one)


@on_toy()
def test_calls_of_a_driver(vmm: ToyVmm) -> None:
    """What VFIO never does: attach twice, replace nothing, PASID 0."""
    one, two = vmm.hwpt(vmm.dev, vmm.ioas, PASID), vmm.hwpt(vmm.dev, vmm.ioas, PASID)
    idev = vmm.files.get(vmm.iommufd).private_data.objects.load(vmm.dev)

    def refused(call: object, *args: int) -> int:
        return refusal(lambda: call(idev, *args))  # type: ignore[operator]

    assert refused(device.iommufd_device_replace, 3, one) == EINVAL
    for pasid in (0, 3):
        assert device.iommufd_device_attach(idev, pasid, one) == one
        assert refused(device.iommufd_device_attach, pasid, one) == EBUSY
        assert refused(device.iommufd_device_attach, pasid, two) == EBUSY
        assert device.iommufd_device_replace(idev, pasid, two) == two
        device.iommufd_device_detach(idev, pasid)
        device.iommufd_device_detach(idev, pasid)


@on_toy(max_pasids=0)
def test_a_device_without_pasids_does_not_mind(vmm: ToyVmm) -> None:
    one, two = vmm.hwpt(vmm.dev, vmm.ioas, PASID), vmm.hwpt(vmm.dev, vmm.ioas, PASID)
    vmm.attach_pasid(MAX_PASIDS, one)
    vmm.attach_pasid(MAX_PASIDS, two)
    assert vmm.ops.pasids == {}
    assert refusal(vmm.destroy, two) == EBUSY
    assert refusal(vmm.attach_pasid, 1, vmm.hwpt(vmm.dev, vmm.ioas)) == EINVAL


@on_toy(driver=NoPasidOps)
def test_an_iommu_without_pasids(vmm: ToyVmm) -> None:
    assert refusal(vmm.attach_pasid, 5, vmm.hwpt(vmm.dev, vmm.ioas, PASID)) == EOPNOTSUPP


@on_toy()
def test_pasid_0_is_the_plain_attachment(vmm: ToyVmm) -> None:
    one, two = vmm.hwpt(vmm.dev, vmm.ioas, PASID), vmm.hwpt(vmm.dev, vmm.ioas, PASID)
    assert vmm.attach_pasid(0, one) == one
    assert vmm.attach_pasid(0, two) == two
    assert [refusal(vmm.attach, vmm.devices[0], each) for each in (one, two, vmm.ioas)] == [EBUSY] * 3
    vmm.detach_pasid(0)
    vmm.attach(vmm.devices[0], one)
    assert refusal(vmm.attach_pasid, 0, two) == EBUSY


@on_toy(devices=2)
def test_two_devices_have_their_own(vmm: ToyVmm) -> None:
    good = vmm.hwpt(vmm.dev, vmm.ioas, PASID)
    vmm.attach_pasid(4, good, 0)
    vmm.attach_pasid(4, good, 1)
    assert len(vmm.ops.pasids) == 2
    vmm.detach_pasid(4, 0)
    assert len(vmm.ops.pasids) == 1
    assert refusal(vmm.destroy, good) == EBUSY
    vmm.detach_pasid(4, 1)
    vmm.destroy(good)


@on_toy(model="e1000e")
def test_hw_info_says_what_of_pasids_is_enabled(vmm: ToyVmm) -> None:
    def info() -> tuple[int, int]:
        answer = vmm.ask(uapi.IOMMU_GET_HW_INFO, uapi.iommu_hw_info(dev_id=vmm.dev))
        return answer.out_max_pasid_log2, answer.out_capabilities

    no_ats = uapi.IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED
    assert info() == (20, no_ats), "nothing is said by a capability that is not there"
    pdev = pci_host().found[E1000E]
    pdev.config.add_ext_capability(PCI_EXT_CAP_ID_PASID, 0x180, 1, struct.pack("<HH", 0x1406, 0x3))
    assert info() == (20, no_ats | uapi.IOMMU_HW_CAP_PCI_PASID_EXEC)
    pdev.config.put(0x186, 2, 0x5)
    assert info() == (20, no_ats | uapi.IOMMU_HW_CAP_PCI_PASID_PRIV)
    pdev.iommu.ats_supported = True
    pdev.iommu.max_pasids = 0
    assert info() == (0, 0)

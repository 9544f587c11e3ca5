# SPDX-License-Identifier: GPL-2.0-only
"""
ARM SMMUv3, two of them, and their driver.

Mirrors ``drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c``; what guests get of one is in
``smmuv3_viommu.py``, the hardware in ``smmuv3_hw.py``. All differences from Linux:

* the firmware's table is fixed: slots 0 to f of the root bus are behind the first SMMU,
  10 to 1f behind the second; a stream id is the PCI requester id;
* mappings are ranges, so unmapping needs no TLB command; a guest's first stage is
  cleaned by VMID when its domain goes;
* no dirty tracking, no PASID tables, no ATS, no SVA, no impl ops (Tegra's CMDQV);
* a stream table entry changes in one step, without a hitless sequence.
"""

from __future__ import annotations

from errno import EINVAL, ENODEV, EOPNOTSUPP
from typing import Any

from uvfio.linux.base.pci import pci_bus_type
from uvfio.linux.iommu import iommu, smmuv3_hw, smmuv3_viommu, sysfs
from uvfio.linux.iommu.pci_group import pci_device_group
from uvfio.linux.iommu.private import (
    IOMMU_CAP_CACHE_COHERENCY,
    IOMMU_CAP_DEFERRED_FLUSH,
    IOMMU_DOMAIN_BLOCKED,
    IOMMU_DOMAIN_IDENTITY,
    IOMMU_DOMAIN_UNMANAGED,
    IOMMU_RESV_MSI,
    DevIommu,
    IommuDevice,
    IommuDomain,
    IommuGroup,
    IommuOps,
    IommuResvRegion,
)
from uvfio.linux.iommu.smmuv3_hw import SmmuHardware, Ste
from uvfio.linux.kernel.process import PinnedPages
from uvfio.linux.kernel.xarray import Ida
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct, kzalloc
from uvfio.runtime.task import per_machine
from uvfio.uapi.iommufd import (
    IOMMU_HW_INFO_TYPE_ARM_SMMUV3,
    IOMMU_HW_INFO_TYPE_DEFAULT,
    IOMMU_HWPT_ALLOC_NEST_PARENT,
    IOMMU_HWPT_ALLOC_PASID,
    IOMMU_VIOMMU_TYPE_ARM_SMMUV3,
    iommu_hw_info_arm_smmuv3,
)

PGSIZE_BITMAP = 0x40201000  # 4 KiB, 2 MiB, 1 GiB
STAGE1_END = (1 << 48) - 1
STAGE2_END = (1 << 44) - 1
MSI_IOVA_BASE, MSI_IOVA_LENGTH = 0x0800_0000, 0x10_0000
REGISTERS = (0x0905_0000, 0x0907_0000)
SECOND_SMMU_FROM = 0x80  # devfn

# IDR0: both stages, AArch64 tables, coherent, 16-bit ASIDs and VMIDs, nested
IDR0 = 1 << 0 | 1 << 1 | 2 << 2 | 1 << 4 | 1 << 12 | 1 << 18
# IDR1: 16-bit stream ids, command queue of 2^10; IDR3: RIL; IDR5: 44 bits out, 4 KiB granule
IDR = (IDR0, 16 | 10 << 21, 0, 1 << 10, 0, 4 | 1 << 4)
AIDR = 0x2  # SMMUv3.2


class ArmSmmuDevice(SmmuHardware):
    """``struct arm_smmu_device``."""

    def __init__(self, base: int, ops: IommuOps) -> None:
        super().__init__(f"smmu3.{base:#018x}", ops)
        self.vmid_map = Ida("arm_smmu_device.vmid_map")


class ArmSmmus:
    """Those of one machine."""

    def __init__(self) -> None:
        ops = ArmSmmuOps()
        self.devices = [ArmSmmuDevice(base, ops) for base in REGISTERS]


arm_smmus = per_machine(ArmSmmus)


def arm_smmu_init() -> None:
    """Find the SMMUs and let them serve the PCI bus."""
    for smmu in arm_smmus().devices:
        smmu.vmid_map.alloc()  # 0 is the host's
        sysfs.iommu_device_sysfs_add(smmu, [])
        iommu.iommu_device_register(smmu)
    iommu.iommu_subsys_init(pci_bus_type())


@kstruct("streams")
class ArmSmmuMaster(DevIommu):
    """``struct arm_smmu_master``: a device and its stream ids."""

    def __init__(self, dev: Any) -> None:
        super().__init__(dev)
        self.smmu = _smmu_of(dev)
        self.streams: tuple[int, ...] = (dev.bus_nr << 8 | dev.devfn,)

    def translate(self, iova: int, n: int, write: bool) -> list[tuple[PinnedPages, int, int]]:
        return self.smmu.translate(self.streams[0], iova, n, write)


def dev_iommu_priv_get(dev: Any) -> ArmSmmuMaster:
    master: ArmSmmuMaster = dev.iommu
    return master


class ArmSmmuDomain(IommuDomain):
    """``struct arm_smmu_domain``: the only stage of a device, or the second one."""

    def __init__(self, ops: IommuOps, type: str, smmu: ArmSmmuDevice, stage2: bool) -> None:
        super().__init__(ops, type, PGSIZE_BITMAP, STAGE2_END if stage2 else STAGE1_END)
        self.smmu = smmu
        self.stage2 = stage2
        self.vmid = smmu.vmid_map.alloc() if stage2 else 0

    def ste(self) -> Ste:
        cfg = smmuv3_hw.STE_0_CFG_S2 if self.stage2 else smmuv3_hw.STE_0_CFG_S1
        return Ste(cfg, self, self.vmid)


class ArmSmmuOps(IommuOps):
    """``arm_smmu_ops``."""

    pgsize_bitmap = PGSIZE_BITMAP
    isolated_msi = True

    def capable(self, dev: Any, cap: str) -> bool:
        return cap in (IOMMU_CAP_CACHE_COHERENCY, IOMMU_CAP_DEFERRED_FLUSH)

    def probe_device(self, dev: Any) -> IommuDevice:
        return _smmu_of(dev)

    def dev_iommu_alloc(self, dev: Any) -> DevIommu:
        return kzalloc(ArmSmmuMaster, dev)

    def release_device(self, dev: Any) -> None:
        master = dev_iommu_priv_get(dev)
        for sid in master.streams:
            master.smmu.write_ste(sid, Ste())

    def device_group(self, dev: Any) -> IommuGroup:
        return pci_device_group(dev)

    def get_resv_regions(self, dev: Any) -> list[IommuResvRegion]:
        return [IommuResvRegion(MSI_IOVA_BASE, MSI_IOVA_LENGTH, IOMMU_RESV_MSI)]

    def hw_info(self, dev: Any, type: int) -> tuple[int, bytes]:
        if type not in (IOMMU_HW_INFO_TYPE_DEFAULT, IOMMU_HW_INFO_TYPE_ARM_SMMUV3):
            raise Errno(EOPNOTSUPP)
        registers = {f"idr{n}": value for n, value in enumerate(IDR)}
        return IOMMU_HW_INFO_TYPE_ARM_SMMUV3, iommu_hw_info_arm_smmuv3(**registers, aidr=AIDR).pack()

    def domain_alloc(self, dev: Any, type: str) -> IommuDomain:
        if type in (IOMMU_DOMAIN_BLOCKED, IOMMU_DOMAIN_IDENTITY):
            return IommuDomain(self, type)
        return ArmSmmuDomain(self, type, dev_iommu_priv_get(dev).smmu, stage2=False)

    def domain_alloc_paging_flags(self, dev: Any, flags: int, user_data: Any) -> IommuDomain:
        if flags not in (0, IOMMU_HWPT_ALLOC_PASID, IOMMU_HWPT_ALLOC_NEST_PARENT) or user_data is not None:
            raise Errno(EOPNOTSUPP)
        stage2 = flags == IOMMU_HWPT_ALLOC_NEST_PARENT
        return ArmSmmuDomain(self, IOMMU_DOMAIN_UNMANAGED, dev_iommu_priv_get(dev).smmu, stage2)

    def domain_free(self, domain: IommuDomain) -> None:
        if isinstance(domain, ArmSmmuDomain) and domain.stage2:
            vmid = domain.vmid << smmuv3_hw.CMDQ_0_VMID_SHIFT
            domain.smmu.command(smmuv3_hw.CMDQ_OP_TLBI_NH_ALL | vmid, 0)
            domain.smmu.vmid_map.free(domain.vmid)

    def attach_dev(self, domain: IommuDomain, dev: Any) -> None:
        """Errno EINVAL: *domain* is another SMMU's; ENOENT: a guest's, who does not know *dev*."""
        master = dev_iommu_priv_get(dev)
        if isinstance(domain, ArmSmmuDomain):
            if domain.smmu is not master.smmu:
                raise Errno(EINVAL)
            ste = domain.ste()
        elif isinstance(domain, smmuv3_viommu.ArmSmmuNestedDomain):
            ste = smmuv3_viommu.arm_smmu_attach_prepare(domain, dev)
        else:
            bypass = domain.type == IOMMU_DOMAIN_IDENTITY
            ste = Ste(smmuv3_hw.STE_0_CFG_BYPASS if bypass else smmuv3_hw.STE_0_CFG_ABORT)
        for sid in master.streams:
            master.smmu.write_ste(sid, ste)
        master.domain = domain

    def get_viommu_struct(self, dev: Any, type: int) -> type[Any]:
        if type != IOMMU_VIOMMU_TYPE_ARM_SMMUV3:
            raise Errno(EOPNOTSUPP)
        return smmuv3_viommu.ArmVsmmu

    def viommu_init(self, viommu: Any, parent: IommuDomain | None, user_data: Any) -> None:
        smmuv3_viommu.arm_vsmmu_init(viommu, parent)


def _smmu_of(dev: Any) -> ArmSmmuDevice:
    if dev.bus_nr:
        raise Errno(ENODEV)
    return arm_smmus().devices[1 if dev.devfn >= SECOND_SMMU_FROM else 0]

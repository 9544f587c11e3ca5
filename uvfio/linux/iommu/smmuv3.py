# SPDX-License-Identifier: GPL-2.0-only
"""
ARM SMMUv3, two of them, and their driver.

Mirrors ``drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3.c``; what guests get of one is in
``smmuv3_viommu.py``, the hardware in ``smmuv3_hw.py``. All differences from Linux:

* the firmware's table is fixed: slots 0 to f of the root bus are behind the first SMMU,
  10 to 1f behind the second; a stream id is the PCI requester id;
* what the kernel maps is never cached, so unmapping needs no TLB command; a guest's first
  stage is cleaned by VMID when its domain goes;
* no ATS, no stalls and no page requests, no SVA; the impl ops are those of Tegra's CMDQV
  (``tegra241_cmdqv.py``), which a machine has if it is told to;
* a stream table entry changes in one step, without a hitless sequence; the context
  descriptors that the kernel makes are attributes, not tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from errno import EINVAL, ENODEV, EOPNOTSUPP
from typing import Any

from uvfio.linux.base.pci import pci_bus_type
from uvfio.linux.iommu import iommu, smmuv3_hw, smmuv3_viommu, sysfs, tegra241_cmdqv
from uvfio.linux.iommu.pci_group import pci_device_group
from uvfio.linux.iommu.private import (
    IOMMU_CAP_CACHE_COHERENCY,
    IOMMU_CAP_DEFERRED_FLUSH,
    IOMMU_CAP_DIRTY_TRACKING,
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
    IotlbLine,
)
from uvfio.linux.iommu.smmuv3_hw import SmmuEvent, SmmuHardware, Ste
from uvfio.linux.kernel.process import PinnedPages
from uvfio.linux.kernel.xarray import Ida
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct, kzalloc
from uvfio.runtime.task import per_machine
from uvfio.uapi.iommufd import (
    IOMMU_HW_INFO_TYPE_ARM_SMMUV3,
    IOMMU_HW_INFO_TYPE_DEFAULT,
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
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

# IDR0: both stages, AArch64 tables, coherent, 16-bit ASIDs and VMIDs; nesting, dirty state
IDR0 = 1 << 0 | 1 << 1 | 2 << 2 | 1 << 4 | 1 << 12 | 1 << 18
IDR0_HTTU_ACCESS_DIRTY = 2 << 6
# IDR1: 16-bit stream ids, command queue of 2^10; IDR3: RIL; IDR5: 44 bits out, 4 KiB granule
IDR1, IDR3, IDR5 = 16 | 10 << 21, 1 << 10, 4 | 1 << 4
IDR1_SSIDSIZE_SHIFT, IDR1_CMDQS_SHIFT = 6, 21
SSID_BITS = 16
AIDR = 0x2  # SMMUv3.2
FIRST_STAGE_FLAGS = IOMMU_HWPT_ALLOC_DIRTY_TRACKING | IOMMU_HWPT_ALLOC_PASID
# What the driver passes on, if it comes from a stream that a guest translates for.
GUEST_EVENTS = frozenset(
    {
        smmuv3_hw.C_BAD_STE,
        smmuv3_hw.F_STREAM_DISABLED,
        smmuv3_hw.C_BAD_SUBSTREAMID,
        smmuv3_hw.C_BAD_CD,
        smmuv3_hw.F_TRANSLATION,
        smmuv3_hw.F_ACCESS,
        smmuv3_hw.F_PERMISSION,
    }
)


@dataclass(frozen=True)
class SmmuOptions:
    """What the hardware has; *cmdqv* is Tegra241's."""

    nesting: bool = True
    dirty_tracking: bool = True
    pasid: bool = True
    cmdqv: bool = False


class ArmSmmuDevice(SmmuHardware):
    """``struct arm_smmu_device``."""

    def __init__(self, base: int, ops: IommuOps) -> None:
        super().__init__(f"smmu3.{base:#018x}", ops)
        self.vmid_map = Ida("arm_smmu_device.vmid_map")
        self.streams: dict[int, ArmSmmuMaster] = {}
        self.cmdqv: tegra241_cmdqv.Tegra241Cmdqv | None = None
        self.set_options(SmmuOptions())

    def set_options(self, options: SmmuOptions) -> None:
        """Before anybody uses it."""
        self.nesting, self.dbm_capable = options.nesting, options.dirty_tracking
        idr0 = IDR0 | (IDR0_HTTU_ACCESS_DIRTY if options.dirty_tracking else 0)
        idr1 = IDR1 | (SSID_BITS << IDR1_SSIDSIZE_SHIFT if options.pasid else 0)
        self.idr = (idr0, idr1, 0, IDR3, 0, IDR5)
        self.max_pasids = 1 << SSID_BITS if options.pasid else 0
        self.cmdqv = tegra241_cmdqv.Tegra241Cmdqv(self) if options.cmdqv else None

    def handle_event(self, event: SmmuEvent) -> None:
        """``arm_smmu_handle_event()``: a guest hears of what its own stage did."""
        master = self.streams.get(event.sid)
        if master is None or master.vmaster is None or event.event not in GUEST_EVENTS or event.ipa is not None:
            return
        try:
            smmuv3_viommu.arm_vmaster_report_event(master.vmaster, event)
        except Errno:
            return  # it does not listen

    def kernel_stage(self, sid: int, ssid: int) -> IommuDomain | None:
        return self.streams[sid].pasids.get(ssid)


class ArmSmmus:
    """Those of one machine."""

    def __init__(self) -> None:
        ops = ArmSmmuOps()
        self.devices = [ArmSmmuDevice(base, ops) for base in REGISTERS]


arm_smmus = per_machine(ArmSmmus)


def arm_smmu_init(options: SmmuOptions | None = None) -> None:
    """Find the SMMUs, as *options* have them, and let them serve the PCI bus."""
    for smmu in arm_smmus().devices:
        smmu.set_options(options or SmmuOptions())
        smmu.vmid_map.alloc()  # 0 is the host's
        sysfs.iommu_device_sysfs_add(smmu, [])
        iommu.iommu_device_register(smmu)
    iommu.iommu_subsys_init(pci_bus_type())


@kstruct("streams", "vmaster")
class ArmSmmuMaster(DevIommu):
    """``struct arm_smmu_master``: a device and its stream ids."""

    def __init__(self, dev: Any) -> None:
        super().__init__(dev)
        self.smmu = _smmu_of(dev)
        self.streams: tuple[int, ...] = (dev.bus_nr << 8 | dev.devfn,)
        self.vmaster: smmuv3_viommu.ArmSmmuVmaster | None = None
        self.pasids: dict[int, IommuDomain] = {}  # the context descriptors that the kernel makes

    def translate(self, iova: int, n: int, write: bool, pasid: int = 0) -> list[tuple[PinnedPages, int, int]]:
        smmu = self.smmu
        if smmu.cmdqv is not None:
            smmu.cmdqv.run()
        return smmu.translate(self.streams[0], iova, n, write, pasid or None)

    def iotlb(self) -> list[IotlbLine]:
        """By ASID: the guest's other devices share it."""
        if not isinstance(self.domain, smmuv3_viommu.ArmSmmuNestedDomain):
            return []
        found = sorted(self.smmu.iotlb.items())
        vmid = self.domain.vsmmu.vmid
        return [IotlbLine(key[1], key[2], page, writable) for key, (page, writable) in found if key[0] == vmid]


def dev_iommu_priv_get(dev: Any) -> ArmSmmuMaster:
    master: ArmSmmuMaster = dev.iommu
    return master


class ArmSmmuDomain(IommuDomain):
    """``struct arm_smmu_domain``: the only stage of a device, or the second one."""

    def __init__(self, ops: IommuOps, type: str, smmu: ArmSmmuDevice, flags: int = 0) -> None:
        stage2 = bool(flags & IOMMU_HWPT_ALLOC_NEST_PARENT)
        super().__init__(ops, type, PGSIZE_BITMAP, STAGE2_END if stage2 else STAGE1_END)
        self.dirty_tracking = self.dirty_enabled = bool(flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
        self.smmu = smmu
        self.stage2 = stage2
        self.vmid = smmu.vmid_map.alloc() if stage2 else 0

    def set_dirty_tracking(self, enable: bool) -> None:
        """``arm_lpae_set_dirty_tracking()``: nothing, the hardware always does it in a domain that can."""

    def ste(self) -> Ste:
        cfg = smmuv3_hw.STE_0_CFG_S2 if self.stage2 else smmuv3_hw.STE_0_CFG_S1
        return Ste(cfg, self, self.vmid)


class ArmSmmuOps(IommuOps):
    """``arm_smmu_ops``."""

    pgsize_bitmap = PGSIZE_BITMAP
    isolated_msi = True

    def capable(self, dev: Any, cap: str) -> bool:
        if cap == IOMMU_CAP_DIRTY_TRACKING:
            return dev_iommu_priv_get(dev).smmu.dbm_capable
        return cap in (IOMMU_CAP_CACHE_COHERENCY, IOMMU_CAP_DEFERRED_FLUSH)

    def probe_device(self, dev: Any) -> IommuDevice:
        return _smmu_of(dev)

    def dev_iommu_alloc(self, dev: Any) -> DevIommu:
        master = kzalloc(ArmSmmuMaster, dev)
        for sid in master.streams:
            master.smmu.streams[sid] = master
        return master

    def release_device(self, dev: Any) -> None:
        master = dev_iommu_priv_get(dev)
        for sid in master.streams:
            master.smmu.write_ste(sid, Ste())
            master.smmu.streams.pop(sid, None)

    def device_group(self, dev: Any) -> IommuGroup:
        return pci_device_group(dev)

    def get_resv_regions(self, dev: Any) -> list[IommuResvRegion]:
        return [IommuResvRegion(MSI_IOVA_BASE, MSI_IOVA_LENGTH, IOMMU_RESV_MSI)]

    def hw_info(self, dev: Any, type: int) -> tuple[int, bytes]:
        smmu = dev_iommu_priv_get(dev).smmu
        if type not in (IOMMU_HW_INFO_TYPE_DEFAULT, IOMMU_HW_INFO_TYPE_ARM_SMMUV3):
            if smmu.cmdqv is None:
                raise Errno(EOPNOTSUPP)
            return smmu.cmdqv.hw_info(type)
        registers = {f"idr{n}": value for n, value in enumerate(smmu.idr)}
        return IOMMU_HW_INFO_TYPE_ARM_SMMUV3, iommu_hw_info_arm_smmuv3(**registers, aidr=AIDR).pack()

    def domain_alloc(self, dev: Any, type: str) -> IommuDomain:
        if type in (IOMMU_DOMAIN_BLOCKED, IOMMU_DOMAIN_IDENTITY):
            return IommuDomain(self, type)
        return ArmSmmuDomain(self, type, dev_iommu_priv_get(dev).smmu)

    def domain_alloc_paging_flags(self, dev: Any, flags: int, user_data: Any) -> IommuDomain:
        smmu = dev_iommu_priv_get(dev).smmu
        nest_parent = flags == IOMMU_HWPT_ALLOC_NEST_PARENT and smmu.nesting
        if user_data is not None or not (nest_parent or not flags & ~FIRST_STAGE_FLAGS):
            raise Errno(EOPNOTSUPP)
        return ArmSmmuDomain(self, IOMMU_DOMAIN_UNMANAGED, smmu, flags)

    def domain_free(self, domain: IommuDomain) -> None:
        if isinstance(domain, ArmSmmuDomain) and domain.stage2:
            vmid = domain.vmid << smmuv3_hw.CMDQ_0_VMID_SHIFT
            domain.smmu.command(smmuv3_hw.CMDQ_OP_TLBI_NH_ALL | vmid, 0)
            domain.smmu.vmid_map.free(domain.vmid)

    def attach_dev(self, domain: IommuDomain, dev: Any) -> None:
        """Errno EINVAL: *domain* is another SMMU's; ENOENT: a guest's, who does not know *dev*."""
        master = dev_iommu_priv_get(dev)
        vmaster = None
        if isinstance(domain, ArmSmmuDomain):
            if domain.smmu is not master.smmu:
                raise Errno(EINVAL)
            ste = domain.ste()
        elif isinstance(domain, smmuv3_viommu.ArmSmmuNestedDomain):
            vmaster = smmuv3_viommu.arm_smmu_attach_prepare(domain, dev)
            ste = domain.ste()
        else:
            bypass = domain.type == IOMMU_DOMAIN_IDENTITY
            ste = Ste(smmuv3_hw.STE_0_CFG_BYPASS if bypass else smmuv3_hw.STE_0_CFG_ABORT)
        # Only then: whoever hears of an event of the new entry must be the new one.
        master.vmaster = vmaster
        for sid in master.streams:
            master.smmu.write_ste(sid, ste)
        master.domain = domain

    def set_dev_pasid(self, domain: IommuDomain, dev: Any, pasid: int, old: IommuDomain | None) -> None:
        """Errno EOPNOTSUPP no PASIDs; EINVAL: not a first stage of this SMMU, or the device is on a second one."""
        master = dev_iommu_priv_get(dev)
        if not master.smmu.max_pasids:
            raise Errno(EOPNOTSUPP)
        if not isinstance(domain, ArmSmmuDomain) or domain.smmu is not master.smmu or domain.stage2:
            raise Errno(EINVAL)
        plain = master.domain
        if isinstance(plain, smmuv3_viommu.ArmSmmuNestedDomain) or (isinstance(plain, ArmSmmuDomain) and plain.stage2):
            raise Errno(EINVAL)
        master.pasids[pasid] = domain

    def remove_dev_pasid(self, dev: Any, pasid: int, old: IommuDomain) -> None:
        dev_iommu_priv_get(dev).pasids.pop(pasid, None)

    def get_viommu_struct(self, dev: Any, type: int) -> type[Any]:
        smmu = dev_iommu_priv_get(dev).smmu
        if not smmu.nesting:
            raise Errno(EOPNOTSUPP)
        if type == IOMMU_VIOMMU_TYPE_ARM_SMMUV3:
            return smmuv3_viommu.ArmVsmmu
        if smmu.cmdqv is None:
            raise Errno(EOPNOTSUPP)
        return smmu.cmdqv.get_vintf_struct(type)

    def viommu_init(self, viommu: Any, parent: IommuDomain | None, user_data: Any) -> None:
        smmuv3_viommu.arm_vsmmu_init(viommu, parent)
        if isinstance(viommu, tegra241_cmdqv.Tegra241Vintf):
            tegra241_cmdqv.tegra241_cmdqv_init_vintf_user(viommu, user_data)


def _smmu_of(dev: Any) -> ArmSmmuDevice:
    if dev.bus_nr:
        raise Errno(ENODEV)
    return arm_smmus().devices[1 if dev.devfn >= SECOND_SMMU_FROM else 0]

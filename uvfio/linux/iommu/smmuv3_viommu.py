# SPDX-License-Identifier: GPL-2.0-only
"""
An SMMUv3 in the hands of a guest: its stream table entries and its commands.

Mirrors ``drivers/iommu/arm/arm-smmu-v3/arm-smmu-v3-iommufd.c``. All differences from
Linux:

* a batch of commands is applied one by one, so ``entry_num`` never counts one that was
  read but not issued.

A guest has no command for a stream table entry of its own: whoever runs it makes a new
nested page table and attaches that.
"""

from __future__ import annotations

from errno import EINVAL, EIO, EOPNOTSUPP
from typing import Any

from uvfio.linux.iommu import smmuv3, smmuv3_hw
from uvfio.linux.iommu.iommufd import (
    IommufdVdevice,
    IommufdViommu,
    IommuUserData,
    IommuUserDataArray,
    iommu_copy_struct_from_full_user_array,
    iommu_copy_struct_from_user,
    iommufd_viommu_find_dev,
    iommufd_viommu_get_vdev_id,
    iommufd_viommu_report_event,
)
from uvfio.linux.iommu.private import IOMMU_DOMAIN_NESTED, IommuDomain, IommuOps
from uvfio.linux.iommu.smmuv3_hw import Ste
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct
from uvfio.uapi.iommufd import (
    IOMMU_HWPT_DATA_ARM_SMMUV3,
    IOMMU_VEVENTQ_TYPE_ARM_SMMUV3,
    IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3,
    iommu_hwpt_arm_smmuv3,
    iommu_vevent_arm_smmuv3,
    iommu_viommu_arm_smmuv3_invalidate,
)

# What a guest may say in its stream table entry: V, Config, S1Fmt, S1ContextPtr, S1CDMax ...
STE_0_NESTING_ALLOWED = 0xF80F_FFFF_FFFF_FFFF
# ... S1DSS, S1CIR, S1COR, S1CSH, S1STALLD, EATS
STE_1_NESTING_ALLOWED = 0x3800_00FF
STE_1_EATS_SHIFT = 28
EATS_ABT, EATS_TRANS = 0, 1

# Which commands a guest may give, and what in them is virtual.
TLB_COMMANDS = frozenset(
    {
        smmuv3_hw.CMDQ_OP_TLBI_NH_VA,
        smmuv3_hw.CMDQ_OP_TLBI_NH_VAA,
        smmuv3_hw.CMDQ_OP_TLBI_NH_ALL,
        smmuv3_hw.CMDQ_OP_TLBI_NH_ASID,
    }
)
STREAM_COMMANDS = frozenset({smmuv3_hw.CMDQ_OP_ATC_INV, smmuv3_hw.CMDQ_OP_CFGI_CD, smmuv3_hw.CMDQ_OP_CFGI_CD_ALL})
VMID_MASK = 0xFFFF << smmuv3_hw.CMDQ_0_VMID_SHIFT
SID_MASK = 0xFFFFFFFF << smmuv3_hw.CMDQ_0_SID_SHIFT


class ArmSmmuNestedDomain(IommuDomain):
    """``struct arm_smmu_nested_domain``: a stream table entry of a guest."""

    def __init__(self, ops: IommuOps, vsmmu: ArmVsmmu, ste0: int, ste1: int) -> None:
        super().__init__(ops, IOMMU_DOMAIN_NESTED)
        self.vsmmu = vsmmu
        self.ste0 = ste0
        self.ste1 = ste1

    @property
    def cfg(self) -> int:
        """Its configuration, abort when it is not valid."""
        return self.ste0 >> 1 & 7 if self.ste0 & smmuv3_hw.STE_0_V else smmuv3_hw.STE_0_CFG_ABORT

    def ste(self) -> Ste:
        """What the hardware gets: the guest's stage, if it has one, and the second."""
        parent = self.vsmmu.s2_parent
        if self.cfg == smmuv3_hw.STE_0_CFG_S1:
            return Ste(
                smmuv3_hw.STE_0_CFG_NESTED,
                parent,
                self.vsmmu.vmid,
                self.ste0 & smmuv3_hw.STE_0_S1CONTEXTPTR,
                self.ste0 >> smmuv3_hw.STE_0_S1FMT_SHIFT & 3,
                self.ste0 >> smmuv3_hw.STE_0_S1CDMAX_SHIFT,
                self.ste1 & 3,
            )
        return parent.ste() if self.cfg == smmuv3_hw.STE_0_CFG_BYPASS else Ste()


def arm_smmu_validate_vste(ste0: int, ste1: int) -> None:
    """Errno EIO: the guest said what it may not."""
    if not ste0 & smmuv3_hw.STE_0_V:
        return
    if ste0 & ~STE_0_NESTING_ALLOWED or ste1 & ~STE_1_NESTING_ALLOWED:
        raise Errno(EIO)
    if ste0 >> 1 & 7 not in (smmuv3_hw.STE_0_CFG_ABORT, smmuv3_hw.STE_0_CFG_BYPASS, smmuv3_hw.STE_0_CFG_S1):
        raise Errno(EIO)
    if ste1 >> STE_1_EATS_SHIFT & 3 not in (EATS_ABT, EATS_TRANS):
        raise Errno(EIO)


class ArmSmmuVmaster:
    """``struct arm_smmu_vmaster``: a device that a guest translates for, and what the guest calls it."""

    def __init__(self, vsmmu: ArmVsmmu, vsid: int) -> None:
        self.vsmmu = vsmmu
        self.vsid = vsid


def arm_smmu_attach_prepare(domain: ArmSmmuNestedDomain, dev: Any) -> ArmSmmuVmaster | None:
    """
    Whom to tell of the events of *dev*, once it is on *domain*. Errno EINVAL another SMMU;
    ENOENT the guest translates for a device that it has no stream id for.
    """
    if smmuv3.dev_iommu_priv_get(dev).smmu is not domain.vsmmu.smmu:
        raise Errno(EINVAL)
    try:
        return ArmSmmuVmaster(domain.vsmmu, iommufd_viommu_get_vdev_id(domain.vsmmu, dev))
    except Errno:
        if domain.cfg == smmuv3_hw.STE_0_CFG_S1:
            raise
        return None


def arm_vmaster_report_event(vmaster: ArmSmmuVmaster, event: smmuv3_hw.SmmuEvent) -> None:
    """The event, with the guest's name for the stream. Errno EOPNOTSUPP: the guest does not listen."""
    evt0, evt1, evt2, evt3 = event.record()
    evt0 = evt0 & ~SID_MASK | (vmaster.vsid & 0xFFFFFFFF) << smmuv3_hw.EVTQ_0_SID_SHIFT
    vevt = iommu_vevent_arm_smmuv3(evt0=evt0, evt1=evt1, evt2=evt2, evt3=evt3)
    iommufd_viommu_report_event(vmaster.vsmmu, IOMMU_VEVENTQ_TYPE_ARM_SMMUV3, vevt.pack())


def arm_vsmmu_init(vsmmu: ArmVsmmu, parent: IommuDomain | None) -> None:
    """Errno EINVAL: *parent* is of another SMMU."""
    smmu = vsmmu.iommu_dev
    if not isinstance(parent, smmuv3.ArmSmmuDomain) or parent.smmu is not smmu:
        raise Errno(EINVAL)
    vsmmu.smmu = smmu
    vsmmu.s2_parent = parent
    vsmmu.vmid = parent.vmid


@kstruct()
class ArmVsmmu(IommufdViommu):
    """``struct arm_vsmmu``."""

    smmu: smmuv3.ArmSmmuDevice
    s2_parent: smmuv3.ArmSmmuDomain
    vmid = 0

    def alloc_domain_nested(self, flags: int, user_data: IommuUserData) -> IommuDomain:
        if flags:
            raise Errno(EOPNOTSUPP)
        arg = iommu_copy_struct_from_user(
            iommu_hwpt_arm_smmuv3, user_data, IOMMU_HWPT_DATA_ARM_SMMUV3, iommu_hwpt_arm_smmuv3.size_of
        )
        arm_smmu_validate_vste(arg.ste0, arg.ste1)
        return ArmSmmuNestedDomain(self.smmu.ops, self, arg.ste0, arg.ste1)

    def vdevice_init(self, vdev: IommufdVdevice, dev: Any) -> None:
        # A virtual stream id can stand for one physical one only.
        if len(smmuv3.dev_iommu_priv_get(dev).streams) != 1:
            raise Errno(EOPNOTSUPP)

    def cache_invalidate(self, array: IommuUserDataArray) -> None:
        """Errno EIO: a command that is not for guests, or of a stream the guest does not have."""
        commands = iommu_copy_struct_from_full_user_array(
            iommu_viommu_arm_smmuv3_invalidate, array, IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3
        )
        for command in commands:
            self.smmu.command(self._convert_user_cmd(command.cmd0), command.cmd1)
            array.entry_done += 1

    def _convert_user_cmd(self, cmd0: int) -> int:
        op = cmd0 & 0xFF
        if op == smmuv3_hw.CMDQ_OP_TLBI_NSNH_ALL:
            return smmuv3_hw.CMDQ_OP_TLBI_NH_ALL | self.vmid << smmuv3_hw.CMDQ_0_VMID_SHIFT
        if op in TLB_COMMANDS:
            return cmd0 & ~VMID_MASK | self.vmid << smmuv3_hw.CMDQ_0_VMID_SHIFT
        if op in STREAM_COMMANDS:
            sid = self._vsid_to_sid(cmd0 >> smmuv3_hw.CMDQ_0_SID_SHIFT)
            return cmd0 & ~SID_MASK | sid << smmuv3_hw.CMDQ_0_SID_SHIFT
        raise Errno(EIO)

    def _vsid_to_sid(self, vsid: int) -> int:
        """``arm_vsmmu_vsid_to_sid()``."""
        with self.vdevs.xa_lock:
            dev = iommufd_viommu_find_dev(self, vsid)
            if dev is None:
                raise Errno(EIO)
            return smmuv3.dev_iommu_priv_get(dev).streams[0]

# SPDX-License-Identifier: GPL-2.0-only
"""
An Intel IOMMU whose first stage is a guest's.

Mirrors ``drivers/iommu/intel/nested.c``. All differences from Linux:

* an invalidation forgets exactly the pages it names, where Linux rounds to a power of two
  and hardware may forget more: a guest that invalidates too little is found out here;
* IOMMU_VTD_INV_FLAGS_LEAF changes nothing, as only leaves are cached; neither do the
  flags EAFE and WPE of the table, and SRE lets the guest's supervisor entries pass;
* five levels are refused as by hardware without them.
"""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP

from uvfio.linux.iommu import first_stage, vtd
from uvfio.linux.iommu.first_stage import FirstStage, FirstStageFault, Pieces, Root
from uvfio.linux.iommu.iommufd import (
    IommuUserData,
    IommuUserDataArray,
    iommu_copy_struct_from_user,
    iommu_copy_struct_from_user_array,
)
from uvfio.linux.iommu.private import IOMMU_DOMAIN_NESTED, IOMMU_WRITE, IommuDomain, IommuOps
from uvfio.runtime.errors import Errno
from uvfio.uapi.iommufd import (
    IOMMU_HWPT_ALLOC_PASID,
    IOMMU_HWPT_DATA_VTD_S1,
    IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
    IOMMU_VTD_INV_FLAGS_LEAF,
    IOMMU_VTD_S1_EAFE,
    IOMMU_VTD_S1_SRE,
    IOMMU_VTD_S1_WPE,
    iommu_hwpt_vtd_s1,
    iommu_hwpt_vtd_s1_invalidate,
)

S1_FLAGS = IOMMU_VTD_S1_SRE | IOMMU_VTD_S1_EAFE | IOMMU_VTD_S1_WPE
ADDR_WIDTH_4LEVEL = 48
ALL_PAGES = (1 << 64) - 1
PAGE_SHIFT = 12

# Fault reasons, with the words of the driver.
REASONS = {
    first_stage.NOT_CANONICAL: (0x80, "SM: First-level address is not canonical"),
    first_stage.UNREACHABLE_TABLE: (
        0x76,
        "SM: Read permission error in first-level paging entry in Nested translation",
    ),
    first_stage.NOT_PRESENT: (0x71, "SM: Present bit in first-level paging entry is clear"),
    first_stage.NOT_USER: (0x81, "SM: U/S set 0 for first-level translation with user privilege"),
    first_stage.NOT_WRITABLE: (0x85, "SM: No write permission for Write/AtomicOp request"),
    first_stage.SECOND_STAGE: (0x79, "SM: Read/Write permission error in second-level paging entry"),
}


class IntelNestedDomain(IommuDomain):
    """``struct dmar_domain`` of type nested: *s1_cfg* is the guest's table, *s2_domain* its memory."""

    def __init__(self, ops: IommuOps, s2_domain: vtd.DmarDomain, s1_cfg: iommu_hwpt_vtd_s1) -> None:
        super().__init__(ops, IOMMU_DOMAIN_NESTED)
        self.s2_domain = s2_domain
        self.s1_cfg = s1_cfg
        self.root = Root(s1_cfg.pgtbl_addr & first_stage.PTE_ADDRESS, 4)
        self.first_stage = FirstStage(s2_domain, supervisor=bool(s1_cfg.flags & IOMMU_VTD_S1_SRE))
        self.reason = REASONS[first_stage.NOT_PRESENT]  # of the last fault

    def walk(self, iova: int, n: int, prot: int) -> tuple[Pieces, int | None]:
        return self.walk_pasid(iova, n, prot, 0)

    def walk_pasid(self, iova: int, n: int, prot: int, pasid: int) -> tuple[Pieces, int | None]:
        try:
            return self.first_stage.translate(self.root, iova, n, bool(prot & IOMMU_WRITE), pasid), None
        except FirstStageFault as e:
            self.reason = REASONS[e.reason]
            return [], e.addr

    def cache_invalidate_user(self, array: IommuUserDataArray) -> None:
        """``intel_nested_cache_invalidate_user()``. Errno EINVAL, EOPNOTSUPP, EFAULT."""
        if array.type != IOMMU_HWPT_INVALIDATE_DATA_VTD_S1:
            raise Errno(EINVAL)
        for index in range(array.entry_num):
            first, last = _to_invalidate(array, index)
            self.first_stage.invalidate(first, last)
            array.entry_done += 1


def _to_invalidate(array: IommuUserDataArray, index: int) -> tuple[int, int | None]:
    """What entry *index* covers, the end inclusive; None: everything."""
    entry = iommu_copy_struct_from_user_array(
        iommu_hwpt_vtd_s1_invalidate,
        array,
        IOMMU_HWPT_INVALIDATE_DATA_VTD_S1,
        index,
        iommu_hwpt_vtd_s1_invalidate.size_of,
    )
    if entry.flags & ~IOMMU_VTD_INV_FLAGS_LEAF or entry.__reserved:
        raise Errno(EOPNOTSUPP)
    everything = entry.npages == ALL_PAGES
    if entry.addr & first_stage.PAGE_MASK or (everything and entry.addr):
        raise Errno(EINVAL)
    return entry.addr, None if everything else entry.addr + (entry.npages << PAGE_SHIFT) - 1


def intel_iommu_domain_alloc_nested(parent: IommuDomain, flags: int, user_data: IommuUserData) -> IommuDomain:
    """Errno EOPNOTSUPP no nesting, EINVAL a *parent* that cannot be one, or what is not known."""
    if not vtd.intel_iommu().nested_supported or flags & ~IOMMU_HWPT_ALLOC_PASID:
        raise Errno(EOPNOTSUPP)
    if user_data.type != IOMMU_HWPT_DATA_VTD_S1:
        raise Errno(EOPNOTSUPP)
    if not isinstance(parent, vtd.DmarDomain) or not parent.nested_parent:
        raise Errno(EINVAL)
    s1_cfg = iommu_copy_struct_from_user(
        iommu_hwpt_vtd_s1, user_data, IOMMU_HWPT_DATA_VTD_S1, iommu_hwpt_vtd_s1.size_of
    )
    if s1_cfg.flags & ~S1_FLAGS or s1_cfg.__reserved:
        raise Errno(EINVAL)
    return IntelNestedDomain(parent.ops, parent, s1_cfg)


def intel_pasid_setup_nested(domain: IntelNestedDomain) -> None:
    """What can only be told when a device is put on the table. Errno EINVAL."""
    if domain.s1_cfg.addr_width != ADDR_WIDTH_4LEVEL:
        raise Errno(EINVAL)

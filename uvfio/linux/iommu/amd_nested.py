# SPDX-License-Identifier: GPL-2.0-only
"""
An AMD IOMMU in the hands of a guest: its device table entries and its tables.

Mirrors ``drivers/iommu/amd/nested.c`` and the vIOMMU of ``iommufd.c``. All differences from
Linux:

* a guest's domain id is not turned into one of the host, because nothing is tagged with it:
  each nested page table has a cache of its own;
* what the guest's entry says of interrupts and page requests is ignored.

As in Linux 7.3 there is no way to invalidate: IOMMU_HWPT_INVALIDATE is EOPNOTSUPP, and what
the hardware has cached of a guest's tables goes when a device is attached anew. Guest
translation is switched on whatever the guest's V and GV say, as every nested entry needs it.
"""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP

from uvfio.linux.iommu import amd, first_stage
from uvfio.linux.iommu.first_stage import FirstStage, FirstStageFault, Pieces, Root
from uvfio.linux.iommu.iommufd import IommufdViommu, IommuUserData, iommu_copy_struct_from_user
from uvfio.linux.iommu.private import IOMMU_DOMAIN_NESTED, IOMMU_WRITE, IommuDomain, IommuOps
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct
from uvfio.uapi.iommufd import IOMMU_HWPT_DATA_AMD_GUEST, iommu_hwpt_amd_guest

# Device table entries, by their 64-bit words.
DTE_0_V, DTE_0_GV = 1 << 0, 1 << 55
DTE_0_MODE, DTE_0_HOST_TRP = 7 << 9, 0x000F_FFFF_FFFF_F000
DTE_0_GLX_SHIFT, DTE_0_GCR3_14_12_SHIFT = 56, 58
DTE_1_GCR3_30_15_SHIFT, DTE_1_GCR3_51_31_SHIFT = 16, 43
DTE_2_GPT_LEVEL_SHIFT = 54
GUEST_PGTABLE_4_LEVEL, GUEST_PGTABLE_5_LEVEL = 0, 1
GLX_INVALID = 3

GCR3_VALID = 1 << 0
GCR3_INDEX_BITS = 9


class NestedDomain(IommuDomain):
    """``struct nested_domain``: a device table entry of a guest."""

    def __init__(self, ops: IommuOps, viommu: AmdIommuViommu, gdte: iommu_hwpt_amd_guest) -> None:
        super().__init__(ops, IOMMU_DOMAIN_NESTED)
        self.viommu = viommu
        self.gcr3 = gcr3_table(gdte)
        self.levels = (gdte.dte0 >> DTE_0_GLX_SHIFT & 3) + 1  # of the table of PASIDs
        self.first_stage = FirstStage(viommu.parent)

    def walk(self, iova: int, n: int, prot: int) -> tuple[Pieces, int | None]:
        return self.walk_pasid(iova, n, prot, 0)

    def walk_pasid(self, iova: int, n: int, prot: int, pasid: int) -> tuple[Pieces, int | None]:
        """What a device reaches with *pasid*, 0 for none."""
        try:
            root = self._root(pasid, iova)
            return self.first_stage.translate(root, iova, n, bool(prot & IOMMU_WRITE), pasid), None
        except FirstStageFault as e:
            return [], e.addr

    def _root(self, pasid: int, iova: int) -> Root:
        """The guest's page table for *pasid*, from its GCR3 table, which is read every time."""
        table = self.gcr3
        if pasid >> GCR3_INDEX_BITS * self.levels:
            raise FirstStageFault(first_stage.NOT_PRESENT, iova)
        for level in reversed(range(self.levels)):
            index = pasid >> GCR3_INDEX_BITS * level & 0x1FF
            entry = int.from_bytes(self.first_stage.read(table + 8 * index, 8, iova), "little")
            if not entry & GCR3_VALID:
                raise FirstStageFault(first_stage.NOT_PRESENT, iova)
            table = entry & first_stage.PTE_ADDRESS
        return Root(table, 4)


def gcr3_table(gdte: iommu_hwpt_amd_guest) -> int:
    """Where the guest has its table of page tables; the address is in three pieces."""
    return int(
        (gdte.dte0 >> DTE_0_GCR3_14_12_SHIFT & 0x7) << 12
        | (gdte.dte1 >> DTE_1_GCR3_30_15_SHIFT & 0xFFFF) << 15
        | (gdte.dte1 >> DTE_1_GCR3_51_31_SHIFT & 0x1F_FFFF) << 31
    )


def validate_gdte_nested(gdte: iommu_hwpt_amd_guest) -> None:
    """Errno EINVAL: the guest said what it may not; EOPNOTSUPP: what the hardware cannot do."""
    # Between the guest and its memory there is nothing but its own table.
    if gdte.dte0 & (DTE_0_MODE | DTE_0_HOST_TRP):
        raise Errno(EINVAL)
    if gdte.dte0 & DTE_0_V and gdte.dte0 & DTE_0_GV and not gcr3_table(gdte):
        raise Errno(EINVAL)
    mode = gdte.dte2 >> DTE_2_GPT_LEVEL_SHIFT & 3
    if mode not in (GUEST_PGTABLE_4_LEVEL, GUEST_PGTABLE_5_LEVEL):
        raise Errno(EINVAL)
    if mode == GUEST_PGTABLE_5_LEVEL:
        raise Errno(EOPNOTSUPP, "the hardware has four levels")
    if gdte.dte0 >> DTE_0_GLX_SHIFT & 3 == GLX_INVALID:
        raise Errno(EINVAL)


@kstruct()
class AmdIommuViommu(IommufdViommu):
    """``struct amd_iommu_viommu``."""

    parent: amd.ProtectionDomain

    def alloc_domain_nested(self, flags: int, user_data: IommuUserData) -> IommuDomain:
        """``amd_iommu_alloc_domain_nested()``."""
        gdte = iommu_copy_struct_from_user(
            iommu_hwpt_amd_guest, user_data, IOMMU_HWPT_DATA_AMD_GUEST, iommu_hwpt_amd_guest.size_of
        )
        validate_gdte_nested(gdte)
        return NestedDomain(self.parent.ops, self, gdte)


def amd_iommufd_viommu_init(viommu: AmdIommuViommu, parent: IommuDomain | None) -> None:
    """Errno EINVAL: *parent* is no table of this driver that can be one."""
    if not isinstance(parent, amd.ProtectionDomain) or not parent.nest_parent:
        raise Errno(EINVAL)
    viommu.parent = parent


def flush(domain: IommuDomain | None) -> None:
    """A device is put on *domain*, or taken off: what was cached through it goes."""
    if isinstance(domain, NestedDomain):
        domain.first_stage.invalidate()

# SPDX-License-Identifier: GPL-2.0-only
"""
The selftest's mock page tables, and the nested ones that a guest has made.

Mirrors that part of ``drivers/iommu/iommufd/selftest.c``. Difference from Linux: none
known; leaf sizes are what any domain here has.
"""

from __future__ import annotations

from errno import EINVAL, EOPNOTSUPP
from typing import Any

from uvfio.linux.iommu.iommufd import (
    IommufdViommu,
    IommuUserData,
    IommuUserDataArray,
    iommu_copy_struct_from_user,
    iommu_copy_struct_from_user_array,
)
from uvfio.linux.iommu.private import IOMMU_DOMAIN_NESTED, IOMMU_DOMAIN_UNMANAGED, IommuDomain, IommuOps
from uvfio.linux.iommufd.private import PAGE_SIZE, ULONG_MAX
from uvfio.runtime.errors import Errno
from uvfio.uapi.iommufd import (
    IOMMU_HWPT_ALLOC_DIRTY_TRACKING,
    IOMMU_HWPT_ALLOC_NEST_PARENT,
    IOMMU_HWPT_ALLOC_PASID,
)
from uvfio.uapi.iommufd_test import (
    IOMMU_HWPT_DATA_SELFTEST,
    IOMMU_HWPT_INVALIDATE_DATA_SELFTEST,
    IOMMU_TEST_INVALIDATE_FLAG_ALL,
    MOCK_APERTURE_LAST,
    MOCK_APERTURE_START,
    MOCK_FLAGS_DEVICE_NO_DIRTY,
    MOCK_HUGE_PAGE_SIZE,
    MOCK_IOMMUPT_DEFAULT,
    MOCK_IOMMUPT_HUGE,
    MOCK_NESTED_DOMAIN_IOTLB_ID_MAX,
    MOCK_NESTED_DOMAIN_IOTLB_NUM,
    MOCK_PAGE_SIZE,
    iommu_hwpt_invalidate_selftest,
    iommu_hwpt_selftest,
)

PAGING_FLAGS = IOMMU_HWPT_ALLOC_DIRTY_TRACKING | IOMMU_HWPT_ALLOC_NEST_PARENT | IOMMU_HWPT_ALLOC_PASID
MOCK_MAX_PAGE_SIZE = 1 << 36
MIN_DATA = iommu_hwpt_selftest.offsetof("pagetable_type")  # only iotlb


class MockIommuDomain(IommuDomain):
    """``struct mock_iommu_domain``."""

    reads_dirty_while_off = True

    def __init__(self, ops: IommuOps, pagetable_type: int) -> None:
        if pagetable_type == MOCK_IOMMUPT_HUGE:
            super().__init__(ops, IOMMU_DOMAIN_UNMANAGED, PAGE_SIZE | MOCK_HUGE_PAGE_SIZE, ULONG_MAX)
        else:
            sizes = MOCK_MAX_PAGE_SIZE * 2 - MOCK_PAGE_SIZE
            super().__init__(ops, IOMMU_DOMAIN_UNMANAGED, sizes, MOCK_APERTURE_LAST)
            self.aperture_start = MOCK_APERTURE_START


class MockIommuDomainNested(IommuDomain):
    """``struct mock_iommu_domain_nested``."""

    def __init__(self, ops: IommuOps, mock_viommu: IommufdViommu | None, iotlb: int) -> None:
        super().__init__(ops, IOMMU_DOMAIN_NESTED)
        self.mock_viommu = mock_viommu
        self.iotlb = [iotlb] * MOCK_NESTED_DOMAIN_IOTLB_NUM

    def cache_invalidate_user(self, array: IommuUserDataArray) -> None:
        if array.type != IOMMU_HWPT_INVALIDATE_DATA_SELFTEST:
            raise Errno(EINVAL)
        struct = iommu_hwpt_invalidate_selftest
        for index in range(array.entry_num):
            inv = iommu_copy_struct_from_user_array(struct, array, array.type, index, struct.size_of)
            if inv.flags & ~IOMMU_TEST_INVALIDATE_FLAG_ALL:
                raise Errno(EOPNOTSUPP)
            if inv.iotlb_id > MOCK_NESTED_DOMAIN_IOTLB_ID_MAX:
                raise Errno(EINVAL)
            if inv.flags & IOMMU_TEST_INVALIDATE_FLAG_ALL:
                self.iotlb = [0] * MOCK_NESTED_DOMAIN_IOTLB_NUM
            else:
                self.iotlb[inv.iotlb_id] = 0
            array.entry_done += 1


def mock_domain_alloc_paging_flags(
    ops: IommuOps, dev: Any, flags: int, user_data: IommuUserData | None
) -> MockIommuDomain:
    """Errno EOPNOTSUPP flags or data that the mock or *dev* does not know, EINVAL, EFAULT."""
    dirty = bool(flags & IOMMU_HWPT_ALLOC_DIRTY_TRACKING)
    if flags & ~PAGING_FLAGS or (dirty and dev.flags & MOCK_FLAGS_DEVICE_NO_DIRTY):
        raise Errno(EOPNOTSUPP)
    pagetable_type = MOCK_IOMMUPT_DEFAULT
    if user_data is not None:
        data = iommu_copy_struct_from_user(iommu_hwpt_selftest, user_data, IOMMU_HWPT_DATA_SELFTEST, MIN_DATA)
        pagetable_type = data.pagetable_type
    if pagetable_type not in (MOCK_IOMMUPT_DEFAULT, MOCK_IOMMUPT_HUGE):
        raise Errno(EOPNOTSUPP)
    domain = MockIommuDomain(ops, pagetable_type)
    domain.dirty_tracking = dirty
    return domain


def mock_domain_alloc_nested(
    ops: IommuOps, parent: IommuDomain, flags: int, user_data: IommuUserData
) -> MockIommuDomainNested:
    """Errno EOPNOTSUPP, EINVAL *parent* is no mock domain or the data, EFAULT."""
    return _mock_domain_alloc_nested(ops, parent, None, flags, user_data)


def mock_viommu_alloc_domain_nested(
    viommu: IommufdViommu, flags: int, user_data: IommuUserData
) -> MockIommuDomainNested:
    return _mock_domain_alloc_nested(viommu.iommu_dev.ops, viommu.hwpt.domain, viommu, flags, user_data)


def _mock_domain_alloc_nested(
    ops: IommuOps, parent: IommuDomain, viommu: IommufdViommu | None, flags: int, user_data: IommuUserData
) -> MockIommuDomainNested:
    if flags & ~IOMMU_HWPT_ALLOC_PASID:
        raise Errno(EOPNOTSUPP)
    if not isinstance(parent, MockIommuDomain):
        raise Errno(EINVAL)
    data = iommu_copy_struct_from_user(iommu_hwpt_selftest, user_data, IOMMU_HWPT_DATA_SELFTEST, MIN_DATA)
    return MockIommuDomainNested(ops, viommu, data.iotlb)

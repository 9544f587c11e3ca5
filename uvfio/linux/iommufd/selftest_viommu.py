# SPDX-License-Identifier: GPL-2.0-only
"""
The selftest's vIOMMU, with caches to invalidate, hardware queues and memory to map.

Mirrors that part of ``drivers/iommu/iommufd/selftest.c``. Difference from Linux: none known.
As in Linux 7.3.4, a hardware queue does not remember its index: when one is destroyed, it is
index 0 that becomes free.
"""

from __future__ import annotations

from errno import EEXIST, EINVAL, EIO, ENOMEM, EOPNOTSUPP
from typing import Any

from uvfio.linux.iommu.iommufd import (
    IommufdHwQueue,
    IommufdMmapMemory,
    IommufdViommu,
    IommuUserData,
    IommuUserDataArray,
    iommu_copy_struct_from_full_user_array,
    iommu_copy_struct_from_user,
    iommu_copy_struct_to_user,
    iommufd_hw_queue_depend,
    iommufd_hw_queue_undepend,
    iommufd_viommu_alloc_mmap,
    iommufd_viommu_destroy_mmap,
    iommufd_viommu_find_dev,
)
from uvfio.linux.iommu.private import IommuDomain
from uvfio.linux.iommufd import selftest_domain
from uvfio.linux.iommufd.private import PAGE_SIZE
from uvfio.linux.kernel.mutex import Mutex
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct
from uvfio.uapi.iommufd_test import (
    IOMMU_HW_QUEUE_TYPE_SELFTEST,
    IOMMU_TEST_HW_QUEUE_MAX,
    IOMMU_TEST_INVALIDATE_FLAG_ALL,
    IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST,
    IOMMU_VIOMMU_TYPE_SELFTEST,
    MOCK_DEV_CACHE_ID_MAX,
    MOCK_DEV_CACHE_NUM,
    iommu_viommu_invalidate_selftest,
    iommu_viommu_selftest,
)

KMALLOC_MAX_SIZE = 4 << 20
MMAP_LENGTH = 2 * PAGE_SIZE


@kstruct()
class MockViommu(IommufdViommu):
    """``struct mock_viommu``."""

    s2_parent: selftest_domain.MockIommuDomain
    mmap_offset = 0  # 0: nothing to map was asked for
    page: IommufdMmapMemory

    def __init__(self, ictx: Any, hwpt: Any, iommu_dev: Any) -> None:
        super().__init__(ictx, hwpt, iommu_dev)
        self.queue_mutex = Mutex("mock_viommu.queue_mutex")
        self.hw_queue: list[MockHwQueue | None] = [None] * IOMMU_TEST_HW_QUEUE_MAX  # queue_mutex

    def destroy(self) -> None:
        if self.mmap_offset:
            iommufd_viommu_destroy_mmap(self, self.mmap_offset)

    def alloc_domain_nested(self, flags: int, user_data: IommuUserData) -> IommuDomain:
        return selftest_domain.mock_viommu_alloc_domain_nested(self, flags, user_data)

    def cache_invalidate(self, array: IommuUserDataArray) -> None:
        type = IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST
        if array.entry_num * iommu_viommu_invalidate_selftest.size_of > KMALLOC_MAX_SIZE:
            array.entry_done = array.entry_num  # which is not reset before memory is had
            raise Errno(ENOMEM)
        for cmd in iommu_copy_struct_from_full_user_array(iommu_viommu_invalidate_selftest, array, type):
            if cmd.flags & ~IOMMU_TEST_INVALIDATE_FLAG_ALL:
                raise Errno(EOPNOTSUPP)
            if cmd.cache_id > MOCK_DEV_CACHE_ID_MAX:
                raise Errno(EINVAL)
            with self.vdevs.xa_lock:
                mdev = iommufd_viommu_find_dev(self, cmd.vdev_id)
                if mdev is None:
                    raise Errno(EINVAL)
                if cmd.flags & IOMMU_TEST_INVALIDATE_FLAG_ALL:
                    mdev.cache = [0] * MOCK_DEV_CACHE_NUM
                else:
                    mdev.cache[cmd.cache_id] = 0
            array.entry_done += 1

    def get_hw_queue_struct(self, type: int) -> Any:
        if type != IOMMU_HW_QUEUE_TYPE_SELFTEST:
            raise Errno(EOPNOTSUPP)
        return MockHwQueue

    def hw_queue_init_phys(self, hw_queue: Any, index: int, base_addr_pa: int) -> None:
        """Errno EINVAL no such index, EEXIST it is in use, EIO the one before it is not."""
        if index >= IOMMU_TEST_HW_QUEUE_MAX:
            raise Errno(EINVAL)
        with self.queue_mutex:
            if self.hw_queue[index] is not None:
                raise Errno(EEXIST)
            if index:
                prev = self.hw_queue[index - 1]
                if prev is None:
                    raise Errno(EIO)
                iommufd_hw_queue_depend(hw_queue, prev)
                hw_queue.prev = prev
            self.hw_queue[index] = hw_queue


@kstruct()
class MockHwQueue(IommufdHwQueue):
    """``struct mock_hw_queue``."""

    prev: MockHwQueue | None = None  # it goes after this one
    index = 0  # never set

    def destroy(self) -> None:
        viommu: Any = self.viommu
        with viommu.queue_mutex:
            viommu.hw_queue[self.index] = None
            if self.prev is not None:
                iommufd_hw_queue_undepend(self, self.prev)


def mock_viommu_init(viommu: MockViommu, parent: IommuDomain | None, user_data: IommuUserData | None) -> None:
    """Errno EINVAL *parent* is no mock domain or data of a wrong size, EFAULT."""
    if not isinstance(parent, selftest_domain.MockIommuDomain):
        raise Errno(EINVAL)
    viommu.s2_parent = parent
    if user_data is None:
        return
    struct = iommu_viommu_selftest
    min_len = struct.offsetof("out_mmap_offset")
    data = iommu_copy_struct_from_user(struct, user_data, IOMMU_VIOMMU_TYPE_SELFTEST, min_len)
    viommu.page = IommufdMmapMemory(MMAP_LENGTH)
    viommu.mmap_offset = iommufd_viommu_alloc_mmap(viommu, viommu.page, MMAP_LENGTH)
    viommu.page.data[:4] = data.in_data.to_bytes(4, "little")
    data.out_mmap_offset = viommu.mmap_offset
    data.out_mmap_length = MMAP_LENGTH
    data.out_data = data.in_data
    try:
        iommu_copy_struct_to_user(user_data, data, IOMMU_VIOMMU_TYPE_SELFTEST, min_len)
    except Errno:
        iommufd_viommu_destroy_mmap(viommu, viommu.mmap_offset)
        viommu.mmap_offset = 0
        raise

# SPDX-License-Identifier: GPL-2.0-only
"""
``drivers/iommu/iommufd/iommufd_test.h``: the selftest's ioctl, which programs include by path.

Difference from Linux: the union of ``iommu_test_cmd`` is 48 bytes, ``u``, and each of
its members a struct of its own, in :data:`OPS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uvfio.uapi.cstruct import cstruct

IOMMU_TEST_CMD = 0x3BA0

IOMMU_TEST_OP_ADD_RESERVED = 1
IOMMU_TEST_OP_MOCK_DOMAIN = 2
IOMMU_TEST_OP_MD_CHECK_MAP = 3
IOMMU_TEST_OP_MD_CHECK_REFS = 4
IOMMU_TEST_OP_CREATE_ACCESS = 5
IOMMU_TEST_OP_DESTROY_ACCESS_PAGES = 6
IOMMU_TEST_OP_ACCESS_PAGES = 7
IOMMU_TEST_OP_ACCESS_RW = 8
IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT = 9
IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE = 10
IOMMU_TEST_OP_ACCESS_REPLACE_IOAS = 11
IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS = 12
IOMMU_TEST_OP_DIRTY = 13
IOMMU_TEST_OP_MD_CHECK_IOTLB = 14
IOMMU_TEST_OP_TRIGGER_IOPF = 15
IOMMU_TEST_OP_DEV_CHECK_CACHE = 16
IOMMU_TEST_OP_TRIGGER_VEVENT = 17
IOMMU_TEST_OP_PASID_ATTACH = 18
IOMMU_TEST_OP_PASID_REPLACE = 19
IOMMU_TEST_OP_PASID_DETACH = 20
IOMMU_TEST_OP_PASID_CHECK_HWPT = 21
IOMMU_TEST_OP_DMABUF_GET = 22
IOMMU_TEST_OP_DMABUF_REVOKE = 23

MOCK_IOMMUPT_DEFAULT = 0
MOCK_IOMMUPT_HUGE = 1

MOCK_APERTURE_START = 1 << 24
MOCK_APERTURE_LAST = (1 << 31) - 1
MOCK_PAGE_SIZE = 2048
MOCK_HUGE_PAGE_SIZE = 512 * MOCK_PAGE_SIZE

MOCK_FLAGS_ACCESS_WRITE = 1 << 0
MOCK_FLAGS_ACCESS_SYZ = 1 << 16
MOCK_ACCESS_RW_WRITE = 1 << 0
MOCK_ACCESS_RW_SLOW_PATH = 1 << 2
MOCK_FLAGS_ACCESS_CREATE_NEEDS_PIN_PAGES = 1 << 0

MOCK_FLAGS_DEVICE_NO_DIRTY = 1 << 0
MOCK_FLAGS_DEVICE_PASID = 1 << 2

MOCK_NESTED_DOMAIN_IOTLB_ID_MAX = 3
MOCK_NESTED_DOMAIN_IOTLB_NUM = 4
IOMMU_TEST_IOTLB_DEFAULT = 0xBADBEEF
MOCK_DEV_CACHE_ID_MAX = 3
MOCK_DEV_CACHE_NUM = 4
IOMMU_TEST_DEV_CACHE_DEFAULT = 0xBADDAD

IOMMU_TEST_PASID_RESERVED = 1024
MOCK_PASID_WIDTH = 20

IOMMU_HW_INFO_TYPE_SELFTEST = 0xFEEDBEEF
IOMMU_HW_INFO_SELFTEST_REGVAL = 0xDEADBEEF
IOMMU_HWPT_DATA_SELFTEST = 0xDEAD
IOMMU_HWPT_INVALIDATE_DATA_SELFTEST = 0xDEADBEEF
IOMMU_VIOMMU_TYPE_SELFTEST = 0xDEADBEEF
IOMMU_VIOMMU_INVALIDATE_DATA_SELFTEST = 0xDEADBEEF
IOMMU_TEST_INVALIDATE_FLAG_ALL = 1 << 0
IOMMU_VEVENTQ_TYPE_SELFTEST = 0xBEEFBEEF
IOMMU_HW_QUEUE_TYPE_SELFTEST = 0xDEADBEEF
IOMMU_TEST_HW_QUEUE_MAX = 2

iommu_test_cmd = cstruct(
    "iommu_test_cmd",
    size=72,
    fields="""
    u32 size
    u32 op
    u32 id
    u32 __reserved
    u8[48] u
    u32 last
    u32 pad
""",
)
test_add_reserved = cstruct(
    "test_add_reserved",
    size=16,
    fields="""
    u64 start
    u64 length
""",
)
test_mock_domain = cstruct(
    "test_mock_domain",
    size=12,
    fields="""
    u32 out_stdev_id
    u32 out_hwpt_id
    u32 out_idev_id
""",
)
test_mock_domain_flags = cstruct(
    "test_mock_domain_flags",
    size=16,
    fields="""
    u32 out_stdev_id
    u32 out_hwpt_id
    u32 out_idev_id
    u32 dev_flags
""",
)
test_check_map = cstruct(
    "test_check_map",
    size=24,
    fields="""
    u64 iova
    u64 length
    u64 uptr
""",
)
test_check_refs = cstruct(
    "test_check_refs",
    size=24,
    fields="""
    u64 length
    u64 uptr
    u32 refs
""",
)
test_create_access = cstruct(
    "test_create_access",
    size=8,
    fields="""
    u32 out_access_fd
    u32 flags
""",
)
test_destroy_access_pages = cstruct(
    "test_destroy_access_pages",
    size=4,
    fields="""
    u32 access_pages_id
""",
)
test_access_pages = cstruct(
    "test_access_pages",
    size=32,
    fields="""
    u32 flags
    u32 out_access_pages_id
    u64 iova
    u64 length
    u64 uptr
""",
)
test_access_rw = cstruct(
    "test_access_rw",
    size=32,
    fields="""
    u64 iova
    u64 length
    u64 uptr
    u32 flags
""",
)
test_memory_limit = cstruct(
    "test_memory_limit",
    size=4,
    fields="""
    u32 limit
""",
)
test_mock_domain_replace = cstruct(
    "test_mock_domain_replace",
    size=4,
    fields="""
    u32 pt_id
""",
)
test_access_replace_ioas = cstruct(
    "test_access_replace_ioas",
    size=4,
    fields="""
    u32 ioas_id
""",
)
test_dirty = cstruct(
    "test_dirty",
    size=48,
    fields="""
    u32 flags
    u64 iova
    u64 length
    u64 page_size
    u64 uptr
    u64 out_nr_dirty
""",
)
test_check_iotlb = cstruct(
    "test_check_iotlb",
    size=8,
    fields="""
    u32 id
    u32 iotlb
""",
)
test_trigger_iopf = cstruct(
    "test_trigger_iopf",
    size=24,
    fields="""
    u32 dev_id
    u32 pasid
    u32 grpid
    u32 perm
    u64 addr
""",
)
test_check_dev_cache = cstruct(
    "test_check_dev_cache",
    size=8,
    fields="""
    u32 id
    u32 cache
""",
)
test_trigger_vevent = cstruct(
    "test_trigger_vevent",
    size=4,
    fields="""
    u32 dev_id
""",
)
test_pasid_attach = cstruct(
    "test_pasid_attach",
    size=8,
    fields="""
    u32 pasid
    u32 pt_id
""",
)
test_pasid_replace = cstruct(
    "test_pasid_replace",
    size=8,
    fields="""
    u32 pasid
    u32 pt_id
""",
)
test_pasid_detach = cstruct(
    "test_pasid_detach",
    size=4,
    fields="""
    u32 pasid
""",
)
test_pasid_check = cstruct(
    "test_pasid_check",
    size=8,
    fields="""
    u32 pasid
    u32 hwpt_id
""",
)
test_dmabuf_get = cstruct(
    "test_dmabuf_get",
    size=8,
    fields="""
    u32 length
    u32 open_flags
""",
)
test_dmabuf_revoke = cstruct(
    "test_dmabuf_revoke",
    size=8,
    fields="""
    s32 dmabuf_fd
    u32 revoked
""",
)

# What the other calls point to.
iommu_test_hw_info = cstruct(
    "iommu_test_hw_info",
    size=8,
    fields="""
    u32 flags
    u32 test_reg
""",
)
iommu_hwpt_selftest = cstruct(
    "iommu_hwpt_selftest",
    size=8,
    fields="""
    u32 iotlb
    u32 pagetable_type
""",
)
iommu_hwpt_invalidate_selftest = cstruct(
    "iommu_hwpt_invalidate_selftest",
    size=8,
    fields="""
    u32 flags
    u32 iotlb_id
""",
)
iommu_viommu_selftest = cstruct(
    "iommu_viommu_selftest",
    size=24,
    fields="""
    u32 in_data
    u32 out_data
    u64 out_mmap_offset
    u64 out_mmap_length
""",
)
iommu_viommu_invalidate_selftest = cstruct(
    "iommu_viommu_invalidate_selftest",
    size=12,
    fields="""
    u32 flags
    u32 vdev_id
    u32 cache_id
""",
)
iommu_viommu_event_selftest = cstruct(
    "iommu_viommu_event_selftest",
    size=4,
    fields="""
    u32 virt_id
""",
)

# For tracing, as in iommufd.py.
REQUESTS: Mapping[int, tuple[str, Any]] = {IOMMU_TEST_CMD: ("IOMMU_TEST_CMD", iommu_test_cmd)}

# op -> (name, the member of the union that it uses). For the call itself and for tracing.
OPS: Mapping[int, tuple[str, Any]] = {
    IOMMU_TEST_OP_ADD_RESERVED: ("ADD_RESERVED", test_add_reserved),
    IOMMU_TEST_OP_MOCK_DOMAIN: ("MOCK_DOMAIN", test_mock_domain),
    IOMMU_TEST_OP_MD_CHECK_MAP: ("MD_CHECK_MAP", test_check_map),
    IOMMU_TEST_OP_MD_CHECK_REFS: ("MD_CHECK_REFS", test_check_refs),
    IOMMU_TEST_OP_CREATE_ACCESS: ("CREATE_ACCESS", test_create_access),
    IOMMU_TEST_OP_DESTROY_ACCESS_PAGES: ("DESTROY_ACCESS_PAGES", test_destroy_access_pages),
    IOMMU_TEST_OP_ACCESS_PAGES: ("ACCESS_PAGES", test_access_pages),
    IOMMU_TEST_OP_ACCESS_RW: ("ACCESS_RW", test_access_rw),
    IOMMU_TEST_OP_SET_TEMP_MEMORY_LIMIT: ("SET_TEMP_MEMORY_LIMIT", test_memory_limit),
    IOMMU_TEST_OP_MOCK_DOMAIN_REPLACE: ("MOCK_DOMAIN_REPLACE", test_mock_domain_replace),
    IOMMU_TEST_OP_ACCESS_REPLACE_IOAS: ("ACCESS_REPLACE_IOAS", test_access_replace_ioas),
    IOMMU_TEST_OP_MOCK_DOMAIN_FLAGS: ("MOCK_DOMAIN_FLAGS", test_mock_domain_flags),
    IOMMU_TEST_OP_DIRTY: ("DIRTY", test_dirty),
    IOMMU_TEST_OP_MD_CHECK_IOTLB: ("MD_CHECK_IOTLB", test_check_iotlb),
    IOMMU_TEST_OP_TRIGGER_IOPF: ("TRIGGER_IOPF", test_trigger_iopf),
    IOMMU_TEST_OP_DEV_CHECK_CACHE: ("DEV_CHECK_CACHE", test_check_dev_cache),
    IOMMU_TEST_OP_TRIGGER_VEVENT: ("TRIGGER_VEVENT", test_trigger_vevent),
    IOMMU_TEST_OP_PASID_ATTACH: ("PASID_ATTACH", test_pasid_attach),
    IOMMU_TEST_OP_PASID_REPLACE: ("PASID_REPLACE", test_pasid_replace),
    IOMMU_TEST_OP_PASID_DETACH: ("PASID_DETACH", test_pasid_detach),
    IOMMU_TEST_OP_PASID_CHECK_HWPT: ("PASID_CHECK_HWPT", test_pasid_check),
    IOMMU_TEST_OP_DMABUF_GET: ("DMABUF_GET", test_dmabuf_get),
    IOMMU_TEST_OP_DMABUF_REVOKE: ("DMABUF_REVOKE", test_dmabuf_revoke),
}

# SPDX-License-Identifier: GPL-2.0-only
"""
The calls by name: request number, and the fields behind the argument.

Written down here once more, not taken from ``uvfio.uapi``: a wrong offset there must
show as a difference from what the reference kernel answered.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from corpus.layout import Layout

# Fields that hold a new file descriptor when the call has succeeded.
NEW_FD = MappingProxyType(
    {
        "FAULT_QUEUE_ALLOC": "out_fault_fd",
        "VEVENTQ_ALLOC": "out_veventq_fd",
        "CREATE_ACCESS": "out_access_fd",
    }
)
TEST_SIZE = 72


def iommufd() -> dict[str, Layout]:
    table = [
        ("DESTROY", "u32 size id"),
        ("IOAS_ALLOC", "u32 size flags out_ioas_id"),
        ("IOAS_ALLOW_IOVAS", "u32 size ioas_id num_iovas reserved, u64 allowed_iovas"),
        ("IOAS_COPY", "u32 size flags dst_ioas_id src_ioas_id, u64 length dst_iova src_iova"),
        ("IOAS_IOVA_RANGES", "u32 size ioas_id num_iovas reserved, u64 allowed_iovas out_iova_alignment"),
        ("IOAS_MAP", "u32 size flags ioas_id reserved, u64 user_va length iova"),
        ("IOAS_UNMAP", "u32 size ioas_id, u64 iova length"),
        ("OPTION", "u32 size option_id, u16 op reserved, u32 object_id, u64 val64"),
        ("VFIO_IOAS", "u32 size ioas_id, u16 op reserved"),
        (
            "HWPT_ALLOC",
            "u32 size flags dev_id pt_id out_hwpt_id reserved data_type data_len,u64 data_uptr, u32 fault_id reserved2",
        ),
        (
            "GET_HW_INFO",
            "u32 size flags dev_id data_len, u64 data_uptr, u32 data_type, u8 out_max_pasid_log2,"
            "u8 res0 res1 res2, u64 out_capabilities",
        ),
        ("HWPT_SET_DIRTY_TRACKING", "u32 size flags hwpt_id reserved"),
        ("HWPT_GET_DIRTY_BITMAP", "u32 size hwpt_id flags reserved, u64 iova length page_size data"),
        ("HWPT_INVALIDATE", "u32 size hwpt_id, u64 data_uptr, u32 data_type entry_len entry_num reserved"),
        ("FAULT_QUEUE_ALLOC", "u32 size flags out_fault_id out_fault_fd"),
        ("IOAS_MAP_FILE", "u32 size flags ioas_id, s32 fd, u64 start length iova"),
        (
            "VIOMMU_ALLOC",
            "u32 size flags type dev_id hwpt_id out_viommu_id data_len reserved, u64 data_uptr",
        ),
        ("VDEVICE_ALLOC", "u32 size viommu_id dev_id out_vdevice_id, u64 virt_id"),
        ("IOAS_CHANGE_PROCESS", "u32 size reserved"),
        (
            "VEVENTQ_ALLOC",
            "u32 size flags viommu_id type veventq_depth out_veventq_id out_veventq_fd reserved",
        ),
        ("HW_QUEUE_ALLOC", "u32 size flags viommu_id type index out_hw_queue_id, u64 nesting_parent_iova length"),
        ("IOAS_NOIOMMU_GET_PA", "u32 size flags ioas_id reserved, u64 iova length out_phys"),
    ]
    return {name: Layout(0x3B80 + n, text, new_fd=NEW_FD.get(name, "")) for n, (name, text) in enumerate(table)}


def selftest() -> dict[str, Layout]:
    table = [
        (1, "ADD_RESERVED", "u64 start length"),
        (2, "MOCK_DOMAIN", "u32 out_stdev_id out_hwpt_id out_idev_id"),
        (3, "MD_CHECK_MAP", "u64 iova length uptr"),
        (4, "MD_CHECK_REFS", "u64 length uptr, u32 refs"),
        (5, "CREATE_ACCESS", "u32 out_access_fd flags"),
        (6, "DESTROY_ACCESS_PAGES", "u32 access_pages_id"),
        (7, "ACCESS_PAGES", "u32 flags out_access_pages_id, u64 iova length uptr"),
        (8, "ACCESS_RW", "u64 iova length uptr, u32 flags"),
        (9, "SET_TEMP_MEMORY_LIMIT", "u32 limit"),
        (10, "MOCK_DOMAIN_REPLACE", "u32 pt_id"),
        (11, "ACCESS_REPLACE_IOAS", "u32 ioas_id"),
        (12, "MOCK_DOMAIN_FLAGS", "u32 out_stdev_id out_hwpt_id out_idev_id dev_flags"),
        (13, "DIRTY", "u32 flags pad, u64 iova length page_size uptr out_nr_dirty"),
        (14, "MD_CHECK_IOTLB", "u32 index iotlb"),
        (15, "TRIGGER_IOPF", "u32 dev_id pasid grpid perm, u64 addr"),
        (16, "DEV_CHECK_CACHE", "u32 index cache"),
        (17, "TRIGGER_VEVENT", "u32 dev_id"),
        (18, "PASID_ATTACH", "u32 pasid pt_id"),
        (19, "PASID_REPLACE", "u32 pasid pt_id"),
        (20, "PASID_DETACH", "u32 pasid"),
        (21, "PASID_CHECK_HWPT", "u32 pasid hwpt_id"),
        (22, "DMABUF_GET", "u32 length open_flags"),
        (23, "DMABUF_REVOKE", "s32 dmabuf_fd, u32 revoked"),
    ]
    head = "u32 size op id head_reserved"
    return {name: Layout(0x3BA0, f"{head},{text}", op, TEST_SIZE, NEW_FD.get(name, "")) for op, name, text in table}


VFIO = {
    "VFIO_MAP_DMA": Layout(0x3B71, "u32 size flags, u64 vaddr iova length"),
    "VFIO_UNMAP_DMA": Layout(0x3B72, "u32 size flags, u64 iova length"),
    "VFIO_GET_INFO": Layout(0x3B70, "u32 size flags, u64 iova_pgsizes, u32 cap_offset pad"),
    "VFIO_DIRTY_PAGES": Layout(0x3B75, "u32 size flags"),
}

LAYOUTS: Mapping[str, Layout] = MappingProxyType({**iommufd(), **selftest(), **VFIO})

# Calls whose argument is a number.
PLAIN = MappingProxyType({"VFIO_API": 0x3B64, "VFIO_EXTENSION": 0x3B65, "VFIO_SET_IOMMU": 0x3B66})

# SPDX-License-Identifier: GPL-2.0-only
"""
``include/uapi/linux/iommufd.h``: the iommufd calls, their structs and constants.

Differences from Linux: the union of ``iommu_hw_info`` is one field, ``data_type``; of an
array of words each is a field (``ste0``).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uvfio.uapi.cstruct import cstruct

IOMMU_DESTROY = 0x3B80
IOMMU_IOAS_ALLOC = 0x3B81
IOMMU_IOAS_ALLOW_IOVAS = 0x3B82
IOMMU_IOAS_COPY = 0x3B83
IOMMU_IOAS_IOVA_RANGES = 0x3B84
IOMMU_IOAS_MAP = 0x3B85
IOMMU_IOAS_UNMAP = 0x3B86
IOMMU_OPTION = 0x3B87
IOMMU_VFIO_IOAS = 0x3B88
IOMMU_HWPT_ALLOC = 0x3B89
IOMMU_GET_HW_INFO = 0x3B8A
IOMMU_HWPT_SET_DIRTY_TRACKING = 0x3B8B
IOMMU_HWPT_GET_DIRTY_BITMAP = 0x3B8C
IOMMU_HWPT_INVALIDATE = 0x3B8D
IOMMU_FAULT_QUEUE_ALLOC = 0x3B8E
IOMMU_IOAS_MAP_FILE = 0x3B8F
IOMMU_VIOMMU_ALLOC = 0x3B90
IOMMU_VDEVICE_ALLOC = 0x3B91
IOMMU_IOAS_CHANGE_PROCESS = 0x3B92
IOMMU_VEVENTQ_ALLOC = 0x3B93
IOMMU_HW_QUEUE_ALLOC = 0x3B94
IOMMU_IOAS_NOIOMMU_GET_PA = 0x3B95

IOMMU_IOAS_MAP_FIXED_IOVA = 1
IOMMU_IOAS_MAP_WRITEABLE = 2
IOMMU_IOAS_MAP_READABLE = 4

IOMMU_OPTION_RLIMIT_MODE = 0
IOMMU_OPTION_HUGE_PAGES = 1
IOMMU_OPTION_OP_SET = 0
IOMMU_OPTION_OP_GET = 1

IOMMU_VFIO_IOAS_GET = 0
IOMMU_VFIO_IOAS_SET = 1
IOMMU_VFIO_IOAS_CLEAR = 2

IOMMU_HWPT_ALLOC_NEST_PARENT = 1
IOMMU_HWPT_ALLOC_DIRTY_TRACKING = 2
IOMMU_HWPT_FAULT_ID_VALID = 4
IOMMU_HWPT_ALLOC_PASID = 8
IOMMU_HWPT_DATA_NONE = 0
IOMMU_HWPT_DATA_VTD_S1 = 1
IOMMU_HWPT_DATA_ARM_SMMUV3 = 2
IOMMU_HWPT_DATA_AMD_GUEST = 3

IOMMU_HW_INFO_FLAG_INPUT_TYPE = 1
IOMMU_HW_INFO_TYPE_NONE = 0
IOMMU_HW_INFO_TYPE_DEFAULT = 0
IOMMU_HW_INFO_TYPE_INTEL_VTD = 1
IOMMU_HW_INFO_TYPE_ARM_SMMUV3 = 2
IOMMU_HW_INFO_TYPE_TEGRA241_CMDQV = 3
IOMMU_HW_INFO_TYPE_AMD = 4
IOMMU_HW_CAP_DIRTY_TRACKING = 1
IOMMU_HW_CAP_PCI_PASID_EXEC = 2
IOMMU_HW_CAP_PCI_PASID_PRIV = 4
IOMMU_HW_CAP_PCI_ATS_NOT_SUPPORTED = 8

IOMMU_HWPT_DIRTY_TRACKING_ENABLE = 1

IOMMU_HWPT_GET_DIRTY_BITMAP_NO_CLEAR = 1

IOMMU_HWPT_INVALIDATE_DATA_VTD_S1 = 0
IOMMU_VIOMMU_INVALIDATE_DATA_ARM_SMMUV3 = 1

IOMMU_VIOMMU_TYPE_DEFAULT = 0
IOMMU_VIOMMU_TYPE_ARM_SMMUV3 = 1
IOMMU_VIOMMU_TYPE_TEGRA241_CMDQV = 2

IOMMU_VEVENTQ_TYPE_DEFAULT = 0
IOMMU_VEVENTQ_TYPE_ARM_SMMUV3 = 1
IOMMU_VEVENTQ_TYPE_TEGRA241_CMDQV = 2
IOMMU_VEVENTQ_FLAG_LOST_EVENTS = 1

IOMMU_PGFAULT_FLAGS_PASID_VALID = 1
IOMMU_PGFAULT_FLAGS_LAST_PAGE = 2
IOMMU_PGFAULT_PERM_READ = 1
IOMMU_PGFAULT_PERM_WRITE = 2
IOMMU_PGFAULT_PERM_EXEC = 4
IOMMU_PGFAULT_PERM_PRIV = 8
IOMMUFD_PAGE_RESP_SUCCESS = 0
IOMMUFD_PAGE_RESP_INVALID = 1

IOMMU_HW_QUEUE_TYPE_DEFAULT = 0
IOMMU_HW_QUEUE_TYPE_TEGRA241_CMDQV = 1

IOMMU_VTD_S1_SRE = 1
IOMMU_VTD_S1_EAFE = 2
IOMMU_VTD_S1_WPE = 4
IOMMU_HW_INFO_VTD_ERRATA_772415_SPR17 = 1
IOMMU_VTD_INV_FLAGS_LEAF = 1

iommu_destroy = cstruct(
    "iommu_destroy",
    size=8,
    fields="""
    u32 size
    u32 id
""",
)
iommu_ioas_alloc = cstruct(
    "iommu_ioas_alloc",
    size=12,
    fields="""
    u32 size
    u32 flags
    u32 out_ioas_id
""",
)
iommu_ioas_allow_iovas = cstruct(
    "iommu_ioas_allow_iovas",
    size=24,
    fields="""
    u32 size
    u32 ioas_id
    u32 num_iovas
    u32 __reserved
    u64 allowed_iovas
""",
)
iommu_ioas_copy = cstruct(
    "iommu_ioas_copy",
    size=40,
    fields="""
    u32 size
    u32 flags
    u32 dst_ioas_id
    u32 src_ioas_id
    u64 length
    u64 dst_iova
    u64 src_iova
""",
)
iommu_ioas_iova_ranges = cstruct(
    "iommu_ioas_iova_ranges",
    size=32,
    fields="""
    u32 size
    u32 ioas_id
    u32 num_iovas
    u32 __reserved
    u64 allowed_iovas
    u64 out_iova_alignment
""",
)
iommu_ioas_map = cstruct(
    "iommu_ioas_map",
    size=40,
    fields="""
    u32 size
    u32 flags
    u32 ioas_id
    u32 __reserved
    u64 user_va
    u64 length
    u64 iova
""",
)
iommu_ioas_unmap = cstruct(
    "iommu_ioas_unmap",
    size=24,
    fields="""
    u32 size
    u32 ioas_id
    u64 iova
    u64 length
""",
)
iommu_option = cstruct(
    "iommu_option",
    size=24,
    fields="""
    u32 size
    u32 option_id
    u16 op
    u16 __reserved
    u32 object_id
    u64 val64
""",
)
iommu_vfio_ioas = cstruct(
    "iommu_vfio_ioas",
    size=12,
    fields="""
    u32 size
    u32 ioas_id
    u16 op
    u16 __reserved
""",
)
iommu_hwpt_alloc = cstruct(
    "iommu_hwpt_alloc",
    size=48,
    fields="""
    u32 size
    u32 flags
    u32 dev_id
    u32 pt_id
    u32 out_hwpt_id
    u32 __reserved
    u32 data_type
    u32 data_len
    u64 data_uptr
    u32 fault_id
    u32 __reserved2
""",
)
iommu_hw_info = cstruct(
    "iommu_hw_info",
    size=40,
    fields="""
    u32 size
    u32 flags
    u32 dev_id
    u32 data_len
    u64 data_uptr
    u32 data_type
    u8 out_max_pasid_log2
    u8[3] __reserved
    u64 out_capabilities
""",
)
iommu_hwpt_set_dirty_tracking = cstruct(
    "iommu_hwpt_set_dirty_tracking",
    size=16,
    fields="""
    u32 size
    u32 flags
    u32 hwpt_id
    u32 __reserved
""",
)
iommu_hwpt_get_dirty_bitmap = cstruct(
    "iommu_hwpt_get_dirty_bitmap",
    size=48,
    fields="""
    u32 size
    u32 hwpt_id
    u32 flags
    u32 __reserved
    u64 iova
    u64 length
    u64 page_size
    u64 data
""",
)
iommu_hwpt_invalidate = cstruct(
    "iommu_hwpt_invalidate",
    size=32,
    fields="""
    u32 size
    u32 hwpt_id
    u64 data_uptr
    u32 data_type
    u32 entry_len
    u32 entry_num
    u32 __reserved
""",
)
iommu_fault_alloc = cstruct(
    "iommu_fault_alloc",
    size=16,
    fields="""
    u32 size
    u32 flags
    u32 out_fault_id
    u32 out_fault_fd
""",
)
iommu_ioas_map_file = cstruct(
    "iommu_ioas_map_file",
    size=40,
    fields="""
    u32 size
    u32 flags
    u32 ioas_id
    s32 fd
    u64 start
    u64 length
    u64 iova
""",
)
iommu_viommu_alloc = cstruct(
    "iommu_viommu_alloc",
    size=40,
    fields="""
    u32 size
    u32 flags
    u32 type
    u32 dev_id
    u32 hwpt_id
    u32 out_viommu_id
    u32 data_len
    u32 __reserved
    u64 data_uptr
""",
)
iommu_vdevice_alloc = cstruct(
    "iommu_vdevice_alloc",
    size=24,
    fields="""
    u32 size
    u32 viommu_id
    u32 dev_id
    u32 out_vdevice_id
    u64 virt_id
""",
)
iommu_ioas_change_process = cstruct(
    "iommu_ioas_change_process",
    size=8,
    fields="""
    u32 size
    u32 __reserved
""",
)
iommu_veventq_alloc = cstruct(
    "iommu_veventq_alloc",
    size=32,
    fields="""
    u32 size
    u32 flags
    u32 viommu_id
    u32 type
    u32 veventq_depth
    u32 out_veventq_id
    u32 out_veventq_fd
    u32 __reserved
""",
)
iommu_hw_queue_alloc = cstruct(
    "iommu_hw_queue_alloc",
    size=40,
    fields="""
    u32 size
    u32 flags
    u32 viommu_id
    u32 type
    u32 index
    u32 out_hw_queue_id
    u64 nesting_parent_iova
    u64 length
""",
)
iommu_ioas_noiommu_get_pa = cstruct(
    "iommu_ioas_noiommu_get_pa",
    size=40,
    fields="""
    u32 size
    u32 flags
    u32 ioas_id
    u32 __reserved
    u64 iova
    u64 length
    u64 out_phys
""",
)

# What the calls above point to.
iommu_iova_range = cstruct(
    "iommu_iova_range",
    size=16,
    fields="""
    u64 start
    u64 last
""",
)
iommu_hwpt_vtd_s1 = cstruct(
    "iommu_hwpt_vtd_s1",
    size=24,
    fields="""
    u64 flags
    u64 pgtbl_addr
    u32 addr_width
    u32 __reserved
""",
)
iommu_hw_info_vtd = cstruct(
    "iommu_hw_info_vtd",
    size=24,
    fields="""
    u32 flags
    u32 __reserved
    u64 cap_reg
    u64 ecap_reg
""",
)
iommu_hwpt_vtd_s1_invalidate = cstruct(
    "iommu_hwpt_vtd_s1_invalidate",
    size=24,
    fields="""
    u64 addr
    u64 npages
    u32 flags
    u32 __reserved
""",
)
iommu_hwpt_arm_smmuv3 = cstruct(
    "iommu_hwpt_arm_smmuv3",
    size=16,
    fields="""
    u64 ste0
    u64 ste1
""",
)
iommu_hw_info_arm_smmuv3 = cstruct(
    "iommu_hw_info_arm_smmuv3",
    size=40,
    fields="""
    u32 flags
    u32 __reserved
    u32 idr0
    u32 idr1
    u32 idr2
    u32 idr3
    u32 idr4
    u32 idr5
    u32 iidr
    u32 aidr
""",
)
iommu_viommu_arm_smmuv3_invalidate = cstruct(
    "iommu_viommu_arm_smmuv3_invalidate",
    size=16,
    fields="""
    u64 cmd0
    u64 cmd1
""",
)
iommu_vevent_arm_smmuv3 = cstruct(
    "iommu_vevent_arm_smmuv3",
    size=32,
    fields="""
    u64 evt0
    u64 evt1
    u64 evt2
    u64 evt3
""",
)
iommu_hw_info_tegra241_cmdqv = cstruct(
    "iommu_hw_info_tegra241_cmdqv",
    size=8,
    fields="""
    u32 flags
    u8 version
    u8 log2vcmdqs
    u8 log2vsids
    u8 __reserved
""",
)
iommu_viommu_tegra241_cmdqv = cstruct(
    "iommu_viommu_tegra241_cmdqv",
    size=16,
    fields="""
    u64 out_vintf_mmap_offset
    u64 out_vintf_mmap_length
""",
)
iommu_vevent_tegra241_cmdqv = cstruct(
    "iommu_vevent_tegra241_cmdqv",
    size=16,
    fields="""
    u64 lvcmdq_err_map0
    u64 lvcmdq_err_map1
""",
)
iommu_hw_info_amd = cstruct(
    "iommu_hw_info_amd",
    size=16,
    fields="""
    u64 efr
    u64 efr2
""",
)
iommu_hwpt_amd_guest = cstruct(
    "iommu_hwpt_amd_guest",
    size=32,
    fields="""
    u64 dte0
    u64 dte1
    u64 dte2
    u64 dte3
""",
)

iommu_hwpt_pgfault = cstruct(
    "iommu_hwpt_pgfault",
    size=40,
    fields="""
    u32 flags
    u32 dev_id
    u32 pasid
    u32 grpid
    u32 perm
    u32 __reserved
    u64 addr
    u32 length
    u32 cookie
""",
)
iommu_hwpt_page_response = cstruct(
    "iommu_hwpt_page_response",
    size=8,
    fields="""
    u32 cookie
    u32 code
""",
)
iommufd_vevent_header = cstruct(
    "iommufd_vevent_header",
    size=8,
    fields="""
    u32 flags
    u32 sequence
""",
)

# What a file of each kind knows: request -> (name, struct behind the argument). For tracing.
REQUESTS: Mapping[str, Mapping[int, tuple[str, Any]]] = {
    "iommufd": {
        IOMMU_DESTROY: ("IOMMU_DESTROY", iommu_destroy),
        IOMMU_IOAS_ALLOC: ("IOMMU_IOAS_ALLOC", iommu_ioas_alloc),
        IOMMU_IOAS_ALLOW_IOVAS: ("IOMMU_IOAS_ALLOW_IOVAS", iommu_ioas_allow_iovas),
        IOMMU_IOAS_COPY: ("IOMMU_IOAS_COPY", iommu_ioas_copy),
        IOMMU_IOAS_IOVA_RANGES: ("IOMMU_IOAS_IOVA_RANGES", iommu_ioas_iova_ranges),
        IOMMU_IOAS_MAP: ("IOMMU_IOAS_MAP", iommu_ioas_map),
        IOMMU_IOAS_UNMAP: ("IOMMU_IOAS_UNMAP", iommu_ioas_unmap),
        IOMMU_OPTION: ("IOMMU_OPTION", iommu_option),
        IOMMU_VFIO_IOAS: ("IOMMU_VFIO_IOAS", iommu_vfio_ioas),
        IOMMU_HWPT_ALLOC: ("IOMMU_HWPT_ALLOC", iommu_hwpt_alloc),
        IOMMU_GET_HW_INFO: ("IOMMU_GET_HW_INFO", iommu_hw_info),
        IOMMU_HWPT_SET_DIRTY_TRACKING: ("IOMMU_HWPT_SET_DIRTY_TRACKING", iommu_hwpt_set_dirty_tracking),
        IOMMU_HWPT_GET_DIRTY_BITMAP: ("IOMMU_HWPT_GET_DIRTY_BITMAP", iommu_hwpt_get_dirty_bitmap),
        IOMMU_HWPT_INVALIDATE: ("IOMMU_HWPT_INVALIDATE", iommu_hwpt_invalidate),
        IOMMU_FAULT_QUEUE_ALLOC: ("IOMMU_FAULT_QUEUE_ALLOC", iommu_fault_alloc),
        IOMMU_IOAS_MAP_FILE: ("IOMMU_IOAS_MAP_FILE", iommu_ioas_map_file),
        IOMMU_VIOMMU_ALLOC: ("IOMMU_VIOMMU_ALLOC", iommu_viommu_alloc),
        IOMMU_VDEVICE_ALLOC: ("IOMMU_VDEVICE_ALLOC", iommu_vdevice_alloc),
        IOMMU_IOAS_CHANGE_PROCESS: ("IOMMU_IOAS_CHANGE_PROCESS", iommu_ioas_change_process),
        IOMMU_VEVENTQ_ALLOC: ("IOMMU_VEVENTQ_ALLOC", iommu_veventq_alloc),
        IOMMU_HW_QUEUE_ALLOC: ("IOMMU_HW_QUEUE_ALLOC", iommu_hw_queue_alloc),
        IOMMU_IOAS_NOIOMMU_GET_PA: ("IOMMU_IOAS_NOIOMMU_GET_PA", iommu_ioas_noiommu_get_pa),
    },
}

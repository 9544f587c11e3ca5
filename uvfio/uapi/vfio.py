# SPDX-License-Identifier: GPL-2.0-only
"""
``include/uapi/linux/vfio.h``: the VFIO calls, their structs and constants.

Differences from Linux: only what a PCI device on x86 meets; the parts for s390
(ccw, zpci), powerpc (spapr, EEH), NVLink and graphics regions are left out. The
names ``vfio_device_feature_dma_buf`` and alike denote the fixed head of a struct
that ends in a flexible array.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from uvfio.uapi.cstruct import cstruct

VFIO_API_VERSION = 0
VFIO_BASE = 0x3B64

# What VFIO_CHECK_EXTENSION asks for and VFIO_SET_IOMMU takes.
VFIO_TYPE1_IOMMU = 1
VFIO_TYPE1v2_IOMMU = 3
VFIO_DMA_CC_IOMMU = 4
VFIO_NOIOMMU_IOMMU = 8
VFIO_UNMAP_ALL = 9
VFIO_UPDATE_VADDR = 10

# Container.
VFIO_GET_API_VERSION = VFIO_BASE + 0
VFIO_CHECK_EXTENSION = VFIO_BASE + 1
VFIO_SET_IOMMU = VFIO_BASE + 2
VFIO_IOMMU_GET_INFO = VFIO_BASE + 12
VFIO_IOMMU_MAP_DMA = VFIO_BASE + 13
VFIO_IOMMU_UNMAP_DMA = VFIO_BASE + 14
VFIO_IOMMU_DIRTY_PAGES = VFIO_BASE + 17

# Group.
VFIO_GROUP_GET_STATUS = VFIO_BASE + 3
VFIO_GROUP_SET_CONTAINER = VFIO_BASE + 4
VFIO_GROUP_UNSET_CONTAINER = VFIO_BASE + 5
VFIO_GROUP_GET_DEVICE_FD = VFIO_BASE + 6

# Device.
VFIO_DEVICE_GET_INFO = VFIO_BASE + 7
VFIO_DEVICE_GET_REGION_INFO = VFIO_BASE + 8
VFIO_DEVICE_GET_IRQ_INFO = VFIO_BASE + 9
VFIO_DEVICE_SET_IRQS = VFIO_BASE + 10
VFIO_DEVICE_RESET = VFIO_BASE + 11
VFIO_DEVICE_GET_PCI_HOT_RESET_INFO = VFIO_BASE + 12
VFIO_DEVICE_PCI_HOT_RESET = VFIO_BASE + 13
VFIO_DEVICE_QUERY_GFX_PLANE = VFIO_BASE + 14
VFIO_DEVICE_GET_GFX_DMABUF = VFIO_BASE + 15
VFIO_DEVICE_IOEVENTFD = VFIO_BASE + 16
VFIO_DEVICE_FEATURE = VFIO_BASE + 17
VFIO_DEVICE_BIND_IOMMUFD = VFIO_BASE + 18
VFIO_DEVICE_ATTACH_IOMMUFD_PT = VFIO_BASE + 19
VFIO_DEVICE_DETACH_IOMMUFD_PT = VFIO_BASE + 20
VFIO_MIG_GET_PRECOPY_INFO = VFIO_BASE + 21

VFIO_GROUP_FLAGS_VIABLE = 1
VFIO_GROUP_FLAGS_CONTAINER_SET = 2

vfio_group_status = cstruct(
    "vfio_group_status",
    size=8,
    fields="""
    u32 argsz
    u32 flags
""",
)

VFIO_DEVICE_FLAGS_RESET = 1
VFIO_DEVICE_FLAGS_PCI = 2
VFIO_DEVICE_FLAGS_CAPS = 0x80

vfio_device_info = cstruct(
    "vfio_device_info",
    size=24,
    fields="""
    u32 argsz
    u32 flags
    u32 num_regions
    u32 num_irqs
    u32 cap_offset
    u32 pad
""",
)

vfio_info_cap_header = cstruct(
    "vfio_info_cap_header",
    size=8,
    fields="""
    u16 id
    u16 version
    u32 next
""",
)

VFIO_REGION_INFO_FLAG_READ = 1
VFIO_REGION_INFO_FLAG_WRITE = 2
VFIO_REGION_INFO_FLAG_MMAP = 4
VFIO_REGION_INFO_FLAG_CAPS = 8
VFIO_REGION_INFO_CAP_SPARSE_MMAP = 1
VFIO_REGION_INFO_CAP_TYPE = 2
VFIO_REGION_INFO_CAP_MSIX_MAPPABLE = 3

VFIO_PCI_BAR0_REGION_INDEX = 0
VFIO_PCI_BAR5_REGION_INDEX = 5
VFIO_PCI_ROM_REGION_INDEX = 6
VFIO_PCI_CONFIG_REGION_INDEX = 7
VFIO_PCI_VGA_REGION_INDEX = 8
VFIO_PCI_NUM_REGIONS = 9

vfio_region_info = cstruct(
    "vfio_region_info",
    size=32,
    fields="""
    u32 argsz
    u32 flags
    u32 index
    u32 cap_offset
    u64 size
    u64 offset
""",
)

VFIO_IRQ_INFO_EVENTFD = 1
VFIO_IRQ_INFO_MASKABLE = 2
VFIO_IRQ_INFO_AUTOMASKED = 4
VFIO_IRQ_INFO_NORESIZE = 8

VFIO_PCI_INTX_IRQ_INDEX = 0
VFIO_PCI_MSI_IRQ_INDEX = 1
VFIO_PCI_MSIX_IRQ_INDEX = 2
VFIO_PCI_ERR_IRQ_INDEX = 3
VFIO_PCI_REQ_IRQ_INDEX = 4
VFIO_PCI_NUM_IRQS = 5

vfio_irq_info = cstruct(
    "vfio_irq_info",
    size=16,
    fields="""
    u32 argsz
    u32 flags
    u32 index
    u32 count
""",
)

VFIO_IRQ_SET_DATA_NONE = 1
VFIO_IRQ_SET_DATA_BOOL = 2
VFIO_IRQ_SET_DATA_EVENTFD = 4
VFIO_IRQ_SET_ACTION_MASK = 8
VFIO_IRQ_SET_ACTION_UNMASK = 0x10
VFIO_IRQ_SET_ACTION_TRIGGER = 0x20
VFIO_IRQ_SET_DATA_TYPE_MASK = 7
VFIO_IRQ_SET_ACTION_TYPE_MASK = 0x38

vfio_irq_set = cstruct(
    "vfio_irq_set",
    size=20,
    fields="""
    u32 argsz
    u32 flags
    u32 index
    u32 start
    u32 count
""",
)

VFIO_PCI_HOT_RESET_FLAG_DEV_ID = 1
VFIO_PCI_HOT_RESET_FLAG_DEV_ID_OWNED = 2
VFIO_PCI_DEVID_OWNED = 0
VFIO_PCI_DEVID_NOT_OWNED = 0xFFFFFFFF

vfio_pci_dependent_device = cstruct(
    "vfio_pci_dependent_device",
    size=8,
    fields="""
    u32 devid
    u16 segment
    u8 bus
    u8 devfn
""",
)

vfio_pci_hot_reset_info = cstruct(
    "vfio_pci_hot_reset_info",
    size=12,
    fields="""
    u32 argsz
    u32 flags
    u32 count
""",
)

vfio_pci_hot_reset = cstruct(
    "vfio_pci_hot_reset",
    size=12,
    fields="""
    u32 argsz
    u32 flags
    u32 count
""",
)

VFIO_DEVICE_IOEVENTFD_SIZE_MASK = 0xF

vfio_device_ioeventfd = cstruct(
    "vfio_device_ioeventfd",
    size=32,
    fields="""
    u32 argsz
    u32 flags
    u64 offset
    u64 data
    s32 fd
    u32 reserved
""",
)

VFIO_DEVICE_FEATURE_MASK = 0xFFFF
VFIO_DEVICE_FEATURE_GET = 0x10000
VFIO_DEVICE_FEATURE_SET = 0x20000
VFIO_DEVICE_FEATURE_PROBE = 0x40000

VFIO_DEVICE_FEATURE_PCI_VF_TOKEN = 0
VFIO_DEVICE_FEATURE_MIGRATION = 1
VFIO_DEVICE_FEATURE_MIG_DEVICE_STATE = 2
VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY = 3
VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY_WITH_WAKEUP = 4
VFIO_DEVICE_FEATURE_LOW_POWER_EXIT = 5
VFIO_DEVICE_FEATURE_DMA_LOGGING_START = 6
VFIO_DEVICE_FEATURE_DMA_LOGGING_STOP = 7
VFIO_DEVICE_FEATURE_DMA_LOGGING_REPORT = 8
VFIO_DEVICE_FEATURE_MIG_DATA_SIZE = 9
VFIO_DEVICE_FEATURE_BUS_MASTER = 10
VFIO_DEVICE_FEATURE_DMA_BUF = 11
VFIO_DEVICE_FEATURE_MIG_PRECOPY_INFOv2 = 12
VFIO_DEVICE_FEATURE_ZPCI_ERROR = 13

vfio_device_feature = cstruct(
    "vfio_device_feature",
    size=8,
    fields="""
    u32 argsz
    u32 flags
""",
)

VFIO_MIGRATION_STOP_COPY = 1
VFIO_MIGRATION_P2P = 2
VFIO_MIGRATION_PRE_COPY = 4

VFIO_DEVICE_STATE_ERROR = 0
VFIO_DEVICE_STATE_STOP = 1
VFIO_DEVICE_STATE_RUNNING = 2
VFIO_DEVICE_STATE_STOP_COPY = 3
VFIO_DEVICE_STATE_RESUMING = 4
VFIO_DEVICE_STATE_RUNNING_P2P = 5
VFIO_DEVICE_STATE_PRE_COPY = 6
VFIO_DEVICE_STATE_PRE_COPY_P2P = 7

vfio_device_feature_migration = cstruct(
    "vfio_device_feature_migration",
    size=8,
    fields="""
    u64 flags
""",
)

vfio_device_feature_mig_state = cstruct(
    "vfio_device_feature_mig_state",
    size=8,
    fields="""
    u32 device_state
    s32 data_fd
""",
)

vfio_device_feature_mig_data_size = cstruct(
    "vfio_device_feature_mig_data_size",
    size=8,
    fields="""
    u64 stop_copy_length
""",
)

vfio_device_feature_dma_logging_control = cstruct(
    "vfio_device_feature_dma_logging_control",
    size=24,
    fields="""
    u64 page_size
    u32 num_ranges
    u32 __reserved
    u64 ranges
""",
)

vfio_device_feature_dma_logging_range = cstruct(
    "vfio_device_feature_dma_logging_range",
    size=16,
    fields="""
    u64 iova
    u64 length
""",
)

vfio_device_feature_dma_logging_report = cstruct(
    "vfio_device_feature_dma_logging_report",
    size=32,
    fields="""
    u64 iova
    u64 length
    u64 page_size
    u64 bitmap
""",
)

VFIO_PRECOPY_INFO_REINIT = 1

vfio_precopy_info = cstruct(
    "vfio_precopy_info",
    size=24,
    fields="""
    u32 argsz
    u32 flags
    u64 initial_bytes
    u64 dirty_bytes
""",
)

VFIO_GFX_PLANE_TYPE_PROBE = 1
VFIO_GFX_PLANE_TYPE_DMABUF = 2
VFIO_GFX_PLANE_TYPE_REGION = 4

vfio_device_gfx_plane_info = cstruct(
    "vfio_device_gfx_plane_info",
    size=64,
    fields="""
    u32 argsz
    u32 flags
    u32 drm_plane_type
    u32 drm_format
    u64 drm_format_mod
    u32 width
    u32 height
    u32 stride
    u32 size
    u32 x_pos
    u32 y_pos
    u32 x_hot
    u32 y_hot
    u32 region_index
    u32 reserved
""",
)

vfio_device_low_power_entry_with_wakeup = cstruct(
    "vfio_device_low_power_entry_with_wakeup",
    size=8,
    fields="""
    s32 wakeup_eventfd
    u32 reserved
""",
)

vfio_device_feature_dma_buf = cstruct(
    "vfio_device_feature_dma_buf",
    size=16,
    fields="""
    u32 region_index
    u32 open_flags
    u32 flags
    u32 nr_ranges
""",
)

vfio_region_dma_range = cstruct(
    "vfio_region_dma_range",
    size=16,
    fields="""
    u64 offset
    u64 length
""",
)

VFIO_DEVICE_BIND_FLAG_TOKEN = 1

vfio_device_bind_iommufd = cstruct(
    "vfio_device_bind_iommufd",
    size=24,
    fields="""
    u32 argsz
    u32 flags
    s32 iommufd
    u32 out_devid
    u64 token_uuid_ptr
""",
)

VFIO_DEVICE_ATTACH_PASID = 1

vfio_device_attach_iommufd_pt = cstruct(
    "vfio_device_attach_iommufd_pt",
    size=16,
    fields="""
    u32 argsz
    u32 flags
    u32 pt_id
    u32 pasid
""",
)

VFIO_DEVICE_DETACH_PASID = 1

vfio_device_detach_iommufd_pt = cstruct(
    "vfio_device_detach_iommufd_pt",
    size=12,
    fields="""
    u32 argsz
    u32 flags
    u32 pasid
""",
)

VFIO_IOMMU_INFO_PGSIZES = 1
VFIO_IOMMU_INFO_CAPS = 2
VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE = 1
VFIO_IOMMU_TYPE1_INFO_CAP_MIGRATION = 2
VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL = 3

vfio_iommu_type1_info = cstruct(
    "vfio_iommu_type1_info",
    size=24,
    fields="""
    u32 argsz
    u32 flags
    u64 iova_pgsizes
    u32 cap_offset
    u32 pad
""",
)

vfio_iova_range = cstruct(
    "vfio_iova_range",
    size=16,
    fields="""
    u64 start
    u64 end
""",
)

VFIO_DMA_MAP_FLAG_READ = 1
VFIO_DMA_MAP_FLAG_WRITE = 2
VFIO_DMA_MAP_FLAG_VADDR = 4

vfio_iommu_type1_dma_map = cstruct(
    "vfio_iommu_type1_dma_map",
    size=32,
    fields="""
    u32 argsz
    u32 flags
    u64 vaddr
    u64 iova
    u64 size
""",
)

VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP = 1
VFIO_DMA_UNMAP_FLAG_ALL = 2
VFIO_DMA_UNMAP_FLAG_VADDR = 4

vfio_iommu_type1_dma_unmap = cstruct(
    "vfio_iommu_type1_dma_unmap",
    size=24,
    fields="""
    u32 argsz
    u32 flags
    u64 iova
    u64 size
""",
)

vfio_bitmap = cstruct(
    "vfio_bitmap",
    size=24,
    fields="""
    u64 pgsize
    u64 size
    u64 data
""",
)

VFIO_IOMMU_DIRTY_PAGES_FLAG_START = 1
VFIO_IOMMU_DIRTY_PAGES_FLAG_STOP = 2
VFIO_IOMMU_DIRTY_PAGES_FLAG_GET_BITMAP = 4

vfio_iommu_type1_dirty_bitmap = cstruct(
    "vfio_iommu_type1_dirty_bitmap",
    size=8,
    fields="""
    u32 argsz
    u32 flags
""",
)

vfio_iommu_type1_dirty_bitmap_get = cstruct(
    "vfio_iommu_type1_dirty_bitmap_get",
    size=40,
    fields="""
    u64 iova
    u64 size
    u64 pgsize
    u64 bitmap_size
    u64 data
""",
)

# Which calls a file of each kind knows: request -> (name, struct behind the argument or None). For tracing.
REQUESTS: Mapping[str, Mapping[int, tuple[str, Any]]] = {
    "container": {
        VFIO_GET_API_VERSION: ("VFIO_GET_API_VERSION", None),
        VFIO_CHECK_EXTENSION: ("VFIO_CHECK_EXTENSION", None),
        VFIO_SET_IOMMU: ("VFIO_SET_IOMMU", None),
        VFIO_IOMMU_GET_INFO: ("VFIO_IOMMU_GET_INFO", vfio_iommu_type1_info),
        VFIO_IOMMU_MAP_DMA: ("VFIO_IOMMU_MAP_DMA", vfio_iommu_type1_dma_map),
        VFIO_IOMMU_UNMAP_DMA: ("VFIO_IOMMU_UNMAP_DMA", vfio_iommu_type1_dma_unmap),
        VFIO_IOMMU_DIRTY_PAGES: ("VFIO_IOMMU_DIRTY_PAGES", vfio_iommu_type1_dirty_bitmap),
    },
    "group": {
        VFIO_GROUP_GET_STATUS: ("VFIO_GROUP_GET_STATUS", vfio_group_status),
        VFIO_GROUP_SET_CONTAINER: ("VFIO_GROUP_SET_CONTAINER", None),
        VFIO_GROUP_UNSET_CONTAINER: ("VFIO_GROUP_UNSET_CONTAINER", None),
        VFIO_GROUP_GET_DEVICE_FD: ("VFIO_GROUP_GET_DEVICE_FD", None),
    },
    "device": {
        VFIO_DEVICE_GET_INFO: ("VFIO_DEVICE_GET_INFO", vfio_device_info),
        VFIO_DEVICE_GET_REGION_INFO: ("VFIO_DEVICE_GET_REGION_INFO", vfio_region_info),
        VFIO_DEVICE_GET_IRQ_INFO: ("VFIO_DEVICE_GET_IRQ_INFO", vfio_irq_info),
        VFIO_DEVICE_SET_IRQS: ("VFIO_DEVICE_SET_IRQS", vfio_irq_set),
        VFIO_DEVICE_RESET: ("VFIO_DEVICE_RESET", None),
        VFIO_DEVICE_GET_PCI_HOT_RESET_INFO: ("VFIO_DEVICE_GET_PCI_HOT_RESET_INFO", vfio_pci_hot_reset_info),
        VFIO_DEVICE_PCI_HOT_RESET: ("VFIO_DEVICE_PCI_HOT_RESET", vfio_pci_hot_reset),
        VFIO_DEVICE_QUERY_GFX_PLANE: ("VFIO_DEVICE_QUERY_GFX_PLANE", None),
        VFIO_DEVICE_GET_GFX_DMABUF: ("VFIO_DEVICE_GET_GFX_DMABUF", None),
        VFIO_DEVICE_IOEVENTFD: ("VFIO_DEVICE_IOEVENTFD", vfio_device_ioeventfd),
        VFIO_DEVICE_FEATURE: ("VFIO_DEVICE_FEATURE", vfio_device_feature),
        VFIO_DEVICE_BIND_IOMMUFD: ("VFIO_DEVICE_BIND_IOMMUFD", vfio_device_bind_iommufd),
        VFIO_DEVICE_ATTACH_IOMMUFD_PT: ("VFIO_DEVICE_ATTACH_IOMMUFD_PT", vfio_device_attach_iommufd_pt),
        VFIO_DEVICE_DETACH_IOMMUFD_PT: ("VFIO_DEVICE_DETACH_IOMMUFD_PT", vfio_device_detach_iommufd_pt),
        VFIO_MIG_GET_PRECOPY_INFO: ("VFIO_MIG_GET_PRECOPY_INFO", None),
    },
}

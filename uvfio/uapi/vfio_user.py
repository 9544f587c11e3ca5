# SPDX-License-Identifier: GPL-2.0-only
"""
The vfio-user protocol, version 0.1, as libvfio-user's ``docs/vfio-user.rst`` specifies it:
message header, commands, and the payloads that are not simply VFIO's own structs.
"""

from __future__ import annotations

from uvfio.uapi.cstruct import cstruct

VFIO_USER_MAJOR = 0
VFIO_USER_MINOR = 1

VFIO_USER_VERSION = 1
VFIO_USER_DMA_MAP = 2
VFIO_USER_DMA_UNMAP = 3
VFIO_USER_DEVICE_GET_INFO = 4
VFIO_USER_DEVICE_GET_REGION_INFO = 5
VFIO_USER_DEVICE_GET_REGION_IO_FDS = 6
VFIO_USER_DEVICE_GET_IRQ_INFO = 7
VFIO_USER_DEVICE_SET_IRQS = 8
VFIO_USER_REGION_READ = 9
VFIO_USER_REGION_WRITE = 10
VFIO_USER_DMA_READ = 11
VFIO_USER_DMA_WRITE = 12
VFIO_USER_DEVICE_RESET = 13
VFIO_USER_REGION_WRITE_MULTI = 14
VFIO_USER_DEVICE_FEATURE = 16

VFIO_USER_F_TYPE_MASK = 0xF
VFIO_USER_F_TYPE_COMMAND = 0
VFIO_USER_F_TYPE_REPLY = 1
VFIO_USER_F_NO_REPLY = 1 << 4
VFIO_USER_F_ERROR = 1 << 5

VFIO_USER_F_DMA_REGION_READ = 1 << 0
VFIO_USER_F_DMA_REGION_WRITE = 1 << 1
VFIO_DMA_UNMAP_FLAG_GET_DIRTY_BITMAP = 1 << 0
VFIO_DMA_UNMAP_FLAG_ALL = 1 << 1

vfio_user_header = cstruct(
    "vfio_user_header",
    size=16,
    fields="""
    u16 msg_id
    u16 cmd
    u32 msg_size
    u32 flags
    u32 error_no
""",
)

vfio_user_version = cstruct(
    "vfio_user_version",
    size=4,
    fields="""
    u16 major
    u16 minor
""",
)

vfio_user_dma_map = cstruct(
    "vfio_user_dma_map",
    size=32,
    fields="""
    u32 argsz
    u32 flags
    u64 offset
    u64 addr
    u64 size
""",
)

vfio_user_dma_unmap = cstruct(
    "vfio_user_dma_unmap",
    size=24,
    fields="""
    u32 argsz
    u32 flags
    u64 addr
    u64 size
""",
)

vfio_user_device_info = cstruct(
    "vfio_user_device_info",
    size=16,
    fields="""
    u32 argsz
    u32 flags
    u32 num_regions
    u32 num_irqs
""",
)

vfio_user_region_access = cstruct(
    "vfio_user_region_access",
    size=16,
    fields="""
    u64 offset
    u32 region
    u32 count
""",
)

vfio_user_dma_region_access = cstruct(
    "vfio_user_dma_region_access",
    size=16,
    fields="""
    u64 addr
    u64 count
""",
)

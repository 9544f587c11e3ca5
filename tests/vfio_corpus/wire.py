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
from iommufd_corpus.wire import iommufd

VFIO = {
    "GROUP_GET_STATUS": Layout(0x3B67, "u32 argsz flags"),
    "GROUP_SET_CONTAINER": Layout(0x3B68, "s32 fd"),
    "DEVICE_GET_INFO": Layout(0x3B6B, "u32 argsz flags num_regions num_irqs cap_offset pad"),
    "GET_REGION_INFO": Layout(0x3B6C, "u32 argsz flags index cap_offset, u64 size offset"),
    "GET_IRQ_INFO": Layout(0x3B6D, "u32 argsz flags index count"),
    "SET_IRQS": Layout(0x3B6E, "u32 argsz flags index start count"),
    "GET_PCI_HOT_RESET_INFO": Layout(0x3B70, "u32 argsz flags count"),
    "PCI_HOT_RESET": Layout(0x3B71, "u32 argsz flags count"),
    "IOEVENTFD": Layout(0x3B74, "u32 argsz flags, u64 offset data, s32 fd, u32 reserved"),
    "FEATURE": Layout(0x3B75, "u32 argsz flags"),
    "BIND_IOMMUFD": Layout(0x3B76, "u32 argsz flags, s32 iommufd, u32 out_devid, u64 token_uuid_ptr"),
    "ATTACH_PT": Layout(0x3B77, "u32 argsz flags pt_id pasid"),
    "DETACH_PT": Layout(0x3B78, "u32 argsz flags pasid"),
    "IOMMU_GET_INFO": Layout(0x3B70, "u32 argsz flags, u64 iova_pgsizes, u32 cap_offset pad"),
    "MAP_DMA": Layout(0x3B71, "u32 argsz flags, u64 vaddr iova size"),
    "UNMAP_DMA": Layout(0x3B72, "u32 argsz flags, u64 iova size"),
    "DIRTY_PAGES": Layout(0x3B75, "u32 argsz flags"),
}
LAYOUTS: Mapping[str, Layout] = MappingProxyType({**iommufd(), **VFIO})

# Calls whose argument is a number.
PLAIN = MappingProxyType(
    {
        "GET_API_VERSION": 0x3B64,
        "CHECK_EXTENSION": 0x3B65,
        "SET_IOMMU": 0x3B66,
        "GROUP_UNSET_CONTAINER": 0x3B69,
        "DEVICE_RESET": 0x3B6F,
    }
)
GROUP_GET_DEVICE_FD = 0x3B6A

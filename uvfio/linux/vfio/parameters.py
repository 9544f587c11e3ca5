# SPDX-License-Identifier: GPL-2.0-only
"""
The module parameters of VFIO, as /sys/module shows them.

Difference from Linux: but for ``enable_unsafe_noiommu_mode`` and ``enable_sriov`` (see
``pci/driver.py``) they are fixed at their defaults, and the files say so by being read-only
(Linux's can be written, but for ``disable_denylist``).
"""

from uvfio.linux.base.moduleparam import module_param_bool, module_param_uint
from uvfio.linux.vfio.private import vfio
from uvfio.linux.vfio.type1_dma import DMA_ENTRY_LIMIT

SWITCHES = (
    ("vfio_iommu_type1", "allow_unsafe_interrupts"),
    ("vfio_iommu_type1", "disable_hugepages"),
    ("vfio_pci", "nointxmask"),
    ("vfio_pci", "disable_idle_d3"),
    ("vfio_pci", "disable_denylist"),
)


def vfio_parameters_init() -> None:
    statics = vfio()

    def enable_unsafe_noiommu_mode(value: bool) -> None:
        statics.noiommu = value

    module_param_bool("vfio", "enable_unsafe_noiommu_mode", lambda: statics.noiommu, enable_unsafe_noiommu_mode)
    for module, name in SWITCHES:
        module_param_bool(module, name, lambda: False)
    module_param_uint("vfio_iommu_type1", "dma_entry_limit", lambda: DMA_ENTRY_LIMIT)

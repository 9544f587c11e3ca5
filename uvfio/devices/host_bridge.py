# SPDX-License-Identifier: GPL-2.0-only
"""
The host bridge at 0000:00:00.0: it has configuration space and nothing else, and is
what takes IOMMU group 0, as on the reference machine (QEMU's q35).
"""

from uvfio.devices.kit import PciDevice


class HostBridge(PciDevice):
    """Intel 82G33/G31/P35/P31 Express DRAM Controller."""

    name = "host-bridge"
    vendor, device = 0x8086, 0x29C0
    class_code = 0x060000

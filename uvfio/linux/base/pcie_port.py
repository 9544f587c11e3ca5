# SPDX-License-Identifier: GPL-2.0-only
"""
The driver of PCI Express ports. Mirrors ``drivers/pci/pcie/portdrv.c``, which leaves the
DMA of the devices behind a port to their drivers. Difference from Linux: the services of
a port (hot-plug, error reporting) are no devices.
"""

from __future__ import annotations

from errno import ENODEV

from uvfio.linux.base.pci_dev import PciDev, pci_pcie_type
from uvfio.linux.base.pci_driver import PciDeviceId, PciDriver, pci_register_driver
from uvfio.linux.base.pci_reset import pci_disable_device, pci_enable_device
from uvfio.runtime.errors import Errno
from uvfio.uapi.pci_regs import PCI_EXP_TYPE_DOWNSTREAM, PCI_EXP_TYPE_ROOT_PORT, PCI_EXP_TYPE_UPSTREAM

PORTS = (PCI_EXP_TYPE_ROOT_PORT, PCI_EXP_TYPE_UPSTREAM, PCI_EXP_TYPE_DOWNSTREAM)


class PciePortDriver(PciDriver):
    """``pcie_portdriver``."""

    name = "pcieport"
    driver_managed_dma = True
    id_table = (PciDeviceId(class_code=0x060400, class_mask=0xFFFFFF),)

    def probe(self, pdev: PciDev) -> None:
        if pci_pcie_type(pdev) not in PORTS:
            raise Errno(ENODEV)
        pci_enable_device(pdev)

    def remove(self, pdev: PciDev) -> None:
        pci_disable_device(pdev)


def pcie_portdrv_init() -> None:
    pci_register_driver(PciePortDriver())

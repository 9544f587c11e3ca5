# SPDX-License-Identifier: GPL-2.0-only
"""
The driver ``vfio-pci``. Mirrors ``drivers/vfio/pci/vfio_pci.c``.

Differences from Linux: module parameters are fixed at their defaults and ``ids=`` is
not taken; no ``sriov_configure``.
"""

from __future__ import annotations

from uvfio.linux.base.pci import PciDev, PciDeviceId, PciDriver, pci_register_driver
from uvfio.linux.kernel.module import load_module
from uvfio.linux.vfio.pci import core


class VfioPciDriver(PciDriver):
    """``vfio_pci_driver``: binds what asks for it by driver_override, or through new_id."""

    name = "vfio-pci"
    module = "vfio_pci"
    driver_managed_dma = True
    id_table = (PciDeviceId(override_only=True),)

    def probe(self, pdev: PciDev) -> None:
        core.vfio_pci_core_register_device(pdev)

    def remove(self, pdev: PciDev) -> None:
        core.vfio_pci_core_unregister_device(pdev)

    def err_error_detected(self, dev: PciDev) -> None:
        core.vfio_pci_core_aer_err_detected(dev)


def vfio_pci_init() -> None:
    load_module("vfio_pci")
    pci_register_driver(VfioPciDriver())

# SPDX-License-Identifier: GPL-2.0-only
"""
The driver ``vfio-pci``. Mirrors ``drivers/vfio/pci/vfio_pci.c``.

Differences from Linux: module parameters but ``enable_sriov`` are fixed at their defaults and
``ids=`` is not taken.
"""

from __future__ import annotations

from errno import ENOENT

from uvfio.linux.base.moduleparam import module_param_bool
from uvfio.linux.base.pci import PciDev, PciDeviceId, PciDriver, pci_register_driver
from uvfio.linux.kernel.module import load_module
from uvfio.linux.vfio.pci import core, sriov
from uvfio.linux.vfio.pci.private import vfio_pci
from uvfio.runtime.errors import Errno


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

    def sriov_configure(self, dev: PciDev, num_virtfn: int) -> None:
        if not vfio_pci().enable_sriov:
            raise Errno(ENOENT, "the parameter enable_sriov of vfio_pci must be Y")
        sriov.vfio_pci_core_sriov_configure(dev.driver_data, num_virtfn)

    def err_error_detected(self, dev: PciDev) -> None:
        core.vfio_pci_core_aer_err_detected(dev)


def vfio_pci_init() -> None:
    load_module("vfio_pci")
    statics = vfio_pci()

    def set_enable_sriov(value: bool) -> None:
        statics.enable_sriov = value

    module_param_bool("vfio_pci", "enable_sriov", lambda: statics.enable_sriov, set_enable_sriov)
    pci_register_driver(VfioPciDriver())

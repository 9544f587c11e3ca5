# SPDX-License-Identifier: GPL-2.0-only
"""
The NVMe controller as one can plug it in, with virtual functions if asked for.

``-d nvme,vfs=4``: virtual function N is secondary controller N + 1 of the same subsystem,
with the same namespaces. Its queues and vectors come from the primary controller
(``nvme_virtual.py``), and until that has put it online, it reads as failed and takes no writes.
"""

from __future__ import annotations

from typing import Any

from uvfio.devices.config import PciConfig
from uvfio.devices.nvme import Nvme
from uvfio.devices.nvme_spec import CSTS_CFS
from uvfio.devices.nvme_virtual import PRIMARY_CNTLID, QUEUES, VECTORS, SecondaryController, Virtualization
from uvfio.devices.sriov import Sriov
from uvfio.uapi.pci_regs import PCI_EXP_DEVCAP_FLR, PCI_EXP_TYPE_RC_END

MAX_VFS = 7  # what a slot has functions for
SRIOV_CAP = 0x100


class NvmePrimary(Nvme):
    """NVMe 1.4 controller: namespaces in files or memory, 31 queue pairs, MSI-X; SR-IOV."""

    name = "nvme"
    options = (*Nvme.options, "vfs")

    def __init__(self, vfs: str = "0", **options: Any) -> None:
        if not vfs.isdecimal() or int(vfs) > MAX_VFS:
            raise ValueError(f"vfs must be a number up to {MAX_VFS}, not {vfs!r}")
        super().__init__(**options)
        if not int(vfs):
            return
        functions = [NvmeSecondary(self, number + 1) for number in range(int(vfs))]
        sriov = self.sriov = Sriov(self.config, SRIOV_CAP, functions, self.take_offline)
        self.virtualization = Virtualization([each.controller for each in functions], lambda: sriov.enabled)

    def clear(self) -> None:
        super().clear()
        self.take_offline()

    def take_offline(self) -> None:
        """All secondary controllers, if there are any."""
        if self.virtualization is not None:
            self.virtualization.all_offline()


class NvmeSecondary(Nvme):
    """A secondary controller: virtual function *number*, counted from 1, of *primary*."""

    name = "nvme-vf"
    virtual = True
    intx = False
    msi_vectors = 0

    def __init__(self, primary: NvmePrimary, number: int) -> None:
        self.primary = primary
        self.controller = SecondaryController(PRIMARY_CNTLID + number, number, self.reset_controller)
        super().__init__(share=primary)
        self.cntlid = self.controller.cntlid

    @property
    def vectors(self) -> int:
        return self.controller.resources[VECTORS]

    @property
    def io_queues(self) -> int:
        return max(self.controller.resources[QUEUES] - 1, 1)

    @property
    def serial(self) -> str:
        return self.primary.serial

    def add_capabilities(self, config: PciConfig) -> None:
        self.add_msix(config, 0x40)
        config.add_express(0x80, PCI_EXP_TYPE_RC_END, PCI_EXP_DEVCAP_FLR)

    def reset_controller(self) -> None:
        """It goes on or off line: not a reset of the function, whose interrupts stay set up."""
        self.clear()
        self.reset_registers()

    def bar_read(self, bar: int, off: int, size: int) -> int:
        if bar or self.controller.online:
            return super().bar_read(bar, off, size)
        return CSTS_CFS if off == Nvme.CSTS.offset else 0

    def bar_write(self, bar: int, off: int, size: int, value: int) -> None:
        if bar or self.controller.online:
            super().bar_write(bar, off, size, value)

# SPDX-License-Identifier: GPL-2.0-only
"""
SR-IOV of a device: the capability of the physical function, and its virtual functions
(PCI Express Base Specification 5.0, chapter 9).

A physical function makes an :class:`Sriov` in its ``add_capabilities``; a virtual function
is a :class:`~uvfio.devices.kit.PciDevice` with ``virtual`` set. All differences from real
hardware: virtual functions are there from the start, and answer while they are not
enabled to whoever has found them before; no migration, no dependency on other functions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from uvfio.devices.config import PciBar, PciConfig
from uvfio.uapi.pci_regs import (
    PCI_EXT_CAP_ID_SRIOV,
    PCI_EXT_CAP_SRIOV_SIZEOF,
    PCI_SRIOV_BAR,
    PCI_SRIOV_CTRL,
    PCI_SRIOV_CTRL_MSE,
    PCI_SRIOV_CTRL_VFE,
    PCI_SRIOV_INITIAL_VF,
    PCI_SRIOV_NUM_VF,
    PCI_SRIOV_SUP_PGSIZE,
    PCI_SRIOV_SYS_PGSIZE,
    PCI_SRIOV_TOTAL_VF,
    PCI_SRIOV_VF_DID,
    PCI_SRIOV_VF_OFFSET,
    PCI_SRIOV_VF_STRIDE,
)

if TYPE_CHECKING:
    from uvfio.devices.kit import PciDevice

PAGE_SIZES = 0x553  # 4 KiB, 8 KiB, 64 KiB, 256 KiB, 1 MiB and 4 MiB: what every device must have
PAGE_4K = 1
OFFSET = STRIDE = 1  # in routing identifiers: the functions after ours


class Sriov:
    """
    The capability at *at* of *config*, with *functions*, the first of which follows the
    physical function. *disabled* is called when they all go.
    """

    def __init__(
        self,
        config: PciConfig,
        at: int,
        functions: Sequence[PciDevice],
        disabled: Callable[[], None],
    ) -> None:
        self.config = config
        self.at = at
        self.functions = functions
        # Where the host put the first function's; the others follow it.
        self.bars = [PciBar(bar.size, bar.kind, bar.prefetch) for bar in functions[0].bars]
        self.disabled = disabled
        self.was_enabled = False
        config.add_ext_capability(PCI_EXT_CAP_ID_SRIOV, at, 1, bytes(PCI_EXT_CAP_SRIOV_SIZEOF - 4))
        for register in (PCI_SRIOV_INITIAL_VF, PCI_SRIOV_TOTAL_VF):
            config.put(at + register, 2, len(functions))
        config.put(at + PCI_SRIOV_CTRL, 2, 0, PCI_SRIOV_CTRL_VFE | PCI_SRIOV_CTRL_MSE)
        config.put(at + PCI_SRIOV_NUM_VF, 2, 0, 0xFFFF)
        config.put(at + PCI_SRIOV_VF_OFFSET, 2, OFFSET)
        config.put(at + PCI_SRIOV_VF_STRIDE, 2, STRIDE)
        config.put(at + PCI_SRIOV_VF_DID, 2, functions[0].device)
        config.put(at + PCI_SRIOV_SUP_PGSIZE, 4, PAGE_SIZES)
        config.put(at + PCI_SRIOV_SYS_PGSIZE, 4, PAGE_4K, PAGE_SIZES)
        for index, bar in enumerate(self.bars):
            if bar.size:
                config.add_bar(index, bar, at + PCI_SRIOV_BAR)

    @property
    def enabled(self) -> int:
        """How many functions are there."""
        on = self.config.read(self.at + PCI_SRIOV_CTRL, 2) & PCI_SRIOV_CTRL_VFE
        return min(self.config.read(self.at + PCI_SRIOV_NUM_VF, 2), len(self.functions)) if on else 0

    def config_written(self) -> None:
        """From the physical function: its configuration space was written."""
        if self.was_enabled and not self.enabled:
            self._disable()
        self.was_enabled = bool(self.enabled)

    def reset(self) -> None:
        """The physical function is reset: its virtual functions with it."""
        for register in (PCI_SRIOV_CTRL, PCI_SRIOV_NUM_VF):
            self.config.put(self.at + register, 2, 0)
        self._disable()
        self.was_enabled = False

    def _disable(self) -> None:
        for function in self.functions:
            function.reset()
        self.disabled()

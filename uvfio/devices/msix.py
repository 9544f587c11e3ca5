# SPDX-License-Identifier: GPL-2.0-only
"""
MSI-X of a device: the capability, and the table and pending bits in a BAR.

As in QEMU, the table takes accesses of 4 and 8 bytes only (others read 0 and are
dropped) and every bit of an entry can be written.
"""

from __future__ import annotations

from dataclasses import dataclass

from uvfio.devices.config import PciConfig
from uvfio.uapi.pci_regs import (
    PCI_CAP_ID_MSIX,
    PCI_MSIX_ENTRY_CTRL_MASKBIT,
    PCI_MSIX_ENTRY_SIZE,
    PCI_MSIX_ENTRY_VECTOR_CTRL,
    PCI_MSIX_FLAGS,
    PCI_MSIX_FLAGS_ENABLE,
    PCI_MSIX_FLAGS_MASKALL,
)


@dataclass(frozen=True)
class MsixTable:
    """Where a device has its table: *vectors* entries at *table*, pending bits at *pba*."""

    vectors: int
    bar: int
    table: int = 0
    pba: int = 0x800


class MsixState:
    """The capability at *cap*, the table and the pending bits of one device."""

    def __init__(self, layout: MsixTable, cap: int, config: PciConfig) -> None:
        self.layout = layout
        self.cap = cap
        self.config = config
        self.entries = bytearray()
        self.pending = bytearray()
        self.reset()
        body = (layout.vectors - 1).to_bytes(2, "little")
        body += (layout.table | layout.bar).to_bytes(4, "little") + (layout.pba | layout.bar).to_bytes(4, "little")
        flags = PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL
        config.add_capability(PCI_CAP_ID_MSIX, cap, body, flags.to_bytes(2, "little"))

    def reset(self) -> None:
        masked = PCI_MSIX_ENTRY_CTRL_MASKBIT.to_bytes(4, "little")
        self.entries[:] = (bytes(PCI_MSIX_ENTRY_VECTOR_CTRL) + masked) * self.layout.vectors
        self.pending[:] = bytes(-(-self.layout.vectors // 64) * 8)
        self.config.write(self.cap + PCI_MSIX_FLAGS, 2, 0)

    def covers(self, bar: int, off: int) -> bool:
        where = self.layout
        return bar == where.bar and (
            where.table <= off < where.table + len(self.entries) or where.pba <= off < where.pba + len(self.pending)
        )

    def enabled(self) -> bool:
        return bool(self._flags() & PCI_MSIX_FLAGS_ENABLE)

    def fires(self, vector: int) -> bool:
        """Is *vector* sent now? A masked one is remembered as pending."""
        if not self.enabled() or vector >= self.layout.vectors:
            return False
        if self._masked(vector):
            self.pending[vector // 8] |= 1 << vector % 8
            return False
        return True

    def read(self, off: int, size: int) -> int:
        if size < 4:
            return 0
        if off >= self.layout.pba and off < self.layout.pba + len(self.pending):
            return int.from_bytes(self.pending[off - self.layout.pba :][:size], "little")
        return int.from_bytes(self.entries[off - self.layout.table :][:size], "little")

    def write(self, off: int, size: int, value: int) -> list[int]:
        """Write to the table; the vectors that were pending and are unmasked now."""
        off -= self.layout.table
        if size < 4 or not 0 <= off <= len(self.entries) - size:
            return []
        self.entries[off : off + size] = value.to_bytes(size, "little")
        return self.released()

    def released(self) -> list[int]:
        """Vectors that were pending and are not masked any more: to be sent now."""
        ready = []
        for vector in range(self.layout.vectors):
            if self.pending[vector // 8] >> vector % 8 & 1 and not self._masked(vector):
                self.pending[vector // 8] &= ~(1 << vector % 8)
                ready.append(vector)
        return ready

    def _flags(self) -> int:
        return self.config.read(self.cap + PCI_MSIX_FLAGS, 2)

    def _masked(self, vector: int) -> bool:
        at = vector * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL
        return bool(self.entries[at] & PCI_MSIX_ENTRY_CTRL_MASKBIT or self._flags() & PCI_MSIX_FLAGS_MASKALL)

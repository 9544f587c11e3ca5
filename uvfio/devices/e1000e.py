# SPDX-License-Identifier: GPL-2.0-only
"""
An Intel 82574L network controller, whose wire is a loop.

After QEMU's ``e1000e``: the same configuration space (PM, MSI, PCI Express and MSI-X
capabilities, AER and serial number), the same BARs, reset values, and interrupts by
their cause registers (ICR, ICS, IMS, IMC, and IVAR for MSI-X). All differences:

* packets go nowhere but back (``e1000e_rings.py``); the PHY and the EEPROM do not answer;
* a function reset begins anew, where QEMU 7.2's keeps its registers; CTRL resets; registers
  that nothing depends on hold what was written, also where an 82574L has none;
* the flash is empty.

As in QEMU's, a narrow access is one of the whole register that it lies in.
"""

from __future__ import annotations

from uvfio.devices.config import PciConfig
from uvfio.devices.e1000e_rings import E1000eRings
from uvfio.devices.kit import MsixTable, PciBar, PciDevice, Register
from uvfio.uapi.pci_regs import (
    PCI_CAP_ID_EXP,
    PCI_CAP_ID_PM,
    PCI_EXT_CAP_ID_DSN,
    PCI_EXT_CAP_ID_ERR,
)

SERIAL = bytes.fromhex("563412ffff005452")

# What reads non-zero after reset, as the reference machine shows it.
RESET_VALUES = {
    0x0: 0x140241, 0x8: 0x80283, 0x10: 0x300, 0x14: 0x2, 0x38: 0x8100, 0x40: 0x12005452, 0x44: 0x80005634,
    0x410: 0x602008, 0xE00: 0x68302, 0xF00: 0x8, 0xF10: 0x30D, 0x1000: 0x140014, 0x1008: 0x28,
    0x1010: 0x80000000, 0x1028: 0x2, 0x102C: 0x2, 0x1030: 0xC0000000, 0x1050: 0x1, 0x2170: 0x40402,
    0x2828: 0x10000, 0x2928: 0x10000, 0x3410: 0x600, 0x3418: 0x600, 0x3420: 0x600, 0x3428: 0x600,
    0x3840: 0x403, 0x3940: 0x403, 0x5000: 0x300, 0x5400: 0x12005452, 0x5404: 0x80005634,
    0x5820: 0x10000000, 0x5B00: 0x6800200, 0x5B30: 0x20000004, 0x5B50: 0x1, 0x8010: 0x600, 0x8018: 0x600,
    0xB634: 0x88F7, 0xB638: 0x319,
}  # fmt: skip

# Cause bit in ICR: where IVAR says which MSI-X vector it has.
MSIX_CAUSES = {20: 0, 21: 4, 22: 8, 23: 12, 24: 16}
ASSERTED, OTHER = 1 << 31, 1 << 24  # there is any cause; there is one of these:
OTHER_CAUSES = 0x7_0244
MASKABLE = 0x1F7_82D7
IVAR_VALID = 0x8
CTRL, CTRL_RST = 0x0, 1 << 26
WORDS = (0, 2)  # BARs whose registers are 4 bytes wide, whatever the access


class E1000e(PciDevice):
    """Intel 82574L: configuration space, resets, interrupts, and a loopback data path."""

    name = "e1000e"
    vendor, device = 0x8086, 0x10D3
    class_code = 0x020000
    subsystem = (0x8086, 0x0000)
    config_size = 4096
    BARS = {0: PciBar(128 << 10), 1: PciBar(128 << 10), 2: PciBar(32, "io"), 3: PciBar(16 << 10)}
    intx = True
    msi_vectors = 1
    msix = MsixTable(vectors=5, bar=3, table=0, pba=0x2000)
    has_reset = True
    unassigned = 0
    further = (
        "BAR 0 has CTRL (0x0; bit 26 resets), RCTL (0x100), TCTL (0x400), RFCTL (0x5008), RAL and RAH (0x5400),",
        "a receive ring at 0x2800 and transmit rings at 0x3800 and 0x3900 (base, base high, length, head at 0x10,",
        "tail at 0x18). Other registers keep what is written and do nothing. BAR 2 reaches all of BAR 0.",
    )

    ICR = Register(0xC0, "w1c", doc="interrupt causes; a read clears them but for MSI-X")
    ICS = Register(0xC8, "rw", doc="set these causes; reads as ICR")
    IMS = Register(0xD0, "rw", doc="causes that interrupt; writing sets bits")
    IMC = Register(0xD8, "wo", doc="clear these bits of IMS")
    IVAR = Register(0xE4, "rw", doc="MSI-X vector of each kind of cause")
    IOADDR = Register(0x0, "rw", bar=2, doc="the register that IODATA stands for")
    IODATA = Register(0x4, "rw", bar=2, doc="that register")

    def __init__(self) -> None:
        super().__init__()
        self.others = dict(RESET_VALUES)
        self.rings = E1000eRings(self)
        self.sent = 0  # causes of which a message has been sent

    def add_capabilities(self, config: PciConfig) -> None:
        config.add_capability(PCI_CAP_ID_PM, 0xC8, bytes.fromhex("220000000000"), bytes.fromhex("0000031f0000"))
        self.add_msi(config, 0xD0)
        express = "910000800000" + "00000000" + "11040000" + "00001100"
        config.add_capability(PCI_CAP_ID_EXP, 0xE0, bytes.fromhex(express))
        self.add_msix(config, 0xA0)
        errors = {0x0C: (0x00462030, 0x03FFF030), 0x14: (0x0000E000, 0x0000F1C1), 0x18: (0x000000A0, 0x00000140)}
        body, mask = bytearray(0x3C), bytearray(0x3C)
        for off, (value, writable) in errors.items():
            body[off - 4 : off] = value.to_bytes(4, "little")
            mask[off - 4 : off] = writable.to_bytes(4, "little")
        config.add_ext_capability(PCI_EXT_CAP_ID_ERR, 0x100, 2, bytes(body), bytes(mask))
        config.add_ext_capability(PCI_EXT_CAP_ID_DSN, 0x140, 1, SERIAL)

    def reset(self) -> None:
        super().reset()
        self.sent = 0
        self.others = dict(RESET_VALUES)
        self.rings.reset()

    def reset_mac(self) -> None:
        """CTRL.RST: all but configuration space and the MSI-X table."""
        self.reset_registers()
        self.others = dict(RESET_VALUES)
        self.rings.reset()
        self.update_interrupts()

    def bar_read(self, bar: int, off: int, size: int) -> int:
        if bar not in WORDS:
            return super().bar_read(bar, off, size)
        if size == 8:
            return self.word_read(bar, off) | self.word_read(bar, off + 4) << 32
        return self.word_read(bar, off & ~3) & (1 << 8 * size) - 1

    def bar_write(self, bar: int, off: int, size: int, value: int) -> None:
        if bar not in WORDS:
            super().bar_write(bar, off, size, value)
        elif size == 8:
            self.word_write(bar, off, value & 0xFFFF_FFFF)
            self.word_write(bar, off + 4, value >> 32)
        else:
            self.word_write(bar, off & ~3, value)

    def word_read(self, bar: int, off: int) -> int:
        if bar == 0 and (0, off) not in self.registers:
            return self.others.get(off, 0)
        return super().bar_read(bar, off, 4)

    def word_write(self, bar: int, off: int, value: int) -> None:
        if bar == 0 and (0, off) not in self.registers:
            if off == CTRL and value & CTRL_RST:
                self.reset_mac()
            else:
                self.others[off] = value
                self.rings.written(off)
        else:
            super().bar_write(bar, off, 4, value)

    @ICR.on_read
    def read_causes(self) -> int:
        causes = self.ICR
        if not self.IMS or not self.msix_enabled:
            self.ICR = 0
        self.update_interrupts()
        return causes

    @ICR.on_write
    def clear_causes(self, causes: int) -> None:
        self.ICR &= ~(causes | (OTHER_CAUSES if causes & OTHER else 0))
        self.update_interrupts()

    @ICS.on_read
    def read_set_causes(self) -> int:
        return self.ICR

    @ICS.on_write
    def cause(self, causes: int) -> None:
        """Note *causes*, and interrupt for those that are not masked."""
        self.ICR |= causes
        self.update_interrupts()

    @IMS.on_write
    def unmask(self, causes: int) -> None:
        self.IMS |= causes & MASKABLE
        self.update_interrupts()

    @IMC.on_write
    def mask(self, causes: int) -> None:
        self.IMS &= ~causes
        self.update_interrupts()

    @IODATA.on_read
    def read_indirect(self) -> int:
        return self.bar_read(0, self.IOADDR, 4)

    @IODATA.on_write
    def write_indirect(self, value: int) -> None:
        self.bar_write(0, self.IOADDR, 4, value)

    def update_interrupts(self) -> None:
        """The causes or their mask have changed: a message for each cause that is new, or the line."""
        if self.msix_enabled and self.ICR & OTHER_CAUSES:
            self.ICR |= OTHER
        self.ICR = self.ICR & ~ASSERTED | (ASSERTED if self.ICR & ~ASSERTED else 0)
        pending = self.ICR & self.IMS
        new = pending & ~self.sent
        self.sent = self.sent & pending
        messages = self.msi_enabled or self.msix_enabled
        self.set_intx(bool(pending) and not messages)
        if not messages or not new:
            return
        self.sent |= new
        if self.msix_enabled:
            for bit, shift in MSIX_CAUSES.items():
                entry = self.IVAR >> shift
                if new >> bit & 1 and entry & IVAR_VALID:
                    self.raise_msix(entry & 0x7)
        else:
            self.raise_msi(0)

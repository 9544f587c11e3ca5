# SPDX-License-Identifier: GPL-2.0-only
"""
The kit to write a PCI device with: see docs/write-a-device.md.

A device is a subclass of :class:`PciDevice` with class attributes for what a data
sheet has in tables, registers (:class:`Register`) and a few methods. It acts at once:
what a register write starts is done when the write returns. All differences from real
hardware: MSI has no per-vector mask bits; a function has one interrupt pin, INTA.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

from uvfio.devices.config import PciBar as PciBar
from uvfio.devices.config import PciConfig
from uvfio.devices.msix import MsixState
from uvfio.devices.msix import MsixTable as MsixTable
from uvfio.devices.register import Register as Register
from uvfio.devices.sriov import Sriov
from uvfio.uapi.pci_regs import (
    PCI_CACHE_LINE_SIZE,
    PCI_CAP_ID_MSI,
    PCI_CAP_ID_PM,
    PCI_CFG_SPACE_EXP_SIZE,
    PCI_CFG_SPACE_SIZE,
    PCI_CLASS_PROG,
    PCI_COMMAND,
    PCI_COMMAND_INTX_DISABLE,
    PCI_COMMAND_IO,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_COMMAND_SERR,
    PCI_DEVICE_ID,
    PCI_EXP_TYPE_RC_END,
    PCI_EXT_CAP_ID_ATS,
    PCI_EXT_CAP_ID_PASID,
    PCI_EXT_CAP_ID_PRI,
    PCI_HEADER_TYPE,
    PCI_HEADER_TYPE_MFD,
    PCI_INTERRUPT_LINE,
    PCI_INTERRUPT_PIN,
    PCI_MSI_FLAGS,
    PCI_MSI_FLAGS_64BIT,
    PCI_MSI_FLAGS_ENABLE,
    PCI_PASID_WIDTH_SHIFT,
    PCI_REVISION_ID,
    PCI_STD_NUM_BARS,
    PCI_SUBSYSTEM_ID,
    PCI_SUBSYSTEM_VENDOR_ID,
    PCI_VENDOR_ID,
)

WRITABLE_COMMAND = (
    PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_SERR | PCI_COMMAND_INTX_DISABLE
)
NOBODY = 0xFFFF  # the id of no vendor and of no device


class PciDevice:
    """One function. Subclasses fill in the tables."""

    name: ClassVar[str] = ""
    vendor: ClassVar[int] = 0x1AF4
    device: ClassVar[int] = 0
    revision: ClassVar[int] = 0
    class_code: ClassVar[int] = 0xFF0000  # base class, subclass, interface
    subsystem: ClassVar[tuple[int, int]] = (0x1AF4, 0x1100)
    multifunction: ClassVar[bool] = False
    config_size: ClassVar[int] = PCI_CFG_SPACE_SIZE
    BARS: ClassVar[Mapping[int, PciBar]] = {}
    intx: ClassVar[bool] = False
    msi_vectors: ClassVar[int] = 0  # a power of two
    msix: ClassVar[MsixTable | None] = None
    has_reset: ClassVar[bool] = False
    pasid_bits: ClassVar[int] = 0  # how long its PASIDs may be; needs a configuration space of 4 KiB
    page_requests: ClassVar[bool] = False  # has ATS and PRI; needs the same
    pollable: ClassVar[bool] = False  # where no access can be trapped, its mapped registers may be polled
    doorbells: ClassVar[Mapping[int, range]] = {}  # by BAR: words that are only written, to be polled
    mmap = "trap"  # or "poll", as the user wants it: how mapped registers are served
    options: ClassVar[tuple[str, ...]] = ()  # keyword arguments of __init__, for -d NAME,key=value
    virtual: ClassVar[bool] = False  # a virtual function: see sriov.py
    secondary = 0  # of a bridge: the number of the bus behind it
    unassigned: ClassVar[int] = -1  # what reads where nothing is answer: -1 all ones, or 0

    further: ClassVar[tuple[str, ...]] = ()  # lines for a data sheet: what is there beside the registers
    registers: ClassVar[Mapping[tuple[int, int], Register]] = {}

    def __init_subclass__(cls) -> None:
        found = dict(cls.registers)
        for value in list(vars(cls).values()):
            if isinstance(value, Register):
                place = (value.bar, value.offset)
                if place in found:
                    raise TypeError(f"{cls.__name__}: {value!r} must not share its place with {found[place]!r}")
                found[place] = value
        cls.registers = found

    def __init__(self) -> None:
        self.upstream: Any = None  # the PciDev that carries DMA and interrupts while plugged in
        self.before_interrupt: list[Callable[[], None]] = []  # who must have seen the registers first
        self.values: dict[str, int] = {}
        self.bars = [replace(self.BARS.get(i, PciBar())) for i in range(PCI_STD_NUM_BARS)]
        for bar in self.bars:
            if bar.ram:
                bar.memory = memoryview(bytearray(bar.size))
        self.windows: dict[str, tuple[int, int]] = {}  # of a bridge: what it decodes, by kind
        self.sriov: Sriov | None = None  # of a physical function
        self.config = self.header()
        self.msi_at = 0
        self.msix_state: MsixState | None = None
        self.add_capabilities(self.config)
        self.config.written = self.config_written
        self.reset_registers()

    def __repr__(self) -> str:
        return f"<{self.name}>"

    # What a device may override.

    def add_capabilities(self, config: PciConfig) -> None:
        """Chain the capabilities. By default PM, MSI, PCI Express and MSI-X as declared."""
        at = 0x40
        if self.has_reset:
            self.add_pm(config, at)
            at += 0x10
        if self.msi_vectors:
            self.add_msi(config, at)
            at += 0x10
        if config.size == PCI_CFG_SPACE_EXP_SIZE:
            self.add_express(config, at)
            at += 0x40
        if self.msix is not None:
            self.add_msix(config, at)
        if self.pasid_bits:
            width = self.pasid_bits << PCI_PASID_WIDTH_SHIFT
            config.add_ext_capability(PCI_EXT_CAP_ID_PASID, 0x100, 1, width.to_bytes(4, "little"))
        if self.page_requests:
            config.add_ext_capability(PCI_EXT_CAP_ID_ATS, 0x110 if self.pasid_bits else 0x100, 1, bytes(4))
            config.add_ext_capability(PCI_EXT_CAP_ID_PRI, 0x120, 1, bytes(12))

    def bar_read(self, bar: int, off: int, size: int) -> int:
        """A read of 1, 2, 4 or 8 bytes by the processor. By default: the registers."""
        if self.msix_state is not None and self.msix_state.covers(bar, off):
            return self.msix_state.read(off, size)
        memory = self.bars[bar].memory
        if memory is not None:
            return int.from_bytes(memory[off : off + size], "little")
        register = self.registers.get((bar, off))
        if register is None or size not in register.sizes:
            half = self.half(bar, off, size)
            return self.nothing(size) if half is None else half[0].half_read(self, half[1])
        return register.bus_read(self) & ((1 << 8 * size) - 1)

    def bar_write(self, bar: int, off: int, size: int, value: int) -> None:
        """A write by the processor."""
        if self.msix_state is not None and self.msix_state.covers(bar, off):
            self._send(self.msix_state.write(off, size, value))
            return
        memory = self.bars[bar].memory
        if memory is not None:
            memory[off : off + size] = value.to_bytes(size, "little")
            return
        register = self.registers.get((bar, off))
        if register is not None and size in register.sizes:
            register.bus_write(self, value)
        elif half := self.half(bar, off, size):
            half[0].half_write(self, half[1], value)

    def config_written(self, off: int, size: int) -> None:
        """Configuration space was written from outside. Who sends messages lets go of the line."""
        if self.msi_enabled or self.msix_enabled:
            self.set_intx(False)
        if self.msix_state is not None and self.msix_enabled:
            self._send(self.msix_state.released())
        if self.sriov is not None:
            self.sriov.config_written()
        if self.upstream is not None:
            self.upstream.config_written(off, size)

    def reset(self) -> None:
        """A function-level reset. Configuration space is put back by the kernel."""
        self.set_intx(False)
        self.config.write(PCI_COMMAND, 2, 0)
        if self.msi_at:
            self.config.write(self.msi_at + PCI_MSI_FLAGS, 2, 0)
        if self.msix_state is not None:
            self.msix_state.reset()
        if self.sriov is not None:
            self.sriov.reset()
        self.reset_registers()

    # What a device may use.

    def reset_registers(self) -> None:
        """Give every register its reset value."""
        for register in self.registers.values():
            self.values[register.name] = register.reset

    def bit(self, register: Register, name: str) -> bool:
        """The named bit of *register*."""
        return bool(self.values[register.name] >> register.bits[name] & 1)

    def half(self, bar: int, off: int, size: int) -> tuple[Register, bool] | None:
        """The wide register that this is a half of, and whether it is the high one."""
        register = self.registers.get((bar, off & ~7)) if size == 4 and not off & 3 else None
        return (register, bool(off & 4)) if register is not None and register.halves else None

    def nothing(self, size: int) -> int:
        """What a read answers that no register takes."""
        return self.unassigned & ((1 << 8 * size) - 1)

    def dma_read(self, iova: int, n: int, pasid: int = 0) -> bytes:
        """*n* bytes of host memory; all ones if the device may not read there. *pasid*: of that address space."""
        buffer = bytearray(n)
        return bytes(buffer) if self.dma_read_into(iova, memoryview(buffer), pasid) else b"\xff" * n

    def dma_read_into(self, iova: int, buffer: memoryview, pasid: int = 0) -> bool:
        """Fill *buffer* without a copy on the way; False if it was blocked."""
        if self.upstream is None:
            return False
        address = (iova, buffer, pasid) if pasid else (iova, buffer)
        return bool(self.upstream.try_dma_read_into(*address))

    def dma_write(self, iova: int, data: bytes | bytearray | memoryview, pasid: int = 0) -> bool:
        """Store *data* in host memory; False if it was blocked, and nothing was stored."""
        if self.upstream is None:
            return False
        address = (iova, data, pasid) if pasid else (iova, data)
        return bool(self.upstream.try_dma_write(*address))

    def page_request(self, addr: int, write: bool, pasid: int, group: int, last: bool = True) -> None:
        """Ask the IOMMU's software for a page; :meth:`page_response` has the answer to the last of *group*."""
        if self.upstream is not None:
            self.upstream.page_request(addr, write, pasid, group, last)

    def page_response(self, pasid: int, group: int, success: bool) -> None:
        """The answer to the page requests of *group*: is it worth trying again?"""

    @property
    def msi_enabled(self) -> bool:
        return bool(self.msi_at) and bool(self.config.read(self.msi_at + PCI_MSI_FLAGS, 2) & PCI_MSI_FLAGS_ENABLE)

    @property
    def msix_enabled(self) -> bool:
        return self.msix_state is not None and self.msix_state.enabled()

    def raise_irq(self, vector: int = 0) -> None:
        """Interrupt by whatever the driver enabled: MSI-X, MSI, else the INTx line goes up."""
        if self.msix_enabled:
            self.raise_msix(vector)
        elif self.msi_enabled:
            self.raise_msi(vector)
        else:
            self.set_intx(True)

    def lower_irq(self) -> None:
        """The INTx line goes down; messages have nothing to lower."""
        self.set_intx(False)

    def raise_msi(self, vector: int) -> None:
        if self.upstream is not None and self.msi_enabled:
            enabled = 1 << (self.config.read(self.msi_at + PCI_MSI_FLAGS, 2) >> 4 & 7)
            self._tell()
            self.upstream.raise_msi(vector % enabled)

    def raise_msix(self, vector: int) -> None:
        if self.msix_state is not None and self.msix_state.fires(vector) and self.upstream is not None:
            self._tell()
            self.upstream.raise_msi(vector)

    def set_intx(self, level: bool) -> None:
        if self.intx and self.upstream is not None and self.upstream.irq_line != level:
            self._tell()
            self.upstream.set_intx(level)

    def _tell(self) -> None:
        for look in self.before_interrupt:
            look()

    def add_pm(self, config: PciConfig, at: int) -> None:
        """Power management; going to D3hot and back resets the function."""
        config.add_capability(PCI_CAP_ID_PM, at, b"\x03\0\0\0\0\0", b"\0\0\x03\0\0\0")

    def add_msi(self, config: PciConfig, at: int) -> None:
        self.msi_at = at
        width = self.msi_vectors.bit_length() - 1
        body = (PCI_MSI_FLAGS_64BIT | width << 1).to_bytes(2, "little") + bytes(10)
        sizes = (1 << width.bit_length()) - 1
        mask = (PCI_MSI_FLAGS_ENABLE | sizes << 4).to_bytes(2, "little") + b"\xfc" + b"\xff" * 9
        config.add_capability(PCI_CAP_ID_MSI, at, body, mask)

    def add_msix(self, config: PciConfig, at: int) -> None:
        assert self.msix is not None
        self.msix_state = MsixState(self.msix, at, config)

    def add_express(self, config: PciConfig, at: int) -> None:
        """PCI Express, a root complex integrated endpoint (it is on the root bus)."""
        config.add_express(at, PCI_EXP_TYPE_RC_END)

    def _send(self, vectors: list[int]) -> None:
        for vector in vectors:
            self.raise_msix(vector)

    def header(self) -> PciConfig:
        """Configuration space without capabilities."""
        config = PciConfig(self.config_size)
        # A virtual function has its ids and its BARs in the capability of the physical one.
        config.put(PCI_VENDOR_ID, 2, NOBODY if self.virtual else self.vendor)
        config.put(PCI_DEVICE_ID, 2, NOBODY if self.virtual else self.device)
        config.put(PCI_COMMAND, 2, 0, PCI_COMMAND_MASTER if self.virtual else WRITABLE_COMMAND)
        config.put(PCI_REVISION_ID, 1, self.revision)
        config.put(PCI_CLASS_PROG, 3, self.class_code)
        config.put(PCI_CACHE_LINE_SIZE, 1, 0, 0xFF)
        config.put(PCI_HEADER_TYPE, 1, PCI_HEADER_TYPE_MFD if self.multifunction else 0)
        config.put(PCI_SUBSYSTEM_VENDOR_ID, 2, self.subsystem[0])
        config.put(PCI_SUBSYSTEM_ID, 2, self.subsystem[1])
        config.put(PCI_INTERRUPT_LINE, 1, 0, 0xFF)
        config.put(PCI_INTERRUPT_PIN, 1, int(self.intx))
        for i, bar in enumerate(self.bars):
            if bar.size and not self.virtual:
                config.add_bar(i, bar)
        return config

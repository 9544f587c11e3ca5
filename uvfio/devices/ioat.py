# SPDX-License-Identifier: GPL-2.0-only
"""
An Intel I/OAT (QuickData) DMA engine of version 3.2: one channel that copies and fills.

A channel follows a chain of descriptors of 64 bytes from CHAINADDR on. DMACOUNT says
how many have been submitted since CHAINADDR was written, modulo 2^16; the engine works
until it has done that many. Then, or where a descriptor asks for it, the address of the
last completed descriptor and the state go to the address in CHANCMP, and an interrupt
is sent. All differences from the engine of a Skylake Xeon server:

* a write of DMACOUNT returns when the work is done: the channel is never seen active;
* no XOR, P+Q, CRC, DCA or snoop control: those operations halt the channel, those bits
  change nothing; a page break does not either;
* what the IOMMU blocks is CHANERR's read or write data error, whatever the engine
  would call it; CHANERR of configuration space (0x180) is plain memory;
* the interrupt delay (INTRDELAY) is kept, and interrupts are not delayed;
* CHANCTRL's channel-in-use bit is set and cleared by writes alone.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from uvfio.devices.config import PciConfig
from uvfio.devices.kit import MsixTable, PciBar, PciDevice, Register
from uvfio.uapi.pci_regs import PCI_EXP_DEVCAP_FLR, PCI_EXP_TYPE_RC_END

VERSION = 0x32
XFERCAP = 20  # a descriptor moves at most 2^20 bytes

CAP_PAGE_BREAK, CAP_FILL_BLOCK = 1 << 0, 1 << 6

MASTER_INT_EN, INT_STATUS, INT = 1 << 0, 1 << 1, 1 << 2  # of INTRCTRL

CHANCTRL_INT_REARM = 1 << 0
CHANCTRL_ERR_COMPLETION_EN = 1 << 2
CHANCTRL_ERR_INT_EN = 1 << 4

CHANCMD_START, CHANCMD_SUSPEND, CHANCMD_ABORT = 1 << 0, 1 << 2, 1 << 3
CHANCMD_RESUME, CHANCMD_RESET = 1 << 4, 1 << 5

ACTIVE, DONE, SUSPENDED, HALTED = 0, 1, 2, 3  # the low bits of CHANSTS

ERR_NEXT_ADDR, ERR_CHAIN_ADDR = 1 << 2, 1 << 4
ERR_READ_DATA, ERR_WRITE_DATA = 1 << 8, 1 << 9
ERR_DESCRIPTOR_CONTROL, ERR_LENGTH, ERR_COMPLETION_ADDR = 1 << 10, 1 << 11, 1 << 12

# size, control, source (of a fill: the 8 bytes), destination, address of the next one
DESCRIPTOR = struct.Struct("<IIQQQ32x")
SIZE = DESCRIPTOR.size
CTL_INT_EN, CTL_COMPLETION, CTL_NULL = 1 << 0, 1 << 3, 1 << 5
OP_SHIFT = 24
OP_COPY, OP_FILL = 0x00, 0x01
PAGE_SIZE = 4096


class Descriptor(NamedTuple):
    size: int
    control: int
    source: int
    destination: int
    next: int


class ChannelError(Exception):
    """The channel halts with this bit of CHANERR."""

    def __init__(self, error: int) -> None:
        super().__init__(f"CHANERR {error:#x}")
        self.error = error


class Ioat(PciDevice):
    """Intel I/OAT DMA engine v3.2: one channel, copy and fill, completion writeback, MSI-X."""

    name = "ioat"
    vendor, device, revision = 0x8086, 0x2021, 0x04
    class_code = 0x088000  # a system peripheral
    subsystem = (0x8086, 0x0000)
    config_size = 4096
    BARS = {0: PciBar(16 << 10, "mem64")}
    intx = True
    msix = MsixTable(vectors=1, bar=0, table=0x2000, pba=0x3000)
    has_reset = True
    unassigned = 0

    CHANCNT = Register(0x00, "ro", 1, size=1, doc="channels")
    XFERCAP = Register(0x01, "ro", XFERCAP, size=1, doc="log2 of the most bytes of a descriptor")
    GENCTRL = Register(0x02, "rw", size=1, doc="general control")
    INTRCTRL = Register(
        0x03, "rw", size=1, mask=0x9, bits={"master_int_en": 0, "int_status": 1, "int": 2}, doc="interrupt control"
    )
    ATTNSTATUS = Register(0x04, "ro", doc="channels that interrupted; a read clears")
    CBVER = Register(0x08, "ro", VERSION, size=1, doc="version 3.2")
    INTRDELAY = Register(0x0C, "rw", size=2, doc="interrupt delay, in microseconds")
    CS_STATUS = Register(0x0E, "ro", size=2, doc="chipset status")
    DMACAPABILITY = Register(0x10, "ro", CAP_PAGE_BREAK | CAP_FILL_BLOCK, doc="page break, block fill")
    CHANCTRL = Register(0x80, "rw", size=2, doc="channel control; bit 0 written: interrupt again")
    CHANCMD = Register(
        0x84, "rw", size=1, bits={"start": 0, "suspend": 2, "abort": 3, "resume": 4, "reset": 5}, doc="command"
    )
    DMACOUNT = Register(0x86, "rw", size=2, doc="descriptors submitted since CHAINADDR was written")
    CHANSTS = Register(0x88, "ro", DONE, size=8, halves=True, doc="last completed descriptor; bits 0-2: state")
    CHAINADDR = Register(0x90, "rw", size=8, halves=True, mask=-SIZE, doc="first descriptor")
    CHANCMP = Register(0x98, "rw", size=8, halves=True, mask=-8, doc="where CHANSTS is written back")
    CHANERR = Register(0xA8, "w1c", doc="errors; written ones clear")
    CHANERRMSK = Register(0xAC, "rw", doc="errors that do not halt (kept, and change nothing)")

    def __init__(self) -> None:
        super().__init__()
        self.buffer = memoryview(bytearray(1 << XFERCAP))
        self.start_over(0)
        self.running = False
        self.interrupted = False  # and not rearmed since

    def add_capabilities(self, config: PciConfig) -> None:
        self.add_pm(config, 0x40)
        self.add_msix(config, 0x50)
        config.add_express(0x80, PCI_EXP_TYPE_RC_END, PCI_EXP_DEVCAP_FLR)

    def reset(self) -> None:
        super().reset()
        self.start_over(0)
        self.interrupted = False

    def start_over(self, chain: int) -> None:
        self.at = chain  # the next descriptor
        self.done = 0
        self.ahead: tuple[int, bytearray] = (0, bytearray())  # descriptors fetched together, from an address on

    # The channel's registers.

    @CHANCTRL.on_write
    def control(self, value: int) -> None:
        self.CHANCTRL = value & ~CHANCTRL_INT_REARM
        if value & CHANCTRL_INT_REARM:
            self.interrupted = False
            if self.ATTNSTATUS:
                self.interrupt()

    @CHAINADDR.on_write
    def set_chain(self, value: int) -> None:
        self.CHAINADDR = value & -SIZE
        self.start_over(self.CHAINADDR)
        self.DMACOUNT = 0
        if self.state == SUSPENDED:
            self.state = DONE

    @DMACOUNT.on_write
    def submit(self, value: int) -> None:
        self.DMACOUNT = value
        self.run()

    @CHANCMD.on_write
    def command(self, value: int) -> None:
        if value & CHANCMD_RESET:
            self.reset_channel()
        elif value & (CHANCMD_SUSPEND | CHANCMD_ABORT):
            if self.state != HALTED:
                self.state = SUSPENDED if value & CHANCMD_SUSPEND else HALTED
        elif value & (CHANCMD_START | CHANCMD_RESUME) and self.state == SUSPENDED:
            self.state = DONE
            self.run()

    def reset_channel(self) -> None:
        for register in (Ioat.CHANCTRL, Ioat.DMACOUNT, Ioat.CHANSTS, Ioat.CHAINADDR, Ioat.CHANERR):
            self.values[register.name] = register.reset
        self.start_over(0)
        self.ATTNSTATUS = 0
        self.interrupted = False
        self.update_line()

    @property
    def state(self) -> int:
        return self.CHANSTS & 7

    @state.setter
    def state(self, value: int) -> None:
        self.CHANSTS = self.CHANSTS & ~7 | value

    # What the channel does.

    def run(self) -> None:
        """A copy may hit our own registers: what they start is then done by the run that is under way."""
        if self.running or self.state in (SUSPENDED, HALTED):
            return
        self.running = True
        self.ahead = (0, bytearray())  # the host may have rewritten what it had not submitted
        try:
            while self.done != self.DMACOUNT and self.state not in (SUSPENDED, HALTED):
                self.step()
        except ChannelError as e:
            self.halt(e.error)
        finally:
            self.running = False

    def step(self) -> None:
        address = self.at
        descriptor = self.fetch(address)
        self.at = descriptor.next & -SIZE
        self.done = self.done + 1 & 0xFFFF
        self.execute(descriptor)
        self.CHANSTS = address | (DONE if self.done == self.DMACOUNT else ACTIVE)
        if descriptor.control & CTL_COMPLETION:
            self.write_back()
        if descriptor.control & CTL_INT_EN:
            self.interrupt()

    def fetch(self, address: int) -> Descriptor:
        start, data = self.ahead
        if not start <= address < start + len(data):
            # The rest of the page most likely holds the rest of the chain.
            count = min(self.DMACOUNT - self.done & 0xFFFF, (PAGE_SIZE - address % PAGE_SIZE) // SIZE)
            start, data = address, bytearray(count * SIZE)
            if not self.dma_read_into(address, memoryview(data)):
                raise ChannelError(ERR_NEXT_ADDR if self.done else ERR_CHAIN_ADDR)
            self.ahead = start, data
        return Descriptor._make(DESCRIPTOR.unpack_from(data, address - start))

    def execute(self, descriptor: Descriptor) -> None:
        operation = descriptor.control >> OP_SHIFT
        if operation not in (OP_COPY, OP_FILL):
            raise ChannelError(ERR_DESCRIPTOR_CONTROL)
        if descriptor.control & CTL_NULL:
            return
        if not 0 < descriptor.size <= 1 << XFERCAP:
            raise ChannelError(ERR_LENGTH)
        buffer = self.buffer[: descriptor.size]
        if operation == OP_FILL:
            pattern = descriptor.source.to_bytes(8, "little")
            buffer[:] = (pattern * (len(buffer) // 8 + 1))[: len(buffer)]
        elif not self.dma_read_into(descriptor.source, buffer):
            raise ChannelError(ERR_READ_DATA)
        if not self.dma_write(descriptor.destination, buffer):
            raise ChannelError(ERR_WRITE_DATA)

    def halt(self, error: int) -> None:
        self.CHANERR |= error
        self.state = HALTED
        if self.CHANCTRL & CHANCTRL_ERR_COMPLETION_EN and error != ERR_COMPLETION_ADDR:
            self.dma_write(self.CHANCMP, self.CHANSTS.to_bytes(8, "little"))
        if self.CHANCTRL & CHANCTRL_ERR_INT_EN:
            self.interrupt()

    def write_back(self) -> None:
        if not self.dma_write(self.CHANCMP, self.CHANSTS.to_bytes(8, "little")):
            raise ChannelError(ERR_COMPLETION_ADDR)

    # Interrupts: one, and then none before CHANCTRL says so.

    def interrupt(self) -> None:
        self.ATTNSTATUS = 1
        if self.INTRCTRL & MASTER_INT_EN and not self.interrupted:
            self.interrupted = True
            if self.msix_enabled:
                self.raise_msix(0)
        self.update_line()

    def update_line(self) -> None:
        self.set_intx(bool(self.INTRCTRL & MASTER_INT_EN and self.ATTNSTATUS) and not self.msix_enabled)

    @INTRCTRL.on_read
    def interrupt_status(self) -> int:
        pending = INT_STATUS if self.ATTNSTATUS else 0
        return self.INTRCTRL | pending | (INT if pending and self.INTRCTRL & MASTER_INT_EN else 0)

    @INTRCTRL.on_write
    def enable_interrupts(self, value: int) -> None:
        self.INTRCTRL = value & Ioat.INTRCTRL.mask
        self.update_line()

    @ATTNSTATUS.on_read
    def take_attention(self) -> int:
        found, self.ATTNSTATUS = self.ATTNSTATUS, 0
        self.update_line()
        return found

# SPDX-License-Identifier: GPL-2.0-only
"""
QEMU's teaching device (``hw/misc/edu.c``, ``docs/specs/edu.rst``).

All differences from QEMU's:

* the factorial is ready, and a DMA transfer is done, when the write that starts it
  returns; QEMU takes a moment for the first and 100 ms for the second;
* a transfer outside the device's buffer moves nothing (QEMU stops the machine).
"""

from __future__ import annotations

from collections.abc import Iterator

from uvfio.devices.kit import PciBar, PciDevice, Register

FACTORIAL_IRQ = 0x1
DMA_IRQ = 0x100

DMA_RUN = 0x1
DMA_TO_HOST = 0x2
DMA_RAISE_IRQ = 0x4

BUFFER = 0x40000
BUFFER_SIZE = 4096
PAGE = 4096
DMA_MASK = (1 << 28) - 1


class Edu(PciDevice):
    """Computes factorials, copies through a 4 KiB buffer, raises interrupts on demand."""

    name = "edu"
    vendor, device, revision = 0x1234, 0x11E8, 0x10
    class_code = 0x00FF00
    BARS = {0: PciBar(1 << 20)}
    intx = True
    msi_vectors = 1
    pollable = True
    options = ("dma_mask",)

    IDENT = Register(0x00, "ro", 0x0100_00ED, doc="0xRRrr00ed: major and minor version")
    LIVENESS = Register(0x04, "rw", doc="reads back inverted what was written")
    FACTORIAL = Register(0x08, "rw", doc="write n, read n! (32 bits)")
    STATUS = Register(0x20, "rw", mask=0x80, bits={"computing": 0, "raise_irq": 7}, doc="interrupt when computed?")
    IRQ_STATUS = Register(0x24, "ro", doc="why the interrupt was raised: 0x1 factorial, 0x100 DMA")
    IRQ_RAISE = Register(0x60, "wo", doc="raise an interrupt, or these bits into irq_status")
    IRQ_ACK = Register(0x64, "wo", doc="clear these bits of irq_status")
    DMA_SRC = Register(0x80, "rw", size=8, sizes=(4, 8), doc="source address")
    DMA_DST = Register(0x88, "rw", size=8, sizes=(4, 8), doc="destination address")
    DMA_COUNT = Register(0x90, "rw", size=8, sizes=(4, 8), doc="how many bytes")
    DMA_CMD = Register(
        0x98, "rw", size=8, sizes=(4, 8), bits={"run": 0, "to_host": 1, "raise_irq": 2}, doc="start a transfer"
    )

    def __init__(self, dma_mask: str = hex(DMA_MASK)) -> None:
        super().__init__()
        self.dma_mask = int(str(dma_mask), 0)  # how much of an address it puts on the bus
        self.buffer = bytearray(BUFFER_SIZE)

    def nothing(self, size: int) -> int:
        # QEMU's memory core answers narrow accesses before the device sees them.
        return super().nothing(size) if size >= 4 else 0

    @LIVENESS.on_write
    def invert(self, value: int) -> None:
        self.LIVENESS = ~value

    @FACTORIAL.on_write
    def compute(self, n: int) -> None:
        result = 1
        for factor in range(1, min(n, 34) + 1):  # from 34! on the low 32 bits are zero
            result = result * factor & 0xFFFF_FFFF
        self.FACTORIAL = result
        if self.bit(Edu.STATUS, "raise_irq"):
            self.interrupt(FACTORIAL_IRQ)

    @IRQ_RAISE.on_write
    def interrupt(self, why: int) -> None:
        self.IRQ_STATUS |= why
        if self.IRQ_STATUS:
            self.raise_irq()

    @IRQ_ACK.on_write
    def acknowledge(self, why: int) -> None:
        self.IRQ_STATUS &= ~why
        if not self.IRQ_STATUS and not self.msi_enabled:
            self.lower_irq()

    @DMA_CMD.on_write
    def start_dma(self, command: int) -> None:
        if not command & DMA_RUN:
            return
        self.DMA_CMD = command & ~DMA_RUN
        if command & DMA_TO_HOST:
            self.copy_to_host(self.DMA_SRC, self.DMA_DST & self.dma_mask, self.DMA_COUNT)
        else:
            self.copy_from_host(self.DMA_SRC & self.dma_mask, self.DMA_DST, self.DMA_COUNT)
        if command & DMA_RAISE_IRQ:
            self.interrupt(DMA_IRQ)

    def copy_to_host(self, src: int, iova: int, n: int) -> None:
        if in_buffer(src, n):
            for at, count in pages(iova, n):
                start = src - BUFFER + at - iova
                self.dma_write(at, memoryview(self.buffer)[start : start + count])

    def copy_from_host(self, iova: int, dst: int, n: int) -> None:
        if in_buffer(dst, n):
            for at, count in pages(iova, n):
                start = dst - BUFFER + at - iova
                piece = memoryview(self.buffer)[start : start + count]
                if not self.dma_read_into(at, piece):
                    piece[:] = bytes(count)


def pages(iova: int, n: int) -> Iterator[tuple[int, int]]:
    """What is to be moved, page by page: one that is not mapped reads as zeros, and holds up no other."""
    end = iova + n
    while iova < end:
        following = min(end, (iova | PAGE - 1) + 1)
        yield iova, following - iova
        iova = following


def in_buffer(addr: int, n: int) -> bool:
    return addr >= BUFFER and addr + n <= BUFFER + BUFFER_SIZE

# SPDX-License-Identifier: GPL-2.0-only
"""
A serial port of mtty: a 16550 whose output is its own input.

Mirrors ``struct serial_port`` and the BAR accesses of ``samples/vfio-mdev/mtty.c``, its
oddities included: a full FIFO looks empty to LSR and cannot be read, the divisor only
gains bits, and an overrun is forgotten at the next byte that fits.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

RBR = THR = 0
IER, IIR, LCR, MCR, LSR, MSR, SCR = 1, 2, 3, 4, 5, 6, 7
FCR = 2

IER_RDI, IER_THRI, IER_RLSI, IER_MSI = 1, 2, 4, 8
IIR_NO_INT, IIR_THRI, IIR_RDI, IIR_RLSI = 1, 2, 4, 6
IIR_FIFO = 0xC0
FCR_ENABLE, FCR_CLEAR = 1, 6
LCR_DLAB = 0x80
MCR_DTR, MCR_RTS, MCR_OUT2, MCR_AFE = 1, 2, 8, 0x20
LSR_DR, LSR_OE, LSR_EMPTY = 1, 2, 0x60
MSR_CTS, MSR_ALWAYS = 0x11, 0xA2  # CTS and its change; DCD, DSR and its change

FIFO_SIZE = 16
PORT = struct.Struct("<8s16sBBB??xHBBBx")


class SerialPort:
    """``struct serial_port``. *interrupt* is called for each reason for an interrupt."""

    def __init__(self, interrupt: Callable[[], None]) -> None:
        self.interrupt = interrupt
        self.uart_reg = bytearray(8)
        self.fifo = bytearray(FIFO_SIZE)
        self.head = self.tail = self.count = 0
        self.dlab = self.overrun = False
        self.divisor = 0
        self.fcr = 0
        self.max_fifo_size = FIFO_SIZE
        self.intr_trigger_level = 0

    def save(self) -> bytes:
        """As migration data has it."""
        return PORT.pack(
            bytes(self.uart_reg), bytes(self.fifo), self.head, self.tail, self.count, self.dlab, self.overrun,
            self.divisor, self.fcr, self.max_fifo_size, self.intr_trigger_level,
        )  # fmt: skip

    def load(self, data: bytes) -> None:
        (
            regs, fifo, self.head, self.tail, self.count, self.dlab, self.overrun,
            self.divisor, self.fcr, self.max_fifo_size, self.intr_trigger_level,
        ) = PORT.unpack(data)  # fmt: skip
        self.uart_reg[:], self.fifo[:] = regs, fifo
        self.head %= FIFO_SIZE
        self.tail %= FIFO_SIZE

    def write(self, offset: int, data: int) -> None:
        if offset == THR:
            self._write_thr(data)
        elif offset == IER:
            self._write_ier(data)
        elif offset == FCR:
            self._write_fcr(data)
        elif offset == LCR:
            self.dlab = bool(data & LCR_DLAB)
            self.uart_reg[LCR] = data
        elif offset == MCR:
            self._write_mcr(data)
        elif offset == SCR:
            self.uart_reg[SCR] = data

    def read(self, offset: int) -> int:
        if offset == RBR:
            return self.divisor & 0xFF if self.dlab else self._read_rbr()
        if offset == IER:
            return self.divisor >> 8 if self.dlab else self.uart_reg[IER] & 0x0F
        if offset == IIR:
            return self._read_iir()
        if offset == LSR:
            return self._read_lsr()
        if offset == MSR:
            flowing = not self.uart_reg[MCR] & MCR_AFE or self.count < self.max_fifo_size
            return MSR_ALWAYS | (MSR_CTS if flowing else 0)
        return self.uart_reg[offset] if offset in (LCR, MCR, SCR) else 0

    def _interrupt_if(self, enabled: int) -> None:
        if self.uart_reg[IER] & enabled:
            self.interrupt()

    def _write_thr(self, data: int) -> None:
        if self.dlab:
            self.divisor |= data
        elif self.count < self.max_fifo_size:
            self.fifo[self.head] = data
            self.head = (self.head + 1) % FIFO_SIZE
            self.count += 1
            self.overrun = False
            if self.count == self.intr_trigger_level:
                self._interrupt_if(IER_RDI)
        else:
            self.overrun = True
            self._interrupt_if(IER_RLSI)

    def _write_ier(self, data: int) -> None:
        if self.dlab:
            self.divisor |= data << 8
            return
        self.uart_reg[IER] = data
        if self.head == self.tail:
            self._interrupt_if(IER_THRI)

    def _write_fcr(self, data: int) -> None:
        self.fcr = data
        if data & FCR_CLEAR:
            self.head = self.tail = self.count = 0
        self.intr_trigger_level = 1
        self.max_fifo_size = FIFO_SIZE if data & FCR_ENABLE else 1

    def _write_mcr(self, data: int) -> None:
        self.uart_reg[MCR] = data
        if data & MCR_OUT2:
            self._interrupt_if(IER_MSI)
        if data & (MCR_RTS | MCR_DTR):
            self._interrupt_if(IER_MSI)

    def _read_rbr(self) -> int:
        data = 0
        if self.head != self.tail:
            data = self.fifo[self.tail]
            self.tail = (self.tail + 1) % FIFO_SIZE
            self.count -= 1
        if self.head == self.tail:
            self._interrupt_if(IER_THRI)
        return data

    def _read_iir(self) -> int:
        ier = self.uart_reg[IER]
        pending = 0
        if ier & IER_RLSI and self.overrun:
            pending |= IIR_RLSI
        if ier & IER_RDI and self.count >= self.intr_trigger_level:
            pending |= IIR_RDI
        if ier & IER_THRI and self.head == self.tail:
            pending |= IIR_THRI
        return (pending or IIR_NO_INT) | IIR_FIFO

    def _read_lsr(self) -> int:
        lsr = LSR_EMPTY if self.head == self.tail else LSR_DR
        return lsr | (LSR_OE if self.overrun else 0)

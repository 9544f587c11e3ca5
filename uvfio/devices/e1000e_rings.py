# SPDX-License-Identifier: GPL-2.0-only
"""
The data path of the e1000e: descriptor rings, and a wire that is a loop.

Frames that are sent come back while RCTL selects MAC loopback, and are lost otherwise.
Both kinds of transmit descriptor (legacy, and extended data and context) and of receive
descriptor (legacy, and extended by RFCTL) are there. All differences from an 82574L:

* one receive queue; no RSS, packet split, VLAN tags, checksum or segmentation offload
  (a frame that asks for one is sent as it is), flow control or statistics;
* of the address filters there are the first receive address, broadcast and the two
  promiscuous modes; the multicast table is not looked at;
* the moment for delayed interrupts is now.
"""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from uvfio.devices.e1000e import E1000e

RCTL, TCTL, RFCTL, RAL, RAH = 0x100, 0x400, 0x5008, 0x5400, 0x5404
RECEIVE = 0x2800  # base low, base high, length, -, head, -, tail
TRANSMIT = (0x3800, 0x3900)
BASE_HIGH, LENGTH, HEAD, TAIL = 0x04, 0x08, 0x10, 0x18

RCTL_EN, RCTL_UPE, RCTL_MPE, RCTL_LPE, RCTL_BAM = 1 << 1, 1 << 3, 1 << 4, 1 << 5, 1 << 15
RCTL_BSEX, RCTL_SECRC = 1 << 25, 1 << 26
RCTL_LOOPBACK = 1 << 6  # of the two bits of LBM
TCTL_EN, TCTL_PSP = 1 << 1, 1 << 3
RFCTL_EXSTEN = 1 << 15
RAH_AV = 1 << 31

TXDW, RXDMT0, RXO, RXT0 = 1 << 0, 1 << 4, 1 << 6, 1 << 7
RXQ0, TXQ = 1 << 20, (1 << 22, 1 << 23)

DESCRIPTOR = struct.Struct("<QII")
SIZE = DESCRIPTOR.size
EOP, IFCS, RS, DEXT = 1 << 24, 1 << 25, 1 << 27, 1 << 29  # in the second word of either kind
TYPE_CONTEXT = 0
DONE = 1
RX_DONE, RX_EOP = 1, 2
FCS = 4
MIN_FRAME = 60  # without FCS
MAX_FRAME, MAX_LONG_FRAME = 1518, 16128  # with it
BROADCAST = b"\xff" * 6


class E1000eRings:
    """All rings of one function. Their registers are in ``nic.others``."""

    def __init__(self, nic: E1000e) -> None:
        self.nic = nic
        self.running = False
        self.frames: dict[int, bytearray] = {}  # by transmit queue: descriptors without the last one yet

    def reset(self) -> None:
        self.frames.clear()

    def get(self, off: int) -> int:
        return self.nic.others.get(off, 0)

    def written(self, off: int) -> None:
        """A register was written that may set a ring going."""
        for queue, ring in enumerate(TRANSMIT):
            if off == ring + TAIL or off == TCTL:
                self.transmit(queue, ring)

    def transmit(self, queue: int, ring: int) -> None:
        # A frame may be received into our own registers; what that sets going is seen in the loop below.
        if self.running or not self.get(TCTL) & TCTL_EN:
            return
        self.running = True
        causes = 0
        try:
            count = self.get(ring + LENGTH) // SIZE
            while count and self.get(ring + HEAD) != self.get(ring + TAIL) < count:
                causes |= self.step(queue, ring, count)
        finally:
            self.running = False
        self.nic.cause(causes)

    def step(self, queue: int, ring: int, count: int) -> int:
        """One descriptor; the causes of interrupts that it has."""
        at = self.place(ring, HEAD)
        address, command, status = DESCRIPTOR.unpack(self.nic.dma_read(at, SIZE))
        self.nic.others[ring + HEAD] = (self.get(ring + HEAD) + 1) % count
        causes = 0
        extended = command & DEXT
        if not (extended and command >> 20 & 0xF == TYPE_CONTEXT):
            length = command & (0xFFFFF if extended else 0xFFFF)
            frame = self.frames.setdefault(queue, bytearray())
            # More than the longest frame is not kept: it will not be sent.
            if len(frame) <= MAX_LONG_FRAME:
                frame += self.nic.dma_read(address, min(length, MAX_LONG_FRAME + 1))
            if command & EOP:
                causes = self.send(self.frames.pop(queue), bool(command & IFCS))
        if command & RS:
            self.nic.dma_write(at, DESCRIPTOR.pack(address, command, status | DONE))
            causes |= TXDW | TXQ[queue]
        return causes

    def place(self, ring: int, index: int) -> int:
        base = self.get(ring + BASE_HIGH) << 32 | self.get(ring) & ~0xF
        return base + SIZE * self.get(ring + index)

    def send(self, frame: bytearray, add_fcs: bool) -> int:
        if add_fcs:
            if self.get(TCTL) & TCTL_PSP:
                frame = frame.ljust(MIN_FRAME, b"\0")
            frame += zlib.crc32(frame).to_bytes(FCS, "little")
        rctl = self.get(RCTL)
        longest = MAX_LONG_FRAME if rctl & RCTL_LPE else MAX_FRAME
        looped = rctl & RCTL_EN and rctl & RCTL_LOOPBACK
        if not looped or not MIN_FRAME + FCS <= len(frame) <= longest or not self.accepts(bytes(frame[:6])):
            return 0
        return self.receive(frame[:-FCS] if rctl & RCTL_SECRC else frame)

    def accepts(self, address: bytes) -> bool:
        rctl, high = self.get(RCTL), self.get(RAH)
        if address == BROADCAST:
            return bool(rctl & (RCTL_BAM | RCTL_MPE))
        if address[0] & 1:
            return bool(rctl & RCTL_MPE)
        own = (self.get(RAL) | (high & 0xFFFF) << 32).to_bytes(6, "little")
        return bool(rctl & RCTL_UPE) or bool(high & RAH_AV and address == own)

    def receive(self, frame: bytearray) -> int:
        """Spread *frame* over as many descriptors as it takes; it is lost when there are too few."""
        count, room = self.get(RECEIVE + LENGTH) // SIZE, self.buffer_size()
        free = (self.get(RECEIVE + TAIL) - self.get(RECEIVE + HEAD)) % count if count else 0
        needed = -(-len(frame) // room)
        if needed > free:
            return RXO
        for n in range(needed):
            at = self.place(RECEIVE, HEAD)
            address = int.from_bytes(self.nic.dma_read(at, 8), "little")
            piece = frame[n * room : (n + 1) * room]
            self.nic.dma_write(address, piece)
            self.nic.dma_write(at, self.write_back(address, len(piece), n == needed - 1))
            self.nic.others[RECEIVE + HEAD] = (self.get(RECEIVE + HEAD) + 1) % count
        few = RXDMT0 if free - needed <= self.threshold(count) else 0
        return RXT0 | RXQ0 | few

    def buffer_size(self) -> int:
        rctl = self.get(RCTL)
        code = rctl >> 16 & 3
        return 32768 >> code if rctl & RCTL_BSEX and code else 2048 >> code

    def threshold(self, count: int) -> int:
        """RDMTS: half, a quarter or an eighth of the ring."""
        return count >> (self.get(RCTL) >> 8 & 3) + 1

    def write_back(self, address: int, length: int, last: bool) -> bytes:
        status = RX_DONE | (RX_EOP if last else 0)
        if self.get(RFCTL) & RFCTL_EXSTEN:
            return struct.pack("<IIIHH", 0, 0, status, length, 0)
        return struct.pack("<QHHBBH", address, length, 0, status, 0, 0)

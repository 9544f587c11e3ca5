# SPDX-License-Identifier: GPL-2.0-only
"""The e1000e's data path: rings of both kinds of descriptor, filters, and what is lost."""

from __future__ import annotations

import struct
import zlib

import pytest
from nvme_host import Upstream

from uvfio.devices.e1000e import E1000e

TX, RX, OUT, IN = 0x1000, 0x2000, 0x10000, 0x20000
EOP, IFCS, RS, DEXT, DATA = 1, 2, 8, 0x20, 1 << 20
EN, UPE, LPE, LOOP, BAM, SECRC = 1 << 1, 1 << 3, 1 << 5, 1 << 6, 1 << 15, 1 << 26
OWN = bytes.fromhex("525400123456")
FRAME = OWN + bytes(6) + b"\x08\0" + bytes(range(86))


class Nic:
    """A driver with rings of eight descriptors and buffers of 2 KiB."""

    def __init__(self, rctl: int = EN | LOOP | SECRC | BAM) -> None:
        self.nic = E1000e()
        self.slot = Upstream()
        self.nic.upstream = self.slot
        for ring, base in ((0x2800, RX), (0x3800, TX)):
            self.write(ring, base)
            self.write(ring + 8, 8 * 16)
        for n in range(8):
            self.slot.memory[RX + 16 * n : RX + 16 * n + 8] = (IN + 2048 * n).to_bytes(8, "little")
        self.write(0x2818, 7)
        self.write(0x100, rctl)
        self.write(0x400, 1 << 1 | 1 << 3)
        self.tail = 0

    def read(self, off: int) -> int:
        return self.nic.bar_read(0, off, 4)

    def write(self, off: int, value: int) -> None:
        self.nic.bar_write(0, off, 4, value)

    def put(self, data: bytes, command: int = EOP | IFCS | RS, extended: bool = False) -> None:
        at, where = TX + 16 * self.tail, OUT + 2048 * self.tail
        self.slot.memory[where : where + len(data)] = data
        kind = (DEXT << 24 | DATA) if extended else 0
        self.slot.memory[at : at + 16] = struct.pack("<QII", where, len(data) | command << 24 | kind, 0)
        self.tail = (self.tail + 1) % 8

    def send(self) -> None:
        self.write(0x3818, self.tail)

    def received(self, n: int = 0) -> tuple[int, int, bytes]:
        """(status, errors, data) of receive descriptor *n*, a legacy one."""
        length, _sum, status, errors, _special = struct.unpack_from("<HHBBH", self.slot.memory, RX + 16 * n + 8)
        return status, errors, bytes(self.slot.memory[IN + 2048 * n :][:length])


@pytest.mark.parametrize("extended", [False, True])
def test_a_frame_comes_back(extended: bool) -> None:
    nic = Nic()
    nic.put(FRAME, extended=extended)
    nic.send()
    assert nic.received() == (3, 0, FRAME)
    assert (nic.read(0x3810), nic.read(0x2810)) == (1, 1)
    assert nic.slot.memory[TX + 12] & 1  # done
    assert nic.read(0xC0) == 1 << 31 | 1 << 0 | 1 << 7 | 1 << 20 | 1 << 22


def test_one_frame_of_several_descriptors_and_a_context() -> None:
    nic = Nic()
    nic.slot.memory[TX : TX + 16] = struct.pack("<QII", 0, DEXT << 24, 0)
    nic.tail = 1
    nic.put(FRAME[:50], IFCS)
    nic.put(FRAME[50:])
    nic.send()
    assert nic.received() == (3, 0, FRAME)
    assert nic.read(0x2810) == 1


def test_extended_receive_descriptors() -> None:
    nic = Nic()
    nic.write(0x5008, 1 << 15)
    nic.put(FRAME)
    nic.send()
    assert struct.unpack_from("<IIIHH", nic.slot.memory, RX) == (0, 0, 3, len(FRAME), 0)


def test_padding_and_check_sequence() -> None:
    nic = Nic(EN | LOOP | BAM)
    nic.put(b"\xff" * 6 + b"short")
    nic.send()
    padded = (b"\xff" * 6 + b"short").ljust(60, b"\0")
    assert nic.received() == (3, 0, padded + zlib.crc32(padded).to_bytes(4, "little"))


def test_a_long_frame_takes_more_buffers() -> None:
    nic = Nic(EN | LOOP | SECRC | LPE | 3 << 16)  # of 256 bytes
    nic.put(FRAME + bytes(500))
    nic.send()
    assert [nic.received(n)[0] for n in range(4)] == [1, 1, 3, 0]
    assert sum(len(nic.received(n)[2]) for n in range(3)) == len(FRAME) + 500


@pytest.mark.parametrize(
    ("rctl", "frame", "comes"),
    [
        (EN | LOOP, FRAME, True),
        (EN | LOOP, b"\x02" + FRAME[1:], False),
        (EN | LOOP | UPE, b"\x02" + FRAME[1:], True),
        (EN | LOOP, b"\xff" * 6 + FRAME[6:], False),
        (EN | LOOP | BAM, b"\xff" * 6 + FRAME[6:], True),
        (EN | LOOP | BAM, b"\x33" + FRAME[1:], False),
        (EN | LOOP, FRAME + bytes(1500), False),
        (EN, FRAME, False),
        (LOOP, FRAME, False),
    ],
)
def test_what_is_let_in(rctl: int, frame: bytes, comes: bool) -> None:
    nic = Nic(rctl)
    nic.put(frame)
    nic.send()
    assert (nic.read(0x2810) == 1) is comes
    assert nic.slot.memory[TX + 12] & 1


def test_without_a_buffer_it_is_lost() -> None:
    nic = Nic()
    nic.write(0x2818, 0)
    nic.put(FRAME)
    nic.send()
    assert nic.read(0xC0) == 1 << 31 | 1 << 0 | 1 << 6 | 1 << 22


def test_it_interrupts() -> None:
    nic = Nic()
    nic.write(0xD0, 1 << 7)
    nic.put(FRAME, EOP | IFCS)
    nic.send()
    assert nic.slot.irq_line
    nic.read(0xC0)
    assert not nic.slot.irq_line


def test_nothing_is_sent_before_it_is_enabled() -> None:
    nic = Nic()
    nic.write(0x400, 0)
    nic.put(FRAME)
    nic.send()
    assert nic.read(0x3810) == 0
    nic.write(0x400, 2)
    assert nic.read(0x3810) == 1


def test_a_reset_of_the_mac() -> None:
    nic = Nic()
    nic.put(FRAME)
    nic.send()
    nic.write(0xD0, 1)
    assert nic.slot.irq_line
    nic.write(0x0, 0x140241 | 1 << 26)
    assert [nic.read(off) for off in (0x0, 0xC0, 0xD0, 0x100, 0x3810)] == [0x140241, 0, 0, 0, 0]
    assert not nic.slot.irq_line


def test_a_ring_that_is_none_stands_still() -> None:
    nic = Nic()
    nic.write(0x3818, 8)  # behind the end
    assert nic.read(0x3810) == 0
    nic.write(0x3808, 0)
    nic.write(0x3818, 1)
    assert nic.read(0x3810) == 0

# SPDX-License-Identifier: GPL-2.0-only
"""The edu device, by the answers QEMU's gave on the reference machine."""

from __future__ import annotations

from typing import Any

import pytest

from uvfio.devices.edu import BUFFER, Edu

ONES32, ONES64 = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF


class Upstream:
    """The slot edu sits in: memory, and what was raised."""

    def __init__(self) -> None:
        self.memory = bytearray(8192)
        self.irq_line = False
        self.messages = 0
        self.seen: list[int] = []

    def set_intx(self, level: bool) -> None:
        self.irq_line = level

    def raise_msi(self, vector: int) -> None:
        self.messages += 1

    def config_written(self, off: int, size: int) -> None:
        return

    def try_dma_read_into(self, iova: int, buffer: memoryview) -> bool:
        self.seen.append(iova)
        if iova + len(buffer) > len(self.memory):
            return False
        buffer[:] = self.memory[iova : iova + len(buffer)]
        return True

    def try_dma_write(self, iova: int, data: Any) -> bool:
        self.seen.append(iova)
        if iova + len(data) > len(self.memory):
            return False
        self.memory[iova : iova + len(data)] = data
        return True


@pytest.fixture
def edu() -> Edu:
    device = Edu()
    device.upstream = Upstream()
    return device


def read(edu: Edu, off: int, size: int = 4) -> int:
    return edu.bar_read(0, off, size)


def write(edu: Edu, off: int, value: int, size: int = 4) -> None:
    edu.bar_write(0, off, size, value)


OFFSETS = (0, 4, 8, 0xC, 0x20, 0x24, 0x28, 0x60, 0x64, 0x80, 0x84, 0x88, 0x90, 0x98, 0xA0, 0x1000, BUFFER, 0xFFFF8)
AFTER_RESET = {
    1: [0] * len(OFFSETS),
    2: [0] * len(OFFSETS),
    4: [0x010000ED, 0, 0, ONES32, 0, 0, ONES32, ONES32, ONES32, 0, ONES32, 0, 0, 0, *[ONES32] * 4],
    8: [*[ONES64] * 9, 0, ONES64, 0, 0, 0, *[ONES64] * 4],
}


@pytest.mark.parametrize("size", AFTER_RESET)
def test_reads_after_reset(edu: Edu, size: int) -> None:
    assert [read(edu, off, size) for off in OFFSETS] == AFTER_RESET[size]


def test_liveness_inverts_and_takes_four_bytes_only(edu: Edu) -> None:
    write(edu, 4, 0x12345678)
    for size in (1, 2, 8):
        write(edu, 4, 0, size)
    assert read(edu, 4) == 0xEDCBA987


@pytest.mark.parametrize(
    ("n", "result"), [(0, 1), (1, 1), (5, 0x78), (12, 0x1C8CFC00), (13, 0x7328CC00), (34, 0), (ONES32, 0)]
)
def test_factorial(edu: Edu, n: int, result: int) -> None:
    write(edu, 8, n)
    assert read(edu, 8) == result
    assert read(edu, 0x20) == 0


def test_only_one_status_bit_can_be_written(edu: Edu) -> None:
    write(edu, 0x20, ONES32)
    assert read(edu, 0x20) == 0x80
    write(edu, 0x20, 0)
    assert read(edu, 0x20) == 0


def test_the_factorial_interrupts_when_asked_to(edu: Edu) -> None:
    write(edu, 8, 3)
    assert read(edu, 0x24) == 0
    write(edu, 0x20, 0x80)
    write(edu, 8, 3)
    assert (read(edu, 0x24), edu.upstream.irq_line) == (1, True)
    write(edu, 0x64, 1)
    assert (read(edu, 0x24), edu.upstream.irq_line) == (0, False)


def test_the_line_falls_with_the_last_cause(edu: Edu) -> None:
    write(edu, 0x60, 0xF0)
    write(edu, 0x64, 0x30)
    assert (read(edu, 0x24), edu.upstream.irq_line) == (0xC0, True)
    write(edu, 0x64, 0xC0)
    assert (read(edu, 0x24), edu.upstream.irq_line) == (0, False)
    write(edu, 0x60, 0)
    assert not edu.upstream.irq_line


def test_msi_is_sent_instead_of_the_line(edu: Edu) -> None:
    edu.config.write(0x42, 2, 1)
    write(edu, 0x60, 1)
    write(edu, 0x60, 1)
    assert (edu.upstream.messages, edu.upstream.irq_line) == (2, False)


def test_read_only_registers_stay(edu: Edu) -> None:
    write(edu, 0, 1)
    write(edu, 0x24, 1)
    assert (read(edu, 0), read(edu, 0x24)) == (0x010000ED, 0)


def test_dma_registers_take_four_or_eight_bytes(edu: Edu) -> None:
    write(edu, 0x80, 0x1122334455667788, 8)
    assert (read(edu, 0x80, 8), read(edu, 0x80), read(edu, 0x84)) == (0x1122334455667788, 0x55667788, ONES32)
    write(edu, 0x80, 0xAABBCCDD)
    write(edu, 0x84, 1)
    assert read(edu, 0x80, 8) == 0xAABBCCDD
    write(edu, 0x98, 6, 8)
    assert read(edu, 0x98, 8) == 0


def transfer(edu: Edu, src: int, dst: int, n: int, command: int) -> None:
    for off, value in ((0x80, src), (0x88, dst), (0x90, n), (0x98, command)):
        write(edu, off, value, 8)


def test_dma_both_ways(edu: Edu) -> None:
    edu.upstream.memory[0x100:0x110] = bytes(range(16))
    transfer(edu, 0x100, BUFFER + 8, 16, 1)
    transfer(edu, BUFFER + 8, 0x200, 16, 3)
    assert edu.upstream.memory[0x200:0x210] == bytes(range(16))
    assert read(edu, 0x98, 8) == 2
    assert read(edu, 0x24) == 0


def test_dma_interrupts_when_asked_to(edu: Edu) -> None:
    transfer(edu, 0x100, BUFFER, 16, 5)
    assert (read(edu, 0x24), edu.upstream.irq_line) == (0x100, True)


def test_dma_addresses_have_28_bits(edu: Edu) -> None:
    transfer(edu, 0xF_1000_0040, BUFFER, 16, 1)
    transfer(edu, BUFFER, 0xF_1000_0080, 16, 3)
    assert edu.upstream.seen == [0x40, 0x80]


def test_blocked_dma_reads_zeros_writes_nothing_and_holds_up_no_other_page(edu: Edu) -> None:
    edu.upstream.memory[:] = b"\xaa" * 8192
    edu.buffer[:] = b"\x55" * 4096
    transfer(edu, 8000, BUFFER, 4096, 1)
    assert edu.buffer == b"\xaa" * 192 + bytes(4096 - 192)
    edu.buffer[:] = b"\x55" * 4096
    transfer(edu, BUFFER, 8000, 4096, 3)
    assert edu.upstream.memory == b"\xaa" * 8000 + b"\x55" * 192


@pytest.mark.parametrize("dst", [BUFFER - 1, BUFFER + 4090, 0])
def test_dma_outside_the_buffer_moves_nothing(edu: Edu, dst: int) -> None:
    edu.upstream.memory[:] = b"\xaa" * 8192
    transfer(edu, 0, dst, 16, 1)
    assert edu.buffer == bytes(4096)

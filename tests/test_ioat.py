# SPDX-License-Identifier: GPL-2.0-only
"""The I/OAT engine: chains, completion, errors, interrupts."""

from __future__ import annotations

import struct

import pytest
from nvme_host import Upstream

from uvfio.devices.ioat import Ioat

CHAIN, STATUS, SOURCE, TARGET = 0x1000, 0x800, 0x10000, 0x20000
INT_EN, COMPLETION, NULL = 1, 8, 0x20
FILL, XOR = 1 << 24, 0x87 << 24
ACTIVE, DONE, SUSPENDED, HALTED = range(4)


class Channel:
    """The driver's side."""

    def __init__(self) -> None:
        self.ioat = Ioat()
        self.slot = Upstream()
        self.ioat.upstream = self.slot
        self.write(0x98, 8, STATUS)
        self.write(0x90, 8, CHAIN)
        self.count = 0

    def read(self, off: int, size: int) -> int:
        return self.ioat.bar_read(0, off, size)

    def write(self, off: int, size: int, value: int) -> None:
        self.ioat.bar_write(0, off, size, value)

    def put(self, control: int = COMPLETION, size: int = 64, source: int = SOURCE, target: int = TARGET,
            following: int = 0) -> int:  # fmt: skip
        """The next descriptor of a chain in one piece; its address."""
        at = CHAIN + 64 * self.count
        self.slot.memory[at : at + 64] = struct.pack("<IIQQQ32x", size, control, source, target, following or at + 64)
        self.count += 1
        return at

    def submit(self) -> None:
        self.write(0x86, 2, self.count)

    @property
    def status(self) -> int:
        return int.from_bytes(self.slot.memory[STATUS : STATUS + 8], "little")


@pytest.fixture
def channel() -> Channel:
    return Channel()


def test_registers_after_reset() -> None:
    ioat = Ioat()
    assert [ioat.bar_read(0, off, size) for off, size in ((0, 1), (1, 1), (8, 1), (0x10, 4), (0x88, 8))] == [
        1, 20, 0x32, 0x41, 1,
    ]  # fmt: skip


def test_copy_and_fill(channel: Channel) -> None:
    data = bytes(range(256)) * 16
    channel.slot.memory[SOURCE + 3 : SOURCE + 3 + len(data)] = data
    channel.put(0, len(data), SOURCE + 3, TARGET + 1)
    last = channel.put(COMPLETION | FILL, 21, 0x0807060504030201, TARGET + 0x2000)
    channel.submit()
    assert channel.slot.memory[TARGET + 1 : TARGET + 1 + len(data)] == data
    assert channel.slot.memory[TARGET + 0x2000 : TARGET + 0x2016] == (bytes(range(1, 9)) * 3)[:21] + b"\0"
    assert channel.status == last | DONE
    assert channel.read(0x88, 8) == last | DONE
    assert (channel.read(0x88, 4), channel.read(0x8C, 4)) == (last | DONE, 0)


def test_nothing_is_done_before_it_is_submitted(channel: Channel) -> None:
    first = channel.put()
    channel.put(size=0)  # would halt
    channel.write(0x86, 2, 1)
    assert channel.read(0x88, 8) == first | DONE


def test_a_chain_goes_where_it_says_and_is_fetched_together(channel: Channel) -> None:
    for _ in range(3):
        channel.put(NULL)
    last = channel.put(NULL | COMPLETION, following=CHAIN)
    channel.slot.transfers.clear()
    channel.submit()
    assert channel.slot.transfers == [("read", CHAIN, 256), ("write", STATUS, 8)]
    assert channel.status == last | DONE
    channel.write(0x86, 2, 5)  # a ring: the first one again
    assert channel.read(0x88, 8) == CHAIN | DONE


def test_the_count_turns(channel: Channel) -> None:
    channel.put(NULL, following=CHAIN)
    channel.ioat.done = channel.ioat.DMACOUNT = 0xFFFE
    channel.write(0x86, 2, 1)
    assert channel.ioat.done == 1
    assert channel.read(0x88, 8) == CHAIN | DONE


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ({"size": 0}, 1 << 11),
        ({"size": (1 << 20) + 1}, 1 << 11),
        ({"control": XOR}, 1 << 10),
        ({"source": 1 << 40}, 1 << 8),
        ({"target": 1 << 40}, 1 << 9),
    ],
)
def test_errors_halt(channel: Channel, what: dict[str, int], error: int) -> None:
    channel.write(0x80, 2, 0x14)
    channel.write(0x03, 1, 1)
    good = channel.put()
    channel.put(**what)
    channel.put()
    channel.submit()
    assert (channel.read(0xA8, 4), channel.read(0x88, 8), channel.status) == (error, good | HALTED, good | HALTED)
    assert channel.slot.irq_line
    channel.write(0x86, 2, 4)
    assert channel.read(0x88, 8) == good | HALTED
    channel.write(0xA8, 4, error)
    assert channel.read(0xA8, 4) == 0
    channel.write(0x84, 1, 0x20)
    assert (channel.read(0x84, 1), channel.read(0x88, 8), channel.read(0x86, 2)) == (0, DONE, 0)
    channel.write(0x90, 8, CHAIN)
    channel.write(0x86, 2, 1)
    assert channel.read(0x88, 8) == CHAIN | DONE


@pytest.mark.parametrize(("count", "error"), [(0, 1 << 4), (1, 1 << 2)], ids=["chain", "next"])
def test_descriptors_out_of_reach(channel: Channel, count: int, error: int) -> None:
    channel.put(following=1 << 40)
    if count == 0:
        channel.write(0x90, 4, 0)
        channel.write(0x94, 4, 0x100)
    channel.write(0x86, 2, count + 1)
    assert channel.read(0xA8, 4) == error


def test_completion_out_of_reach(channel: Channel) -> None:
    channel.write(0x98, 8, 1 << 40)
    channel.put()
    channel.submit()
    assert (channel.read(0xA8, 4), channel.read(0x88, 1), channel.read(0x88, 8) & 7) == (1 << 12, 0, HALTED)


def test_suspended_work_waits(channel: Channel) -> None:
    channel.write(0x84, 1, 4)
    assert channel.read(0x88, 8) == SUSPENDED
    first = channel.put()
    channel.submit()
    assert channel.status == 0
    channel.write(0x84, 1, 0x10)
    assert channel.status == first | DONE


def test_a_new_chain_ends_suspension(channel: Channel) -> None:
    channel.write(0x84, 1, 4)
    channel.write(0x90, 8, CHAIN)
    channel.put()
    channel.submit()
    assert channel.status == CHAIN | DONE


def test_one_message_until_it_is_rearmed(channel: Channel) -> None:
    channel.ioat.config.write(0x52, 2, 0x8000)
    channel.write(0x200C, 4, 0)
    channel.write(0x03, 1, 1)
    for _ in range(3):
        channel.put(INT_EN | COMPLETION)
    channel.submit()
    assert channel.slot.messages == [0]
    channel.write(0x80, 2, 1)
    assert channel.slot.messages == [0, 0]
    assert channel.read(4, 4) == 1
    channel.write(0x80, 2, 1)
    assert channel.slot.messages == [0, 0]


def test_the_line_and_its_attention(channel: Channel) -> None:
    channel.put(INT_EN)
    channel.submit()
    assert (channel.slot.irq_line, channel.read(3, 1)) == (False, 2)
    channel.write(3, 1, 1)
    assert (channel.slot.irq_line, channel.read(3, 1)) == (True, 7)
    assert channel.read(4, 4) == 1
    assert (channel.slot.irq_line, channel.read(3, 1)) == (False, 1)


def test_a_function_reset(channel: Channel) -> None:
    channel.put()
    channel.submit()
    channel.ioat.reset()
    assert [channel.read(off, 8) for off in (0x88, 0x90, 0x98)] == [DONE, 0, 0]

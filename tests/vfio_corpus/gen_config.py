# SPDX-License-Identifier: GPL-2.0-only
"""Reads and writes of configuration space, at every offset and size."""

from __future__ import annotations

from corpus.choices import Call, Op

from vfio_corpus.state import State

CONFIG = 7
SIZES = {"edu": 256, "testdev": 256, "e1000e": 4096}
COMMAND, STATUS, BAR0, ROM, LINE = 0x04, 0x06, 0x10, 0x30, 0x3C
IO, MEMORY, MASTER, PARITY, SERR, INTX_OFF = 1, 2, 4, 0x40, 0x100, 0x400
# Where capabilities are, and how long they are.
CAPABILITIES = {
    "edu": ((0x40, 14),),
    "testdev": ((0x40, 16),),
    "e1000e": ((0xC8, 8), (0xD0, 14), (0xE0, 60), (0xA0, 12), (0x100, 64), (0x140, 12)),
}
WORDS = (0, 0xFFFF_FFFF, 0xFFFF_F800, 0xFFFF_F801, 0xFEA0_0000, 0x8000_0000, 0x1234_5678, 0xAAAA_5555)


def place(s: State, device: str) -> int:
    """An offset in configuration space, mostly where something is."""
    what = s.rng.randrange(100)
    if what < 40:
        return s.rng.randrange(0x40)
    if what < 75:
        start, length = s.rng.choice(CAPABILITIES[device])
        return int(start + s.rng.randrange(length))
    if what < 92:
        return s.rng.randrange(0x100)
    if what < 97:
        return s.rng.randrange(SIZES[device] + 8)
    return int(s.one(SIZES[device], SIZES[device] - 1, 0x1000, 0x1001, 0xFFFF, 1 << 20, (1 << 40) - 4))


def register(s: State, aligned: int) -> tuple[str, int, int]:
    """A device's file, and offset and size of a register; in so many of a hundred cases it is *aligned*."""
    name, device = s.target()
    at = place(s, device)
    size = s.one(1, 1, 2, 2, 4, 4, 4, 4)
    return name, at - at % size if s.chance(aligned) else at, size


def read(s: State) -> Call:
    name, at, size = register(s, 70)
    if s.chance(12):
        size = s.one(0, 3, 5, 7, 8, 16, 64, 256, 4096)
    end = [s.one("ro", "hole")] if s.chance(2) else []
    return ["pread", name, CONFIG, at, size, *end]


def read_much(s: State) -> Call:
    name, device = s.target()
    return ["pread", name, CONFIG, 64 * s.rng.randrange(SIZES[device] // 64 if s.chance(20) else 4), 64]


def write(s: State) -> Call:
    name, at, size = register(s, 75)
    if s.chance(5):
        size = s.one(0, 3, 5, 8, 16, 64)
    data = s.rng.choice(WORDS).to_bytes(4, "little") * 16 if s.chance(60) else s.rng.randbytes(64)
    end = ["hole"] if s.chance(2) else []
    return ["pwrite", name, CONFIG, at, data[:size].hex(), *end]


def command(s: State) -> Call:
    """Decoding, bus mastering and INTx as a driver switches them."""
    name, _device = s.target()
    value = IO * s.chance(85) | MEMORY * s.chance(85) | MASTER * s.chance(60) | INTX_OFF * s.chance(25)
    value |= (PARITY | SERR) * s.chance(15)
    return ["pwrite", name, CONFIG, COMMAND, value.to_bytes(2, "little").hex()]


def bar(s: State) -> Call:
    """A BAR is sized, or put elsewhere."""
    name, _device = s.target()
    at = s.one(BAR0, BAR0 + 4, BAR0 + 8, BAR0 + 12, BAR0 + 16, BAR0 + 20, ROM)
    return ["pwrite", name, CONFIG, at, s.rng.choice(WORDS).to_bytes(4, "little").hex()]


def read_head(s: State) -> Call:
    name, _device = s.target()
    return ["pread", name, CONFIG, 0, 64]


def power(s: State) -> Call:
    """D0 or D3hot: only the e1000e knows power states."""
    able = s.opened("e1000e")
    name = s.rng.choice(able) if able else s.file("device", "bound")
    return ["pwrite", name, CONFIG, 0xCC, s.one("0000", "0000", "0300", "0100", "0301", "0081", "0b00")]


OPS = [
    Op(read, "config", 20, ("target",)),
    Op(read_much, "config", 2, ("target",)),
    Op(read_head, "config", 4, ("target",)),
    Op(write, "config", 20, ("target",)),
    Op(command, "config", 6, ("target",)),
    Op(bar, "config", 6, ("target",)),
    Op(power, "config", 2, ("target",)),
]

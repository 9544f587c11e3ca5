# SPDX-License-Identifier: GPL-2.0-only
"""Whatever a driver does to a device, the device does not break: nonsense in registers, queues and rings."""

from __future__ import annotations

import random

import pytest
from nvme_host import DATA, ENTRIES, IO_SQ, PAGE, Host, Upstream

from uvfio.devices.kit import PciDevice
from uvfio.devices.registry import make

SEEDS = range(20)


def some_address(chance: random.Random) -> int:
    return chance.choice((DATA, DATA + PAGE, IO_SQ, chance.randrange(1 << 21), chance.getrandbits(64)))


@pytest.mark.parametrize("seed", SEEDS)
def test_nvme_commands(seed: int) -> None:
    chance = random.Random(seed)
    host = Host().create_queues()
    opcodes = (0, 1, 2, 4, 5, 6, 8, 9, 10, 12)
    for _ in range(300):
        queue = chance.randrange(2)
        small = chance.random() < 0.7
        words = {f"cdw{n}": chance.choice((0, 1, chance.getrandbits(3 if small else 32))) for n in range(10, 16)}
        flags = chance.choice((0, 0, 0x40, 0x80, chance.getrandbits(8)))
        prp = (some_address(chance), some_address(chance))
        if flags:
            kind = chance.choice((0x00, 0x10, 0x20, 0x30, chance.getrandbits(8)))
            prp = (prp[0], chance.choice((16, 32, 512, 4096)) | kind << 56)
        host.put(queue, chance.choice((*opcodes, chance.getrandbits(8))), chance.randrange(3), prp, flags, **words)
        host.ring(queue)
        host.take(queue)
        if host.read(0x1C) != 1:
            host = Host(host.nvme).create_queues()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("name", "top"), [("nvme", 0x1100), ("ioat", 0x100), ("e1000e", 0x6000)])
def test_registers(name: str, top: int, seed: int) -> None:
    chance = random.Random(seed)
    device: PciDevice = make(name)
    device.upstream = Upstream(bytearray(chance.randbytes(2 << 20)))
    for write in interesting(name):
        device.bar_write(0, *write)
    for _ in range(500):
        size = chance.choice((1, 2, 4, 4, 4, 8))
        off = chance.randrange(0, top, size)
        value = chance.choice((0, 1, chance.randrange(1 << 12), chance.getrandbits(64))) & (1 << 8 * size) - 1
        device.bar_write(0, off, size, value)
        answer = device.bar_read(0, off, size)
        assert 0 <= answer < 1 << 8 * size
        device.bar_write(0, *chance.choice(interesting(name)))


def interesting(name: str) -> list[tuple[int, int, int]]:
    """Writes that set something going: (offset, size, value)."""
    if name == "ioat":
        return [(0x90, 8, 0x1000), (0x98, 8, 0x800), (0x86, 2, 5), (0x84, 1, 0x20), (0x84, 1, 0x10)]
    if name == "nvme":
        queues = [(0x24, 4, ENTRIES << 16 | ENTRIES), (0x28, 8, 0x2000), (0x30, 8, 0x4000)]
        return [*queues, (0x14, 4, 0x460001), (0x1000, 4, 3)]
    rings = [(ring + off, 4, value) for ring in (0x2800, 0x3800) for off, value in ((0, 0x1000), (8, 128), (0x18, 5))]
    return [*rings, (0x100, 4, 0x8000 | 0x4A), (0x400, 4, 2), (0x2810, 4, 0), (0x3810, 4, 0)]

# SPDX-License-Identifier: GPL-2.0-only
"""What a device says of itself; resets, features and mappings."""

from __future__ import annotations

import struct

from corpus.choices import PAGE, Call, Op

from vfio_corpus.state import State

GET, SET, PROBE = 1 << 16, 1 << 17, 1 << 18
LOW_POWER = (3, 4, 5)
DMA_BUF = 11
PRIVATE, SHARED = 2, 1
BAR_SIZES = {
    "edu": {0: 1 << 20},
    "testdev": {0: 4096, 1: 256},
    "e1000e": {0: 128 << 10, 1: 128 << 10, 2: 32, 3: 16 << 10},
}


def device_info(s: State) -> Call:
    name, _device = s.target()
    return ["DEVICE_GET_INFO", name, [0, 0, 0, 0, 0], {"size": s.one(16, 20, 24, 24, 64, 15, 0)}]


def region_info(s: State) -> Call:
    name, _device = s.target()
    index = s.rng.randrange(11) if s.chance(95) else s.one(0xFFFF_FFFF, 0x8000_0000, 99)
    size = s.one(32, 32, 40, 40, 48, 64, 36, 31, 0)
    return ["GET_REGION_INFO", name, [s.one(0, 0, 15), index, s.one(0, 0, 32), 0, 0], {"size": size, "tail": "00" * 32}]


def irq_info(s: State) -> Call:
    name, _device = s.target()
    index = s.rng.randrange(6) if s.chance(95) else 0xFFFF_FFFF
    return ["GET_IRQ_INFO", name, [s.one(0, 0, 15), index, 0], {"size": s.one(16, 16, 16, 24, 15, 12)}]


def reset(s: State) -> Call:
    name, _device = s.target()
    return ["DEVICE_RESET", name, s.one(0, 0, 1)]


def hot_reset_info(s: State) -> Call:
    name, _device = s.target()
    return ["GET_PCI_HOT_RESET_INFO", name, [0, s.one(0, 9)], {"size": s.one(12, 12, 24, 64, 11), "tail": "00" * 52}]


def hot_reset(s: State) -> Call:
    name, _device = s.target()
    files = [s.file("group", "group", "device", "container") for _ in range(s.one(0, 0, 1, 1, 2, 3))]
    if s.chance(60):  # as it is owned
        files = [] if s.files.get(name) == "bound" else s.of_files("group")[:2]
    count = len(files) if s.chance(90) else s.one(0, 1, 99, 0xFFFF_FFFF)
    return ["PCI_HOT_RESET", name, [int(s.chance(4)), count], {"size": 12 + 4 * len(files), "fds": files}]


def mmap(s: State) -> Call:
    name, device = s.target()
    if s.chance(55):  # a part of a BAR, as a driver maps it
        sizes = {region: size for region, size in BAR_SIZES[device].items() if size >= PAGE}
        region = s.rng.choice(sorted(sizes))
        length = s.one(PAGE, sizes[region], max(sizes[region] // 2, PAGE))
        return ["mmap", name, region, s.one(0, sizes[region] - length), length, s.one(3, 3, 1, 0), SHARED]
    region = s.one(0, 0, 0, 1, 2, 3, 4, 6, 7, 8, 9) if s.chance(97) else 1 << 20
    length = s.one(PAGE, PAGE, 2 * PAGE, 4 * PAGE, 1 << 17, 1 << 20, (1 << 20) + PAGE)
    offset = s.one(0, 0, 0, PAGE, 2 * PAGE, 1 << 17, 1 << 20)
    flags = s.one(SHARED, SHARED, SHARED, SHARED, PRIVATE)
    return ["mmap", name, region, offset, length, s.one(3, 3, 1, 2, 0, 7), flags]


def munmap(s: State) -> Call:
    return ["munmap", s.rng.choice(s.views)] if s.views else ["pages"]


def feature(s: State) -> Call:
    name, _device = s.target()
    number = s.one(*LOW_POWER, DMA_BUF, *range(15)) if s.chance(96) else s.one(99, 0xFFFF)
    op = (
        s.one(GET, SET, SET, PROBE, PROBE | GET, PROBE | SET) if s.chance(93) else s.one(0, GET | SET, 7 << 16, 1 << 19)
    )
    if number == 4:
        return _feature(name, op | number, {"fds": [s.file("eventfd", wrong=20) if s.chance(85) else -1, 0]}, 8)
    if number == DMA_BUF:
        return dma_buf(s)
    size = s.one(0, 4, 8, 16, 24, 32)
    return _feature(name, op | number, {"tail": s.one("00", "00", "11") * size}, size)


def low_power(s: State) -> Call:
    name, _device = s.target()
    return _feature(name, SET | s.one(3, 3, 5, 5, 5), {}, 0)


def _feature(name: str, flags: int, how: dict[str, object], size: int) -> Call:
    return ["FEATURE", name, [flags], {"size": 8 + size, **how}]


def dma_buf(s: State) -> Call:
    name, device = s.target()
    region = s.one(*BAR_SIZES[device]) if s.chance(85) else s.one(4, 5, 6, 7, 9)
    ranges = [_range(s, BAR_SIZES[device].get(region, PAGE)) for _ in range(s.one(0, 1, 1, 1, 2, 2))]
    count = len(ranges) if s.chance(93) else s.one(0, 1, 3, 0xFFFF_FFFF)
    head = struct.pack("<4I", region, s.one(0, 1, 2, 0o2000000, 0o2000002, 0o4000), int(s.chance(4)), count)
    data = head + b"".join(struct.pack("<2Q", start % 2**64, length % 2**64) for start, length in ranges)
    return _feature(name, (GET if s.chance(94) else SET) | DMA_BUF, {"tail": data.hex()}, len(data))


def _range(s: State, size: int) -> tuple[int, int]:
    start, length = PAGE * s.rng.randrange(4), PAGE * s.one(1, 1, 2)
    if s.chance(70):
        return (start, length) if start + length <= size else (0, PAGE)
    return s.one((start, 0), (start + 1, length), (start, 100), (size, PAGE), (2**64 - PAGE, PAGE), (0, 2**64 - PAGE))


OPS = [
    Op(device_info, "info", 6, ("target",)),
    Op(region_info, "info", 12, ("target",)),
    Op(irq_info, "info", 6, ("target",)),
    Op(reset, "reset", 5, ("target",)),
    Op(hot_reset_info, "reset", 4, ("target",)),
    Op(hot_reset, "reset", 4, ("target",)),
    Op(mmap, "mmap", 8, ("target",)),
    Op(munmap, "mmap", 8, ("views",)),
    Op(feature, "feature", 12, ("target",)),
    Op(low_power, "feature", 4, ("target",)),
    Op(dma_buf, "feature", 4, ("target",)),
]

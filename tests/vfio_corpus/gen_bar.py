# SPDX-License-Identifier: GPL-2.0-only
"""
Reads and writes of BARs, eventfds that write to them, and the edu's DMA.

Registers of the e1000e are those that do not depend on time or on a PHY. The edu's DMA
registers are written by one call that waits for the end: its model here is done at once,
and a wrong length would end the reference's emulator.
"""

from __future__ import annotations

from corpus.choices import PAGE, Call, Op

from vfio_corpus.gen_info import BAR_SIZES
from vfio_corpus.state import State

EDU = (0x00, 0x04, 0x04, 0x20, 0x20, 0x24, 0x60, 0x60, 0x64, 0x64)
EDU_READ = (*EDU, 0x08, 0x80, 0x88, 0x90, 0x98)
BUFFER, BUFFER_SIZE = 0x4_0000, 4096
EDU_SLOW = (*range(0x08, 0x0C), *range(0x80, 0xA0))  # the factorial and DMA
ICR, ICS, IMS, IMC, IVAR = 0xC0, 0xC8, 0xD0, 0xD8, 0xE4
E1000E = (ICR, ICS, ICS, IMS, IMS, IMC)
E1000E_READ = (*E1000E, IVAR, 0x38, 0x410, 0x1000, 0x2828, 0x3840, 0x5B50)
CAUSES = (0x0, 0x1, 0x4, 0x10, 0x80, 0x84, 1 << 20, 1 << 24, 0x1F0_0000)
TESTS = ("00", "01", "02", "03", "ff")
IOEVENTFD_FLAGS = {1: 1, 2: 2, 4: 4, 8: 8}


def _edu(s: State, write: bool) -> tuple[int, int, int]:
    """Region, offset and size."""
    at = s.rng.choice(EDU if write else EDU_READ)
    if s.chance(10):
        at = s.one(0x0C, 0x28, 0x30, 0x68, 0x7C, 0x100, 0xFFFF8, 0xFFFFC, 0x02, 0x05)
    size = 4 if s.chance(75) else s.one(1, 2, 8, 3, 16)
    if write and any(each in EDU_SLOW for each in range(at, at + size)):
        size = 1
    return 0, at, size


def _testdev(s: State, write: bool) -> tuple[int, int, int]:
    region = s.one(0, 0, 1)
    at = s.one(0, 0, 1, 2, 4, 8, 12, 16, 20, 0x800, 0x801, 0x802, 0x83, 0x84, 0x85, 0xFC, 0xFFC)
    return region, at, s.one(1, 1, 1, 2, 4, 4, 8, 16)


def _e1000e(s: State, write: bool) -> tuple[int, int, int]:
    if s.chance(85) or write:
        return 0, s.rng.choice(E1000E if write else E1000E_READ), 4
    region = s.one(3, 3, 3, 2)
    return region, s.one(0, 4, 8, 0x1C, 0x50, 0x1FFC, 0x3FF0) if region == 3 else 0, s.one(1, 2, 4, 4, 8, 16)


PLACES = {"edu": _edu, "testdev": _testdev, "e1000e": _e1000e}


def read(s: State) -> Call:
    name, device = s.target()
    region, at, size = PLACES[device](s, False)
    if s.chance(4):
        region, at = s.one((region, BAR_SIZES[device].get(region, 0)), (4, 0), (5, 0), (6, 0), (8, 0), (9, 0), (200, 0))
    end = [s.one("ro", "hole")] if s.chance(1) else []
    return ["pread", name, region, at, size, *end]


def read_end(s: State) -> Call:
    """Over the end of a BAR."""
    name, device = s.target()
    region = s.one(*BAR_SIZES[device]) if device != "e1000e" else 3
    return ["pread", name, region, BAR_SIZES[device][region] - s.one(0, 1, 4, 8), s.one(1, 4, 8, 16)]


def write(s: State) -> Call:
    name, device = s.target(wrong=2)
    region, at, size = PLACES[device](s, True)
    if device == "e1000e":
        data = s.rng.choice(CAUSES).to_bytes(4, "little")
    elif device == "testdev" and at == 0:
        data = bytes.fromhex(s.one(*TESTS)).ljust(size, b"\0")
    else:
        data = s.one(s.rng.randbytes(size), b"\1" * size, b"\xfa" * size, bytes(size), b"\x80".ljust(size, b"\0"))
    end = ["hole"] if s.chance(1) else []
    return ["pwrite", name, region, at, data[:size].hex(), *end]


def ioeventfd(s: State) -> Call:
    if s.registered and s.chance(35):
        name, (flags, offset, data) = s.rng.choice(s.registered)
        return ["IOEVENTFD", name, [flags, offset, data, s.one(-1, -1, s.file("doorbell")), 0]]
    name, device = s.target(wrong=2)
    size = s.one(1, 2, 4, 4, 4, 8)
    region, at = {"edu": (0, s.one(0x60, 0x64, 0x04, 0x20)), "testdev": (0, 0x800), "e1000e": (0, s.one(ICS, IMS))}[
        device
    ]
    if size == 8 and device == "e1000e":
        size = 4
    data = s.one(1, 4, 0xFA, 0x10)
    if s.chance(15):
        region, at = s.one((3, 0), (6, 0), (1, 0), (2, 0), (7, 0), (0, 1 << 20), (0, 1 << 39), (4, 0), (3, 0x3FF0))
    flags = IOEVENTFD_FLAGS[size] if s.chance(95) else s.one(0, 3, 16, 15)
    fd = s.file("doorbell") if s.chance(92) else s.one(-1, -2, "h99", "argument")
    return ["IOEVENTFD", name, [flags, f"r{region}+{at}", data, fd, 0], {"size": s.one(32, 32, 28)}]


def signal(s: State) -> Call:
    doorbells = s.of_files("doorbell", "doorbell", "eventfd")
    return ["signal", s.rng.choice(doorbells)] if doorbells else ["eventfd", "doorbell"]


def doorbell(s: State) -> Call:
    """Not one that interrupts signal: it might be that which raises them."""
    return ["eventfd", "doorbell"]


def factorial(s: State) -> Call:
    names = s.opened("edu")
    return ["factorial", s.rng.choice(names), s.one(0, 1, 5, 12, 13, 20, 33, 34, 1000)] if names else read(s)


def edu_dma(s: State) -> Call:
    """Between the edu's buffer and an IOVA: a copy in either direction."""
    names = s.opened("edu")
    if not names:
        return read(s)
    areas = [area for each in s.areas.values() for area in each]
    iova, length = s.rng.choice(areas) if areas and s.chance(92) else (0x10_0000, PAGE)
    # One that reaches the buffer's last byte would end the reference's emulator, too.
    count = min(s.one(4, 64, 256, 1024, 4092), length)
    at = BUFFER + s.one(0, 0, 64, BUFFER_SIZE - 4 - count)
    if at + count >= BUFFER + BUFFER_SIZE:
        at = BUFFER
    iova += s.one(0, 0, max(length - count, 0))
    return ["edu_dma", s.rng.choice(names), iova, at, count, s.one(1, 3, 3, 5, 7)]


OPS = [
    Op(read, "bar", 20, ("target",)),
    Op(read_end, "bar", 2, ("target",)),
    Op(write, "bar", 22, ("target",)),
    Op(doorbell, "ioeventfd", 3, ()),
    Op(ioeventfd, "ioeventfd", 10, ("doorbell",)),
    Op(signal, "ioeventfd", 10, ("registered",)),
    Op(factorial, "bar", 3, ("target",)),
    Op(edu_dma, "dma", 6, ("target",)),
]

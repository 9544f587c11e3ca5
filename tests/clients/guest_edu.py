# SPDX-License-Identifier: GPL-2.0-only
"""Runs as root in a guest that has an edu device passed through: registers, and DMA to guest memory."""

import ctypes
import mmap
import os
import struct
import time
from pathlib import Path

PAGE = 4096
BUFFER = 0x40000


def physical(address: int) -> int:
    with open("/proc/self/pagemap", "rb") as pagemap:
        pagemap.seek(address // PAGE * 8)
        return (struct.unpack("<Q", pagemap.read(8))[0] & (1 << 55) - 1) * PAGE


edu = next(d for d in Path("/sys/bus/pci/devices").iterdir() if (d / "device").read_text() == "0x11e8\n")
(edu / "enable").write_text("1")
with open(edu / "config", "r+b", buffering=0) as config:
    config.seek(4)
    command = struct.unpack("<H", config.read(2))[0]
    config.seek(4)
    config.write(struct.pack("<H", command | 4))
bar = mmap.mmap(os.open(edu / "resource0", os.O_RDWR), 1 << 20)
base = ctypes.addressof(ctypes.c_char.from_buffer(bar))


def register(at: int) -> ctypes.c_uint32:
    return ctypes.c_uint32.from_address(base + at)


def transfer(source: int, destination: int, command: int) -> None:
    for at, value in ((0x80, source), (0x88, destination), (0x90, 64), (0x98, command)):
        ctypes.c_uint64.from_address(base + at).value = value
    while register(0x98).value & 1:
        time.sleep(0.01)


print(f"identification {register(0).value:#x}")
register(8).value = 10
while register(0x20).value & 1:
    time.sleep(0.01)
print(f"10! = {register(8).value}")
page = mmap.mmap(-1, PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
page[:64] = bytes(range(64))
where = physical(ctypes.addressof(ctypes.c_char.from_buffer(page)))
transfer(where, BUFFER, 1)
transfer(BUFFER, where + 2048, 1 | 2)
print(f"DMA out and back: {'equal' if page[2048:2112] == bytes(range(64)) else 'differs'}")

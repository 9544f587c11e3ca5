# SPDX-License-Identifier: GPL-2.0-only
"""
What a VMM does for a guest with an Intel IOMMU in scalable mode, without the guest.

Its device is behind two stages: the guest's tables, built here by hand in what the guest
believes to be memory, and the VMM's. Prints what it finds; the DMA is an edu's.

    uvfio run --iommu vtd,nesting=on -d edu -- python3 examples/nested_vtd.py
"""

import ctypes
import fcntl
import json
import mmap
import os
import socket
import struct

PAGE = 4096
MEMORY, PAGES = 0x4000_0000, 16  # the guest's physical memory
VA = 0x10_0000  # where the guest's driver lets the device write
PML4, PDPT, PD, PT, FIRST, SECOND = range(6)  # what is in which page of it
PRESENT, WRITE, USER, DIRTY = 1, 2, 4, 1 << 6
DMA_SOURCE, DMA_DESTINATION, DMA_COUNT, DMA_COMMAND, BUFFER = 0x80, 0x88, 0x90, 0x98, 0x40000


def ioctl(fd: int, request: int, fmt: str, *values: int) -> tuple[int, ...]:
    """Pass the values as a struct whose first word is its size, and return them as the kernel left them."""
    arg = bytearray(struct.pack("<" + fmt, struct.calcsize("<" + fmt), *values))
    fcntl.ioctl(fd, request, arg)
    return struct.unpack("<" + fmt, arg)


def memory(n: int) -> tuple[mmap.mmap, int]:
    area = mmap.mmap(-1, n, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return area, ctypes.addressof(ctypes.c_char.from_buffer(area))


guest, address = memory(PAGES * PAGE)
scratch, scratch_address = memory(PAGE)


def gpa(page: int) -> int:
    return MEMORY + page * PAGE


def entry(table: int, index: int, page: int) -> None:
    struct.pack_into("<Q", guest, table * PAGE + 8 * index, gpa(page) | PRESENT | WRITE | USER)


iommufd = os.open("/dev/iommu", os.O_RDWR)
device = os.open("/dev/vfio/devices/vfio0", os.O_RDWR)
dev_id = ioctl(device, 0x3B76, "IIiI", 0, iommufd, 0)[3]

hw_info = ioctl(iommufd, 0x3B8A, "4IQI4BQ", 0, dev_id, 24, scratch_address, 0, 0, 0, 0, 0, 0)
ecap = struct.unpack_from("<Q", scratch, 16)[0]
print(f"hardware: type {hw_info[5]}, nesting: {bool(ecap >> 26 & 1)}")

ioas = ioctl(iommufd, 0x3B81, "3I", 0, 0)[2]
ioctl(iommufd, 0x3B85, "4I3Q", 7, ioas, 0, address, PAGES * PAGE, MEMORY)
parent = ioctl(iommufd, 0x3B89, "8IQ2I", 1, dev_id, ioas, 0, 0, 0, 0, 0, 0, 0)[4]
entry(PML4, VA >> 39, PDPT)
entry(PDPT, VA >> 30, PD)
entry(PD, VA >> 21, PT)
entry(PT, VA >> 12 & 0x1FF, FIRST)
scratch[:24] = struct.pack("<2Q2I", 0, gpa(PML4), 48, 0)
nested = ioctl(iommufd, 0x3B89, "8IQ2I", 0, dev_id, parent, 0, 0, 1, 24, scratch_address, 0, 0)[4]
ioctl(device, 0x3B77, "3I", 0, nested)

bar_offset = ioctl(device, 0x3B6C, "4I2Q", 0, 0, 0, 0, 0)[5]
config = ioctl(device, 0x3B6C, "4I2Q", 0, 7, 0, 0, 0)[5]
os.pwrite(device, struct.pack("<H", 6), config + 4)


def write_to_guest(text: bytes) -> None:
    """The device fetches *text* from whichever page it finds at VA + 2048, and writes it to VA."""
    for page in (FIRST, SECOND):
        guest[page * PAGE + 2048 : page * PAGE + 2048 + len(text)] = text
    for source, destination, command in ((VA + 2048, BUFFER, 1), (BUFFER, VA, 3)):
        for register, value in ((DMA_SOURCE, source), (DMA_DESTINATION, destination), (DMA_COUNT, 8)):
            os.pwrite(device, struct.pack("<Q", value), bar_offset + register)
        os.pwrite(device, struct.pack("<Q", command), bar_offset + DMA_COMMAND)


def where(text: bytes) -> str:
    return ", ".join(name for name, at in (("first", FIRST), ("second", SECOND)) if guest[at * PAGE :][:8] == text)


def iotlb() -> str:
    """What the IOMMU has cached, which only uvfio can tell."""
    with socket.socket(socket.AF_UNIX) as control:
        control.connect(os.environ["UVFIO_CONTROL"])
        control.sendall(b"iotlb 0000:00:01.0\n")
        lines = json.loads(control.makefile().readline())["result"]
    return ", ".join(f"{line['page']:#x} is {line['to']:#x}" for line in lines) or "nothing"


write_to_guest(b"one     ")
print(f"the device writes to the page: {where(b'one     ')}")
print(f"its entry is marked as written: {bool(struct.unpack_from('<Q', guest, PT * PAGE + 8 * (VA >> 12))[0] & DIRTY)}")
print(f"cached: {iotlb()}")
entry(PT, VA >> 12 & 0x1FF, SECOND)
write_to_guest(b"two     ")
print(f"after the guest has changed its table: {where(b'two     ')}")
scratch[:24] = struct.pack("<2Q2I", VA, 1, 0, 0)
print(f"invalidated: {ioctl(iommufd, 0x3B8D, 'IIQ4I', nested, scratch_address, 0, 24, 1, 0)[5]} entry")
print(f"cached: {iotlb()}")
write_to_guest(b"three   ")
print(f"after that: {where(b'three   ')}")

# SPDX-License-Identifier: GPL-2.0-only
"""
What a VMM does for a guest with an SMMUv3 of its own, without the guest.

Its device is behind two stages: the guest's tables, built here by hand in what the guest
believes to be memory, and the VMM's. Prints what it finds; the DMA is an edu's.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import struct

PAGE = 4096
MEMORY, PAGES = 0x4000_0000, 16  # the guest's physical memory
VSID, ASID = 0x42, 7
VA = 0x10_0000  # where the guest's driver lets the device write
CD, L1, L2, L3, FIRST, SECOND = range(6)  # what is in which page of it
AF, TABLE, VALID = 1 << 10, 2, 1
DMA_SOURCE, DMA_DESTINATION, DMA_COUNT, DMA_COMMAND, BUFFER = 0x80, 0x88, 0x90, 0x98, 0x40000


def ioctl(fd: int, request: int, fmt: str, *values: int) -> tuple[int, ...]:
    """Pass the values as a struct whose first word is its size, and return them as the kernel left them."""
    arg = bytearray(struct.pack("<" + fmt, struct.calcsize("<" + fmt), *values))
    fcntl.ioctl(fd, request, arg)
    return struct.unpack("<" + fmt, arg)


def answer(call, *args: int) -> str:
    try:
        call(*args)
    except OSError as e:
        return errno.errorcode[e.errno]
    return "ok"


def memory(n: int) -> tuple[mmap.mmap, int]:
    area = mmap.mmap(-1, n, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return area, ctypes.addressof(ctypes.c_char.from_buffer(area))


guest, address = memory(PAGES * PAGE)
scratch, scratch_address = memory(PAGE)


def word(page: int, index: int, value: int) -> None:
    struct.pack_into("<Q", guest, page * PAGE + 8 * index, value)


def ipa(page: int) -> int:
    return MEMORY + page * PAGE


def point_to(page: int) -> None:
    """The guest's page table: VA is *page*."""
    word(L3, VA >> 12 & 0x1FF, ipa(page) | AF | TABLE | VALID)


iommufd = os.open("/dev/iommu", os.O_RDWR)
device = os.open("/dev/vfio/devices/vfio0", os.O_RDWR)
dev_id = ioctl(device, 0x3B76, "IIiI", 0, iommufd, 0)[3]


def destroy(object_id: int) -> None:
    ioctl(iommufd, 0x3B80, "II", object_id)


def invalidate(viommu: int, *commands: tuple[int, int]) -> int:
    """How many were done."""
    scratch[: 16 * len(commands)] = b"".join(struct.pack("<2Q", *command) for command in commands)
    return ioctl(iommufd, 0x3B8D, "IIQ4I", viommu, scratch_address, 1, 16, len(commands), 0)[5]


hw_info = ioctl(iommufd, 0x3B8A, "4IQI4BQ", 0, dev_id, 40, scratch_address, 0, 0, 0, 0, 0, 0)
idr0 = struct.unpack_from("<I", scratch, 8)[0]
print(f"hardware: type {hw_info[5]}, {hw_info[3]} bytes, two stages: {idr0 & 3 == 3}")

ioas = ioctl(iommufd, 0x3B81, "3I", 0, 0)[2]
ioctl(iommufd, 0x3B85, "4I3Q", 7, ioas, 0, address, PAGES * PAGE, MEMORY)
parent = ioctl(iommufd, 0x3B89, "8IQ2I", 1, dev_id, ioas, 0, 0, 0, 0, 0, 0, 0)[4]
viommu = ioctl(iommufd, 0x3B90, "8IQ", 0, 1, dev_id, parent, 0, 0, 0, 0)[5]

# T0SZ 25: three levels; AArch64, valid
word(CD, 0, ASID << 48 | 1 << 41 | 1 << 31 | 25)
word(CD, 1, ipa(L1))
word(L1, 0, ipa(L2) | TABLE | VALID)
word(L2, VA >> 21, ipa(L3) | TABLE | VALID)
point_to(FIRST)
scratch[:16] = struct.pack("<2Q", ipa(CD) | 5 << 1 | 1, 0)  # stage 1 translates
nested = ioctl(iommufd, 0x3B89, "8IQ2I", 0, dev_id, viommu, 0, 0, 2, 16, scratch_address, 0, 0)[4]


def attach(pt_id: int) -> None:
    ioctl(device, 0x3B77, "3I", 0, pt_id)


def vdevice_alloc(virt_id: int) -> int:
    return ioctl(iommufd, 0x3B91, "4IQ", viommu, dev_id, 0, virt_id)[3]


print(f"attach without a vDEVICE: {answer(attach, nested)}")
vdevice = vdevice_alloc(VSID)
print(f"a second vDEVICE: {answer(vdevice_alloc, VSID + 1)}")
print(f"attach: {answer(attach, nested)}")
print(f"destroy the vIOMMU in use: {answer(destroy, viommu)}")

_size, _flags, _index, _cap, bar_size, bar_offset = ioctl(device, 0x3B6C, "4I2Q", 0, 0, 0, 0, 0)
config = ioctl(device, 0x3B6C, "4I2Q", 0, 7, 0, 0, 0)[5]
os.pwrite(device, struct.pack("<H", 6), config + 4)


def dma(register: int, value: int) -> None:
    os.pwrite(device, struct.pack("<Q", value), bar_offset + register)


def write_to_guest(text: bytes) -> None:
    """The device fetches *text* from one of the guest's pages that is mapped, and writes it to VA."""
    guest[FIRST * PAGE + 2048 : FIRST * PAGE + 2048 + len(text)] = text
    guest[SECOND * PAGE + 2048 : SECOND * PAGE + 2048 + len(text)] = text
    for register, value in ((DMA_SOURCE, VA + 2048), (DMA_DESTINATION, BUFFER), (DMA_COUNT, 8), (DMA_COMMAND, 1)):
        dma(register, value)
    for register, value in ((DMA_SOURCE, BUFFER), (DMA_DESTINATION, VA), (DMA_COUNT, 8), (DMA_COMMAND, 3)):
        dma(register, value)


def where(text: bytes) -> str:
    return ", ".join(name for name, at in (("first", FIRST), ("second", SECOND)) if guest[at * PAGE :][:8] == text)


write_to_guest(b"one     ")
print(f"the device writes to the page: {where(b'one     ')}")
point_to(SECOND)
write_to_guest(b"two     ")
print(f"after the guest has changed its table: {where(b'two     ')}")
print(f"TLBI by address: {invalidate(viommu, (0x12 | ASID << 48, VA))} done")
write_to_guest(b"three   ")
print(f"after that: {where(b'three   ')}")
print(f"CFGI_CD of the device: {answer(invalidate, viommu, (0x05 | VSID << 32, 0))}")
print(f"CFGI_CD of another: {answer(invalidate, viommu, (0x05 | VSID + 1 << 32, 0))}")
print(f"CFGI_STE: {answer(invalidate, viommu, (0x03 | VSID << 32, 0))}")

os.close(device)
print(f"destroy the vDEVICE of a closed device: {answer(destroy, vdevice)}")
new = ioctl(iommufd, 0x3B81, "3I", 0, 0)[2]
print(f"its id is used again: {new == vdevice}")
print(f"CFGI_CD of a closed device: {answer(invalidate, viommu, (0x05 | VSID << 32, 0))}")
for name, object_id in (("nested", nested), ("vIOMMU", viommu), ("parent", parent), ("IOAS", ioas)):
    print(f"destroy the {name}: {answer(destroy, object_id)}")

# SPDX-License-Identifier: GPL-2.0-only
"""A program that uses an edu without an IOMMU: it gives the device physical addresses."""

import ctypes
import fcntl
import mmap
import os
import struct

PAGE, IOVA = 4096, 0x10_0000
DMA_SOURCE, DMA_DESTINATION, DMA_COUNT, DMA_COMMAND, BUFFER = 0x80, 0x88, 0x90, 0x98, 0x40000


def ioctl(fd: int, request: int, fmt: str, *values: int) -> tuple[int, ...]:
    """Pass the values as a struct whose first word is its size, and return them as the kernel left them."""
    arg = bytearray(struct.pack("<" + fmt, struct.calcsize("<" + fmt), *values))
    fcntl.ioctl(fd, request, arg)
    return struct.unpack("<" + fmt, arg)


print(sorted(os.listdir("/dev/vfio")), os.listdir("/dev/vfio/devices"))
print(open("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode").read().strip())
print(open("/sys/bus/pci/devices/0000:00:01.0/iommu_group/name").read().strip())
memory = mmap.mmap(-1, 2 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
iommufd = os.open("/dev/iommu", os.O_RDWR)
device = os.open("/dev/vfio/devices/noiommu-vfio0", os.O_RDWR)
dev_id = ioctl(device, 0x3B76, "IIiI", 0, iommufd, 0)[3]
ioas = ioctl(iommufd, 0x3B81, "3I", 0, 0)[2]
ioctl(iommufd, 0x3B85, "4I3Q", 7, ioas, 0, address, 2 * PAGE, IOVA)
ioctl(device, 0x3B77, "3I", 0, ioas)


def physical(iova: int) -> int:
    return ioctl(iommufd, 0x3B95, "4I3Q", 0, ioas, 0, iova, PAGE, 0)[6]


bar_offset = ioctl(device, 0x3B6C, "4I2Q", 0, 0, 0, 0, 0)[5]
config = ioctl(device, 0x3B6C, "4I2Q", 0, 7, 0, 0, 0)[5]
os.pwrite(device, struct.pack("<H", 6), config + 4)
memory[:8] = b"physical"
for source, destination, command in ((physical(IOVA), BUFFER, 1), (BUFFER, physical(IOVA + PAGE), 3)):
    for register, value in ((DMA_SOURCE, source), (DMA_DESTINATION, destination), (DMA_COUNT, 8)):
        os.pwrite(device, struct.pack("<Q", value), bar_offset + register)
    os.pwrite(device, struct.pack("<Q", command), bar_offset + DMA_COMMAND)
print(memory[PAGE : PAGE + 8].decode())
group = os.open("/dev/vfio/vfio", os.O_RDWR)
print([fcntl.ioctl(group, 0x3B65, number) for number in (1, 3, 8)])

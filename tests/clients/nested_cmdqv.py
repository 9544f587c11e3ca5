# SPDX-License-Identifier: GPL-2.0-only
"""A guest's command queue of a Tegra241 CMDQV, whose page of registers its VMM has mapped."""

import ctypes
import fcntl
import mmap
import os
import struct
import time

PAGE = 4096
MEMORY, PAGES, VSID = 0x4000_0000, 16, 0x42
CONS, PROD, CONFIG, STATUS = 0, 1, 2, 3  # words of the first queue
CMD_SYNC, ATC_INV = 0x46, 0x40


def ioctl(fd: int, request: int, fmt: str, *values: int) -> tuple[int, ...]:
    """Pass the values as a struct whose first word is its size, and return them as the kernel left them."""
    arg = bytearray(struct.pack("<" + fmt, struct.calcsize("<" + fmt), *values))
    fcntl.ioctl(fd, request, arg)
    return struct.unpack("<" + fmt, arg)


guest = mmap.mmap(-1, PAGES * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = ctypes.addressof(ctypes.c_char.from_buffer(guest))
data = ctypes.create_string_buffer(16)

iommufd = os.open("/dev/iommu", os.O_RDWR)
device = os.open("/dev/vfio/devices/vfio0", os.O_RDWR)
dev_id = ioctl(device, 0x3B76, "IIiI", 0, iommufd, 0)[3]
ioas = ioctl(iommufd, 0x3B81, "3I", 0, 0)[2]
ioctl(iommufd, 0x3B85, "4I3Q", 7, ioas, 0, address, PAGES * PAGE, MEMORY)
parent = ioctl(iommufd, 0x3B89, "8IQ2I", 1, dev_id, ioas, 0, 0, 0, 0, 0, 0, 0)[4]
viommu = ioctl(iommufd, 0x3B90, "8IQ", 0, 2, dev_id, parent, 0, 16, 0, ctypes.addressof(data))[5]
ioctl(iommufd, 0x3B91, "4IQ", viommu, dev_id, 0, VSID)
offset, length = struct.unpack("<2Q", data.raw)
print(f"a page of {length:#x} bytes to map")
page = mmap.mmap(iommufd, length, offset=offset)
registers = (ctypes.c_uint32 * 8).from_buffer(page)
queue = ioctl(iommufd, 0x3B94, "6I2Q", 0, viommu, 1, 0, 0, MEMORY, 64)[5]

guest[:32] = struct.pack("<4Q", ATC_INV | VSID << 32, 0, CMD_SYNC, 0)
registers[CONFIG] = 1
registers[PROD] = 2
# As a driver does: without a system call. The test's own time limit ends it if nothing comes.
while registers[CONS] != registers[PROD]:
    time.sleep(0)
print(f"enabled: {registers[STATUS]}, consumed: {registers[CONS]}")
ioctl(iommufd, 0x3B80, "II", queue)
print("destroyed the queue")

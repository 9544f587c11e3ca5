# SPDX-License-Identifier: GPL-2.0-only
"""Make edu read from a bus address that nothing is mapped at."""

import fcntl
import os
import struct

container = os.open("/dev/vfio/vfio", os.O_RDWR)
group = os.open("/dev/vfio/1", os.O_RDWR)
fcntl.ioctl(group, 0x3B68, struct.pack("i", container))  # VFIO_GROUP_SET_CONTAINER
fcntl.ioctl(container, 0x3B66, 3)  # VFIO_SET_IOMMU: type1 v2
device = fcntl.ioctl(group, 0x3B6A, bytearray(b"0000:00:01.0\0"))  # VFIO_GROUP_GET_DEVICE_FD


def region(index):
    info = bytearray(struct.pack("IIIIQQ", 32, 0, index, 0, 0, 0))
    fcntl.ioctl(device, 0x3B6C, info)  # VFIO_DEVICE_GET_REGION_INFO
    return struct.unpack("IIIIQQ", info)[5]


os.pwrite(device, struct.pack("<H", 6), region(7) + 4)  # COMMAND: memory and bus master
for offset, value in ((0x80, 0x100000), (0x88, 0x40000), (0x90, 4), (0x98, 1)):
    os.pwrite(device, struct.pack("<Q", value), region(0) + offset)

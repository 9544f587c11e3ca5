# SPDX-License-Identifier: GPL-2.0-only
"""
An iommufd access that is destroyed while another process unmaps, on Linux as root.

Needs CONFIG_IOMMUFD_TEST, whose calls make accesses: one process maps a page, has it
pinned by a first access, and unmaps it, again and again; another makes a second access and
destroys it. **It may crash the machine**: an access that could not be destroyed is used
after it was freed. Exit status 1 if the kernel warns.
"""

import ctypes
import fcntl
import mmap
import os
import select
import signal
import struct
import sys
import time

SECONDS = 200
PAGE = 4096
IOVA = 0x1000000
IOMMU_IOAS_ALLOC, IOMMU_IOAS_MAP, IOMMU_IOAS_UNMAP, IOMMU_TEST_CMD = 0x3B81, 0x3B85, 0x3B86, 0x3BA0
CREATE_ACCESS, ACCESS_PAGES = 5, 7
NEEDS_PIN_PAGES = 1

memory = mmap.mmap(-1, PAGE)
address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
iommufd = os.open("/dev/iommu", os.O_RDWR)


def ioctl(number, data):
    answer = bytearray(data)
    fcntl.ioctl(iommufd, number, answer)
    return answer


def test(op, object_id, body):
    return ioctl(IOMMU_TEST_CMD, (struct.pack("4I", 72, op, object_id, 0) + body).ljust(72, b"\0"))


ioas = struct.unpack("3I", ioctl(IOMMU_IOAS_ALLOC, struct.pack("3I", 12, 0, 0)))[2]


def create_access():
    """Its fd."""
    return struct.unpack_from("I", test(CREATE_ACCESS, ioas, struct.pack("2I", 0, NEEDS_PIN_PAGES)), 16)[0]


def pin_and_unmap():
    access = create_access()
    while True:
        ioctl(IOMMU_IOAS_MAP, struct.pack("4I3Q", 40, 7, ioas, 0, address, PAGE, IOVA))
        test(ACCESS_PAGES, access, struct.pack("2I3Q", 0, 0, IOVA, PAGE, 0))
        ioctl(IOMMU_IOAS_UNMAP, struct.pack("2I2Q", 24, ioas, IOVA, PAGE))


def create_and_destroy():
    while True:
        os.close(create_access())


def fork(body):
    pid = os.fork()
    if not pid:
        body()
    return pid


def warning(seconds):
    """The function that the kernel warns in; None if it has not in that time."""
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    end = time.monotonic() + seconds
    while select.select([fd], [], [], max(0, end - time.monotonic()))[0]:
        line = os.read(fd, 8192).decode(errors="replace").partition(";")[2].splitlines()[0]
        if line.startswith("WARNING:"):
            return line.partition(" at ")[2].partition("+")[0]
    return None


children = [fork(pin_and_unmap), fork(create_and_destroy)]
where = warning(SECONDS)
for child in children:
    os.kill(child, signal.SIGKILL)
print(f"WARNING in {where}()" if where else f"nothing in {SECONDS} seconds")
sys.exit(1 if where else 0)

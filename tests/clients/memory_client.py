# SPDX-License-Identifier: GPL-2.0-only
"""Memory of files and of processes behind an edu: who can be mapped, who pays, and what the device reaches."""

import ctypes
import errno
import fcntl
import glob
import mmap
import os
import struct
import time

PAGE = 4096
BDF = "0000:00:01.0"
DRIVER = f"/sys/bus/pci/devices/{BDF}/driver"


def answer(call, *args):
    try:
        call(*args)
    except OSError as e:
        return errno.errorcode[e.errno]
    return "ok"


def locked():
    """VmLck and VmPin of the process, in pages."""
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return [int(fields[name].split()[0]) * 1024 // PAGE for name in ("VmLck", "VmPin")]


def say(*words):
    print(*words, flush=True)


def address(memory):
    return ctypes.addressof(ctypes.c_char.from_buffer(memory))


def drop_ipc_lock():
    libc = ctypes.CDLL(None, use_errno=True)
    header, data = struct.pack("<Ii", 0x20080522, 0), ctypes.create_string_buffer(24)
    libc.capget(header, data)
    words = list(struct.unpack("<6I", data.raw))
    words[0] &= ~(1 << 14)
    libc.capset(header, struct.pack("<6I", *words))


if not os.path.islink(DRIVER) or not os.readlink(DRIVER).endswith("vfio-pci"):
    with open(f"/sys/bus/pci/devices/{BDF}/driver_override", "w") as override:
        override.write("vfio-pci")
    with open("/sys/bus/pci/drivers_probe", "w") as probe:
        probe.write(BDF)
device = os.open(
    "/dev/vfio/devices/" + os.path.basename(glob.glob(f"/sys/bus/pci/devices/{BDF}/vfio-dev/*")[0]), os.O_RDWR
)
iommufd = os.open("/dev/iommu", os.O_RDWR)


def map_file(fd, start, length, iova, flags=7):
    fcntl.ioctl(iommufd, 0x3B8F, struct.pack("<3Ii3Q", 40, flags, ioas, fd, start, length, iova))


def map_memory(memory, length, iova):
    fcntl.ioctl(iommufd, 0x3B85, struct.pack("<4I3Q", 40, 7, ioas, 0, address(memory), length, iova))


def unmap(iova, length):
    fcntl.ioctl(iommufd, 0x3B86, struct.pack("<2I2Q", 24, ioas, iova, length))


def change_process():
    fcntl.ioctl(iommufd, 0x3B92, struct.pack("<2I", 8, 0))


def transfer(source, to, n, command):
    for offset, value in ((0x80, source), (0x88, to), (0x90, n), (0x98, command)):
        os.pwrite(device, struct.pack("<Q", value), bar + offset)
    while struct.unpack("<Q", os.pread(device, 8, bar + 0x98))[0] & 1:
        time.sleep(0.01)


def copy(source, to, n):
    """Through the buffer of the device."""
    transfer(source, 0x40000, n, 1)
    transfer(0x40000, to, n, 3)


def forked(body):
    pid = os.fork()
    if pid == 0:
        body()
        os._exit(0)
    os.waitpid(pid, 0)


drop_ipc_lock()
fcntl.ioctl(iommufd, 0x3B87, struct.pack("<2I2HIQ", 24, 0, 0, 0, 0, 1))  # account to the process
fcntl.ioctl(device, 0x3B76, struct.pack("<IIiI", 16, 0, iommufd, 0))
request = bytearray(struct.pack("<3I", 12, 0, 0))
fcntl.ioctl(iommufd, 0x3B81, request)
ioas = struct.unpack("<3I", request)[2]
info = bytearray(struct.pack("<4I2Q", 32, 0, 0, 0, 0, 0))
fcntl.ioctl(device, 0x3B6C, info)
bar = struct.unpack("<4I2Q", info)[5]
info = bytearray(struct.pack("<4I2Q", 32, 0, 7, 0, 0, 0))
fcntl.ioctl(device, 0x3B6C, info)
os.pwrite(device, struct.pack("<H", 6), struct.unpack("<4I2Q", info)[5] + 4)

memfd = os.memfd_create("memory")
os.ftruncate(memfd, 8 * PAGE)
pipe = os.pipe()[0]
say("without a device:", answer(map_file, pipe, 0, PAGE, 0x100000), answer(map_file, memfd, 8 * PAGE, PAGE, 0x200000))
unmap(0x100000, PAGE)
unmap(0x200000, PAGE)
fcntl.ioctl(device, 0x3B77, struct.pack("<4I", 16, 0, ioas, 0))
say("with one:", answer(map_file, pipe, 0, PAGE, 0x100000), answer(map_file, memfd, 7 * PAGE, 2 * PAGE, 0x200000))
say("of /proc:", answer(map_file, os.open("/proc/version", os.O_RDONLY), 0, PAGE, 0x100000))
say("our own:", answer(map_file, iommufd, 0, PAGE, 0x100000), answer(map_file, 99, 0, PAGE, 0x100000))

map_file(memfd, 0, 8 * PAGE, 0x100000)
read_only = os.open(f"/proc/self/fd/{memfd}", os.O_RDONLY)
say("read-only:", answer(map_file, read_only, 2 * PAGE, PAGE, 0x200000), locked())
view = mmap.mmap(memfd, 8 * PAGE)
view[5 * PAGE : 5 * PAGE + 5] = b"hello"
copy(0x105000, 0x200010, 5)
say("device wrote", view[2 * PAGE + 16 : 2 * PAGE + 21])

private = mmap.mmap(-1, 4 * PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
private[:5] = b"there"
map_memory(private, 2 * PAGE, 0x300000)
say("private too:", locked(), "change:", answer(change_process))
copy(0x300000, 0x301000, 5)
say("device wrote", private[PAGE : PAGE + 5])
unmap(0x300000, 2 * PAGE)


def child():
    say("child:", locked(), "change:", answer(change_process), locked())


forked(child)
say("parent:", locked())
copy(0x105000, 0x100000, 5)
say("device wrote", view[:5])
unmap(0, 0xFFFFFFFFFFFFFFFF)
say("at last:", locked())

shared = mmap.mmap(-1, 2 * PAGE)


def map_and_leave():
    shared[:6] = b"shared"
    map_memory(shared, PAGE, 0x100000)


forked(map_and_leave)
map_memory(shared, 2 * PAGE, 0x200000)
copy(0x100000, 0x201000, 6)
say("device read what is gone:", shared[PAGE : PAGE + 6])

# SPDX-License-Identifier: GPL-2.0-only
"""
A user-space driver for QEMU's edu device, in plain Python.

It uses the standard library and Linux's VFIO and iommufd interfaces, nothing else, and
works on real hardware too. An argument names the device (0000:00:01.0); without one it
takes the first edu it finds in sysfs.

Twice, once through each of Linux's two interfaces, it opens the device, computes a
factorial in it, moves a buffer through its DMA engine and takes an interrupt. At last
somebody pulls the device out while it is in use.
"""

import ctypes
import fcntl
import mmap
import os
import select
import struct
import sys
import threading
import time
from pathlib import Path

DEVICES = Path("/sys/bus/pci/devices")
EDU = ("0x1234", "0x11e8")
PAGE = 4096

# <linux/vfio.h> and <linux/iommufd.h>
VFIO_GET_API_VERSION = 0x3B64
VFIO_CHECK_EXTENSION = 0x3B65
VFIO_SET_IOMMU = 0x3B66
VFIO_GROUP_GET_STATUS = 0x3B67
VFIO_GROUP_SET_CONTAINER = 0x3B68
VFIO_GROUP_GET_DEVICE_FD = 0x3B6A
VFIO_DEVICE_GET_INFO = 0x3B6B
VFIO_DEVICE_GET_REGION_INFO = 0x3B6C
VFIO_DEVICE_GET_IRQ_INFO = 0x3B6D
VFIO_DEVICE_SET_IRQS = 0x3B6E
VFIO_IOMMU_MAP_DMA = 0x3B71
VFIO_IOMMU_UNMAP_DMA = 0x3B72
VFIO_DEVICE_BIND_IOMMUFD = 0x3B76
VFIO_DEVICE_ATTACH_IOMMUFD_PT = 0x3B77
IOMMU_IOAS_ALLOC = 0x3B81
IOMMU_IOAS_MAP = 0x3B85
IOMMU_IOAS_UNMAP = 0x3B86

TYPE1V2 = 3
BAR0, CONFIG = 0, 7
MSI, REQUEST = 1, 4
TRIGGER_EVENTFD = 4 | 32
TRIGGER_NONE = 1 | 32

# the device's registers (QEMU's docs/specs/edu.rst)
ID, LIVENESS, FACTORIAL, STATUS = 0x00, 0x04, 0x08, 0x20
IRQ_STATUS, IRQ_RAISE, IRQ_ACK = 0x24, 0x60, 0x64
DMA_SOURCE, DMA_DESTINATION, DMA_COUNT, DMA_COMMAND = 0x80, 0x88, 0x90, 0x98
BUFFER = 0x40000
COMPUTING, RUN, FROM_DEVICE, WITH_IRQ = 1, 1, 2, 4


def say(text: str) -> None:
    print(text, flush=True)


def ioctl(fd: int, request: int, fmt: str, *values: int) -> tuple[int, ...]:
    """Pass the values as a struct whose first word is its size, and return them as the kernel left them."""
    arg = bytearray(struct.pack(fmt, struct.calcsize(fmt), *values))
    fcntl.ioctl(fd, request, arg)
    return struct.unpack(fmt, arg)[1:]


class Memory:
    """A buffer of our own whose address the device can be told."""

    def __init__(self, size: int) -> None:
        self.bytes = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.bytes))
        self.size = size


class Device:
    """An open device: registers, configuration space, interrupts."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.config = self.region(CONFIG)[1]
        size, offset = self.region(BAR0)
        self.mapping = mmap.mmap(fd, size, offset=offset)
        self.base = ctypes.addressof(ctypes.c_char.from_buffer(self.mapping))

    def region(self, index: int) -> tuple[int, int]:
        _flags, _index, _cap, size, offset = ioctl(self.fd, VFIO_DEVICE_GET_REGION_INFO, "IIIIQQ", 0, index, 0, 0, 0)
        return size, offset

    def read(self, register: int) -> int:
        return ctypes.c_uint32.from_address(self.base + register).value

    def write(self, register: int, value: int) -> None:
        ctypes.c_uint32.from_address(self.base + register).value = value

    def write64(self, register: int, value: int) -> None:
        ctypes.c_uint64.from_address(self.base + register).value = value

    def enable_bus_master(self) -> None:
        command = struct.unpack("H", os.pread(self.fd, 2, self.config + 4))[0]
        os.pwrite(self.fd, struct.pack("H", command | 4), self.config + 4)

    def interrupt_to(self, index: int, event: int) -> None:
        ioctl(self.fd, VFIO_DEVICE_SET_IRQS, "IIIIIi", TRIGGER_EVENTFD, index, 0, 1, event)

    def interrupts_off(self, index: int) -> None:
        ioctl(self.fd, VFIO_DEVICE_SET_IRQS, "IIIII", TRIGGER_NONE, index, 0, 0)

    def close(self) -> None:
        self.mapping.close()  # it keeps the device open as the fd does
        os.close(self.fd)


def find_edu() -> str:
    for device in sorted(DEVICES.iterdir()):
        ids = tuple((device / name).read_text().strip() for name in ("vendor", "device"))
        if ids == EDU:
            return device.name
    sys.exit("edu_client: no edu device (1234:11e8) on the PCI bus")


def wait_for(event: int, seconds: float) -> bool:
    return bool(select.select([event], [], [], seconds)[0])


def compute(device: Device) -> None:
    """Registers: a number goes in, its factorial comes out."""
    ident = device.read(ID)
    say(f"  identification register: {ident:#010x} (edu, version {ident >> 24}.{ident >> 16 & 0xFF})")
    device.write(LIVENESS, 0x12345678)
    say(f"  the device is alive: it inverts 0x12345678 to {device.read(LIVENESS):#010x}")
    device.write(FACTORIAL, 10)
    while device.read(STATUS) & COMPUTING:
        time.sleep(0.001)
    say(f"  the device computes: 10! = {device.read(FACTORIAL)}")


def transfer(device: Device, source: int, destination: int, count: int, flags: int) -> None:
    device.write64(DMA_SOURCE, source)
    device.write64(DMA_DESTINATION, destination)
    device.write64(DMA_COUNT, count)
    device.write(DMA_COMMAND, RUN | flags)
    while device.read(DMA_COMMAND) & RUN:
        time.sleep(0.001)


def move_a_buffer(device: Device, memory: Memory, iova: int) -> None:
    """DMA: the device reads our memory by itself, and writes it back somewhere else."""
    text = b"carried by the device's own DMA engine, through the IOMMU. " * 32
    memory.bytes[: len(text)] = text
    device.enable_bus_master()
    transfer(device, iova, BUFFER, len(text), 0)
    say(f"  the device has read {len(text)} bytes of our memory at bus address {iova:#x}")
    transfer(device, BUFFER, iova + PAGE, len(text), FROM_DEVICE)
    same = memory.bytes[PAGE : PAGE + len(text)] == text
    say(f"  and has written them to {iova + PAGE:#x}: {'the same bytes' if same else 'DIFFERENT BYTES'}")
    if not same:
        sys.exit(1)


def take_an_interrupt(device: Device, iova: int) -> None:
    """An interrupt arrives as a number that can be read from an eventfd."""
    event = os.eventfd(0, os.EFD_CLOEXEC)
    device.interrupt_to(MSI, event)
    transfer(device, iova, BUFFER, 64, WITH_IRQ)
    if not wait_for(event, 10):
        sys.exit("edu_client: the interrupt did not come")
    say(f"  interrupt: {os.eventfd_read(event)} (MSI), cause {device.read(IRQ_STATUS):#x}: a DMA transfer has ended")
    device.write(IRQ_ACK, device.read(IRQ_STATUS))
    device.interrupts_off(MSI)
    os.close(event)


def through_group_and_container(bdf: str) -> None:
    say("Through group and container, the interface since 2012:")
    group_number = (DEVICES / bdf / "iommu_group").resolve().name
    container = os.open("/dev/vfio/vfio", os.O_RDWR)
    group = os.open(f"/dev/vfio/{group_number}", os.O_RDWR)
    version = fcntl.ioctl(container, VFIO_GET_API_VERSION)
    type1 = fcntl.ioctl(container, VFIO_CHECK_EXTENSION, TYPE1V2)
    viable = ioctl(group, VFIO_GROUP_GET_STATUS, "II", 0)[0] & 1
    say(f"  {bdf} is in IOMMU group {group_number} (viable: {viable}), VFIO API version {version}, type1 v2: {type1}")
    fcntl.ioctl(group, VFIO_GROUP_SET_CONTAINER, struct.pack("i", container))
    fcntl.ioctl(container, VFIO_SET_IOMMU, TYPE1V2)
    memory, iova = Memory(2 * PAGE), 0x100000
    ioctl(container, VFIO_IOMMU_MAP_DMA, "IIQQQ", 3, memory.address, iova, memory.size)
    device = Device(fcntl.ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bytearray(bdf.encode() + b"\0")))
    use(device, memory, iova)
    device.close()
    ioctl(container, VFIO_IOMMU_UNMAP_DMA, "IIQQ", 0, iova, memory.size)
    os.close(group)
    os.close(container)


def open_through_iommufd(bdf: str) -> tuple[Device, int, int]:
    """The device, the iommufd, and the id of the address space that the device now sees."""
    node = next((DEVICES / bdf / "vfio-dev").iterdir()).name
    fd = os.open(f"/dev/vfio/devices/{node}", os.O_RDWR)
    iommufd = os.open("/dev/iommu", os.O_RDWR)
    _flags, _fd, devid = ioctl(fd, VFIO_DEVICE_BIND_IOMMUFD, "IIiI", 0, iommufd, 0)
    _flags, ioas = ioctl(iommufd, IOMMU_IOAS_ALLOC, "III", 0, 0)
    _flags, hwpt = ioctl(fd, VFIO_DEVICE_ATTACH_IOMMUFD_PT, "III", 0, ioas)
    say(f"  /dev/vfio/devices/{node} is device {devid}, sees address space {ioas} by page table {hwpt}")
    return Device(fd), iommufd, ioas


def through_cdev_and_iommufd(bdf: str) -> None:
    say("Through a device node and iommufd, the interface since 2023:")
    device, iommufd, ioas = open_through_iommufd(bdf)
    memory, iova = Memory(2 * PAGE), 0x200000
    ioctl(iommufd, IOMMU_IOAS_MAP, "IIIIQQQ", 7, ioas, 0, memory.address, memory.size, iova)
    use(device, memory, iova)
    ioctl(iommufd, IOMMU_IOAS_UNMAP, "IIQQ", ioas, iova, memory.size)
    device.close()
    os.close(iommufd)


def use(device: Device, memory: Memory, iova: int) -> None:
    compute(device)
    move_a_buffer(device, memory, iova)
    take_an_interrupt(device, iova)


def pull_out(bdf: str) -> None:
    try:
        (DEVICES / bdf / "remove").write_text("1")
    except OSError as e:
        say(f"  removing {bdf}: {e.strerror}")


def unplugged_in_use(bdf: str) -> None:
    say("Pulled out while in use:")
    device, iommufd, _ioas = open_through_iommufd(bdf)
    event = os.eventfd(0, os.EFD_CLOEXEC)
    device.interrupt_to(REQUEST, event)
    remover = threading.Thread(target=pull_out, args=(bdf,), daemon=True)
    remover.start()
    say(f"  somebody writes 1 to {DEVICES / bdf / 'remove'}")
    if not wait_for(event, 30):
        sys.exit("edu_client: nobody asked for the device")
    say(f"  the kernel asks for the device back; the removal waits for us: {remover.is_alive()}")
    say(f"  it still computes meanwhile: identification {device.read(ID):#010x}")
    device.close()
    say("  we let go")
    remover.join(30)
    say(f"  the removal is done: {not remover.is_alive()}; {bdf} is gone: {not (DEVICES / bdf).exists()}")
    os.close(iommufd)
    os.close(event)


def main() -> None:
    bdf = sys.argv[1] if len(sys.argv) > 1 else find_edu()
    driver = DEVICES / bdf / "driver"
    if not driver.exists() or driver.resolve().name != "vfio-pci":
        sys.exit(f"edu_client: {bdf} is not bound to vfio-pci")
    through_group_and_container(bdf)
    through_cdev_and_iommufd(bdf)
    unplugged_in_use(bdf)


if __name__ == "__main__":
    main()

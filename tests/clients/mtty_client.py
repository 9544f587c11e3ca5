# SPDX-License-Identifier: GPL-2.0-only
"""
Talks to the serial ports of an mtty: ``mtty_client.py cdev|group UUID``.

What is sent comes back, and each byte that comes in is an interrupt, if asked for.
"""

import ctypes
import fcntl
import os
import struct
import sys

BASE = 0x3B64
SET_CONTAINER, GET_DEVICE_FD, GET_INFO, REGION_INFO = BASE + 4, BASE + 6, BASE + 7, BASE + 8
SET_IRQS, BIND = BASE + 10, BASE + 18
SET_IOMMU, TYPE1V2 = BASE + 2, 3
SET_EVENTFD = 4 | 32
INTX, UNMASK = 0, 1 | 16
RBR = THR = 0
IER, IIR, LSR = 1, 2, 5
FCR = 2


def open_cdev(uuid):
    (name,) = os.listdir(f"/sys/bus/mdev/devices/{uuid}/vfio-dev")
    device, iommufd = os.open(f"/dev/vfio/devices/{name}", os.O_RDWR), os.open("/dev/iommu", os.O_RDWR)
    fcntl.ioctl(device, BIND, struct.pack("<IIiI", 16, 0, iommufd, 0))
    return device


def open_group(uuid):
    number = os.path.basename(os.readlink(f"/sys/bus/mdev/devices/{uuid}/iommu_group"))
    container, group = os.open("/dev/vfio/vfio", os.O_RDWR), os.open(f"/dev/vfio/{number}", os.O_RDWR)
    fcntl.ioctl(group, SET_CONTAINER, struct.pack("<i", container))
    fcntl.ioctl(container, SET_IOMMU, TYPE1V2)
    return fcntl.ioctl(group, GET_DEVICE_FD, bytearray(uuid.encode() + b"\0"))


class Port:
    """One UART of the device: registers at the offset of its BAR."""

    def __init__(self, device, index):
        self.device = device
        info = bytearray(struct.pack("<4I2Q", 32, 0, index, 0, 0, 0))
        fcntl.ioctl(device, REGION_INFO, info)
        self.size, self.offset = struct.unpack("<4I2Q", info)[4:]

    def read(self, register):
        return os.pread(self.device, 1, self.offset + register)[0]

    def write(self, register, value):
        os.pwrite(self.device, bytes([value]), self.offset + register)

    def send(self, text):
        for byte in text.encode():
            self.write(THR, byte)

    def receive(self):
        text = ""
        while self.read(LSR) & 1:
            text += chr(self.read(RBR))
        return text


def interrupts(eventfd):
    try:
        return int.from_bytes(os.read(eventfd, 8), "little")
    except BlockingIOError:
        return 0


def main(how, uuid):
    device = {"cdev": open_cdev, "group": open_group}[how](uuid)
    fcntl.ioctl(device, GET_INFO, bytearray(struct.pack("<6I", 24, 0, 0, 0, 0, 0)))
    ports = [Port(device, index) for index in range(2)]
    print(f"{how}: registers {[port.size for port in ports]}")
    eventfd = ctypes.CDLL(None).eventfd(0, os.O_NONBLOCK)
    fcntl.ioctl(device, SET_IRQS, struct.pack("<5Ii", 24, SET_EVENTFD, INTX, 0, 1, eventfd))
    ports[0].write(FCR, 7)
    ports[0].write(IER, 1)
    ports[0].send("hello")
    ports[1].send("world")
    print(f"{how}: {interrupts(eventfd)} interrupt, IIR {ports[0].read(IIR):#x}")
    print(f"{how}: {ports[0].receive()} {ports[1].receive()}, then LSR {ports[0].read(LSR):#x}")
    ports[0].send("!")
    masked = interrupts(eventfd)
    fcntl.ioctl(device, SET_IRQS, struct.pack("<5I", 20, UNMASK, INTX, 0, 1))
    ports[0].receive()
    ports[0].send("!")
    print(f"{how}: {masked} interrupts while masked, {interrupts(eventfd)} after")


main(sys.argv[1], sys.argv[2])

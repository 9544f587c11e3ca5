# SPDX-License-Identifier: GPL-2.0-only
"""
D7 from user space: a second VFIO_DEVICE_BIND_IOMMUFD, which fails, takes a device's VM away.

A plain client of /dev/kvm, /dev/iommu and /dev/vfio/devices, for Linux as root and for
``uvfio run -d edu``. Whether a VM is there is seen from outside: it holds the eventfd of
its ioeventfd until it is destroyed, and no new eventfd gets that one's id before.
"""

import ctypes
import errno
import fcntl
import os
import re
import struct
import sys
import time

BDF = "0000:00:01.0"
KVM_CREATE_VM, KVM_IOEVENTFD = 0xAE01, 0x4040AE79
KVM_CREATE_DEVICE, KVM_SET_DEVICE_ATTR = 0xC00CAEE0, 0x4018AEE1
KVM_DEV_TYPE_VFIO, KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD = 4, 1, 1
VFIO_DEVICE_BIND_IOMMUFD = 0x3B76


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def give_to_vfio():
    device = f"/sys/bus/pci/devices/{BDF}"
    if not os.path.exists(f"{device}/driver"):
        write(f"{device}/driver_override", "vfio-pci")
        write("/sys/bus/pci/drivers_probe", BDF)
    return f"/dev/vfio/devices/{os.listdir(f'{device}/vfio-dev')[0]}"


def eventfd_id(fd):
    with open(f"/proc/self/fdinfo/{fd}") as lines:
        return int(re.search(r"eventfd-id: *(\d+)", lines.read())[1])


class Vm:
    """A VM with its kvm-vfio device, and a way to see later whether it is still there."""

    def __init__(self):
        kvm = os.open("/dev/kvm", os.O_RDWR)
        self.vm = fcntl.ioctl(kvm, KVM_CREATE_VM, 0)
        os.close(kvm)
        event = os.eventfd(0)
        self.mark = eventfd_id(event)
        fcntl.ioctl(self.vm, KVM_IOEVENTFD, struct.pack("QQIiI36x", 0, 0x1000, 4, event, 0))
        os.close(event)
        made = fcntl.ioctl(self.vm, KVM_CREATE_DEVICE, struct.pack("III", KVM_DEV_TYPE_VFIO, 0, 0))
        self.kvm_vfio = struct.unpack("III", made)[1]

    def add(self, fd):
        number = ctypes.c_int32(fd)
        attr = struct.pack("IIQQ", 0, KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, ctypes.addressof(number))
        fcntl.ioctl(self.kvm_vfio, KVM_SET_DEVICE_ATTR, attr)

    def close(self):
        os.close(self.kvm_vfio)
        os.close(self.vm)

    def is_there(self):
        for _ in range(5):  # a release may come after the close that caused it, and others use eventfds, too
            time.sleep(0.2)
            many = [os.eventfd(0) for _ in range(300)]
            ids = {eventfd_id(fd) for fd in many}
            for fd in many:
                os.close(fd)
            if self.mark in ids:
                return False
        return True


def bind(cdev, iommufd):
    try:
        fcntl.ioctl(cdev, VFIO_DEVICE_BIND_IOMMUFD, struct.pack("IIiI", 16, 0, iommufd, 0))
    except OSError as e:
        return errno.errorcode[e.errno]
    return "OK"


def story(cdev_path, second, associated):
    """(result of the second bind, is the VM there while the device is open, and after its close)."""
    iommufd, vm = os.open("/dev/iommu", os.O_RDWR), Vm()
    first = os.open(cdev_path, os.O_RDWR)
    vm.add(first)
    assert bind(first, iommufd) == "OK"
    answer = "none"
    if second:
        other = os.open(cdev_path, os.O_RDWR)
        if associated:
            vm.add(other)
        answer = bind(other, iommufd)
        os.close(other)
    vm.close()
    while_open = vm.is_there()
    os.close(first)
    after = vm.is_there()
    os.close(iommufd)
    return answer, while_open, after


def main():
    cdev = give_to_vfio()
    word = {True: "there", False: "gone"}
    wrong = 0
    print("second bind        its result  VM while device open  VM when all is closed")
    for name, second, associated in (
        ("none", False, False),
        ("fd without a VM", True, False),
        ("fd with the VM", True, True),
    ):
        answer, while_open, after = story(cdev, second, associated)
        # All fds of the VM are closed: the open device keeps it, and nothing else.
        bug = (not while_open) * "   <- destroyed under the device" + after * "   <- leaked for ever"
        wrong += bool(bug)
        print(f"{name:18} {answer:11} {word[while_open]:21} {word[after]}{bug}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())

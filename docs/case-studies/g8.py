# SPDX-License-Identifier: GPL-2.0-only
"""
G8 from user space: with an iommufd, an open device does not keep its group busy.

A plain client of the group interface, for Linux as root and for ``uvfio run -d edu``.
The same steps, once with a container and once with an iommufd in its place.
"""

import errno
import fcntl
import os
import struct
import sys

BDF = "0000:00:01.0"
VFIO_SET_IOMMU, VFIO_GROUP_SET_CONTAINER, VFIO_GROUP_GET_DEVICE_FD = 0x3B66, 0x3B68, 0x3B6A
VFIO_TYPE1V2_IOMMU = 3


def write(path, text):
    with open(path, "w") as file:
        file.write(text)


def group_of_the_device():
    device = f"/sys/bus/pci/devices/{BDF}"
    if not os.path.exists(f"{device}/driver"):
        write(f"{device}/driver_override", "vfio-pci")
        write("/sys/bus/pci/drivers_probe", BDF)
    return f"/dev/vfio/{os.path.basename(os.readlink(f'{device}/iommu_group'))}"


def tried(what, call, *args):
    try:
        call(*args)
        print(f"  {what}: ok")
        return True
    except OSError as e:
        print(f"  {what}: {errno.errorcode[e.errno]}")
        return False


def get_device(group):
    return fcntl.ioctl(group, VFIO_GROUP_GET_DEVICE_FD, bytearray(BDF.encode() + b"\0"))


def reopen(path, node):
    """Open the device of the group, close the group, open it again; may it be opened?"""
    print(f"with {node}:")
    container, group = os.open(node, os.O_RDWR), os.open(path, os.O_RDWR)
    fcntl.ioctl(group, VFIO_GROUP_SET_CONTAINER, struct.pack("i", container))
    fcntl.ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1V2_IOMMU)
    device = get_device(group)
    os.close(group)
    again = []
    if tried("open the group again while its device is open", lambda: again.append(os.open(path, os.O_RDWR))):
        tried("open the device, which is open, once more", get_device, again[0])
    for fd in [*again, device, container]:
        os.close(fd)
    return bool(again)


def main():
    path = group_of_the_device()
    if reopen(path, "/dev/vfio/vfio"):
        return 2
    return 1 if reopen(path, "/dev/iommu") else 0


if __name__ == "__main__":
    sys.exit(main())

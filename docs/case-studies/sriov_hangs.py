# SPDX-License-Identifier: GPL-2.0-only
"""
Two deadlocks of Linux 7.3.4 around virtual functions; see sriov.md.

Needs root, iommufd, and two functions with SR-IOV at 0000:00:04.0 and 0000:00:05.0 that
nobody else uses, and a plain one at 0000:00:01.0. What hangs, hangs until the next boot.
"""

import ctypes
import fcntl
import os
import struct
import threading
import time

DEVICES, DRIVER = "/sys/bus/pci/devices", "/sys/bus/pci/drivers/vfio-pci"
FIRST, SECOND, OTHER = "0000:00:04.0", "0000:00:05.0", "0000:00:01.0"
VFIO_DEVICE_BIND_IOMMUFD, WITH_TOKEN = 0x3B76, 1
TOKEN = ctypes.create_string_buffer(b"sixteen bytes...", 16)


def write(path: str, text: str) -> None:
    with open(path, "w") as file:
        file.write(text)


def enable(bdf: str, number: int) -> None:
    """Bind the function to vfio-pci, with so many virtual functions."""
    write("/sys/module/vfio_pci/parameters/enable_sriov", "Y")
    write(f"{DEVICES}/{bdf}/driver_override", "vfio-pci")
    write("/sys/bus/pci/drivers_probe", bdf)
    if number:
        write(f"{DEVICES}/{bdf}/sriov_numvfs", str(number))


def opened(bdf: str, flags: int = 0) -> int:
    """The device, open: its driver waits for us."""
    (node,) = os.listdir(f"{DEVICES}/{bdf}/vfio-dev")
    fd, iommufd = os.open(f"/dev/vfio/devices/{node}", os.O_RDWR), os.open("/dev/iommu", os.O_RDWR)
    bind = struct.pack("<IIiIQ", 24, flags, iommufd, 0, ctypes.addressof(TOKEN))
    fcntl.ioctl(fd, VFIO_DEVICE_BIND_IOMMUFD, bytearray(bind))
    return fd


def opened_function(bdf: str) -> int:
    """The first virtual function of *bdf*, open."""
    owner = opened(bdf, WITH_TOKEN)  # says what the token is
    function = opened(bdf[:-1] + "1", WITH_TOKEN)
    os.close(owner)
    return function


def start(waiting: list[str], what: str, path: str, text: str, unbinds: str = "") -> None:
    """Write in a thread of its own that gets to where it waits: with the driver of *unbinds* half gone, if given."""
    waiting.append(what)

    def run() -> None:
        try:
            write(path, text)
        except OSError:
            return  # uvfio answers EIO where Linux kills the thread
        waiting.remove(what)

    threading.Thread(target=run, daemon=True).start()
    if not unbinds:
        time.sleep(1)
    while unbinds and os.path.lexists(f"{DEVICES}/{unbinds}/driver"):
        time.sleep(0.01)


def vectors_while_disabling() -> list[str]:
    waiting: list[str] = []
    enable(FIRST, 2)
    function = opened_function(FIRST)
    start(waiting, f"unbind {FIRST}", f"{DRIVER}/unbind", FIRST, FIRST)
    start(waiting, "sriov_vf_msix_count", f"{DEVICES}/{FIRST[:-1]}2/sriov_vf_msix_count", "1")
    os.close(function)  # what unbind waits for
    return waiting


def numvfs_while_removing() -> list[str]:
    waiting: list[str] = []
    enable(SECOND, 0)
    enable(OTHER, 0)
    other = opened(OTHER)
    # As long as this waits for us, nobody else can remove anything: both come in time.
    start([], f"remove {OTHER}", f"{DEVICES}/{OTHER}/remove", "1", OTHER)
    start(waiting, f"remove {SECOND}", f"{DEVICES}/{SECOND}/remove", "1")
    start(waiting, "sriov_numvfs", f"{DEVICES}/{SECOND}/sriov_numvfs", "1")
    os.close(other)
    return waiting


if __name__ == "__main__":
    for case in (vectors_while_disabling, numvfs_while_removing):
        hung = case()
        time.sleep(1)
        print(f"{case.__name__}: nothing is in use, and these still wait:", ", ".join(hung) or "none", flush=True)
    os._exit(1)

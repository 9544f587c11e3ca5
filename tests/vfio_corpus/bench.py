# SPDX-License-Identifier: GPL-2.0-only
"""
The devices that calls are made on, and the state in which each session finds them.

What a session leaves in a device outlives it: neither an edu nor a pci-testdev can be
reset, and VFIO restores the configuration space's usual registers only. So before each
session drivers are bound anew, and configuration spaces and registers become what they
were when the machine started.
"""

from __future__ import annotations

from corpus.system import PAGE, Failed, System

from vfio_corpus.wire import LAYOUTS

# Where they are: on the root bus; or two of them behind a root port, as functions of one device.
ROOT = {"edu": "0000:00:01.0", "testdev": "0000:00:02.0", "e1000e": "0000:00:03.0"}
PORT = {"edu": "0000:01:00.0", "testdev": "0000:01:00.1", "e1000e": "0000:00:03.0"}
BUS = "/sys/bus/pci"
SCRATCH = 0x10_0010_0000  # a page for calls' arguments and one of zeros, unmapped before the session begins
CONFIG = 7
PATIENCE = 500
MASTER = 0x107  # memory and ports decode, and the device is bus master
IOVA, EDU_BUFFER = 0x10_0000, 0x4_0000

# Region, offset and value of 4 bytes, in this order.
REGISTERS: dict[str, tuple[tuple[int, int, int], ...]] = {
    "edu": (
        (0, 0x20, 0),
        (0, 0x08, 34),  # 34! is 0 in 32 bits
        (0, 0x04, 0xFFFF_FFFF),
        (0, 0x64, 0xFFFF_FFFF),
        *((0, at, 0) for at in (0x80, 0x84, 0x88, 0x8C, 0x90, 0x94)),
    ),
    "testdev": ((0, 0, 0xFF), (1, 0, 0xFF)),  # no such test: none
    "e1000e": (
        (0, 0xD8, 0xFFFF_FFFF),
        (0, 0xC0, 0xFFFF_FFFF),
        (0, 0xE4, 0),
    ),
}


class Bench:
    """What stays the same from session to session: read when the first begins."""

    def __init__(self, system: System) -> None:
        self.system = system
        self.base = 0  # what is added to every region's offset
        self.addresses = PORT if PORT["edu"] in system.list_dir(f"{BUS}/devices") else ROOT
        self.pristine = {device: system.read_file(f"{self.sysfs(device)}/config") for device in self.addresses}

    def prepare(self) -> None:
        """All three devices on vfio-pci, as they were when the machine started."""
        system = self.system
        system.map_memory(SCRATCH, 2, "shared", -1)
        for device in self.addresses:
            self.unbind(device)
            self.restore_config(device)
            system.write_file(f"{self.sysfs(device)}/driver_override", b"vfio-pci")
            system.write_file(f"{BUS}/drivers_probe", self.addresses[device].encode())
            self.restore_registers(device)
        system.unmap_memory(SCRATCH, 2)

    def unbind(self, device: str) -> None:
        try:
            self.system.write_file(f"{self.sysfs(device)}/driver/unbind", self.addresses[device].encode())
        except Failed as failed:
            if str(failed) != "ENOENT":  # on no driver
                raise

    def restore_config(self, device: str) -> None:
        path, wanted = f"{self.sysfs(device)}/config", self.pristine[device]
        found = self.system.read_file(path)
        for at in range(0, len(wanted), 4):
            if found[at : at + 4] != wanted[at : at + 4]:
                self.system.write_file(path, wanted[at : at + 4], at)

    def restore_registers(self, device: str) -> None:
        system = self.system
        iommufd, cdev = system.open("/dev/iommu"), system.open(self.cdev_path(device))
        self.ioctl(cdev, "BIND_IOMMUFD", 0, iommufd, 0, 0)
        info = self.ioctl(cdev, "GET_REGION_INFO", 0, CONFIG, 0, 0, 0)
        self.base = info[-1] - (CONFIG << 40)
        if device == "edu":
            self.clear_buffer(iommufd, cdev)
        for region, offset, value in REGISTERS[device]:
            self.write(cdev, region, offset, value)
        system.close(cdev)
        system.close(iommufd)
        system.rest()

    def clear_buffer(self, iommufd: int, cdev: int) -> None:
        """The edu fetches zeros. Only a copy gives its command register another value, too."""
        system = self.system
        ioas = self.ioctl(iommufd, "IOAS_ALLOC", 0, 0)[-1]
        self.ioctl(cdev, "ATTACH_PT", 0, ioas, 0)
        self.ioctl(iommufd, "IOAS_MAP", 7, ioas, 0, SCRATCH + PAGE, PAGE, IOVA)
        self.write(cdev, CONFIG, 4, MASTER)
        for register, value in ((0x80, IOVA), (0x88, EDU_BUFFER), (0x90, PAGE - 4), (0x98, 1)):
            self.write(cdev, 0, register, value)
        for _ in range(PATIENCE):
            if not self.read(cdev, 0, 0x98) & 1:
                return
            system.rest()
        raise RuntimeError("the edu's copy must end")

    def ioctl(self, fd: int, name: str, *values: int) -> tuple[int, ...]:
        """The fields afterwards."""
        layout = LAYOUTS[name]
        self.system.poke(SCRATCH, layout.pack([*layout.head(None), *values]))
        self.system.ioctl(fd, layout.request, SCRATCH)
        return layout.unpack(self.system.peek(SCRATCH, layout.size))

    def write(self, cdev: int, region: int, offset: int, value: int) -> None:
        self.system.poke(SCRATCH, value.to_bytes(4, "little"))
        self.system.pwrite(cdev, SCRATCH, 4, self.base + (region << 40) + offset)

    def read(self, cdev: int, region: int, offset: int) -> int:
        self.system.pread(cdev, SCRATCH, 4, self.base + (region << 40) + offset)
        return int.from_bytes(self.system.peek(SCRATCH, 4), "little")

    def sysfs(self, device: str) -> str:
        return f"{BUS}/devices/{self.addresses[device]}"

    def group_path(self, device: str) -> str:
        return "/dev/vfio/" + self.system.read_link(f"{self.sysfs(device)}/iommu_group").rpartition("/")[2]

    def cdev_path(self, device: str) -> str:
        """Raises :class:`Failed` (ENOENT) when the device is not on a VFIO driver."""
        [name] = self.system.list_dir(f"{self.sysfs(device)}/vfio-dev")
        return f"/dev/vfio/devices/{name}"

# SPDX-License-Identifier: GPL-2.0-only
"""
Drivers bound and unbound, and what sysfs says; and garbage.

A driver is unbound only where nobody has the device open: else the write would wait.
"""

from __future__ import annotations

from corpus.choices import Call, Op

from vfio_corpus.state import DEVICES, State

TEXTS = ("vfio-pci", "vfio-pci\n", "", "\n", "e1000e", "none", "x" * 4094, "x" * 4096, "vfio\npci", " vfio-pci")
FILES = (
    *("driver_override", "enable", "vendor", "device", "class", "power_state", "reset_method", "resource"),
    *("subsystem_vendor", "revision", "modalias", "uevent", "msi_bus", "broken_parity_status", "ari_enabled", "reset"),
    *("remove", "rescan", "nothing", "iommu_group/type", "iommu_group/reserved_regions", "d3cold_allowed", "numa_node"),
)


def unbind(s: State) -> Call:
    idle = s.idle()
    if not idle:
        return ["driver", s.device()]
    device = s.rng.choice(idle)
    address = s.addresses[device] if s.chance(92) else s.one("", "0000:00:1f.7", s.addresses[device] + "\n", "vfio-pci")
    return s.one(["driver_write", "unbind", address], ["sysfs_write", device, "driver/unbind", address])


def bind(s: State) -> Call:
    resting = [device for device in DEVICES if device not in s.driven]
    device = s.rng.choice(resting) if resting and s.chance(85) else s.device()
    address = s.addresses[device] if s.chance(94) else s.one("", "0000:00:1f.7", "x", s.addresses[device] + "\n")
    return s.one(["driver_write", "bind", address], ["drivers_probe", address])


def override(s: State) -> Call:
    return ["sysfs_write", s.device(), "driver_override", s.rng.choice(TEXTS)]


def driver(s: State) -> Call:
    return ["driver", s.device()]


def read(s: State) -> Call:
    return ["sysfs_read", s.device(), s.rng.choice(FILES)]


def garbage(s: State) -> Call:
    """Any request on any file, with any bytes."""
    request = 0x3B64 + s.rng.randrange(24) if s.chance(85) else s.one(0x3B80, 0x3BA0, 0x3BFF, 0x3B00, 0xC0003B6B)
    size = s.one(0, 4, 8, 12, 16, 20, 24, 32, 40, 64, 96)
    head = size.to_bytes(4, "little") + s.rng.randbytes(s.one(0, 4, 12, 28, 44))
    if s.chance(50):
        head = size.to_bytes(4, "little") + bytes(s.one(0, 4, 12, 28, 44))
    return ["raw", s.file(*s.files.values()), request, "A+0" if s.chance(92) else s.one(0, 8, "R+0"), head.hex()]


OPS = [
    Op(unbind, "sysfs", 6, ("idle",)),
    Op(bind, "sysfs", 6, ()),
    Op(override, "sysfs", 4, ()),
    Op(driver, "sysfs", 4, ()),
    Op(read, "sysfs", 5, ()),
    Op(garbage, "garbage", 4, ()),
]

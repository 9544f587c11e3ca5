# SPDX-License-Identifier: GPL-2.0-only
"""
Where our device models, or the machine under them, are not QEMU's: all such differences
that calls can show, by name, with the reason and calls of which the last is answered
otherwise. The generator keeps away from them. docs/vfio-corpus.md shows the reasons.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

CONFIG = 7


def by_cdev(device: str) -> list[Any]:
    """The device is h2, bound to the iommufd h1, and bus master."""
    return [
        ["open", "iommufd"],
        ["open", "cdev", device],
        ["BIND_IOMMUFD", "h2", [0, "h1", 0, 0], {"size": 16}],
        ["pwrite", "h2", CONFIG, 4, "0700"],
    ]


# These on the root bus; the others behind a port.
DIFFERENCES: Mapping[str, tuple[str, list[Any]]] = MappingProxyType(
    {
        "e1000e_keeps_registers": (
            "QEMU 7.2's e1000e comes back from D3hot as it went, though it says that it loses its state; "
            "ours is reset, as an 82574L is",
            [
                *by_cdev("e1000e"),
                ["pwrite", "h2", 0, 0x38, "34120000"],
                ["DEVICE_RESET", "h2", 0],
                ["pread", "h2", 0, 0x38, 4],
            ],
        ),
        "e1000e_register_file": (
            "the e1000e's registers that nothing depends on are memory here; QEMU's ignores writes to addresses "
            "where an 82574L has no register",
            [
                *by_cdev("e1000e"),
                ["pwrite", "h2", 0, 0x0C, "34120000"],
                ["pread", "h2", 0, 0x0C, 4],
            ],
        ),
        "e1000e_phy": (
            "the e1000e's PHY does not answer here",
            [
                *by_cdev("e1000e"),
                ["pwrite", "h2", 0, 0x20, "00002208"],  # read register 2 of PHY 1
                ["pread", "h2", 0, 0x20, 4],
            ],
        ),
        "line_before_its_handler": (
            "QEMU's IOAPIC forgets a level that rose before Linux has told it that the line has levels; "
            "hardware looks at the line, as the stack does",
            [
                *by_cdev("edu"),
                ["eventfd"],
                ["pwrite", "h2", 0, 0x60, "01000000"],
                ["SET_IRQS", "h2", [36, 0, 0, 1], {"size": 24, "fds": ["h3"]}],
                ["count", "h3"],
            ],
        ),
    }
)
BEHIND_A_PORT: Mapping[str, tuple[str, list[Any]]] = MappingProxyType(
    {
        "edu_keeps_registers": (
            "a reset of its bus changes nothing in QEMU's edu but its configuration space; ours begins anew",
            [
                *by_cdev("edu"),
                ["open", "cdev", "testdev"],
                ["BIND_IOMMUFD", "h3", [0, "h1", 0, 0], {"size": 16}],
                ["pwrite", "h2", 0, 0x04, "34120000"],
                ["PCI_HOT_RESET", "h2", [0, 0], {"size": 12}],
                ["pread", "h2", 0, 0x04, 4],
            ],
        ),
    }
)

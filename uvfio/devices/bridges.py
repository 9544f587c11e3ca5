# SPDX-License-Identifier: GPL-2.0-only
"""
PCI Express ports and bridges, as QEMU has them: what makes buses, groups of several
devices, and slots to plug something into while the machine runs.

All differences from QEMU's: no interrupts of their own, no hot-plug controller and no
slot registers (what is plugged in is found at once), no error reporting.
"""

from __future__ import annotations

from typing import ClassVar

from uvfio.devices.config import PciConfig
from uvfio.devices.kit import PciBar, PciDevice
from uvfio.uapi.pci_regs import (
    PCI_BRIDGE_CONTROL,
    PCI_CAP_ID_SSVID,
    PCI_CFG_SPACE_EXP_SIZE,
    PCI_CLASS_PROG,
    PCI_COMMAND,
    PCI_DEVICE_ID,
    PCI_EXP_TYPE_DOWNSTREAM,
    PCI_EXP_TYPE_PCI_BRIDGE,
    PCI_EXP_TYPE_ROOT_PORT,
    PCI_EXP_TYPE_UPSTREAM,
    PCI_EXT_CAP_ID_ACS,
    PCI_HEADER_TYPE,
    PCI_HEADER_TYPE_BRIDGE,
    PCI_HEADER_TYPE_MFD,
    PCI_IO_BASE,
    PCI_MEMORY_BASE,
    PCI_PREF_BASE_UPPER32,
    PCI_PREF_LIMIT_UPPER32,
    PCI_PREF_MEMORY_BASE,
    PCI_PREF_RANGE_TYPE_64,
    PCI_PRIMARY_BUS,
    PCI_REVISION_ID,
    PCI_SECONDARY_BUS,
    PCI_SUBORDINATE_BUS,
    PCI_VENDOR_ID,
)

ACS_CAP = 0x5F  # all but egress control
ACS_ENABLED = 0x1D  # what Linux turns on where it can: SV, RR, CR, UF


class PciBridge(PciDevice):
    """What all bridges have: a header of type 1."""

    vendor = 0x1B36
    class_code = 0x060400
    config_size = PCI_CFG_SPACE_EXP_SIZE
    express_type: ClassVar[int] = PCI_EXP_TYPE_PCI_BRIDGE
    slots: ClassVar[int] = 1  # devices that the bus behind it takes
    first_slot: ClassVar[int] = 0
    acs_default: ClassVar[str] = "off"

    def __init__(self, acs: str = "") -> None:
        acs = str(acs or self.acs_default)
        if acs not in ("on", "off"):
            raise ValueError(f"acs must be on or off, not {acs!r}")
        self.acs = acs == "on"
        super().__init__()

    def number(self, primary: int, secondary: int, subordinate: int) -> None:
        """What firmware does first: say which buses it is between."""
        self.secondary = secondary
        self.config.put(PCI_PRIMARY_BUS, 1, primary)
        self.config.put(PCI_SECONDARY_BUS, 1, secondary)
        self.config.put(PCI_SUBORDINATE_BUS, 1, subordinate)

    def add_capabilities(self, config: PciConfig) -> None:
        ids = self.vendor.to_bytes(2, "little") + bytes(2)
        config.add_express(0x54, self.express_type)
        config.add_capability(PCI_CAP_ID_SSVID, 0x40, bytes(2) + ids)
        if self.acs:
            body = ACS_CAP.to_bytes(2, "little") + ACS_ENABLED.to_bytes(2, "little")
            config.add_ext_capability(PCI_EXT_CAP_ID_ACS, 0x100, 1, body, b"\0\0\xff\0")

    def header(self) -> PciConfig:
        config = PciConfig(self.config_size)
        config.put(PCI_VENDOR_ID, 2, self.vendor)
        config.put(PCI_DEVICE_ID, 2, self.device)
        config.put(PCI_COMMAND, 2, 0, 0x107)
        config.put(PCI_REVISION_ID, 1, self.revision)
        config.put(PCI_CLASS_PROG, 3, self.class_code)
        kind = PCI_HEADER_TYPE_BRIDGE | (PCI_HEADER_TYPE_MFD if self.multifunction else 0)
        config.put(PCI_HEADER_TYPE, 1, kind)
        config.put(PCI_PRIMARY_BUS, 3, 0, 0xFFFFFF)
        config.put(PCI_IO_BASE, 2, 0, 0xF0F0)
        config.put(PCI_MEMORY_BASE, 4, 0, 0xFFF0FFF0)
        config.put(PCI_PREF_MEMORY_BASE, 4, PCI_PREF_RANGE_TYPE_64 * 0x10001, 0xFFF0FFF0)
        config.put(PCI_PREF_BASE_UPPER32, 4, 0, 0xFFFFFFFF)
        config.put(PCI_PREF_LIMIT_UPPER32, 4, 0, 0xFFFFFFFF)
        config.put(PCI_BRIDGE_CONTROL, 2, 0, 0x43)
        for index, bar in enumerate(self.bars):
            if bar.size:
                config.add_bar(index, bar)
        return config


class PcieRootPort(PciBridge):
    """A PCI Express root port: one slot, a group of its own unless acs=off."""

    name = "pcie-root-port"
    device = 0x000C
    BARS = {0: PciBar(0x1000)}
    express_type = PCI_EXP_TYPE_ROOT_PORT
    options = ("acs",)
    acs_default = "on"


class X3130Upstream(PciBridge):
    """The upstream port of a PCI Express switch."""

    name = "x3130-upstream"
    vendor, device, revision = 0x104C, 0x8232, 0x02
    express_type = PCI_EXP_TYPE_UPSTREAM
    slots = 32


class Xio3130Downstream(PciBridge):
    """A downstream port of a PCI Express switch: one slot, in one group with it unless acs=on."""

    name = "xio3130-downstream"
    vendor, device, revision = 0x104C, 0x8233, 0x01
    express_type = PCI_EXP_TYPE_DOWNSTREAM
    options = ("acs",)


class PciePciBridge(PciBridge):
    """A bridge to a conventional PCI bus, whose devices cannot be told apart: one group."""

    name = "pcie-pci-bridge"
    device = 0x000E
    BARS = {0: PciBar(0x100, "mem64")}
    express_type = PCI_EXP_TYPE_PCI_BRIDGE
    slots = 32
    first_slot = 1

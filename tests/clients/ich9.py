# SPDX-License-Identifier: GPL-2.0-only
"""The three functions of slot 1f of QEMU's q35, as the reference machine has them: their identities only."""

from uvfio.devices.kit import PciDevice


class Lpc(PciDevice):
    """ICH9 LPC bridge, without the buses behind it."""

    name = "ich9-lpc"
    vendor, device, class_code = 0x8086, 0x2918, 0x060100
    multifunction = True


class Ahci(PciDevice):
    """ICH9 SATA controller."""

    name = "ich9-ahci"
    vendor, device, class_code = 0x8086, 0x2922, 0x010601
    multifunction = True


class Smbus(PciDevice):
    """ICH9 SMBus controller."""

    name = "ich9-smbus"
    vendor, device, class_code = 0x8086, 0x2930, 0x0C0500
    multifunction = True

# SPDX-License-Identifier: GPL-2.0-only
"""A device with 64 MiB of its own that it fills from host memory, or stores there, at one command."""

from __future__ import annotations

from uvfio.devices.kit import PciBar, PciDevice, Register

SIZE = 64 << 20
TO_HOST = 2


class CopyEngine(PciDevice):
    """Write the address, then the command: 1 reads host memory, 2 writes it. STATUS is 1 when all went well."""

    name = "copy-engine"
    vendor, device = 0x1AF4, 0x7777
    BARS = {0: PciBar(4096)}

    ADDRESS = Register(0x00, "rw", size=8, sizes=(8,), doc="where in the address space of the device")
    COMMAND = Register(0x08, "wo", doc="1: host to device, 2: device to host")
    STATUS = Register(0x0C, "ro", doc="1 after a copy, 0 after a blocked one")

    def __init__(self) -> None:
        super().__init__()
        self.buffer = memoryview(bytearray(b"\xa5" * SIZE))

    @COMMAND.on_write
    def copy(self, command: int) -> None:
        if command == TO_HOST:
            self.STATUS = int(self.dma_write(self.ADDRESS, self.buffer))
        else:
            self.STATUS = int(self.dma_read_into(self.ADDRESS, self.buffer))

# SPDX-License-Identifier: GPL-2.0-only
"""A device with PASIDs; the tests do its DMA."""

from uvfio.devices.kit import PciDevice


class Pasid(PciDevice):
    """A function of PCI Express that can have 256 address spaces."""

    name = "pasid"
    vendor, device = 0x1234, 0x0002
    config_size = 4096
    pasid_bits = 8
    page_requests = True
    has_reset = True

    def __init__(self) -> None:
        super().__init__()
        self.responses: list[tuple[int, int, bool]] = []

    def page_response(self, pasid: int, group: int, success: bool) -> None:
        self.responses.append((pasid, group, success))

# SPDX-License-Identifier: GPL-2.0-only
"""
QEMU's ``pci-testdev`` (``hw/misc/pci-testdev.c``): tests of plain accesses.

Writing a number to the first byte of BAR 0 (memory) or BAR 1 (ports) selects a test;
the BAR then shows its header: test, width, offset, data, how often *data* was written
to *offset*, and a name. All accesses are made byte by byte. Difference from QEMU's: a
test "with eventfd" only does not count what an eventfd would have taken.
"""

from __future__ import annotations

from dataclasses import dataclass

from uvfio.devices.kit import PciBar, PciDevice

COUNT_AT = 12


@dataclass(frozen=True)
class _Test:
    name: str
    number: int
    offset: int
    data: int
    match_data: bool
    eventfd: bool

    def header(self, count: int) -> bytes:
        fields = ((self.number, 1), (1, 1), (0, 2), (self.offset, 4), (self.data, 4), (count, 4))
        return b"".join(value.to_bytes(size, "little") for value, size in fields) + self.name.encode()

    def counts(self, value: int, access: int) -> bool:
        """Is *value*, written by an access of *access* bytes, counted?"""
        matches = not self.match_data or value == self.data
        return matches and not (self.eventfd and access == 1)  # that is taken by the eventfd


def _tests(kind: str, first: int, offset: int) -> tuple[_Test, ...]:
    return (
        _Test(f"{kind}-no-eventfd", first, offset, 0xFA, True, False),
        _Test(f"{kind}-wildcard-eventfd", first + 1, offset + 1, 0xCE, False, True),
        _Test(f"{kind}-datamatch-eventfd", first + 2, offset + 2, 0xFA, True, True),
    )


TESTS = {0: _tests("mmio", 0, 0x800), 1: _tests("portio", 3, 0x83)}


class PciTestdev(PciDevice):
    """Two BARs and no interrupt."""

    name = "pci-testdev"
    vendor, device = 0x1B36, 0x0005
    class_code = 0x00FF00
    BARS = {0: PciBar(4096), 1: PciBar(256, "io")}
    further = (
        "A number written to the first byte of a BAR selects a test, and the BAR then shows its header:",
        "test (1 byte), width (1), -, offset (4), data (4), how often data was written there (4), name.",
    )

    def __init__(self) -> None:
        super().__init__()
        self.test: _Test | None = None
        self.count = 0

    def bar_read(self, bar: int, off: int, size: int) -> int:
        if self.test is None:
            return 0
        header = self.test.header(self.count)
        return int.from_bytes(header[off : off + size], "little")

    def bar_write(self, bar: int, off: int, size: int, value: int) -> None:
        for i in range(size):
            self.write_byte(bar, off + i, value >> 8 * i & 0xFF, size)

    def write_byte(self, bar: int, off: int, value: int, access: int) -> None:
        if off == 0:
            self.count = 0
            self.test = TESTS[bar][value] if value < len(TESTS[bar]) else None
        elif self.test is not None and off == self.test.offset and self.test.counts(value, access):
            self.count += 1

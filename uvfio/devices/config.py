# SPDX-License-Identifier: GPL-2.0-only
"""
Configuration space and BARs of a function, as the hardware has them.

A bit is what was written where the write mask has a one, and stays where it has a
zero. As in QEMU, what lies between the header and the capabilities is plain memory.
All differences from real hardware: the BIST register and expansion ROMs do not exist,
and no error bit of the status register is ever set.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from uvfio.uapi.pci_regs import (
    PCI_BASE_ADDRESS_0,
    PCI_BASE_ADDRESS_MEM_PREFETCH,
    PCI_BASE_ADDRESS_MEM_TYPE_64,
    PCI_BASE_ADDRESS_SPACE_IO,
    PCI_CAP_EXP_ENDPOINT_SIZEOF_V2,
    PCI_CAP_ID_EXP,
    PCI_CAPABILITY_LIST,
    PCI_CFG_SPACE_SIZE,
    PCI_EXP_DEVCAP,
    PCI_EXP_DEVCAP_RBER,
    PCI_EXP_DEVCTL,
    PCI_EXP_DEVCTL_ERRORS,
    PCI_EXP_DEVCTL_NOSNOOP_EN,
    PCI_EXP_DEVCTL_READRQ,
    PCI_EXP_DEVCTL_READRQ_512B,
    PCI_EXP_DEVCTL_RELAX_EN,
    PCI_EXP_FLAGS,
    PCI_EXP_LNKCAP,
    PCI_EXP_LNKCAP2,
    PCI_EXP_LNKCTL2,
    PCI_EXP_LNKSTA,
    PCI_STATUS,
    PCI_STATUS_CAP_LIST,
    PCI_STD_HEADER_SIZEOF,
)

LINK_2_5GT, LINK_X1 = 1, 1 << 4  # of LNKCAP and LNKSTA


@dataclass
class PciBar:
    """
    One BAR. *kind* is ``mem32``, ``mem64`` (takes the next index too) or ``io``.

    *ram*: plain memory, which a client maps and reaches without the model; *memory*
    is what it holds. A BAR of size 0 is absent.
    """

    size: int = 0
    kind: str = "mem32"
    prefetch: bool = False
    ram: bool = False
    addr: int = 0  # where the host put it
    memory: memoryview | None = None

    @property
    def flags(self) -> int:
        """The low bits that the register always reads as."""
        if self.kind == "io":
            return PCI_BASE_ADDRESS_SPACE_IO
        wide = PCI_BASE_ADDRESS_MEM_TYPE_64 if self.kind == "mem64" else 0
        return wide | (PCI_BASE_ADDRESS_MEM_PREFETCH if self.prefetch else 0)


class PciConfig:
    """
    *size* bytes of configuration space. *written(off, size)* is called after writes
    that came from outside (:meth:`write`); :meth:`put` is the device's own side.
    """

    def __init__(self, size: int = PCI_CFG_SPACE_SIZE) -> None:
        self.size = size
        self.data = bytearray(size)
        self.mask = bytearray(PCI_STD_HEADER_SIZEOF) + b"\xff" * (size - PCI_STD_HEADER_SIZEOF)  # writable bits
        self.written: Callable[[int, int], None] = lambda _off, _size: None
        self._last_cap = PCI_CAPABILITY_LIST
        self._last_ext = 0

    def read(self, off: int, size: int) -> int:
        """*size* bytes as a little-endian number; beyond the end reads as ones."""
        return int.from_bytes(self.read_bytes(off, size), "little")

    def read_bytes(self, off: int, n: int) -> bytes:
        return bytes(self.data[off : off + n]).ljust(n, b"\xff")

    def write(self, off: int, size: int, value: int) -> None:
        """What a configuration write cycle does: only writable bits change."""
        for i in range(off, min(off + size, self.size)):
            byte = value & 0xFF
            value >>= 8
            mask = self.mask[i]
            self.data[i] = self.data[i] & ~mask | byte & mask
        self.written(off, size)

    def put(self, off: int, size: int, value: int, mask: int | None = None) -> None:
        """Set what is there, and with *mask* which bits of it are writable."""
        self.data[off : off + size] = value.to_bytes(size, "little")
        if mask is not None:
            self.mask[off : off + size] = mask.to_bytes(size, "little")

    def set_bits(self, off: int, size: int, bits: int, on: bool) -> None:
        """The device's own side of a status bit."""
        value = int.from_bytes(self.data[off : off + size], "little")
        self.put(off, size, value | bits if on else value & ~bits)

    def add_bar(self, index: int, bar: PciBar, at: int = PCI_BASE_ADDRESS_0) -> None:
        """Register *index* of the six that begin at *at*."""
        mask = -bar.size & (0xFFFFFFFF_FFFFFFFF if bar.kind == "mem64" else 0xFFFFFFFF)
        width = 8 if bar.kind == "mem64" else 4
        self.put(at + 4 * index, width, bar.flags, mask)

    def add_capability(self, cap_id: int, off: int, body: bytes, mask: bytes = b"") -> None:
        """
        Chain the capability *cap_id* at *off*; *body* follows its two header bytes,
        and *mask* says which bits of that are writable. The last added comes last.
        """
        link = self._last_cap if self._last_cap == PCI_CAPABILITY_LIST else self._last_cap + 1
        self.data[link] = off
        self._last_cap = off
        self.data[off : off + 2] = bytes((cap_id, 0))
        self.data[off + 2 : off + 2 + len(body)] = body
        self.mask[off : off + 2 + len(body)] = bytes(2) + mask.ljust(len(body), b"\0")
        self.set_bits(PCI_STATUS, 2, PCI_STATUS_CAP_LIST, True)

    def add_express(self, off: int, kind: int, devcap: int = 0) -> None:
        """
        Chain a PCI Express capability (version 2): *kind* is PCI_EXP_TYPE_..., *devcap* further
        bits of the Device Capabilities. The link is up, at 2.5 GT/s and one lane wide; as in
        QEMU that also stands in an endpoint of the root complex, which has none.
        """
        self.add_capability(PCI_CAP_ID_EXP, off, bytes(PCI_CAP_EXP_ENDPOINT_SIZEOF_V2 - 2))
        self.put(off + PCI_EXP_FLAGS, 2, kind << 4 | 2)
        self.put(off + PCI_EXP_DEVCAP, 4, PCI_EXP_DEVCAP_RBER | devcap)
        defaults = PCI_EXP_DEVCTL_RELAX_EN | PCI_EXP_DEVCTL_NOSNOOP_EN | PCI_EXP_DEVCTL_READRQ_512B
        self.put(off + PCI_EXP_DEVCTL, 2, defaults, defaults | PCI_EXP_DEVCTL_ERRORS | PCI_EXP_DEVCTL_READRQ)
        self.put(off + PCI_EXP_LNKCAP, 4, LINK_X1 | LINK_2_5GT)
        self.put(off + PCI_EXP_LNKSTA, 2, LINK_X1 | LINK_2_5GT)
        self.put(off + PCI_EXP_LNKCAP2, 4, 1 << LINK_2_5GT)
        self.put(off + PCI_EXP_LNKCTL2, 2, LINK_2_5GT)

    def add_ext_capability(self, cap_id: int, off: int, version: int, body: bytes, mask: bytes = b"") -> None:
        """The same for an extended capability; the first must be at 0x100."""
        self.put(off, 4, cap_id | version << 16)
        if self._last_ext:
            self.set_bits(self._last_ext, 4, off << 20, True)
        self._last_ext = off
        self.data[off + 4 : off + 4 + len(body)] = body
        self.mask[off : off + 4 + len(body)] = bytes(4) + mask.ljust(len(body), b"\0")

# SPDX-License-Identifier: GPL-2.0-only
"""
Registers as data: ``STATUS = Register(0x20, "rw")`` in the body of a device class.

``device.STATUS`` is the value; ``@STATUS.on_write`` decorates what a write from
outside does, and ``@STATUS.on_read`` what a read answers. Without them a register
holds what was written. ``Device.STATUS`` is the register itself, for its description.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from uvfio.devices.kit import PciDevice

Reader = TypeVar("Reader", bound=Callable[[Any], int])
Writer = TypeVar("Writer", bound=Callable[[Any, int], None])

ACCESSES = ("ro", "rw", "wo", "w1c")


class Register:
    """
    *size* bytes at *offset* of BAR *bar*. *access*: ``ro``, ``rw``, ``wo``, or ``w1c``
    (a written one clears). *mask*: the bits of ``rw`` that can be written. *bits*
    names single bits. *sizes*: the widths of access that reach it, its own by default;
    a narrower write sets the whole register. *halves*: one of 8 bytes can also be read
    and written as two of 4.
    """

    def __init__(
        self,
        offset: int,
        access: str = "rw",
        reset: int = 0,
        *,
        size: int = 4,
        bar: int = 0,
        mask: int = -1,
        bits: Mapping[str, int] | None = None,
        sizes: Sequence[int] | None = None,
        halves: bool = False,
        doc: str = "",
    ) -> None:
        if access not in ACCESSES:
            raise ValueError(f"access must be one of {', '.join(ACCESSES)}, not {access!r}")
        self.offset = offset
        self.access = access
        self.reset = reset
        self.size = size
        self.bar = bar
        self.mask = mask & ((1 << 8 * size) - 1)
        self.bits = dict(bits or {})
        self.sizes = tuple(sizes or (size,))
        self.halves = halves
        self.doc = doc
        self.name = ""
        self.reader: Callable[[Any], int] | None = None
        self.writer: Callable[[Any, int], None] | None = None

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"<register {self.name} {self.offset:#x}>"

    @overload
    def __get__(self, device: None, owner: type) -> Register: ...
    @overload
    def __get__(self, device: PciDevice, owner: type) -> int: ...
    def __get__(self, device: PciDevice | None, owner: type) -> Register | int:
        return self if device is None else device.values[self.name]

    def __set__(self, device: PciDevice, value: int) -> None:
        device.values[self.name] = value & ((1 << 8 * self.size) - 1)

    def on_read(self, reader: Reader) -> Reader:
        """Decorate a method that answers reads: ``def f(self) -> int``."""
        self.reader = reader
        return reader

    def on_write(self, writer: Writer) -> Writer:
        """Decorate a method that does writes: ``def f(self, value)``. It stores what is to stay."""
        self.writer = writer
        return writer

    def bus_read(self, device: PciDevice) -> int:
        """A read from outside."""
        if self.reader is not None:
            return self.reader(device)
        return device.values[self.name] if self.access != "wo" else device.nothing(self.size)

    def bus_write(self, device: PciDevice, value: int) -> None:
        """A write from outside."""
        if self.access == "ro":
            return
        if self.writer is not None:
            self.writer(device, value)
        elif self.access == "w1c":
            self.__set__(device, device.values[self.name] & ~value)
        else:
            self.__set__(device, device.values[self.name] & ~self.mask | value & self.mask)

    def half_read(self, device: PciDevice, high: bool) -> int:
        return self.bus_read(device) >> (32 if high else 0) & 0xFFFF_FFFF

    def half_write(self, device: PciDevice, high: bool, value: int) -> None:
        old = device.values[self.name]
        self.bus_write(device, value << 32 | old & 0xFFFF_FFFF if high else old >> 32 << 32 | value)

# SPDX-License-Identifier: GPL-2.0-only
"""
Where BARs and the windows of bridges are. What firmware does before Linux runs, and
``drivers/pci/setup-bus.c`` for what is plugged in later.

Addresses are taken first fit from what the parent decodes, the largest first, so that
an address is free again when its device has gone. The root bus starts where QEMU's q35
puts the BARs of a machine without bridges. A bridge decodes at least 2 MiB of memory
and 4 KiB of ports, for what is plugged in behind it while the machine runs. Difference
from real hardware: memory that may be prefetched has no window of its own below 4 GiB.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from errno import ENOSPC
from typing import Any

from uvfio.linux.base.pci_dev import Bar, PciModel, pci_find_capability
from uvfio.runtime.errors import Errno
from uvfio.uapi.pci_regs import (
    PCI_BASE_ADDRESS_0,
    PCI_CAP_ID_EXP,
    PCI_COMMAND,
    PCI_COMMAND_IO,
    PCI_COMMAND_MASTER,
    PCI_COMMAND_MEMORY,
    PCI_COMMAND_SERR,
    PCI_EXP_FLAGS,
    PCI_EXP_FLAGS_TYPE,
    PCI_EXP_TYPE_RC_END,
    PCI_INTERRUPT_LINE,
    PCI_INTERRUPT_PIN,
    PCI_IO_BASE,
    PCI_IO_BASE_UPPER16,
    PCI_MEMORY_BASE,
    PCI_PREF_BASE_UPPER32,
    PCI_PREF_LIMIT_UPPER32,
    PCI_PREF_MEMORY_BASE,
    PCI_SRIOV_BAR,
)

Range = tuple[int, int]  # first and last
Hardware = Sequence[tuple[PciModel, int]]  # a function and the number of its bus

SMBUS_PORTS = 64  # what the chipset's SMBus takes of the ports, before smaller BARs
PCI_IOV_RESOURCES = 7
LINES = (10, 10, 11, 11)  # by slot and pin, as SeaBIOS wires them
ROOT: Mapping[str, Sequence[Range]] = {
    "mem32": ((0xFEA00000, 0xFEBFFFFF), (0xC0000000, 0xFE9FFFFF)),
    "mem64": ((0x8_00000000, 0xF_FFFFFFFF),),
    "io": ((0xC000, 0xFFFF), (0x1000, 0xBFFF)),
}
GRANULE = {"mem32": 1 << 20, "mem64": 1 << 20, "io": 1 << 12}  # of a bridge's windows
SPARE = {"mem32": 2 << 20, "mem64": 0, "io": 1 << 12}


class PciDecoder:
    """What a bus decodes, by kind of address, and who has taken what of it."""

    def __init__(self, windows: Mapping[str, Sequence[Range]]) -> None:
        self.windows = windows
        self.taken: dict[str, list[tuple[int, int, Any]]] = {kind: [] for kind in GRANULE}

    def take(self, owner: Any, kind: str, size: int, align: int) -> int:
        """The lowest address that is free and suits. Errno ENOSPC."""
        for first, last in self.windows[kind]:
            at = -(-first // align) * align
            for low, high, _owner in sorted(self.taken[kind], key=lambda each: each[0]):
                if low < at + size and at <= high:
                    at = -(-(high + 1) // align) * align
            if at + size - 1 <= last:
                self.taken[kind].append((at, at + size - 1, owner))
                return at
        raise Errno(ENOSPC, f"no {size:#x} bytes of {kind} are left on the bus")

    def release(self, owner: Any) -> None:
        for kind, ranges in self.taken.items():
            self.taken[kind] = [each for each in ranges if each[2] is not owner]


def assign_resources(bus: int, decoders: dict[int, PciDecoder], new: Hardware) -> None:
    """
    Place the functions of *new* that are on *bus*, and then what is behind them. There
    is a decoder for each bus with something on it. Errno ENOSPC.
    """
    decoder = decoders[bus]
    here = [model for model, number in new if number == bus]
    wanted = [
        (bar.size * count, _space(bar, bus), bar.size, model, index)
        for model in here
        for index, bar, count in _bars(model)
        if bar.size
    ]
    for model in here:
        if model.secondary:
            needs = _needs(model.secondary, new)
            wanted += [(size, kind, GRANULE[kind], model, -1) for kind, size in needs.items() if size]
    # The functions of the bus itself are where they would be without bridges.
    for size, kind, align, model, index in sorted(wanted, key=lambda each: (each[4] < 0, -each[0])):
        _reserve_smbus(decoder, bus, kind, size)
        at = decoder.take(model, kind, size, align)
        if index >= 0:
            _place_bar(model, index, at)
        else:
            model.windows[kind] = (at, at + size - 1)
    for model in here:
        if bus:
            for function in (model, *_virtual(model)):
                _leave_root_complex(function)
        if model.secondary:
            _program_windows(model)
            windows = {kind: [model.windows[kind]] if kind in model.windows else [] for kind in GRANULE}
            decoders[model.secondary] = PciDecoder(windows)
            assign_resources(model.secondary, decoders, new)
        decode = PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_SERR
        # A bridge passes on the DMA of those behind it.
        model.config.write(PCI_COMMAND, 2, decode | PCI_COMMAND_MASTER if model.secondary else decode)


def _bars(model: PciModel) -> list[tuple[int, Bar, int]]:
    """As resources: number, BAR, and for how many functions it is. Those of virtual functions come after the ROM."""
    bars = [(index, bar, 1) for index, bar in enumerate(model.bars)]
    count = len(_virtual(model))
    if count:
        bars += [(PCI_IOV_RESOURCES + index, bar, count) for index, bar in enumerate(model.sriov.bars)]
    return bars


def _virtual(model: PciModel) -> Sequence[PciModel]:
    functions: Sequence[PciModel] = model.sriov.functions if model.sriov is not None else ()
    return functions


def _place_bar(model: PciModel, index: int, at: int) -> None:
    bars, registers = model.bars, PCI_BASE_ADDRESS_0
    if index >= PCI_IOV_RESOURCES:
        index -= PCI_IOV_RESOURCES
        bars, registers = model.sriov.bars, model.sriov.at + PCI_SRIOV_BAR
    bars[index].addr = at
    model.config.write(registers + 4 * index, 8 if bars[index].kind == "mem64" else 4, at)


def _leave_root_complex(model: PciModel) -> None:
    """Behind a port, what calls itself integrated in the root complex is an endpoint."""
    express = pci_find_capability(model, PCI_CAP_ID_EXP)
    if express and model.config.read(express + PCI_EXP_FLAGS, 2) & PCI_EXP_FLAGS_TYPE == PCI_EXP_TYPE_RC_END << 4:
        model.config.set_bits(express + PCI_EXP_FLAGS, 2, PCI_EXP_FLAGS_TYPE, False)


def _reserve_smbus(decoder: PciDecoder, bus: int, kind: str, size: int) -> None:
    is_next = not bus and kind == "io" and size < SMBUS_PORTS
    if is_next and not any(owner == "smbus" for _low, _high, owner in decoder.taken["io"]):
        decoder.take("smbus", "io", SMBUS_PORTS, SMBUS_PORTS)


def _space(bar: Any, bus: int) -> str:
    """Behind a bridge only prefetchable memory can be above 4 GiB."""
    return "mem32" if bus and bar.kind == "mem64" and not bar.prefetch else str(bar.kind)


def _needs(bus: int, new: Hardware) -> dict[str, int]:
    """How much a bridge in front of *bus* must decode."""
    needs = dict.fromkeys(GRANULE, 0)
    for model, number in new:
        if number != bus:
            continue
        for _index, bar, functions in _bars(model):
            needs[_space(bar, bus)] += bar.size * functions
        for kind, size in _needs(model.secondary, new).items() if model.secondary else ():
            needs[kind] += size
    return {kind: -(-max(size, SPARE[kind]) // GRANULE[kind]) * GRANULE[kind] for kind, size in needs.items()}


def _program_windows(model: PciModel) -> None:
    config, windows = model.config, model.windows
    io_first, io_last = windows["io"]
    config.write(PCI_IO_BASE, 2, io_first >> 8 & 0xF0 | io_last & 0xF000)
    config.write(PCI_IO_BASE_UPPER16, 4, 0)
    first, last = windows["mem32"]
    config.write(PCI_MEMORY_BASE, 4, first >> 16 & 0xFFF0 | last & 0xFFF00000)
    first, last = windows.get("mem64", (0x100000, 0))  # a first above the last: none
    config.write(PCI_PREF_MEMORY_BASE, 4, first >> 16 & 0xFFF0 | last & 0xFFF00000)
    config.write(PCI_PREF_BASE_UPPER32, 4, first >> 32)
    config.write(PCI_PREF_LIMIT_UPPER32, 4, last >> 32)


def wire_interrupt(model: PciModel, slots: Sequence[int]) -> None:
    """
    The line that INTA of a function arrives at; *slots* are its own and those of the bridges
    on its way to the root bus, each of which passes its slots' pins on in turn.
    """
    pin = model.config.read(PCI_INTERRUPT_PIN, 1)
    if pin:
        model.config.write(PCI_INTERRUPT_LINE, 1, LINES[(sum(slots) + pin - 1) & 3])

# SPDX-License-Identifier: GPL-2.0-only
"""
Where the devices of a machine sit: from what a user writes to addresses.

A device is put on the root bus, or on the *bus* behind a bridge, which is named by its
``id`` or its address. Firmware numbers buses depth first, in the order of slots; so do
we, and bridges that come later get the next numbers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from uvfio.devices.bridges import PciBridge
from uvfio.devices.kit import PciDevice
from uvfio.devices.registry import make
from uvfio.devices.sriov import OFFSET, STRIDE

DEFAULT_DRIVER = "vfio-pci"
SLOTS = 32
MAX_BUS = 255

_FULL = re.compile(r"0000:([0-9a-f]{2}):([01][0-9a-f])\.([0-7])")
_SHORT = re.compile(r"([01][0-9a-f])\.([0-7])")


@dataclass(frozen=True)
class Plugged:
    """A device of the topology: a model, where it sits, who drives it."""

    model: str
    bdf: str | None = None  # None: the next free slot of its bus
    driver: str = DEFAULT_DRIVER  # "none" leaves it unbound
    options: Mapping[str, Any] = field(default_factory=dict)
    bus: str | None = None  # the id or the address of the bridge that it is behind
    id: str | None = None  # of a bridge: what others call it


def parse_device(text: str) -> Plugged:
    """
    ``MODEL[@BDF][,key=value...]``; ``driver=`` names who drives it, ``id=`` names a bridge
    and ``bus=`` the one that it is behind; the rest is the model's own. ValueError.

    >>> parse_device("edu@0000:00:05.0,driver=none").driver
    'none'
    """
    head, *settings = text.split(",")
    model, at, address = head.partition("@")
    options: dict[str, Any] = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not key or not equals:
            raise ValueError(f"-d {text}: an option must be key=value, not {setting!r}")
        options[key] = value
    return plugged(f"-d {text}", model, address if at else None, options)


def plugged(where: str, model: str, address: Any, options: dict[str, Any]) -> Plugged:
    """From what a user wrote at *where*. ValueError."""
    if address is not None and not (
        isinstance(address, str) and (_FULL.fullmatch(address) or _SHORT.fullmatch(address))
    ):
        raise ValueError(f"{where}: the address must look like 0000:00:01.0, or 01.0, not {address!r}")
    driver = options.pop("driver", DEFAULT_DRIVER)
    bus, name = (options.pop(key, None) for key in ("bus", "id"))
    return Plugged(model, address, str(driver), options, bus, name)


def place(
    devices: Sequence[Plugged], hardware: Mapping[str, Any], bridges: Mapping[str, str]
) -> tuple[list[tuple[Plugged, PciDevice, str]], dict[str, str]]:
    """
    The model and the address of each of *devices*, parents first, and the addresses of all
    bridges by id. *hardware* is what is plugged in already, by address, *bridges* which of
    it has an id. ValueError for what cannot be.
    """
    placing = _Placing(devices, hardware, bridges)
    placing.fill(0, None, "")
    for bdf, model in hardware.items():
        if isinstance(model, PciBridge):
            placing.fill(model.secondary, model, bdf)
    placing.check_all_placed()
    return placing.done, placing.bridges


class _Placing:
    """One call of :func:`place`."""

    def __init__(self, devices: Sequence[Plugged], hardware: Mapping[str, Any], bridges: Mapping[str, str]) -> None:
        self.waiting = list(devices)
        self.bridges = dict(bridges)
        self.taken = {*hardware, *(name for bdf, model in hardware.items() for name in virtual_addresses(model, bdf))}
        self.done: list[tuple[Plugged, PciDevice, str]] = []
        self.last_bus = max([0, *(model.secondary for model in hardware.values())])

    def fill(self, number: int, bridge: PciBridge | None, at: str) -> None:
        """Put those on bus *number*, behind *bridge* at *at*, that belong there, and then what is behind them."""
        here = [each for each in self.waiting if self._leads_to(each.bus) == at]
        addresses = [self._address(each, number, bridge) for each in here]
        for plugged, bdf in sorted(zip(here, addresses, strict=True), key=lambda pair: pair[1]):
            self.waiting.remove(plugged)
            model = make(plugged.model, **plugged.options)
            self.done.append((plugged, model, bdf))
            self._take_virtual(model, bdf)
            if isinstance(model, PciBridge):
                if plugged.id is not None:
                    self._name(plugged.id, bdf)
                self._number(model, number)
                self.fill(model.secondary, model, bdf)
                model.number(number, model.secondary, self.last_bus)

    def _leads_to(self, bus: str | None) -> str:
        """The address of the bridge that *bus* names."""
        return "" if bus is None else self.bridges.get(bus, bus)

    def check_all_placed(self) -> None:
        for plugged in self.waiting:
            known = ", ".join(sorted(self.bridges)) or "none has an id"
            raise ValueError(f"the bus must be the id or the address of a bridge ({known}), not {plugged.bus!r}")

    def _number(self, bridge: PciBridge, primary: int) -> None:
        if self.last_bus == MAX_BUS:
            raise ValueError(f"there must be at most {MAX_BUS} bridges")
        self.last_bus += 1
        bridge.number(primary, self.last_bus, self.last_bus)

    def _take_virtual(self, model: PciDevice, bdf: str) -> None:
        """Keep others from where virtual functions will be."""
        wanted = virtual_addresses(model, bdf)
        if self.taken & set(wanted):
            raise ValueError(f"{wanted[0]} to {wanted[-1]} must be free: they are virtual functions of {bdf}")
        self.taken |= set(wanted)

    def _name(self, name: str, bdf: str) -> None:
        if name in self.bridges:
            raise ValueError(f"an id must be given once, and {name!r} is that of {self.bridges[name]}")
        self.bridges[name] = bdf

    def _address(self, plugged: Plugged, number: int, bridge: PciBridge | None) -> str:
        first = 1 if bridge is None else bridge.first_slot
        end = SLOTS if bridge is None else bridge.slots
        bdf = self._free(number, first, end) if plugged.bdf is None else _on_bus(plugged.bdf, number)
        if bdf in self.taken:
            raise ValueError(f"the address must be free, and {bdf} is taken")
        slot = int(bdf[8:10], 16)
        if bridge is not None and not bridge.first_slot <= slot < end:
            raise ValueError(f"a slot behind {bridge.name} must be {first:02x} to {end - 1:02x}, not {slot:02x}")
        self.taken.add(bdf)
        return bdf

    def _free(self, number: int, first: int, end: int) -> str:
        for slot in range(first, end):
            bdf = f"0000:{number:02x}:{slot:02x}.0"
            if bdf not in self.taken:
                return bdf
        where = "its root bus" if not number else f"bus {number:02x}"
        raise ValueError(f"the machine must have at most {end - first} devices on {where}")


def virtual_addresses(model: PciDevice, bdf: str) -> list[str]:
    """Of the virtual functions of *model*, if it has such."""
    functions = model.sriov.functions if model.sriov is not None else ()
    devfn = int(bdf[8:10], 16) << 3 | int(bdf[-1])
    after = [devfn + OFFSET + STRIDE * number for number in range(len(functions))]
    return [f"{bdf[:8]}{each >> 3:02x}.{each & 7}" for each in after]


def _on_bus(address: str, number: int) -> str:
    """The full address of ``01.0`` or ``0000:00:01.0``. ValueError when it is none on bus *number*."""
    short = _SHORT.fullmatch(address)
    full = _FULL.fullmatch(address)
    if short is None and full is None:
        raise ValueError(f"the address must look like 0000:00:01.0, or 01.0, not {address!r}")
    if full is not None and int(full[1], 16) != number:
        raise ValueError(f"the address must be on bus {number:02x}, not {address}")
    return address if full is not None else f"0000:{number:02x}:{address}"

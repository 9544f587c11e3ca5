# SPDX-License-Identifier: GPL-2.0-only
"""
A PCI function as the kernel knows it. Mirrors ``struct pci_dev`` and
``drivers/pci/access.c``, ``pci.c`` (capabilities, enable, DMA mastering).

The hardware is a *model* (``uvfio.devices``): whatever has the shape of
:class:`PciModel`. Differences from Linux: accesses never fail; there is no power
management beyond the bits in configuration space.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from uvfio.linux.base.pci_bus import PciBus
from uvfio.linux.base.private import Device
from uvfio.linux.kernel.printk import printk
from uvfio.linux.kernel.process import PinnedPages
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kstruct
from uvfio.uapi.pci_regs import (
    PCI_CAP_ID_EXP,
    PCI_CAP_ID_MSI,
    PCI_CAP_ID_MSIX,
    PCI_CAP_ID_PM,
    PCI_CAP_ID_SSVID,
    PCI_CAPABILITY_LIST,
    PCI_CFG_SPACE_EXP_SIZE,
    PCI_CFG_SPACE_SIZE,
    PCI_CLASS_PROG,
    PCI_COMMAND,
    PCI_COMMAND_MASTER,
    PCI_DEVICE_ID,
    PCI_EXP_FLAGS,
    PCI_EXP_FLAGS_TYPE,
    PCI_HEADER_TYPE,
    PCI_HEADER_TYPE_BRIDGE,
    PCI_HEADER_TYPE_MFD,
    PCI_PM_CAP_D1,
    PCI_PM_CAP_D2,
    PCI_PM_CTRL,
    PCI_PM_CTRL_STATE_MASK,
    PCI_PM_PMC,
    PCI_REVISION_ID,
    PCI_SSVID_DEVICE_ID,
    PCI_SSVID_VENDOR_ID,
    PCI_STATUS,
    PCI_STATUS_CAP_LIST,
    PCI_SUBSYSTEM_ID,
    PCI_SUBSYSTEM_VENDOR_ID,
    PCI_VENDOR_ID,
)

PCI_D0, PCI_D3HOT = 0, 3


class DmaFault(Exception):
    """The device may not reach *iova*. The access had no effect from there on."""

    def __init__(self, iova: int) -> None:
        super().__init__(iova)
        self.iova = iova

    def __str__(self) -> str:
        return f"DMA fault at {self.iova:#x}"


class Config(Protocol):
    """Configuration space of a function."""

    size: int

    def read(self, off: int, size: int) -> int: ...
    def read_bytes(self, off: int, n: int) -> bytes: ...
    def write(self, off: int, size: int, value: int) -> None: ...
    def set_bits(self, off: int, size: int, bits: int, on: bool) -> None: ...


class Bar(Protocol):
    """A base address register; absent when *size* is 0."""

    size: int
    kind: str  # "mem32", "mem64" or "io"
    prefetch: bool
    ram: bool
    addr: int
    memory: memoryview | None

    @property
    def flags(self) -> int: ...


class PciModel(Protocol):
    """The hardware of one function."""

    upstream: Any  # the PciDev that carries its DMA and interrupts, or None
    secondary: int  # of a bridge: the number of the bus behind it; else 0
    windows: dict[str, tuple[int, int]]  # of a bridge: first and last that it decodes, by kind of address
    sriov: Any  # of a physical function: *bars* of the first virtual function, and the *functions*

    @property
    def name(self) -> str: ...
    @property
    def config(self) -> Config: ...
    @property
    def bars(self) -> Sequence[Bar]: ...  # six
    @property
    def has_reset(self) -> bool: ...
    def bar_read(self, bar: int, off: int, size: int) -> int: ...
    def bar_write(self, bar: int, off: int, size: int, value: int) -> None: ...
    def reset(self) -> None: ...
    def page_response(self, pasid: int, group: int, success: bool) -> None: ...


@kstruct("driver", "iommu_group", "dead")
class PciDev(Device):
    """``struct pci_dev``. *bdf* is its name, like ``0000:00:01.0``; *physfn* whose virtual function it is."""

    def __init__(self, bdf: str, model: PciModel, parent: Device | None = None, physfn: PciDev | None = None) -> None:
        super().__init__(bdf, parent)
        self.bdf = bdf
        self.domain, self.bus_nr, self.devfn = parse_bdf(bdf)
        self.model = model
        self.config = model.config
        self.bars = model.bars
        self.pci_bus: PciBus  # pdev->bus; what the driver core calls bus is the bus type
        self.subordinate: PciBus | None = None  # of a bridge: the bus behind it
        header_type = self.config.read(PCI_HEADER_TYPE, 1)
        self.hdr_type = header_type & ~PCI_HEADER_TYPE_MFD
        self.multifunction = bool(header_type & PCI_HEADER_TYPE_MFD)
        self.physfn: PciDev | None = physfn
        self.sriov: Any = None  # PciSriov of a physical function, see pci_iov.py
        self.match_driver = True
        # A virtual function has no ids of its own.
        self.vendor: int = physfn.vendor if physfn is not None else self.config.read(PCI_VENDOR_ID, 2)
        self.device: int = physfn.sriov.vf_device if physfn is not None else self.config.read(PCI_DEVICE_ID, 2)
        self.subsystem_vendor, self.subsystem_device = _subsystem(self)
        self.revision = self.config.read(PCI_REVISION_ID, 1)
        self.class_code = self.config.read(PCI_CLASS_PROG, 3)
        self.pm_cap = pci_find_capability(self, PCI_CAP_ID_PM)
        self.msi_cap = pci_find_capability(self, PCI_CAP_ID_MSI)
        self.msix_cap = pci_find_capability(self, PCI_CAP_ID_MSIX)
        self.irq = 0  # the line's number
        self.irqs: Any = None  # PciIrqs, see pci_irq.py
        self.enable_cnt = 0
        self.reset_methods: list[str] = []
        self.state_saved: bytes | None = None
        self.broken_parity_status = 0
        self.msi_bus = 1
        self.is_added = False
        self.dma_faults = 0  # how many accesses to come are blocked, whatever is mapped
        self.has_fwnode = True
        # Without an IOMMU: what is behind a physical address, if anybody knows.
        self.dma_direct: Callable[[int, int], list[tuple[PinnedPages, int, int]]] | None = None

    @property
    def irq_line(self) -> bool:
        """Is the INTx pin asserted?"""
        return bool(self.irqs.line)

    def raise_msi(self, vector: int) -> None:
        """
        From the device: message *vector*, by MSI or MSI-X, whichever is enabled. It is a
        write to memory, and lost where the function may not make any.
        """
        if self.config.read(PCI_COMMAND, 2) & PCI_COMMAND_MASTER:
            self.irqs.raise_msi(vector)

    def set_intx(self, level: bool) -> None:
        """From the device: drive the INTx pin."""
        self.irqs.set_intx(level)

    def config_written(self, off: int, size: int) -> None:
        """From the device: its configuration space was written."""
        self.irqs.config_written(off, size)

    def dma_read(self, iova: int, n: int, pasid: int = 0) -> bytes:
        """From the device: *n* bytes at *iova*, in the address space *pasid* if that is not 0. DmaFault."""
        buffer = bytearray(n)
        self.dma_read_into(iova, memoryview(buffer), pasid)
        return bytes(buffer)

    def dma_read_into(self, iova: int, buffer: memoryview, pasid: int = 0) -> None:
        done = 0
        for pages, offset, length in self._translate(iova, len(buffer), False, pasid):
            pages.read_into(offset, buffer[done : done + length])
            done += length

    def dma_write(self, iova: int, data: bytes | bytearray | memoryview, pasid: int = 0) -> None:
        done = 0
        view = memoryview(data)
        for pages, offset, length in self._translate(iova, len(view), True, pasid):
            pages.write_from(offset, view[done : done + length])
            done += length

    def try_dma_read_into(self, iova: int, buffer: memoryview, pasid: int = 0) -> bool:
        """From the device: False when it was blocked (and the IOMMU has logged it)."""
        try:
            self.dma_read_into(iova, buffer, pasid)
        except (DmaFault, Errno):
            return False
        return True

    def try_dma_write(self, iova: int, data: bytes | bytearray | memoryview, pasid: int = 0) -> bool:
        try:
            self.dma_write(iova, data, pasid)
        except (DmaFault, Errno):
            return False
        return True

    def page_request(self, addr: int, write: bool, pasid: int, group: int, last: bool) -> None:
        """From the device: it needs a page. The answer to a *group* comes when its *last* has been seen."""
        if self.iommu is not None:
            self.iommu.page_request(addr, write, pasid, group, last)

    def _translate(self, iova: int, n: int, write: bool, pasid: int) -> list[tuple[PinnedPages, int, int]]:
        if not self.config.read(PCI_COMMAND, 2) & PCI_COMMAND_MASTER:
            raise DmaFault(iova)
        if self.dma_faults:
            self.dma_faults -= 1
            printk(f"{self.bdf}: DMA {'write' if write else 'read'} at {iova:#x} blocked, as was asked for")
            raise DmaFault(iova)
        pieces: list[tuple[PinnedPages, int, int]]
        if self.iommu is None:
            if pasid or self.dma_direct is None:
                raise DmaFault(iova)
            pieces = self.dma_direct(iova, n)
        elif not pasid:
            pieces = self.iommu.translate(iova, n, write)
        elif pasid < self.iommu.max_pasids:
            pieces = self.iommu.translate(iova, n, write, pasid)
        else:
            raise DmaFault(iova)  # it has no such PASID to put on the bus
        return pieces


def parse_bdf(bdf: str) -> tuple[int, int, int]:
    """(domain, bus, devfn) of ``0000:00:01.0``. ValueError when it is not one."""
    match = re.fullmatch(r"([0-9a-f]{4}):([0-9a-f]{2}):([01][0-9a-f])\.([0-7])", bdf)
    if match is None:
        raise ValueError(f"{bdf!r} must look like 0000:00:01.0")
    domain, bus, slot, function = (int(part, 16) for part in match.groups())
    return domain, bus, slot << 3 | function


def pci_find_capability(dev: PciDev | PciModel, cap_id: int) -> int:
    """Offset of the capability, 0 if there is none."""
    if not dev.config.read(PCI_STATUS, 2) & PCI_STATUS_CAP_LIST:
        return 0
    at = dev.config.read(PCI_CAPABILITY_LIST, 1) & ~3
    for _hop in range(48):
        if at < 0x40 or dev.config.read(at, 1) == cap_id:
            return at if at >= 0x40 else 0
        at = dev.config.read(at + 1, 1) & ~3
    return 0


def pci_find_ext_capability(dev: PciDev, cap_id: int) -> int:
    """Offset of the extended capability, 0 if there is none."""
    at = PCI_CFG_SPACE_SIZE if dev.config.size == PCI_CFG_SPACE_EXP_SIZE else 0
    while at:
        header = dev.config.read(at, 4)
        if header & 0xFFFF == cap_id:
            return at
        at = header >> 20 & ~3
    return 0


def pci_power_state(dev: PciDev) -> int:
    """``current_state``: D0 for a function that has no other."""
    return dev.config.read(dev.pm_cap + PCI_PM_CTRL, 2) & PCI_PM_CTRL_STATE_MASK if dev.pm_cap else 0


def pci_set_power_state(dev: PciDev, state: int) -> None:
    """Change to *state*, if the function has it."""
    capable = dev.config.read(dev.pm_cap + PCI_PM_PMC, 2) if dev.pm_cap else 0
    if not capable or (state == 1 and not capable & PCI_PM_CAP_D1) or (state == 2 and not capable & PCI_PM_CAP_D2):
        return
    control = dev.config.read(dev.pm_cap + PCI_PM_CTRL, 2)
    dev.config.write(dev.pm_cap + PCI_PM_CTRL, 2, control & ~PCI_PM_CTRL_STATE_MASK | state)


def pci_pcie_type(dev: PciDev) -> int | None:
    """``PCI_EXP_TYPE_...``; None for a conventional function."""
    express = pci_find_capability(dev, PCI_CAP_ID_EXP)
    return (dev.config.read(express + PCI_EXP_FLAGS, 2) & PCI_EXP_FLAGS_TYPE) >> 4 if express else None


def _subsystem(dev: PciDev) -> tuple[int, int]:
    """Vendor and device of the board. A bridge has them in a capability, if at all."""
    if dev.hdr_type != PCI_HEADER_TYPE_BRIDGE:
        return dev.config.read(PCI_SUBSYSTEM_VENDOR_ID, 2), dev.config.read(PCI_SUBSYSTEM_ID, 2)
    at = pci_find_capability(dev, PCI_CAP_ID_SSVID)
    if not at:
        return 0, 0
    return dev.config.read(at + PCI_SSVID_VENDOR_ID, 2), dev.config.read(at + PCI_SSVID_DEVICE_ID, 2)


def pci_set_master(dev: PciDev) -> None:
    command = dev.config.read(PCI_COMMAND, 2)
    dev.config.write(PCI_COMMAND, 2, command | PCI_COMMAND_MASTER)


def pci_clear_master(dev: PciDev) -> None:
    command = dev.config.read(PCI_COMMAND, 2)
    dev.config.write(PCI_COMMAND, 2, command & ~PCI_COMMAND_MASTER)

# SPDX-License-Identifier: GPL-2.0-only
"""
Interrupts of PCI functions. Mirrors ``drivers/pci/msi/`` and ``pci/irq.c``, with as
much of ``kernel/irq/`` as they need.

A handler runs at once, in the task whose access made the device raise the interrupt,
in atomic context: it must not sleep. All differences from Linux:

* a vector is named by kind and index, there are no interrupt numbers but the line's;
* a line is not shared between functions;
* one call allocates and enables all vectors of a kind.
"""

from __future__ import annotations

from collections.abc import Callable
from errno import EBUSY, EINVAL, ENOSPC

from uvfio.linux.base.pci_dev import PciDev, pci_power_state
from uvfio.runtime.errors import Errno
from uvfio.runtime.task import current
from uvfio.uapi.pci_regs import (
    PCI_COMMAND,
    PCI_COMMAND_INTX_DISABLE,
    PCI_INTERRUPT_PIN,
    PCI_MSI_FLAGS,
    PCI_MSI_FLAGS_ENABLE,
    PCI_MSI_FLAGS_QMASK,
    PCI_MSI_FLAGS_QSIZE,
    PCI_MSIX_ENTRY_CTRL_MASKBIT,
    PCI_MSIX_ENTRY_SIZE,
    PCI_MSIX_ENTRY_VECTOR_CTRL,
    PCI_MSIX_FLAGS,
    PCI_MSIX_FLAGS_ENABLE,
    PCI_MSIX_FLAGS_MASKALL,
    PCI_MSIX_FLAGS_QSIZE,
    PCI_MSIX_TABLE,
    PCI_STATUS,
    PCI_STATUS_INTERRUPT,
)

STORM = 1000  # handler calls without the line falling before nobody is said to care

Handler = Callable[[], None]


class PciIrqs:
    """The interrupt side of one function."""

    def __init__(self, dev: PciDev) -> None:
        self.dev = dev
        self.handlers: dict[tuple[str, int], Handler] = {}
        self.vectors = 0  # of MSI or MSI-X that are allocated
        self.implicit = False  # by the first request: the last free undoes it
        self.kind = "intx"  # what is allocated
        # The device may have asserted it while nobody knew the function.
        self.line = bool(dev.config.read(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT)
        self.disabled = 0  # disable_irq() depth of the line
        self.in_handler = False

    def raise_msi(self, vector: int) -> None:
        handler = self.handlers.get((self.kind, vector))
        if handler is not None and self.kind != "intx":
            _call(handler)

    def set_intx(self, level: bool) -> None:
        self.line = level
        self.dev.config.set_bits(PCI_STATUS, 2, PCI_STATUS_INTERRUPT, level)
        self.evaluate()

    def config_written(self, off: int, size: int) -> None:
        """DisINTx may have changed: a line that was held back reaches the processor."""
        if self.line and off <= PCI_COMMAND + 1 and off + size > PCI_COMMAND:
            self.evaluate()

    def evaluate(self) -> None:
        """The line is a level: the handler is called as long as it is up and unmasked."""
        if self.in_handler:  # it is looked at again when the handler returns
            return
        self.in_handler = True
        try:
            for _call_again in range(STORM):
                handler = self.handlers.get(("intx", 0))
                if handler is None or not self._reaches_the_cpu():
                    return
                _call(handler)
            self.disabled += 1
        finally:
            self.in_handler = False

    def _reaches_the_cpu(self) -> bool:
        masked = self.dev.config.read(PCI_COMMAND, 2) & PCI_COMMAND_INTX_DISABLE
        return self.line and not masked and not self.disabled


def pci_irq_vectors(dev: PciDev, kind: str) -> int:
    """How many vectors of *kind* (``intx``, ``msi``, ``msix``) the function has."""
    if kind == "intx":
        return int(dev.config.read(PCI_INTERRUPT_PIN, 1) != 0)
    if kind == "msi":
        return 1 << (dev.config.read(dev.msi_cap + PCI_MSI_FLAGS, 2) & PCI_MSI_FLAGS_QMASK) // 2 if dev.msi_cap else 0
    return (dev.config.read(dev.msix_cap + PCI_MSIX_FLAGS, 2) & PCI_MSIX_FLAGS_QSIZE) + 1 if dev.msix_cap else 0


def pci_alloc_irq_vectors(dev: PciDev, kind: str, n: int) -> None:
    """Allocate *n* vectors and enable MSI or MSI-X. Errno ENOSPC, EBUSY, EINVAL."""
    irqs: PciIrqs = dev.irqs
    if n < 1 or kind not in ("msi", "msix") or pci_power_state(dev):
        raise Errno(EINVAL)
    if irqs.kind != "intx":
        raise Errno(EBUSY, f"{dev.name} has {irqs.kind} vectors already")
    if n > pci_irq_vectors(dev, kind):
        raise Errno(ENOSPC, f"{dev.name} has no {n} {kind} vectors")
    irqs.kind, irqs.vectors = kind, n
    if kind == "msi":
        at = dev.msi_cap + PCI_MSI_FLAGS
        flags = dev.config.read(at, 2) & ~PCI_MSI_FLAGS_QSIZE
        dev.config.write(at, 2, flags | (n - 1).bit_length() << 4 | PCI_MSI_FLAGS_ENABLE)
    else:
        for vector in range(pci_irq_vectors(dev, "msix")):
            _mask_msix(dev, vector, True)
        at = dev.msix_cap + PCI_MSIX_FLAGS
        flags = dev.config.read(at, 2) & ~PCI_MSIX_FLAGS_MASKALL
        dev.config.write(at, 2, flags | PCI_MSIX_FLAGS_ENABLE)


def pci_free_irq_vectors(dev: PciDev) -> None:
    """Disable MSI or MSI-X; no handler may be left."""
    irqs: PciIrqs = dev.irqs
    if irqs.kind == "intx":
        return
    at = dev.msi_cap + PCI_MSI_FLAGS if irqs.kind == "msi" else dev.msix_cap + PCI_MSIX_FLAGS
    enable = PCI_MSI_FLAGS_ENABLE if irqs.kind == "msi" else PCI_MSIX_FLAGS_ENABLE
    dev.config.write(at, 2, dev.config.read(at, 2) & ~enable)
    irqs.kind, irqs.vectors, irqs.implicit = "intx", 0, False


def pci_request_irq(dev: PciDev, kind: str, vector: int, handler: Handler) -> None:
    """
    Call *handler()* for each interrupt. MSI and MSI-X are enabled with all vectors of
    the function if the caller has not allocated any. Errno EBUSY, EINVAL, ENOSPC.
    """
    irqs: PciIrqs = dev.irqs
    if (kind, vector) in irqs.handlers:
        raise Errno(EBUSY, f"{dev.name} {kind} {vector} has a handler")
    if kind != "intx" and irqs.kind != kind:
        pci_alloc_irq_vectors(dev, kind, pci_irq_vectors(dev, kind))
        irqs.implicit = True
    if vector >= (irqs.vectors if kind != "intx" else pci_irq_vectors(dev, "intx")):
        raise Errno(EINVAL, f"{dev.name} has no {kind} vector {vector}")
    irqs.handlers[kind, vector] = handler
    if kind == "msix":
        _mask_msix(dev, vector, False)
    elif kind == "intx":
        irqs.disabled = 0
        irqs.evaluate()


def pci_free_irq(dev: PciDev, kind: str, vector: int) -> None:
    """Stop calling the handler. Vectors that a request allocated go with the last handler."""
    irqs: PciIrqs = dev.irqs
    if irqs.handlers.pop((kind, vector), None) is None:
        return
    if kind == "msix":
        _mask_msix(dev, vector, True)
    if irqs.implicit and not any(other == kind for other, _vector in irqs.handlers):
        pci_free_irq_vectors(dev)


def pci_intx(dev: PciDev, enable: bool) -> None:
    """Let the function assert its line, or not (the DisINTx bit)."""
    command = dev.config.read(PCI_COMMAND, 2)
    wanted = command & ~PCI_COMMAND_INTX_DISABLE if enable else command | PCI_COMMAND_INTX_DISABLE
    if wanted != command:
        dev.config.write(PCI_COMMAND, 2, wanted)


def pci_intx_mask_supported(dev: PciDev) -> bool:
    """Can DisINTx be written?"""
    command = dev.config.read(PCI_COMMAND, 2)
    dev.config.write(PCI_COMMAND, 2, command ^ PCI_COMMAND_INTX_DISABLE)
    changed = dev.config.read(PCI_COMMAND, 2) != command
    dev.config.write(PCI_COMMAND, 2, command)
    return changed


def pci_check_and_mask_intx(dev: PciDev) -> bool:
    """If the function asserts its line: mask it, True."""
    if not dev.config.read(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT:
        return False
    pci_intx(dev, False)
    return True


def pci_check_and_unmask_intx(dev: PciDev) -> bool:
    """Unmask the line unless it is asserted; False when it is, and stays masked."""
    if dev.config.read(PCI_STATUS, 2) & PCI_STATUS_INTERRUPT:
        return False
    pci_intx(dev, True)
    return True


def disable_irq(dev: PciDev) -> None:
    """Mask the line at the interrupt controller; nests."""
    dev.irqs.disabled += 1


def enable_irq(dev: PciDev) -> None:
    dev.irqs.disabled = max(0, dev.irqs.disabled - 1)
    dev.irqs.evaluate()


def _mask_msix(dev: PciDev, vector: int, masked: bool) -> None:
    table = dev.config.read(dev.msix_cap + PCI_MSIX_TABLE, 4)
    at = (table & ~7) + vector * PCI_MSIX_ENTRY_SIZE + PCI_MSIX_ENTRY_VECTOR_CTRL
    dev.model.bar_write(table & 7, at, 4, PCI_MSIX_ENTRY_CTRL_MASKBIT if masked else 0)


def _call(handler: Handler) -> None:
    task = current()
    task.preempt_count += 1
    try:
        handler()
    finally:
        task.preempt_count -= 1

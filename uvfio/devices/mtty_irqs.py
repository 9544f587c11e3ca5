# SPDX-License-Identifier: GPL-2.0-only
"""
The interrupts of mtty: INTx, masked as it comes, or MSI; each is one eventfd.

Mirrors ``mtty_set_irqs()`` and ``mtty_trigger_interrupt()``; the caller holds ``ops_lock``.
"""

from __future__ import annotations

from errno import EINVAL, ENOTTY

from uvfio.linux.kernel.process import EventfdCtx, eventfd_ctx_fdget
from uvfio.linux.kernel.uaccess import copy_from_user
from uvfio.linux.vfio.pci.core import vfio_set_irqs_validate
from uvfio.runtime.errors import Errno
from uvfio.uapi.vfio import (
    VFIO_IRQ_SET_ACTION_MASK,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_TYPE_MASK,
    VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_BOOL,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE,
    VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX,
    vfio_irq_set,
)

NO_IRQ = -1


class MttyIrqs:
    """``irq_index`` and its eventfd in ``struct mdev_state``."""

    def __init__(self) -> None:
        self.irq_index = NO_IRQ
        self.evtfd: EventfdCtx | None = None
        self.intx_mask = False

    def trigger(self) -> None:
        if self.evtfd is None or (self.irq_index == VFIO_PCI_INTX_IRQ_INDEX and self.intx_mask):
            return
        self.evtfd.signal()
        self.intx_mask = True  # until the user unmasks it

    def disable(self) -> None:
        if self.evtfd is not None:
            self.evtfd.put()
        self.evtfd = None
        self.intx_mask = False
        self.irq_index = NO_IRQ

    def ioctl(self, arg: int, num_irqs: int) -> int:
        irqs = vfio_irq_set.unpack(copy_from_user(arg, vfio_irq_set.size_of))
        size = vfio_set_irqs_validate(irqs, num_irqs)
        data = copy_from_user(arg + vfio_irq_set.size_of, size) if size else b""
        action = irqs.flags & VFIO_IRQ_SET_ACTION_TYPE_MASK
        if irqs.index not in (VFIO_PCI_INTX_IRQ_INDEX, VFIO_PCI_MSI_IRQ_INDEX):
            raise Errno(ENOTTY)
        if action in (VFIO_IRQ_SET_ACTION_MASK, VFIO_IRQ_SET_ACTION_UNMASK):
            self._mask(irqs, action == VFIO_IRQ_SET_ACTION_MASK, data)
        elif action == VFIO_IRQ_SET_ACTION_TRIGGER:
            self._set_trigger(irqs, data)
        return 0

    def _mask(self, irqs: vfio_irq_set, masked: bool, data: bytes) -> None:
        if irqs.index != VFIO_PCI_INTX_IRQ_INDEX:
            raise Errno(ENOTTY)
        if self.irq_index != VFIO_PCI_INTX_IRQ_INDEX or irqs.start != 0 or irqs.count != 1:
            raise Errno(EINVAL)
        if irqs.flags & VFIO_IRQ_SET_DATA_EVENTFD:
            raise Errno(ENOTTY, "there is no masking by eventfd")
        if irqs.flags & VFIO_IRQ_SET_DATA_NONE or (irqs.flags & VFIO_IRQ_SET_DATA_BOOL and data[0]):
            self.intx_mask = masked

    def _set_trigger(self, irqs: vfio_irq_set, data: bytes) -> None:
        active = self.irq_index == irqs.index
        if active and not irqs.count and irqs.flags & VFIO_IRQ_SET_DATA_NONE:
            self.disable()
            return
        if not (active or self.irq_index == NO_IRQ) or irqs.start != 0 or irqs.count != 1:
            raise Errno(EINVAL)
        if irqs.flags & VFIO_IRQ_SET_DATA_EVENTFD:
            self.disable()
            fd = int.from_bytes(data, "little", signed=True)
            if fd >= 0:
                self.evtfd = eventfd_ctx_fdget(fd)
                self.irq_index = irqs.index
            return
        if not active:
            raise Errno(EINVAL)
        if irqs.flags & VFIO_IRQ_SET_DATA_NONE or data[0]:
            self.trigger()

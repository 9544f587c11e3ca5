# SPDX-License-Identifier: GPL-2.0-only
"""
Interrupts for the user. Mirrors ``drivers/vfio/pci/vfio_pci_intrs.c``.

Differences from Linux: vectors of MSI-X are all allocated at the first enable, so adding
one later cannot fail for want of it; no interrupt bypass to KVM.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from errno import EINVAL, ENODEV, ENOTTY, ERANGE
from functools import partial

from uvfio.linux.base.pci import (
    disable_irq,
    enable_irq,
    pci_alloc_irq_vectors,
    pci_check_and_mask_intx,
    pci_check_and_unmask_intx,
    pci_free_irq,
    pci_free_irq_vectors,
    pci_intx,
    pci_irq_vectors,
    pci_request_irq,
)
from uvfio.linux.kernel.bug import lockdep_assert_held
from uvfio.linux.kernel.process import EventfdCtx, eventfd_ctx_fdget
from uvfio.linux.vfio import virqfd
from uvfio.linux.vfio.pci.private import VfioPciCoreDevice, VfioPciIrqCtx
from uvfio.runtime.errors import Errno
from uvfio.runtime.struct import kfree, kzalloc
from uvfio.uapi.vfio import (
    VFIO_IRQ_SET_ACTION_MASK,
    VFIO_IRQ_SET_ACTION_TRIGGER,
    VFIO_IRQ_SET_ACTION_TYPE_MASK,
    VFIO_IRQ_SET_ACTION_UNMASK,
    VFIO_IRQ_SET_DATA_BOOL,
    VFIO_IRQ_SET_DATA_EVENTFD,
    VFIO_IRQ_SET_DATA_NONE,
    VFIO_PCI_ERR_IRQ_INDEX,
    VFIO_PCI_INTX_IRQ_INDEX,
    VFIO_PCI_MSI_IRQ_INDEX,
    VFIO_PCI_MSIX_IRQ_INDEX,
    VFIO_PCI_NUM_IRQS,
    VFIO_PCI_REQ_IRQ_INDEX,
)

KINDS: Mapping[int, str] = {VFIO_PCI_MSI_IRQ_INDEX: "msi", VFIO_PCI_MSIX_IRQ_INDEX: "msix"}


def vfio_pci_get_irq_count(core: VfioPciCoreDevice, index: int) -> int:
    if index == VFIO_PCI_INTX_IRQ_INDEX:
        return pci_irq_vectors(core.pdev, "intx")
    if index in KINDS:
        return pci_irq_vectors(core.pdev, KINDS[index])
    return int(index in (VFIO_PCI_ERR_IRQ_INDEX, VFIO_PCI_REQ_IRQ_INDEX))


def is_intx(core: VfioPciCoreDevice) -> bool:
    return core.irq_type == VFIO_PCI_INTX_IRQ_INDEX


def is_irq_none(core: VfioPciCoreDevice) -> bool:
    return core.irq_type == VFIO_PCI_NUM_IRQS


# INTx


def vfio_send_intx_eventfd(core: VfioPciCoreDevice) -> None:
    if is_intx(core) and not core.virq_disabled:
        trigger = core.ctx[0].trigger
        if trigger is not None:
            trigger.signal()


def vfio_pci_intx_mask(core: VfioPciCoreDevice) -> None:
    """Also when INTx is not enabled: then only the device is told."""
    with core.irqlock:
        if not is_intx(core):
            if core.pci_2_3:
                pci_intx(core.pdev, False)
        elif not core.ctx[0].masked:
            if core.pci_2_3:
                pci_intx(core.pdev, False)
            else:
                disable_irq(core.pdev)
            core.ctx[0].masked = True


def vfio_pci_intx_unmask(core: VfioPciCoreDevice) -> None:
    if vfio_pci_intx_unmask_handler(core):
        vfio_send_intx_eventfd(core)


def vfio_pci_intx_unmask_handler(core: VfioPciCoreDevice) -> bool:
    """True when the line is still asserted: it stays masked, and the user hears again."""
    reenable = False
    with core.irqlock:
        if not is_intx(core):
            if core.pci_2_3:
                pci_intx(core.pdev, True)
            return False
        ctx = core.ctx[0]
        if not ctx.masked or core.virq_disabled:
            return False
        if core.pci_2_3:
            ctx.masked = not pci_check_and_unmask_intx(core.pdev)
            return ctx.masked
        ctx.masked = False
        reenable = True
    # The interrupt may be taken at once; its handler wants the lock.
    if reenable:
        enable_irq(core.pdev)
    return False


def vfio_intx_handler(core: VfioPciCoreDevice) -> None:
    """The line is asserted: mask it until the user has seen to the device."""
    with core.irqlock:
        ctx = core.ctx[0]
        if not core.pci_2_3:
            disable_irq(core.pdev)
            handled = True
        else:
            handled = not ctx.masked and pci_check_and_mask_intx(core.pdev)
        ctx.masked = ctx.masked or handled
    if handled:
        vfio_send_intx_eventfd(core)


def vfio_intx_enable(core: VfioPciCoreDevice, trigger: EventfdCtx | None) -> None:
    if not is_irq_none(core):
        raise Errno(EINVAL)
    if not pci_irq_vectors(core.pdev, "intx"):
        raise Errno(ENODEV)
    ctx = kzalloc(VfioPciIrqCtx, trigger)
    # The user may have set DisINTx before: then the line stays masked.
    ctx.masked = core.virq_disabled
    core.ctx[0] = ctx
    if core.pci_2_3:
        pci_intx(core.pdev, not ctx.masked)
    core.irq_type = VFIO_PCI_INTX_IRQ_INDEX
    try:
        pci_request_irq(core.pdev, "intx", 0, lambda: vfio_intx_handler(core))
    except Errno:
        core.irq_type = VFIO_PCI_NUM_IRQS
        del core.ctx[0]
        kfree(ctx)
        raise
    if ctx.masked and not core.pci_2_3:
        disable_irq(core.pdev)


def vfio_intx_set_signal(core: VfioPciCoreDevice, trigger: EventfdCtx | None) -> None:
    ctx = core.ctx[0]
    was, ctx.trigger = ctx.trigger, trigger
    if was is not None:
        was.put()


def vfio_intx_disable(core: VfioPciCoreDevice) -> None:
    ctx = core.ctx[0]
    if ctx.unmask is not None:
        ctx.unmask.disable()
    pci_free_irq(core.pdev, "intx", 0)
    if ctx.trigger is not None:
        ctx.trigger.put()
    core.irq_type = VFIO_PCI_NUM_IRQS
    del core.ctx[0]
    kfree(ctx)


def vfio_pci_check_intx(core: VfioPciCoreDevice, start: int, count: int) -> None:
    if not is_intx(core) or start != 0 or count != 1:
        raise Errno(EINVAL)


def vfio_pci_set_intx_mask(core: VfioPciCoreDevice, start: int, count: int, flags: int, data: bytes) -> None:
    vfio_pci_check_intx(core, start, count)
    if flags & VFIO_IRQ_SET_DATA_EVENTFD:
        raise Errno(ENOTTY)
    if flags & VFIO_IRQ_SET_DATA_NONE or data[0]:
        vfio_pci_intx_mask(core)


def vfio_pci_set_intx_unmask(core: VfioPciCoreDevice, start: int, count: int, flags: int, data: bytes) -> None:
    vfio_pci_check_intx(core, start, count)
    if not flags & VFIO_IRQ_SET_DATA_EVENTFD:
        if flags & VFIO_IRQ_SET_DATA_NONE or data[0]:
            vfio_pci_intx_unmask(core)
        return
    ctx = core.ctx[0]
    fd = _eventfds(data)[0]
    if fd >= 0:
        ctx.unmask = virqfd.vfio_virqfd_enable(ctx.unmask, lambda: vfio_pci_intx_unmask(core), fd)
    elif ctx.unmask is not None:
        ctx.unmask.disable()
        ctx.unmask = None


def vfio_pci_set_intx_trigger(core: VfioPciCoreDevice, start: int, count: int, flags: int, data: bytes) -> None:
    if is_intx(core) and not count and flags & VFIO_IRQ_SET_DATA_NONE:
        vfio_intx_disable(core)
        return
    if not (is_intx(core) or is_irq_none(core)) or start != 0 or count != 1:
        raise Errno(EINVAL)
    if flags & VFIO_IRQ_SET_DATA_EVENTFD:
        fd = _eventfds(data)[0]
        trigger = eventfd_ctx_fdget(fd) if fd >= 0 else None
        if is_intx(core):
            vfio_intx_set_signal(core, trigger)
            return
        try:
            vfio_intx_enable(core, trigger)
        except Errno:
            if trigger is not None:
                trigger.put()
            raise
        return
    if not is_intx(core):
        raise Errno(EINVAL)
    if flags & VFIO_IRQ_SET_DATA_NONE or data[0]:
        vfio_send_intx_eventfd(core)


# MSI and MSI-X


def vfio_msi_enable(core: VfioPciCoreDevice, nvec: int, index: int) -> None:
    if not is_irq_none(core):
        raise Errno(EINVAL)
    if not nvec:
        raise Errno(ERANGE)
    kind = KINDS[index]
    pci_alloc_irq_vectors(core.pdev, kind, pci_irq_vectors(core.pdev, kind) if kind == "msix" else nvec)
    core.irq_type = index
    if kind == "msi":
        # What the user may write into the queue size: as many as are enabled.
        core.msi_qmax = (nvec - 1).bit_length()


def vfio_msi_set_vector_signal(core: VfioPciCoreDevice, vector: int, fd: int, index: int) -> None:
    """Deliver *vector* to the eventfd *fd*, a negative one for nowhere; what was before is gone first."""
    kind = KINDS[index]
    ctx = core.ctx.pop(vector, None)
    if ctx is not None:
        pci_free_irq(core.pdev, kind, vector)
        assert ctx.trigger is not None
        ctx.trigger.put()
        kfree(ctx)
    if fd < 0:
        return
    trigger = eventfd_ctx_fdget(fd)
    try:
        pci_request_irq(core.pdev, kind, vector, trigger.signal)
    except Errno:
        trigger.put()
        raise
    core.ctx[vector] = kzalloc(VfioPciIrqCtx, trigger)


def vfio_msi_set_block(core: VfioPciCoreDevice, start: int, fds: tuple[int, ...], index: int) -> None:
    """A vector that cannot be set takes those before it in the block along."""
    for vector, fd in enumerate(fds, start):
        try:
            vfio_msi_set_vector_signal(core, vector, fd, index)
        except Errno:
            for done in range(start, vector):
                vfio_msi_set_vector_signal(core, done, -1, index)
            raise


def vfio_msi_disable(core: VfioPciCoreDevice, index: int) -> None:
    for vector in list(core.ctx):
        vfio_msi_set_vector_signal(core, vector, -1, index)
    pci_free_irq_vectors(core.pdev)
    core.irq_type = VFIO_PCI_NUM_IRQS
    core.msi_qmax = 0


def vfio_pci_set_msi_trigger(
    core: VfioPciCoreDevice, start: int, count: int, flags: int, data: bytes, index: int
) -> None:
    active = core.irq_type == index
    if active and not count and flags & VFIO_IRQ_SET_DATA_NONE:
        vfio_msi_disable(core, index)
        return
    if not active and not is_irq_none(core):
        raise Errno(EINVAL)
    if flags & VFIO_IRQ_SET_DATA_EVENTFD:
        fds = _eventfds(data)
        if active:
            vfio_msi_set_block(core, start, fds, index)
            return
        vfio_msi_enable(core, start + count, index)
        try:
            vfio_msi_set_block(core, start, fds, index)
        except Errno:
            vfio_msi_disable(core, index)
            raise
        return
    if not active:
        raise Errno(EINVAL)
    for vector in range(start, start + count):
        ctx = core.ctx.get(vector)
        if ctx is not None and (flags & VFIO_IRQ_SET_DATA_NONE or data[vector - start]):
            assert ctx.trigger is not None
            ctx.trigger.signal()


# ERR and REQ


def vfio_pci_set_ctx_trigger_single(
    trigger: EventfdCtx | None, count: int, flags: int, data: bytes
) -> EventfdCtx | None:
    """Set, clear or signal the one eventfd of an index; the answer is what it is then."""
    if flags & VFIO_IRQ_SET_DATA_NONE:
        if trigger is None:
            raise Errno(EINVAL)
        if count:
            trigger.signal()
            return trigger
        trigger.put()
        return None
    if not count:
        raise Errno(EINVAL)
    if flags & VFIO_IRQ_SET_DATA_BOOL:
        if data[0] and trigger is not None:
            trigger.signal()
        return trigger
    fd = _eventfds(data)[0]
    if fd < -1:
        raise Errno(EINVAL)
    new = eventfd_ctx_fdget(fd) if fd >= 0 else None
    if trigger is not None:
        trigger.put()
    return new


def vfio_pci_set_err_trigger(core: VfioPciCoreDevice, start: int, count: int, flags: int, data: bytes) -> None:
    if start != 0 or count > 1:
        raise Errno(EINVAL)
    core.err_trigger = vfio_pci_set_ctx_trigger_single(core.err_trigger, count, flags, data)


def vfio_pci_set_req_trigger(core: VfioPciCoreDevice, start: int, count: int, flags: int, data: bytes) -> None:
    if start != 0 or count > 1:
        raise Errno(EINVAL)
    core.req_trigger = vfio_pci_set_ctx_trigger_single(core.req_trigger, count, flags, data)


Setter = Callable[[VfioPciCoreDevice, int, int, int, bytes], None]

SETTERS: Mapping[tuple[int, int], Setter] = {
    (VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_MASK): vfio_pci_set_intx_mask,
    (VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_UNMASK): vfio_pci_set_intx_unmask,
    (VFIO_PCI_INTX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER): vfio_pci_set_intx_trigger,
    (VFIO_PCI_MSI_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER): partial(
        vfio_pci_set_msi_trigger, index=VFIO_PCI_MSI_IRQ_INDEX
    ),
    (VFIO_PCI_MSIX_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER): partial(
        vfio_pci_set_msi_trigger, index=VFIO_PCI_MSIX_IRQ_INDEX
    ),
    (VFIO_PCI_ERR_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER): vfio_pci_set_err_trigger,
    (VFIO_PCI_REQ_IRQ_INDEX, VFIO_IRQ_SET_ACTION_TRIGGER): vfio_pci_set_req_trigger,
}


def vfio_pci_set_irqs_ioctl(
    core: VfioPciCoreDevice, flags: int, index: int, start: int, count: int, data: bytes
) -> None:
    """Errno ENOTTY unless *flags* name exactly one action that *index* knows."""
    lockdep_assert_held(core.igate)
    setter = SETTERS.get((index, flags & VFIO_IRQ_SET_ACTION_TYPE_MASK))
    if setter is None:
        raise Errno(ENOTTY)
    setter(core, start, count, flags, data)


def _eventfds(data: bytes) -> tuple[int, ...]:
    return struct.unpack(f"<{len(data) // 4}i", data)

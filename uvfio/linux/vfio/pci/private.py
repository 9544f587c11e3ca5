# SPDX-License-Identifier: GPL-2.0-only
"""
The structs of vfio-pci. Mirrors ``include/linux/vfio_pci_core.h`` and ``drivers/vfio/pci/vfio_pci_priv.h``.

Lock order: ``igate``, ``memory_lock``, ``irqlock`` (a spinlock); ``ioeventfds_lock``
is outside of ``memory_lock``; ``sriov_pfs_mutex`` and the lock of a token are leaves.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from uvfio.linux.base.pci import PciDev
from uvfio.linux.kernel.mutex import Mutex, Spinlock
from uvfio.linux.kernel.process import EventfdCtx
from uvfio.linux.kernel.rwsem import RwSemaphore
from uvfio.linux.vfio.private import VfioDevice
from uvfio.linux.vfio.virqfd import Virqfd
from uvfio.runtime.struct import kstruct
from uvfio.runtime.task import per_machine
from uvfio.uapi.vfio import VFIO_PCI_NUM_IRQS, VFIO_PCI_NUM_REGIONS

VFIO_PCI_OFFSET_SHIFT = 40
# Region offset of a BAR 0 that is no memory, in a device whose memory is there.
DISPLACED_BAR0 = 16 << VFIO_PCI_OFFSET_SHIFT
PCI_STD_NUM_BARS = 6
PAGE_SIZE = 4096


@kstruct("masked", "trigger")
class VfioPciIrqCtx:
    """``struct vfio_pci_irq_ctx``: where one vector is delivered. *trigger* may be None."""

    def __init__(self, trigger: EventfdCtx | None) -> None:
        self.trigger = trigger
        self.unmask: Virqfd | None = None  # INTx only; igate
        self.masked = False  # INTx only; irqlock


class VfioPciIoeventfd:
    """``struct vfio_pci_ioeventfd``: a write to a BAR that an eventfd makes."""

    def __init__(self, bar: int, pos: int, data: int, count: int) -> None:
        self.bar = bar
        self.pos = pos
        self.data = data
        self.count = count
        self.virqfd: Virqfd


@kstruct("uuid", "users")
class VfioPciVfToken:
    """``struct vfio_pci_vf_token``: what the users of a physical function and its virtual ones share."""

    def __init__(self, uuid: bytes) -> None:
        self.lock = Mutex("vfio_pci_vf_token.lock")
        self.uuid = uuid  # lock
        self.users = 0  # lock; virtual functions that are open


@kstruct("virq_disabled", "irq_type", "pm_runtime_engaged")
class VfioPciCoreDevice:
    """``struct vfio_pci_core_device``."""

    def __init__(self, pdev: PciDev) -> None:
        self.pdev = pdev
        self.vdev: VfioDevice
        self.reset_works = False
        self.pci_saved_state: bytes | None = None  # configuration space before the user came
        self.pci_2_3 = False  # INTx can be masked in the device
        # What the user sees of configuration space, and which bits of it are not the
        # device's own (virt) or can be written (writable). Made when the device opens.
        self.vconfig = bytearray()
        self.virt = bytearray()
        self.writable = bytearray()
        self.caps: dict[int, int] = {}  # capability id -> offset
        self.read_only: list[range] = []  # capabilities of which a write is not even looked at
        self.region_offsets = vfio_pci_region_offsets(pdev)
        self.msix_bar = -1  # BAR and range of the MSI-X table
        self.msix_offset = 0
        self.msix_size = 0
        self.memory_lock = RwSemaphore("vfio_pci.memory_lock")
        self.pm_runtime_engaged = False  # memory_lock
        self.pm_save: bytes | None = None  # memory_lock; configuration when it went to D3hot
        self.pm_wake_eventfd_ctx: EventfdCtx | None = None  # memory_lock
        self.dmabufs: list[Any] = []  # memory_lock
        self.igate = Mutex("vfio_pci.igate")
        self.irq_type = VFIO_PCI_NUM_IRQS  # igate, irqlock; the number of irqs: none is active
        self.ctx: dict[int, VfioPciIrqCtx] = {}  # by vector; igate, irqlock
        self.msi_qmax = 0
        self.err_trigger: EventfdCtx | None = None  # igate
        self.req_trigger: EventfdCtx | None = None  # igate
        self.irqlock = Spinlock("vfio_pci.irqlock")
        self.virq_disabled = False  # irqlock; the user's DisINTx bit
        self.ioeventfds_lock = Mutex("vfio_pci.ioeventfds_lock")
        self.ioeventfds: list[VfioPciIoeventfd] = []  # ioeventfds_lock
        self.vf_token: VfioPciVfToken | None = None  # of a physical function
        self.nb: Callable[[int, Any], None] | None = None  # of a physical function: sees devices come
        self.sriov_pf_core_dev: VfioPciCoreDevice | None = None  # of a virtual function whose PF is ours


class VfioPci:
    """The statics of ``vfio_pci_core.c`` and ``vfio_pci.c``."""

    def __init__(self) -> None:
        self.enable_sriov = False
        self.sriov_pfs_mutex = Mutex("vfio_pci_sriov_pfs_mutex")
        self.sriov_pfs: list[VfioPciCoreDevice] = []  # sriov_pfs_mutex; those with virtual functions


vfio_pci = per_machine(VfioPci)


def vfio_pci_region_offsets(pdev: PciDev) -> list[int]:
    """
    The file offset of each region: index << 40. Memory that the client maps natively
    must be within the file behind it, so such BARs come first, one after the other.
    """
    offsets = [index << VFIO_PCI_OFFSET_SHIFT for index in range(VFIO_PCI_NUM_REGIONS)]
    end = 0
    for index, bar in enumerate(pdev.bars):
        if bar.ram:
            offsets[index] = end
            end += -(-bar.size // PAGE_SIZE) * PAGE_SIZE
    if end and not pdev.bars[0].ram:
        offsets[0] = DISPLACED_BAR0
    return offsets


def vfio_pci_region_at(core: VfioPciCoreDevice, pos: int) -> tuple[int, int]:
    """(index, offset in the region) of the file offset *pos*; the index may not exist."""
    index, offset = divmod(pos, 1 << VFIO_PCI_OFFSET_SHIFT)
    bars = core.pdev.bars
    if index == 0 and core.region_offsets[0] == 0 and not bars[0].ram:
        return 0, offset
    if index == 0:
        for number, bar in enumerate(bars):
            if bar.ram and core.region_offsets[number] <= pos < core.region_offsets[number] + bar.size:
                return number, pos - core.region_offsets[number]
        return VFIO_PCI_NUM_REGIONS, offset
    if pos - offset == core.region_offsets[0]:
        return 0, offset
    if index < PCI_STD_NUM_BARS and bars[index].ram:
        return VFIO_PCI_NUM_REGIONS, offset
    return index, offset

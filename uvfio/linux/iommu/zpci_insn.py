# SPDX-License-Identifier: GPL-2.0-only
"""
A zPCI function: what the hardware knows of it, what the kernel does, and the
instructions between the two.

Mirrors ``struct zpci_dev`` of ``arch/s390/include/asm/pci.h`` and the instructions of
``arch/s390/pci/pci_insn.c`` and ``pci_clp.c``. All differences from Linux:

* the root of a translation table is the domain (or other object) that is the table;
* condition code 2 (busy, try again) never comes: Linux retries it out of sight;
* only the instructions that translations need exist: loads and stores of registers go
  through the device model, and work until the kernel has let go of the device;
* function handles are small numbers; bit 31 says, as in Linux, that one is enabled.

The machine may take a function away, or put it into the error state, at any time: see
:class:`ZpciFunction`. ``whims`` lets every single instruction be that time.
"""

from __future__ import annotations

from typing import Any

from uvfio.linux.kernel.mutex import Mutex, Spinlock
from uvfio.linux.kernel.refcount import Kref
from uvfio.runtime.errors import Splat
from uvfio.runtime.struct import kstruct
from uvfio.runtime.task import current, per_machine

ZPCI_CC_OK = 0
ZPCI_CC_ERR = 1
ZPCI_CC_BUSY = 2
ZPCI_CC_INVAL_HANDLE = 3

# Status codes that go with ZPCI_CC_ERR.
ZPCI_PCI_ST_FUNC_NOT_AVAIL = 40
ZPCI_PCI_ST_ALREADY_IN_RQ_STATE = 44

ZPCI_FN_STATE_RESERVED = 0
ZPCI_FN_STATE_STANDBY = 1
ZPCI_FN_STATE_CONFIGURED = 2

FH_ENABLED = 1 << 31

IOTA_RTTO_FLAG = "identity"  # the root that stands for no translation at all

START_DMA = 1 << 32
END_DMA = (1 << 42) - 1

Answer = tuple[int, int]  # condition code, status


class ZpciFunction:
    """
    The hardware side of a function.

    *present* false: somebody pulled it, every handle is invalid. *error* true: it
    refuses all but disable and enable, which is how it recovers. *whims*: what it may
    do by itself before any instruction, ``gone`` or ``error``.
    """

    def __init__(self, fid: str) -> None:
        self.fid = fid
        self.handle = 1
        self.present = True
        self.error = False
        self.iota: Any = None  # the table registered for its DMA
        self.whims: tuple[str, ...] = ()
        self.refreshed = 0  # how often it was told that its table has changed

    def __repr__(self) -> str:
        return f"zpci function {self.fid}"

    def surprise_removal(self) -> None:
        """Somebody pulls it. The kernel hears of it later."""
        current().runtime.point("surprise", self)
        self._fall("gone")

    def enter_error_state(self) -> None:
        current().runtime.point("error", self)
        self._fall("error")

    def execute(self, kind: str, fh: int) -> Answer | None:
        """Begin instruction *kind*; why it cannot be, None if it can."""
        runtime = current().runtime
        runtime.point(kind, self)
        if self.whims and self.present and not self.error:
            whim = runtime.choose(1 + len(self.whims))
            if whim:
                self._fall(self.whims[whim - 1])
        if not self.present or fh != self.handle:
            return ZPCI_CC_INVAL_HANDLE, 0
        if self.error:
            return ZPCI_CC_ERR, ZPCI_PCI_ST_FUNC_NOT_AVAIL
        return None

    def _fall(self, whim: str) -> None:
        # Either way the hardware drops the translation: no DMA passes any more.
        self.iota = None
        if whim == "gone":
            self.present = False
        else:
            self.error = True


class ZpciFirmware:
    """All functions of the machine, by id."""

    def __init__(self) -> None:
        self.functions: dict[str, ZpciFunction] = {}


zpci_firmware = per_machine(ZpciFirmware)


@kstruct("s390_domain", racy=("fh",))  # a stale handle is refused by the firmware
class ZpciDev:
    """
    ``struct zpci_dev``. Its id is the address of its PCI function.

    Lock order: ``kzdev_lock``; ``state_lock``, ``device.mutex``, ``iommu_group.mutex``,
    then ``dom_lock`` or ``list_lock`` of a domain.
    """

    def __init__(self, fid: str) -> None:
        self.fid = fid
        self.fh = 0
        self.kref = Kref(f"zpci_dev {fid}")
        self.state = ZPCI_FN_STATE_STANDBY  # state_lock
        self.state_lock = Mutex("zpci_dev.state_lock")
        self.kzdev_lock = Mutex("zpci_dev.kzdev_lock")
        self.kzdev: Any = None  # kzdev_lock: the virtual machine that it is passed to
        self.start_dma = START_DMA
        self.end_dma = END_DMA
        self.dom_lock = Spinlock("zpci_dev.dom_lock")
        self.s390_domain: Any = None  # written under iommu_group.mutex and dom_lock
        self.dma_table: Any = None  # iommu_group.mutex
        self.tlb_refresh = True

    def __repr__(self) -> str:
        return f"<zpci_dev {self.__dict__.get('fid')}>"


def zdev_enabled(zdev: ZpciDev) -> bool:
    return bool(zdev.fh & FH_ENABLED)


def zpci_function(zdev: ZpciDev) -> ZpciFunction:
    return zpci_firmware().functions[zdev.fid]


def clp_enable_fh(zdev: ZpciDev) -> Answer:
    """Enable the function: a new handle, no translation, no error."""
    function = zpci_function(zdev)
    current().runtime.point("clp_enable", function)
    if not function.present:
        return ZPCI_CC_INVAL_HANDLE, 0
    function.handle = (function.handle + 1) & ~FH_ENABLED | FH_ENABLED
    function.iota = None
    function.error = False
    zdev.fh = function.handle
    return ZPCI_CC_OK, 0


def clp_disable_fh(zdev: ZpciDev) -> Answer:
    """Disable it: whatever was registered is forgotten."""
    function = zpci_function(zdev)
    current().runtime.point("clp_disable", function)
    zdev.fh &= ~FH_ENABLED
    if not function.present:
        return ZPCI_CC_INVAL_HANDLE, 0
    function.handle &= ~FH_ENABLED
    function.iota = None
    return ZPCI_CC_OK, 0


def zpci_register_ioat(zdev: ZpciDev, iota: Any) -> Answer:
    """Let the function's DMA go through *iota* from now on."""
    function = zpci_function(zdev)
    refused = function.execute("register_ioat", zdev.fh)
    if refused is not None:
        return refused
    if function.iota is not None:
        return ZPCI_CC_ERR, ZPCI_PCI_ST_ALREADY_IN_RQ_STATE
    function.iota = iota
    return ZPCI_CC_OK, 0


def zpci_unregister_ioat(zdev: ZpciDev) -> Answer:
    """Nothing passes any more."""
    function = zpci_function(zdev)
    refused = function.execute("unregister_ioat", zdev.fh)
    if refused is not None:
        return refused
    if function.iota is None:
        return ZPCI_CC_ERR, ZPCI_PCI_ST_ALREADY_IN_RQ_STATE
    function.iota = None
    return ZPCI_CC_OK, 0


def zpci_refresh_trans(zdev: ZpciDev) -> Answer:
    """Make the function forget what it has cached of its table."""
    function = zpci_function(zdev)
    refused = function.execute("rpcit", zdev.fh)
    if refused is not None:
        return refused
    function.refreshed += 1
    return ZPCI_CC_OK, 0


def zpci_table_freed(table: Any) -> None:
    """A translation table is about to be freed: the hardware must not use it."""
    for function in zpci_firmware().functions.values():
        if function.iota is table:
            raise Splat("use-after-free", f"{function!r} does DMA through a table that is being freed")

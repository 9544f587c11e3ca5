# SPDX-License-Identifier: GPL-2.0-only
"""
What there is of an Intel IOMMU's hardware, and the log of its faults.

The registers are those of the VT-d specification; Linux has their names in
``drivers/iommu/intel/iommu.h``. A fault is recorded with what the fault registers would
hold; there is no register window. The words of the reasons are those of ``dmar.c``.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from uvfio.linux.kernel.printk import printk

# Without what the options say: address widths; all that scalable mode brings.
CAP_REG = 0xD2008C22000086
ECAP_REG = 0xF00F4A
SAGAW_39, SAGAW_48 = 1 << 9, 1 << 10
MGAW_SHIFT = 16
# Extended capabilities
ECAP_DT, ECAP_PRS = 1 << 2, 1 << 29
ECAP_NEST, ECAP_SRS, ECAP_EAFS, ECAP_PSS_20_BITS, ECAP_PASID = 1 << 26, 1 << 31, 1 << 34, 19 << 35, 1 << 40
ECAP_SMTS, ECAP_SLADS, ECAP_SLTS, ECAP_FLTS = 1 << 43, 1 << 45, 1 << 46, 1 << 47
MAX_PASIDS = 1 << 20

MAX_FAULTS = 1000

# Fault reasons, with the words of the driver.
FAULT_BLOCKED = (0x02, "Present bit in context entry is clear")
FAULT_WRITE = (0x05, "PTE Write access is not set")
FAULT_READ = (0x06, "PTE Read access is not set")
SM_BLOCKED = (0x59, "SM: Present bit in PASID Table Entry is clear")
SM_FIRST_STAGE = (0x71, "SM: Present bit in first-level paging entry is clear")
SM_SECOND_STAGE = (0x79, "SM: Read/Write permission error in second-level paging entry")


@dataclass(frozen=True)
class VtdOptions:
    """
    What the hardware has. *nesting*, *dirty_tracking*, *pasid* and *page_requests* are
    parts of scalable mode: it has them all unless told otherwise, and one that is asked
    for brings it.
    """

    scalable_mode: bool | None = None
    nesting: bool | None = None
    dirty_tracking: bool | None = None
    pasid: bool | None = None
    page_requests: bool | None = None
    aw_bits: int | None = None  # 39 or 48; the latter in scalable mode, if it is not said

    def has(self, part: bool | None) -> bool:
        """Is *part* there?"""
        if self.scalable_mode is None:
            return bool(part)
        return self.scalable_mode and part is not False


@dataclass(frozen=True)
class DmarFault:
    """One entry of the fault log: what ``dmar_fault()`` prints."""

    source: str  # the device
    addr: int  # its page
    write: bool
    reason: int
    text: str
    pasid: int = 0

    def __str__(self) -> str:
        kind = f"{'Write' if self.write else 'Read'} {f'PASID {self.pasid:#x}' if self.pasid else 'NO_PASID'}"
        return (
            f"DMAR: [DMA {kind}] Request device [{self.source[5:]}] fault addr {self.addr:#x} "
            f"[fault reason {self.reason:#04x}] {self.text}"
        )


class DmarHardware:
    """The capabilities of the IOMMU, and its last faults."""

    def __init__(self) -> None:
        self.faults: deque[DmarFault] = deque(maxlen=MAX_FAULTS)
        self.set_options(VtdOptions())

    def set_options(self, options: VtdOptions) -> None:
        """Before anybody uses it. ValueError for what no hardware has."""
        parts = (options.nesting, options.dirty_tracking, options.pasid, options.page_requests)
        self.sm_supported = any(parts) if options.scalable_mode is None else options.scalable_mode
        if any(parts) and not self.sm_supported:
            raise ValueError("nesting, dirty-tracking, pasid and page-requests must have scalable-mode=on")
        self.nested_supported, self.ssads_supported = options.has(options.nesting), options.has(options.dirty_tracking)
        self.pasid_supported, self.prs_supported = options.has(options.pasid), options.has(options.page_requests)
        self.address_width = options.aw_bits or (48 if self.sm_supported else 39)
        if self.address_width not in (39, 48):
            raise ValueError(f"aw-bits must be 39 or 48, not {self.address_width}")
        self.cap = CAP_REG | SAGAW_39 | (self.address_width - 1) << MGAW_SHIFT
        if self.address_width == 48:
            self.cap |= SAGAW_48
        self.ecap = ECAP_REG
        if self.sm_supported:
            self.ecap |= ECAP_SMTS | ECAP_SRS | ECAP_EAFS | ECAP_SLTS | ECAP_FLTS
        if self.nested_supported:
            self.ecap |= ECAP_NEST
        if self.ssads_supported:
            self.ecap |= ECAP_SLADS
        if self.prs_supported:
            self.ecap |= ECAP_DT | ECAP_PRS
        if self.pasid_supported:
            self.ecap |= ECAP_PASID | ECAP_PSS_20_BITS
        self.max_pasids = MAX_PASIDS if self.pasid_supported else 0

    def fault(self, fault: DmarFault) -> None:
        self.faults.append(fault)
        printk(str(fault))

# SPDX-License-Identifier: GPL-2.0-only
"""
The hardware of an ARM SMMUv3, as far as a guest that has a share of it can tell.

From the SMMUv3 architecture (ARM IHI 0070): stream table entries, context descriptors,
the first stage's page tables, the caches and the commands that clean them. Linux has
the layouts in ``arm-smmu-v3.h``. All differences from hardware:

* a stage that the kernel makes is a domain of ours: a walk of ranges, never cached;
* one context descriptor for each stream, so no PASIDs; granules of 4 KiB only;
* the caches keep all they ever saw, so what is stale stays stale until it is cleaned;
* no event queue: the last events are kept for who looks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from errno import EIO

from uvfio.linux.base.pci_dev import DmaFault
from uvfio.linux.iommu.private import IOMMU_READ, IOMMU_WRITE, IommuDevice, IommuDomain, IommuOps
from uvfio.linux.kernel.process import PinnedPages
from uvfio.runtime.errors import Errno

PAGE = 4096
PAGE_MASK = PAGE - 1
KEEP = 1000  # of what is only kept to be looked at

# Stream table entries
STE_0_V = 1 << 0
STE_0_CFG_ABORT, STE_0_CFG_BYPASS, STE_0_CFG_S1, STE_0_CFG_S2, STE_0_CFG_NESTED = 0, 4, 5, 6, 7
STE_0_S1CONTEXTPTR = 0x000F_FFFF_FFFF_FFC0

# Context descriptors
CD_SIZE = 64
CD_0_V = 1 << 31
CD_0_TG0 = 3 << 6
CD_0_EPD0 = 1 << 14
CD_1_TTB0 = 0x000F_FFFF_FFFF_FFF0

# First-stage descriptors
PTE_VALID, PTE_TABLE, PTE_READ_ONLY, PTE_AF = 1 << 0, 1 << 1, 1 << 7, 1 << 10
PTE_ADDRESS = 0x0000_FFFF_FFFF_F000

# Commands
CMDQ_OP_CFGI_STE, CMDQ_OP_CFGI_CD, CMDQ_OP_CFGI_CD_ALL = 0x03, 0x05, 0x06
CMDQ_OP_TLBI_NH_ALL, CMDQ_OP_TLBI_NH_ASID, CMDQ_OP_TLBI_NH_VA, CMDQ_OP_TLBI_NH_VAA = 0x10, 0x11, 0x12, 0x13
CMDQ_OP_TLBI_NSNH_ALL = 0x30
CMDQ_OP_ATC_INV = 0x40
CMDQ_0_SID_SHIFT, CMDQ_0_VMID_SHIFT, CMDQ_0_ASID_SHIFT = 32, 32, 48

# Events
EVENTS = {
    0x02: "C_BAD_STREAMID",
    0x04: "C_BAD_STE",
    0x06: "F_STREAM_DISABLED",
    0x0A: "C_BAD_CD",
    0x0B: "F_WALK_EABT",
    0x10: "F_TRANSLATION",
    0x12: "F_ACCESS",
    0x13: "F_PERMISSION",
}
C_BAD_STREAMID, C_BAD_STE, F_STREAM_DISABLED, C_BAD_CD, F_WALK_EABT = 0x02, 0x04, 0x06, 0x0A, 0x0B
F_TRANSLATION, F_ACCESS, F_PERMISSION = 0x10, 0x12, 0x13


@dataclass(frozen=True)
class Ste:
    """A stream table entry: what a stream goes through."""

    cfg: int = STE_0_CFG_ABORT
    domain: IommuDomain | None = None  # the only stage, or the second one
    vmid: int = 0
    s1_context_ptr: int = 0  # NESTED: where the guest has its context descriptor


@dataclass(frozen=True)
class Cd:
    """A context descriptor: what the guest has made of its stage."""

    asid: int
    address_bits: int
    ttb: int


@dataclass(frozen=True)
class SmmuEvent:
    """One entry of the event log."""

    sid: int
    addr: int
    write: bool
    event: int

    def __str__(self) -> str:
        kind = "write" if self.write else "read"
        return f"arm-smmu-v3: event {self.event:#04x} {EVENTS[self.event]} sid {self.sid:#x} {kind} {self.addr:#x}"


class _Fault(Exception):
    def __init__(self, event: int) -> None:
        self.event = event


class SmmuHardware(IommuDevice):
    """One SMMU: its stream table, its caches, and what it has been told."""

    def __init__(self, name: str, ops: IommuOps) -> None:
        super().__init__(name, ops)
        self.strtab: dict[int, Ste] = {}
        self.cds: dict[int, Cd] = {}  # cached, by stream
        self.iotlb: dict[tuple[int, int, int], tuple[int, bool]] = {}  # vmid, asid, page: page, writable
        self.commands: deque[tuple[int, int]] = deque(maxlen=KEEP)
        self.events: deque[SmmuEvent] = deque(maxlen=KEEP)

    def translate(self, sid: int, iova: int, n: int, write: bool) -> list[tuple[PinnedPages, int, int]]:
        """The pieces behind an access. DmaFault, and the event is logged."""
        try:
            return self._translate(sid, iova, n, write)
        except _Fault as e:
            self.events.append(SmmuEvent(sid, iova, write, e.event))
            raise DmaFault(iova) from None

    def command(self, cmd0: int, cmd1: int) -> None:
        """``CMDQ``: clean a cache. The command and its completion are one."""
        self.commands.append((cmd0, cmd1))
        op, sid = cmd0 & 0xFF, cmd0 >> CMDQ_0_SID_SHIFT
        vmid, asid = cmd0 >> CMDQ_0_VMID_SHIFT & 0xFFFF, cmd0 >> CMDQ_0_ASID_SHIFT
        page = cmd1 & ~PAGE_MASK
        if op in (CMDQ_OP_CFGI_STE, CMDQ_OP_CFGI_CD, CMDQ_OP_CFGI_CD_ALL):
            self.cds.pop(sid, None)
        elif op == CMDQ_OP_TLBI_NSNH_ALL:
            self.iotlb.clear()
        elif op == CMDQ_OP_TLBI_NH_ALL:
            self._forget(lambda key: key[0] == vmid)
        elif op == CMDQ_OP_TLBI_NH_ASID:
            self._forget(lambda key: key[:2] == (vmid, asid))
        elif op == CMDQ_OP_TLBI_NH_VA:
            self.iotlb.pop((vmid, asid, page), None)
        elif op == CMDQ_OP_TLBI_NH_VAA:
            self._forget(lambda key: (key[0], key[2]) == (vmid, page))
        elif op != CMDQ_OP_ATC_INV:  # no device here has a cache of its own
            raise Errno(EIO)

    def write_ste(self, sid: int, ste: Ste) -> None:
        """Update the stream table, and let the hardware see it."""
        self.strtab[sid] = ste
        self.command(CMDQ_OP_CFGI_STE | sid << CMDQ_0_SID_SHIFT, 1)

    def _forget(self, which: Callable[[tuple[int, int, int]], bool]) -> None:
        for key in [key for key in self.iotlb if which(key)]:
            del self.iotlb[key]

    def _translate(self, sid: int, iova: int, n: int, write: bool) -> list[tuple[PinnedPages, int, int]]:
        ste = self.strtab.get(sid)
        if ste is None:
            raise _Fault(C_BAD_STREAMID)
        if ste.cfg == STE_0_CFG_ABORT:
            raise _Fault(F_STREAM_DISABLED)
        if ste.cfg == STE_0_CFG_BYPASS:
            raise DmaFault(iova)  # physical memory, of which there is none
        if ste.cfg != STE_0_CFG_NESTED:
            return _walk(ste, iova, n, write)
        cd = self._cd(sid, ste)
        pieces: list[tuple[PinnedPages, int, int]] = []
        end = iova + n
        while iova < end:
            length = min(end, (iova | PAGE_MASK) + 1) - iova
            pieces += _walk(ste, self._first_stage(ste, cd, iova, write), length, write)
            iova += length
        return pieces

    def _cd(self, sid: int, ste: Ste) -> Cd:
        cd = self.cds.get(sid)
        if cd is None:
            data = _read(ste, ste.s1_context_ptr, CD_SIZE)
            word0, word1 = (int.from_bytes(data[at : at + 8], "little") for at in (0, 8))
            bits = 64 - (word0 & 0x3F)
            if not word0 & CD_0_V or word0 & (CD_0_TG0 | CD_0_EPD0) or not 25 <= bits <= 48:
                raise _Fault(C_BAD_CD)
            cd = self.cds[sid] = Cd(word0 >> 48, bits, word1 & CD_1_TTB0)
        return cd

    def _first_stage(self, ste: Ste, cd: Cd, iova: int, write: bool) -> int:
        """What the guest maps *iova* to."""
        key = (ste.vmid, cd.asid, iova & ~PAGE_MASK)
        if key not in self.iotlb:
            self.iotlb[key] = _walk_guest(ste, cd, iova & ~PAGE_MASK)
        page, writable = self.iotlb[key]
        if write and not writable:
            raise _Fault(F_PERMISSION)
        return page | iova & PAGE_MASK


def _walk_guest(ste: Ste, cd: Cd, iova: int) -> tuple[int, bool]:
    """(page, writable) in the guest's tables of 512 descriptors."""
    if iova >> cd.address_bits:
        raise _Fault(F_TRANSLATION)
    table = cd.ttb
    for level in range(3 - (cd.address_bits - 13) // 9, 4):
        shift = 12 + 9 * (3 - level)
        pte = int.from_bytes(_read(ste, table + 8 * (iova >> shift & 0x1FF), 8), "little")
        is_table = bool(pte & PTE_TABLE)
        if not pte & PTE_VALID or (level in (0, 3) and not is_table):
            raise _Fault(F_TRANSLATION)
        table = pte & PTE_ADDRESS
        if level == 3 or not is_table:
            if not pte & PTE_AF:
                raise _Fault(F_ACCESS)
            below = (1 << shift) - 1
            return table & ~below | iova & below, not pte & PTE_READ_ONLY
    raise AssertionError("level 3 ends the walk")


def _walk(ste: Ste, addr: int, n: int, write: bool) -> list[tuple[PinnedPages, int, int]]:
    """Through the stage that the kernel makes."""
    if ste.domain is None:
        raise _Fault(C_BAD_STE)
    pieces, fault = ste.domain.walk(addr, n, IOMMU_WRITE if write else IOMMU_READ)
    if fault is not None:
        raise _Fault(F_TRANSLATION)
    return pieces


def _read(ste: Ste, addr: int, n: int) -> bytes:
    """Memory of the guest, as the hardware fetches it."""
    data, at = bytearray(n), 0
    try:
        for pages, offset, length in _walk(ste, addr, n, write=False):
            pages.read_into(offset, memoryview(data)[at : at + length])
            at += length
    except Errno:
        raise _Fault(F_WALK_EABT) from None
    return bytes(data)

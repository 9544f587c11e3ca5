# SPDX-License-Identifier: GPL-2.0-only
"""
The hardware of an ARM SMMUv3, as far as a guest that has a share of it can tell.

From the SMMUv3 architecture (ARM IHI 0070): stream table entries, context descriptors,
the first stage's page tables, the caches and the commands that clean them. Linux has
the layouts in ``arm-smmu-v3.h``. All differences from hardware:

* a stage that the kernel makes is a domain of ours: a walk of ranges, never cached;
* granules of 4 KiB only;
* the caches keep all they ever saw, so what is stale stays stale until it is cleaned;
* no event queue: an event is handed to the driver at once, and the last ones are kept for
  who looks.
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
STE_0_S1FMT_SHIFT, STE_0_S1CDMAX_SHIFT = 4, 59
STE_0_S1FMT_LINEAR, STE_0_S1FMT_4K_L2, STE_0_S1FMT_64K_L2 = 0, 1, 2
STE_1_S1DSS_TERMINATE, STE_1_S1DSS_BYPASS, STE_1_S1DSS_SSID0 = 0, 1, 2
CD_SPLIT = {STE_0_S1FMT_4K_L2: 6, STE_0_S1FMT_64K_L2: 10}  # bits of the second level
CDTAB_L1_V, CDTAB_L1_L2PTR = 1 << 0, 0x000F_FFFF_FFFF_F000

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
CMDQ_OP_CMD_SYNC = 0x46
CMDQ_0_SID_SHIFT, CMDQ_0_VMID_SHIFT, CMDQ_0_ASID_SHIFT, CMDQ_0_SSID_SHIFT = 32, 32, 48, 12
SSID_MASK = 0xFFFFF
# A range: (NUM + 1) << SCALE granules, where TG says what a granule is; 0: one address.
CMDQ_0_TLBI_NUM_SHIFT, CMDQ_0_TLBI_SCALE_SHIFT, CMDQ_1_TLBI_TG_SHIFT = 12, 20, 10

# Events
EVENTS = {
    0x02: "C_BAD_STREAMID",
    0x04: "C_BAD_STE",
    0x06: "F_STREAM_DISABLED",
    0x08: "C_BAD_SUBSTREAMID",
    0x0A: "C_BAD_CD",
    0x0B: "F_WALK_EABT",
    0x10: "F_TRANSLATION",
    0x12: "F_ACCESS",
    0x13: "F_PERMISSION",
}
C_BAD_STREAMID, C_BAD_STE, F_STREAM_DISABLED, C_BAD_SUBSTREAMID, C_BAD_CD, F_WALK_EABT = 2, 4, 6, 8, 0x0A, 0x0B
F_TRANSLATION, F_ACCESS, F_PERMISSION = 0x10, 0x12, 0x13
EVTQ_0_SSV, EVTQ_0_SSID_SHIFT, EVTQ_0_SID_SHIFT = 1 << 11, 12, 32
EVTQ_1_RNW, EVTQ_1_S2, EVTQ_1_CLASS_SHIFT = 1 << 35, 1 << 39, 40
CLASS_CD, CLASS_TTD, CLASS_IN = 0, 1, 2  # what was being fetched, or the access itself
EVTQ_3_IPA = 0x000F_FFFF_FFFF_F000
NO_ADDRESS = frozenset({C_BAD_STREAMID, C_BAD_STE, F_STREAM_DISABLED, C_BAD_SUBSTREAMID, C_BAD_CD})


@dataclass(frozen=True)
class Ste:
    """A stream table entry: what a stream goes through."""

    cfg: int = STE_0_CFG_ABORT
    domain: IommuDomain | None = None  # the only stage, or the second one
    vmid: int = 0
    s1_context_ptr: int = 0  # NESTED: where the guest has its context descriptors
    s1_fmt: int = STE_0_S1FMT_LINEAR
    s1_cdmax: int = 0  # log2 of how many there are
    s1_dss: int = STE_1_S1DSS_TERMINATE  # what becomes of accesses without a substream, if there are several


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
    ssid: int | None = None
    ipa: int | None = None  # not None: the second stage has nothing there
    fetched: int = CLASS_IN

    def __str__(self) -> str:
        kind = "write" if self.write else "read"
        return f"arm-smmu-v3: event {self.event:#04x} {EVENTS[self.event]} sid {self.sid:#x} {kind} {self.addr:#x}"

    def record(self) -> tuple[int, int, int, int]:
        """As the hardware writes it into its event queue."""
        word0 = self.event | self.sid << EVTQ_0_SID_SHIFT
        if self.ssid is not None:
            word0 |= EVTQ_0_SSV | self.ssid << EVTQ_0_SSID_SHIFT
        if self.event in NO_ADDRESS:
            return word0, 0, 0, 0
        word1 = self.fetched << EVTQ_1_CLASS_SHIFT | (0 if self.write else EVTQ_1_RNW)
        if self.ipa is None:
            return word0, word1, self.addr, 0
        return word0, word1 | EVTQ_1_S2, self.addr, self.ipa & EVTQ_3_IPA


class _Fault(Exception):
    def __init__(self, event: int, ipa: int | None = None, fetched: int = CLASS_IN) -> None:
        self.event = event
        self.ipa = ipa
        self.fetched = fetched


class SmmuHardware(IommuDevice):
    """One SMMU: its stream table, its caches, and what it has been told."""

    def __init__(self, name: str, ops: IommuOps) -> None:
        super().__init__(name, ops)
        self.strtab: dict[int, Ste] = {}
        self.cds: dict[tuple[int, int], Cd] = {}  # cached, by stream and substream
        self.iotlb: dict[tuple[int, int, int], tuple[int, bool]] = {}  # vmid, asid, page: page, writable
        self.commands: deque[tuple[int, int]] = deque(maxlen=KEEP)
        self.events: deque[SmmuEvent] = deque(maxlen=KEEP)

    def translate(
        self, sid: int, iova: int, n: int, write: bool, ssid: int | None = None
    ) -> list[tuple[PinnedPages, int, int]]:
        """The pieces behind an access. DmaFault, and the event is logged."""
        try:
            return self._translate(sid, iova, n, write, ssid)
        except _Fault as e:
            event = SmmuEvent(sid, iova, write, e.event, ssid, e.ipa, e.fetched)
            self.events.append(event)
            self.handle_event(event)
            raise DmaFault(iova) from None

    def handle_event(self, event: SmmuEvent) -> None:
        """The driver's interrupt handler."""

    def kernel_stage(self, sid: int, ssid: int) -> IommuDomain | None:
        """What the kernel's context descriptors have for a substream."""
        return None

    def command(self, cmd0: int, cmd1: int) -> None:
        """``CMDQ``: clean a cache. The command and its completion are one. Errno EIO: there is no such command."""
        self.commands.append((cmd0, cmd1))
        op, sid = cmd0 & 0xFF, cmd0 >> CMDQ_0_SID_SHIFT
        vmid, asid = cmd0 >> CMDQ_0_VMID_SHIFT & 0xFFFF, cmd0 >> CMDQ_0_ASID_SHIFT
        if op == CMDQ_OP_CFGI_CD:
            self.cds.pop((sid, cmd0 >> CMDQ_0_SSID_SHIFT & SSID_MASK), None)
        elif op in (CMDQ_OP_CFGI_STE, CMDQ_OP_CFGI_CD_ALL):
            for key in [key for key in self.cds if key[0] == sid]:
                del self.cds[key]
        elif op == CMDQ_OP_TLBI_NSNH_ALL:
            self.iotlb.clear()
        elif op == CMDQ_OP_TLBI_NH_ALL:
            self._forget(lambda key: key[0] == vmid)
        elif op == CMDQ_OP_TLBI_NH_ASID:
            self._forget(lambda key: key[:2] == (vmid, asid))
        elif op in (CMDQ_OP_TLBI_NH_VA, CMDQ_OP_TLBI_NH_VAA):
            start, end = _range(cmd0, cmd1)
            any_asid = op == CMDQ_OP_TLBI_NH_VAA
            self._forget(lambda key: key[0] == vmid and (any_asid or key[1] == asid) and start <= key[2] < end)
        elif op != CMDQ_OP_ATC_INV:  # no device here has a cache of its own
            raise Errno(EIO)

    def write_ste(self, sid: int, ste: Ste) -> None:
        """Update the stream table, and let the hardware see it."""
        self.strtab[sid] = ste
        self.command(CMDQ_OP_CFGI_STE | sid << CMDQ_0_SID_SHIFT, 1)

    def _forget(self, which: Callable[[tuple[int, int, int]], bool]) -> None:
        for key in [key for key in self.iotlb if which(key)]:
            del self.iotlb[key]

    def _translate(
        self, sid: int, iova: int, n: int, write: bool, ssid: int | None
    ) -> list[tuple[PinnedPages, int, int]]:
        ste = self.strtab.get(sid)
        if ste is None:
            raise _Fault(C_BAD_STREAMID)
        if ste.cfg == STE_0_CFG_ABORT:
            raise _Fault(F_STREAM_DISABLED)
        if ssid is not None and ste.cfg != STE_0_CFG_NESTED:
            domain = self.kernel_stage(sid, ssid)
            if domain is None:
                raise _Fault(C_BAD_CD)
            return _walk(Ste(STE_0_CFG_S1, domain), iova, n, write)
        if ste.cfg == STE_0_CFG_BYPASS:
            raise DmaFault(iova)  # physical memory, of which there is none
        if ste.cfg != STE_0_CFG_NESTED or (ssid is None and _skips_first_stage(ste)):
            return _walk(ste, iova, n, write)
        cd = self._cd(sid, ste, ssid or 0)
        pieces: list[tuple[PinnedPages, int, int]] = []
        end = iova + n
        while iova < end:
            length = min(end, (iova | PAGE_MASK) + 1) - iova
            pieces += _walk(ste, self._first_stage(ste, cd, iova, write), length, write)
            iova += length
        return pieces

    def _cd(self, sid: int, ste: Ste, ssid: int) -> Cd:
        cd = self.cds.get((sid, ssid))
        if cd is None:
            data = _read(ste, _cd_address(ste, ssid), CD_SIZE, CLASS_CD)
            word0, word1 = (int.from_bytes(data[at : at + 8], "little") for at in (0, 8))
            bits = 64 - (word0 & 0x3F)
            if not word0 & CD_0_V or word0 & (CD_0_TG0 | CD_0_EPD0) or not 25 <= bits <= 48:
                raise _Fault(C_BAD_CD)
            cd = self.cds[sid, ssid] = Cd(word0 >> 48, bits, word1 & CD_1_TTB0)
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


def _range(cmd0: int, cmd1: int) -> tuple[int, int]:
    """What a TLBI by address covers, the end exclusive."""
    start = cmd1 & ~PAGE_MASK
    if not cmd1 >> CMDQ_1_TLBI_TG_SHIFT & 3:
        return start, start + PAGE
    num, scale = cmd0 >> CMDQ_0_TLBI_NUM_SHIFT & 0x1F, cmd0 >> CMDQ_0_TLBI_SCALE_SHIFT & 0x1F
    return start, start + (num + 1 << scale) * PAGE


def _skips_first_stage(ste: Ste) -> bool:
    """An access without a substream, where there may be several: what does the guest say of these?"""
    if not ste.s1_cdmax or ste.s1_dss == STE_1_S1DSS_SSID0:
        return False
    if ste.s1_dss == STE_1_S1DSS_BYPASS:
        return True
    raise _Fault(F_STREAM_DISABLED)


def _cd_address(ste: Ste, ssid: int) -> int:
    """Where the guest has the context descriptor of *ssid*."""
    if ssid >> ste.s1_cdmax:
        raise _Fault(C_BAD_SUBSTREAMID)
    if not ste.s1_cdmax or ste.s1_fmt == STE_0_S1FMT_LINEAR:
        return ste.s1_context_ptr + CD_SIZE * ssid
    split = CD_SPLIT[ste.s1_fmt]
    entry = int.from_bytes(_read(ste, ste.s1_context_ptr + 8 * (ssid >> split), 8, CLASS_CD), "little")
    if not entry & CDTAB_L1_V:
        raise _Fault(C_BAD_SUBSTREAMID)
    return (entry & CDTAB_L1_L2PTR) + CD_SIZE * (ssid & (1 << split) - 1)


def _walk_guest(ste: Ste, cd: Cd, iova: int) -> tuple[int, bool]:
    """(page, writable) in the guest's tables of 512 descriptors."""
    if iova >> cd.address_bits:
        raise _Fault(F_TRANSLATION)
    table = cd.ttb
    for level in range(3 - (cd.address_bits - 13) // 9, 4):
        shift = 12 + 9 * (3 - level)
        pte = int.from_bytes(_read(ste, table + 8 * (iova >> shift & 0x1FF), 8, CLASS_TTD), "little")
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


def _walk(ste: Ste, addr: int, n: int, write: bool, fetched: int = CLASS_IN) -> list[tuple[PinnedPages, int, int]]:
    """Through the stage that the kernel makes."""
    if ste.domain is None:
        raise _Fault(C_BAD_STE)
    pieces, fault = ste.domain.walk(addr, n, IOMMU_WRITE if write else IOMMU_READ)
    if fault is not None:
        raise _Fault(F_TRANSLATION, None if ste.cfg == STE_0_CFG_S1 else fault, fetched)
    return pieces


def _read(ste: Ste, addr: int, n: int, fetched: int) -> bytes:
    """Memory of the guest, as the hardware fetches it."""
    data, at = bytearray(n), 0
    try:
        for pages, offset, length in _walk(ste, addr, n, write=False, fetched=fetched):
            pages.read_into(offset, memoryview(data)[at : at + length])
            at += length
    except Errno:
        raise _Fault(F_WALK_EABT, None, fetched) from None
    return bytes(data)

# SPDX-License-Identifier: GPL-2.0-only
"""
An NVMe 1.4 controller with the NVM command set, on PCI Express.

``-d nvme,file=disk.img`` serves a file (several: ``file=a.img:b.img``), ``-d nvme,size=1G``
memory. The rest: ``nvme_queues.py`` (queues), ``nvme_data.py`` (PRPs and SGLs),
``nvme_admin.py``, ``nvme_identify.py``, ``nvme_features.py``, ``nvme_logs.py`` (admin
commands), ``nvme_io.py`` (NVM commands), ``nvme_namespace.py`` (where the blocks are),
``nvme_sriov.py`` (virtual functions), ``nvme_virtual.py`` (what is theirs).
All differences from a drive that one can buy:

* a command is done when the doorbell write that submits it returns; only Asynchronous
  Event Requests ever wait, so Abort finds nothing else;
* a completion is stored with those of the commands submitted with it (at most 64), and
  all of them have one interrupt, whatever Interrupt Coalescing says;
* round robin only; no controller memory buffer, boot partitions, persistent memory
  region, subsystem reset, shadow doorbells, firmware update, format, namespace
  management, metadata, reservations, fused commands, self-test or keep alive;
* the temperature is always 40 degrees; nothing wears out.
"""

from __future__ import annotations

from typing import ClassVar

from uvfio.devices import nvme_admin, nvme_io
from uvfio.devices.config import PciConfig
from uvfio.devices.kit import MsixTable, PciBar, PciDevice, Register
from uvfio.devices.nvme_features import NvmeFeatures
from uvfio.devices.nvme_logs import NvmeLogs
from uvfio.devices.nvme_namespace import NvmeNamespace, parse_size
from uvfio.devices.nvme_queues import BATCH, CompletionQueue, SubmissionQueue
from uvfio.devices.nvme_spec import (
    CC_AMS_SHIFT,
    CC_CSS_SHIFT,
    CC_EN,
    CC_MPS_SHIFT,
    CC_SHN,
    COMMAND,
    CSTS_CFS,
    CSTS_RDY,
    CSTS_SHST,
    CSTS_SHST_COMPLETE,
    DO_NOT_RETRY,
    DOORBELLS,
    EVENT_INVALID_DOORBELL,
    EVENT_INVALID_DOORBELL_VALUE,
    RETRYABLE,
    SQE_SIZE,
    VERSION,
    Command,
    CommandFailed,
)
from uvfio.devices.nvme_virtual import PRIMARY_CNTLID, Virtualization
from uvfio.uapi.pci_regs import PCI_EXP_DEVCAP_FLR, PCI_EXP_TYPE_RC_END

QUEUES = 31  # for I/O, of either kind
MAX_ENTRIES = 4096  # of a queue
MPS_MAX = 4  # pages of up to 64 KiB
MDTS = 8  # a command moves up to 2^8 pages of 4 KiB
DEFAULT_SIZE = "64M"

# 3.1.1: MQES, CQR (queues are contiguous), TO (7.5 s), CSS (NVM), MPSMIN 4 KiB, MPSMAX
CAPABILITIES = (MAX_ENTRIES - 1) | 1 << 16 | 15 << 24 | 1 << 37 | MPS_MAX << 52


class Nvme(PciDevice):
    """NVMe 1.4 controller: namespaces in files or memory, 31 queue pairs, MSI-X."""

    name = "nvme"
    vendor, device, revision = 0x1234, 0x4E56, 1
    class_code = 0x010802  # mass storage, non-volatile memory, NVM Express I/O controller
    subsystem = (0x1234, 0x4E56)
    config_size = 4096
    BARS = {0: PciBar(16 << 10, "mem64"), 4: PciBar(4096)}
    intx = True
    msi_vectors = 1
    msix = MsixTable(vectors=1 + QUEUES, bar=4)
    has_reset = True
    pollable = True
    further = (f"Queues 1 to {QUEUES} are for I/O.",)
    doorbells = {0: range(DOORBELLS, DOORBELLS + 8 * (1 + QUEUES))}
    options: ClassVar[tuple[str, ...]] = ("file", "size", "block", "readonly", "serial")
    unassigned = 0
    mdts = MDTS
    virtualization: Virtualization | None = None  # of a primary controller
    cntlid = PRIMARY_CNTLID
    max_entries = MAX_ENTRIES

    CAP = Register(0x00, "ro", CAPABILITIES, size=8, halves=True, doc="capabilities")
    VS = Register(0x08, "ro", VERSION, doc="version 1.4")
    INTMS = Register(0x0C, "rw", doc="interrupt mask set (not for MSI-X)")
    INTMC = Register(0x10, "rw", doc="interrupt mask clear")
    CC = Register(0x14, "rw", mask=0x00FF_FFF1, bits={"en": 0}, doc="controller configuration")
    CSTS = Register(0x1C, "ro", bits={"rdy": 0, "cfs": 1}, doc="controller status; bits 2-3: shutdown")
    AQA = Register(0x24, "rw", mask=0x0FFF_0FFF, doc="admin queues: entries - 1")
    ASQ = Register(0x28, "rw", size=8, halves=True, mask=-0x1000, doc="admin submission queue")
    ACQ = Register(0x30, "rw", size=8, halves=True, mask=-0x1000, doc="admin completion queue")
    SQ0TDBL = Register(DOORBELLS, "wo", doc="tail of submission queue 0; queue n is at 0x1000 + 8 n")
    CQ0HDBL = Register(DOORBELLS + 4, "wo", doc="head of completion queue 0; queue n is at 0x1004 + 8 n")

    def __init__(
        self,
        file: str = "",
        size: str = "",
        block: str = "512",
        readonly: str = "no",
        serial: str = "",
        share: Nvme | None = None,
    ) -> None:
        """*share*: another controller of the same subsystem, whose namespaces are ours too."""
        super().__init__()
        if readonly not in ("yes", "no"):
            raise ValueError(f"readonly must be yes or no, not {readonly!r}")
        if not block.isdecimal():
            raise ValueError(f"block must be a number, not {block!r}")
        length = parse_size(size or ("0" if file else DEFAULT_SIZE))
        self.namespaces: list[NvmeNamespace]
        if share is not None:
            self.namespaces = share.namespaces
        else:
            self.namespaces = [NvmeNamespace(path, length, int(block), readonly == "yes") for path in file.split(":")]
        self.wanted_serial = serial
        self.buffer = memoryview(bytearray(4096 << MDTS))
        self.logs = NvmeLogs()
        self.running = False  # no reset changes that: a transfer may sleep, and goes on after it
        self.clear()

    def clear(self) -> None:
        """What a reset of any kind does."""
        self.page_size = 4096
        self.submission: dict[int, SubmissionQueue] = {}
        self.completion: dict[int, CompletionQueue] = {}
        self.features = NvmeFeatures(self.io_queues)
        self.event_requests: list[int] = []  # CIDs
        self.events: list[tuple[int, int, int]] = []
        self.silenced: set[int] = set()  # event types whose log page has not been read
        self.rung: list[SubmissionQueue] = []
        self.interrupt_mask = 0

    @property
    def vectors(self) -> int:
        """How many a completion queue can choose from."""
        return 1 + QUEUES if self.msix_enabled else 1

    @property
    def io_queues(self) -> int:
        """How many it can have, of either kind."""
        return QUEUES

    @property
    def serial(self) -> str:
        """20 characters at most. Two drives of a machine must not have the same."""
        where = getattr(self.upstream, "bdf", "none")
        return (self.wanted_serial or f"uvfio-{where}")[:20]

    def add_capabilities(self, config: PciConfig) -> None:
        self.add_pm(config, 0x40)
        self.add_msi(config, 0x50)
        self.add_msix(config, 0x70)
        config.add_express(0x80, PCI_EXP_TYPE_RC_END, PCI_EXP_DEVCAP_FLR)

    def reset(self) -> None:
        super().reset()
        self.clear()

    # 3.1.5: enabling, disabling and shutting down.

    @CC.on_write
    def configure(self, value: int) -> None:
        old, self.CC = self.CC, value & Nvme.CC.mask
        if value & CC_EN and not old & CC_EN:
            self.enable()
        elif old & CC_EN and not value & CC_EN:
            self.clear()
            self.CSTS = 0
            self.update_line()
        if value & CC_SHN and not old & CC_SHN:
            self.shut_down()
        elif old & CC_SHN and not value & CC_SHN:
            self.CSTS &= ~CSTS_SHST

    def enable(self) -> None:
        mps = self.CC >> CC_MPS_SHIFT & 0xF
        sq_size, cq_size = (self.AQA & 0xFFF) + 1, (self.AQA >> 16) + 1
        self.page_size = 4096 << mps
        unsupported = self.CC >> CC_CSS_SHIFT & 7 or self.CC >> CC_AMS_SHIFT & 7 or mps > MPS_MAX
        if unsupported or min(sq_size, cq_size) < 2 or (self.ASQ | self.ACQ) % self.page_size:
            self.CSTS |= CSTS_CFS
            return
        cq = self.completion[0] = CompletionQueue(0, self.ACQ, cq_size, 0, True)
        self.submission[0] = SubmissionQueue(0, self.ASQ, sq_size, cq)
        self.CSTS |= CSTS_RDY

    def shut_down(self) -> None:
        for namespace in self.namespaces:
            try:
                if not namespace.readonly:
                    namespace.flush()
            except CommandFailed:
                self.CSTS |= CSTS_CFS
        self.CSTS = self.CSTS & ~CSTS_SHST | CSTS_SHST_COMPLETE

    # 3.1.24 and 3.1.25: doorbells.

    def bar_write(self, bar: int, off: int, size: int, value: int) -> None:
        if bar == 0 and off >= DOORBELLS:
            if size == 4 and not off & 3:
                self.doorbell(off - DOORBELLS >> 2, value & 0xFFFF)
        else:
            super().bar_write(bar, off, size, value)

    def doorbell(self, number: int, value: int) -> None:
        if not self.CSTS & CSTS_RDY or self.CSTS & CSTS_CFS:
            return
        qid = number >> 1
        queue = self.completion.get(qid) if number & 1 else self.submission.get(qid)
        if queue is None:
            self.event(EVENT_INVALID_DOORBELL)
        elif value >= queue.size:
            self.event(EVENT_INVALID_DOORBELL_VALUE)
        elif isinstance(queue, CompletionQueue):
            queue.head = value
            self.rung += [sq for sq in queue.filling if sq.head != sq.tail]
            self.update_line()
        else:
            queue.tail = value
            self.rung.append(queue)
        self.run()

    def run(self) -> None:
        """Work until nothing is left. A transfer may ring our own doorbells: those find us running."""
        if self.running:
            return
        self.running = True
        try:
            while self.rung:
                self.serve(self.rung.pop(0))
                self.send_events()
        finally:
            self.running = False

    def serve(self, sq: SubmissionQueue) -> None:
        # One admin command at a time: it may take queues away, or complete another one.
        execute, limit = (nvme_io.execute, BATCH) if sq.qid else (nvme_admin.execute, 1)
        while sq.head != sq.tail:
            data = sq.fetch(self, limit)
            if data is None:
                self.fatal()
            if not data:
                return
            done = []
            for at in range(0, len(data), SQE_SIZE):
                command = Command._make(COMMAND.unpack_from(data, at))
                sq.head = (sq.head + 1) % sq.size
                try:
                    result, status = execute(self, command), 0
                except CommandFailed as e:
                    result, status = 0, self.failed(sq, command, e.status)
                if result is not None:
                    done.append((result, sq.head, sq.qid, command.cid, status))
            if self.submission.get(sq.qid) is not sq:
                return  # a transfer of its own reached CC: there is no queue any more
            self.complete(sq.cq, done)

    def failed(self, sq: SubmissionQueue, command: Command, status: int) -> int:
        if status not in RETRYABLE:
            status |= DO_NOT_RETRY
        self.logs.error(sq.qid, command, status)
        return status

    def complete(self, cq: CompletionQueue, completions: list[tuple[int, int, int, int, int]]) -> None:
        if not completions:
            return
        if not cq.post(self, completions):
            self.fatal()
        elif cq.interrupts:
            self.interrupt(cq.vector)

    def fatal(self) -> None:
        """Queues cannot be reached: nothing but a reset helps."""
        self.CSTS |= CSTS_CFS
        self.rung.clear()

    # 5.2: asynchronous events.

    def event(self, event: tuple[int, int, int]) -> None:
        if event[0] not in self.silenced and event not in self.events and self.features.reports(event):
            self.events.append(event)
            if not self.running:
                self.send_events()

    def send_events(self) -> None:
        """One event for each request; no second one of a type before the host has read its log page."""
        while self.events and self.event_requests and self.completion[0].room:
            kind, info, page = self.events.pop(0)
            self.silenced.add(kind)
            self.events = [event for event in self.events if event[0] != kind]
            cid = self.event_requests.pop(0)
            result = kind | info << 8 | page << 16
            self.complete(self.completion[0], [(result, self.submission[0].head, 0, cid, 0)])

    # 7.5: interrupts.

    @INTMS.on_read
    def read_mask(self) -> int:
        return self.interrupt_mask

    @INTMC.on_read
    def read_mask_again(self) -> int:
        return self.interrupt_mask

    @INTMS.on_write
    def mask_interrupts(self, bits: int) -> None:
        if not self.msix_enabled:
            self.interrupt_mask |= bits
            self.update_line()

    @INTMC.on_write
    def unmask_interrupts(self, bits: int) -> None:
        if not self.msix_enabled:
            unmasked = self.interrupt_mask & bits
            self.interrupt_mask &= ~bits
            self.update_line()
            if unmasked & 1 and self.waiting():
                self.raise_msi(0)

    def interrupt(self, vector: int) -> None:
        if self.msix_enabled:
            self.raise_msix(vector)
        elif self.msi_enabled:
            if not self.interrupt_mask & 1:
                self.raise_msi(0)
        else:
            self.update_line()

    def update_line(self) -> None:
        """The pin is up while the host has completions to take."""
        messages = self.msix_enabled or self.msi_enabled
        self.set_intx(not messages and not self.interrupt_mask & 1 and self.waiting())

    def waiting(self) -> bool:
        return any(cq.interrupts and not cq.empty for cq in self.completion.values())

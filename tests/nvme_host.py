# SPDX-License-Identifier: GPL-2.0-only
"""The host's side of an NVMe controller, without a machine: memory, queues and a driver."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Any

from uvfio.devices.nvme import Nvme

PAGE = 4096
ADMIN_SQ, ADMIN_CQ, IO_SQ, IO_CQ, DATA = 0x2000, 0x4000, 0x6000, 0x8000, 0x10000
ENTRIES = 16
CC_ON = 6 << 16 | 4 << 20 | 1


@dataclass
class Upstream:
    """The slot the controller sits in. *holes*: addresses of pages that it may not reach."""

    memory: bytearray = field(default_factory=lambda: bytearray(2 << 20))
    holes: set[int] = field(default_factory=set)
    irq_line: bool = False
    messages: list[int] = field(default_factory=list)
    transfers: list[tuple[str, int, int]] = field(default_factory=list)
    bdf: str = "0000:00:01.0"

    def set_intx(self, level: bool) -> None:
        self.irq_line = level

    def raise_msi(self, vector: int) -> None:
        self.messages.append(vector)

    def config_written(self, off: int, size: int) -> None:
        return

    def allowed(self, iova: int, n: int) -> bool:
        pages = set(range(iova // PAGE * PAGE, iova + n, PAGE))
        return iova + n <= len(self.memory) and not pages & self.holes

    def try_dma_read_into(self, iova: int, buffer: memoryview) -> bool:
        self.transfers.append(("read", iova, len(buffer)))
        if not self.allowed(iova, len(buffer)):
            return False
        buffer[:] = self.memory[iova : iova + len(buffer)]
        return True

    def try_dma_write(self, iova: int, data: Any) -> bool:
        self.transfers.append(("write", iova, len(data)))
        if not self.allowed(iova, len(data)):
            return False
        self.memory[iova : iova + len(data)] = data
        return True


@dataclass
class Done:
    result: int
    sq_head: int
    sqid: int
    cid: int
    status: int  # type and code; no retry, phase and the like are stripped


class Host:
    """Enables the controller, and runs one command at a time on queue pair 0 or 1."""

    def __init__(self, nvme: Nvme | None = None, mps: int = 0) -> None:
        self.nvme = nvme or Nvme(size="1M")
        self.slot = Upstream()
        self.nvme.upstream = self.slot
        self.tails = {0: 0, 1: 0}
        self.heads = {0: 0, 1: 0}
        self.phases = {0: 1, 1: 1}
        self.cid = 0
        for off, value in ((0x24, (ENTRIES - 1) << 16 | ENTRIES - 1), (0x14, CC_ON | mps << 7)):
            if off == 0x14:
                self.nvme.bar_write(0, 0x28, 8, ADMIN_SQ)
                self.nvme.bar_write(0, 0x30, 8, ADMIN_CQ)
            self.write(off, value)

    @property
    def memory(self) -> bytearray:
        return self.slot.memory

    def read(self, off: int, size: int = 4) -> int:
        return self.nvme.bar_read(0, off, size)

    def write(self, off: int, value: int) -> None:
        self.nvme.bar_write(0, off, 4, value)

    def put(self, queue: int, opcode: int, nsid: int = 0, prp: tuple[int, int] = (DATA, 0), flags: int = 0,
            **cdw: int) -> int:  # fmt: skip
        """Fill the next entry of *queue*, without the doorbell; its CID."""
        self.cid += 1
        words = [cdw.get(f"cdw{n}", 0) for n in range(10, 16)]
        entry = struct.pack("<BBHI8xQQQ6I", opcode, flags, self.cid, nsid, 0, *prp, *words)
        at = (IO_SQ if queue else ADMIN_SQ) + 64 * self.tails[queue]
        self.memory[at : at + 64] = entry
        self.tails[queue] = (self.tails[queue] + 1) % ENTRIES
        return self.cid

    def ring(self, queue: int) -> None:
        self.write(0x1000 + 8 * queue, self.tails[queue])

    def take(self, queue: int, doorbell: bool = True) -> list[Done]:
        """What has completed."""
        done = []
        while True:
            at = (IO_CQ if queue else ADMIN_CQ) + 16 * self.heads[queue]
            result, _, head, sqid, cid, status = struct.unpack_from("<IIHHHH", self.memory, at)
            if status & 1 != self.phases[queue]:
                break
            done.append(Done(result, head, sqid, cid, status >> 1 & 0x7FF))
            self.heads[queue] = (self.heads[queue] + 1) % ENTRIES
            self.phases[queue] ^= self.heads[queue] == 0
        if doorbell and done:
            self.write(0x1004 + 8 * queue, self.heads[queue])
        return done

    def command(self, queue: int, opcode: int, nsid: int = 0, **rest: Any) -> Done:
        cid = self.put(queue, opcode, nsid, **rest)
        self.ring(queue)
        (done,) = self.take(queue)
        assert done.cid == cid
        return done

    def admin(self, opcode: int, nsid: int = 0, **rest: Any) -> Done:
        return self.command(0, opcode, nsid, **rest)

    def io(self, opcode: int, lba: int = 0, blocks: int = 1, nsid: int = 1, **rest: Any) -> Done:
        words = {"cdw10": lba & 0xFFFFFFFF, "cdw11": lba >> 32, "cdw12": blocks - 1}
        return self.command(1, opcode, nsid, **{**words, **rest})

    def create_queues(self, interrupts: bool = True) -> Host:
        size = (ENTRIES - 1) << 16 | 1
        assert self.admin(0x05, prp=(IO_CQ, 0), cdw10=size, cdw11=1 | interrupts << 1).status == 0
        assert self.admin(0x01, prp=(IO_SQ, 0), cdw10=size, cdw11=1 << 16 | 1).status == 0
        return self

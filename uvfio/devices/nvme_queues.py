# SPDX-License-Identifier: GPL-2.0-only
"""
Submission and completion queues of an NVMe controller (NVMe 1.4, chapter 4).

Commands are fetched many at a time, carried out in order, and their completions stored
and interrupted for together: that is what a batch saves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvfio.devices.nvme_spec import COMPLETION, CQE_SIZE, SQE_SIZE

if TYPE_CHECKING:
    from uvfio.devices.nvme import Nvme

BATCH = 64  # commands; the host sees none of their completions before all are done


class CompletionQueue:
    def __init__(self, qid: int, base: int, size: int, vector: int, interrupts: bool) -> None:
        self.qid = qid
        self.base = base
        self.size = size  # entries
        self.vector = vector
        self.interrupts = interrupts
        self.head = 0  # what the host has taken
        self.tail = 0
        self.phase = 1
        self.filling: list[SubmissionQueue] = []

    @property
    def room(self) -> int:
        return (self.head - self.tail - 1) % self.size

    @property
    def empty(self) -> bool:
        return self.head == self.tail

    def post(self, nvme: Nvme, completions: list[tuple[int, int, int, int, int]]) -> bool:
        """Store (result, SQ head, SQ identifier, CID, status) each; False if the host's memory refused."""
        start, data = self.tail, bytearray()
        for result, sq_head, sqid, cid, status in completions:
            data += COMPLETION.pack(result, 0, sq_head, sqid, cid, status << 1 | self.phase)
            self.tail += 1
            if self.tail == self.size:
                if not nvme.dma_write(self.base + start * CQE_SIZE, data):
                    return False
                self.tail, self.phase, start, data = 0, self.phase ^ 1, 0, bytearray()
        return not data or nvme.dma_write(self.base + start * CQE_SIZE, data)


class SubmissionQueue:
    def __init__(self, qid: int, base: int, size: int, cq: CompletionQueue) -> None:
        self.qid = qid
        self.base = base
        self.size = size
        self.cq = cq
        self.head = 0
        self.tail = 0  # what the host has filled
        cq.filling.append(self)

    def fetch(self, nvme: Nvme, limit: int) -> bytearray | None:
        """The next commands, as many as can be completed; none without room, None if memory refused."""
        head = self.head
        waiting = (self.tail if self.tail >= head else self.size) - head  # up to where the ring turns
        count = min(waiting, self.cq.room, limit)
        data = bytearray(count * SQE_SIZE)
        if count and not nvme.dma_read_into(self.base + head * SQE_SIZE, memoryview(data)):
            return None
        return data

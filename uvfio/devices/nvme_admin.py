# SPDX-License-Identifier: GPL-2.0-only
"""Admin commands of an NVMe controller (NVMe 1.4, chapter 5)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from uvfio.devices import nvme_features, nvme_identify, nvme_logs, nvme_virtual
from uvfio.devices.nvme_data import device_to_host, pieces
from uvfio.devices.nvme_queues import CompletionQueue, SubmissionQueue
from uvfio.devices.nvme_spec import (
    ABORT,
    ABORT_REQUESTED,
    ASYNC_EVENT_REQUEST,
    CC_IOCQES_SHIFT,
    CC_IOSQES_SHIFT,
    COMPLETION_QUEUE_INVALID,
    CREATE_CQ,
    CREATE_SQ,
    DELETE_CQ,
    DELETE_SQ,
    F_QUEUES,
    FUSE,
    GET_FEATURES,
    GET_LOG_PAGE,
    IDENTIFY,
    INVALID_FIELD,
    INVALID_INTERRUPT_VECTOR,
    INVALID_OPCODE,
    INVALID_PRP_OFFSET,
    INVALID_QUEUE_DELETION,
    INVALID_QUEUE_IDENTIFIER,
    INVALID_QUEUE_SIZE,
    PSDT_SHIFT,
    SET_FEATURES,
    TOO_MANY_EVENT_REQUESTS,
    VIRTUALIZATION_MANAGEMENT,
    Command,
    CommandFailed,
)

if TYPE_CHECKING:
    from uvfio.devices.nvme import Nvme

Execute = Callable[["Nvme", Command], int | None]
CONTIGUOUS, INTERRUPTS = 1 << 0, 1 << 1  # in double word 11 of the commands that create queues


def execute(nvme: Nvme, command: Command) -> int | None:
    """Carry *command* out; double word 0 of its completion, None if it completes later. CommandFailed."""
    run = COMMANDS.get(command.opcode)
    if run is None:
        raise CommandFailed(INVALID_OPCODE)
    # On PCI Express, admin commands have PRPs.
    if command.flags & FUSE or command.flags >> PSDT_SHIFT:
        raise CommandFailed(INVALID_FIELD)
    return run(nvme, command)


def _send(content: Callable[[Nvme, Command], bytes]) -> Execute:
    """A command that returns data."""

    def run(nvme: Nvme, command: Command) -> int:
        data = content(nvme, command)
        device_to_host(nvme, pieces(nvme, command, len(data)), memoryview(data))
        return 0

    return run


def create_cq(nvme: Nvme, command: Command) -> int:
    qid, size = command.cdw10 & 0xFFFF, (command.cdw10 >> 16) + 1
    vector = command.cdw11 >> 16
    _new_queue(nvme, command, qid, size, nvme.completion, nvme.features.values[F_QUEUES] >> 16)
    if nvme.CC >> CC_IOCQES_SHIFT & 0xF != 4:
        raise CommandFailed(INVALID_QUEUE_SIZE)
    if vector >= nvme.vectors:
        raise CommandFailed(INVALID_INTERRUPT_VECTOR)
    nvme.completion[qid] = CompletionQueue(qid, command.prp1, size, vector, bool(command.cdw11 & INTERRUPTS))
    return 0


def create_sq(nvme: Nvme, command: Command) -> int:
    qid, size = command.cdw10 & 0xFFFF, (command.cdw10 >> 16) + 1
    cqid = command.cdw11 >> 16
    most = nvme.features.values[F_QUEUES]
    _new_queue(nvme, command, qid, size, nvme.submission, most & 0xFFFF)
    if nvme.CC >> CC_IOSQES_SHIFT & 0xF != 6:
        raise CommandFailed(INVALID_QUEUE_SIZE)
    if not 0 < cqid <= (most >> 16) + 1:
        raise CommandFailed(INVALID_QUEUE_IDENTIFIER)
    if cqid not in nvme.completion:
        raise CommandFailed(COMPLETION_QUEUE_INVALID)
    nvme.submission[qid] = SubmissionQueue(qid, command.prp1, size, nvme.completion[cqid])
    return 0


def _new_queue(nvme: Nvme, command: Command, qid: int, size: int, queues: Mapping[int, object], most: int) -> None:
    """Check what both kinds have in common; *most* counts from 0."""
    if not 0 < qid <= most + 1 or qid in queues:
        raise CommandFailed(INVALID_QUEUE_IDENTIFIER)
    if not 2 <= size <= nvme.max_entries:
        raise CommandFailed(INVALID_QUEUE_SIZE)
    if not command.cdw11 & CONTIGUOUS:
        raise CommandFailed(INVALID_FIELD)
    if command.prp1 % nvme.page_size:
        raise CommandFailed(INVALID_PRP_OFFSET)


def delete_sq(nvme: Nvme, command: Command) -> int:
    qid = command.cdw10 & 0xFFFF
    if not qid or qid not in nvme.submission:
        raise CommandFailed(INVALID_QUEUE_IDENTIFIER)
    queue = nvme.submission.pop(qid)
    queue.cq.filling.remove(queue)
    queue.tail = queue.head  # what waits for room is not carried out any more
    return 0


def delete_cq(nvme: Nvme, command: Command) -> int:
    qid = command.cdw10 & 0xFFFF
    if not qid or qid not in nvme.completion:
        raise CommandFailed(INVALID_QUEUE_IDENTIFIER)
    if nvme.completion[qid].filling:
        raise CommandFailed(INVALID_QUEUE_DELETION)
    del nvme.completion[qid]
    nvme.update_line()
    return 0


def abort(nvme: Nvme, command: Command) -> int:
    """Only event requests wait; anything else has been done before this command came."""
    sqid, cid = command.cdw10 & 0xFFFF, command.cdw10 >> 16
    if sqid or cid not in nvme.event_requests or nvme.completion[0].room < 2:
        return 1  # not aborted
    nvme.event_requests.remove(cid)
    nvme.complete(nvme.completion[0], [(0, nvme.submission[0].head, 0, cid, ABORT_REQUESTED)])
    return 0


def async_event_request(nvme: Nvme, command: Command) -> None:
    if len(nvme.event_requests) >= nvme_identify.EVENT_REQUESTS:
        raise CommandFailed(TOO_MANY_EVENT_REQUESTS)
    nvme.event_requests.append(command.cid)


COMMANDS: Mapping[int, Execute] = MappingProxyType(
    {
        DELETE_SQ: delete_sq,
        CREATE_SQ: create_sq,
        GET_LOG_PAGE: _send(lambda nvme, command: nvme_logs.get_log_page(nvme, command)),
        DELETE_CQ: delete_cq,
        CREATE_CQ: create_cq,
        IDENTIFY: _send(lambda nvme, command: nvme_identify.identify(nvme, command)),
        ABORT: abort,
        SET_FEATURES: lambda nvme, command: nvme_features.set_features(nvme, command),
        GET_FEATURES: lambda nvme, command: nvme_features.get_features(nvme, command),
        ASYNC_EVENT_REQUEST: async_event_request,
        VIRTUALIZATION_MANAGEMENT: nvme_virtual.virtualization_management,
    }
)

# SPDX-License-Identifier: GPL-2.0-only
"""Numbers and formats of the NVM Express Base Specification 1.4, in its order."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

VERSION = 0x00010400
DOORBELLS = 0x1000  # of queue 0; each queue has a tail (submission) and a head (completion)

# 3.1.5 CC and 3.1.6 CSTS
CC_EN = 1 << 0
CC_CSS_SHIFT, CC_MPS_SHIFT, CC_AMS_SHIFT, CC_SHN_SHIFT, CC_IOSQES_SHIFT, CC_IOCQES_SHIFT = 4, 7, 11, 14, 16, 20
CC_SHN = 3 << CC_SHN_SHIFT
CSTS_RDY = 1 << 0
CSTS_CFS = 1 << 1
CSTS_SHST = 3 << 2
CSTS_SHST_COMPLETE = 2 << 2

# 4.2: a submission queue entry, without the reserved double words 2 and 3
COMMAND = struct.Struct("<BBHI8xQQQ6I")
SQE_SIZE = 64
PSDT_SHIFT = 6  # in the flags: 0 PRPs, 1 SGL and contiguous metadata, 2 SGL and its SGL
FUSE = 3


class Command(NamedTuple):
    """A submission queue entry. *prp1* and *prp2* together are the first SGL descriptor."""

    opcode: int
    flags: int
    cid: int
    nsid: int
    mptr: int
    prp1: int
    prp2: int
    cdw10: int
    cdw11: int
    cdw12: int
    cdw13: int
    cdw14: int
    cdw15: int


# 4.4: SGL descriptors, by their type
SGL_DESCRIPTOR = struct.Struct("<QI3xB")
SGL_SIZE = 16
SGL_DATA_BLOCK, SGL_BIT_BUCKET, SGL_SEGMENT, SGL_LAST_SEGMENT = 0, 1, 2, 3

# 4.6: a completion queue entry: result, reserved, SQ head, SQ identifier, CID, phase and status
COMPLETION = struct.Struct("<IIHHHH")
CQE_SIZE = 16

# 4.6.1: status codes; the type is in bits 8 to 10
SUCCESS = 0x000
INVALID_OPCODE = 0x001
INVALID_FIELD = 0x002
DATA_TRANSFER_ERROR = 0x004
INTERNAL_ERROR = 0x006
ABORT_REQUESTED = 0x007
INVALID_NAMESPACE = 0x00B
COMMAND_SEQUENCE_ERROR = 0x00C
INVALID_SGL_SEGMENT = 0x00D
INVALID_SGL_COUNT = 0x00E
INVALID_SGL_LENGTH = 0x00F
INVALID_SGL_TYPE = 0x011
INVALID_PRP_OFFSET = 0x013
WRITE_PROTECTED = 0x020
LBA_OUT_OF_RANGE = 0x080
COMPLETION_QUEUE_INVALID = 0x100
INVALID_QUEUE_IDENTIFIER = 0x101
INVALID_QUEUE_SIZE = 0x102
TOO_MANY_EVENT_REQUESTS = 0x105
INVALID_INTERRUPT_VECTOR = 0x108
INVALID_LOG_PAGE = 0x109
INVALID_QUEUE_DELETION = 0x10C
FEATURE_NOT_SAVEABLE = 0x10D
FEATURE_NOT_CHANGEABLE = 0x10E
INVALID_CONTROLLER = 0x11F
INVALID_SECONDARY_STATE = 0x120
INVALID_RESOURCE_COUNT = 0x121
INVALID_RESOURCE = 0x122
WRITE_FAULT = 0x280
UNRECOVERED_READ_ERROR = 0x281
COMPARE_FAILURE = 0x285
DO_NOT_RETRY = 1 << 14
# The same command may well succeed later.
RETRYABLE = frozenset((DATA_TRANSFER_ERROR, INTERNAL_ERROR, ABORT_REQUESTED, WRITE_FAULT, UNRECOVERED_READ_ERROR))


class CommandFailed(Exception):
    """The command completes with *status*."""

    def __init__(self, status: int) -> None:
        super().__init__(f"status {status:#x}")
        self.status = status


# 5: admin commands
DELETE_SQ, CREATE_SQ, GET_LOG_PAGE, DELETE_CQ, CREATE_CQ, IDENTIFY = 0x00, 0x01, 0x02, 0x04, 0x05, 0x06
ABORT, SET_FEATURES, GET_FEATURES, ASYNC_EVENT_REQUEST = 0x08, 0x09, 0x0A, 0x0C
VIRTUALIZATION_MANAGEMENT = 0x1C  # of a primary controller that has secondary ones
ADMIN_COMMANDS = (
    *(DELETE_SQ, CREATE_SQ, GET_LOG_PAGE, DELETE_CQ, CREATE_CQ, IDENTIFY),
    *(ABORT, SET_FEATURES, GET_FEATURES, ASYNC_EVENT_REQUEST),
    VIRTUALIZATION_MANAGEMENT,
)

# 5.2.1: asynchronous events: type, information, the log page that tells more
EVENT_INVALID_DOORBELL = (0, 0, 1)
EVENT_INVALID_DOORBELL_VALUE = (0, 1, 1)
EVENT_TEMPERATURE = (1, 1, 2)

# 5.14: log pages
LOG_ERROR, LOG_SMART, LOG_FIRMWARE, LOG_EFFECTS = 1, 2, 3, 5

# 5.15: which structure Identify is to return
CNS_NAMESPACE, CNS_CONTROLLER, CNS_ACTIVE_NAMESPACES, CNS_NAMESPACE_DESCRIPTORS = 0, 1, 2, 3
CNS_PRIMARY_CAPABILITIES, CNS_SECONDARY_LIST = 0x14, 0x15
IDENTIFY_SIZE = 4096
ALL_NAMESPACES = 0xFFFF_FFFF

# 5.21: features
F_ARBITRATION, F_POWER, F_TEMPERATURE, F_ERROR_RECOVERY, F_WRITE_CACHE, F_QUEUES = 1, 2, 4, 5, 6, 7
F_COALESCING, F_VECTOR, F_ATOMICITY, F_EVENTS = 8, 9, 10, 11

# 6: commands of the NVM command set
FLUSH, WRITE, READ, COMPARE, WRITE_ZEROES, DATASET_MANAGEMENT, VERIFY = 0x00, 0x01, 0x02, 0x05, 0x08, 0x09, 0x0C
NVM_COMMANDS = (FLUSH, WRITE, READ, COMPARE, WRITE_ZEROES, DATASET_MANAGEMENT, VERIFY)
FUA = 1 << 30  # in double word 12
DEALLOCATE = 1 << 2  # in double word 11 of Dataset Management
RANGE = struct.Struct("<IIQ")


Field = tuple[int, str, object]  # where, as struct says, what


def layout(fields: Iterable[Field]) -> bytes:
    """What Identify returns, field by field; the rest is zero."""
    data = bytearray(IDENTIFY_SIZE)
    for at, how, value in fields:
        struct.pack_into("<" + how, data, at, value)
    return bytes(data)

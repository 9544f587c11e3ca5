# SPDX-License-Identifier: GPL-2.0-only
"""Log pages of an NVMe controller (NVMe 1.4, section 5.14)."""

from __future__ import annotations

import struct
from collections import deque
from typing import TYPE_CHECKING

from uvfio.devices.nvme_spec import (
    ADMIN_COMMANDS,
    ALL_NAMESPACES,
    COMPARE,
    DATASET_MANAGEMENT,
    INVALID_FIELD,
    INVALID_LOG_PAGE,
    INVALID_NAMESPACE,
    LOG_EFFECTS,
    LOG_ERROR,
    LOG_FIRMWARE,
    LOG_SMART,
    NVM_COMMANDS,
    READ,
    VIRTUALIZATION_MANAGEMENT,
    WRITE,
    WRITE_ZEROES,
    Command,
    CommandFailed,
)

if TYPE_CHECKING:
    from uvfio.devices.nvme import Nvme

FIRMWARE = b"1.0     "
TEMPERATURE = 313  # kelvin
WARNING_TEMPERATURE = 343
CRITICAL_TEMPERATURE = 353
ERROR_ENTRIES = 64
ERROR_ENTRY = struct.Struct("<QHHHHQIBBHQ24x")
UNIT = 512_000  # bytes that SMART counts as one

SUPPORTED_EFFECT, CHANGES_DATA = 1 << 0, 1 << 1
WRITERS = (WRITE, WRITE_ZEROES, DATASET_MANAGEMENT)


class NvmeLogs:
    """What is counted. It outlives resets."""

    def __init__(self) -> None:
        self.errors: deque[bytes] = deque(maxlen=ERROR_ENTRIES)
        self.error_count = 0
        self.bytes_read = 0
        self.bytes_written = 0
        self.reads = 0
        self.writes = 0

    def count_read(self, length: int) -> None:
        self.reads += 1
        self.bytes_read += length

    def count_write(self, length: int) -> None:
        self.writes += 1
        self.bytes_written += length

    def error(self, sqid: int, command: Command, status: int) -> None:
        self.error_count += 1
        blocks = sqid and command.opcode in (READ, WRITE, COMPARE, WRITE_ZEROES)
        lba = command.cdw11 << 32 | command.cdw10 if blocks else 0
        # No parameter is to blame in particular: FFFFh.
        self.errors.appendleft(
            ERROR_ENTRY.pack(self.error_count, sqid, command.cid, status << 1, 0xFFFF, lba, command.nsid, 0, 0, 0, 0)
        )

    def smart(self, warning: int) -> bytes:
        page = bytearray(512)
        page[0] = warning
        struct.pack_into("<HBB", page, 1, TEMPERATURE, 100, 10)  # and the spare: available, threshold, in percent
        for at, value in (
            (32, -(-self.bytes_read // UNIT)),
            (48, -(-self.bytes_written // UNIT)),
            (64, self.reads),
            (80, self.writes),
            (112, 1),  # power cycles
            (176, self.error_count),
        ):
            page[at : at + 16] = value.to_bytes(16, "little")
        return bytes(page)


def get_log_page(nvme: Nvme, command: Command) -> bytes:
    """The part of a log page that *command* asks for."""
    page, keep_event = command.cdw10 & 0xFF, command.cdw10 >> 15 & 1
    length = 4 * ((command.cdw11 & 0xFFFF) << 16 | command.cdw10 >> 16) + 4
    offset = command.cdw13 << 32 | command.cdw12
    if command.nsid not in (0, ALL_NAMESPACES):
        valid = 0 < command.nsid <= len(nvme.namespaces)
        raise CommandFailed(INVALID_FIELD if valid else INVALID_NAMESPACE)  # no log is of one namespace only
    content = _content(nvme, page)
    if offset & 3 or offset > len(content) or length > len(nvme.buffer):
        raise CommandFailed(INVALID_FIELD)
    if not keep_event:
        nvme.silenced.discard({LOG_ERROR: 0, LOG_SMART: 1}.get(page, -1))
    return content[offset : offset + length].ljust(length, b"\0")


def _content(nvme: Nvme, page: int) -> bytes:
    if page == LOG_ERROR:
        return b"".join(nvme.logs.errors).ljust(ERROR_ENTRIES * ERROR_ENTRY.size, b"\0")
    if page == LOG_SMART:
        return nvme.logs.smart(2 if nvme.features.too_hot else 0)
    if page == LOG_FIRMWARE:
        return (b"\x01" + bytes(7) + FIRMWARE).ljust(512, b"\0")  # slot 1 is active
    if page == LOG_EFFECTS:
        return _effects(nvme)
    raise CommandFailed(INVALID_LOG_PAGE)


def _effects(nvme: Nvme) -> bytes:
    page = bytearray(4096)
    for opcode in ADMIN_COMMANDS:
        if opcode == VIRTUALIZATION_MANAGEMENT and nvme.virtualization is None:
            continue
        struct.pack_into("<I", page, 4 * opcode, SUPPORTED_EFFECT)
    for opcode in NVM_COMMANDS:
        changes = CHANGES_DATA if opcode in WRITERS else 0
        struct.pack_into("<I", page, 1024 + 4 * opcode, SUPPORTED_EFFECT | changes)
    return bytes(page)

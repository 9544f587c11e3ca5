# SPDX-License-Identifier: GPL-2.0-only
"""
Where a command's data is in host memory: PRPs (4.3) and SGLs (4.4) of NVMe 1.4.

Neighbours are merged: what lies in one piece is moved in one piece.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from uvfio.devices.nvme_spec import (
    DATA_TRANSFER_ERROR,
    INVALID_FIELD,
    INVALID_PRP_OFFSET,
    INVALID_SGL_COUNT,
    INVALID_SGL_LENGTH,
    INVALID_SGL_SEGMENT,
    INVALID_SGL_TYPE,
    PSDT_SHIFT,
    SGL_BIT_BUCKET,
    SGL_DATA_BLOCK,
    SGL_DESCRIPTOR,
    SGL_LAST_SEGMENT,
    SGL_SEGMENT,
    SGL_SIZE,
    Command,
    CommandFailed,
)

if TYPE_CHECKING:
    from uvfio.devices.nvme import Nvme

Pieces = list[tuple[int, int]]  # address and length
MAX_SEGMENT = 4096  # descriptors; more is an error, not a way to keep the controller busy for ever
NOWHERE = -1  # the address of a bit bucket


def pieces(nvme: Nvme, command: Command, length: int) -> Pieces:
    """The *length* bytes that *command* points at. CommandFailed if it does not do so properly."""
    psdt = command.flags >> PSDT_SHIFT
    if psdt == 0:
        return prp_pieces(nvme, command.prp1, command.prp2, length)
    if psdt == 3:
        raise CommandFailed(INVALID_FIELD)
    return sgl_pieces(nvme, command.prp1, command.prp2, length)


def host_to_device(nvme: Nvme, where: Pieces, buffer: memoryview) -> None:
    done = 0
    for address, length in where:
        if address == NOWHERE:
            raise CommandFailed(INVALID_SGL_TYPE)
        if not nvme.dma_read_into(address, buffer[done : done + length]):
            raise CommandFailed(DATA_TRANSFER_ERROR)
        done += length


def device_to_host(nvme: Nvme, where: Pieces, data: memoryview) -> None:
    done = 0
    for address, length in where:
        if address != NOWHERE and not nvme.dma_write(address, data[done : done + length]):
            raise CommandFailed(DATA_TRANSFER_ERROR)
        done += length


def prp_pieces(nvme: Nvme, prp1: int, prp2: int, length: int) -> Pieces:
    """One page at *prp1*; the rest is the page at *prp2* or, if it is more, in the list there."""
    page = nvme.page_size
    if prp1 & 3:
        raise CommandFailed(INVALID_PRP_OFFSET)
    first = min(length, page - prp1 % page)
    found = [(prp1, first)]
    rest = length - first
    if 0 < rest <= page:
        _append_page(found, prp2, rest, page)
        return found
    at = prp2
    while rest > 0:
        if at & 7:
            raise CommandFailed(INVALID_PRP_OFFSET)
        needed, room = -(-rest // page), (page - at % page) // 8
        # A list that is longer than its page goes on where its last entry says.
        linked = needed > room
        entries = _fetch(nvme, at, 8 * min(needed, room))
        addresses = struct.unpack(f"<{len(entries) // 8}Q", entries)
        for address in addresses[:-1] if linked else addresses:
            _append_page(found, address, min(rest, page), page)
            rest -= page
        at = addresses[-1]
        if linked and room == 1 and at % page == page - 8:
            raise CommandFailed(INVALID_PRP_OFFSET)  # lists of links only would never end
    return found


def _append_page(found: Pieces, address: int, length: int, page: int) -> None:
    if address % page:
        raise CommandFailed(INVALID_PRP_OFFSET)
    last, size = found[-1]
    if last + size == address:
        found[-1] = (last, size + length)
    else:
        found.append((address, length))


def sgl_pieces(nvme: Nvme, low: int, high: int, length: int) -> Pieces:
    """From the descriptor in the command, through the segments. They must hold *length* bytes at least."""
    found: Pieces = []
    segment = bytearray(struct.pack("<QQ", low, high))
    total, last = 0, False
    for _hop in range(MAX_SEGMENT):
        following: tuple[int, int] | None = None
        for at in range(0, len(segment), SGL_SIZE):
            if following is not None:
                raise CommandFailed(INVALID_SGL_SEGMENT)  # a segment descriptor must be the last one
            address, size, identifier = SGL_DESCRIPTOR.unpack_from(segment, at)
            if identifier & 0xF:
                raise CommandFailed(INVALID_SGL_TYPE)  # addresses only; no offsets, no transport's own
            kind = identifier >> 4
            if kind in (SGL_DATA_BLOCK, SGL_BIT_BUCKET):
                used = min(size, length - total)
                if used:
                    found.append((address if kind == SGL_DATA_BLOCK else NOWHERE, used))
                total += used
            elif kind not in (SGL_SEGMENT, SGL_LAST_SEGMENT):
                raise CommandFailed(INVALID_SGL_TYPE)
            elif last or size % SGL_SIZE or not size or size > MAX_SEGMENT * SGL_SIZE:
                raise CommandFailed(INVALID_SGL_SEGMENT)
            else:
                following, last = (address, size), kind == SGL_LAST_SEGMENT
        if following is None:
            if total < length:
                raise CommandFailed(INVALID_SGL_LENGTH)
            return found
        segment = _fetch(nvme, *following)
    raise CommandFailed(INVALID_SGL_COUNT)


def _fetch(nvme: Nvme, address: int, length: int) -> bytearray:
    data = bytearray(length)
    if not nvme.dma_read_into(address, memoryview(data)):
        raise CommandFailed(DATA_TRANSFER_ERROR)
    return data

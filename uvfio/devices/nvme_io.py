# SPDX-License-Identifier: GPL-2.0-only
"""Commands of the NVM command set (NVMe 1.4, chapter 6)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from uvfio.devices.nvme_data import device_to_host, host_to_device, pieces
from uvfio.devices.nvme_namespace import NvmeNamespace
from uvfio.devices.nvme_spec import (
    ALL_NAMESPACES,
    COMPARE,
    COMPARE_FAILURE,
    DATASET_MANAGEMENT,
    DEALLOCATE,
    FLUSH,
    FUA,
    FUSE,
    INVALID_FIELD,
    INVALID_NAMESPACE,
    INVALID_OPCODE,
    LBA_OUT_OF_RANGE,
    RANGE,
    READ,
    VERIFY,
    WRITE,
    WRITE_ZEROES,
    Command,
    CommandFailed,
)

if TYPE_CHECKING:
    from uvfio.devices.nvme import Nvme

Execute = Callable[["Nvme", Command], None]


def execute(nvme: Nvme, command: Command) -> int:
    """Carry *command* out; double word 0 of its completion. CommandFailed."""
    run = COMMANDS.get(command.opcode)
    if run is None:
        raise CommandFailed(INVALID_OPCODE)
    if command.flags & FUSE:
        raise CommandFailed(INVALID_FIELD)
    run(nvme, command)
    return 0


def namespace_of(nvme: Nvme, command: Command) -> NvmeNamespace:
    if not 0 < command.nsid <= len(nvme.namespaces):
        raise CommandFailed(INVALID_NAMESPACE)
    return nvme.namespaces[command.nsid - 1]


def extent(namespace: NvmeNamespace, command: Command, limit: int) -> tuple[int, int]:
    """(offset, length) in bytes of the blocks that *command* names; at most *limit* bytes."""
    start, count = command.cdw11 << 32 | command.cdw10, (command.cdw12 & 0xFFFF) + 1
    length = count * namespace.block_size
    if length > limit:
        raise CommandFailed(INVALID_FIELD)
    if start + count > namespace.blocks:
        raise CommandFailed(LBA_OUT_OF_RANGE)
    return start * namespace.block_size, length


def read(nvme: Nvme, command: Command) -> None:
    namespace = namespace_of(nvme, command)
    offset, length = extent(namespace, command, len(nvme.buffer))
    where = pieces(nvme, command, length)
    buffer = nvme.buffer[:length]
    namespace.read_into(offset, buffer)
    device_to_host(nvme, where, buffer)
    nvme.logs.count_read(length)


def write(nvme: Nvme, command: Command) -> None:
    namespace = namespace_of(nvme, command)
    namespace.must_be_writable()
    offset, length = extent(namespace, command, len(nvme.buffer))
    buffer = nvme.buffer[:length]
    host_to_device(nvme, pieces(nvme, command, length), buffer)
    namespace.write_from(offset, buffer)
    persist(nvme, namespace, command)
    nvme.logs.count_write(length)


def compare(nvme: Nvme, command: Command) -> None:
    namespace = namespace_of(nvme, command)
    offset, length = extent(namespace, command, len(nvme.buffer))
    theirs, ours = nvme.buffer[:length], memoryview(bytearray(length))
    host_to_device(nvme, pieces(nvme, command, length), theirs)
    namespace.read_into(offset, ours)
    nvme.logs.count_read(length)
    if theirs != ours:
        raise CommandFailed(COMPARE_FAILURE)


def verify(nvme: Nvme, command: Command) -> None:
    namespace = namespace_of(nvme, command)
    offset, length = extent(namespace, command, len(nvme.buffer))
    namespace.read_into(offset, nvme.buffer[:length])


def write_zeroes(nvme: Nvme, command: Command) -> None:
    namespace = namespace_of(nvme, command)
    namespace.must_be_writable()
    offset, length = extent(namespace, command, namespace.block_size << 16)
    namespace.zero(offset, length)
    persist(nvme, namespace, command)


def flush(nvme: Nvme, command: Command) -> None:
    chosen = nvme.namespaces if command.nsid == ALL_NAMESPACES else [namespace_of(nvme, command)]
    for namespace in chosen:
        if not namespace.readonly:
            namespace.flush()


def dataset_management(nvme: Nvme, command: Command) -> None:
    """Ranges that are deallocated read as zeroes; all other hints are taken and forgotten."""
    namespace = namespace_of(nvme, command)
    data = memoryview(bytearray(((command.cdw10 & 0xFF) + 1) * RANGE.size))
    host_to_device(nvme, pieces(nvme, command, len(data)), data)
    ranges = [(start, count) for _attributes, count, start in RANGE.iter_unpack(data)]
    if any(start + count > namespace.blocks for start, count in ranges):
        raise CommandFailed(LBA_OUT_OF_RANGE)
    if command.cdw11 & DEALLOCATE:
        namespace.must_be_writable()
        for start, count in ranges:
            namespace.zero(start * namespace.block_size, count * namespace.block_size)


def persist(nvme: Nvme, namespace: NvmeNamespace, command: Command) -> None:
    """What must not be in a volatile cache when the command completes."""
    if command.cdw12 & FUA or not nvme.features.write_cache:
        namespace.flush()


COMMANDS: Mapping[int, Execute] = MappingProxyType(
    {
        FLUSH: flush,
        WRITE: write,
        READ: read,
        COMPARE: compare,
        WRITE_ZEROES: write_zeroes,
        DATASET_MANAGEMENT: dataset_management,
        VERIFY: verify,
    }
)

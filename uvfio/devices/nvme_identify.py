# SPDX-License-Identifier: GPL-2.0-only
"""What Identify returns (NVMe 1.4, section 5.15), field by field."""

from __future__ import annotations

import struct
import uuid
from collections.abc import Sequence
from typing import TYPE_CHECKING

from uvfio.devices.nvme_logs import CRITICAL_TEMPERATURE, ERROR_ENTRIES, FIRMWARE, WARNING_TEMPERATURE
from uvfio.devices.nvme_spec import (
    ALL_NAMESPACES,
    CNS_ACTIVE_NAMESPACES,
    CNS_CONTROLLER,
    CNS_NAMESPACE,
    CNS_NAMESPACE_DESCRIPTORS,
    CNS_PRIMARY_CAPABILITIES,
    CNS_SECONDARY_LIST,
    IDENTIFY_SIZE,
    INVALID_FIELD,
    INVALID_NAMESPACE,
    VERSION,
    Command,
    CommandFailed,
    Field,
    layout,
)
from uvfio.devices.nvme_virtual import primary_capabilities, secondary_list

if TYPE_CHECKING:
    from uvfio.devices.nvme import Nvme

MODEL = "uvfio NVMe controller"
EVENT_REQUESTS = 4
NIDT_UUID = 3
UUIDS = uuid.UUID("6d5bd1c4-6c6e-5a1d-9c53-0d3c8f4bb0a9")  # the name space of our names

# Optional commands: compare, dataset management, write zeroes, select in Get Features, verify.
ONCS = 1 << 0 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 7
OACS_VIRTUALIZATION = 1 << 7
# Log pages may be read in parts; there is a commands supported and effects log.
LPA = 1 << 1 | 1 << 2
# A volatile write cache; Flush may name all namespaces.
VWC = 1 << 0 | 3 << 1
# SGLs without alignment; bit buckets; SGLs longer than the data.
SGLS = 1 << 0 | 1 << 16 | 1 << 18
# Deallocated blocks read as zeroes; Write Zeroes may deallocate.
DLFEAT = 1 << 0 | 1 << 3


def identify(nvme: Nvme, command: Command) -> bytes:
    cns = command.cdw10 & 0xFF
    if cns == CNS_CONTROLLER:
        return layout(_controller(nvme))
    if cns == CNS_ACTIVE_NAMESPACES:
        if command.nsid >= ALL_NAMESPACES - 1:
            raise CommandFailed(INVALID_NAMESPACE)
        following = range(command.nsid + 1, len(nvme.namespaces) + 1)[: IDENTIFY_SIZE // 4]
        return struct.pack(f"<{len(following)}I", *following).ljust(IDENTIFY_SIZE, b"\0")
    if nvme.virtualization is not None and cns == CNS_PRIMARY_CAPABILITIES:
        return primary_capabilities(nvme.virtualization)
    if nvme.virtualization is not None and cns == CNS_SECONDARY_LIST:
        return secondary_list(nvme.virtualization, command.cdw10 >> 16)
    if cns not in (CNS_NAMESPACE, CNS_NAMESPACE_DESCRIPTORS):
        raise CommandFailed(INVALID_FIELD)
    if not 0 < command.nsid <= len(nvme.namespaces):
        raise CommandFailed(INVALID_NAMESPACE)
    if cns == CNS_NAMESPACE:
        return layout(_namespace(nvme, command.nsid))
    name = uuid.uuid5(UUIDS, f"{nvme.serial}/{command.nsid}").bytes
    return (bytes((NIDT_UUID, len(name), 0, 0)) + name).ljust(IDENTIFY_SIZE, b"\0")


def _controller(nvme: Nvme) -> Sequence[Field]:
    nqn = f"nqn.2026-11.org.uvfio:{nvme.serial}"
    return (
        (0, "H", nvme.vendor),
        (2, "H", nvme.subsystem[0]),
        (4, "20s", nvme.serial.encode().ljust(20)),
        (24, "40s", MODEL.encode().ljust(40)),
        (64, "8s", FIRMWARE),
        (72, "B", 6),  # RAB: recommended arbitration burst
        (77, "B", nvme.mdts),
        (76, "B", _multi_path(nvme)),  # CMIC
        (78, "H", nvme.cntlid),
        (80, "I", VERSION),
        (111, "B", 1),  # CNTRLTYPE: an I/O controller
        (256, "H", OACS_VIRTUALIZATION if nvme.virtualization is not None else 0),
        (258, "B", 3),  # ACL: aborts at a time
        (259, "B", EVENT_REQUESTS - 1),
        (260, "B", 1 << 1 | 1),  # FRMW: one firmware slot, read-only
        (261, "B", LPA),
        (262, "B", ERROR_ENTRIES - 1),
        (266, "H", WARNING_TEMPERATURE),
        (268, "H", CRITICAL_TEMPERATURE),
        (512, "B", 6 << 4 | 6),  # SQES: entries of 64 bytes
        (513, "B", 4 << 4 | 4),  # CQES: of 16 bytes
        (516, "I", len(nvme.namespaces)),
        (520, "H", ONCS),
        (525, "B", VWC),
        (536, "I", SGLS),
        (768, "256s", nqn.encode()),
        (2048, "H", 2500),  # power state 0: 25 W
    )


def _multi_path(nvme: Nvme) -> int:
    """Is it one of several controllers, and that of a virtual function?"""
    if nvme.virtual:
        return 1 << 1 | 1 << 2
    return 1 << 1 if nvme.virtualization is not None else 0


def _namespace(nvme: Nvme, nsid: int) -> Sequence[Field]:
    namespace = nvme.namespaces[nsid - 1]
    blocks = namespace.blocks
    return (
        (0, "Q", blocks),  # NSZE
        (8, "Q", blocks),  # NCAP
        (16, "Q", blocks),  # NUSE
        (30, "B", int(_multi_path(nvme) != 0)),  # NMIC: shared with other controllers
        (33, "B", DLFEAT),
        (99, "B", int(namespace.readonly)),  # NSATTR: write protected
        (128, "I", (namespace.block_size.bit_length() - 1) << 16),  # LBAF0
    )

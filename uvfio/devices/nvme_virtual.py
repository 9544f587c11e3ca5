# SPDX-License-Identifier: GPL-2.0-only
"""
Secondary controllers of an NVMe subsystem, as its primary controller sees them (NVMe 1.4,
sections 5.22, 5.15.2.13, 5.15.2.14 and 8.5).

A secondary controller is offline until the host has given it queues and interrupt
vectors, the flexible resources, and put it online. Difference from the specification: the
primary controller has no use for flexible resources, and takes none.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING

from uvfio.devices.nvme_spec import (
    INVALID_CONTROLLER,
    INVALID_FIELD,
    INVALID_OPCODE,
    INVALID_RESOURCE,
    INVALID_RESOURCE_COUNT,
    INVALID_SECONDARY_STATE,
    Command,
    CommandFailed,
    Field,
    layout,
)

if TYPE_CHECKING:
    from uvfio.devices.nvme import Nvme

PRIMARY_CNTLID = 1  # secondary ones count on from it
QUEUES, VECTORS = 0, 1  # kinds of flexible resource, in this order
PRIVATE = (32, 32)  # of the primary controller
MOST = (16, 16)  # that a secondary controller can have
SHARE = 8  # how many there are for each secondary controller, of either kind
FEWEST = (2, 1)  # without which it cannot go online: an admin and an I/O queue pair, a vector
LIST_ENTRY, LIST_MAX = 32, 127


@dataclass
class SecondaryController:
    """What the primary controller knows of one. *reset* is called when it goes off or on line."""

    cntlid: int
    vf_number: int  # counts from 1
    reset: Callable[[], None]
    online: bool = False
    resources: list[int] = field(default_factory=lambda: [0, 0])

    def set_online(self, online: bool) -> None:
        """Going offline, it loses its resources."""
        if not online:
            self.resources = [0, 0]
        if self.online != online:
            self.online = online
            self.reset()


class Virtualization:
    """The *secondaries*. *enabled* says how many virtual functions are there."""

    def __init__(self, secondaries: Sequence[SecondaryController], enabled: Callable[[], int]) -> None:
        self.secondaries = secondaries
        self.enabled = enabled

    @property
    def total(self) -> int:
        """Flexible resources, of either kind."""
        return SHARE * len(self.secondaries)

    def assigned(self, kind: int) -> int:
        return sum(each.resources[kind] for each in self.secondaries)

    def all_offline(self) -> None:
        for each in self.secondaries:
            each.set_online(False)


def virtualization_management(nvme: Nvme, command: Command) -> int:
    """Double word 0 of the completion: how many resources were modified."""
    if nvme.virtualization is None:
        raise CommandFailed(INVALID_OPCODE)
    run = ACTIONS.get(command.cdw10 & 0xF)
    if run is None:
        raise CommandFailed(INVALID_FIELD)
    return run(nvme.virtualization, command)


def _secondary(virtualization: Virtualization, command: Command) -> SecondaryController:
    for each in virtualization.secondaries:
        if each.cntlid == command.cdw10 >> 16:
            return each
    raise CommandFailed(INVALID_CONTROLLER)


def _allocate_to_primary(_virtualization: Virtualization, command: Command) -> int:
    if command.cdw10 >> 16 != PRIMARY_CNTLID:
        raise CommandFailed(INVALID_CONTROLLER)
    _kind(command)
    if command.cdw11 & 0xFFFF:
        raise CommandFailed(INVALID_RESOURCE_COUNT)
    return 0


def _assign(virtualization: Virtualization, command: Command) -> int:
    secondary, kind, count = _secondary(virtualization, command), _kind(command), command.cdw11 & 0xFFFF
    if secondary.online:
        raise CommandFailed(INVALID_SECONDARY_STATE)
    left = virtualization.total - virtualization.assigned(kind) + secondary.resources[kind]
    if count > min(MOST[kind], left):
        raise CommandFailed(INVALID_RESOURCE_COUNT)
    secondary.resources[kind] = count
    return count


def _kind(command: Command) -> int:
    kind = command.cdw10 >> 8 & 7
    if kind not in (QUEUES, VECTORS):
        raise CommandFailed(INVALID_RESOURCE)
    return kind


def _offline(virtualization: Virtualization, command: Command) -> int:
    _secondary(virtualization, command).set_online(False)
    return 0


def _online(virtualization: Virtualization, command: Command) -> int:
    secondary = _secondary(virtualization, command)
    few = any(has < needs for has, needs in zip(secondary.resources, FEWEST, strict=True))
    if few or secondary.vf_number > virtualization.enabled():
        raise CommandFailed(INVALID_SECONDARY_STATE)
    secondary.set_online(True)
    return 0


ACTIONS: Mapping[int, Callable[[Virtualization, Command], int]] = MappingProxyType(
    {1: _allocate_to_primary, 7: _offline, 8: _assign, 9: _online}
)


def primary_capabilities(virtualization: Virtualization) -> bytes:
    """What Identify returns for CNS 14h."""
    fields: list[Field] = [(0, "H", PRIMARY_CNTLID), (4, "B", 1 << QUEUES | 1 << VECTORS)]
    for kind, at in ((QUEUES, 32), (VECTORS, 64)):
        fields += [
            (at, "I", virtualization.total),
            (at + 4, "I", virtualization.assigned(kind)),
            (at + 8, "H", 0),  # allocated to the primary controller
            (at + 10, "H", PRIVATE[kind]),
            (at + 12, "H", MOST[kind]),
            (at + 14, "H", 1),  # granularity
        ]
    return layout(fields)


def secondary_list(virtualization: Virtualization, first: int) -> bytes:
    """What Identify returns for CNS 15h: those whose identifier is *first* or more."""
    listed = [each for each in virtualization.secondaries if each.cntlid >= first][:LIST_MAX]
    fields: list[Field] = [(0, "B", len(listed))]
    for number, each in enumerate(listed):
        fields += _entry((number + 1) * LIST_ENTRY, each)
    return layout(fields)


def _entry(at: int, secondary: SecondaryController) -> Sequence[Field]:
    return (
        (at, "H", secondary.cntlid),
        (at + 2, "H", PRIMARY_CNTLID),
        (at + 4, "B", int(secondary.online)),
        (at + 8, "H", secondary.vf_number),
        (at + 10, "H", secondary.resources[QUEUES]),
        (at + 12, "H", secondary.resources[VECTORS]),
    )

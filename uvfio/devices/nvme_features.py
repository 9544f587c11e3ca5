# SPDX-License-Identifier: GPL-2.0-only
"""
Features of an NVMe controller (NVMe 1.4, section 5.21).

None can be saved: after a reset all have their defaults. Interrupt Coalescing,
Arbitration, Power Management and Error Recovery are kept, and change nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from uvfio.devices.nvme_logs import TEMPERATURE, WARNING_TEMPERATURE
from uvfio.devices.nvme_spec import (
    ALL_NAMESPACES,
    COMMAND_SEQUENCE_ERROR,
    EVENT_TEMPERATURE,
    F_ARBITRATION,
    F_ATOMICITY,
    F_COALESCING,
    F_ERROR_RECOVERY,
    F_EVENTS,
    F_POWER,
    F_QUEUES,
    F_TEMPERATURE,
    F_VECTOR,
    F_WRITE_CACHE,
    FEATURE_NOT_SAVEABLE,
    INVALID_FIELD,
    INVALID_NAMESPACE,
    Command,
    CommandFailed,
)

if TYPE_CHECKING:
    from uvfio.devices.nvme import Nvme

CURRENT, DEFAULT, SAVED, SUPPORTED = range(4)  # what Get Features selects
CHANGEABLE, PER_NAMESPACE = 1 << 2, 1 << 1
SAVE = 1 << 31
OVER, UNDER = 0, 1  # kinds of temperature threshold


@dataclass(frozen=True)
class Feature:
    mask: int  # of double word 11 that is kept
    default: int = 0
    flags: int = CHANGEABLE


FEATURES: Mapping[int, Feature] = MappingProxyType(
    {
        F_ARBITRATION: Feature(0xFFFF_FF07, 0x07),  # no limit to a burst
        F_POWER: Feature(0x1F),
        F_TEMPERATURE: Feature(0xFFFF, WARNING_TEMPERATURE),
        F_ERROR_RECOVERY: Feature(0xFFFF, 0, CHANGEABLE | PER_NAMESPACE),
        F_WRITE_CACHE: Feature(1, 1),
        F_QUEUES: Feature(0xFFFF_FFFF),
        F_COALESCING: Feature(0xFFFF),
        F_VECTOR: Feature(0x1_FFFF),
        F_ATOMICITY: Feature(1),
        F_EVENTS: Feature(0x3),
    }
)


class NvmeFeatures:
    """The current values. *queues*: how many of either kind there can be for I/O."""

    def __init__(self, queues: int) -> None:
        self.values = {fid: feature.default for fid, feature in FEATURES.items()}
        self.queues = queues
        self.values[F_QUEUES] = (queues - 1) << 16 | queues - 1
        self.under_threshold = 0
        self.vectors: dict[int, int] = {}  # whose coalescing is disabled

    @property
    def write_cache(self) -> int:
        return self.values[F_WRITE_CACHE]

    def reports(self, event: tuple[int, int, int]) -> bool:
        """Error events always; of SMART, those that are enabled."""
        return event != EVENT_TEMPERATURE or bool(self.values[F_EVENTS] & 2)

    @property
    def too_hot(self) -> bool:
        return self.values[F_TEMPERATURE] <= TEMPERATURE


def get_features(nvme: Nvme, command: Command) -> int:
    feature = _feature(nvme, command)
    fid, select = command.cdw10 & 0xFF, command.cdw10 >> 8 & 7
    if select > SUPPORTED:
        raise CommandFailed(INVALID_FIELD)
    if select == SUPPORTED:
        return feature.flags
    features = nvme.features if select == CURRENT else NvmeFeatures(nvme.features.queues)
    if fid == F_VECTOR:
        vector = _vector(nvme, command)
        return vector | features.vectors.get(vector, 0) << 16
    if fid == F_TEMPERATURE:
        kind = _threshold(command)
        return features.under_threshold if kind == UNDER else features.values[F_TEMPERATURE]
    return features.values[fid]


def set_features(nvme: Nvme, command: Command) -> int:
    feature = _feature(nvme, command)
    if command.cdw10 & SAVE:
        raise CommandFailed(FEATURE_NOT_SAVEABLE)
    features, fid, value = nvme.features, command.cdw10 & 0xFF, command.cdw11 & feature.mask
    if fid == F_QUEUES:
        return _set_queues(nvme, value)
    if fid == F_VECTOR:
        features.vectors[_vector(nvme, command)] = value >> 16
    elif fid == F_TEMPERATURE:
        if _threshold(command) == UNDER:
            features.under_threshold = value
            return 0
        features.values[fid] = value
        if features.too_hot:
            nvme.event(EVENT_TEMPERATURE)
    elif fid == F_POWER and value:
        raise CommandFailed(INVALID_FIELD)  # there is one power state
    else:
        features.values[fid] = value
    return 0


def _feature(nvme: Nvme, command: Command) -> Feature:
    feature = FEATURES.get(command.cdw10 & 0xFF)
    if feature is None:
        raise CommandFailed(INVALID_FIELD)
    if feature.flags & PER_NAMESPACE and command.nsid not in (0, ALL_NAMESPACES, *range(1, len(nvme.namespaces) + 1)):
        raise CommandFailed(INVALID_NAMESPACE)
    return feature


def _set_queues(nvme: Nvme, value: int) -> int:
    submission, completion = value & 0xFFFF, value >> 16
    if 0xFFFF in (submission, completion):
        raise CommandFailed(INVALID_FIELD)
    if len(nvme.completion) > 1:
        raise CommandFailed(COMMAND_SEQUENCE_ERROR)
    most = nvme.features.queues - 1
    nvme.features.values[F_QUEUES] = min(completion, most) << 16 | min(submission, most)
    return nvme.features.values[F_QUEUES]


def _vector(nvme: Nvme, command: Command) -> int:
    vector = command.cdw11 & 0xFFFF
    if vector >= nvme.vectors:
        raise CommandFailed(INVALID_FIELD)
    return vector


def _threshold(command: Command) -> int:
    """The composite temperature's; there is no other sensor."""
    sensor, kind = command.cdw11 >> 16 & 0xF, command.cdw11 >> 20 & 3
    if sensor not in (0, 0xF) or kind not in (OVER, UNDER):
        raise CommandFailed(INVALID_FIELD)
    return kind

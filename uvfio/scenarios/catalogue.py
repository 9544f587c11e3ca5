# SPDX-License-Identifier: GPL-2.0-only
"""All scenarios, by name."""

from __future__ import annotations

from types import MappingProxyType

from uvfio.scenarios import (
    ap,
    iommu,
    iommufd,
    iommufd_faults,
    iommufd_memory,
    iommufd_objects,
    iommufd_pages,
    iommufd_queues,
    kvm,
    mdev,
    s390,
    sriov,
    vfio,
)
from uvfio.scenarios.registry import Scenario

IOMMUFD = (iommufd, iommufd_memory, iommufd_pages, iommufd_objects, iommufd_faults, iommufd_queues)
ROOMS = (iommu, vfio, sriov, kvm, s390, *IOMMUFD, mdev, ap)

SCENARIOS = MappingProxyType(
    {found.name: found for room in ROOMS for found in vars(room).values() if isinstance(found, Scenario)}
)

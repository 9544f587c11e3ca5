# SPDX-License-Identifier: GPL-2.0-only
"""
Domains for the PASIDs of a device: several address spaces at a time.

Mirrors the rest of ``drivers/iommu/iommu.c``. Difference from Linux: a driver blocks a PASID
with an operation of its own, not with a domain (see ``private.py``).

A device without PASIDs (``max_pasids`` 0) is left alone: it cannot use one, so whatever
the others of its group are attached to is no concern of it.
"""

from __future__ import annotations

from errno import EINVAL, ENODEV, EOPNOTSUPP
from typing import Any

from uvfio.linux.iommu.private import IommuAttachHandle, IommuDomain, IommuGroup, IommuOps, implements
from uvfio.linux.kernel.bug import WARN_ON, lockdep_assert_held
from uvfio.linux.kernel.xarray import XA_ZERO_ENTRY
from uvfio.runtime.errors import Errno


def iommu_attach_device_pasid(
    domain: IommuDomain, dev: Any, pasid: int, handle: IommuAttachHandle | None = None
) -> None:
    """
    Let *pasid* of all devices of *dev*'s group go through *domain*. Errno ENODEV,
    EOPNOTSUPP the driver has no PASIDs, EINVAL, EBUSY attached already.
    """
    group = _pasid_group(domain, dev)
    with group.mutex:
        if any(0 < member.dev.iommu.max_pasids <= pasid for member in group.devices):
            raise Errno(EINVAL)
        group.pasid_array.insert(pasid, XA_ZERO_ENTRY)
        try:
            _iommu_set_group_pasid(domain, group, pasid, None)
        except Errno:
            group.pasid_array.erase(pasid)
            raise
        if handle is not None:
            handle.domain = domain
        group.pasid_array.store(pasid, handle or domain)


def iommu_replace_device_pasid(domain: IommuDomain, dev: Any, pasid: int, handle: IommuAttachHandle) -> None:
    """Change domains without a gap in between. Errno as attach, EINVAL when nothing is attached."""
    group = _pasid_group(domain, dev)
    with group.mutex:
        current = group.pasid_array.load(pasid)
        if current is None:
            raise Errno(EINVAL)
        old = current.domain if isinstance(current, IommuAttachHandle) else current
        if old is not domain:
            _iommu_set_group_pasid(domain, group, pasid, old)
        handle.domain = domain
        group.pasid_array.store(pasid, handle)


def iommu_detach_device_pasid(domain: IommuDomain, dev: Any, pasid: int) -> None:
    group: IommuGroup = dev.iommu_group
    with group.mutex:
        for member in group.devices:
            _iommu_remove_dev_pasid(member.dev, pasid, domain)
        group.pasid_array.erase(pasid)


def _pasid_group(domain: IommuDomain, dev: Any) -> IommuGroup:
    group: IommuGroup | None = dev.iommu_group
    if group is None or dev.iommu is None:
        raise Errno(ENODEV)
    if not implements(domain.ops, "set_dev_pasid"):
        raise Errno(EOPNOTSUPP)
    if dev_iommu_ops(dev) is not domain.ops:
        raise Errno(EINVAL)
    return group


def _iommu_set_group_pasid(domain: IommuDomain, group: IommuGroup, pasid: int, old: IommuDomain | None) -> None:
    """For every device that has PASIDs, or for none. Errno is what the driver says."""
    lockdep_assert_held(group.mutex)
    done: list[Any] = []
    try:
        for member in group.devices:
            if member.dev.iommu.max_pasids:
                dev_iommu_ops(member.dev).set_dev_pasid(domain, member.dev, pasid, old)
                done.append(member.dev)
    except Errno:
        for dev in done:
            _revert_pasid(domain, dev, pasid, old)
        raise


def _revert_pasid(domain: IommuDomain, dev: Any, pasid: int, old: IommuDomain | None) -> None:
    if old is not None:
        try:
            dev_iommu_ops(dev).set_dev_pasid(old, dev, pasid, domain)
        except Errno as e:
            WARN_ON(True, f"a domain that was attached to a PASID cannot be again: {e}")
        else:
            return
    _iommu_remove_dev_pasid(dev, pasid, domain)


def _iommu_remove_dev_pasid(dev: Any, pasid: int, domain: IommuDomain) -> None:
    if dev.iommu.max_pasids:
        dev_iommu_ops(dev).remove_dev_pasid(dev, pasid, domain)


def dev_iommu_ops(dev: Any) -> IommuOps:
    ops: IommuOps = dev.iommu.iommu_dev.ops
    return ops
